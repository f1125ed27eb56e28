"""Requests in a folder -> the drift of an endpoint's newest version, on one machine without Spark: what `jobs/drift.py` measures.

Bottom-k samples are mergeable: the rows chosen straight from `requests` are those that the hourly samples would have given. So what is
read of all rows are the few columns that choose; features and texts are read of files that hold a chosen row, batch by batch.
"""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lastgood import tables
from lastgood.errors import ConfigError
from lastgood.jobs import sampling
from lastgood.jobs.comparison import CURRENT, WEEK, measured, report, sides
from lastgood.jobs.deployed import pairs_of
from lastgood.jobs.sampling import KEEP, Ints, Sampler, hashes
from lastgood.judge.ledger import Pair
from lastgood.record.windows import Counts, utc
from lastgood.settings import Settings
from lastgood.tables import delta

CHOOSING = ("endpoint", "model_version", "request_id", "requested_at", "error_code")
SHOWN = (*CHOOSING, "tokens_in", "tokens_out", "finish_reason", "input", "output", "features")
BATCH = 65_536


@dataclass(frozen=True)
class _Part:
    """A row group of a file."""

    path: str
    group: int


def pairs(store: tables.Store) -> dict[str, Pair]:
    """endpoint -> Pair, from the windows."""
    names = ["endpoint", "model_version", "stratum", "window_start", "rows"]
    rows = store.home(tables.WINDOWS).read(names).to_pylist()
    windows = (Counts(r["endpoint"], r["model_version"], r["stratum"], utc(r["window_start"]), r["rows"]) for r in rows)
    return pairs_of(windows)


def measure(store: tables.Store, settings: Settings, endpoint: str, now: datetime) -> list[dict[str, Any]]:
    """Rows of the drift table of one endpoint. Errors: ConfigError when no version of it is known."""
    own = settings.endpoint(endpoint)
    rows: list[dict[str, Any]] = []
    for group in _groups(store, settings, endpoint, now):
        if len(group):
            rows += measured(group, own.policy.drift_limit, now)
    return rows


def evidently_html(
    store: tables.Store, settings: Settings, endpoint: str, now: datetime, path: Path | None = None
) -> dict[str, Any]:
    """Write Evidently's own report, see `comparison.report`. Errors: ConfigError when there is nothing to compare."""
    pair = _pair(store, endpoint)
    groups = _groups(store, settings, endpoint, now)
    group = next(
        g for g in groups if not len(g) or (g["version"].iloc[0], g["against"].iloc[0]) == (pair.candidate, "reference")
    )
    return report(store, group, endpoint, pair, settings.endpoint(endpoint).drift_reference, path)


def _pair(store: tables.Store, endpoint: str) -> Pair:
    pair = pairs(store).get(endpoint)
    if pair is None:
        raise ConfigError(f"no version of {endpoint} is known; run `lastgood job windows`")
    return pair


def _groups(store: tables.Store, settings: Settings, endpoint: str, now: datetime) -> Iterator[Any]:
    pair = _pair(store, endpoint)
    samples = sampled(store, endpoint, pair, now)
    baselines = store.home(tables.BASELINES).read(filters=[("endpoint", "=", endpoint)])
    if baselines.num_rows:
        newest = baselines.filter(pc.equal(baselines["baseline"], pc.max(baselines["baseline"])))
        names = [*samples.column_names, "baseline"]
        samples = samples.append_column("baseline", pa.nulls(samples.num_rows, pa.int64()))
        samples = pa.concat_tables([samples, newest.select(names).cast(samples.schema)])
    yield from sides(samples, endpoint, pair, now, settings.endpoint(endpoint).drift_reference)


def _near(pair: Pair, now: datetime) -> list[tuple[datetime, datetime]]:
    """Times whose requests the comparisons need."""
    since = utc(pair.since)
    start = max(since, now - CURRENT)
    return [(start, now), (start - WEEK, now - WEEK), (since - CURRENT, since)]


def _files(store: tables.Store, endpoint: str, spans: list[tuple[datetime, datetime]], scratch: Path) -> list[Path]:
    """Parquet files on this machine with the requests of these times: the table's own, or what is fetched of one that is elsewhere."""
    if store.in_folder:
        return delta.files(store.path(tables.REQUESTS))
    files = []
    for number, (first, last) in enumerate(merged(spans)):
        filters: Any = [("endpoint", "=", endpoint), ("requested_at", ">=", first), ("requested_at", "<=", last)]
        rows = store.home(tables.REQUESTS).read(list(SHOWN), filters)
        if rows.num_rows:
            files.append(scratch / f"{number}.parquet")
            pq.write_table(rows, files[-1])
    return files


