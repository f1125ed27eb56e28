"""How far apart two samples of a column are, with a confidence limit (pure).

Tolerance, not significance: a column drifted when the lower 95% limit of the Jensen-Shannon distance is above what
matters in practice, so the answer does not depend on the number of rows. The limit comes from a delete-one-block
jackknife over time blocks, which allows for autocorrelated traffic (Kuensch 1989).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

BLOCKS, TOP_CATEGORIES = 10, 20
LEAST_INDEPENDENT = 20.0
"""A sample that is worth fewer independent rows than this says nothing: no block of it is longer than its memory."""


@dataclass(frozen=True)
class Distance:
    """Jensen-Shannon distance (base 2, 0-1) corrected for sample size, and its lower confidence limit. `p`: how likely so much or more
    is where the true distance is the limit that matters (1: no evidence). `measured`: False where too few rows are independent."""

    distance: float
    low: float
    n_current: int
    n_reference: int
    p: float = 1.0
    measured: bool = True


def discoveries(ps: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses fall when the share of false ones among those that fall may be `level` (Benjamini and Hochberg 1995)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    last = max((rank for rank, i in enumerate(order, 1) if ps[i] <= level * rank / len(ps)), default=0)
    return [i in order[:last] for i in range(len(ps))]


def exceeds(theta: float, again: Sequence[Sequence[float]], limit: float, level: float = 0.95) -> tuple[float, float]:
    """(lower limit of theta, p of theta <= limit) from delete-one-block estimates, a sequence per side."""
    variance, freedom = 0.0, 0
    for side in again:
        if len(side) > 1:
            left = np.asarray(side)
            variance += (len(left) - 1) / len(left) * float(((left - left.mean()) ** 2).sum())
            freedom += len(left) - 1
    low = theta - float(stdtrit(max(1, freedom), level)) * variance**0.5
    if variance <= 0:
        return low, 0.0 if theta > limit else 1.0
    return low, float(stdtr(max(1, freedom), (limit - theta) / variance**0.5))


def _worth(codes: npt.NDArray[np.int64], times: Sequence[float], numeric: bool) -> float:
    """Share of independent rows the sample is worth, (1 - r) / (1 + r), r the first autocorrelation in time (of the bin, or of
    being the same category)."""
    ordered = codes[np.argsort(np.asarray(times), kind="stable")]
    a, b = ordered[:-1], ordered[1:]
    if numeric:
        spread = float(ordered.var())
        r = float(((a - ordered.mean()) * (b - ordered.mean())).mean()) / spread if spread > 0 else 0.0
    else:
        chance = float(((np.bincount(codes) / len(codes)) ** 2).sum())
        r = (float((a == b).mean()) - chance) / (1 - chance) if chance < 1 else 0.0
    r = min(0.999, max(0.0, r))
    return (1 - r) / (1 + r)


def _js(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64], worth: tuple[float, float]) -> float:
    """Jensen-Shannon divergence (base 2) of two count vectors, less its bias under equality, (k-1)(1/n+1/m)/(8 ln 2), with n and m
    the independent rows they are worth."""
    n, m = p.sum() * worth[0], q.sum() * worth[1]
    if n <= 0 or m <= 0:
        return 0.0
    k = int(((p + q) > 0).sum())
    p, q = p / p.sum(), q / q.sum()
    mid = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(p > 0, p * np.log2(p / mid), 0) + np.where(q > 0, q * np.log2(q / mid), 0)
    return float(parts.sum() / 2 - (k - 1) * (1 / n + 1 / m) / (8 * np.log(2)))


def _codes(
    current: npt.NDArray[np.object_], reference: npt.NDArray[np.object_], numeric: bool
) -> tuple[npt.NDArray[np.int64], ...]:
    """Both samples as bin numbers: reference quantile bins, or the top categories and the rest."""
    if numeric:
        cur, ref = current.astype(float), reference.astype(float)
        k = int(np.clip(min(cur.size, ref.size) / 25, 4, 20))
        edges = np.unique(np.quantile(ref, np.linspace(0, 1, k + 1)[1:-1]))
        return np.searchsorted(edges, cur, side="right"), np.searchsorted(edges, ref, side="right")
    names, counts = np.unique(np.concatenate([reference, current]).astype(str), return_counts=True)
    top = {name: i for i, name in enumerate(names[np.argsort(-counts, kind="stable")][:TOP_CATEGORIES])}
    return tuple(
        np.array([top.get(str(v), TOP_CATEGORIES) for v in side], dtype=np.int64) for side in (current, reference)
    )


def blocks(times: Sequence[float]) -> npt.NDArray[np.int64]:
    """Time-ordered blocks of equal size: block number per row."""
    order = np.argsort(np.asarray(times), kind="stable")
    block = np.empty(len(times), dtype=np.int64)
    block[order] = np.arange(len(times)) * min(BLOCKS, max(1, len(times))) // max(1, len(times))
    return block


def distance(
    current: npt.NDArray[np.object_],
    reference: npt.NDArray[np.object_],
    current_times: Sequence[float],
    reference_times: Sequence[float],
    numeric: bool,
    level: float = 0.95,
    limit: float = 0.1,
) -> Distance:
    """Distance of two samples (no nulls). `numeric`: values are numbers; else categories by their text. `limit` is what p is about."""
    n, m = len(current), len(reference)
    if n < 2 or m < 2:
        return Distance(0.0, 0.0, n, m, measured=False)
    cur, ref = _codes(current, reference, numeric)
    size = int(max(cur.max(), ref.max())) + 1
    sides = ((cur, current_times), (ref, reference_times))
    worth = [_worth(codes, times, numeric) for codes, times in sides]
    if min(n * worth[0], m * worth[1]) < LEAST_INDEPENDENT:
        return Distance(0.0, 0.0, n, m, measured=False)
    tables = []
    for codes, times in sides:
        block = blocks(times)
        tables.append(
            np.stack([np.bincount(codes[block == b], minlength=size).astype(float) for b in range(block.max() + 1)])
        )
    whole = [table.sum(axis=0) for table in tables]
    theta = _js(whole[0], whole[1], (worth[0], worth[1]))
    pair = (worth[0], worth[1])
    again = [
        [_js(whole[0] - row, whole[1], pair) for row in tables[0]],
        [_js(whole[0], whole[1] - row, pair) for row in tables[1]],
    ]
    low, p = exceeds(theta, again, limit**2, level)
    return Distance(max(0.0, theta) ** 0.5, max(0.0, low) ** 0.5, n, m, p)
