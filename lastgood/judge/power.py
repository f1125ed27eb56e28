"""Traffic, split and regression -> how long until the judge sees it, by the judge itself on simulated windows (pure, seeded)."""

from dataclasses import dataclass

import numpy as np

from lastgood.judge import budget
from lastgood.judge.columns import Columns, Entries
from lastgood.judge.eprocess import Floats
from lastgood.judge.streams import shift_buckets
from lastgood.judge.trail import follow
from lastgood.record.fault import FAULTS, Fault
from lastgood.settings import Policy

SIGMA = 0.35
"""Spread of log latency where no history is given."""


@dataclass(frozen=True)
class Traffic:
    """Requests a minute, the new version's share, the share that fails, and a histogram of latency (bucket -> weight)."""

    per_minute: float
    share: float
    errors: float
    buckets: Floats
    weights: Floats


def typical(per_minute: float, share: float, errors: float) -> Traffic:
    """Traffic with log-normal latency around 400 ms."""
    buckets = np.arange(240, 360)
    from_middle = (buckets - 302.5) * np.log(1.02) / SIGMA
    return Traffic(per_minute, share, errors, buckets.astype(float), np.exp(-(from_middle**2) / 2))


def minutes_to_see(
    given: Traffic, errors: float, latency: float, policy: Policy, minutes: int, runs: int, seed: int
) -> Floats:
    """Minutes until a rollback [runs] for errors x `errors` and latency x `latency`, inf when not within `minutes`."""
    rng = np.random.default_rng(seed)
    shape = (minutes, runs, 2)
    n = rng.poisson(given.per_minute * np.array([1 - given.share, given.share]), shape)
    failed = rng.binomial(n, np.minimum(0.95, given.errors * np.array([1.0, errors]))).astype(float)
    hist = rng.multinomial(n, given.weights / given.weights.sum())
    t, g, arm, k = np.nonzero(hist)
    slower = arm * (shift_buckets(latency - 1) if latency > 1 else 0)
    faults = np.zeros((*shape, len(FAULTS)))
    faults[..., FAULTS.index(Fault.MODEL)] = failed
    zero, groups = np.zeros(shape), np.arange(runs)
    cols = Columns(
        60.0 * np.arange(minutes, dtype=np.float64), 60.0, ("all/64",) * runs, groups, groups, np.ones(runs, bool), n.astype(float), faults,
        zero, zero, np.zeros((minutes, runs, 2, 2)),
        {"latency": Entries(t, g, arm, given.buckets[k].astype(np.int64) + slower, hist[t, g, arm, k].astype(float))},
    )  # fmt: skip
    trail, _ = follow(cols, policy)
    over = (trail.e >= policy.rollback_e / budget.of_try(1)) & (trail.windows >= policy.min_windows)
    over &= (trail.bad >= policy.min_bad) | (latency > 1)
    return np.where(over.any(0), over.argmax(0) + 1.0, np.inf)
