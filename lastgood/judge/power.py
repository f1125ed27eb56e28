"""Traffic, split and regression -> how long until the judge sees it, by the judge itself on simulated windows (pure, seeded)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lastgood.errors import ConfigError
from lastgood.judge import budget
from lastgood.judge.columns import Columns, Entries
from lastgood.judge.eprocess import Floats
from lastgood.judge.streams import shift_buckets
from lastgood.judge.trail import follow
from lastgood.record.fault import FAULTS, Fault
from lastgood.record.windows import ZERO, Counts, merge
from lastgood.settings import Policy

SIGMA = 0.35
"""Spread of log latency where no history is given."""
RAREST = 1e-6
"""Share of failures where there was none."""


@dataclass(frozen=True)
class Traffic:
    """Requests a minute, the new version's share, the share that fails, and a histogram of latency (bucket -> weight)."""

    per_minute: float
    share: float
    errors: float
    buckets: Floats
    weights: Floats


def of_windows(counts: Sequence[Counts], width: float) -> Traffic:
    """The traffic that window counts show, split evenly. Errors: ConfigError without a request."""
    if not counts or not sum(window.requests for window in counts):
        raise ConfigError("no request in the newest day: nothing to plan with")
    whole = merge(counts)
    first, last = (edge(window.start for window in counts) for edge in (min, max))
    minutes = ((last - first).total_seconds() + width) / 60
    good = {b: w - whole.failed_latency.get(b, 0.0) for b, w in whole.latency.items() if b != ZERO}
    marks = np.array(sorted(b for b, w in good.items() if w > 0), float)
    if not len(marks):
        return typical(whole.requests / minutes, 0.5, whole.failed / whole.requests)
    return Traffic(
        whole.requests / minutes, 0.5, whole.failed / whole.requests, marks, np.array([good[int(b)] for b in marks])
    )


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


@dataclass(frozen=True)
class Step:
    """One share of traffic for a new version: half of the regressions of each kind are seen within so many minutes (inf: not within the time
    looked at); harmed: requests that the new version answers until the slower of the two is seen."""

    share: int
    errors_minutes: float
    latency_minutes: float
    harmed: float

    @property
    def minutes(self) -> float:
        return max(self.errors_minutes, self.latency_minutes)


def worse_rate(given: Traffic, policy: Policy) -> float:
    """The share of failures that a step must see: twice today's, or the objective's where that is more. Twice next to nothing is never seen,
    and is within the objective."""
    return max(2 * given.errors, policy.error_slo)


def step(given: Traffic, share: int, policy: Policy, minutes: int, runs: int, seed: int) -> Step:
    """What a step at `share` per cent sees of failures at `worse_rate` and of latency x1.3, the version's warm-up included."""
    traffic = replace(given, share=share / 100, errors=max(given.errors, RAREST))
    times = worse_rate(given, policy) / traffic.errors
    seen = [
        float(np.sort(minutes_to_see(traffic, *case, policy, minutes, runs, seed))[(runs - 1) // 2])
        for case in ((times, 1.0), (1.0, 1.3))
    ]
    cold = max(policy.warmup_s / 60, policy.warmup_requests / max(given.per_minute * share / 100, 1e-9))
    took = [seen[0], seen[1] + cold]
    return Step(share, took[0], took[1], given.per_minute * share / 100 * min(max(took), float(minutes)))


def fastest(steps: Sequence[Step], patience: float) -> list[Step]:
    """The shortest sequence of steps that still detects: the smallest share at which both kinds are seen within `patience` minutes, then the
    share that sees fastest (evidence grows with share x (1 - share), so that is the most even one), then all traffic.

    Where no share sees both in time, the one that sees most.
    """
    even = min(steps, key=lambda step: (step.minutes, abs(step.share - 50)))
    able = [step for step in sorted(steps, key=lambda step: step.share) if step.minutes <= patience]
    return [able[0], even] if able and able[0].share < even.share else [even]
