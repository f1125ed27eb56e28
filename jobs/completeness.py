"""Completeness: how many requests a window holds of those there must have been, how late they came, and which bodies are missing."""

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.touched import Measure, Touched, recompute, window_start
from lastgood.record import telemetry
from lastgood.settings import Capture
from lastgood.tables.runs import Context, Run

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

KEY = list(tables.COMPLETENESS.key)
SKEW_SINCE, MIN_SKEW_MS = timedelta(days=1), 1_000.0
"""Skew of the newest day counts, from a second on: what the network takes is no skew."""
SKEW_REACH_S = 300
"""How far apart the two times of one request may lie to be found when no skew is known yet."""


def _saw(kind: str) -> "Column":
    from pyspark.sql import functions as f

    return f.arrays_overlap("sources", f.array(*map(f.lit, telemetry.of_kind(kind))))


def _known(pairs: "dict[str, Column]") -> "Column":
    """A map of the counts above 0."""
    from pyspark.sql import functions as f

    parts = [part for name, value in pairs.items() for part in (f.lit(name), value.cast("double"))]
    return f.map_filter(f.create_map(*parts), lambda _, value: value > 0)


def _seen(ctx: Context, rows: "DataFrame") -> "DataFrame":
    """What the requests themselves say of each window."""
    from pyspark.sql import functions as f

    off = [
        name
        for name, settings in ctx.settings.endpoints.items()
        if settings.capture in (Capture.NONE, Capture.FEATURES)
    ]
    told = f.map_filter("attributes", lambda name, _: name.isin("unlogged", "body_problem"))
    why = (
        f.when(f.col("endpoint").isin(off), "capture is off")
        .when(f.contains(told["unlogged"], f.lit("MAX_RE")), "above the log's limit")
        .when(told["body_problem"].isNotNull(), "cannot be read")
        .otherwise("not logged")
    )
    lag = (f.unix_micros("received_at") - f.unix_micros("requested_at")) / 1000 - f.coalesce("latency_ms", f.lit(0.0))
    table, span = _saw(telemetry.TABLE), _saw(telemetry.SPAN)
    calls = f.coalesce(f.map_contains_key("attributes", f.lit("tool_calls")), f.lit(False))
    bare = table & f.col("error_code").isNull() & f.col("output").isNull() & ~calls
    reasons = ("capture is off", "above the log's limit", "cannot be read", "not logged")
    only_usage = f.size(f.array_except("sources", f.array(*map(f.lit, telemetry.of_kind(telemetry.USAGE))))) == 0
    facts = rows.withColumns({
        "evidence": ~only_usage,
        "model_version": f.coalesce("model_version", f.lit("?")), "why": f.when(bare, why), "lag": f.when(~only_usage, f.round(lag)),
        "answered": table & f.col("error_code").isNull(), "table": table, "span": span, "w": f.coalesce("weight", f.lit(1.0)),
    })  # fmt: skip
    return facts.groupBy(*KEY).agg(
        f.count("*").alias("rows"), f.count_if("evidence").alias("seen"), f.count_if(_saw(telemetry.USAGE)).alias("u"),
        f.sum(f.when(f.col("evidence"), f.col("w"))).alias("stand"), f.count_if("table").alias("t"), f.count_if("span").alias("s"),
        f.count_if(f.col("table") & f.col("span")).alias("both"),
        _known({source: f.count_if(f.array_contains("sources", source)) for source in telemetry.SOURCES}).alias("by_source"),
        f.percentile("lag", 0.5).alias("delivery_lag_p50_ms"), f.percentile("lag", 0.95).alias("delivery_lag_p95_ms"),
        (f.count("why") / f.nullif(f.count_if("answered"), f.lit(0))).alias("null_body_share"),
        _known({reason: f.count_if(f.col("why") == reason) for reason in reasons}).alias("null_bodies"),
    )  # fmt: skip


def known_skews(ctx: Context) -> dict[str, float]:
    """endpoint -> inference table's clock - spans' clock in milliseconds: median over the newest SKEW_SINCE, where it matters."""
    from pyspark.sql import functions as f

    if not any(settings.payload_table for settings in ctx.settings.endpoints.values()):
        return {}
    lately = f.col("window_start") >= f.lit(ctx.clock() - SKEW_SINCE)
    rows = ctx.store.read(ctx.spark, tables.COMPLETENESS).where(lately & f.col("clock_skew_ms").isNotNull())
    middle = rows.groupBy("endpoint").agg(f.percentile("clock_skew_ms", 0.5).alias("skew"))
    return {row["endpoint"]: row["skew"] for row in middle.where(f.abs("skew") >= MIN_SKEW_MS).collect()}


