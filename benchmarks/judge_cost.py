"""`python -m benchmarks.judge_cost [--quick]`: what judging costs: 1,000 endpoints over the newest minute; one endpoint's day; a long thin
trace; the job over two days of 10, 100 and 1,000 endpoints, in processes of their own."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from rich.console import Console

from benchmarks.measured import machine
from lastgood import tables
from lastgood.jobs.judge import run_judge
from lastgood.judge import budget
from lastgood.judge.columns import Columns, Entries
from lastgood.judge.evidence import Planned
from lastgood.judge.judge import Evidence, History, changes, judge
from lastgood.judge.ledger import SEEN_LATE, Configuration, Pair, planned
from lastgood.judge.records import Records, columns_of
from lastgood.judge.streams import nothing
from lastgood.judge.trail import follow
from lastgood.record.fault import FAULTS
from lastgood.record.telemetry import arrow_schema
from lastgood.record.verdict import SCHEDULED
from lastgood.settings import Policy, SparkSettings, load
from lastgood.tables import delta, measures
from lastgood.tables.runs import Context

ENDPOINTS, VERSIONS, STRATA, PER_STRATUM = 1000, 3, 20, 12.0
POLICY = Policy()
END = datetime(2026, 3, 10, tzinfo=UTC)


def minute(t: int, endpoints: int, rng: np.random.Generator) -> Columns:
    """The newest minute of many endpoints: each newer version beside the oldest, 20 strata, 12 requests a stratum and version."""
    comparisons = endpoints * (VERSIONS - 1)
    shape = (1, comparisons * STRATA, 2)
    n = rng.poisson(PER_STRATUM, shape).astype(float)
    failed = rng.binomial(n.astype(int), 0.01).astype(float)
    faults = np.zeros((*shape, len(FAULTS)))
    faults[..., 0] = failed
    where = np.repeat(np.arange(n.size), n.ravel().astype(int))
    _, g, arm = np.unravel_index(where, shape)
    # endpoints differ in speed, and so in the buckets they use
    typical = rng.integers(200, 350, comparisons)[g // STRATA]
    bucket = typical + np.round(rng.normal(0, 0.35 / 0.0198, len(where))).astype(np.int64)
    zero = np.zeros(shape)
    entries = Entries(np.zeros(len(g), np.int64), g, arm, bucket, np.ones(len(g)))
    groups = np.arange(shape[1])
    return Columns(
        np.array([60.0 * t]), 60.0, ("model/64",) * shape[1], groups // STRATA, groups, np.ones(shape[1], bool), n, faults,
        zero, zero, np.zeros((1, comparisons, 2, 2)), {"latency": entries},
    )  # fmt: skip


def many(endpoints: int, chunk: int = 25, minutes: int = 4) -> float:
    """Median CPU seconds to bring the evidence on all comparisons up to date with one more minute. Chunks keep arrays in cache."""
    rng = np.random.default_rng(1)
    carries = [nothing() for _ in range(0, endpoints, chunk)]
    seconds = []
    for t in range(minutes):
        given = [minute(t, min(chunk, endpoints - i), rng) for i in range(0, endpoints, chunk)]
        started = time.process_time()
        for i, cols in enumerate(given):
            trail, carries[i] = follow(cols, POLICY, carries[i])
            np.flatnonzero(trail.e[-1] >= POLICY.watch_e)
        seconds.append(time.process_time() - started)
    return float(np.median(seconds[1:]))


def day(per_s: float, width: int, requesters: bool, sticky: bool) -> tuple[float, float, int]:
    """CPU seconds to (count, judge) a day of one endpoint window by window, and the number of verdict changes."""
    rng = np.random.default_rng(2)
    n = round(86_400 * per_s)
    at, who = np.sort(rng.uniform(0, 86_400, n)), rng.integers(0, 2000, n)
    arm = rng.integers(0, 2, 2000)[who] if sticky else rng.integers(0, 2, n)
    tokens_in, tokens_out = np.exp(rng.normal(5.5, 1.2, n)), np.exp(rng.normal(4.5, 0.8, n))
    latency = (200 + 20 * tokens_out) * np.exp(rng.normal(0, 0.25, n))
    nan = np.full(n, np.nan)
    given = Records(
        at, arm, np.where(rng.random(n) < 0.01, 0, -1), ("HTTP_500",), who if requesters else np.full(n, -1), latency, tokens_in,
        tokens_out, latency / 5, nan, np.zeros(n, np.int64), ("model",),
    )  # fmt: skip
    started = time.process_time()
    cols = columns_of(given, width)
    counted = time.process_time()
    found = sum(1 for _ in changes(Evidence("chat", "2", "1", cols, width), POLICY, History()))
    return counted - started, time.process_time() - counted, found


def long_and_thin() -> float:
    """CPU seconds to replay 26,000 requests of 4,000 requesters in 23 days, in windows of half an hour."""
    rng, n, seconds = np.random.default_rng(4), 26_000, 23 * 86_400.0
    nan = np.full(n, np.nan)
    given = Records(
        np.sort(rng.uniform(0, seconds, n)), rng.integers(0, 2, n), np.where(rng.random(n) < 0.01, 0, -1), ("HTTP_500",), rng.integers(0, 4000, n),
        400 * np.exp(rng.normal(0, 0.35, n)), nan, nan, nan, nan, np.zeros(n, np.int64), ("model",),
    )  # fmt: skip
    started = time.process_time()
    cols = columns_of(given, 1800.0)
    list(changes(Evidence("thin", "2", "1", cols, 1800), POLICY, History()))
    return time.process_time() - started


def fill(store: tables.Store, endpoints: int, hours: int, width: int) -> None:
    """Windows of two versions and two strata of every endpoint, versions 1 and 2 in the ledger."""
    rng, schema = np.random.default_rng(3), arrow_schema(tables.WINDOWS.fields)
    rows, start = [], END - timedelta(hours=hours)
    for i in range(hours * 3600 // width):
        for version in "12":
            for size in ("64", "256"):
                marks, weights = np.unique(np.round(rng.normal(300, 17, 60)).astype(int), return_counts=True)
                latency = list(zip(marks.tolist(), weights.astype(float).tolist(), strict=True))
                people = [(f"{k:012x}", [3, 0, 0, 0, 0, 0, 0, 3, 900, 270_000]) for k in range(20)]
                rows.append({
                    "endpoint": "", "model_version": version, "stratum": f"model/{size}", "window_start": start + timedelta(seconds=i * width),
                    "rows": 60, "requests": 60.0, "errors": [("HTTP_500", 1.0)], "latency": latency, "ttft": latency, "tokens_in": 6000.0,
                    "tokens_out": 3000.0, "length": latency, "pace": latency, "callers": people,
                })  # fmt: skip
    whole = pa.Table.from_pylist(rows, schema)
    names = [f"endpoint-{i:04d}" for i in range(endpoints)]
    for some in (names[i : i + 10] for i in range(0, endpoints, 10)):
        parts = [whole.set_column(0, schema.field("endpoint"), pa.array([name] * len(rows))) for name in some]
        delta.append(store.path(tables.WINDOWS), pa.concat_tables(parts))
    ledger = [
        {
            "endpoint": name,
            "config_version": k,
            "served_entity": v,
            "model_version": v,
            "traffic": share,
            "observed_at": at,
        }
        for name in names
        for k, at, shares in ((1, start - timedelta(days=9), {"1": 100}), (2, start, {"1": 50, "2": 50}))
        for v, share in shares.items()
    ]
    delta.append(store.path(tables.DEPLOYMENTS), pa.Table.from_pylist(ledger, arrow_schema(tables.DEPLOYMENTS.fields)))


def job(endpoints: int, hours: int, width: int) -> dict[str, float]:
    """What one run of the judge job costs: seconds, peak of the driver's Python and JVM heap in MiB, verdicts, and whether some of them are
    what the judge says of the same windows read here."""
    from lastgood.jobs.spark import session

    with tempfile.TemporaryDirectory() as folder:
        settings = load(storage=folder, window_s=width, live_every_s=0)
        spark = session(SparkSettings(driver_memory="4g"))
        store = tables.Store(folder)
        store.ensure(spark)
        fill(store, endpoints, hours, width)
        ctx = Context(spark, store, settings, lambda: END)
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.monotonic()
        verdicts = run_judge(ctx)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pools = spark._jvm.java.lang.management.ManagementFactory.getMemoryPoolMXBeans()  # type: ignore[union-attr]
        heap = sum(pool.getPeakUsage().getUsed() for pool in pools if str(pool.getType()) == "Heap memory") / 2**20
        name = verdicts[-1].endpoint
        start, share = budget.segment(SCHEDULED, END - timedelta(hours=hours), END, True)
        counts = measures.windows(store, name, start - SEEN_LATE)
        same = judge(
            Evidence(name, "2", "1", counts, width, planned=verdict_plan(hours), deployed=END - timedelta(hours=hours)), POLICY,
            History(share=share), END,
        )  # fmt: skip
        alike = (same.state, same.reason, same.e_value) == (
            verdicts[-1].state,
            verdicts[-1].reason,
            verdicts[-1].e_value,
        )
        return {
            "endpoints": endpoints, "verdicts": len(verdicts), "seconds": round(seconds, 1), "python_mb": round(peak), "python_grew_mb": round(peak - before),
            "jvm_heap_mb": round(heap), "same_verdict": float(alike),
        }  # fmt: skip


def verdict_plan(hours: int) -> list[Planned]:
    start = END - timedelta(hours=hours)
    return planned(
        [Configuration(start - timedelta(days=9), {"1": 100.0}), Configuration(start, {"1": 50.0, "2": 50.0})],
        Pair("2", "1", start),
    )


def jobs(sizes: tuple[int, ...], hours: int, width: int) -> list[dict[str, float]]:
    found = []
    for size in sizes:
        command = [
            sys.executable,
            "-m",
            "benchmarks.judge_cost",
            "--job",
            str(size),
            "--hours",
            str(hours),
            "--width",
            str(width),
        ]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found.append(json.loads(out.splitlines()[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.judge_cost")
    parser.add_argument("--quick", action="store_true", help="the same sizes, fewer repetitions")
    parser.add_argument("--job", type=int, help="only the job, over so many endpoints")
    parser.add_argument("--endpoints", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--hours", type=int, default=48)
    parser.add_argument("--width", type=int, default=60, help="seconds a window")
    options = parser.parse_args()
    if options.job:
        print(json.dumps(job(options.job, options.hours, options.width)))
        return
    console = Console(width=140)
    newest = many(ENDPOINTS, minutes=3 if options.quick else 6)
    days = {
        f"{width} s windows, {name}": day(10.0, width, known, sticky)
        for width in (60, 10)
        for name, known, sticky in (
            ("requesters unknown", False, False),
            ("requesters known", True, False),
            ("requesters known, sticky", True, True),
        )
    }
    console.print(f"{ENDPOINTS} endpoints x {VERSIONS} versions x {STRATA} strata, newest minute: {newest:.2f} s CPU")
    for name, (counting, judging, found) in days.items():
        console.print(
            f"a day at 10 requests/s, {name}: counting {counting:.2f} s, judging {judging:.2f} s CPU, {found} verdict changes"
        )
    thin = long_and_thin()
    console.print(f"26,000 requests of 4,000 requesters in 23 days, windows of half an hour: {thin:.2f} s CPU")
    done = jobs(
        (10, 30) if options.quick else tuple(options.endpoints),
        options.hours,
        options.width if not options.quick else 600,
    )
    for one in done:
        console.print(f"the job over {options.hours} hours: {one}")
    most = done[-1]
    console.print(machine())
    print(
        json.dumps(
            {
                "seconds_1000_endpoints": round(newest, 3),
                "seconds_replay_day": round(sum(days["60 s windows, requesters known"][:2]), 3),
                "seconds_thin_trace": round(thin, 3),
                "jobs": done,
                "driver_peak_mb_1000_endpoints": most["python_mb"] + most["jvm_heap_mb"],
                "growth_10_1000": round(
                    most["seconds"] / most["endpoints"] / (done[0]["seconds"] / done[0]["endpoints"]), 3
                ),
                "days": {k: {"counting": round(v[0], 3), "judging": round(v[1], 3)} for k, v in days.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
