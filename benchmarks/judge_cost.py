"""`python -m benchmarks.judge_cost [--quick]`: what judging costs: 1,000 endpoints over the newest minute; one endpoint's day."""

import argparse
import json
import time

import numpy as np
from rich.console import Console

from benchmarks.measured import machine
from lastgood.judge.columns import Columns, Entries
from lastgood.judge.judge import Evidence, History, changes
from lastgood.judge.records import Records, columns_of
from lastgood.judge.streams import nothing
from lastgood.judge.trail import follow
from lastgood.record.fault import FAULTS
from lastgood.settings import Policy

ENDPOINTS, VERSIONS, STRATA, PER_STRATUM = 1000, 3, 20, 12.0
POLICY = Policy()


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.judge_cost")
    parser.add_argument("--quick", action="store_true", help="the same sizes, fewer repetitions")
    options = parser.parse_args()
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
    console.print(machine())
    print(
        json.dumps(
            {
                "seconds_1000_endpoints": round(newest, 3),
                "seconds_replay_day": round(sum(days["60 s windows, requesters known"][:2]), 3),
                "days": {k: {"counting": round(v[0], 3), "judging": round(v[1], 3)} for k, v in days.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
