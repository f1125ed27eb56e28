"""Windows: changed requests -> window counts and output-quality counts of just the windows they touch; minutes -> hours -> days."""

from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs import counting
from lastgood.jobs.keyed import SCORE_PREFIX
from lastgood.jobs.quality import quality_flags
from lastgood.jobs.requesters import known_as, salts, within
from lastgood.jobs.spark import narrow_rows
from lastgood.jobs.touched import Measure, Touched, recompute, window_start
from lastgood.record.telemetry import TOKENS, spark_ddl
from lastgood.record.windows import CHARS_PER_TOKEN, SIZE_EDGES
from lastgood.tables.runs import Context, Run

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

KEY = list(counting.KEY)
MAX_TASKS = 200
_COUNTED = (
    "endpoint", "model_version", "window_start", "latency_scope", "weight", "latency_ms", "ttft_ms", "feature_age_ms", *TOKENS,
    "error_code", "requester",
)  # fmt: skip


def _stratum() -> "Column":
    """windows.stratum as a Spark column."""
    from pyspark.sql import functions as f

    tokens = f.coalesce(f.length("input") / CHARS_PER_TOKEN, f.col("tokens_in"))
    size = f.lit("more")
    for edge in reversed(SIZE_EDGES):
        size = f.when(tokens < edge, f.lit(str(edge))).otherwise(size)
    size = f.when(tokens.isNull(), f.lit("?")).otherwise(size)
    return f.concat_ws("/", f.coalesce("latency_scope", f.lit("?")), size)


def keyed(requests: "DataFrame", seconds: int, salted: dict[str, str] | None = None) -> "DataFrame":
    """Requests with the window key. `salted`: month -> salt of the hashes that stand for requesters."""
    from pyspark.sql import functions as f

    return (
        requests.withColumn("model_version", f.coalesce("model_version", f.lit("?")))
        .withColumn("stratum", _stratum())
        .withColumn("window_start", window_start(seconds))
        .withColumn("weight", f.coalesce("weight", f.lit(1.0)))
        .withColumn("requester", known_as(salted) if salted else f.col("requester"))
    )


def count(requests: "DataFrame", hours: int | None = None) -> "DataFrame":
    """Keyed requests -> rows of the `windows` table (columns of tables.WINDOWS). `hours`: how many they are of, where known."""
    from pyspark.sql import functions as f

    named = f.map_filter("attributes", lambda name, _: name.startswith(SCORE_PREFIX))
    scores = f.transform_keys(named, lambda name, _: name.substr(f.lit(len(SCORE_PREFIX) + 1), f.length(name)))
    numbers = f.transform_values(scores, lambda _, value: value.try_cast("double"))
    tokens = f.coalesce(f.length("input") / CHARS_PER_TOKEN, f.col("tokens_in").cast("double"))
    rows = requests.select(
        *_COUNTED, tokens.alias("size"), f.when(f.col("attributes").isNotNull(), numbers).alias("scores")
    )
    return _together(rows.mapInArrow(counting.count_batches, counting.PACKED), hours)


def add(windows: "DataFrame") -> "DataFrame":
    """Window counts, several rows of a key -> one of each key."""
    return _together(windows.select(*tables.WINDOWS.columns).mapInArrow(counting.pack_batches, counting.PACKED))


def _together(packed: "DataFrame", hours: int | None = None) -> "DataFrame":
    # About an hour to a task: so a batch of parts is no more than what adding up an hour holds anyway.
    by_hour = packed.repartition(min(hours, MAX_TASKS), "bucket") if hours else packed.repartition("bucket")
    by_hour = by_hour.sortWithinPartitions("bucket")
    return by_hour.mapInArrow(counting.add_batches, spark_ddl(tables.WINDOWS.fields))


def aged(ctx: Context, rows: "DataFrame", which: Touched) -> "DataFrame":
    """Requests that do not say how old their features were get the age of the endpoint's oldest source, as it was last known
    before the request (table `freshness`)."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    if not any(settings.features for settings in ctx.settings.endpoints.values()):
        return rows
    known = (
        ctx.store.read(ctx.spark, tables.FRESHNESS).groupBy("endpoint", "checked_at").agg(f.min("as_of").alias("as_of"))
    )
    following = f.lead("checked_at").over(Window.partitionBy("endpoint").orderBy("checked_at"))
    known = known.withColumn("until", following).withColumnRenamed("endpoint", "of").where("as_of IS NOT NULL")
    # Each request is held against every check that is left: only those that were in force in the touched time are.
    first, last = (
        f.timestamp_seconds(f.lit(edge(span[i] for span in which.spans))) for i, edge in enumerate((min, max))
    )
    known = known.where((f.col("checked_at") < last) & f.coalesce(f.col("until") > first, f.lit(True)))
    at = f.col("requested_at")
    then = (
        (f.col("of") == f.col("endpoint")) & (at >= f.col("checked_at")) & f.coalesce(at < f.col("until"), f.lit(True))
    )
    since = (f.unix_micros(at) - f.unix_micros("as_of")) / 1000
    age = f.when(since.isNotNull(), f.greatest(f.lit(0.0), since))  # greatest() alone takes unknown for less than 0
    joined = rows.join(f.broadcast(known), then, "left").withColumn("feature_age_ms", f.coalesce("feature_age_ms", age))
    return joined.select(*rows.columns)


def _count(ctx: Context, rows: "DataFrame", which: Touched) -> "DataFrame":
    return count(keyed(aged(ctx, rows, which), ctx.settings.window_s, salts(ctx, within(which.spans))), which.hours)


WINDOWS = Measure("windows", tables.WINDOWS, _count)
QUALITY = Measure(
    "quality",
    tables.QUALITY,
    lambda ctx, rows, which: quality_flags(
        keyed(rows, ctx.settings.window_s, salts(ctx, within(which.spans))), ctx.settings.bad_answers
    ),
)
HOURS = Measure(
    "hours", tables.WINDOWS_HOUR, lambda ctx, rows, _: add(rows), tables.WINDOWS, "window_start", 3600
)  # fmt: skip
DAYS = Measure(
    "days", tables.WINDOWS_DAY, lambda ctx, rows, _: add(rows), tables.WINDOWS_HOUR, "window_start",
    86_400,
)  # fmt: skip


def windows(ctx: Context) -> Run | None:
    """Bring `windows` up to date with `requests`; None when nothing changed."""
    with narrow_rows(ctx.spark):
        return recompute(ctx, WINDOWS)


def quality(ctx: Context) -> Run | None:
    """Bring `quality` up to date with `requests`; None when nothing changed."""
    return recompute(ctx, QUALITY)


def rollup(ctx: Context) -> Run | None:
    """Bring `windows_hour` and `windows_day` up to date with `windows`; the run of the hours."""
    run = recompute(ctx, HOURS)
    recompute(ctx, DAYS)
    return run
