"""Drift of samples: every feature is looked at, nulls are a signal of their own, numbers a hair apart are one value."""

import json
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from lastgood.jobs.comparison import compare

NOW = datetime(2026, 3, 1)
ROWS = 600


def drifted(current: dict[str, list[object]], reference: dict[str, list[object]]) -> set[str]:
    """Columns called drifted, of two samples of features."""
    frames = []
    for side, columns in (("current", current), ("before", reference)):
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        frames.append(
            pd.DataFrame({
                "endpoint": "chat", "version": "2", "against": "reference", "side": side, "prefer": "baseline", "baseline": np.nan,
                "at": np.arange(len(rows)), "hash": np.arange(len(rows)),
                "features": [json.dumps({k: "" if v is None else str(v) for k, v in row.items()}) for row in rows],
            }).assign(**dict.fromkeys(("tokens_in", "tokens_out", "input_chars", "output_chars", "finish_reason", "input", "output")))
        )  # fmt: skip
    rows = compare(pd.concat(frames, ignore_index=True), 0.1, NOW)
    return set(rows[rows["drifted"]]["column"])


@pytest.mark.parametrize("seed", range(3))
def test_every_feature_is_looked_at(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = {f"x{i:02}": rng.normal(size=ROWS).tolist() for i in range(80)}
    current = {name: (rng.normal(size=ROWS) + 3 * (i >= 50)).tolist() for i, name in enumerate(reference)}
    assert drifted(current, reference) == {f"feature.x{i}" for i in range(50, 80)}


def test_a_number_with_many_nulls_is_compared_as_a_number() -> None:
    rng = np.random.default_rng(1)

    def column(mean: float) -> list[object]:
        return [None if rng.random() < 0.3 else float(v) for v in rng.normal(mean, 1, ROWS)]

    assert drifted({"x": column(1)}, {"x": column(0)}) == {"feature.x"}
    assert drifted({"x": column(0)}, {"x": column(0)}) == set()


def test_nulls_are_a_signal_of_their_own() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=ROWS).tolist()
    holes = [None if i % 2 else v for i, v in enumerate(values)]
    assert drifted({"x": holes}, {"x": values}) == {"feature.x:type"}


def test_infinities_are_a_signal_of_their_own() -> None:
    values = np.random.default_rng(1).normal(size=ROWS).tolist()
    some = [float("-inf") if i % 5 == 0 else v for i, v in enumerate(values)]
    assert drifted({"x": some}, {"x": values}) == {"feature.x:type"}
    assert drifted({"x": ["inf"] * ROWS}, {"x": values}) == {"feature.x:type"}
    assert drifted({"x": some}, {"x": some}) == set()


def test_numbers_a_hair_apart_are_one_value() -> None:
    assert drifted({"x": [0.1001, 0.5] * 300}, {"x": [0.1, 0.5] * 300}) == set()
    assert drifted({"x": [0.2, 0.5] * 300}, {"x": [0.1, 0.5] * 300}) == {"feature.x"}
