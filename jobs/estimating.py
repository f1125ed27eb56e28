"""Cells of scores and samples of numbers -> rows of `estimates`: each version's days, in Spark's workers. The method is lastgood.judge (pure)."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood import tables
from lastgood.jobs.touched import Touched
from lastgood.judge.days import Counted, Day, Floats, Group, days
from lastgood.judge.performance import CLASSIFICATION
from lastgood.judge.reference import LABELLED, OVER, SQUARES, TOTAL, UNLABELLED, calibrated, even_grid
from lastgood.record.telemetry import arrow_schema, spark_ddl
from lastgood.settings import Settings
from lastgood.settings.endpoint import Performance
from lastgood.tables.runs import Context, Run, replace_rows

LOOK = timedelta(days=45)
"""Days older than this are not estimated anew: labels come later only rarely."""
EPOCH = date(1970, 1, 1)
DAY_US = 86_400_000_000
SCHEMA = arrow_schema(tables.ESTIMATES.fields)


def plans(settings: Settings) -> Mapping[str, Performance | None]:
    """Endpoint -> how its performance is estimated; '' of those that are not named."""
    return {name: own.performance for name, own in settings.endpoints.items()} | {"": settings.default.performance}


def by_day(rows: pa.Table) -> dict[date, pa.Table]:
    """Rows with `day` (since 1970) by day, in order."""
    return {
        EPOCH + timedelta(days=day): rows.filter(pc.equal(rows["day"], day))
        for day in sorted(set(rows["day"].to_pylist()))
    }


def answers(cells: pa.Table) -> int:
    """How many they count."""
    return int(pc.sum(pc.add(cells["unlabelled"], cells["labelled"])).as_py() or 0)


def _tally(cells: pa.Table) -> Floats:
    """One class's cells as a tally."""
    counts = np.zeros((2, even_grid().cells, OVER + 1))
    place = (cells["predicted"].cast(pa.int8()).to_numpy(), cells["cell"].to_numpy())
    columns = {UNLABELLED: "unlabelled", LABELLED: "labelled", TOTAL: "positive", SQUARES: "positive", OVER: "positive"}
    for column, name in columns.items():
        counts[(*place, column)] = cells[name].to_numpy()
    return counts


def of_cells(version: str, cells: pa.Table, how: Performance, since: date) -> list[Day]:
    """Cells of a classifier's version, by day -> its days from `since` on."""
    names: tuple[str | None, ...] = how.classes or (None,)
    counted: dict[date, Counted] = {}
    for day, rows in by_day(cells).items():
        scored = rows.filter(pc.greater_equal(rows["cell"], 0))
        outside = answers(rows.filter(pc.less(rows["cell"], 0)))
        by_class = [
            scored.filter(pc.equal(scored["class_name"], name) if name else pc.is_null(scored["class_name"]))
            for name in names
        ]
        tallies = [_tally(part) for part in by_class]
        counted[day] = Counted([tallies], outside, answers(by_class[0]) + outside)
    until = min(counted) + timedelta(days=how.reference_days)
    known = [each.tallies[0] for day, each in counted.items() if day < until]
    calibrations = [
        calibrated(even_grid(), np.sum([tallies[place] for tallies in known], axis=0)) for place in range(len(names))
    ]
    group: Group = (CLASSIFICATION, calibrations)
    return days(version, [group], counted, until, since)


def rows_of(endpoint: str, made: list[Day]) -> pa.Table:
    """Days as rows of `estimates`."""
    return pa.Table.from_pylist(
        [
            vars(metric) | {
                "endpoint": endpoint, "model_version": day.model_version, "rows": day.rows, "reference": day.reference,
                "window_start": datetime(day.day.year, day.day.month, day.day.day, tzinfo=UTC), "reason": metric.reason or None,
            }
            for day in made for metric in day.metrics
        ],
        SCHEMA,
    )  # fmt: skip


def in_workers(plans: Mapping[str, Performance | None], since: date) -> Callable[[Any, pa.Table, pa.Table], pa.Table]:
    """The function that Spark applies to the cells and the sample of one version."""

    def one_version(key: Any, cells: pa.Table, sample: pa.Table) -> pa.Table:
        endpoint, version = (part.as_py() for part in key)
        how = plans.get(endpoint, plans[""])
        if how is None or not cells.num_rows or EPOCH + timedelta(days=pc.max(cells["day"]).as_py()) < since:
            return SCHEMA.empty_table()
        if how.kind == "number":
            from lastgood.jobs.regressors import of_sample

            return rows_of(endpoint, of_sample(version, cells, sample, how, since))
        return rows_of(endpoint, of_cells(version, cells, how, since))

    return one_version


def estimates(ctx: Context, touched: Touched, run: Run) -> None:
    """Estimate the days of the endpoints anew, of LOOK and of what is rebuilt."""
    from pyspark.sql import functions as f

    now = ctx.clock()
    first = min(now - LOOK, ctx.span[0]) if ctx.span else now - LOOK
    since = datetime(first.year, first.month, first.day, tzinfo=UTC)
    named = plans(ctx.settings)
    where = (
        "true" if touched.endpoints is None else f"endpoint IN ({', '.join(map(tables.literal, touched.endpoints))})"
    )
    day = f.floor(f.unix_micros("window_start") / DAY_US).alias("day")
    cells = ctx.store.read(ctx.spark, tables.SCORE_CELLS).where(where)
    sums = [f.sum(name).alias(name) for name in ("unlabelled", "labelled", "positive")]
    by_day = cells.groupBy("endpoint", "model_version", day, "class_name", "predicted", "cell").agg(*sums)
    sample = ctx.store.read(ctx.spark, tables.PREDICTIONS).where(where).select(
        "endpoint", "model_version", day, "hash", "prediction", "truth", f.to_json("features").alias("features")
    )  # fmt: skip
    key = ("endpoint", "model_version")
    made = by_day.groupBy(*key).cogroup(sample.groupBy(*key)).applyInArrow(
        in_workers(named, since.date()), spark_ddl(tables.ESTIMATES.fields)
    )  # fmt: skip
    replace_rows(ctx, made, tables.ESTIMATES, f"{where} AND window_start >= timestamp'{since.isoformat()}'", run)
