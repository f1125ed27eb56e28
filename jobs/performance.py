"""Requests of classifiers and regressors -> what their performance is estimated of: counts by cell of the score, and of regressors a sample of each day.

Sums and bounded samples leave Spark, no other rows. The cells are the same for all (even in log odds), so hours, versions and parts add up, and a
reference may be chosen later. `jobs.estimating` makes the days' estimates of them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.columns import by_endpoint
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

DAY_S, LARGEST = 86_400, 1e150


def _of_each(settings: Settings, make: Callable[[Performance], "Column"]) -> "Column":
    """What an endpoint's own settings make of a row; null where they say nothing."""
    return by_endpoint(settings, lambda own: make(own.performance) if own.performance else None)


def _finite(text: "Column") -> "Column":
    """The number that a text is, where its square is one too."""
    from pyspark.sql import functions as f

    number = text.try_cast("double")
    return f.when(f.abs(number) < LARGEST, number)


def _number(how: Performance) -> "Column":
    from pyspark.sql import functions as f

    return _finite(f.regexp_extract("output", how.score, 1))


def _marked(rows: "DataFrame", settings: Settings) -> "DataFrame":
    """With what the settings say of each row: `how` (kind, threshold, names), the `number` that it answers, or the `scores` of its classes.

    Column by column: an expression that is written out for each class would read the answer's JSON as often.
    """
    from pyspark.sql import functions as f

    def only(kind: str, make: Callable[[Performance], "Column"], empty: str) -> "Column":
        return _of_each(settings, lambda how: make(how) if how.kind == kind else f.lit(None).cast(empty))

    told = rows.select(
        "endpoint", "model_version", "window_start",
        f.col("attributes")["label.truth"].alias("truth"),
        _of_each(settings, lambda how: f.lit(how.kind)).alias("kind"),
        only("yes_no", lambda how: f.lit(how.threshold), "double").alias("threshold"),
        only("classes", lambda how: f.array(*map(f.lit, how.classes)), "array<string>").alias("names"),
        only("classes", lambda how: f.get_json_object("output", how.scores), "string").alias("text"),
        _of_each(settings, lambda how: f.lit(None).cast("double") if how.kind == "classes" else _number(how)).alias("number"),
    ).where("kind IS NOT NULL")  # fmt: skip
    listed = f.when(f.col("text").startswith("["), f.from_json("text", "array<double>"))
    named = f.when(f.col("text").startswith("{"), f.from_json("text", "map<string,double>"))
    # A generator of one row: without it the optimizer writes the parsing into the function that is called for each class.
    parsed = told.select("*", f.inline_outer(f.array(f.struct(listed.alias("listed"), named.alias("named")))))
    scores = f.transform("names", lambda name, place: f.coalesce(f.col("named")[name], f.get("listed", place)))
    return parsed.withColumn("scores", scores).drop("text", "listed", "named")


def _entries() -> "Column":
    """array<struct<class_name, predicted, score, label>> of an answer: one entry, or one for each class."""
    from pyspark.sql import functions as f

    truth, number, scores, names = (f.col(name) for name in ("truth", "number", "scores", "names"))

    def entry(name: "Column", predicted: "Column", score: "Column", label: "Column") -> "Column":
        return f.struct(
            name.cast("string").alias("class_name"), f.coalesce(predicted, f.lit(False)).alias("predicted"),
            score.cast("double").alias("score"), label.cast("int").alias("label"),
        )  # fmt: skip

    def of_class(name: "Column") -> "Column":
        return f.when(truth.isNotNull(), (truth == f.lower(f.trim(name))).cast("int"))

    none, no = f.lit(None), f.lit(False)
    binary = f.when(truth.isin(*YES), 1).when(truth.isin(*NO), 0)
    highest = f.array_position(scores, f.array_max(scores))
    return (
        f.when(f.col("kind") == "yes_no", f.array(entry(none, number >= f.col("threshold"), number, binary)))
        .when(f.col("kind") == "number", f.array(entry(none, no, f.when(number.isNotNull(), 0.0), f.when(_finite(truth).isNotNull(), 0))))
        .when(
            f.forall(scores, lambda score: f.coalesce(score.between(0, 1), no)),
            f.transform(names, lambda name, place: entry(name, place + 1 == highest, f.get(scores, place), of_class(name))),
        )
        .otherwise(f.array(entry(f.get(names, f.lit(0)), no, none, of_class(f.get(names, f.lit(0))))))
    )  # fmt: skip


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
    marked = _marked(_answered(rows), settings).withColumn("entries", _entries())
    # Never empty; from a plain `explode` a filter is made that computes the entries once more.
    entries = marked.select(*key, f.explode_outer("entries").alias("entry")).select(*key, "entry.*")
    return (
        entries.withColumn("cell", cell.cast("int"))
        .groupBy(*key, "class_name", "predicted", "cell")
        .agg(
            f.count_if(f.col("label").isNull()).alias("unlabelled"),
            f.count("label").alias("labelled"),
            f.coalesce(f.sum("label"), f.lit(0)).cast("bigint").alias("positive"),
        )
    )


def predictions(rows: "DataFrame", settings: Settings) -> "DataFrame":
    """Requests with window_start (days) -> rows of `predictions`: of each regressor's version and day the answers with the smallest hashes of their ids."""
    from pyspark.sql import functions as f

    number = _of_each(settings, lambda how: _number(how) if how.kind == "number" else f.lit(None).cast("double"))
    shaped = _answered(rows).select(
        "endpoint", "model_version", "window_start", "request_id", "requested_at", f.xxhash64("request_id").alias("hash"),
        number.alias("prediction"), _finite(f.col("attributes")["label.truth"]).alias("truth"), "features",
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
