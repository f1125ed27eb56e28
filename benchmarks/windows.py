"""The windows job against DuckDB and Polars computing the same figures of the same Delta table: `python -m benchmarks.windows`."""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.canonical import fill
from benchmarks.measured import Cost, machine, run
from lastgood import tables
from lastgood.record.fault import FAULTS, fault
from lastgood.record.windows import (
    CAP_REQUESTERS,
    CHARS_PER_TOKEN,
    GROWTH,
    KEPT_REQUESTERS,
    SIZE_EDGES,
    START_TOKENS,
    ZERO,
    quantile,
)
from lastgood.tables import delta

KEY = "endpoint, model_version, stratum, window_start"
HISTOGRAMS = ("latency", "ttft", "feature_age", "length", "pace")


def spark(storage: str, warm: str) -> dict[str, float]:
    """The job itself: change feed, counting, MERGE, run record; once before on a small table."""
    from lastgood.jobs.spark import session
    from lastgood.jobs.windows import windows
    from lastgood.settings import SparkSettings, load
    from lastgood.tables.runs import Context

    started = time.monotonic()
    session_ = session(SparkSettings())
    took = {"start": time.monotonic() - started}
    for name, where in (("first", warm), ("job", storage)):
        store = tables.Store(where)
        store.ensure(session_)
        started = time.monotonic()
        windows(Context(session_, store, load(storage=where)))
        took[name] = time.monotonic() - started
    return took


def _files(storage: str) -> list[str]:
    from deltalake import DeltaTable

    return [str(one) for one in DeltaTable(tables.Store(storage).path(tables.REQUESTS)).file_uris()]


def duckdb(storage: str, out: str) -> dict[str, float]:
    """SQL: one narrow pass per histogram, then maps."""
    import duckdb as engine

    started = time.monotonic()
    con = engine.connect()
    edges = " ".join(f"WHEN size < {edge} THEN '{edge}'" for edge in SIZE_EDGES)
    log = f"floor(ln(v) / {math.log(GROWTH)!r})::INT"
    con.execute(f"""CREATE VIEW r AS SELECT endpoint, model_version, time_bucket(INTERVAL 1 MINUTE, requested_at) window_start,
        latency_scope || '/' || CASE {edges} WHEN size IS NULL THEN '?' ELSE 'more' END stratum, weight, tokens_in, tokens_out,
        error_code, requester, latency_ms latency, feature_age_ms feature_age, CASE WHEN error_code IS NULL THEN ttft_ms END ttft,
        CASE WHEN error_code IS NULL THEN tokens_out END length, CASE WHEN error_code IS NOT NULL THEN latency_ms END failed_latency,
        CASE WHEN error_code IS NULL THEN latency_ms / (tokens_out + {START_TOKENS}) END pace
        FROM (SELECT *, coalesce(length(input) / {CHARS_PER_TOKEN}, tokens_in) size FROM read_parquet({_files(storage)!r}))""")
    con.execute(
        "CREATE TABLE who AS SELECT requester, substr(sha256(requester), 1, 12) who FROM (SELECT DISTINCT requester FROM r)"
    )
    con.execute(f"""CREATE TABLE plain AS SELECT {KEY}, count(*) "rows", sum(weight) requests, coalesce(sum(tokens_in * weight), 0) tokens_in,
        coalesce(sum(tokens_out * weight), 0) tokens_out FROM r GROUP BY ALL""")
    parts = []
    for name in HISTOGRAMS:
        bucket = f"CASE WHEN v > 0 THEN {log} ELSE {ZERO} END"
        con.execute(f"""CREATE TABLE h_{name} AS SELECT {KEY}, map_from_entries(list((b, w) ORDER BY b)) {name} FROM (
            SELECT {KEY}, {bucket} b, sum(weight) w FROM (SELECT *, {name} v FROM r WHERE {name} IS NOT NULL) GROUP BY ALL) GROUP BY ALL""")
        parts.append(f"LEFT JOIN h_{name} USING ({KEY})")
    con.execute(f"""CREATE TABLE e AS SELECT {KEY}, map_from_entries(list((c, w) ORDER BY c)) errors FROM (
        SELECT {KEY}, error_code c, sum(weight) w FROM r WHERE c IS NOT NULL GROUP BY ALL) GROUP BY ALL""")
    con.execute(f"""CREATE TABLE ew AS SELECT {KEY}, list(DISTINCT who ORDER BY who)[:{KEPT_REQUESTERS}] error_requesters
        FROM r JOIN who USING (requester) WHERE error_code IS NOT NULL GROUP BY ALL""")
    codes = [row[0] for row in con.execute("SELECT DISTINCT error_code FROM r WHERE error_code IS NOT NULL").fetchall()]
    by_class = [
        f"count(*) FILTER (error_code IN ({', '.join(map(repr, [c for c in codes if fault(c) is kind] or ['']))}))"
        for kind in FAULTS
    ]
    mark = f"CASE WHEN latency > 0 AND error_code IS NULL THEN {log.replace('(v)', '(latency)')} END"
    con.execute(f"""CREATE TABLE p AS SELECT {KEY}, map_from_entries(list((who, f) ORDER BY who)[:{CAP_REQUESTERS}]) callers FROM (
        SELECT {KEY}, who, [count(*), {", ".join(by_class)}, count(s), coalesce(sum(s), 0), coalesce(sum(s * s), 0)] f
        FROM (SELECT *, {mark} s FROM r) JOIN who USING (requester) GROUP BY ALL) GROUP BY ALL""")
    joins = " ".join(
        [*parts, f"LEFT JOIN e USING ({KEY})", f"LEFT JOIN ew USING ({KEY})", f"LEFT JOIN p USING ({KEY})"]
    )
    con.execute(f"COPY (SELECT * FROM plain {joins}) TO '{out}' (FORMAT parquet, COMPRESSION zstd)")
    return {"job": time.monotonic() - started}


