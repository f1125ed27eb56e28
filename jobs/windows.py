"""Windows: changed requests -> mergeable window counts, and output-quality counts, of just the windows they touch."""

from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.quality import quality_flags
from lastgood.runs import Context, Run, increment, merge
from lastgood.windows import CAP_REQUESTERS, CHARS_PER_TOKEN, GROWTH, KEPT_REQUESTERS, SIZE_EDGES, START_TOKENS, ZERO

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

KEY = ["endpoint", "model_version", "stratum", "window_start"]
METRICS = {
    "latency": "latency_ms", "ttft": "ttft_ms", "feature_age": "feature_age_ms", "length": "tokens_out", "pace": "pace_ms",
}  # fmt: skip
SCORE_PREFIX = "eval."
"""Attributes with this prefix are evaluation scores or labels, 0-1."""


_WORST = {"slow": "latency_ms", "paced": "pace_ms"}
_ENTRIES = "array<struct<metric:string,bucket:int,code:string,value:double>>"


def window_start(seconds: int) -> "Column":
    """Start of the window that holds requested_at."""
    from pyspark.sql import functions as f

    width = seconds * 1_000_000
    return f.timestamp_micros(f.floor(f.unix_micros("requested_at") / width) * width)


def _bucket(column: str) -> "Column":
    """windows.bucket as a Spark column."""
    from pyspark.sql import functions as f

    value = f.col(column)
    return f.when(value > 0, f.floor(f.log(value) / f.log(f.lit(GROWTH))).cast("int")).when(value <= 0, f.lit(ZERO))


def _stratum() -> "Column":
    """windows.stratum as a Spark column."""
    from pyspark.sql import functions as f

    tokens = f.coalesce(f.length("input") / CHARS_PER_TOKEN, f.col("tokens_in"))
    size = f.lit("more")
    for edge in reversed(SIZE_EDGES):
        size = f.when(tokens < edge, f.lit(str(edge))).otherwise(size)
    size = f.when(tokens.isNull(), f.lit("?")).otherwise(size)
    return f.concat_ws("/", f.coalesce("latency_scope", f.lit("?")), size)


def keyed(requests: "DataFrame", seconds: int) -> "DataFrame":
    """Requests with the window key."""
    from pyspark.sql import functions as f

    return (
        requests.withColumn("model_version", f.coalesce("model_version", f.lit("?")))
        .withColumn("stratum", _stratum())
        .withColumn("window_start", window_start(seconds))
        .withColumn("weight", f.coalesce("weight", f.lit(1.0)))
        .withColumn("pace_ms", f.col("latency_ms") / (f.col("tokens_out") + START_TOKENS))
    )


def count(requests: "DataFrame") -> "DataFrame":
    """Keyed requests -> rows of the `windows` table (columns of tables.WINDOWS)."""
    from pyspark.sql import functions as f

    null = f.lit(None)

    def entry(metric: str, bucket: "Column", code: "Column", when: "Column", value: "Column" = null) -> "Column":
        parts = (f.lit(metric).alias("metric"), bucket.cast("int").alias("bucket"), code.alias("code"))
        return f.when(when, f.struct(*parts, value.cast("double").alias("value")))

    text = null.cast("string")
    known = f.substring(f.sha2("requester", 256), 1, 12)
    entries = [
        entry("n", null, text, f.lit(True)),
        entry("error", null, f.col("error_code"), f.col("error_code").isNotNull()),
        entry("who", null, known, f.col("requester").isNotNull()),
    ]
    entries += [entry(m, _bucket(c), text, f.col(c).isNotNull() & ~f.isnan(c)) for m, c in METRICS.items()]
    evals = f.filter(f.map_keys("attributes"), lambda name: name.startswith(SCORE_PREFIX))
    scores = f.transform(
        evals,
        lambda name: entry(
            "score", null, name.substr(f.lit(len(SCORE_PREFIX) + 1), f.length(name)), f.lit(True),
            f.col("attributes")[name].try_cast("double"),
        ),
    )  # fmt: skip
    all_entries = f.concat(f.array(*entries), f.coalesce(scores, f.array().cast(_ENTRIES)))
    long = requests.select(
        *KEY,
        "weight",
        (f.col("tokens_in") * f.col("weight")).alias("tin"),
        (f.col("tokens_out") * f.col("weight")).alias("tout"),
        f.when(f.col("error_code").isNotNull(), f.coalesce(known, f.lit("?"))).alias("who"),
        *(f.when(f.col(column) > 0, _bucket(column)).cast("bigint").alias(name) for name, column in _WORST.items()),
        f.explode(f.filter(all_entries, lambda one: one.isNotNull())).alias("e"),
    ).select(
        "*",
        "e.metric",
        "e.bucket",
        "e.code",
        f.when(f.col("e.value").isNotNull(), f.least(f.greatest("e.value", f.lit(0.0)), f.lit(1.0))).alias("value"),
    )
    cells = long.groupBy(*KEY, "metric", "bucket", "code").agg(
        f.sum("weight").alias("w"),
        f.count("*").alias("rows"),
        f.sum("tin").alias("tin"),
        f.sum("tout").alias("tout"),
        f.collect_set(f.when(f.col("metric") == "error", f.col("who"))).alias("who"),
        f.array(
            f.count("*"), f.count("who"), f.coalesce(f.max("slow"), f.lit(ZERO)), f.coalesce(f.max("paced"), f.lit(ZERO)),
            *(part for name in _WORST for part in (f.count(name), f.coalesce(f.sum(name), f.lit(0)))),
        ).alias("facts"),
        f.array(f.count("value").cast("double"), f.sum("value"), f.sum(f.col("value") * f.col("value"))).alias("sums"),
    )  # fmt: skip

    def named(metric: str, what: str, cap: int, name: str) -> "Column":
        cell = f.when((f.col("metric") == metric) & (f.element_at(what, 1) > 0), f.struct("code", what))
        return f.map_from_entries(f.slice(f.array_sort(f.collect_list(cell)), 1, cap)).alias(name)

    def histogram(metric: str, by: str) -> "Column":
        cell = f.when(f.col("metric") == metric, f.struct(by, "w"))
        return f.map_from_entries(f.array_sort(f.collect_list(cell))).alias({"error": "errors"}.get(metric, metric))

    total = f.col("metric") == "n"
    return (
        cells.groupBy(*KEY)
        .agg(
            f.sum(f.when(total, f.col("rows"))).alias("rows"),
            f.sum(f.when(total, f.col("w"))).alias("requests"),
            histogram("error", "code"),
            *(histogram(metric, "bucket") for metric in METRICS),
            f.coalesce(f.sum(f.when(total, f.col("tin"))), f.lit(0.0)).alias("tokens_in"),
            f.coalesce(f.sum(f.when(total, f.col("tout"))), f.lit(0.0)).alias("tokens_out"),
            f.slice(
                f.array_sort(f.array_distinct(f.flatten(f.collect_list("who")))),
                1,
                KEPT_REQUESTERS,
            ).alias("error_requesters"),
            named("who", "facts", CAP_REQUESTERS, "requesters"),
            named("score", "sums", CAP_REQUESTERS, "scores"),
        )
        .select(*tables.WINDOWS.columns)
    )


