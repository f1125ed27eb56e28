"""What the documents say of slow cases, measured: false pages in 90 days, and a doubling of errors where traffic is thin."""

import json
import math
from datetime import UTC, datetime, timedelta

import numpy as np
from rich.console import Console
from scipy.special import ndtr

from benchmarks.judge import week
from benchmarks.judge.traffic import ERRORS, LOW, SIGMA, STEP, Floats, noise
from benchmarks.measured import machine
from lastgood.judge import power
from lastgood.judge.calibrate import Rate
from lastgood.judge.columns import Columns, Entries
from lastgood.judge.guards import RUN_ALARM
from lastgood.judge.usual import alarms, usual
from lastgood.record.fault import FAULTS, Fault
from lastgood.record.windows import Counts
from lastgood.settings import Policy

DAYS, PER_MINUTE, WEEKS, WIDTH = 90, 60.0, 4, 600.0
CASES = {
    "as in earlier weeks": (1.0, 1.0, 0.0), "as in earlier weeks, in bursts": (1.0, 1.0, 0.3), "1.2 times as often": (1.2, 1.0, 0.0),
    "1.2 times as slow": (1.0, 1.2, 0.0),
}  # fmt: skip
"""(failures, and latency, against earlier weeks; spread of noise that lasts some hours)."""
REGRESSED = {
    "failures x2": (2.0, 1.0, 0.0),
    "failures x4": (4.0, 1.0, 0.0),
    "latency x1.5": (1.0, 1.5, 0.0),
    "latency x3": (1.0, 3.0, 0.0),
}
THIN, ERRORS_TODAY, FAR, SLOW_RUNS = 12.0, 0.01, 14 * 1440, 40
ROLLOUTS = 3
"""New versions in 90 days, each beside the prior one for a week."""
START = datetime(2026, 3, 2, tzinfo=UTC)
MARKS = np.arange(LOW, -LOW + 60)


