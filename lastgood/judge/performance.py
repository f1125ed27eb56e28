"""Tallies of scores whose labels come late -> accuracy, precision, recall, F1, ROC AUC or a mean loss, each with an interval, or why it cannot be known (pure).

A label that arrives takes its row's estimate away and puts the truth there. Assumptions and simulations: docs/explanation/performance.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, gammaincinv

from lastgood.judge.reference import LABELLED, SQUARES, TOTAL, UNLABELLED, Calibration, roc_auc
from lastgood.record.words import percent

Floats = npt.NDArray[np.float64]
COVERAGE = 0.95
OUTSIDE = 0.05
"""Share of rows that may lie outside of what the reference covers."""
CLASSIFICATION = ("accuracy", "precision", "recall", "f1", "roc_auc")
LOSSES = ("mae", "rmse")


@dataclass(frozen=True)
class Estimate:
    """A metric of one window. `value`, `low`, `high`: None where it cannot be known, and `reason` says why. `labelled`: share of rows with their label;
    `realised`: the metric of these; `usual`: of the labelled reference."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    labelled: float
    reason: str = ""
    realised: float | None = None
    usual: float | None = None


def _expected(calibration: Calibration, counts: Floats) -> tuple[Floats, Floats]:
    """(expected positives, rows), each [2, cells]."""
    return calibration.mean * counts[..., UNLABELLED] + counts[..., TOTAL], counts[..., UNLABELLED] + counts[
        ..., LABELLED
    ]


