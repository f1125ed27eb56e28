"""Drift on one machine and by the Spark job, beside plain Evidently on pandas, at three sizes of 20 columns; and who cries wolf:
`python -m benchmarks.drift`."""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.canonical import CHUNK
from benchmarks.measured import Cost, machine, run
from lastgood import tables
from lastgood.jobs.evidently_report import opinion, opinions
from lastgood.jobs.sampling import KEEP
from lastgood.judge.drift import discoveries, distance
from lastgood.record.telemetry import arrow_schema
from lastgood.tables import delta

COLUMNS, START, LEVEL = 20, datetime(2026, 1, 5, tzinfo=UTC), 0.05
WARM = 20_000
ROUNDS = {"machine": 5, "job": 3, "plain": 3}
ROWS = (40_000, 400_000, 5_000_000)
HEAP = "600m"
"""Of the JVM: the samples are small. A session's own default is 1 GiB, which the collectors of bodies need."""
DRIFTED = {0: 1.0, 1: 0.7, 2: 0.5, 3: -0.8}
"""Column -> shift of its mean, in standard deviations; the others stay."""
SIZES = ((200, 200), (1_000, 1_000), (4_800, 96), (50_000, 50_000), (1_000_000, 1_000_000))
Floats = npt.NDArray[np.float64]


def values(rng: np.random.Generator, n: int, current: bool) -> Floats:
    """[n, COLUMNS]."""
    found = rng.normal(size=(n, COLUMNS))
    for column, shift in DRIFTED.items():
        found[:, column] += shift if current else 0.0
    return np.round(found, 4)


