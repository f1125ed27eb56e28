"""Performance without labels: what intervals cover, also in shapes that the method was not built for, and when nothing can be known."""

import json
import re
from dataclasses import astuple
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from scipy.stats import beta

from lastgood.jobs.regressors import of_sample
from lastgood.judge import losses
from lastgood.judge.days import Counted, days, unknown, worse
from lastgood.judge.performance import CLASSIFICATION, estimate
from lastgood.judge.reference import Calibration, calibrate, support, tally
from lastgood.judge.relation import contradiction
from lastgood.settings.endpoint import Performance
from lastgood.tables.estimated import present


def rows(r, n, shift=0.0, base=-1.0, slope=1.5):
    """Scores of an overconfident model, what it predicts, the labels."""
    x = r.normal(shift, 1, n)
    label = (r.random(n) < 1 / (1 + np.exp(-(base + slope * x)))).astype(float)
    score = 1 / (1 + np.exp(-(base * 0.5 + 2.5 * x)))
    return score, score > 0.5, label


def unlabelled(calibration, scores, predicted):
    return tally(calibration.grid, scores, predicted, np.full(len(scores), np.nan))


def real(scores, predicted, label):
    """The same metrics by the labels, through a tally of them: exact but for ties of scores within a cell."""
    made = calibrate(scores, predicted, label, cells=4000)
    return {
        each.metric: each.value
        for each in estimate(CLASSIFICATION, [made], [tally(made.grid, scores, predicted, label)])
    }