def polars(storage: str, out: str) -> dict[str, float]:
    """Lazy expressions on the streaming engine: one narrow pass per histogram, then lists of (bucket, weight)."""
    import polars as pl

    started = time.monotonic()
    key = KEY.split(", ")
    size = pl.coalesce(pl.col("input").str.len_chars() / CHARS_PER_TOKEN, pl.col("tokens_in").cast(pl.Float64))
    name = pl.when(size.is_null()).then(pl.lit("?"))
    for edge in SIZE_EDGES:
        name = name.when(size < edge).then(pl.lit(str(edge)))
    good = pl.col("error_code").is_null()
    r = pl.scan_parquet(_files(storage)).with_columns(
        window_start=pl.col("requested_at").dt.truncate("1m"), stratum=pl.col("latency_scope") + "/" + name.otherwise(pl.lit("more")),
        latency=pl.col("latency_ms"), feature_age=pl.col("feature_age_ms"), ttft=pl.when(good).then(pl.col("ttft_ms")),
        length=pl.when(good).then(pl.col("tokens_out")), failed_latency=pl.when(~good).then(pl.col("latency_ms")),
        pace=pl.when(good).then(pl.col("latency_ms") / (pl.col("tokens_out") + START_TOKENS)),
    )  # fmt: skip

    def bucket(v: str) -> Any:
        return pl.when(pl.col(v) > 0).then((pl.col(v).log() / math.log(GROWTH)).floor().cast(pl.Int32))

    def collect(frame: Any) -> Any:
        return frame.collect(engine="streaming")

    people = collect(r.select(pl.col("requester").unique()))["requester"].to_list()
    who = pl.DataFrame({"requester": people, "who": [sha256(one.encode()).hexdigest()[:12] for one in people]}).lazy()
    w, t = pl.col("weight"), pl.col
    found = collect(r.group_by(key).agg(
        rows=pl.len(), requests=w.sum(), tokens_in=(t("tokens_in") * w).sum(), tokens_out=(t("tokens_out") * w).sum()
    ))  # fmt: skip
    for one in HISTOGRAMS:
        cells = r.filter(t(one).is_not_null()).select(*key, "weight", b=bucket(one).fill_null(ZERO))
        cells = cells.group_by([*key, "b"]).agg(w=w.sum())
        found = found.join(
            collect(cells.group_by(key).agg(pl.struct("b", "w").sort_by("b").alias(one))), on=key, how="left"
        )
    failed = r.filter(t("error_code").is_not_null()).select(*key, "weight", "error_code", "requester")
    codes = failed.group_by([*key, "error_code"]).agg(w=w.sum())
    found = found.join(
        collect(codes.group_by(key).agg(pl.struct("error_code", "w").alias("errors"))), on=key, how="left"
    )
    first = (
        failed.join(who, on="requester")
        .group_by(key)
        .agg(t("who").unique().sort().head(KEPT_REQUESTERS).alias("error_requesters"))
    )
    found = found.join(collect(first), on=key, how="left")
    known = collect(r.select(t("error_code").unique()))["error_code"].drop_nulls().to_list()
    kinds = {kind: [code for code in known if fault(code) is kind] for kind in FAULTS}
    mark = pl.when(good).then(bucket("latency")).cast(pl.Int64)
    facts = r.select(*key, "requester", "error_code", s=mark).group_by([*key, "requester"]).agg(
        pl.len().alias("n"), *(t("error_code").is_in(codes).sum().alias(str(kind)) for kind, codes in kinds.items()),
        t("s").count().alias("timed"), t("s").sum().alias("sum"), (t("s") * t("s")).sum().alias("squares"),
    ).join(who, on="requester")  # fmt: skip
    columns = ["who", "n", *map(str, FAULTS), "timed", "sum", "squares"]
    cells = facts.group_by(key).agg(pl.struct(*columns).sort_by("who").head(CAP_REQUESTERS).alias("callers"))
    found.join(collect(cells), on=key, how="left").write_parquet(out, compression="zstd")
    return {"job": time.monotonic() - started}


ENGINES: dict[str, Callable[[str, str], dict[str, float]]] = {"spark": spark, "duckdb": duckdb, "polars": polars}


