"""Windows, quality, scores, drift, deployments -> what the judge may look at, by endpoint and version."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.counting import HASH_CHARS
from lastgood.jobs.deployed import Key
from lastgood.jobs.requesters import known_as, salts
from lastgood.jobs.scored import about
from lastgood.judge import Drifted, Evidence, budget
from lastgood.judge.corrected import Judgements, settled
from lastgood.judge.evidence import Planned
from lastgood.judge.ledger import Configuration, Pair, planned
from lastgood.record.contents import base
from lastgood.record.verdict import SCHEDULED
from lastgood.record.windows import OUTSIDE, TINY, Counts, from_row, utc
from lastgood.tables.judging import BY_SCORER, judgements, labelled
from lastgood.tables.runs import Context

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, Row

BASELINE = timedelta(days=28)
SETTLED = timedelta(days=1)
"""A version that serves alone is compared with its own past only so long after it."""
LATELY = timedelta(hours=1)
WAIT = timedelta(hours=1)
"""So long a failed request may wait for the table that names its version; inference tables are delivered within an hour."""
HANG_AFTER, HANG_OVER = timedelta(minutes=5), timedelta(minutes=10)
KEY = ["endpoint", "model_version", "stratum", "window_start"]
WINDOW, USUAL = "window", "usual"
PAIRED = "judged pairs"
"""What the score's name says beside what people label."""
ANSWERS = ("quality", "answer_callers")
"""Columns of the table `quality` that stand beside those of `windows`."""


def counts(windows: "DataFrame", quality: "DataFrame") -> list[Counts]:
    """Rows of the windows and quality tables, joined, as Counts."""
    rows = windows.join(quality, KEY, "left").orderBy("window_start", "stratum", "model_version").toLocalIterator()
    return [from_row(row.asDict()) for row in rows]


def _valued(ctx: Context, endpoints: Iterable[str]) -> "Column":
    """A score as 0 (worst) to 1 (best): by the policy's range of that name where it has one, else as it is. What lies outside stays outside."""
    from pyspark.sql import functions as f

    value = f.col("value")
    for endpoint in endpoints:
        for name, (worst, best) in ctx.settings.endpoint(endpoint).policy.score_ranges.items():
            this = (f.col("endpoint") == endpoint) & (f.col("name") == name)
            value = f.when(this, (f.col("value") - worst) / (best - worst)).otherwise(value)
    return value


