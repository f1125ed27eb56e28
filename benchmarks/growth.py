"""Cost of one new day with 1, 10 and 100 days of history, for windows and drift: `python -m benchmarks.growth`."""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import psutil

from benchmarks.canonical import START, fill
from benchmarks.measured import machine
from lastgood import tables
from lastgood.jobs.baseline import set_baseline
from lastgood.jobs.drift import drift
from lastgood.jobs.samples import samples
from lastgood.jobs.spark import session
from lastgood.jobs.windows import rollup, windows
from lastgood.settings import SparkSettings, load
from lastgood.tables.runs import Context

HISTORIES = (1, 10, 100)
ENDPOINTS = ("chat", "search", "rank", "summary")


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def prepare(ctx: Context, days: int, per_day: int, say: Callable[[str], None]) -> None:
    """History taken in: windows, roll-ups, samples, a baseline of the first day for each endpoint."""
    say(f"{days} days of history: {days * per_day:,} requests")
    fill(ctx.store, days, per_day)
    for job in (windows, rollup, samples):
        say(f"{days} days of history: {job.__name__}")
        job(ctx)
    for endpoint in ENDPOINTS:
        set_baseline(ctx.store, endpoint, (START, START + timedelta(days=1)), ctx.clock())


def cpu() -> float:
    """CPU seconds of this process and those it started (the JVM, its Python workers)."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    others = sum(sum(one.cpu_times()[:2]) for one in psutil.Process().children(recursive=True) if one.is_running())
    return own.ru_utime + own.ru_stime + others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-day", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1,000 rows a day, 2 rounds, no 10 days")
    given = parser.parse_args()
    per_day, rounds = (1_000, 2) if given.quick else (given.per_day, given.rounds)
    histories = (1, 100) if given.quick else HISTORIES
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    spark = session(SparkSettings())
    start_s = time.monotonic() - started
    took: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        contexts = {}
        for days in histories:
            store = tables.Store(f"{folder}/{days}")
            store.ensure(spark)
            contexts[days] = Context(spark, store, load(storage=store.location))
            prepare(contexts[days], days, per_day, say)
        for round_ in range(rounds + 1):
            for days, ctx in contexts.items():
                say(f"round {round_} of {rounds}, {days} days of history")
                day = days + round_
                fill(ctx.store, 1, per_day, day)
                end = START + timedelta(days=day + 1)
                then = replace(ctx, clock=lambda end=end: end)
                jobs = {"windows": lambda then=then: windows(then), "drift": lambda then=then: drift(then)}
                for name, job in jobs.items():
                    before, seconds = cpu(), timed(job)
                    if round_:  # the first warms the session up
                        took.setdefault((name, days), []).append(seconds)
                        took.setdefault((f"{name} CPU", days), []).append(cpu() - before)
                rollup(then)
        peak = (
            sum(one.memory_info().rss for one in (psutil.Process(), *psutil.Process().children(recursive=True))) / 2**20
        )
    print(
        f"one new day of {per_day:,} requests, medians of {rounds} rounds, the histories in turn; Spark start {start_s:.1f} s"
    )
    print(f"{'days of history':>16} {'windows s':>10} {'CPU s':>7} {'drift s':>9} {'CPU s':>7}")
    middle = {key: statistics.median(values) for key, values in took.items()}
    for days in histories:
        w, wc, d, dc = (middle[name, days] for name in ("windows", "windows CPU", "drift", "drift CPU"))
        print(f"{days:>16} {w:>10.2f} {wc:>7.1f} {d:>9.2f} {dc:>7.1f}")
    print(f"{machine()}; {peak:,.0f} MiB resident at the end, JVM and workers included")
    ratios = {f"{name}_ratio_100_1": round(middle[name, 100] / middle[name, 1], 3) for name in ("windows", "drift")}
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
