"""Requests of classifiers and regressors -> what their performance is estimated of: counts by cell of the score, and of regressors a sample of each day.

Sums and bounded samples leave Spark, no other rows. The cells are the same for all (even in log odds), so hours, versions and parts add up, and a
reference may be chosen later. `jobs.estimating` makes the days' estimates of them.
"""

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.estimating import estimates, plans
from lastgood.jobs.outcomes import NO, YES
from lastgood.jobs.samples import smallest
from lastgood.jobs.touched import HOUR_S, Measure, Touched, recompute
from lastgood.judge.reference import CELLS_BETWEEN, LOG_ODDS
from lastgood.settings import Settings
from lastgood.settings.endpoint import Performance
from lastgood.tables.runs import Context, Run

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

DAY_S = 86_400


def _of_each(settings: Settings, make: Callable[[Performance], "Column"]) -> "Column":
    """What an endpoint's own settings make of a row; null where they say nothing."""
    from pyspark.sql import functions as f

    made = f.lit(None)
    for name, how in plans(settings).items():
        if how is not None:
            here = f.col("endpoint") == name if name else ~f.col("endpoint").isin(*settings.endpoints)
            made = f.when(here, make(how)).otherwise(made)
    return made


def _number(how: Performance) -> "Column":
    from pyspark.sql import functions as f

    return f.regexp_extract("output", how.score, 1).try_cast("double")


def _counted(how: Performance) -> "Column":
    """array<struct<class_name, predicted, score, label>> of an answer: one entry, or one for each class."""
    from pyspark.sql import functions as f

    truth = f.col("attributes")["label.truth"]

    def entry(name: str | None, predicted: "Column", score: "Column", label: "Column") -> "Column":
        return f.struct(
            f.lit(name).cast("string").alias("class_name"), f.coalesce(predicted, f.lit(False)).alias("predicted"),
            score.cast("double").alias("score"), label.cast("int").alias("label"),
        )  # fmt: skip

    if how.kind == "number":
        known = f.when(_number(how).isNotNull(), 0.0)
        return f.array(entry(None, f.lit(False), known, f.when(truth.try_cast("double").isNotNull(), 0)))
    if how.kind == "yes_no":
        label = f.when(truth.isin(*YES), 1).when(truth.isin(*NO), 0)
        return f.array(entry(None, _number(how) >= how.threshold, _number(how), label))
    text = f.get_json_object("output", how.scores)
    by_name, by_place = f.from_json(text, "map<string,double>"), f.from_json(text, "array<double>")
    scores = [f.coalesce(by_name[name], f.get(by_place, place)) for place, name in enumerate(how.classes)]
    labels = [f.when(truth.isNotNull(), (truth == name.strip().lower()).cast("int")) for name in how.classes]
    answer = f.array_position(f.array(*scores), f.greatest(*scores))
    whole = reduce(lambda a, b: a & b, (f.coalesce(score.between(0, 1), f.lit(False)) for score in scores))
    entries = [
        entry(name, answer == place, score, label)
        for place, (name, score, label) in enumerate(zip(how.classes, scores, labels, strict=True), 1)
    ]
    return f.when(whole, f.array(*entries)).otherwise(
        f.array(entry(how.classes[0], f.lit(False), f.lit(None), labels[0]))
    )


def _answered(rows: "DataFrame") -> "DataFrame":
    from pyspark.sql import functions as f

    return rows.where(f.col("error_code").isNull() & f.col("model_version").isNotNull())


def cells(rows: "DataFrame", settings: Settings) -> "DataFrame":
    """Requests with window_start -> rows of `score_cells`, of successful requests to endpoints that have `performance` in their settings."""
    from pyspark.sql import functions as f

    score = f.col("score")
    cell = (
        f.when(score.isNull() | ~score.between(0, 1), -1)
        .when(score == 0, 0)
        .when(score == 1, CELLS_BETWEEN + 1)
        .otherwise(f.width_bucket(f.ln(score / (1 - score)), f.lit(-LOG_ODDS), f.lit(LOG_ODDS), f.lit(CELLS_BETWEEN)))
    )
    key = ("endpoint", "model_version", "window_start")
    entries = (
        _answered(rows).select(*key, f.explode(_of_each(settings, _counted)).alias("entry")).select(*key, "entry.*")
    )
    marked = entries.withColumn("cell", cell.cast("int"))
    return marked.groupBy(*key, "class_name", "predicted", "cell").agg(
        f.count_if(f.col("label").isNull()).alias("unlabelled"),
        f.count("label").alias("labelled"),
        f.coalesce(f.sum("label"), f.lit(0)).cast("bigint").alias("positive"),
    )


def predictions(rows: "DataFrame", settings: Settings) -> "DataFrame":
    """Requests with window_start (days) -> rows of `predictions`: of each regressor's version and day the answers with the smallest hashes of their ids."""
    from pyspark.sql import functions as f

    number = _of_each(settings, lambda how: _number(how) if how.kind == "number" else f.lit(None).cast("double"))
    shaped = _answered(rows).select(
        "endpoint", "model_version", "window_start", "request_id", "requested_at", f.xxhash64("request_id").alias("hash"),
        number.alias("prediction"), f.col("attributes")["label.truth"].try_cast("double").alias("truth"), "features",
    ).where("prediction IS NOT NULL")  # fmt: skip
    return smallest(shaped, "endpoint", "model_version", "window_start")


def performance(ctx: Context) -> Run | None:
    """Bring `score_cells`, `predictions` and `estimates` up to date with `requests`; None when nothing changed, or no endpoint has `performance` in its
    settings."""
    known = [how for how in plans(ctx.settings).values() if how]
    if not known:
        return None

    def counted(context: Context, rows: "DataFrame", _: Touched) -> "DataFrame":
        return cells(rows, context.settings)

    def sampled(context: Context, rows: "DataFrame", _: Touched) -> "DataFrame":
        return predictions(rows, context.settings)

    if any(how.kind == "number" for how in known):
        recompute(ctx, Measure("predictions", tables.PREDICTIONS, sampled, seconds=DAY_S))
    return recompute(ctx, Measure("performance", tables.SCORE_CELLS, counted, seconds=HOUR_S, then=estimates))