def _metric(metric: str, positives: Floats, rows: Floats) -> tuple[float, Floats]:
    """(the metric of expected counts, its derivative by the positives of each cell); NaN where it is undefined.

    The confusion matrix is the expected one (CBPE; NannyML's documentation, "How CBPE works").
    """
    if metric == "roc_auc":
        return roc_auc(positives, rows)
    hit, positive, predicted, total = positives[1].sum(), positives.sum(), rows[1].sum(), rows.sum()
    slope = np.zeros_like(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "accuracy":
            value = (hit + rows[0].sum() - positives[0].sum()) / total
            slope[:] = np.array([[-1.0], [1.0]]) / total
        elif metric == "precision":
            value = hit / predicted
            slope[1] = 1 / predicted
        elif metric == "recall":
            value = hit / positive
            slope[:] = np.array([[-hit], [positive - hit]]) / positive**2
        elif metric == "f1":
            value = 2 * hit / (predicted + positive)
            slope[:] = np.array([[-value], [2 - value]]) / (predicted + positive)
        else:
            value = positive / total
            slope[:] = 1 / total
            if metric == "rmse":
                value = math.sqrt(value) if value >= 0 else math.nan
                slope = slope / (2 * value) if value else np.zeros_like(slope)
    return float(value), slope


def _moments(metric: str, calibration: Calibration, counts: Floats, share: float) -> tuple[float, float, float]:
    """(value, sampling variance, calibration variance) by the delta method: outcomes of rows without a label are independent given their scores; means of
    one block are wrong together. `share`: of the rows that are meant, those that were drawn by chance and counted; known for losses only."""
    value, slope = _metric(metric, *_expected(calibration, counts))
    if metric == "roc_auc" and counts[..., UNLABELLED].any():
        value -= calibration.optimism * counts[..., UNLABELLED].sum() / counts[..., :TOTAL].sum()
    by_cell = slope * counts[..., UNLABELLED]
    by_block = np.bincount(calibration.block.ravel(), by_cell.ravel(), len(calibration.block_variance))
    sampling = float(np.sum(slope * by_cell * calibration.noise))
    if share < 1:
        rows = counts[..., :TOTAL].sum()
        squares = counts[..., SQUARES] + counts[..., UNLABELLED] * (calibration.noise + calibration.mean**2)
        spread = squares.sum() / rows - (_expected(calibration, counts)[0].sum() / rows) ** 2
        sampling += (1 - share) * float(np.max(slope)) ** 2 * rows * spread
    return value, sampling, float(by_block**2 @ calibration.block_variance)


def estimate(
    metrics: Sequence[str],
    calibrations: Sequence[Calibration],
    counts: Sequence[Floats],
    outside: int = 0,
    contradicted: str = "",
    share: float = 1.0,
) -> list[Estimate]:
    """Metrics of one window. One calibration and tally for a yes/no answer or a loss; one for each class else (class against the rest): accuracy is then the
    share of rows whose predicted class is right, the others are means over the classes.

    outside: rows that the reference does not cover (`Support.outside`), in no tally; contradicted: what `contradiction` says; share: of the rows of which
    those counted are a sample (losses). Errors: none.
    """
    rows = float(counts[0][..., :TOTAL].sum())
    labelled = float(counts[0][..., LABELLED].sum()) / (rows + outside) if rows + outside else 0.0
    reason = _unknown(calibrations, counts, rows, outside, contradicted)
    if reason:
        return [Estimate(metric, None, None, None, labelled, reason) for metric in metrics]
    return [_with_interval(metric, calibrations, counts, labelled, share) for metric in metrics]


def _unknown(
    calibrations: Sequence[Calibration], counts: Sequence[Floats], rows: float, outside: int, contradicted: str
) -> str:
    if not rows + outside:
        return "no rows"
    if counts[0][..., UNLABELLED].sum() + outside == 0:
        return ""
    refused = next((each.refused for each in calibrations if each.refused), "")
    if refused or contradicted:
        return refused or contradicted
    uncovered = outside + max(
        float(np.sum(count[..., UNLABELLED], where=~each.covered))
        for each, count in zip(calibrations, counts, strict=True)
    )
    if uncovered > OUTSIDE * (rows + outside):
        return f"{percent(uncovered / (rows + outside))} of the rows lie outside of what the labelled reference covers, or have no score"
    return ""


def _with_interval(
    metric: str, calibrations: Sequence[Calibration], counts: Sequence[Floats], labelled: float, sampled: float
) -> Estimate:
    several = len(calibrations) > 1
    pairs = list(zip(calibrations, counts, strict=True))
    if several and metric == "accuracy":
        whole = float(counts[0][..., :TOTAL].sum())
        parts = []
        for each, count in pairs:
            share = float(count[1, :, :TOTAL].sum()) / whole
            hits, noise, wrong = _moments("precision", each, count, 1.0) if share else (0.0, 0.0, 0.0)
            parts.append((hits * share, noise * share**2, wrong * share**2))
        value, sampling = sum(part[0] for part in parts), sum(part[1] for part in parts)
        error = sum(math.sqrt(part[2]) for part in parts) ** 2
    else:
        moments = [_moments(metric, each, count, sampled) for each, count in pairs]
        value = float(np.mean([part[0] for part in moments]))
        # How classes are wrong together is not known: a mean's standard deviation is at most the mean of theirs.
        sampling, error = (float(np.mean([math.sqrt(max(0.0, part[i])) for part in moments])) ** 2 for i in (1, 2))
    if not math.isfinite(value):
        return Estimate(metric, None, None, None, labelled, "undefined: no rows of a class, or none predicted as it")
    low, high = interval(value, sampling + error, bounded=metric not in LOSSES)
    return Estimate(metric, value, low, high, labelled)


def interval(value: float, variance: float, bounded: bool, coverage: float = COVERAGE) -> tuple[float, float]:
    """Quantiles of the beta distribution (metrics in [0, 1]; else of the gamma distribution) with this mean and variance: skewed near its ends."""
    tails = np.array([(1 - coverage) / 2, (1 + coverage) / 2])
    if variance <= 0 or value <= 0 or (bounded and value >= 1):
        return value, value
    if not bounded:
        low, high = gammaincinv(value**2 / variance, tails) * variance / value
        return float(low), float(high)
    weight = value * (1 - value) / variance - 1
    if weight <= 0:
        return 0.0, 1.0
    low, high = betaincinv(value * weight, (1 - value) * weight, tails)
    return float(low), float(high)
