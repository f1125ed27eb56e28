"""Inputs and predictions of a regressor -> the loss each row is expected to have: the scores of `reference` (direct loss estimation; pure).

A second model learns the loss from inputs and prediction on the labelled reference (NannyML's documentation, "Direct Loss Estimation"). Each
reference row is scored by a model that has not seen it. Scores are corrected by their mean error alone: an isotonic map, as of classifiers' scores, takes
the chance in a score for its meaning and draws the estimates of shifted inputs to the reference's mean (measured: docs/explanation/performance.md).
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from lastgood.judge.reference import LEAST_REFERENCE, Calibration, calibrate

Floats = npt.NDArray[np.float64]
FOLDS = 5


@dataclass(frozen=True)
class LossModel:
    """Cross-fitted models of one loss and their calibration."""

    models: tuple[HistGradientBoostingRegressor, ...]
    calibration: Calibration
    metric: str

    def scores(self, inputs: Floats) -> Floats:
        """Expected losses before calibration. inputs [rows, columns]: as fitted."""
        with threadpool_limits(1):
            return np.asarray(np.mean([model.predict(inputs) for model in self.models], axis=0))


def losses(metric: str, predictions: Floats, targets: Floats) -> Floats:
    """Of each row: what `metric` (mae, rmse) is the mean of. NaN without a target."""
    error = np.abs(predictions - targets)
    return error**2 if metric == "rmse" else error


def fit(
    metric: str, inputs: Floats, predictions: Floats, targets: Floats, categorical: list[int], seed: int = 0
) -> LossModel:
    """From a labelled reference. inputs [rows, columns]: numbers, categories by code below 255, missing as NaN, the prediction among them."""
    outcome = losses(metric, predictions, targets)
    fold = np.random.default_rng(seed).permutation(len(outcome)) % FOLDS
    scores, models = np.zeros(len(outcome)), []
    with threadpool_limits(
        1
    ):  # threads that wait for each other on a busy machine take minutes for what takes a second
        for number in range(FOLDS):
            model = HistGradientBoostingRegressor(
                categorical_features=categorical, random_state=seed, early_stopping=False
            )
            model.fit(inputs[fold != number], outcome[fold != number])
            scores[fold == number] = model.predict(inputs[fold == number])
            models.append(model)
    return LossModel(tuple(models), _unbiased(scores, outcome), metric)


def _unbiased(scores: Floats, outcome: Floats) -> Calibration:
    """Noise and error by cell as `calibrate` has them; a cell's mean is that of its scores, so moved that the reference's mean loss is the real one."""
    made = calibrate(scores, np.zeros(len(scores), bool), outcome)
    cell = made.grid.cell(scores, np.zeros(len(scores), bool))
    rows = np.bincount(cell, minlength=made.grid.cells)
    known = np.flatnonzero(rows)
    centre = np.bincount(cell, scores, made.grid.cells)[known] / rows[known]
    mean = np.interp(np.arange(made.grid.cells), known, centre + np.mean(outcome) - np.mean(scores))
    refused = (
        made.refused if len(outcome) < LEAST_REFERENCE else ""
    )  # losses that are all 0 or 1 are no classes: none must be frequent
    return replace(made, mean=np.tile(np.maximum(mean, 0.0), (2, 1)), refused=refused)
