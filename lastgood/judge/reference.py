"""A labelled reference -> what a score means: a monotone map from score to expected outcome, by cells of scores (pure).

Of later rows only counts by cell are kept (`tally`): tallies add, so their memory does not grow with the rows, and Spark sums them (jobs.performance).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CELLS = 256
LOG_ODDS, CELLS_BETWEEN = 8.0, 512
"""Cells of `even_grid` reach so far in log odds on either side, and are so many between; two more are beyond."""
LEAST_REFERENCE, LEAST_OF_EACH = 100, 10
"""Labels that a reference needs, and of each class."""
UNLABELLED, LABELLED, TOTAL, SQUARES, OVER = range(5)
"""Columns of a tally: rows without a label, rows with one, the sum of their outcomes and of its squares, outcomes above the cell's limit."""


@dataclass(frozen=True)
class Grid:
    """Cells of scores: `edges` [cells - 1] between them, `limit` [2, cells]: the outcome above which one is counted, of rows not predicted as the class
    and of those predicted (losses: all are in the first)."""

    edges: Floats
    limit: Floats

    @property
    def cells(self) -> int:
        return len(self.edges) + 1

    def cell(self, scores: Floats, predicted: Bools) -> Ints:
        """The number of each row's cell in a tally's first two axes as one."""
        return np.searchsorted(self.edges, scores, side="right") + predicted * self.cells


@dataclass(frozen=True)
class Calibration:
    """Arrays are [2, cells] as the grid's. `mean`, `noise`: expectation and variance of one outcome; `block`: number of the cells whose means were estimated
    together, `block_variance`, `block_rows` [blocks]: of such a mean; `above`: share of outcomes above the limit; `covered`: whether the cell is between
    two that the reference has rows in; `optimism`: by how much the expected ROC AUC of the reference exceeds its real one, because isotonic means are spread
    by chance; `refused`: why nothing can be estimated."""

    grid: Grid
    mean: Floats
    noise: Floats
    block: Ints
    block_variance: Floats
    block_rows: Floats
    above: Floats
    covered: Bools
    optimism: float
    refused: str = ""


def tally(grid: Grid, scores: Floats, predicted: Bools, outcomes: Floats) -> Floats:
    """Rows -> counts [2, cells, 5] (UNLABELLED ... OVER). Outcomes: 0 or 1, or a loss; NaN = no label yet. Tallies of parts add up to the whole's. Scores that
    are not finite belong in no tally: count them as outside (`Support`)."""
    cell, known = grid.cell(scores, predicted), np.isfinite(outcomes)
    values = np.where(known, outcomes, 0.0)
    parts = (~known, known, values, values**2, known & (values > grid.limit.ravel()[cell]))
    counts = np.stack([np.bincount(cell, part, 2 * grid.cells) for part in parts], axis=1)
    return np.asarray(counts.reshape(2, -1, len(parts)), np.float64)


def even_grid() -> Grid:
    """Cells of probabilities that are the same for every model: even in log odds."""
    edges = 1 / (1 + np.exp(-np.linspace(-LOG_ODDS, LOG_ODDS, CELLS_BETWEEN + 1)))
    return Grid(edges, np.full((2, CELLS_BETWEEN + 2), 0.5))