def _skew(ctx: Context, rows: "DataFrame", which: Touched) -> "DataFrame":
    """(endpoint, window_start, clock_skew_ms) from the inbox, where both sources' own times still stand."""
    from pyspark.sql import functions as f

    reach = max([SKEW_REACH_S, *(abs(skew) / 1000 for skew in known_skews(ctx).values())])
    near = which.wider(math.ceil(reach)).where("requested_at")

    pairs = rows.where(_saw(telemetry.SPAN) & _saw(telemetry.TABLE)).select("endpoint", "request_id", "window_start")
    kinds = f.create_map(*(f.lit(part) for pair in telemetry.SOURCES.items() for part in pair))[f.col("source")]
    first = [
        f.min(f.when(kinds == kind, f.unix_micros("requested_at"))).alias(kind) for kind in (telemetry.TABLE, telemetry.SPAN)
    ]  # fmt: skip
    times = ctx.store.read(ctx.spark, tables.INBOX).where(near).join(pairs, ["endpoint", "request_id"]).groupBy(
        "endpoint", "window_start", "request_id"
    ).agg(*first)  # fmt: skip
    apart = f.percentile((f.col(telemetry.TABLE) - f.col(telemetry.SPAN)) / 1000, 0.5)
    return times.groupBy("endpoint", "window_start").agg(apart.alias("clock_skew_ms"))


def _told(ctx: Context, which: Touched) -> "DataFrame":
    """(endpoint, window_start, endpoint_requests, endpoint_errors) of windows whose every minute the endpoint's /metrics was read.

    A window shorter than a minute has no figure of its own there.
    """
    from pyspark.sql import functions as f

    seconds = ctx.settings.window_s
    rows = ctx.store.read(ctx.spark, tables.ENDPOINT_MINUTES).where(which.where("minute"))
    once = rows.groupBy("endpoint", "minute").agg(
        *(f.max(name).alias(name) for name in ("requests", "errors_4xx", "errors_5xx"))
    )
    summed = once.groupBy("endpoint", window_start(seconds, "minute").alias("window_start")).agg(
        f.count("*").alias("minutes"), f.sum("requests").alias("endpoint_requests"),
        f.sum(f.col("errors_4xx") + f.col("errors_5xx")).alias("endpoint_errors"),
    )  # fmt: skip
    return summed.where(f.col("minutes") * 60 == seconds).drop("minutes")


def measure(ctx: Context, rows: "DataFrame", which: Touched) -> "DataFrame":
    """Requests of whole windows -> rows of `completeness`.

    Expected: where the platform's usage table knows requests of the window, all that anybody knows of; else, where the endpoint's own
    metrics were read, its count, shared out among the versions as what was seen is; else what sampled rows stand for; else, where spans
    and an inference table overlap, the estimate (s + 1)(t + 1) / (both + 1) - 1 of how many there are (Chapman 1951). Seen: all but those
    that only the usage table knows. A window of which the endpoint says there were requests, and nothing came, is a row of version '?'.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    windows = _seen(ctx, rows)
    if any(settings.payload_table for settings in ctx.settings.endpoints.values()):
        windows = windows.join(_skew(ctx, rows, which), ["endpoint", "window_start"], "left")
    else:
        windows = windows.withColumn("clock_skew_ms", f.lit(None).cast("double"))
    windows = windows.join(_told(ctx, which), ["endpoint", "window_start"], "full").where(
        f.col("model_version").isNotNull() | (f.col("endpoint_requests") > 0)
    )
    windows = windows.fillna(0, ["seen", "rows", "stand", "u", "s", "t", "both"]).fillna("?", ["model_version"])
    whole = f.sum("stand").over(Window.partitionBy("endpoint", "window_start"))
    part = f.when(whole > 0, f.col("seen") / whole).otherwise(1.0)
    overlap = (f.col("s") + 1) * (f.col("t") + 1) / (f.col("both") + 1) - 1
    by = (
        f.when(f.col("u") > 0, "usage")
        .when(f.col("endpoint_requests").isNotNull(), "endpoint")
        .when(f.col("stand") > f.col("seen"), "sampling")
        .when(f.col("both") > 0, "sources")
    )
    much = f.when(by == "usage", f.col("rows")).when(by == "endpoint", f.col("endpoint_requests") * part)
    much = much.when(by == "sampling", f.col("stand")).when(by == "sources", f.greatest(overlap, "seen")).cast("double")
    windows = windows.withColumns({"expected_from": by, "expected": much})
    share = f.when(f.col("expected") > 0, f.least(f.lit(1.0), f.col("seen") / f.col("expected")))
    return windows.withColumn("share", share).select(*tables.COMPLETENESS.columns)


def completeness(ctx: Context) -> Run | None:
    """Bring `completeness` up to date with `requests` and `endpoint_minutes`; None when nothing changed."""
    run = recompute(ctx, Measure("completeness", tables.COMPLETENESS, measure))
    told = recompute(ctx, Measure("completeness_told", tables.COMPLETENESS, _again, tables.ENDPOINT_MINUTES, "minute"))
    return run or told


def _again(ctx: Context, _: "DataFrame", which: Touched) -> "DataFrame":
    """The windows of minutes that the endpoints have told of meanwhile."""
    rows = ctx.store.read(ctx.spark, tables.REQUESTS).where(which.where("requested_at"))
    return measure(ctx, rows.withColumn("window_start", window_start(ctx.settings.window_s)), which)
