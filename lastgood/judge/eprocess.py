"""Anytime-valid two-version tests on blocks of counts (pure).

A block is (window x stratum): n1, n0 requests and x1, x0 bad ones of the new and the prior version. Given X = x1 + x0,
whatever hit both versions alike cancels. An e-process M_t satisfies P(sup_t M_t >= 1/alpha) <= alpha under the null
(Ville's inequality), so it may be looked at after every block for ever. Derivation and sources: docs/explanation/judge.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp
from scipy.stats import beta

Floats = npt.NDArray[np.float64]

WORSE = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 8.0])
BETTER = np.array([0.8, 0.6, 0.4, 0.2])
BURN = np.array([1.5, 2.0, 3.0, 6.0, 14.4])


@dataclass(frozen=True)
class Block:
    """Counts of one window and stratum; `time` orders blocks (any unit)."""

    time: float
    n1: float
    n0: float
    x1: float
    x0: float


def log_e(block: Block, r0: float, omega: Floats = WORSE) -> Floats:
    """log e per omega against H0: P(bad | new) <= r0 * P(bad | prior).

    log e = x1 ln(w) - X ln(1 - p0 + p0 w), p0 = pi r0 / (1 - pi + pi r0), pi = n1 / (n1 + n0): the hypergeometric
    is dominated by the binomial in convex order (Hoeffding 1963).
    """
    if block.n1 <= 0 or block.n0 <= 0:
        return np.zeros_like(omega)
    pi = block.n1 / (block.n1 + block.n0)
    p0 = pi * r0 / (1 - pi + pi * r0)
    return np.asarray(block.x1 * np.log(omega) - (block.x1 + block.x0) * np.log1p(p0 * (omega - 1)))


def _log_z(block: Block, theta: float) -> float:
    """log of the normaliser of Fisher's noncentral hypergeometric, sum_x C(n1,x) C(n0,X-x) theta^x."""
    n1, n0, total = (round(v) for v in (block.n1, block.n0, block.x1 + block.x0))
    x = np.arange(max(0, total - n0), min(n1, total) + 1)
    if x.size == 0:
        return 0.0
    terms = (
        -gammaln(x + 1)
        - gammaln(n1 - x + 1)
        - gammaln(total - x + 1)
        - gammaln(n0 - total + x + 1)
        + x * math.log(theta)
    )
    return float(logsumexp(terms))


def log_e_better(block: Block, r0: float, omega: Floats = BETTER) -> Floats:
    """log e per omega < 1 against H0: odds ratio >= r0 (which a ratio of rates >= r0 >= 1 implies).

    e = w^x1 / E[w^x1] with E under the exact noncentral hypergeometric: Z(r0 w) / Z(r0).
    """
    if block.n1 <= 0 or block.n0 <= 0 or block.x1 + block.x0 <= 0:
        return np.zeros_like(omega)
    base = _log_z(block, r0)
    return np.asarray([block.x1 * math.log(w) - (_log_z(block, r0 * w) - base) for w in omega])


@dataclass(frozen=True)
class Evidence:
    """Outcome of an e-process: its value now, and the time since when the blocks speak against the null."""

    e: float
    since: float | None


def run(times: Sequence[float], logs: Sequence[Floats], horizon: int) -> Evidence:
    """Fold per-block log e-values (in time order): mean over omega of 0.5 exp(L) + 0.5 R.

    R restarts for a late onset: R_t = (R_{t-1} + 1/H) e_t over H blocks (spread evenly), so E[R] <= 1 up to H blocks.
    """
    if not logs:
        return Evidence(1.0, None)
    order = np.argsort(np.asarray(times), kind="stable")
    stacked = np.stack([logs[i] for i in order])
    stamps = [times[i] for i in order]
    horizon = max(horizon, len(stacked))
    total = np.zeros(stacked.shape[1])
    restart = np.full(stacked.shape[1], -np.inf)
    for row in stacked:
        total = total + row
        restart = np.logaddexp(restart, -math.log(horizon)) + row
    unspent = math.log(max(1e-300, 1 - len(stacked) / horizon))
    late = np.logaddexp(restart, unspent)
    value = float(np.exp(np.minimum(logsumexp(np.stack([total, late]), axis=0) - math.log(2), 690)).mean())
    best = int(np.argmax(np.maximum(total, late)))
    tail = np.cumsum(stacked[::-1, best])[::-1]
    return Evidence(value, stamps[int(np.argmax(tail))] if tail.max() > 0 else None)


def worse(blocks: Sequence[Block], r0: float, horizon: int) -> Evidence:
    """Evidence that the new version's bad rate is above r0 times the prior's."""
    return run([b.time for b in blocks], [log_e(b, r0) for b in blocks], horizon)


def not_worse(blocks: Sequence[Block], r0: float) -> float:
    """Evidence that the new version's bad rate is below r0 times the prior's (safe to promote)."""
    total = np.sum([log_e_better(b, r0) for b in blocks], axis=0) if blocks else np.zeros_like(BETTER)
    return float(np.exp(np.minimum(total, 690)).mean())


def above_slo(n: float, x: float, slo: float) -> float:
    """Evidence that a bad rate is above `slo`: mean over burn rates b of (p/s)^x ((1-p)/(1-s))^(n-x), p = min(b s, .99)."""
    p = np.minimum(BURN * slo, 0.99)
    logs = x * np.log(p / slo) + (n - x) * np.log((1 - p) / (1 - slo))
    return float(np.exp(np.minimum(logs, 690)).mean())


def below_slo(n: float, x: float, slo: float) -> float:
    """Evidence that a bad rate is below `slo` (same likelihood ratio, p = slo/2, slo/4, slo/10)."""
    p = slo / np.array([2.0, 4.0, 10.0])
    logs = x * np.log(p / slo) + (n - x) * np.log((1 - p) / (1 - slo))
    return float(np.exp(np.minimum(logs, 690)).mean())


def ratio_interval(blocks: Sequence[Block], level: float = 0.95) -> tuple[float | None, float | None, float | None]:
    """(ratio, low, high) of new over prior bad rate, for display: conditional binomial (Clopper-Pearson) on the sums."""
    n1, n0, x1, x0 = (math.fsum(getattr(b, name) for b in blocks) for name in ("n1", "n0", "x1", "x0"))
    if n1 <= 0 or n0 <= 0 or x1 + x0 <= 0:
        return None, None, None
    tail, scale = (1 - level) / 2, n0 / n1
    low = float(beta.ppf(tail, x1, x0 + 1)) if x1 > 0 else 0.0
    high = float(beta.ppf(1 - tail, x1 + 1, x0)) if x0 > 0 else 1.0
    ratio = (x1 / x0) * scale if x0 > 0 else None
    return (
        ratio,
        low / (1 - low) * scale,
        (high / (1 - high) * scale if high < 1 else None),
    )


def rate_interval(n: float, x: float, level: float = 0.95) -> tuple[float, float, float] | None:
    """(rate, low, high) Clopper-Pearson; None without requests."""
    if n <= 0:
        return None
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, x, n - x + 1)) if x > 0 else 0.0
    high = float(beta.ppf(1 - tail, x + 1, n - x)) if x < n else 1.0
    return x / n, low, high