def measure(engine: str, storage: str, other: str) -> tuple[Cost, dict[str, float]]:
    """One engine in a process of its own: (cost of the process, seconds by part)."""
    with tempfile.TemporaryFile() as out:
        cost = run([sys.executable, "-m", "benchmarks.windows", "--engine", engine, storage, other], out)
        out.seek(0)
        return cost, json.loads(out.read().splitlines()[-1])


def agree(ours: pa.Table, other: pa.Table) -> bool:
    """Whether both have the same windows, and in them the same rows, requests, tokens, histograms and errors."""

    def digest(table: pa.Table) -> dict[Any, Any]:
        names = [*KEY.split(", "), "rows", "requests", "tokens_in", "tokens_out", "latency", "pace", "errors"]
        step = max(1, table.num_rows // 2000)
        table = table.select(names).sort_by([(name, "ascending") for name in KEY.split(", ")])
        taken = table.take(pa.array(np.arange(0, table.num_rows, step))).to_pylist()

        def plain(value: Any) -> Any:
            return sorted(tuple(one.values()) if isinstance(one, dict) else one for one in value or ()) if not isinstance(
                value, str | int | float
            ) and not hasattr(value, "isoformat") else value  # fmt: skip

        return {
            (*tuple(str(row[n]) for n in KEY.split(", ")[:3]), row["window_start"].timestamp()): [
                plain(row[n]) for n in names[4:]
            ]
            for row in taken
        }

    return ours.num_rows == other.num_rows and digest(ours) == digest(other)


def quantile_error(ours: pa.Table, storage: str) -> float:
    """The largest relative error of p50, p90, p95 and p99 of latency and first token in the busiest windows, against exact ones."""
    requests = delta.read(
        tables.Store(storage).path(tables.REQUESTS),
        ["endpoint", "model_version", "requested_at", "tokens_in", "latency_ms", "ttft_ms", "error_code"],
    )
    busiest = ours.sort_by([("rows", "descending")]).slice(0, 200).to_pylist()
    worst = 0.0
    lows = {"64": 0, "256": 64, "1024": 256, "4096": 1024, "more": 4096}
    times = pc.floor_temporal(requests["requested_at"], unit="minute")
    for row in busiest[::10]:
        size = row["stratum"].split("/")[1]
        mask = pc.and_(
            pc.equal(times, pa.scalar(row["window_start"], times.type)), pc.equal(requests["endpoint"], row["endpoint"])
        )
        mine = requests.filter(pc.and_(mask, pc.equal(requests["model_version"], row["model_version"])))
        tokens = mine["tokens_in"].to_numpy()
        mine = mine.filter(pa.array((tokens >= lows[size]) & (tokens < (int(size) if size != "more" else 2**31))))
        for name in ("latency", "ttft"):
            exact = (mine if name == "latency" else mine.filter(pc.is_null(mine["error_code"])))[
                f"{name}_ms"
            ].to_numpy()
            for q in (0.5, 0.9, 0.95, 0.99):
                want = float(np.quantile(exact, q, method="inverted_cdf"))
                got = quantile(dict(row[name]), q)
                worst = max(worst, abs((got or 0.0) - want) / want)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--quick", action="store_true", help="2,000,000 rows")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine:
        print(json.dumps(ENGINES[given.engine](*given.paths)))
        return
    rows = 2_000_000 if given.quick else given.rows
    with tempfile.TemporaryDirectory() as folder:
        big, small = f"{folder}/big", f"{folder}/small"
        fill(tables.Store(big), 1, rows)
        fill(tables.Store(small), 1, max(20_000, rows // 40))
        found = {name: measure(name, big, small if name == "spark" else f"{folder}/{name}.parquet") for name in ENGINES}
        ours = delta.read(tables.Store(big).path(tables.WINDOWS))
        same = {name: agree(ours, pq.read_table(f"{folder}/{name}.parquet")) for name in ("duckdb", "polars")}
        error = quantile_error(ours, big)
    print(f"{rows:,} requests -> {ours.num_rows:,} windows; {machine()}")
    print(f"{'engine':<8} {'job s':>7} {'CPU s':>7} {'peak MiB':>9}  same figures")
    for name, (cost, took) in found.items():
        print(f"{name:<8} {took['job']:>7.1f} {cost.cpu_s:>7.1f} {cost.peak_rss_mb:>9.0f}  {same.get(name, '')}")
    took = found["spark"][1]
    print(
        f"Spark: start {took['start']:.1f} s, first run (a fortieth of the rows) {took['first']:.1f} s; both outside the ratio, inside CPU and peak"
    )
    fastest = min(found[name][1]["job"] for name in ("duckdb", "polars"))
    figures = {
        "rows": rows,
        "ratio_vs_fastest": round(took["job"] / fastest, 2),
        "peak_rss_mb": found["spark"][0].peak_rss_mb,
    }
    print(json.dumps(figures | {"quantile_error_max": round(error, 5), "same_figures": all(same.values())}))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error}") from error
