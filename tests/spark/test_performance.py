"""The job `performance` on Delta, read back without Spark: labels come for a tenth, then the relation of input and label changes."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from alerts_support import House, MemoryWorkspace, endpoint, settings
from jobs_support import START, row
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from typer.testing import CliRunner

from lastgood import tables
from lastgood.alerts.web.app import create_app
from lastgood.cli.app import app
from lastgood.dashboards.exporter import Exporter
from lastgood.jobs.performance import performance
from lastgood.judge.days import unknown, worse
from lastgood.judge.reference import even_grid
from lastgood.record import telemetry
from lastgood.record.exported import BY_NAME
from lastgood.settings import Mode, Web
from lastgood.tables import delta, estimated
from lastgood.tables.runs import Context

SETTINGS = {"fraud": {"performance": {"score": r'"p":\s*([0-9.eE+-]+)', "threshold": 0.4, "reference_days": 2}}}


def requests(days: int, per_day: int = 2000, wrong_from: int = 99) -> list[dict[str, Any]]:
    """Of two days all have labels, of the others a tenth; from `wrong_from` on labels are tosses of a coin. One answer in a hundred has no score."""
    r, made = np.random.default_rng(3), []
    for i in range(days * per_day):
        day, score = i // per_day, float(r.beta(1, 2))
        label = r.random() < (score**2 if day < wrong_from else 0.5)
        attributes = [("label.truth", "yes" if label else "0")] if day < 2 or r.random() < 0.1 else []
        at = START - timedelta(days=days - day, hours=12) + timedelta(seconds=40 * (i % per_day))
        made.append(
            row(
                i,
                endpoint="fraud",
                requested_at=at,
                output="none" if i % 100 == 7 else json.dumps({"p": score, "id": 3}),
                attributes=attributes,
            )
        )
    return made


def put(ctx: Context, rows: list[dict[str, Any]]) -> None:
    names = [field.name for field in telemetry.REQUEST]
    schema = telemetry.arrow_schema(telemetry.REQUEST)
    delta.append(
        ctx.store.path(tables.REQUESTS),
        pa.Table.from_pylist([{name: each.get(name) for name in names} for each in rows], schema),
    )


def page(ctx: Context, folder: Path, path: str) -> str:
    """What the service answers over the tables of the jobs."""
    house = House(folder, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE, Web()))
    try:
        answer = TestClient(create_app(house.controller, data=ctx.store), base_url="http://127.0.0.1").get(path)
    finally:
        house.close()
    assert answer.status_code == 200, answer.text
    return answer.text


def exported(ctx: Context) -> dict[str, dict[tuple[str, ...], float]]:
    """Name of a gauge without its beginning -> labels -> value."""
    exporter = Exporter(ctx.store, clock=lambda: START)
    exporter.refresh()
    made: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(exporter.text(generate_latest, "text").decode()):
        if family.name.startswith("lastgood_estimated_performance"):
            labels = BY_NAME[family.name].labels
            name = family.name.removeprefix("lastgood_estimated_performance").strip("_") or "value"
            made[name] = {tuple(sample.labels[label] for label in labels): sample.value for sample in family.samples}
    return made


def test_performance_is_estimated_then_contradicted(make: Callable[..., Context], tmp_path: Path) -> None:
    ctx = make(endpoints=SETTINGS, now=START)
    given = requests(6, wrong_from=4)
    put(ctx, given)
    run = performance(ctx)
    assert run is not None and run.rows_in == len(given) and performance(ctx) is None
    days = estimated.by_day(ctx.store, START - timedelta(days=9), "fraud")["fraud"]
    assert [(day.rows, day.reference) for day in days] == [(2000, True)] * 2 + [(2000, False)] * 4
    third, last = days[2], days[-1]
    accuracy = third.metrics[0]
    assert (
        accuracy.value is not None
        and 0.05 < accuracy.labelled < 0.2
        and accuracy.low is not None
        and accuracy.high is not None
    )
    assert accuracy.low < 0.747 < accuracy.high, "E[s^2 where s >= .4, else 1 - s^2], s ~ Beta(1, 2)"
    assert {metric.value for metric in last.metrics} == {None} and "labels contradict the calibration" in last.why
    again = replace(
        ctx, clock=lambda: START + timedelta(days=60), span=(START - timedelta(days=5), START - timedelta(days=3))
    )
    performance(again)
    assert estimated.by_day(ctx.store, START - timedelta(days=9), "fraud")["fraud"] == days, (
        "what is rebuilt is what was there, however old"
    )
    shown = page(ctx, tmp_path, "/endpoints/fraud?range=42d")
    assert "Estimated performance" in shown and "cannot be known</span>: labels contradict the calibration" in shown
    assert (
        f"{accuracy.low:.3f} to {accuracy.high:.3f}<br>labels {accuracy.realised:.3f}" in shown
        and "all by labels" in shown
    )
    listed = list(csv.DictReader(io.StringIO(page(ctx, tmp_path, "/endpoints/fraud?range=42d&csv=performance"))))
    assert len(listed) == 6 * 5 and {row["value"] for row in listed if row["cannot_be_known"]} == {""}
    gauges = exported(ctx)
    assert gauges["unknown_days"] == {("fraud", "2"): unknown(days)} and unknown(days) > 0
    assert gauges["value"] == {} and gauges["reference"]["fraud", "2", "accuracy"] == accuracy.usual
    config = tmp_path / "lastgood.yaml"
    config.write_text(json.dumps({"storage": ctx.store.location, "endpoints": SETTINGS}))
    told = CliRunner().invoke(app, ["performance", "fraud", "--days", "3650", "--json", "--config", str(config)])
    assert told.exit_code == 0, told.output
    assert [day["metrics"][0]["value"] is None for day in json.loads(told.output)["days"]] == [
        day.metrics[0].value is None for day in days
    ]
    refused = CliRunner().invoke(app, ["performance", "chat", "--config", str(config)])
    assert refused.exit_code != 0


def test_scores_at_the_ends_and_beyond(make: Callable[..., Context]) -> None:
    """0 and 1 have cells of their own; what is no probability is counted as outside."""
    ctx = make(default={"performance": {}}, endpoints={"chat": {}}, now=START)
    outputs = ["0", "[1.0, 0]", "1e-9", "0.5", "7", "-0.1", None]
    put(ctx, [row(i, endpoint="fraud", output=output) for i, output in enumerate(outputs)] + [row(99, output="0.5")])
    performance(ctx)
    found = {
        (each["predicted"], each["cell"]): each["unlabelled"]
        for each in delta.read(ctx.store.path(tables.SCORE_CELLS)).to_pylist()
    }
    cell = int(np.searchsorted(even_grid().edges, 0.5, side="right"))
    assert sum(found.values()) == len(outputs)
    assert found[False, 0] == 2 and found[True, 513] == 1 and found[True, cell] == 1
    assert sum(count for (_, place), count in found.items() if place == -1) == 3


CLASSES = ("Prepaid", "street", "upmarket")
KINDS = {
    "cards": {"performance": {"kind": "classes", "classes": CLASSES, "scores": "$.scores", "reference_days": 2}},
    "listed": {"performance": {"kind": "classes", "classes": CLASSES, "reference_days": 2}},
    "price": {"performance": {"kind": "number", "reference_days": 2}},
}


def cards(days: int, per_day: int = 600) -> tuple[list[dict[str, Any]], float]:
    """Two endpoints that answer alike, one with a map and one with an array of probabilities that are right; labels of two days. One answer in a hundred has
    no scores. And the accuracy of the last day."""
    r, made, right = np.random.default_rng(4), [], []
    for i in range(days * per_day):
        day, scores = i // per_day, r.dirichlet((1.0, 0.6, 0.8))
        truth = CLASSES[r.choice(3, p=scores)]
        right += [truth == CLASSES[int(scores.argmax())]] * (day == days - 1)
        attributes = [("label.truth", truth.lower())] if day < 2 else []
        at = START - timedelta(days=days - day, hours=12) + timedelta(seconds=140 * (i % per_day))
        none = i % 100 == 7
        outputs = {
            "cards": json.dumps({"scores": dict(zip(CLASSES, scores, strict=True))}),
            "listed": json.dumps([list(scores)]),
        }
        made += [
            row(i, endpoint=name, requested_at=at, output="{}" if none else output, attributes=attributes)
            for name, output in outputs.items()
        ]
    return made, float(np.mean(right))


def prices(days: int, per_day: int = 600) -> tuple[list[dict[str, Any]], list[float]]:
    """A regressor that errs more the older a car is; cars get older. Labels of two days, and of a tenth. And the mean absolute error of each day."""
    r, made, errors = np.random.default_rng(5), [], [[] for _ in range(days)]
    for i in range(days * per_day):
        day = i // per_day
        age = r.uniform(0, 10) if day < 3 else r.uniform(5, 10)
        prediction = 30 - 2 * age
        truth = prediction + r.normal(0, 1 + age / 2)
        errors[day].append(abs(truth - prediction))
        attributes = [("label.truth", str(truth))] if day < 2 or r.random() < 0.1 else []
        if day > 2 and i % 50 == 3:
            attributes = [
                ("label.truth", ("nan", "infinity", "1e200", "dear")[i % 4])
            ]  # which are no numbers to learn from
        features = [("age", str(age)), ("fuel", ["gas", "diesel"][i % 2]), ("id", f"car {i}")]
        at = START - timedelta(days=days - day, hours=12) + timedelta(seconds=140 * (i % per_day))
        made.append(
            row(
                i, endpoint="price", requested_at=at, output=f"[{prediction}]", attributes=attributes, features=features
            )
        )
    return made, [float(np.mean(each)) for each in errors]


def test_classes_and_numbers_are_estimated_through_a_shift(make: Callable[..., Context], tmp_path: Path) -> None:
    ctx = make(endpoints=KINDS, now=START)
    (answers, accuracy), (numbers, errors) = cards(4), prices(5)
    put(ctx, answers + numbers)
    performance(ctx)
    made = estimated.by_day(ctx.store, START - timedelta(days=9))
    by_map, by_array = ([(day.rows, day.metrics) for day in made[name]] for name in ("cards", "listed"))
    assert by_map == by_array, "a map and an array of the same probabilities are one thing"
    last = made["cards"][-1].metrics[0]
    assert last.value is not None and last.low is not None and last.high is not None and last.labelled == 0
    assert last.low < accuracy < last.high and last.high - last.low < 0.15
    assert [day.rows for day in made["cards"]] == [600] * 4
    mae, usual = made["price"][-1].metrics[0], made["price"][-1].metrics[0].usual
    assert [metric.metric for metric in made["price"][-1].metrics] == ["mae", "rmse"]
    assert usual is not None and usual == pytest.approx(np.mean(errors[:2]), rel=1e-6)
    assert mae.value is not None and mae.low is not None and mae.high is not None and mae.realised is not None
    assert mae.low < errors[-1] < mae.high and mae.low > usual, (
        "older cars: a larger error is foreseen before their labels come"
    )
    assert 0.05 < mae.labelled < 0.2 and worse(made["price"], "mae") == 2 and not unknown(made["price"])
    gauges = exported(ctx)
    assert gauges["fell_days"]["price", "2", "mae"] == 2 and gauges["value"]["price", "2", "mae"] == mae.value
    assert gauges["low"]["cards", "2", "accuracy"] == last.low and gauges["unknown_days"]["cards", "2"] == 0
    shown = page(ctx, tmp_path, "/endpoints/price")
    assert (
        "Mean absolute error" in shown
        and f"Mean absolute error {usual:.4g}" in shown
        and 'href="/definitions#estimated-performance"' in shown
    )


def test_settings_of_all_endpoints_alone_are_enough(make: Callable[..., Context], tmp_path: Path) -> None:
    """`default.performance`, with no endpoint named, and with one that is named and says nothing of it: that one is not estimated."""
    how = SETTINGS["fraud"]["performance"]
    for name, endpoints in (("none", {}), ("other", {"chat": {}})):
        ctx = make(name, default={"performance": how}, endpoints=endpoints, now=START)
        put(ctx, requests(3, 300) + [row(10_000 + i, output='{"p": 0.3}') for i in range(20)])
        performance(ctx)
        made = estimated.by_day(ctx.store, START - timedelta(days=9))
        assert sorted(made) == (["fraud"] if endpoints else ["chat", "fraud"])
        assert made["fraud"][-1].metrics[0].value is not None
        config = tmp_path / f"{name}.yaml"
        config.write_text(
            json.dumps({"storage": ctx.store.location, "default": {"performance": how}, "endpoints": endpoints})
        )
        shown = CliRunner().invoke(app, ["performance", "fraud", "--days", "3650", "--json", "--config", str(config)])
        assert shown.exit_code == 0 and len(json.loads(shown.output)["days"]) == 3, shown.output