def grid_of(scores: Floats, predicted: Bools, outcomes: Floats, cells: int = CELLS) -> Grid:
    """Half of the edges are quantiles of all scores, half of those of positive outcomes (losses: of the larger half), so that a rare class is resolved."""
    binary = bool(np.isin(outcomes, (0.0, 1.0)).all())
    positive = scores[outcomes > (0.5 if binary else np.median(outcomes))]
    steps = np.linspace(0, 1, cells // 2 + 1)[1:-1]
    edges = np.unique(
        np.concatenate([np.quantile(each, steps) for each in (scores, positive) if len(each)] or [np.zeros(0)])
    )
    grid = Grid(edges, np.full((2, len(edges) + 1), 0.5))
    if not binary:
        cell = grid.cell(scores, predicted)
        for place in np.unique(cell):
            grid.limit.flat[place] = np.median(outcomes[cell == place])
    return grid


def calibrate(scores: Floats, predicted: Bools, outcomes: Floats, cells: int = CELLS) -> Calibration:
    """From rows of a labelled reference that the model was not trained on; as in `tally`."""
    grid = grid_of(scores, predicted, outcomes, cells)
    return calibrated(grid, tally(grid, scores, predicted, outcomes))


def calibrated(grid: Grid, counts: Floats) -> Calibration:
    """From the labelled rows of a reference's tally.

    Isotonic regression (Zadrozny, Elkan 2002) of rows predicted and not predicted as the class apart: so the expected confusion matrix is the reference's
    where nothing shifts (top-label calibration; Gupta, Ramdas 2022).
    """
    shape = (2, grid.cells)
    mean, noise, above, block = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
    sizes: list[float] = []
    variances: list[float] = []
    labelled, whole = counts[..., LABELLED], counts[..., LABELLED:].sum((0, 1))
    for side in range(2):
        known = np.flatnonzero(labelled[side])
        if not len(known):
            continue
        starts = isotonic_regression(
            counts[side, known, TOTAL] / labelled[side, known], weights=labelled[side, known]
        ).blocks[:-1]
        rows, total, squares, over = np.add.reduceat(counts[side, known, LABELLED:], starts, axis=0).T
        # One pseudo-outcome of the whole reference keeps a block of equal outcomes from being certain.
        variance = (squares + whole[2] / whole[0]) / (rows + 1) - ((total + whole[1] / whole[0]) / (rows + 1)) ** 2
        place = np.repeat(np.arange(len(starts)), np.diff([*starts, len(known)]))
        nearest = place[np.clip(np.searchsorted(known, np.arange(grid.cells)), 0, len(known) - 1)]
        mean[side], noise[side], above[side] = (total / rows)[nearest], variance[nearest], (over / rows)[nearest]
        block[side] = nearest + len(sizes)
        sizes += rows.tolist()
        variances += (variance / rows).tolist()
    binary = bool((grid.limit == 0.5).all())
    optimism = roc_auc(mean * labelled, labelled)[0] - roc_auc(counts[..., TOTAL], labelled)[0] if binary else 0.0
    seen = labelled > 0
    covered = np.logical_or.accumulate(seen, 1) & np.logical_or.accumulate(seen[:, ::-1], 1)[:, ::-1]
    return Calibration(
        grid,
        mean,
        noise,
        block,
        np.array(variances or [0.0]),
        np.array(sizes or [1.0]),
        above,
        covered,
        optimism,
        _refused(whole[0], whole[1] if binary else None),
    )


def roc_auc(positives: Floats, rows: Floats) -> tuple[float, Floats]:
    """(area, its derivative by the positives of each cell), both [2, cells]: the Mann-Whitney statistic, ties counted half; NaN without one of the classes."""
    held, negatives = positives.sum(0), (rows - positives).sum(0)
    positive, negative = held.sum(), negatives.sum()
    if positive <= 0 or negative <= 0:
        return np.nan, np.zeros_like(rows)
    below = np.cumsum(negatives) - negatives / 2
    above = positive - np.cumsum(held) + held / 2
    value = held @ below / (positive * negative)
    slope = (below - above - value * (negative - positive)) / (positive * negative)
    return float(value), np.stack([slope, slope])


def _refused(rows: float, positives: float | None) -> str:
    if rows < LEAST_REFERENCE:
        return f"the reference has {rows:.0f} labels; {LEAST_REFERENCE} are needed"
    if positives is not None and min(positives, rows - positives) < LEAST_OF_EACH:
        return f"the reference has {min(positives, rows - positives):.0f} labels of the rarer outcome; {LEAST_OF_EACH} are needed"
    return ""


@dataclass(frozen=True)
class Support:
    """What the inputs of a reference cover: numeric name -> (lowest, highest, whether some are missing), other name -> its values."""

    ranges: Mapping[str, tuple[float, float, bool]]
    values: Mapping[str, frozenset[str]]

    def outside(self, columns: Mapping[str, npt.NDArray[np.generic]]) -> Bools:
        """Which rows have a number beyond the reference's range, a missing one where it has none, or a value it has not seen."""
        beyond = np.zeros(len(next(iter(columns.values()))) if columns else 0, bool)
        for name, (low, high, gaps) in self.ranges.items():
            column = columns[name].astype(float)
            beyond |= np.where(np.isnan(column), not gaps, (column < low) | (column > high))
        for name, known in self.values.items():
            texts, place = np.unique(columns[name].astype(str), return_inverse=True)
            beyond |= np.array([text not in known for text in texts], bool)[place]
        return beyond


def support(columns: Mapping[str, npt.NDArray[np.generic]]) -> Support:
    """Of the reference's inputs, by column; text columns are compared by value, others by range."""
    ranges, values = {}, {}
    for name, column in columns.items():
        if column.dtype.kind in "biuf":
            numbers = column.astype(float)
            held = numbers[~np.isnan(numbers)]
            ranges[name] = (
                (float(held.min()), float(held.max()), len(held) < len(numbers)) if len(held) else (1.0, 0.0, True)
            )
        else:
            values[name] = frozenset(np.unique(column.astype(str)).tolist())
    return Support(ranges, values)