def _recompute(ctx: Context, job: str, table: tables.Table) -> Run | None:
    """Counts of all windows that hold a changed request, replacing what the table has of those windows."""
    from pyspark.sql import functions as f

    make = {"windows": count, "quality": quality_flags}[job]
    seconds = ctx.settings.window_s
    with increment(ctx, job, tables.REQUESTS) as found:
        if found is None:
            return None
        changes, run = found
        touched = changes.select("endpoint", window_start(seconds).alias("window_start"))
        touched = touched.groupBy("endpoint", "window_start").agg(f.count("*").alias("rows"))
        facts = touched.agg(
            f.sum("rows").alias("rows"),
            f.min("window_start").alias("a"),
            f.max("window_start").alias("z"),
        ).collect()[0]
        if not facts["rows"]:
            return run
        run.rows_in = facts["rows"]
        near = f"BETWEEN timestamp'{facts['a']}' AND timestamp'{facts['z']}'"
        ids = touched.select("endpoint", "window_start")
        requests = ctx.store.read(ctx.spark, tables.REQUESTS).where(
            f"requested_at >= timestamp'{facts['a']}' AND requested_at < timestamp'{facts['z']}' + INTERVAL {seconds} SECONDS"
        )
        fresh = make(keyed(requests, seconds).join(f.broadcast(ids), ["endpoint", "window_start"], "left_semi"))
        old = (
            ctx.store.read(ctx.spark, table)
            .where(f"window_start {near}")
            .join(f.broadcast(ids), ["endpoint", "window_start"], "left_semi")
        )
        gone = old.select(*KEY).join(fresh.select(*KEY), KEY, "left_anti")
        rest = [f.lit(None).cast(one.type).alias(one.name) for one in table.fields if one.name not in KEY]
        source = fresh.withColumn("_gone", f.lit(False)).unionByName(
            gone.select(*KEY, *rest, f.lit(True).alias("_gone"))
        )
        names = ", ".join(table.columns)
        sets = ", ".join(f"{name} = s.{name}" for name in table.columns if name not in KEY)
        run.rows_out = merge(
            ctx,
            source,
            table,
            " AND ".join(f"t.{name} = s.{name}" for name in KEY) + f" AND t.window_start {near}",
            f"WHEN MATCHED AND s._gone THEN DELETE WHEN MATCHED THEN UPDATE SET {sets} "
            f"WHEN NOT MATCHED AND NOT s._gone THEN INSERT ({names}) VALUES ({', '.join('s.' + name for name in table.columns)})",
        )
        return run


def windows(ctx: Context) -> Run | None:
    """Bring `windows` up to date with `requests`; None when nothing changed."""
    return _recompute(ctx, "windows", tables.WINDOWS)


def quality(ctx: Context) -> Run | None:
    """Bring `quality` up to date with `requests`; None when nothing changed."""
    return _recompute(ctx, "quality", tables.QUALITY)