def _served(
    windows: int, width: float, case: tuple[float, float, float], rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """(requests [windows], failed ones, successes by latency bucket [windows, MARKS]); day and night, and a swing of failures with it."""
    worse, slower, spread = case
    day = np.sin(np.arange(windows) * width / 86_400 * 2 * np.pi)
    n = rng.poisson(PER_MINUTE * width / 60 * (1 + 0.8 * day)).astype(float)
    wander = noise(rng, (windows, 2), 1.0, 0.9 ** (width / 600))
    failed = rng.binomial(
        n.astype(int), np.minimum(0.5, ERRORS * worse * np.exp(0.3 * day + spread * wander[:, 0] - spread**2 / 2))
    )
    shift = math.log(slower) + 0.03 * wander[:, 1] + 0.3 * spread * wander[:, 1] + 0.1 * day
    below = ndtr((STEP * MARKS[:, None] - shift) / SIGMA)
    p = np.maximum(np.diff(below, axis=0, prepend=0.0, append=1.0), 0.0)[1:].T
    return n, failed.astype(float), rng.multinomial((n - failed).astype(int), p / p.sum(1, keepdims=True)).astype(float)


def weeks(rng: np.random.Generator, spread: float) -> list[Counts]:
    """Four earlier weeks, hour by hour."""
    n, failed, hist = _served(WEEKS * 168, 3600.0, (1.0, 1.0, spread), rng)
    return [
        Counts(
            "chat", "1", "model/64", START - timedelta(hours=len(n) - i), int(n[i]), n[i], {"HTTP_500": failed[i]},
            {int(MARKS[k]): float(hist[i, k]) for k in np.flatnonzero(hist[i])},
        )
        for i in range(len(n))
    ]  # fmt: skip


def until_alarm(case: tuple[float, float, float], days: int, rng: np.random.Generator) -> float:
    """Days until a version that serves alone is paged for, inf for never."""
    known = usual(weeks(rng, case[2]), Policy())
    n, failed, hist = _served(round(days * 86_400 / WIDTH), WIDTH, case, rng)
    shape = (len(n), 1, 2)
    counts, faults, zero = np.zeros(shape), np.zeros((*shape, len(FAULTS))), np.zeros(shape)
    counts[:, 0, 1], faults[:, 0, 1, FAULTS.index(Fault.MODEL)] = n, failed
    t, k = np.nonzero(hist)
    one, none = np.ones(len(t), np.int64), np.zeros(len(t), np.int64)
    groups = np.zeros(1, np.int64)
    cols = Columns(
        START.timestamp() + WIDTH * np.arange(len(n)), WIDTH, ("model/64",), groups, groups, np.ones(1, bool), counts, faults, zero, zero,
        np.zeros((len(n), 1, 2, 2)), {"latency": Entries(t, none, one, MARKS[k], hist[t, k])},
    )  # fmt: skip
    over = [np.flatnonzero(alarm >= RUN_ALARM * 60 / WIDTH) for alarm in alarms(known, cols, Policy()).values()]
    first = min((int(at[0]) for at in over if len(at)), default=None)
    return math.inf if first is None else (first + 1) * WIDTH / 86_400


def alone(runs: int) -> dict[str, dict[str, float]]:
    """case -> share of 90 days with an alarm (95% limits); of regressed ones the median minutes to it."""
    out: dict[str, dict[str, float]] = {}
    for seed, (name, case) in enumerate(CASES.items()):
        took = np.array([until_alarm(case, DAYS, np.random.default_rng([23, seed, i])) for i in range(runs)])
        rate = Rate(runs, int(np.isfinite(took).sum()))
        out[name] = {"runs": runs, "share": rate.rate, "low": rate.low, "high": rate.high}
    for seed, (name, case) in enumerate(REGRESSED.items()):
        took = np.array([until_alarm(case, 2, np.random.default_rng([24, seed, i])) for i in range(max(5, runs // 4))])
        out[name] = {
            "runs": len(took),
            "found": float(np.isfinite(took).mean()),
            "median_minutes": float(np.median(took) * 1440),
        }
    return out


def false_pages(runs: int, policy: Policy) -> dict[str, float]:
    """False pages that an endpoint sees in 90 days: of versions that serve alone, and of ROLLOUTS weeks beside a prior version."""
    serving = [until_alarm(CASES["as in earlier weeks"], DAYS, np.random.default_rng([25, i])) for i in range(runs)]
    paged = week.measure(runs, policy)["paged"]
    by_history = float(np.isfinite(serving).mean())
    return {"runs": runs, "by_history": by_history, "by_rollout": paged, "pages": by_history + ROLLOUTS * paged}


def thin(runs: int) -> dict[str, dict[str, float]]:
    """split -> hours to see a doubling of errors at THIN requests a minute: half and nine in ten of the runs, share within FAR."""
    out = {}
    for share in (0.5, 0.1):
        given = power.typical(THIN, share, ERRORS_TODAY)
        seen = np.concatenate(
            [power.minutes_to_see(given, 2.0, 1.0, Policy(), FAR, 10, 29 + i) for i in range(runs // 10)]
        )
        half, most = (float(np.sort(seen)[math.ceil(q * len(seen)) - 1]) / 60 for q in (0.5, 0.9))
        out[f"{share:.0%}"] = {
            "runs": len(seen),
            "half": half,
            "nine_in_ten": most,
            "within": float(np.isfinite(seen).mean()),
        }
    return out


def main() -> None:
    console, found = Console(width=160), alone(200)
    for name, one in found.items():
        if "share" in one:
            told = f"a page in {one['share']:.1%} of {DAYS} days (95%: {one['low']:.1%} to {one['high']:.1%})"
        else:
            told = (
                f"found in {one['found']:.0%} within two days, half of them within {one['median_minutes']:.0f} minutes"
            )
        console.print(f"serving alone, {name}: {told}")
    slow = thin(SLOW_RUNS)
    for share, one in slow.items():
        console.print(
            f"{THIN:.0f} requests a minute, {share} to the new version, {ERRORS_TODAY:.0%} fail: a doubling is seen within {one['half']:.0f} hours "
            f"half the time, {one['nine_in_ten']:.0f} nine times in ten"
        )
    console.print(machine())
    print(json.dumps({"alone": found, "thin": slow}).replace("Infinity", "null"))