SHAPES = {
    "as the reference": (5000, 1000, 0.0, -1.0), "covariate shift": (5000, 1000, 0.7, -1.0), "few labels": (200, 1000, 0.0, -1.0),
    "rare class": (5000, 1000, 0.0, -5.0), "few rows": (5000, 100, 0.0, -1.0),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_intervals_cover_what_labels_say(shape):
    many, few, shift, base = SHAPES[shape]
    r, runs = np.random.default_rng(5), 150
    inside, errors = {metric: [] for metric in CLASSIFICATION}, {metric: [] for metric in CLASSIFICATION}
    for _ in range(runs):
        calibration = calibrate(*rows(r, many, base=base))
        scores, predicted, label = rows(r, few, shift, base)
        truth = real(scores, predicted, label)
        for each in estimate(CLASSIFICATION, [calibration], [unlabelled(calibration, scores, predicted)]):
            if each.value is not None and truth[each.metric] is not None:
                inside[each.metric].append(each.low <= truth[each.metric] <= each.high)
                errors[each.metric].append(each.value - truth[each.metric])
    for metric, hits in inside.items():
        lowest = beta.ppf(0.001, sum(hits) + 1, len(hits) - sum(hits) + 1)
        assert lowest < 0.95 and np.mean(hits) > 0.88, (shape, metric, np.mean(hits))
        assert abs(np.mean(errors[metric])) < 0.012 + 3 * np.std(errors[metric]) / len(hits) ** 0.5, (shape, metric)


def test_labels_take_the_place_of_estimates():
    r = np.random.default_rng(1)
    calibration = calibrate(*rows(r, 3000))
    scores, predicted, label = rows(r, 2000)
    widths = []
    for share in (0.0, 0.5, 1.0):
        known = np.where(np.arange(2000) < share * 2000, label, np.nan)
        accuracy = estimate(["accuracy"], [calibration], [tally(calibration.grid, scores, predicted, known)])[0]
        assert accuracy.labelled == share
        widths.append(accuracy.high - accuracy.low)
    assert widths[0] > widths[1] > widths[2] == 0
    assert accuracy.value == pytest.approx(np.mean(predicted == (label == 1)))


def test_tallies_of_parts_add_up():
    r = np.random.default_rng(2)
    calibration = calibrate(*rows(r, 3000))
    scores, predicted, label = rows(r, 999)
    known = np.where(r.random(999) < 0.3, label, np.nan)
    parts = [tally(calibration.grid, scores[i::3], predicted[i::3], known[i::3]) for i in range(3)]
    np.testing.assert_allclose(sum(parts), tally(calibration.grid, scores, predicted, known))


def batches(r, calibration: Calibration, many=10, **how):
    return [tally(calibration.grid, *rows(r, 200, **how)) for _ in range(many)]


def test_a_right_calibration_is_rarely_called_wrong_and_never_more_often_for_looking_often():
    r, runs = np.random.default_rng(3), 150
    for labels in (200, 3000):
        called = 0
        for _ in range(runs):
            calibration = calibrate(*rows(r, labels))
            called += bool(contradiction(calibration, batches(r, calibration, shift=0.5))[1])
        assert beta.ppf(0.05, called + 1e-9, runs - called + 1) <= 0.01, labels


@pytest.mark.parametrize("before", [0, 10])
def test_concept_drift_is_said_and_not_estimated(before):
    """The relation of input and label weakens; labels of a tenth of the rows tell. Also after a long time of health."""
    r, found = np.random.default_rng(4), 0
    for _ in range(20):
        calibration = calibrate(*rows(r, 3000))
        seen = batches(r, calibration, before) + batches(r, calibration, 10, base=0.2, slope=0.4)
        evidence, words = contradiction(calibration, seen)
        found += bool(words)
    assert found == 20
    accuracy = estimate(["accuracy"], [calibration], [unlabelled(calibration, *rows(r, 2000)[:2])], contradicted=words)[
        0
    ]
    assert astuple(accuracy)[1:5] == (None, None, None, 0.0)
    assert "labels contradict the calibration" in accuracy.reason and evidence >= 100


def test_what_the_reference_does_not_cover_is_not_estimated():
    r = np.random.default_rng(6)
    scores, predicted, label = rows(r, 2000)
    columns = {"age": r.uniform(20, 60, 2000), "fuel": np.array(["gas", "diesel"])[r.integers(0, 2, 2000)]}
    known = support(columns)
    assert not known.outside(columns).any()
    strange = known.outside(
        {"age": np.array([10.0, 30.0, np.nan, 30.0]), "fuel": np.array(["gas", "hydrogen", "gas", "gas"])}
    )
    assert strange.tolist() == [True, True, True, False]
    calibration = calibrate(scores, predicted, label)
    counts = unlabelled(calibration, scores[:900], predicted[:900])
    assert estimate(["f1"], [calibration], [counts], outside=40)[0].value is not None
    assert "10% of the rows lie outside" in estimate(["f1"], [calibration], [counts], outside=100)[0].reason
    never = calibrate(scores[~predicted], predicted[~predicted], label[~predicted])
    assert "outside of what" in estimate(["f1"], [never], [unlabelled(never, scores, predicted)])[0].reason


@pytest.mark.parametrize(
    ("label", "why"),
    [
        (np.zeros(0), "the reference has 0 labels"),
        (np.arange(99) % 2.0, "the reference has 99 labels"),
        ((np.arange(500) < 9) * 1.0, "9 labels of the rarer outcome"),
    ],
)
def test_a_reference_of_too_few_labels_is_refused_but_labels_still_count(label, why):
    scores = np.linspace(0.01, 0.99, len(label))
    calibration = calibrate(scores, scores > 0.5, label)
    some, truth = np.linspace(0, 1, 50), np.arange(50) % 2.0
    assert why in estimate(["accuracy"], [calibration], [unlabelled(calibration, some, some > 0.5)])[0].reason
    assert estimate(["accuracy"], [calibration], [tally(calibration.grid, some, some > 0.5, truth)])[
        0
    ].value == np.mean((some > 0.5) == truth)
    assert (
        estimate(["accuracy"], [calibration], [unlabelled(calibration, some[:0], some[:0] > 1)])[0].reason == "no rows"
    )


def test_classes_are_calibrated_one_by_one():
    r, inside = np.random.default_rng(7), []
    for _ in range(60):
        made = []
        for many in (4000, 1000):
            z = r.normal(0, 1, (many, 3)) * 1.5
            p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            label = (p.cumsum(1) < r.random((many, 1))).sum(1)
            sure = p**2 / (p**2).sum(1, keepdims=True)
            made.append((sure, sure.argmax(1), label))
        (old, said, told), (new, answer, truth) = made
        maps = [calibrate(old[:, k], said == k, (told == k) * 1.0) for k in range(3)]
        accuracy, recall = estimate(
            ["accuracy", "recall"], maps, [unlabelled(c, new[:, k], answer == k) for k, c in enumerate(maps)]
        )
        inside.append(
            (accuracy.low <= np.mean(answer == truth) <= accuracy.high,
             recall.low <= np.mean([np.mean(answer[truth == k] == k) for k in range(3)]) <= recall.high)
        )  # fmt: skip
    assert (np.mean(inside, axis=0) >= 0.88).all(), np.mean(inside, axis=0)


@pytest.mark.parametrize("metric", ["mae", "rmse"])
def test_losses_of_a_regressor_follow_a_shift_and_cover_the_truth(metric):
    r = np.random.default_rng(8)

    def some(many, shift=0.0):
        x = r.normal(shift, 1, many)
        prediction = 2 * x
        return (
            np.stack([x, prediction], 1),
            prediction,
            prediction + r.normal(0, 1, many) * np.exp(0.3 * np.clip(x, -2, 2)),
        )

    inside, ratios = [], []
    for _ in range(15):
        model = losses.fit(metric, *some(3000), categorical=[])
        for shift in (0.0, 0.7):
            inputs, prediction, target = some(1000, shift)
            made = estimate(
                [metric],
                [model.calibration],
                [unlabelled(model.calibration, model.scores(inputs), np.zeros(1000, bool))],
            )[0]
            truth = np.mean(losses.losses(metric, prediction, target)) ** (0.5 if metric == "rmse" else 1)
            ratios.append(made.value / truth)
            if not shift:
                inside.append(made.low <= truth <= made.high)
    assert sum(inside) >= 12 and abs(np.mean(ratios[1::2]) - 1) < 0.06
    inputs, prediction, target = some(2000)
    wrong = losses.losses(metric, prediction, target + r.normal(0, 2, 2000))
    counts = tally(model.calibration.grid, model.scores(inputs), np.zeros(2000, bool), wrong)
    assert contradiction(model.calibration, [counts])[0] >= 100


def test_days_stand_beside_labels_and_the_reference_and_say_when_they_fall():
    """Ten days of labels, then ten without; the inputs of the last four shift to where fewer of the positives are seen."""
    r, start = np.random.default_rng(9), date(2026, 1, 1)
    windows = [rows(r, 400, -0.7 if n >= 16 else 0.0) for n in range(20)]
    calibration = calibrate(*(np.concatenate(parts) for parts in zip(*windows[:10], strict=True)))
    counted = {
        start + timedelta(days=n): Counted(
            [[tally(calibration.grid, *w[:2], np.where(n < 10 or np.arange(400) < 40, w[2], np.nan))]], 0, 400
        )
        for n, w in enumerate(windows)
    }  # fmt: skip
    until = start + timedelta(days=10)
    made = days("2", [(CLASSIFICATION, [calibration])], counted, until, start + timedelta(days=5))
    assert [day.day for day in made] == sorted(counted)[5:] and [day.reference for day in made] == [True] * 5 + [
        False
    ] * 10
    recall = made[-1].metrics[2]
    assert recall.usual == pytest.approx(
        real(*(np.concatenate(parts) for parts in zip(*windows[:10], strict=True)))["recall"], abs=0.01
    )
    assert recall.realised == pytest.approx(real(*(part[:40] for part in windows[-1]))["recall"], abs=0.05)
    assert made[0].metrics[2].value == made[0].metrics[2].realised, "all labels are there"
    assert worse(made, "recall") == 4 and worse(made, "accuracy") == 0 and unknown(made) == 0
    assert worse(made[:-4], "recall") == 0
    never = days("2", [(CLASSIFICATION, [calibrate(*(part[:5] for part in windows[0]))])], counted, start, start)
    assert unknown(never) == 10 and "labels; 100 are needed" in never[-1].why
    of_two = [
        (day.day, day.model_version)
        for each in present([*made, *never], start + timedelta(days=19)).values()
        for day in each
    ]
    assert max(of_two) == (start + timedelta(days=18), "2") and present(made, start + timedelta(days=40)) == {}


def test_a_sample_of_the_rows_says_less_than_the_rows():
    r = np.random.default_rng(10)
    x = r.normal(0, 1, 3000)
    error = np.abs(r.normal(0, 1, 3000)) * np.exp(0.3 * x)
    known = calibrate(np.exp(0.3 * x), np.zeros(3000, bool), error)
    counts = tally(known.grid, np.exp(0.3 * x), np.zeros(3000, bool), error)
    whole, part = (estimate(["mae"], [known], [counts], share=share)[0] for share in (1.0, 0.1))
    assert whole.low == whole.high == whole.value == pytest.approx(error.mean()), (
        "all labels of all rows: nothing is estimated"
    )
    spread = 1.96 * np.std(error) * (0.9 / 3000) ** 0.5
    assert part.high - part.value == pytest.approx(spread, rel=0.05) and part.value - part.low == pytest.approx(
        spread, rel=0.05
    )


def test_calibrations_that_are_watched_together_are_called_wrong_as_seldom_as_one():
    r = np.random.default_rng(11)
    calibration = calibrate(*rows(r, 3000))
    wrong = batches(r, calibration, 3, base=0.0)
    evidence, words = contradiction(calibration, wrong)
    assert words and not contradiction(calibration, wrong, together=int(evidence * 0.011))[1]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"score": r"\d+"}, "has no group"), ({"score": "("}, "is no pattern"), ({"kind": "ranks"}, "pattern"),
        ({"kind": "classes"}, "two names or more"), ({"kind": "classes", "classes": ["a", "A "]}, "each once"),
        ({"kind": "classes", "classes": ["a", "b"], "threshold": 0.4}, "`threshold` says nothing of kind classes; it is for yes_no"),
        ({"classes": ["a", "b"]}, "`classes` says nothing of kind yes_no"), ({"kind": "number", "scores": "$"}, "`scores` says nothing of kind number"),
        ({"kind": "classes", "classes": ["a", "b"], "scores": "p"}, "pattern"), ({"kind": "classes", "classes": [str(i) for i in range(51)]}, "50"),
        ({"threshold": 2}, "less than or equal to 1"), ({"reference_days": 0}, "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_in_words(given, why):
    with pytest.raises(ValidationError, match=re.escape(why)):
        Performance(**given)


def table_of(day, values, truths, features):
    """Rows of `predictions` as the job reads them, and their counts."""
    many = len(values)
    sample = pa.table({
        "day": pa.array([day] * many, pa.int64()), "hash": pa.array(range(many), pa.int64()), "prediction": pa.array(values, pa.float64()),
        "truth": pa.array(truths, pa.float64()), "features": pa.array(features, pa.string()),
    })  # fmt: skip
    labelled = sum(truth is not None for truth in truths)
    cells = pa.table({
        "day": [day] * 2, "cell": [0, -1], "unlabelled": [2 * many - labelled, 3], "labelled": [labelled, 0],
    })  # fmt: skip
    return sample, cells


@pytest.mark.parametrize(
    "features",
    [None, '{"x": "NaN", "only": "one", "gap": null}', "{}", json.dumps({f"f{i}": str(i) for i in range(300)})],
)
@pytest.mark.parametrize("off", [0.0, 1.0])
def test_regressors_without_inputs_and_without_errors_are_estimated_too(features, off):
    """Losses that are all 0 or 1, features that say nothing: a number each day, of a sample of half of the rows. Three answers more are no number."""
    how, r = Performance(kind="number", reference_days=1), np.random.default_rng(12)
    values = r.integers(1, 6, 150).astype(float).tolist()
    parts = [
        table_of(
            day,
            values,
            [v + off * (i % 2) for i, v in enumerate(values)] if day == 1 else [None] * 150,
            [features] * 150,
        )
        for day in (1, 2)
    ]
    sample, cells = (pa.concat_tables(each) for each in zip(*parts, strict=True))
    first, second = of_sample("1", cells, sample, how, date(1970, 1, 1))
    assert (first.reference, second.reference) == (True, False) and first.rows == second.rows == 303
    mae = second.metrics[0]
    assert (
        mae.value == pytest.approx(off / 2, abs=0.1)
        and mae.low <= mae.value <= mae.high
        and mae.usual == pytest.approx(off / 2)
    )
    assert second.metrics[0].labelled == 0 and first.metrics[0].realised == pytest.approx(off / 2)


def test_a_regressor_without_labels_or_with_strange_answers_says_why():
    how, values = Performance(kind="number", reference_days=1), [1.0] * 50
    sample, cells = table_of(1, values, [None] * 50, [None] * 50)
    (never,) = of_sample("1", cells, sample, how, date(1970, 1, 1))
    assert "the reference has 0 labels; 100 are needed" in never.why and never.rows == 103
    (nothing,) = of_sample("1", cells, sample.slice(0, 0), how, date(1970, 1, 1))
    assert nothing.why and nothing.metrics[0].value is None
