"""Requests of classifiers -> per version and hour, how many have a score in each cell, and what labels say of them: what performance is estimated of.

Only sums leave Spark. The cells are the same for all (even in log odds), so hours, versions and parts add up, and a reference may be chosen later
(lastgood.tables.estimated).
"""

from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.outcomes import NO, YES
from lastgood.jobs.touched import HOUR_S, Measure, Touched, recompute
from lastgood.judge.reference import CELLS_BETWEEN, LOG_ODDS
from lastgood.settings import Settings
from lastgood.tables.runs import Context, Run

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def cells(rows: "DataFrame", settings: Settings) -> "DataFrame":
    """Requests with window_start -> rows of `score_cells`, of successful requests to endpoints that have `performance` in their settings."""
    from pyspark.sql import functions as f

    score, threshold = f.lit(None).cast("double"), f.lit(None).cast("double")
    others = ~f.col("endpoint").isin(*settings.endpoints)
    for here, own in (
        (others, settings.default),
        *((f.col("endpoint") == name, own) for name, own in settings.endpoints.items()),
    ):
        if how := own.performance:
            score = f.when(here, f.regexp_extract("output", how.score, 1).try_cast("double")).otherwise(score)
            threshold = f.when(here, how.threshold).otherwise(threshold)
    answered = rows.where(f.col("error_code").isNull() & f.col("model_version").isNotNull() & threshold.isNotNull())
    odds = f.ln(f.col("score") / (1 - f.col("score")))
    cell = (
        f.when(f.col("score").isNull() | ~f.col("score").between(0, 1), -1)
        .when(f.col("score") == 0, 0)
        .when(f.col("score") == 1, CELLS_BETWEEN + 1)
        .otherwise(f.width_bucket(odds, f.lit(-LOG_ODDS), f.lit(LOG_ODDS), f.lit(CELLS_BETWEEN)))
    )
    truth = f.col("attributes")["label.truth"]
    label = f.when(truth.isin(*YES), 1).when(truth.isin(*NO), 0)
    marked = answered.select(
        "endpoint",
        "model_version",
        "window_start",
        score.alias("score"),
        threshold.alias("threshold"),
        label.alias("label"),
    ).withColumns(
        {"cell": cell.cast("int"), "predicted": f.coalesce(f.col("score") >= f.col("threshold"), f.lit(False))}
    )
    return marked.groupBy("endpoint", "model_version", "window_start", "predicted", "cell").agg(
        f.count_if(f.col("label").isNull()).alias("unlabelled"),
        f.count("label").alias("labelled"),
        f.coalesce(f.sum("label"), f.lit(0)).cast("bigint").alias("positive"),
    )


def _make(ctx: Context, rows: "DataFrame", _: Touched) -> "DataFrame":
    return cells(rows, ctx.settings)


def performance(ctx: Context) -> Run | None:
    """Bring `score_cells` up to date with `requests`; None when nothing changed, or no endpoint has `performance` in its settings."""
    if not any(each.performance for each in (ctx.settings.default, *ctx.settings.endpoints.values())):
        return None
    return recompute(ctx, Measure("performance", tables.SCORE_CELLS, _make, seconds=HOUR_S))
