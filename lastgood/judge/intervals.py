"""Counts -> intervals for display: rates, ratios of rates and quantiles, at one look and for ever (pure)."""

import math

import numpy as np
from scipy.special import betaincinv

from lastgood.judge import eprocess
from lastgood.judge.eprocess import Floats

RATIOS = np.geomspace(1 / 32, 32, 61)


def rate_interval(n: float, x: float, level: float = 0.95) -> tuple[float, float, float] | None:
    """(rate, low, high) Clopper-Pearson; None without requests."""
    if n <= 0:
        return None
    tail = (1 - level) / 2
    low = float(betaincinv(x, n - x + 1, tail)) if x > 0 else 0.0
    high = float(betaincinv(x + 1, n - x, 1 - tail)) if x < n else 1.0
    return x / n, low, high


def ratio_interval(
    n1: float, n0: float, x1: float, x0: float, level: float = 0.95
) -> tuple[float | None, float | None, float | None]:
    """(ratio, low, high) of new over prior bad rate at one look: conditional binomial (Clopper-Pearson)."""
    if n1 <= 0 or n0 <= 0 or x1 + x0 <= 0:
        return None, None, None
    tail, scale = (1 - level) / 2, n0 / n1
    low = float(betaincinv(x1, x0 + 1, tail)) if x1 > 0 else 0.0
    high = float(betaincinv(x1 + 1, x0, 1 - tail)) if x0 > 0 else 1.0
    ratio = (x1 / x0) * scale if x0 > 0 else None
    return ratio, low / (1 - low) * scale, (high / (1 - high) * scale if high < 1 else None)


def ratio_sequence(n1: Floats, n0: Floats, x1: Floats, x0: Floats, level: float = 0.95) -> tuple[float, float]:
    """(low, high) that hold the ratio of bad rates at every look with probability `level` (flat blocks, in any order).

    The ratios r of a grid that no e-process has rejected at half the error per side: H0 ratio <= r by the binomial bound; H0
    ratio >= r by the same bound with the versions exchanged where r <= 1, and exactly (odds ratio >= r) above.
    """
    limit, x = math.log(2 / (1 - level)), x1 + x0
    pi = n1 / np.maximum(n1 + n0, 1e-9)
    use = (n1 > 0) & (n0 > 0) & (x > 0)
    n1, n0, x1, x0, x, pi = (v[use] for v in (n1, n0, x1, x0, x, pi))

    def mixed(logs: Floats) -> float:
        return float(np.logaddexp.reduce(logs.sum(0)) - math.log(logs.shape[-1]))

    grid = [float(ratio) for ratio in RATIOS]
    above = [ratio for ratio in grid if mixed(eprocess.log_e(pi, x1, x, ratio)) >= limit]
    under = [
        ratio
        for ratio in grid
        if (
            mixed(eprocess.log_e(1 - pi, x0, x, 1 / ratio))
            if ratio <= 1
            else mixed(eprocess.log_e_better(n1, n0, x1, x, ratio))
        )
        >= limit
    ]
    return max(above, default=0.0), min(under, default=math.inf)


def quantile_band(n: float, q: float, level: float = 0.95) -> tuple[float, float]:
    """Quantile levels (low, high) whose sample quantiles hold the true q-quantile at every sample size with probability `level`
    (Howard, Ramdas 2022, Bernoulli 28, their stitched bound); clipped to 0-1."""
    if n < 3:
        return 0.0, 1.0
    rate = (1.4 * math.log(math.log(2.1 * n)) + math.log(10 / (1 - level))) / n
    width = 1.5 * math.sqrt(q * (1 - q) * rate) + 0.8 * rate
    return max(0.0, q - width), min(1.0, q + width)
