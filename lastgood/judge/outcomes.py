"""Window counts of two versions -> what labels and feedback say of each, with intervals, and of their difference on matched strata (pure)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.special import stdtrit

from lastgood.record.windows import Counts

OUTCOMES = {
    "correct": "outcome.correct", "precision": "outcome.precision", "recall": "outcome.recall", "abs_error": "label.error",
    "thumbs": "outcome.thumbs",
}  # fmt: skip
"""Name in the map `quality` -> attribute of a request (jobs.outcomes). `NAME_n` requests have it, `NAME` is its sum."""
SPREAD = ("abs_error", "thumbs")
"""Those that are not only 0 and 1: `NAME_sq` is the sum of squares."""
LOWER_IS_BETTER = ("abs_error",)
LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values and its interval (LEVEL, two-sided)."""

    n: int
    mean: float
    low: float
    high: float


def wilson(n: float, mean: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Interval of a share (Wilson 1927, JASA 22:209)."""
    middle, half = mean + z * z / (2 * n), z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def interval(n: float, total: float, squares: float | None) -> Mean | None:
    """The mean of n values by their sums. Shares (no squares, or all values 0 or 1): Wilson; else Student's t, which takes two values."""
    if n <= 0:
        return None
    mean = total / n
    if squares is None or squares == total:
        return Mean(int(n), mean, *wilson(n, min(1.0, max(0.0, mean))))
    if n < 2:
        return None
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * math.sqrt(max(0.0, squares - n * mean * mean) / (n - 1) / n)
    return Mean(int(n), mean, mean - half, mean + half)


def difference(pairs: Sequence[tuple[Mean, Mean]]) -> tuple[float, float, float] | None:
    """(new - prior, low, high) over strata, each a pair (new, prior), weighted by n1 * n0 / (n1 + n0) (Mantel and Haenszel 1959); limits
    recovered from those of the means (MOVER: Zou, Huang, Zhang 2009, CSDA 53:3755). None without a stratum that has both.
    """
    weights = [a.n * b.n / (a.n + b.n) for a, b in pairs]
    if not sum(weights):
        return None
    shares = [weight / sum(weights) for weight in weights]
    middle = sum(c * (a.mean - b.mean) for c, (a, b) in zip(shares, pairs, strict=True))
    down = sum(
        c * c * ((a.mean - a.low) ** 2 + (b.high - b.mean) ** 2) for c, (a, b) in zip(shares, pairs, strict=True)
    )
    up = sum(c * c * ((a.high - a.mean) ** 2 + (b.mean - b.low) ** 2) for c, (a, b) in zip(shares, pairs, strict=True))
    return middle, middle - math.sqrt(down), middle + math.sqrt(up)


def _total(counts: Sequence[Counts], name: str) -> Mean | None:
    n, total = (sum(window.quality.get(key, 0.0) for window in counts) for key in (f"{name}_n", name))
    squares = sum(window.quality.get(f"{name}_sq", 0.0) for window in counts) if name in SPREAD else None
    return interval(n, total, squares)


def labelled(counts: Sequence[Counts]) -> float | None:
    """Share of the answered requests that have a label; None where none was answered."""
    answered = sum(window.rows * (1 - window.failed / window.requests) for window in counts if window.requests)
    return sum(window.quality.get("labelled", 0.0) for window in counts) / answered if answered else None


def compare(new: Sequence[Counts], prior: Sequence[Counts]) -> list[dict[str, Any]]:
    """Per outcome that the new version has: its mean, the prior version's, and their difference on strata that both served.
    `verdict`: better or worse where the difference's interval leaves 0 out, else None.
    """
    outcomes = []
    for name in OUTCOMES:
        ours = _total(new, name)
        if ours is None:
            continue
        theirs = _total(prior, name)
        strata = {window.stratum for window in new} & {window.stratum for window in prior}
        sides = [
            [_total([window for window in side if window.stratum == which], name) for side in (new, prior)]
            for which in sorted(strata)
        ]
        apart = difference([(a, b) for a, b in sides if a and b])
        higher = None if apart is None or apart[1] <= 0 <= apart[2] else apart[1] > 0
        better = None if higher is None else higher != (name in LOWER_IS_BETTER)
        outcomes.append({
            "outcome": name, "new": asdict(ours), "prior": asdict(theirs) if theirs else None,
            "difference": dict(zip(("mean", "low", "high"), apart, strict=True)) if apart else None,
            "verdict": None if better is None else "better" if better else "worse",
        })  # fmt: skip
    return outcomes


def report(counts: Sequence[Counts], new: str, prior: str | None) -> dict[str, Any]:
    """`compare` of two versions: the prior version while the new one served, or before where it served no longer or has no outcome then;
    beside it the share of each version's answered requests that has a label, for labels come late.
    """
    ours = [window for window in counts if window.model_version == new]
    theirs = [window for window in counts if window.model_version == prior]
    began = min((window.start for window in ours), default=None)
    beside = [window for window in theirs if began is not None and window.start >= began]
    same = any(_total(beside, name) for name in OUTCOMES)
    theirs = beside if same else theirs
    shares: Mapping[str, float | None] = {"new": labelled(ours), "prior": labelled(theirs)}
    when = "the same time" if same else "before"
    return {
        "new": new,
        "prior": prior,
        "prior_seen": when if theirs else None,
        "labelled": shares,
        "outcomes": compare(ours, theirs),
    }
