"""Labels in the order of their arrival -> whether they contradict the calibration: the relation of input and outcome has changed (pure)."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lastgood.judge.reference import LABELLED, OVER, Calibration

Floats = npt.NDArray[np.float64]
TOLERANCE, SPREAD = 0.02, 2.5
"""So much the expected outcomes of a group may be wrong, and so many standard errors of their calibration, before the watch bets against them."""
ALPHA = 0.01
"""Probability of ever calling a right calibration wrong."""
MILLION = 1_000_000
ODDS = np.array([1.3, 2.0, 4.0])
"""Alternatives: odds of an outcome, as multiples of what the calibration allows."""


def contradiction(calibration: Calibration, batches: Sequence[Floats], together: int = 1) -> tuple[float, str]:
    """Tallies of labels, in the order in which they arrived -> (evidence that the calibration is wrong, in words if it is at least `together` / ALPHA, where
    so many calibrations are watched and any may be called wrong).

    Under the null hypothesis each outcome exceeds its limit with a probability within the tolerance of its cell's. Likelihood ratios of single outcomes
    against its worst case multiply to e-processes: of either direction, of all rows, of those predicted and not, and of the lower and upper half of the
    scores. Each starts again with every batch, the capital split (Shin, Ramdas, Rinaldo 2023); their mean exceeds 1 / ALPHA ever with a probability of at
    most ALPHA (Ville), where batches come whole and in order. The slack is known only at the end of the last batch, and a day that grows is tallied anew:
    what that costs is measured (benchmarks.performance_coverage), not proven.
    """
    if not len(batches):
        return 0.0, ""
    number = np.stack([batch[..., LABELLED] for batch in batches])
    over = np.stack([batch[..., OVER] for batch in batches])
    groups = np.zeros((5, *calibration.above.shape), bool)
    groups[0], groups[1, 0], groups[2, 1] = True, True, True
    groups[3, :, : calibration.grid.cells // 2], groups[4, :, calibration.grid.cells // 2 :] = True, True
    by_group = np.stack([_steps(calibration, number * group, over * group) for group in groups], axis=-1)
    level, highest = np.full(by_group.shape[1:], -np.inf), -np.inf
    for t, step in enumerate(by_group, 1):
        level = step + np.logaddexp(level, -math.log(t * (t + 1)))
        highest = max(highest, float(np.logaddexp.reduce(level, axis=None)) - math.log(level.size))
    e_value = math.exp(min(highest, 690.0))
    if e_value * ALPHA < together:
        return e_value, ""
    chance = f"1 in {e_value:,.0f}" if e_value < MILLION else "less than 1 in 1,000,000"
    many, expected, exceeded = number.sum(), float((number * calibration.above).sum()), over.sum()
    return e_value, (
        f"labels contradict the calibration: of {many:,.0f} labelled rows {expected:,.0f} were expected to have the outcome (or a loss above the usual) and "
        f"{exceeded:,.0f} have, or scores of one range are wrong (chance: {chance}); the relation of input and outcome has changed"
    )


def _steps(calibration: Calibration, number: Floats, over: Floats) -> Floats:
    """Log likelihood ratios [batches, directions, odds] of one group's labels: [batches, 2, cells], and those above their limits.

    A cell's probability may be off by TOLERANCE and SPREAD standard errors of the group's mean, in which errors of blocks cancel; it depends on scores alone.
    """
    above, rows = calibration.above, calibration.block_rows
    of_block = np.bincount(calibration.block.ravel(), number.sum(0).ravel(), len(rows)) / max(1.0, number.sum())
    chance = np.zeros(len(rows))
    chance[calibration.block] = above
    slack = TOLERANCE + SPREAD * math.sqrt(of_block**2 @ (np.maximum(chance * (1 - chance), 1 / (rows + 1)) / rows))
    ratios = [
        _log_ratio(number, hits, np.clip(p + slack, 1e-6, 1 - 1e-6)).sum((2, 3))
        for hits, p in ((over, above), (number - over, 1 - above))
    ]
    return np.stack(ratios).transpose(2, 0, 1)


def _log_ratio(number: Floats, hits: Floats, allowed: Floats) -> Floats:
    """Log likelihood ratios [odds, batches, 2, cells] of odds that are multiples of the allowed ones."""
    odds = ODDS[:, None, None]
    worse = allowed * odds / (1 - allowed + allowed * odds)
    up, down = np.log(worse / allowed), np.log1p(-worse) - np.log1p(-allowed)
    return np.asarray(hits * up[:, None] + (number - hits) * down[:, None])
