"""The job `performance` on Delta, read back without Spark: labels come for a tenth, then the relation of input and label changes."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jobs_support import START, row
from typer.testing import CliRunner

from lastgood import tables
from lastgood.cli.app import app
from lastgood.jobs.performance import performance
from lastgood.record import telemetry
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


def test_performance_is_estimated_then_contradicted(make: Callable[..., Context], tmp_path: Path) -> None:
    ctx = make(endpoints=SETTINGS, now=START)
    given = requests(6, wrong_from=4)
    put(ctx, given)
    run = performance(ctx)
    assert run is not None and run.rows_in == len(given) and performance(ctx) is None
    days = estimated.by_day(ctx.store, "fraud", 2, START - timedelta(days=9))
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
    config = tmp_path / "lastgood.yaml"
    config.write_text(json.dumps({"storage": ctx.store.location, "endpoints": SETTINGS}))
    shown = CliRunner().invoke(app, ["performance", "fraud", "--days", "3650", "--json", "--config", str(config)])
    assert shown.exit_code == 0, shown.output
    assert [day["metrics"][0]["value"] is None for day in json.loads(shown.output)["days"]] == [
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
    cell = int(np.searchsorted(estimated.even_grid().edges, 0.5, side="right"))
    assert sum(found.values()) == len(outputs)
    assert found[False, 0] == 2 and found[True, 513] == 1 and found[True, cell] == 1
    assert sum(count for (_, place), count in found.items() if place == -1) == 3
