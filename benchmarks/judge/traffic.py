"""A scenario and a seed -> counts by minute, run, stratum and version."""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from lastgood.record.windows import GROWTH

Floats = npt.NDArray[np.float64]
ERRORS, SIGMA = 0.0065, 0.35
"""Share of requests that fail, and spread of log latency, of a healthy version."""
LOW, HIGH = -80, 120
"""Latency buckets simulated one by one, 0 is the typical median; hardly anything is outside."""
STEP = math.log(GROWTH)


@dataclass(frozen=True)
class Scenario:
    """Requests per minute; noise both versions share and noise of each version's own (log scale, AR(1) by minute); bursts from
    upstream that hit both; share of a slow route for (prior, new); onset minute of the regression; swing of load over the run."""

    name: str
    per_minute: float = 600.0
    minutes: int = 60
    shared: float = 0.0
    bursts: bool = False
    own: float = 0.0
    slow_route: tuple[float, float] | None = None
    onset: int = 0
    swing: float = 0.0
    sticky: bool = False


BUSY = Scenario("shared bursts", shared=0.3, bursts=True)
SCENARIOS = (
    Scenario("iid"),
    BUSY,
    replace(BUSY, name="arm noise", own=0.15),
    replace(BUSY, name="mix shift", slow_route=(0.3, 0.6)),
    Scenario("sticky requesters, retry storms", sticky=True),
    replace(BUSY, name="late onset", minutes=90, onset=30),
    replace(BUSY, name="diurnal swing", swing=1.5),
    Scenario("12 requests a minute", per_minute=12.0, shared=0.3, bursts=True),
    replace(BUSY, name="ten-second windows"),
)


@dataclass(frozen=True)
class Regression:
    """What the new version does from the onset on: errors times, latency times."""

    errors: float = 1.0
    latency: float = 1.0


HEALTHY, FAILING, SLOW = Regression(), Regression(errors=4.0), Regression(latency=1.3)


@dataclass(frozen=True)
class Traffic:
    """[minutes, runs, strata, 2 versions (prior, new)]: n requests, failed ones, hist[..., LOW - 1 to HIGH] of latency buckets."""

    n: Floats
    failed: Floats
    hist: Floats
    minutes_each: float = 1.0


def noise(rng: np.random.Generator, shape: tuple[int, ...], spread: float, memory: float) -> Floats:
    """AR(1) along the first axis, stationary with standard deviation `spread`."""
    steps = rng.normal(0, 1, shape)
    for t in range(1, len(steps)):
        steps[t] = memory * steps[t - 1] + math.sqrt(1 - memory**2) * steps[t]
    return steps * spread


def simulate(
    one: Scenario, split: float, regression: Regression, runs: int, rng: np.random.Generator, per: int = 1
) -> Traffic:
    """`per` windows a minute. Noise and bursts change by the minute, counts by the window."""
    shape = (one.minutes, runs)
    load = np.exp(noise(rng, shape, 0.2 * (one.shared > 0), 0.9))
    load = load * (1 + 0.8 * np.sin(np.arange(one.minutes) / one.minutes * 2 * np.pi)[:, None] * (one.swing > 0))
    errors = noise(rng, shape, one.shared, 0.9) + _bursts(rng, shape, math.log(8)) * one.bursts
    slow = noise(rng, shape, one.shared / 3, 0.9) + _bursts(rng, shape, math.log(1.5)) * one.bursts
    errors = errors + one.swing * np.cos(np.arange(one.minutes) / one.minutes * 2 * np.pi)[:, None]
    both = (*shape, 2)
    own_errors, own_slow = noise(rng, both, one.own, 0.7), noise(rng, both, one.own / 6, 0.7)
    after = (np.arange(one.minutes) >= one.onset)[:, None, None] * np.array([0.0, 1.0])
    rate = np.exp(errors[..., None] + own_errors + after * math.log(regression.errors)) * ERRORS
    shift = slow[..., None] + own_slow + after * math.log(regression.latency)
    routes = [(1 - v for v in one.slow_route), iter(one.slow_route)] if one.slow_route else [iter((1.0, 1.0))]
    strata = []
    for k, route in enumerate(routes):
        share = np.array(list(route)) * np.array([1 - split, split])
        n = rng.poisson(np.repeat(load, per, 0)[..., None] * one.per_minute / per * share)
        p = np.minimum(0.9, np.repeat(rate, per, 0) * (3.0 if k else 1.0))
        strata.append((n, rng.binomial(n, p), _latencies(rng, n, np.repeat(shift, per, 0) + math.log(2.5) * k)))
    n, failed, hist = (np.stack(parts, 2).astype(float) for parts in zip(*strata, strict=True))
    return Traffic(n, failed, hist, 1 / per)


def _bursts(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> Floats:
    """`size` for some minutes now and then (once in half an hour, three minutes on average)."""
    on = np.zeros(shape, bool)
    now = np.zeros(shape[1:], bool)
    for t in range(shape[0]):
        now = np.where(now, rng.random(shape[1:]) > 1 / 3, rng.random(shape[1:]) < 1 / 30)
        on[t] = now
    return on * size


def _latencies(rng: np.random.Generator, n: npt.NDArray[np.int64], shift: Floats) -> Floats:
    """Counts by bucket: what is below LOW, then each bucket of 2%, the last with all above."""
    below = ndtr((STEP * np.arange(LOW, HIGH) - shift[..., None]) / SIGMA)
    p = np.maximum(np.diff(below, axis=-1, prepend=0.0, append=1.0), 0.0)
    return rng.multinomial(n, p / p.sum(-1, keepdims=True)).astype(np.float32)
