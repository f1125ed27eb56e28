"""Rivals from their published rules: minute series -> the minute after which each would roll back.

Every rule gets errors and latency and fires on either. Series are summed over strata, as these tools read them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.judge.traffic import ERRORS, LOW, SIGMA, STEP, Floats, Traffic

LIMIT_ERRORS, SLO = 0.01, 0.005
LIMIT_P99 = 1.25 * math.exp(2.326 * SIGMA)
"""A limit on errors as canary guides set it, an objective, and a limit on p99 (in typical medians) 25% above the healthy one."""
Z_ONE_IN_FIFTY = 2.0537


@dataclass(frozen=True)
class Series:
    """[minutes, runs, 2 (prior, new)]: n, failed, p95, p99 (in typical medians); hist [minutes, runs, 2, buckets]."""

    n: Floats
    failed: Floats
    p95: Floats
    p99: Floats
    hist: Floats

    @property
    def rate(self) -> Floats:
        return self.failed / np.maximum(self.n, 1)


def series(traffic: Traffic) -> Series:
    """By the minute, strata together."""
    per = round(1 / traffic.minutes_each)

    def minutes(v: Floats) -> Floats:
        v = v.sum(2)
        return np.asarray(v.reshape(len(v) // per, per, *v.shape[1:]).sum(1))

    n, failed, hist = minutes(traffic.n), minutes(traffic.failed), minutes(traffic.hist)
    ranked = np.cumsum(hist, -1)
    p95, p99 = (np.exp(STEP * ((ranked >= q * ranked[..., -1:]).argmax(-1) - 0.5 + LOW)) for q in (0.95, 0.99))
    return Series(n, failed, p95, p99, hist)


def _in_a_row(bad: Floats, times: int) -> Floats:
    """Whether the last `times` minutes were all bad [minutes, runs]."""
    run = np.zeros(bad.shape[1:])
    out = np.zeros(bad.shape, bool)
    for t in range(len(bad)):
        run = np.where(bad[t], run + 1, 0)
        out[t] = run >= times
    return out


def consecutive(s: Series) -> Floats:
    return _in_a_row((s.rate[..., 1] > LIMIT_ERRORS) | (s.p99[..., 1] > LIMIT_P99), 3)


def cumulative(s: Series) -> Floats:
    return np.cumsum((s.rate[..., 1] > LIMIT_ERRORS) | (s.p99[..., 1] > LIMIT_P99), 0) >= 5


def ratio(s: Series) -> Floats:
    errors = s.rate[..., 1] > 2 * np.maximum(s.rate[..., 0], 1e-9)
    return _in_a_row(errors & (s.failed[..., 1] > 0), 3) | _in_a_row(s.p95[..., 1] > 1.25 * s.p95[..., 0], 3)


def canary_judge(s: Series) -> Floats:
    """Mann-Whitney on the per-minute series so far, every five minutes: the lower 98% limit of the shift is above a quarter of it."""
    out = np.zeros(s.n.shape[:2], bool)
    for t in range(5, len(s.n) + 1, 5):
        for metric in (s.rate, s.p95):
            new, old = metric[:t, :, 1], metric[:t, :, 0]
            shifts = np.sort((new[:, None] - old[None]).reshape(t * t, -1), 0)
            rank = t * t / 2 - 2.326 * math.sqrt(t * t * (2 * t + 1) / 12)
            low = shifts[max(0, math.floor(rank) - 1)] if rank >= 1 else np.full(shifts.shape[1], -np.inf)
            middle = np.median(shifts, 0)
            out[t - 1] |= (low > 0.25 * np.abs(middle)) & (low > 0)
    return out


def raw_tests(s: Series) -> Floats:
    """Two-sample tests at p < .02 on all counts so far, looked at every minute: proportions of failures, ranks of latencies."""
    n, x = np.cumsum(s.n, 0), np.cumsum(s.failed, 0)
    pooled = x.sum(-1) / np.maximum(n.sum(-1), 1)
    spread = np.sqrt(
        np.maximum(pooled * (1 - pooled), 1e-12) * (1 / np.maximum(n[..., 0], 1) + 1 / np.maximum(n[..., 1], 1))
    )
    z = (x[..., 1] / np.maximum(n[..., 1], 1) - x[..., 0] / np.maximum(n[..., 0], 1)) / spread
    hist = np.cumsum(s.hist, 0)
    old, new = hist[..., 0, :], hist[..., 1, :]
    under = np.cumsum(old, -1) - old / 2
    a, b = new.sum(-1), old.sum(-1)
    u = (new * under).sum(-1) / np.maximum(a * b, 1)
    ties = 1 - ((old + new) ** 3).sum(-1) / np.maximum(a + b, 1) ** 3
    rank = (u - 0.5) / np.sqrt(np.maximum(ties, 1e-9) * (a + b + 1) / np.maximum(12 * a * b, 1))
    return (z > Z_ONE_IN_FIFTY) | (rank > Z_ONE_IN_FIFTY)


def burn_rate(s: Series) -> Floats:
    """Multi-window burn rates of the new version: 14.4 x over an hour and five minutes, 6 x over six hours and half an hour."""
    n, x = (np.concatenate([np.zeros((1, *v.shape[1:])), np.cumsum(v, 0)]) for v in (s.n[..., 1], s.failed[..., 1]))

    def burn(minutes: int) -> Floats:
        t = np.arange(1, len(n))
        before = np.maximum(0, t - minutes)
        return (x[t] - x[before]) / np.maximum(n[t] - n[before], 1) / SLO

    return ((burn(60) > 14.4) & (burn(5) > 14.4)) | ((burn(360) > 6) & (burn(30) > 6))


def _streaming(make: Callable[[], object], s: Series, runs: int) -> Floats:
    """A drift detector on the new version's failures per cent and p95, by the minute."""
    out = np.zeros((len(s.n), runs), bool)
    for metric in (100 * s.rate[..., 1], 100 * s.p95[..., 1]):
        for run in range(runs):
            detector = make()
            for t in range(len(metric)):
                detector.update(float(metric[t, run]))  # type: ignore[attr-defined]
                if detector.drift_detected and metric[max(0, t - 4) : t + 1, run].mean() > metric[: t + 1, run].mean():  # type: ignore[attr-defined]
                    out[t, run] = True
    return out


def adwin(s: Series) -> Floats:
    from river.drift import ADWIN

    return _streaming(lambda: ADWIN(grace_period=5, clock=1), s, min(STREAMED, s.n.shape[1]))


def page_hinkley(s: Series) -> Floats:
    from river.drift import PageHinkley

    return _streaming(lambda: PageHinkley(mode="up"), s, min(STREAMED, s.n.shape[1]))


STREAMED = 200
"""Runs given to the streaming detectors: they go value by value."""
RIVALS: dict[str, Callable[[Series], Floats]] = {
    "3 consecutive failures": consecutive,
    "5 cumulative failures": cumulative,
    "ratio above 2, 3 in a row": ratio,
    "Mann-Whitney canary judge": canary_judge,
    "raw tests p < .02": raw_tests,
    "burn rate, SLO 99.5%": burn_rate,
    "ADWIN (river)": adwin,
    "Page-Hinkley (river)": page_hinkley,
}


def first(over: Floats) -> Floats:
    """Minutes until the first alarm [runs], inf for none."""
    return np.where(over.any(0), over.argmax(0) + 1.0, np.inf)


__all__ = ["ERRORS", "RIVALS", "first", "series"]
