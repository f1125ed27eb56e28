"""Inputs and predictions of a regressor -> the loss each row is expected to have: the scores of `reference` (direct loss estimation; pure).

A second model learns the loss from inputs and prediction on the labelled reference (NannyML's documentation, "Direct Loss Estimation"). Each
reference row is scored by a model that has not seen it, and `reference.calibrate` corrects the scores.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from lastgood.judge.reference import Calibration, calibrate

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
    return LossModel(tuple(models), calibrate(scores, np.zeros(len(scores), bool), outcome), metric)