def merged(spans: list[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """The same times without overlap, in order."""
    apart: list[tuple[datetime, datetime]] = []
    for first, last in sorted(spans):
        if apart and first <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(apart[-1][1], last))
        else:
            apart.append((first, last))
    return apart


def _parts(files: list[Path], spans: list[tuple[datetime, datetime]]) -> list[_Part]:
    """Row groups that may hold requests of these times, by the statistics of files and groups."""
    parts = []
    for path in files:
        with pq.ParquetFile(path) as file:
            place = file.schema_arrow.get_field_index("requested_at")
            flat = next(i for i in range(file.metadata.num_columns) if file.schema.column(i).path == "requested_at")
            if place < 0:
                continue
            for group in range(file.metadata.num_row_groups):
                held = file.metadata.row_group(group).column(flat).statistics
                if (
                    held is None
                    or not held.has_min_max
                    or any(utc(held.min) <= z and utc(held.max) >= a for a, z in spans)
                ):
                    parts.append(_Part(str(path), group))
    return parts


def sampled(store: tables.Store, endpoint: str, pair: Pair, now: datetime) -> pa.Table:
    """Rows of `samples`, as many as the comparisons of an endpoint's pair can need, straight from `requests`."""
    spans = _near(pair, now)
    with tempfile.TemporaryDirectory(prefix="lastgood-drift-") as scratch:
        return _sampled(_parts(_files(store, endpoint, spans, Path(scratch)), spans), endpoint, pair, spans)


def _sampled(parts: list[_Part], endpoint: str, pair: Pair, spans: list[tuple[datetime, datetime]]) -> pa.Table:
    sampler = Sampler()
    held: list[pa.Table] = []
    for number, table in _narrow(parts, endpoint, spans):
        hashed = hashes(table["request_id"])
        rows = sampler.rows(table, hashed)
        few = table.take(pa.array(rows)).drop_columns(["request_id", "error_code"])
        few = few.append_column("hash", pa.array(hashed[rows]))
        held.append(few.append_column("part", pa.array(np.full(len(rows), number))))
    if not held:
        return sampling.SCHEMA.empty_table()
    index = pa.concat_tables(held)
    chosen = index.take(pa.array(_chosen(index, pair, spans)))
    return _filled(parts, chosen)


def _narrow(
    parts: list[_Part], endpoint: str, spans: list[tuple[datetime, datetime]]
) -> Iterator[tuple[int, pa.Table]]:
    """(part, its requests of the endpoint and the times, with `row`: which of the part each is). The reference may be another version's."""
    for number, part in enumerate(parts):
        with pq.ParquetFile(part.path) as file:
            table = file.read_row_group(part.group, list(CHOOSING))
        at = table["requested_at"]
        wanted = pc.equal(table["endpoint"], endpoint)
        near = [
            pc.and_(pc.greater_equal(at, pa.scalar(a, at.type)), pc.less_equal(at, pa.scalar(z, at.type)))
            for a, z in spans
        ]
        wanted = pc.and_(wanted, pc.or_(pc.or_(near[0], near[1]), near[2]))
        rows = np.flatnonzero(pc.fill_null(wanted, False).to_numpy())
        yield number, table.take(pa.array(rows)).append_column("row", pa.array(rows))


def _chosen(index: pa.Table, pair: Pair, spans: list[tuple[datetime, datetime]]) -> Ints:
    """Rows of the index that are among the KEEP smallest of their version, or of all, in any of the times."""
    at, hashed = index["requested_at"].cast(pa.int64()).to_numpy(), index["hash"].to_numpy()
    version = sampling.names(index, "model_version", {pair.candidate: 1} | ({pair.prior: 0} if pair.prior else {}))
    taken = []
    for a, z in spans:
        inside = (at >= round(a.timestamp() * 1e6)) & (at <= round(z.timestamp() * 1e6))
        for member in (version == 1, version == 0, np.ones(len(at), bool)):
            rows = np.flatnonzero(inside & member)
            # A few more: the ends of these times belong to them here, which those of a side may not.
            taken.append(rows[sampling.smallest(np.zeros(len(rows), np.int64), hashed[rows], 2 * KEEP)])
    return np.unique(np.concatenate(taken))


def _filled(parts: list[_Part], chosen: pa.Table) -> pa.Table:
    """The chosen rows with all their columns, as rows of `samples`."""
    part, row = chosen["part"].to_numpy(), chosen["row"].to_numpy()
    numbers = np.unique(part).tolist()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        tables_ = list(pool.map(lambda number: _rows(parts[number], np.sort(row[part == number])), numbers))
    return pa.concat_tables(tables_)


def _rows(part: _Part, rows: Ints) -> pa.Table:
    kept, first = [], 0
    with pq.ParquetFile(part.path) as file:
        for batch in file.iter_batches(BATCH, row_groups=[part.group], columns=list(SHOWN), use_threads=False):
            inside = rows[(rows >= first) & (rows < first + batch.num_rows)] - first
            kept.append(pa.Table.from_batches([batch]).take(pa.array(inside)))
            first += batch.num_rows
    table = pa.concat_tables(kept).select(list(SHOWN))
    return sampling.shaped(table, hashes(table["request_id"]))
