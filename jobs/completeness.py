"""Completeness: how many requests a window holds of those there must have been, how late they came, and which bodies are missing."""

from typing import TYPE_CHECKING

from lastgood import tables, telemetry
from lastgood.config import Capture
from lastgood.jobs.touched import Measure, Touched, recompute
from lastgood.runs import Context, Run

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

KEY = list(tables.COMPLETENESS.key)


def _saw(kind: str) -> "Column":
    from pyspark.sql import functions as f

    names = [name for name, one in telemetry.SOURCES.items() if one == kind]
    return f.arrays_overlap("sources", f.array(*map(f.lit, names)))


def _known(pairs: "dict[str, Column]") -> "Column":
    """A map of the counts above 0."""
    from pyspark.sql import functions as f

    parts = [part for name, value in pairs.items() for part in (f.lit(name), value.cast("double"))]
    return f.map_filter(f.create_map(*parts), lambda _, value: value > 0)


def _seen(ctx: Context, rows: "DataFrame") -> "DataFrame":
    """What the requests themselves say of each window."""
    from pyspark.sql import functions as f

    off = [name for name, one in ctx.settings.endpoints.items() if one.capture in (Capture.NONE, Capture.FEATURES)]
    told = f.map_filter("attributes", lambda name, _: name.isin("unlogged", "body_problem"))
    why = (
        f.when(f.col("endpoint").isin(off), "capture is off")
        .when(f.contains(told["unlogged"], f.lit("MAX_RE")), "above the log's limit")
        .when(told["body_problem"].isNotNull(), "cannot be read")
        .otherwise("not logged")
    )
    lag = (f.unix_micros("received_at") - f.unix_micros("requested_at")) / 1000 - f.coalesce("latency_ms", f.lit(0.0))
    table, span = _saw(telemetry.TABLE), _saw(telemetry.SPAN)
    bare = table & f.col("error_code").isNull() & f.col("output").isNull()
    reasons = ("capture is off", "above the log's limit", "cannot be read", "not logged")
    only_usage = (
        f.size(
            f.array_except(
                "sources", f.array(*(f.lit(n) for n, k in telemetry.SOURCES.items() if k == telemetry.USAGE))
            )
        )
        == 0
    )
    facts = rows.withColumns({
        "evidence": ~only_usage,
        "model_version": f.coalesce("model_version", f.lit("?")), "why": f.when(bare, why), "lag": f.when(~only_usage, f.round(lag)),
        "answered": table & f.col("error_code").isNull(), "table": table, "span": span, "w": f.coalesce("weight", f.lit(1.0)),
    })  # fmt: skip
    return facts.groupBy(*KEY).agg(
        f.count("*").alias("rows"), f.count_if("evidence").alias("seen"), f.count_if(_saw(telemetry.USAGE)).alias("u"),
        f.sum(f.when(f.col("evidence"), f.col("w"))).alias("stand"), f.count_if("table").alias("t"), f.count_if("span").alias("s"),
        f.count_if(f.col("table") & f.col("span")).alias("both"),
        _known({one: f.count_if(f.array_contains("sources", one)) for one in telemetry.SOURCES}).alias("by_source"),
        f.percentile("lag", 0.5).alias("delivery_lag_p50_ms"), f.percentile("lag", 0.95).alias("delivery_lag_p95_ms"),
        (f.count("why") / f.nullif(f.count_if("answered"), f.lit(0))).alias("null_body_share"),
        _known({one: f.count_if(f.col("why") == one) for one in reasons}).alias("null_bodies"),
    )  # fmt: skip


def _skew(ctx: Context, rows: "DataFrame", near: str) -> "DataFrame":
    """(endpoint, window_start, clock_skew_ms) from the inbox, where both sources' own times still stand."""
    from pyspark.sql import functions as f

    mine = rows.where(_saw(telemetry.SPAN) & _saw(telemetry.TABLE)).select("endpoint", "request_id", "window_start")
    kinds = f.create_map(*(f.lit(part) for pair in telemetry.SOURCES.items() for part in pair))[f.col("source")]
    first = [
        f.min(f.when(kinds == kind, f.unix_micros("requested_at"))).alias(kind) for kind in (telemetry.TABLE, telemetry.SPAN)
    ]  # fmt: skip
    times = ctx.store.read(ctx.spark, tables.INBOX).where(near).join(mine, ["endpoint", "request_id"]).groupBy(
        "endpoint", "window_start", "request_id"
    ).agg(*first)  # fmt: skip
    apart = f.percentile((f.col(telemetry.TABLE) - f.col(telemetry.SPAN)) / 1000, 0.5)
    return times.groupBy("endpoint", "window_start").agg(apart.alias("clock_skew_ms"))


def measure(ctx: Context, rows: "DataFrame", which: Touched) -> "DataFrame":
    """Requests of whole windows -> rows of `completeness`.

    Expected: where the platform's usage table knows requests of the window, all that anybody knows of; else what sampled rows stand
    for; else, where spans and an inference table overlap, the estimate (s + 1)(t + 1) / (both + 1) - 1 of how many there are (Chapman 1951).
    Seen: all but those that only the usage table knows.
    """
    from pyspark.sql import functions as f

    found = _seen(ctx, rows)
    if any(one.payload_table for one in ctx.settings.endpoints.values()):
        found = found.join(_skew(ctx, rows, which.where("requested_at")), ["endpoint", "window_start"], "left")
    else:
        found = found.withColumn("clock_skew_ms", f.lit(None).cast("double"))
    overlap = (f.col("s") + 1) * (f.col("t") + 1) / (f.col("both") + 1) - 1
    by = (
        f.when(f.col("u") > 0, "usage")
        .when(f.col("stand") > f.col("seen"), "sampling")
        .when(f.col("both") > 0, "sources")
    )
    much = f.when(by == "usage", f.col("rows")).when(by == "sampling", f.col("stand"))
    much = much.when(by == "sources", f.greatest(overlap, "seen")).cast("double")
    found = found.withColumns({"expected_from": by, "expected": much})
    share = f.when(f.col("expected") > 0, f.least(f.lit(1.0), f.col("seen") / f.col("expected")))
    return found.withColumn("share", share).select(*tables.COMPLETENESS.columns)


def completeness(ctx: Context) -> Run | None:
    """Bring `completeness` up to date with `requests`; None when nothing changed."""
    return recompute(ctx, Measure("completeness", tables.COMPLETENESS, measure))
