"""A table of requests -> its windows and its drift, on one machine or by Spark: the two ways of `lastgood check`.

Both call the same functions on Arrow batches; tests/spark/test_onemachine.py holds their figures together.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from lastgood import tables
from lastgood.cli import examples, scan, spark_page
from lastgood.cli.spark_page import Bins, Comparison, binned_columns
from lastgood.collectors import files, inference_tables
from lastgood.collectors.findings import EXPECTED, Place
from lastgood.collectors.inference_tables import Shape
from lastgood.collectors.reading import OF_TELEMETRY, Origin, candidates, detect, kind_of, read_any
from lastgood.errors import ConfigError
from lastgood.jobs.deployed import pairs_of
from lastgood.judge.ledger import Pair
from lastgood.record.windows import Counts, from_row
from lastgood.record.words import counted
from lastgood.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lastgood.tables.runs import Context

CATALOG_NAME = re.compile(r"[^/\\\s]+(?:\.[^/\\\s.]+){1,2}")
SUFFIXES = (
    ".jsonl",
    ".ndjson",
    ".json",
    ".csv",
    ".tsv",
    ".txt",
    ".parquet",
    ".pq",
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
    ".zip",
    ".log",
)
"""Of files: such a name is no table of a catalog."""
MOST_ROWS = 100_000_000
"""Rows of a table that one machine reads: of each it holds eight bytes."""
MOST_BYTES = 512 * 2**20
"""Of a table that is fetched: its rows pass through memory, where they take about ten times this."""
FETCHED_ROWS = 50_000
"""Rows of a part of a fetched table."""
ENTITY = "the table does not name model versions: its served entities stand for them"


class Say(Protocol):
    """Hears what is being done."""

    def __call__(self, what: str) -> None: ...

    def rows(self, more: int, of: int | None) -> None: ...


@dataclass(frozen=True)
class Job:
    """What is asked: a table, whose requests they are where it does not say, and a folder for what is in the way."""

    table: str
    settings: Settings
    endpoint: str
    scratch: Path
    say: Say
    page: bool = False
    """Whether what only a page shows is kept: the bins of each comparison and a few requests."""


@dataclass(frozen=True)
class Facts:
    """What was read. `read`: what the reader took the table for; `reasons`: why rows were set aside -> how many; `first`: why -> the first
    of them; `notes`: what a person must know of the figures. For a page: `bins` (version, against, column) -> what
    `tables.drifted.binned` gives; `examples`: rows of `cli.examples`."""

    kind: str
    read: str
    rows: int
    windows: Sequence[Counts]
    chosen: Mapping[str, Pair]
    drifted: Sequence[dict[str, Any]]
    reasons: Mapping[str, int]
    notes: Sequence[str] = field(default_factory=list)
    first: Mapping[str, str] = field(default_factory=dict)
    bins: Mapping[Comparison, Bins] = field(default_factory=dict)
    examples: Sequence[Mapping[str, Any]] = ()


def in_catalog(table: str) -> bool:
    """Whether the words name a table of a catalog, not a file."""
    return bool(CATALOG_NAME.fullmatch(table)) and not table.endswith(SUFFIXES) and not Path(table).exists()


def _fetched(job: Job) -> files.Source | None:
    """A table of Unity Catalog or of an object store, as a Parquet file in scratch; None for what Spark must read: a name where no workspace
    is named, or of a catalog of Spark's own (two parts), and more than MOST_BYTES.

    Errors: ConfigError (there is no such table, or it may not be read), TransientError.
    """
    from lastgood.tables.names import parts
    from lastgood.workspace.databricks import client
    from lastgood.workspace.stores import tables_of

    if in_catalog(job.table):
        if len(parts(job.table)) != 3:
            return None
        try:
            client(job.settings.workspace)
        except ConfigError as error:
            job.say(f"no workspace can be asked ({error}): Spark reads the table")
            return None
    home = tables_of(job.settings).named(job.table)
    facts = home.facts()
    if facts is None:
        raise ConfigError(f"{job.table}: there is no such table, or this principal may not see it")
    way = home.way()
    if facts["bytes"] > MOST_BYTES:
        job.say(f"{facts['bytes'] / 2**20:,.0f} MiB are too many to fetch: Spark reads the table")
        return None
    job.say(f"reading {job.table} ({way})")
    path = job.scratch / "fetched.parquet"
    pq.write_table(home.read(version=facts["version"]), path, row_group_size=FETCHED_ROWS, compression="snappy")
    fetched = files.opened(str(path), job.scratch, detect)
    description = f"Delta, version {facts['version']}, {counted(len(fetched.columns), 'column')}, by {way}"
    return replace(fetched, name=job.table, description=description)


def on_one_machine(job: Job) -> Facts | None:
    """Without Spark; None for what only Spark reads: see `_fetched`, and a table of spans or of more than MOST_ROWS rows."""
    far = in_catalog(job.table) or "://" in job.table
    source = _fetched(job) if far else files.opened(job.table, job.scratch, detect)
    if source is None:
        return None
    kind = kind_of(list(source.columns), job.table)
    if kind in OF_TELEMETRY and kind != "span_table":
        raise ConfigError(
            f"{job.table}: holds {OF_TELEMETRY[kind]}, no requests; a service reads it beside spans (sources.log_tables)"
        )
    if kind == "span_table" or (source.rows or 0) > MOST_ROWS:
        return None
    job.say("counting")
    shape = Shape(kind, job.endpoint, tuple(job.settings.sources.schema_versions), alone=True)
    plan = scan.Plan(
        source,
        shape,
        inference_tables.needed(kind),
        job.settings.window_s,
        job.settings.bad_answers,
        job.scratch,
        datetime.now(UTC),
        job.page,
    )
    counted = scan.scan(plan, lambda rows: job.say.rows(rows, source.rows))
    findings = counted.findings
    needed = {inference_tables.clock_of(kind): EXPECTED["time"], "request_metadata": EXPECTED["map"]}
    findings.judged(counted.rows, needed, source.where)
    windows = _counts(counted)
    chosen = pairs_of(windows)
    job.say("measuring drift")
    bins: dict[Comparison, Bins] = {}
    drifted = list(_drift(job, scan.samples(counted), chosen, _end(windows), bins)) if chosen else []
    notes = [*_shared(*counted.folded), *source.notes, *findings.notes(source.where)]
    first = {reason: _first(cases.value, cases.place, source) for reason, cases in findings.aside.items()}
    return Facts(
        kind, source.description, counted.rows, windows, chosen, drifted, findings.reasons, _entity(kind) + notes, first,
        bins, examples.chosen(counted.examples).to_pylist() if counted.examples else [],
    )  # fmt: skip


def _entity(kind: str) -> list[str]:
    return [ENTITY] if inference_tables.unnamed(kind) else []


def _first(value: str, place: Place, source: files.Source) -> str:
    return f"{source.where(place)}{f': {value!r}' if value else ''}"


def _shared(rows: int, requests: int, split: int) -> list[str]:
    """What was done about rows that share an id."""
    notes = []
    if rows > requests:
        notes.append(
            f"{counted(rows, 'row')} share a request id with another and were counted as {counted(requests, 'request')}, a request per id"
        )
    if split:
        notes.append(
            f"{split:,} request ids stand on rows of several model versions: a request per id and version was counted"
        )
    return notes


def _end(windows: Sequence[Counts]) -> datetime:
    return max(window.start for window in windows) + timedelta(hours=1)


def _counts(counted: scan.Counted) -> list[Counts]:
    """Rows of windows and quality, brought together, as Counts."""
    from lastgood.jobs import counting, quality

    if not counted.windows:
        return []
    windows = counting.add(pa.concat_tables(counted.windows)).to_pylist()
    answers = {_key(row): row for row in quality.add(pa.concat_tables(counted.quality)).to_pylist()}
    made = [from_row(answers.get(_key(row), {}) | row) for row in windows]
    return sorted(made, key=lambda window: (window.start, window.stratum, window.model_version))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("endpoint", "model_version", "stratum", "window_start"))


def _drift(
    job: Job, samples: pa.Table, chosen: Mapping[str, Pair], now: datetime, bins: dict[Comparison, Bins]
) -> Iterator[dict[str, Any]]:
    """Rows of the drift table; fills `bins` for a page."""
    from lastgood.jobs.comparison import measured, sides

    for endpoint, pair in chosen.items():
        own = job.settings.endpoint(endpoint)
        for group in sides(samples, endpoint, pair, now, own.drift_reference):
            if not len(group):
                continue
            rows = measured(group, own.policy.drift_limit, now)
            yield from rows
            if job.page and rows:
                key = endpoint, rows[0]["model_version"], rows[0]["against"]
                columns = [row["column"] for row in rows]
                bins |= {(*key, column): shape for column, shape in binned_columns(group, own.drift_reference, columns)}


def with_spark(job: Job) -> Facts:
    """The same by Spark."""
    from lastgood.jobs.evidence import counts
    from lastgood.jobs.quality import quality_flags
    from lastgood.jobs.spark import session
    from lastgood.jobs.windows import count, keyed
    from lastgood.tables.runs import Context

    job.say("starting Spark")
    spark = session(job.settings.spark.model_copy(update={"driver_memory": "2g"}))
    ctx = Context(spark, tables.Store(str(job.scratch)), job.settings)
    job.say(f"reading {job.table}")
    frame = read_any(spark, job.table)
    kind = kind_of(frame.columns, job.table)
    job.say("conforming")
    rows = candidates(frame, Origin(job.table, job.endpoint), job.settings, alone=True)
    requests, reasons, notes = _conform(ctx, rows)
    job.say("counting")
    made = keyed(requests, job.settings.window_s)
    windows = counts(count(made), quality_flags(made, job.settings.bad_answers))
    chosen = pairs_of(windows)
    job.say("measuring drift")
    drifted, bins = _drift_by_spark(job, ctx, requests, chosen, _end(windows)) if chosen else ([], {})
    few = spark_page.examples_of(requests, job.settings.bad_answers) if job.page else []
    whole = sum(window.rows for window in windows) + sum(reasons.values())
    return Facts(kind, "by Spark", whole, windows, chosen, drifted, reasons, _entity(kind) + notes, {}, bins, few)


def _drift_by_spark(
    job: Job, ctx: "Context", requests: "DataFrame", chosen: Mapping[str, Pair], now: datetime
) -> tuple[list[dict[str, Any]], Mapping[Comparison, Bins]]:
    """(rows of the drift table, the bins of each comparison where a page is asked for)."""
    from lastgood.jobs.drift import compared, of_requests

    few = of_requests(ctx, requests, chosen, now)
    if not job.page:
        return [row.asDict() for row in compared(ctx, few, chosen, now).collect()], {}
    few = _kept(ctx, few, "sides")
    rows = [row.asDict() for row in compared(ctx, few, chosen, now).collect()]
    told = {(row["endpoint"], row["model_version"], row["against"], row["column"]) for row in rows}
    return rows, {key: shape for key, shape in spark_page.bins_of(few).items() if key in told}


def _conform(ctx: "Context", inbox: "DataFrame") -> tuple["DataFrame", dict[str, int], list[str]]:
    """(one row per request, reason -> candidates set aside, notes). Written to scratch, so that bodies are read once.

    Only requests that occur more than once are folded: sorting all rows with their bodies would cost most of the run.
    """
    from pyspark.sql import Observation, Window
    from pyspark.sql import functions as f

    from lastgood.jobs.conform import fold, once, rejections, split, why_rejected

    seen, why, known = Observation("rejected"), f.col("why"), list(rejections())
    others = f.count_if(why.isNotNull() & ~why.isin(known)).alias("set aside by its collector")
    judged = inbox.withColumn("why", why_rejected())
    good, _ = split(judged.observe(seen, *(f.count_if(why == reason).alias(reason) for reason in known), others))
    rows = _kept(ctx, good.drop("raw").withColumn("key", f.xxhash64("endpoint", "request_id")), "candidates")
    doubled = _kept(ctx, rows.groupBy("key").count().where("count > 1").select("key"), "doubled")
    reasons = {name: number for name, number in seen.get.items() if number}
    unread = f.element_at("attributes", inference_tables.UNREADABLE)
    notes = [
        f"{counted(row['count'], 'row')} have values that could not be read and count as unknown: {row['what']}"
        for row in rows.select(unread.alias("what")).where("what IS NOT NULL").groupBy("what").count().collect()
    ]
    if doubled.isEmpty():
        return once(rows), reasons, notes
    of_id = Window.partitionBy("endpoint", "request_id")
    twice = rows.join(f.broadcast(doubled), "key", "left_semi").withColumn(
        "of", f.size(f.collect_set("model_version").over(of_id))
    )
    apart = f.concat("request_id", f.lit("@"), f.coalesce("model_version", f.lit("?")))
    several = twice.where("of > 1").select("endpoint", "request_id").distinct().count()
    folded = fold(
        twice.withColumn("request_id", f.when(f.col("of") > 1, apart).otherwise(f.col("request_id"))).drop("of")
    )
    notes += _shared(twice.count(), folded.count(), several)
    return once(rows.join(f.broadcast(doubled), "key", "left_anti")).unionByName(folded), reasons, notes


def _kept(ctx: "Context", frame: "DataFrame", name: str) -> "DataFrame":
    """The frame, worked out once."""
    where = f"{ctx.store.location}/{name}"
    frame.write.option("compression", "snappy").parquet(where)
    return ctx.spark.read.parquet(where)
