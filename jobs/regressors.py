"""A regressor's daily samples -> its days: the loss of an answer is learnt from its inputs, by those that have their labels (pure)."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.jobs.estimating import answers, by_day
from lastgood.judge import losses
from lastgood.judge.days import Counted, Day, Floats, days
from lastgood.judge.performance import LOSSES
from lastgood.judge.reference import LEAST_REFERENCE, Calibration, Support, calibrate, support, tally
from lastgood.settings.endpoint import Performance

MOST_REFERENCE = 20_000
"""Labelled answers that the loss is learnt from; those with the smallest hashes."""
NUMBERS = 0.9
"""A feature is a number where this share of its values are."""
MOST_VALUES = 254
"""A text feature with more values is not used."""
MOST_FEATURES = 100
"""So many features are used, those that most answers have."""
PREDICTION = ""
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Inputs:
    """What the reference's features are: the numbers, the texts by value and code, what they cover."""

    numbers: tuple[str, ...]
    codes: dict[str, dict[str, int]]
    covered: Support

    def columns(self, features: Sequence[dict[str, Any]], predictions: Floats) -> Columns:
        """By name: numbers (NaN: missing, or none), texts ("": missing), and the prediction."""
        made: Columns = {name: np.array([_number(row.get(name)) for row in features], float) for name in self.numbers}
        made |= {name: np.array([str(row.get(name) or "") for row in features], str) for name in self.codes}
        return made | {PREDICTION: predictions}

    def matrix(self, columns: Columns) -> Floats:
        """[rows, inputs], texts by their code, NaN where it is none of the reference's."""
        parts = [columns[PREDICTION], *(columns[name] for name in self.numbers)]
        parts += [
            np.array([codes.get(text, np.nan) for text in columns[name]], float) for name, codes in self.codes.items()
        ]
        return np.stack(parts, axis=1)

    @property
    def categorical(self) -> list[int]:
        return [1 + len(self.numbers) + place for place in range(len(self.codes))]


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return np.nan
    return number if np.isfinite(number) else np.nan


def inputs_of(features: Sequence[dict[str, Any]], predictions: Floats) -> Inputs:
    """Of the reference's answers."""
    numbers: list[str] = []
    codes: dict[str, dict[str, int]] = {}
    held = Counter(
        name for row in features for name, value in row.items() if name != PREDICTION and value not in (None, "")
    )
    for name in sorted(sorted(held), key=held.__getitem__, reverse=True)[:MOST_FEATURES]:
        values = [row[name] for row in features if row.get(name) not in (None, "")]
        if sum(not np.isnan(_number(value)) for value in values) >= NUMBERS * len(values):
            numbers.append(name)
        elif len(texts := sorted({str(row.get(name) or "") for row in features})) <= MOST_VALUES:
            codes[name] = {text: code for code, text in enumerate(texts)}
    drawn = Inputs(tuple(numbers), codes, Support({}, {}))
    return Inputs(drawn.numbers, codes, support(drawn.columns(features, predictions)))


def of_sample(version: str, cells: pa.Table, sample: pa.Table, how: Performance, since: date) -> list[Day]:
    """Counts and samples of a version's days -> its days from `since` on. One sort of the sample, one fit of each loss."""
    numbers = by_day(cells)
    until = min(numbers) + timedelta(days=how.reference_days)
    sample = sample.sort_by("hash")
    known = sample.filter(
        pc.and_(pc.is_valid(sample["truth"]), pc.less(sample["day"], (until - date(1970, 1, 1)).days))
    )
    models, inputs = _fitted(known.slice(0, MOST_REFERENCE))
    drawn, counted = by_day(sample), {}
    for day, rows in numbers.items():
        valid, without = (
            answers(rows.filter(wanted)) for wanted in (pc.equal(rows["cell"], 0), pc.less(rows["cell"], 0))
        )
        tallies, strange, many = _tallies(models, inputs, drawn.get(day, sample.slice(0, 0)))
        share = min(1.0, many / valid) if valid else 1.0
        counted[day] = Counted([[each] for each in tallies], strange + round(without * share), valid + without, share)
    groups = [([metric], [calibration]) for metric, (_, calibration) in zip(LOSSES, models, strict=True)]
    return days(version, groups, counted, until, since)


Models = list[tuple[losses.LossModel | None, Calibration]]


def _fitted(known: pa.Table) -> tuple[Models, Inputs]:
    features, predictions = _read(known)
    inputs, truths = inputs_of(features, predictions), known["truth"].to_numpy()
    if known.num_rows < LEAST_REFERENCE:
        nothing = np.zeros(known.num_rows)
        refused = [
            (None, calibrate(nothing, nothing > 0, losses.losses(metric, predictions, truths))) for metric in LOSSES
        ]
        return list(refused), inputs
    matrix = inputs.matrix(inputs.columns(features, predictions))
    fitted = [losses.fit(metric, matrix, predictions, truths, inputs.categorical) for metric in LOSSES]
    return [(model, model.calibration) for model in fitted], inputs


def _read(sample: pa.Table) -> tuple[list[dict[str, Any]], Floats]:
    return [json.loads(text) if text else {} for text in sample["features"].to_pylist()], sample[
        "prediction"
    ].to_numpy()


def _tallies(models: Models, inputs: Inputs, sample: pa.Table) -> tuple[list[Floats], int, int]:
    """(a tally for each loss, rows that the reference does not cover, rows) of one day's sample."""
    features, predictions = _read(sample)
    columns = inputs.columns(features, predictions)
    fitted = any(model for model, _ in models)
    inside = ~inputs.covered.outside(columns) if fitted else np.ones(sample.num_rows, bool)
    matrix, truths = inputs.matrix(columns)[inside], sample["truth"].to_numpy()[inside]
    made = []
    for metric, (model, calibration) in zip(LOSSES, models, strict=True):
        scores = model.scores(matrix) if model and len(matrix) else np.zeros(len(matrix))
        made.append(
            tally(
                calibration.grid,
                scores,
                np.zeros(len(scores), bool),
                losses.losses(metric, predictions[inside], truths),
            )
        )
    return made, int(np.sum(~inside)), sample.num_rows
