"""Texts or embeddings of two samples -> how well a classifier tells them apart (pure). The only module that trains anything.

Cross-fitted logistic regression over folds of time blocks; distance = 2 AUC - 1, 0 where the samples cannot be told apart. Its limits come
from the same delete-one-block jackknife as those of other columns, over the held-out scores.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from lastgood.judge.drift import Distance, blocks, exceeds

FOLDS, FEATURES, LEAST_DIMENSIONS = 5, 2**14, 8
Floats = npt.NDArray[np.float64]


def vectors(values: Sequence[Any]) -> Floats | None:
    """Values as embeddings [n, dimensions] when (nearly) all are JSON lists of as many numbers; else None."""
    if not any(str(value).lstrip().startswith("[") for value in values[:5]):
        return None
    vectors = []
    for value in values:
        try:
            row = json.loads(value)
        except (TypeError, ValueError):
            row = None
        vectors.append(row if isinstance(row, list) and all(isinstance(x, int | float) for x in row) else [])
    size = max(map(len, vectors), key=lambda n: sum(len(row) == n for row in vectors))
    good = [row for row in vectors if len(row) == size]
    return np.asarray(good, np.float64) if size >= LEAST_DIMENSIONS and len(good) == len(vectors) else None


def auc(score: Floats, new: npt.NDArray[np.bool_]) -> float:
    """Chance that a new row scores above a reference row, ties half."""
    n, m = int(new.sum()), int((~new).sum())
    return (float(rankdata(score)[new].sum()) - n * (n + 1) / 2) / (n * m) if n and m else 0.5


def separation(
    current: Sequence[Any], reference: Sequence[Any], times: tuple[Sequence[float], Sequence[float]], limit: float
) -> Distance:
    """Distance of two samples of texts or of embeddings (JSON lists), no nulls."""
    n, m = len(current), len(reference)
    values = [*current, *reference]
    new = np.arange(n + m) < n
    block = np.concatenate([blocks(times[0]), blocks(times[1])])
    with threadpool_limits(1):  # steps of microseconds: handing them to threads costs five times the work
        score = _held_out(values, new, block % FOLDS)
    theta = 2 * auc(score, new) - 1
    again = [
        [
            2 * auc(score[keep], new[keep]) - 1
            for b in range(int(block[side].max()) + 1)
            if (keep := ~((block == b) & side)).any()
        ]
        for side in (new, ~new)
    ]
    low, p = exceeds(theta, again, limit)
    return Distance(max(0.0, theta), max(0.0, low), n, m, p)


def _held_out(values: Sequence[Any], new: npt.NDArray[np.bool_], fold: npt.NDArray[np.int64]) -> Floats:
    """Scores of rows by a model that has not seen their fold."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    dense = vectors(values)
    if dense is None:
        matrix: Any = HashingVectorizer(n_features=FEATURES, lowercase=True, norm="l2").transform(map(str, values))
    else:
        matrix = (dense - dense.mean(axis=0)) / np.where(dense.std(axis=0) > 0, dense.std(axis=0), 1.0)
    score = np.zeros(len(values))
    for part in np.unique(fold):
        test = fold == part
        if new[~test].any() and not new[~test].all():
            model = LogisticRegression(max_iter=100, C=1.0).fit(matrix[~test], new[~test])
            raw = model.decision_function(matrix[test])
            score[test] = rankdata(raw) / len(raw)
    return score
