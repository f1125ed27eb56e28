"""What the documents say of slow cases, measured: the alarm without a prior version, and a doubling of errors where traffic is thin."""

import json
import math

import numpy as np
from rich.console import Console

from benchmarks.judge.traffic import ERRORS, Floats, noise
from benchmarks.measured import machine
from lastgood.judge import eprocess, power
from lastgood.judge.calibrate import Rate
from lastgood.judge.guards import RUN_ALARM, RUN_LENGTH
from lastgood.judge.look import TOLERATED_RISE, dispersion, expected_rate
from lastgood.settings import Policy

MINUTES, PER_MINUTE, WEEKS, RUNS = 120 * 1440, 60.0, 4, 200
CASES = {
    "as in earlier weeks": (1.0, 0.3, 0.0), f"{TOLERATED_RISE:g} times as often": (TOLERATED_RISE, 0.3, 0.0),
    f"{TOLERATED_RISE:g} times as often, the same at all hours": (TOLERATED_RISE, 0.0, 0.0),
    "as in earlier weeks, in bursts": (1.0, 0.3, 0.3),
}  # fmt: skip
"""(failures against earlier weeks, their swing by hour of day, spread of noise that lasts some 20 minutes)."""
THIN, ERRORS_TODAY, FAR, SLOW_RUNS = 12.0, 0.01, 14 * 1440, 40


def failing(minutes: int, runs: int, swing: float, spread: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(requests, share that fails) [minutes, runs], by hour of day."""
    day = np.sin(np.arange(minutes) / 1440 * 2 * np.pi)[:, None]
    errors = np.exp(noise(rng, (minutes, runs), spread, 0.95) - spread**2 / 2 + swing * day) * ERRORS
    return rng.poisson(PER_MINUTE * (1 + 0.8 * day), (minutes, runs)).astype(float), errors


def until_alarm(worse: float, swing: float, spread: float, runs: int, rng: np.random.Generator) -> Floats:
    """Minutes until the alarm [runs], inf for none in MINUTES; each run has earlier weeks of its own."""
    before, share = failing(WEEKS * 10_080, runs, swing, spread, rng)
    hours = np.stack([before, rng.poisson(before * share)], -1).reshape(WEEKS, 168, 60, runs, 2).sum((0, 2))
    # time 0 was a Thursday, hour 0 of a week is on Monday
    bases = [{(h + 72) % 168: (float(n), float(x)) for h, (n, x) in enumerate(hours[:, i])} for i in range(runs)]
    n, errors = failing(MINUTES, runs, swing, spread, rng)
    x, times = rng.poisson(n * errors * worse).astype(float), 60.0 * np.arange(MINUTES)
    expected = TOLERATED_RISE * n * np.stack([expected_rate(base, times) for base in bases], -1)
    over = eprocess.alarm(x, expected, np.array([[dispersion(base)] for base in bases])) >= RUN_ALARM
    return np.where(over.any(0), over.argmax(0) + 1.0, np.inf)


def alone(runs: int) -> dict[str, dict[str, float]]:
    """case -> share of 30-day months with an alarm (95 % limits), mean days to it (those without count as MINUTES: a lower bound)."""
    out = {}
    for seed, (name, case) in enumerate(CASES.items()):
        parts = [until_alarm(*case, 50, np.random.default_rng([23, seed, i])) for i in range(runs // 50)]
        took = np.concatenate(parts)
        month = Rate(runs, int((took <= RUN_LENGTH).sum()))
        days = float(np.minimum(took, MINUTES).mean() / 1440)
        out[name] = {
            "runs": runs,
            "month": month.rate,
            "low": month.low,
            "high": month.high,
            "mean_days_at_least": days,
        }
    return out


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
    console, alarms = Console(width=160), alone(RUNS)
    for name, one in alarms.items():
        console.print(
            f"no prior version, failures {name}: an alarm in {one['month']:.1%} of months of 30 days (95 %: {one['low']:.1%} to "
            f"{one['high']:.1%}), on average after {one['mean_days_at_least']:.0f} days or more"
        )
    slow = thin(SLOW_RUNS)
    for share, one in slow.items():
        console.print(
            f"{THIN:.0f} requests a minute, {share} to the new version, {ERRORS_TODAY:.0%} fail: a doubling is seen within {one['half']:.0f} hours "
            f"half the time, {one['nine_in_ten']:.0f} nine times in ten"
        )
    console.print(machine())
    print(json.dumps({"no_prior": alarms, "thin": slow}).replace("Infinity", "null"))
