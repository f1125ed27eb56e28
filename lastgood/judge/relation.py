"""Labels in the order of their arrival -> whether they contradict the calibration: the relation of input and outcome has changed (pure)."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lastgood.judge.reference import LABELLED, OVER, Calibration

Floats = npt.NDArray[np.float64]
TOLERANCE = 0.02
"""So much the expected outcome of a cell may be wrong, beside two standard errors of its calibration, before the watch bets against it."""
ALPHA = 0.01
"""Probability of ever calling a right calibration wrong."""
ODDS = np.array([1.3, 2.0, 4.0])
"""Alternatives: odds of an outcome, as multiples of what the calibration allows."""


def contradiction(calibration: Calibration, batches: Sequence[Floats]) -> tuple[float, str]:
    """Tallies of labels, in the order in which they arrived -> (evidence that the calibration is wrong, in words if it is at least 1 / ALPHA).

    Under the null hypothesis each outcome exceeds its limit with a probability within the tolerance of its cell's. Likelihood ratios of single outcomes
    against its worst case multiply to e-processes: of either direction, of all rows, of those predicted and not, and of the lower and upper half of the
    scores. Each starts again with every batch, the capital split (Shin, Ramdas, Rinaldo 2023); their mean exceeds 1 / ALPHA ever with a probability of at
    most ALPHA (Ville).
    """
    if not len(batches):
        return 0.0, ""
    number = np.stack([batch[..., LABELLED] for batch in batches])
    over = np.stack([batch[..., OVER] for batch in batches])
    above, block_rows = calibration.above, calibration.block_rows[calibration.block]
    slack = TOLERANCE + 2 * np.sqrt(np.maximum(above * (1 - above), 1 / (block_rows + 1)) / block_rows)
    groups = np.zeros((5, *above.shape), bool)
    groups[0], groups[1, 0], groups[2, 1] = True, True, True
    groups[3, :, : calibration.grid.cells // 2], groups[4, :, calibration.grid.cells // 2 :] = True, True
    steps = np.stack([
        _log_ratio(number, hits, np.clip(p + slack, 1e-6, 1 - 1e-6)) for hits, p in ((over, above), (number - over, 1 - above))
    ])  # fmt: skip
    by_group = np.einsum("dotgc,kgc->tdok", steps, groups)
    level, highest = np.full(by_group.shape[1:], -np.inf), -np.inf
    for t, step in enumerate(by_group, 1):
        level = step + np.logaddexp(level, -math.log(t * (t + 1)))
        highest = max(highest, float(np.logaddexp.reduce(level, axis=None)) - math.log(level.size))
    e_value = math.exp(min(highest, 690.0))
    if e_value * ALPHA < 1:
        return e_value, ""
    many, expected, exceeded = number.sum(), float((number * above).sum()), over.sum()
    return e_value, (
        f"labels contradict the calibration: of {many:,.0f} labelled rows {expected:,.0f} were expected to have the outcome (or a loss above the usual) and "
        f"{exceeded:,.0f} have, or scores of one range are wrong (1 in {e_value:,.0f}); the relation of input and outcome has changed"
    )


def _log_ratio(number: Floats, hits: Floats, allowed: Floats) -> Floats:
    """Log likelihood ratios [odds, batches, 2, cells] of odds that are multiples of the allowed ones."""
    odds = ODDS[:, None, None]
    worse = allowed * odds / (1 - allowed + allowed * odds)
    up, down = np.log(worse / allowed), np.log1p(-worse) - np.log1p(-allowed)
    return np.asarray(hits * up[:, None] + (number - hits) * down[:, None])