def scores(ctx: Context, chosen: "DataFrame", starts: Mapping[str, datetime], now: datetime) -> "DataFrame":
    """Evaluation results, labels and feedback on requests of chosen versions, as rows of `windows` without requests.

    A score belongs to the window in which it arrived, so that what was judged stays as it was; the first of a request and name counts.
    chosen: endpoint, model_version, start. starts: endpoint -> when the earliest evidence begins.
    """
    from pyspark.sql import functions as f

    width = ctx.settings.window_s * 1_000_000
    closed = datetime.fromtimestamp(now.timestamp() // ctx.settings.window_s * ctx.settings.window_s, UTC)
    first = min(starts.values(), default=now)
    recent = ctx.store.read(ctx.spark, tables.SCORES).where(
        f.col("value").isNotNull() & (f.col("received_at") >= f.lit(first)) & (f.col("received_at") < f.lit(closed))
    )
    requests = ctx.store.read(ctx.spark, tables.REQUESTS).where(f.col("requested_at") >= f.lit(first))
    requests = requests.where(f.col("endpoint").isin(list(starts)))
    requests = requests.join(f.broadcast(chosen), ["endpoint", "model_version"]).where("requested_at >= start")
    asked_by = known_as(salts(ctx, [(first, now)])).alias("requester")
    requests = requests.select("endpoint", "candidate", "model_version", "request_id", "trace_id", asked_by)
    key = ["endpoint", "candidate", "model_version"]
    per_request = about(recent, requests).groupBy(*key, "request_id", "name")
    who = f.substring(f.sha2(f.first("requester", ignorenulls=True), 256), 1, HASH_CHARS)
    per_request = per_request.agg(
        f.min_by("value", "scored_at").alias("value"), f.min("scored_at").alias("at"), who.alias("who")
    )
    at = f.timestamp_micros(f.floor(f.unix_micros("at") / width) * width).alias("window_start")
    per_request = per_request.withColumn("value", _valued(ctx, starts)).where("NOT isnan(value)")
    outside = (f.col("value") < -TINY) | (f.col("value") > 1 + TINY)
    per_request = per_request.withColumn(
        "name", f.when(outside, f.concat(f.lit(OUTSIDE), "name")).otherwise(f.col("name"))
    )
    per_request = per_request.withColumn(
        "value", f.when(outside, 0.0).otherwise(f.least(f.greatest("value", f.lit(0.0)), f.lit(1.0)))
    )
    by_caller = per_request.groupBy(*key, at, "name", "who")
    by_caller = by_caller.agg(
        f.count("*").cast("double").alias("n"),
        f.sum("value").alias("s"),
        f.sum(f.col("value") * f.col("value")).alias("ss"),
    )
    part = f.when(f.col("who").isNotNull(), f.struct(f.concat_ws("/", "who", "name"), f.array("n", "s", "ss")))
    by_name = by_caller.groupBy(*key, "window_start", "name").agg(
        f.array(f.sum("n"), f.sum("s"), f.sum("ss")).alias("sums"), f.collect_list(part).alias("callers")
    )
    return by_name.groupBy(*key, "window_start").agg(
        f.map_from_entries(f.collect_list(f.struct("name", "sums"))).alias("scores"),
        f.map_from_entries(f.flatten(f.collect_list("callers"))).alias("score_callers"),
    )


def judged(
    ctx: Context, chosen: Mapping[Key, Pair], starts: Mapping[Key, datetime], now: datetime
) -> dict[Key, dict[str, Judgements]]:
    """(endpoint, version) -> what people label -> pairs that a scorer judged since `starts`, with people's labels, as far as they are settled.
    The first label of a request that is within its range counts (tables.judging.labelled)."""
    from pyspark.sql import functions as f

    named = [name for name in sorted({key[0] for key in chosen}) if ctx.settings.endpoint(name).scoring.scorers]
    if not named:
        return {}
    which = [
        (*key, pair.prior, starts[key]) for key, pair in chosen.items() if key[0] in named and pair.prior is not None
    ]
    since = ctx.spark.createDataFrame(which, "endpoint string, candidate string, prior string, start timestamp")
    rows = ctx.store.read(ctx.spark, tables.JUDGED).where("NOT again AND chance > 0")
    rows = rows.join(f.broadcast(since), ["endpoint", "candidate", "prior"]).where("judged_at >= start").drop("start")
    rows = rows.where(f.col("judged_at") <= f.lit(now))
    collected = rows.collect()
    wanted = {(row["endpoint"], request, row["scorer"]) for row in collected for request in row["request_ids"]}
    asked = rows.select("endpoint", f.explode("request_ids").alias("request_id")).distinct()
    traces = ctx.store.read(ctx.spark, tables.REQUESTS).select("endpoint", "request_id", "trace_id")
    scored = ctx.store.read(ctx.spark, tables.SCORES).where("value IS NOT NULL")
    by_people = ~f.coalesce(f.startswith("source", f.lit(BY_SCORER)), f.lit(False))
    labels = about(scored.where(by_people), asked.join(traces, ["endpoint", "request_id"], "left"))
    labels = labels.withColumnRenamed("scored_at", "received_at").withColumn("source", f.lit(None))
    told = labelled((row.asDict() for row in labels.collect()), wanted, ctx.settings)[0]
    grouped: dict[tuple[Key, str], list[Row]] = {}
    for row in collected:
        grouped.setdefault(((row["endpoint"], row["candidate"]), row["scorer"]), []).append(row)
    made: dict[Key, dict[str, Judgements]] = {}
    for (key, scorer), several in grouped.items():
        given = settled(judgements([row.asDict() for row in several], told), now.timestamp())
        made.setdefault(key, {})[f"{scorer} ({PAIRED})"] = given
    return made


def drifted(ctx: Context) -> dict[str, list[Drifted]]:
    """endpoint -> the columns that the newest measurement found drifted."""
    from pyspark.sql import functions as f

    latest = ctx.store.read(ctx.spark, tables.DRIFT)
    newest = latest.groupBy("endpoint").agg(f.max("computed_at").alias("computed_at"))
    moved: dict[str, list[Drifted]] = {}
    for row in latest.where("drifted").join(newest, ["endpoint", "computed_at"]).collect():
        drifted = Drifted(row["model_version"], row["against"], row["kind"], row["column"], row["distance"], row["low"])
        moved.setdefault(row["endpoint"], []).append(drifted)
    return moved


def completeness(ctx: Context, chosen: Mapping[Key, Pair], now: datetime) -> dict[Key, float]:
    """(endpoint, version) -> requests seen / expected over the newest LATELY: of the version of the pair that misses more, and of the whole
    endpoint by its own count.

    Only where something independent says what to expect (not the sampling fraction): a uniform sample is fair. Single windows may be off
    where the endpoint's minutes are not the clock's; over LATELY that is little.
    """
    from pyspark.sql import functions as f

    rows = ctx.store.read(ctx.spark, tables.COMPLETENESS).where(
        (f.col("window_start") >= f.lit(now - LATELY))
        & (f.col("expected_from") != "sampling")
        & (f.col("expected") > 0)
    )
    version = f.when(f.col("expected_from") != "endpoint", f.col("model_version")).alias("version")
    sums = rows.groupBy("endpoint", version).agg(f.sum("seen").alias("seen"), f.sum("expected").alias("expected"))
    by_endpoint: dict[str, dict[str | None, float]] = {}
    for row in sums.collect():
        by_endpoint.setdefault(row["endpoint"], {})[row["version"]] = row["seen"] / row["expected"]
    totals: dict[Key, float] = {}
    for key, pair in chosen.items():
        known = by_endpoint.get(key[0], {})
        own = [min(1.0, share) for version, share in known.items() if version in (pair.candidate, pair.prior, None)]
        if own:
            totals[key] = min(own)
    return totals


def scale_ups(ctx: Context, since: datetime) -> dict[str, list[datetime]]:
    """endpoint -> the minutes in which replicas were added, by its own metrics."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    minutes = ctx.store.read(ctx.spark, tables.ENDPOINT_MINUTES).where(
        (f.col("minute") >= f.lit(since)) & f.col("provisioned").isNotNull()
    )
    each = minutes.groupBy("endpoint", "minute").agg(f.max("provisioned").alias("now"))
    before = f.lag("now").over(Window.partitionBy("endpoint").orderBy("minute"))
    moments: dict[str, list[datetime]] = {}
    for row in each.withColumn("before", before).where("now > before").select("endpoint", "minute").collect():
        moments.setdefault(row["endpoint"], []).append(utc(row["minute"]))
    return moments


def waiting(ctx: Context, now: datetime) -> dict[str, list[datetime]]:
    """endpoint -> the windows of the newest WAIT in which requests failed whose version no table has named yet."""
    from pyspark.sql import functions as f

    unnamed = ctx.store.read(ctx.spark, tables.WINDOWS).where(
        (f.col("window_start") >= f.lit(now - WAIT)) & (f.col("model_version") == "?") & (f.size("errors") > 0)
    )
    starts = unnamed.groupBy("endpoint").agg(f.collect_set("window_start").alias("starts"))
    return {row["endpoint"]: [utc(start) for start in row["starts"]] for row in starts.collect()}


def own_counts(ctx: Context, now: datetime) -> dict[str, tuple[float, float]]:
    """endpoint -> (requests by its own count, those of them that were seen) over HANG_OVER before the newest moment whose telemetry must have
    come: HANG_AFTER and twice the usual delivery lag ago."""
    from pyspark.sql import functions as f

    width = f.expr(f"INTERVAL {ctx.settings.window_s} SECONDS")
    rows = ctx.store.read(ctx.spark, tables.COMPLETENESS).where(f.col("window_start") >= f.lit(now - timedelta(days=1)))
    lags = rows.groupBy("endpoint").agg(f.coalesce(f.max("delivery_lag_p95_ms"), f.lit(0.0)).alias("lag"))
    known = rows.where("endpoint_requests IS NOT NULL").groupBy("endpoint", "window_start")
    each = known.agg(f.max("endpoint_requests").alias("counted"), f.sum("seen").alias("seen")).join(lags, "endpoint")
    until = f.lit(now - HANG_AFTER) - f.make_dt_interval(secs=f.col("lag") * 2 / 1000)
    newest = (f.col("window_start") + width <= until) & (
        f.col("window_start") >= until - f.expr(f"INTERVAL {int(HANG_OVER.total_seconds())} SECONDS")
    )
    sums = each.where(newest).groupBy("endpoint").agg(f.sum("counted").alias("counted"), f.sum("seen").alias("seen"))
    return {row["endpoint"]: (row["counted"], float(row["seen"] or 0)) for row in sums.collect()}


def parts(
    ctx: Context, chosen: Mapping[Key, Pair], starts: Mapping[Key, datetime], alone: Iterable[Key], now: datetime
) -> "DataFrame":
    """What is judged, as rows of `windows` with `candidate` (whose judgement a row belongs to), `kind` (WINDOW or USUAL) and ANSWERS:
    closed windows of both versions since `starts`, scores, and of versions that serve `alone` the hours of earlier weeks."""
    from pyspark.sql import functions as f

    rows = [
        (endpoint, pair.candidate, version, starts[endpoint, candidate])
        for (endpoint, candidate), pair in chosen.items()
        for version in (pair.candidate, pair.prior)
        if version is not None
    ]
    which = ctx.spark.createDataFrame(rows, "endpoint string, candidate string, model_version string, start timestamp")
    first = min(starts.values(), default=now)
    begun = f.col("window_start") >= f.lit(first)
    closed = f.col("window_start") + f.expr(f"INTERVAL {ctx.settings.window_s} SECONDS") <= f.lit(now)
    windows = ctx.store.read(ctx.spark, tables.WINDOWS).where(closed & begun)
    quality = ctx.store.read(ctx.spark, tables.QUALITY).where(begun).select(*KEY, *ANSWERS)
    windowed = windows.join(f.broadcast(which), ["endpoint", "model_version"]).where("window_start >= start")
    windowed = windowed.join(quality, KEY, "left").withColumn("kind", f.lit(WINDOW))
    earliest: dict[str, datetime] = {}
    for (endpoint, _), start in starts.items():
        earliest[endpoint] = min(start, earliest.get(endpoint, start))
    scored = scores(ctx, which, earliest, now).withColumns({"kind": f.lit(WINDOW), "stratum": f.lit("?/?")})
    columns = ["candidate", "kind", *tables.WINDOWS.columns, *ANSWERS]
    whole = windowed.select(*columns).unionByName(scored, allowMissingColumns=True)
    names = sorted({endpoint for endpoint, _ in alone})
    if names:
        since = f.lit(now - BASELINE)
        hours = ctx.store.read(ctx.spark, tables.WINDOWS_HOUR).where(
            f.col("endpoint").isin(names)
            & (f.col("window_start") >= since)
            & (f.col("window_start") < f.lit(now - SETTLED))
        )
        of = ctx.spark.createDataFrame(sorted(alone), "endpoint string, candidate string")
        kept = [
            "endpoint",
            "model_version",
            "stratum",
            "window_start",
            "rows",
            "requests",
            "errors",
            "latency",
            "ttft",
            "failed_latency",
        ]
        usual = hours.select(*kept).join(f.broadcast(of), "endpoint").withColumn("kind", f.lit(USUAL))
        whole = whole.unionByName(usual, allowMissingColumns=True)
    return whole.select(*columns)


def _planned(configurations: Sequence[Configuration], pair: Pair) -> Sequence[Planned]:
    """The splits planned for the pair. Of two contents of one version no configuration plans any."""
    if base(pair.candidate) == base(pair.prior or ""):
        return ()
    return planned(configurations, replace(pair, candidate=base(pair.candidate), prior=pair.prior and base(pair.prior)))


def facts(
    ctx: Context, chosen: Mapping[Key, Pair], ledger: Mapping[str, Sequence[Configuration]], now: datetime
) -> dict[Key, Evidence]:
    """What else the tables say of each pair: evidence without its windows."""
    moved, arrived, counted = drifted(ctx), completeness(ctx, chosen, now), own_counts(ctx, now)
    scaled, unnamed = scale_ups(ctx, now - 2 * budget.EPOCHS[SCHEDULED]), waiting(ctx, now)
    return {
        key: Evidence(
            key[0], pair.candidate, pair.prior, (), ctx.settings.window_s,
            [drifted for drifted in moved.get(key[0], ()) if drifted.model_version in (pair.candidate, pair.prior)],
            arrived.get(key), planned=_planned(ledger.get(key[0], ()), pair), deployed=utc(pair.since),
            own_requests=counted.get(key[0]), scaled=scaled.get(key[0], ()), waiting=unnamed.get(key[0], ()),
        )
        for key, pair in chosen.items()
    }  # fmt: skip


__all__ = ["counts", "facts", "judged", "parts", "scores"]