def make(folder: str, rows: int) -> None:
    """The same values twice: canonical requests (features as a map) for ours, a flat Parquet file for plain Evidently."""
    Path(folder).mkdir(exist_ok=True)
    store, rng = tables.Store(f"{folder}/data"), np.random.default_rng(5)
    schema, writer = arrow_schema(tables.REQUESTS.fields), None
    chunk = min(CHUNK // 2, rows // 2)
    for first in range(0, rows, chunk):
        n, current = min(chunk, rows - first), first >= rows // 2
        x = values(rng, n, current)
        flat = pa.table({f"x{i}": x[:, i] for i in range(COLUMNS)} | {"current": pa.repeat(current, n)})
        writer = writer or pq.ParquetWriter(f"{folder}/flat.parquet", flat.schema)
        writer.write_table(flat)
        at = START + timedelta(days=2 * first / rows)
        micros = int(at.timestamp() * 1e6) + np.arange(n) * int(2 * 86_400e6 / rows)
        names = pa.array([f"x{i}" for i in range(COLUMNS)]).take(pa.array(np.tile(np.arange(COLUMNS), n)))
        made = {
            "endpoint": pa.repeat("chat", n), "request_id": pa.array(np.char.add("r", np.arange(first, first + n).astype(str))),
            "model_version": pa.repeat("7" if current else "6", n), "requested_at": pa.array(micros, pa.timestamp("us", "UTC")),
            "latency_ms": np.ones(n), "weight": np.ones(n), "received_at": pa.array(micros, pa.timestamp("us", "UTC")),
            "features": pa.MapArray.from_arrays(
                pa.array(np.arange(n + 1, dtype=np.int32) * COLUMNS), names, pa.array(x.ravel()).cast(pa.string())
            ),
        }  # fmt: skip
        columns = [pa.array(made[f.name]).cast(f.type) if f.name in made else pa.nulls(n, f.type) for f in schema]
        delta.append(store.path(tables.REQUESTS), pa.Table.from_arrays(columns, schema=schema))
    if writer:
        writer.close()
    served = [
        {"endpoint": "chat", "model_version": v, "stratum": "?/?", "window_start": START + timedelta(days=d), "rows": 1, "requests": 1.0}
        for v, d in (("6", 0), ("7", 1))
    ]  # fmt: skip
    delta.append(store.path(tables.WINDOWS), pa.Table.from_pylist(served, arrow_schema(tables.WINDOWS.fields)))


def machine_path(folder: str, rounds: int) -> dict[str, Any]:
    """Without Spark: straight from all requests, and the comparison."""
    from lastgood.jobs import evidently_report, local_drift  # noqa: F401  (imports are no part of the comparison)
    from lastgood.settings import load

    store, took, found = tables.Store(f"{folder}/data"), [], list[dict[str, Any]]()
    settings = load(storage=store.location)
    for _ in range(rounds):
        started = time.monotonic()
        found = local_drift.measure(store, settings, "chat", START + timedelta(days=2))
        took.append(time.monotonic() - started)
    return {"jobs": took, "drifted": _called(found)}


def _called(rows: list[dict[str, Any]]) -> list[str]:
    """Features called drifted between the new version and the reference."""
    own = [row for row in rows if row["model_version"] == "7" and row["against"] == "reference" and row["drifted"]]
    return sorted(row["column"].removeprefix("feature.") for row in own if ":" not in row["column"])


def spark_job(folder: str, rounds: int) -> dict[str, Any]:
    """The job as scheduled: new requests into hourly samples, then the comparison; `rounds` times from nothing in one session. Once before
    on a small table, as in benchmarks.windows."""
    from lastgood.jobs.drift import drift
    from lastgood.jobs.samples import samples
    from lastgood.jobs.spark import session
    from lastgood.settings import SparkSettings, load
    from lastgood.tables.runs import Context

    started = time.monotonic()
    spark = session(SparkSettings(driver_memory=HEAP))
    start_s, taken, whole = time.monotonic() - started, [], []
    for where in (f"{folder}/small", *[folder] * rounds):
        store = tables.Store(f"{where}/data")
        for made in (tables.SAMPLES, tables.DRIFT, tables.RUNS):
            shutil.rmtree(store.path(made), ignore_errors=True)
        store.ensure(spark)
        ctx = Context(spark, store, load(storage=store.location), lambda: START + timedelta(days=2))
        started = time.monotonic()
        samples(ctx)
        taken.append(time.monotonic() - started)
        drift(ctx)
        whole.append(time.monotonic() - started)
    found = delta.read(store.path(tables.DRIFT)).to_pylist()
    return {
        "start": start_s, "first": whole[0], "samples": statistics.median(taken[1:]), "jobs": whole[1:], "drifted": _called(found),
    }  # fmt: skip


def plain(folder: str, rounds: int) -> dict[str, Any]:
    """Evidently's own preset on all rows."""
    import evidently.presets  # noqa: F401  (imports are no part of the comparison)

    took, columns = [], [f"x{i}" for i in range(COLUMNS)]
    for _ in range(rounds):
        started = time.monotonic()
        frame = pd.read_parquet(f"{folder}/flat.parquet")
        found = opinions(frame[frame["current"]], frame[~frame["current"]], columns, [])
        took.append(time.monotonic() - started)
        del frame
    return {"jobs": took, "drifted": sorted(name for name, one in found.items() if one.drifted)}


ENGINES: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "machine": machine_path,
    "job": spark_job,
    "plain": plain,
}


def measure(engine: str, folder: str, rounds: int) -> tuple[Cost, dict[str, Any]]:
    with tempfile.TemporaryFile() as out:
        cost = run([sys.executable, "-m", "benchmarks.drift", "--engine", engine, "--rounds", str(rounds), folder], out)
        out.seek(0)
        said = json.loads(out.read().splitlines()[-1])
        return cost, said | {"job": statistics.median(said["jobs"])}


def alarms(reference: int, current: int, runs: int) -> tuple[float, float, float]:
    """Of reports on undrifted columns, the share with any alarm: (ours, Evidently's); and Evidently's share of columns."""
    rng = np.random.default_rng(reference + current)
    hits, columns = np.zeros(2), 0
    for _ in range(runs):
        ps, theirs = [], 0
        for _ in range(COLUMNS):
            a, b = rng.normal(size=current), rng.normal(size=reference)
            few = [
                np.sort(rng.choice(len(one), KEEP, replace=False)) if len(one) > KEEP else np.arange(len(one))
                for one in (a, b)
            ]
            ours_ = distance(a[few[0]].astype(object), b[few[1]].astype(object), few[0].tolist(), few[1].tolist(), True)
            ps.append(ours_.p)
            said = opinion(pd.Series(a), pd.Series(b), True)
            theirs += bool(said and said.drifted)
        hits += (any(discoveries(ps, LEVEL)), theirs > 0)
        columns += theirs
    return float(hits[0] / runs), float(hits[1] / runs), columns / runs / COLUMNS


def compare(rows: int, quick: bool) -> dict[str, Any]:
    """All engines on a table of so many rows; prints what they take."""
    with tempfile.TemporaryDirectory() as folder:
        make(folder, rows)
        make(f"{folder}/small", min(rows, WARM))
        results = {name: measure(name, folder, 1 if quick else ROUNDS[name]) for name in ENGINES}
        mib = sum(file.stat().st_size for file in Path(folder, "data", "requests").glob("*.parquet")) / 2**20
    print(f"\n{rows:,} rows x {COLUMNS} columns ({mib:.0f} MiB as requests)")
    print(f"{'':<20} {'s':>7} {'CPU s':>7} {'peak MiB':>9}  columns called drifted, and all runs (s)")
    for name, (cost, figures) in results.items():
        runs = ", ".join(f"{seconds:.2f}" for seconds in figures["jobs"])
        print(
            f"{name:<20} {figures['job']:>7.2f} {cost.cpu_s:>7.1f} {cost.peak_rss_mb:>9.0f}  {', '.join(figures['drifted'])} ({runs})"
        )
    job, plain_s = results["job"][1], results["plain"][1]["job"]
    print(
        f"job: Spark start {job['start']:.1f} s and a first run {job['first']:.1f} s, both outside its seconds, inside CPU and peak; "
        f"{job['samples']:.1f} s of it sample all rows, once for each row",
        flush=True,
    )
    return {
        "rows": rows,
        "speedup": round(plain_s / results["machine"][1]["job"], 2),
        "memory_ratio": round(results["plain"][0].peak_rss_mb / results["machine"][0].peak_rss_mb, 2),
        "job_speedup": round(plain_s / job["job"], 2),
        "job_memory_ratio": round(results["plain"][0].peak_rss_mb / results["job"][0].peak_rss_mb, 2),
        "verdicts_agree": all(figures["drifted"] == job["drifted"] for _, figures in results.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--quick", action="store_true", help="40,000 rows, one run each, small null sets")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine:
        print(json.dumps(ENGINES[given.engine](given.folder, given.rounds)))
        return
    sizes = [compare(rows, given.quick) for rows in (ROWS[:1] if given.quick else given.rows)]
    print("\nSeconds are medians of the runs, one after another in one process; CPU and peak are of all of them.")
    print(f"Drifted in truth: {', '.join(sorted(f'x{i}' for i in DRIFTED))}. {machine()}")
    print(
        f"\n{'reference':>10} {'current':>9} {'reports':>8} {'ours':>6} {'Evidently':>10} {'of its columns':>15}   (false alarms, undrifted)"
    )
    shares = []
    for reference, current in SIZES:
        runs = (
            (10 if reference < 10_000 else 1)
            if given.quick
            else (200 if reference < 10_000 else 40 if reference < 100_000 else 3)
        )
        if given.quick and reference > 10_000:
            continue
        shares.append(alarms(reference, current, runs))
        print(
            f"{reference:>10,} {current:>9,} {runs:>8} {shares[-1][0]:>6.1%} {shares[-1][1]:>10.1%} {shares[-1][2]:>15.1%}"
        )
    largest = sizes[-1]
    print(json.dumps({
        **{name: largest[name] for name in ("speedup", "memory_ratio", "job_speedup", "job_memory_ratio")},
        "least_speedup": min(size["speedup"] for size in sizes), "verdicts_agree": all(size["verdicts_agree"] for size in sizes),
        "false_alarm_share": max(share[0] for share in shares), "evidently_false_alarm_share": max(share[1] for share in shares),
        "sizes": sizes,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
