"""Windows, quality, scores, drift, deployments -> what the judge may look at, per endpoint."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.deployed import Pair
from lastgood.jobs.scored import about
from lastgood.judge import Drifted, Evidence, Planned
from lastgood.record.windows import Counts, from_row, utc
from lastgood.tables.runs import Context

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

BASELINE = timedelta(days=28)
SETTLED = timedelta(days=1)
"""A version that serves alone is compared with its own past only so long after it."""
LATELY = timedelta(hours=1)
SEEN_LATE = timedelta(minutes=2)
"""A change of the configuration is observed at most so long after it was made."""


def counts(windows: "DataFrame", quality: "DataFrame") -> list[Counts]:
    """Rows of the windows and quality tables, joined, as Counts."""
    key = ["endpoint", "model_version", "stratum", "window_start"]
    rows = windows.join(quality, key, "left").orderBy("window_start", "stratum", "model_version").toLocalIterator()
    return [from_row(row.asDict()) for row in rows]


def _valued(ctx: Context, endpoints: Iterable[str]) -> "Column":
    """A score as 0 (worst) to 1 (best): by the policy's range of that name where it has one, else as it is; cut off outside."""
    from pyspark.sql import functions as f

    value = f.col("value")
    for endpoint in endpoints:
        for name, (worst, best) in ctx.settings.endpoint(endpoint).policy.score_ranges.items():
            this = (f.col("endpoint") == endpoint) & (f.col("name") == name)
            value = f.when(this, (f.col("value") - worst) / (best - worst)).otherwise(value)
    return f.least(f.greatest(value, f.lit(0.0)), f.lit(1.0))


def scores(ctx: Context, starts: Mapping[str, datetime], now: datetime) -> list[Counts]:
    """Evaluation results, labels and feedback on requests since `starts` (by endpoint), as Counts without rows.

    A score belongs to the window in which it arrived, so that what was judged stays as it was; the first of a request and name counts.
    """
    from pyspark.sql import functions as f

    width = ctx.settings.window_s * 1_000_000
    closed = datetime.fromtimestamp(now.timestamp() // ctx.settings.window_s * ctx.settings.window_s, UTC)
    first = min(starts.values(), default=now)
    since = f.create_map(*(part for name, at in starts.items() for part in (f.lit(name), f.lit(at))))
    recent = ctx.store.read(ctx.spark, tables.SCORES).where(
        f.col("value").isNotNull() & (f.col("received_at") >= f.lit(first)) & (f.col("received_at") < f.lit(closed))
    )
    requests = ctx.store.read(ctx.spark, tables.REQUESTS).where(f.col("requested_at") >= f.lit(first))
    requests = requests.where(
        f.col("endpoint").isin(list(starts)) & (f.col("requested_at") >= since[f.col("endpoint")])
    )
    requests = requests.select("endpoint", "model_version", "request_id", "trace_id")
    per_request = about(recent, requests).groupBy("endpoint", "model_version", "request_id", "name")
    per_request = per_request.agg(f.min_by("value", "scored_at").alias("value"), f.min("scored_at").alias("at"))
    value = _valued(ctx, starts)
    rows = (
        per_request.withColumn("value", value)
        .groupBy("endpoint", "model_version", "name", (f.floor(f.unix_micros("at") / width) * width).alias("start"))
        .agg(f.count("*").alias("n"), f.sum("value").alias("s"), f.sum(f.col("value") * f.col("value")).alias("ss"))
        .collect()
    )
    return [
        Counts(
            row["endpoint"], row["model_version"] or "?", "?/?", datetime.fromtimestamp(row["start"] / 1e6, UTC),
            scores={row["name"]: (float(row["n"]), row["s"], row["ss"])},
        )
        for row in rows
    ]  # fmt: skip


def planned(configurations: Sequence[tuple[datetime, Mapping[str, float]]], pair: Pair) -> list[Planned]:
    """(first seen, version -> per cent) by configuration -> the splits planned for the pair, and when each was surely in force."""
    ordered = sorted(configurations, key=lambda configuration: configuration[0])
    stretches = []
    for i, (since, traffic) in enumerate(ordered):
        until = ordered[i + 1][0] - SEEN_LATE if i + 1 < len(ordered) else None
        new, prior = traffic.get(pair.candidate, 0.0), traffic.get(pair.prior or "", 0.0)
        if new + prior > 0:
            stretches.append(Planned(new / (new + prior), since, until))
    return stretches


def configurations(ctx: Context) -> dict[str, list[tuple[datetime, dict[str, float]]]]:
    """endpoint -> its configurations as they were observed: (first seen, version -> per cent of traffic)."""
    from pyspark.sql import functions as f

    each = ctx.store.read(ctx.spark, tables.DEPLOYMENTS).groupBy("endpoint", "config_version", "served_entity")
    rows = each.agg(
        f.min("observed_at").alias("at"), f.first("model_version").alias("version"), f.first("traffic").alias("traffic")
    ).collect()
    cells: dict[tuple[str, int], tuple[datetime, dict[str, float]]] = {}
    for row in rows:
        at, traffic = cells.get((row["endpoint"], row["config_version"]), (utc(row["at"]), {}))
        traffic[row["version"]] = traffic.get(row["version"], 0.0) + (row["traffic"] or 0)
        cells[row["endpoint"], row["config_version"]] = (min(at, utc(row["at"])), traffic)
    by_endpoint: dict[str, list[tuple[datetime, dict[str, float]]]] = {}
    for (endpoint, _), cell in cells.items():
        by_endpoint.setdefault(endpoint, []).append(cell)
    return by_endpoint


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


def completeness(ctx: Context, chosen: Mapping[str, Pair], now: datetime) -> dict[str, float]:
    """endpoint -> requests seen / expected over the newest LATELY: of the version that misses more, and of the whole endpoint by its own count.

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
    totals: dict[str, float] = {}
    for row in sums.collect():
        pair = chosen.get(row["endpoint"])
        if pair and row["version"] in (pair.candidate, pair.prior, None):
            totals[row["endpoint"]] = min(totals.get(row["endpoint"], 1.0), row["seen"] / row["expected"])
    return totals


def evidence(
    ctx: Context, chosen: Mapping[str, Pair], starts: Mapping[str, datetime], now: datetime
) -> Iterable[Evidence]:
    """Evidence per endpoint: closed windows of both versions since `starts`, and what else the tables say."""
    from pyspark.sql import functions as f

    begun = f.col("window_start") >= f.lit(min(starts.values(), default=now))
    closed = f.col("window_start") + f.expr(f"INTERVAL {ctx.settings.window_s} SECONDS") <= f.lit(now)
    windows = ctx.store.read(ctx.spark, tables.WINDOWS).where(closed & begun)
    quality = ctx.store.read(ctx.spark, tables.QUALITY).where(begun)
    by_endpoint: dict[str, list[Counts]] = {}
    for window in [*counts(windows, quality), *scores(ctx, starts, now)]:
        pair = chosen.get(window.endpoint)
        if pair and window.model_version in (pair.candidate, pair.prior) and window.start >= starts[window.endpoint]:
            by_endpoint.setdefault(window.endpoint, []).append(window)
    alone = {
        name: pair
        for name, pair in chosen.items()
        if all(window.model_version == pair.candidate for window in by_endpoint.get(name, ()))
    }
    base = _usual(ctx, alone, now) if alone else {}
    moved, plans, arrived = drifted(ctx), configurations(ctx), completeness(ctx, chosen, now)
    for endpoint, pair in chosen.items():
        yield Evidence(
            endpoint, pair.candidate, pair.prior, by_endpoint.get(endpoint, []), ctx.settings.window_s,
            [drifted for drifted in moved.get(endpoint, ()) if drifted.model_version in (pair.candidate, pair.prior)],
            arrived.get(endpoint), planned=planned(plans.get(endpoint, ()), pair), usual=base.get(endpoint, ()), deployed=utc(pair.since),
        )  # fmt: skip


def _usual(ctx: Context, chosen: Mapping[str, Pair], now: datetime) -> dict[str, list[Counts]]:
    """endpoint -> hourly counts of its versions over BASELINE before the candidate came, and of the candidate until SETTLED ago."""
    from pyspark.sql import functions as f

    first = min((utc(pair.since) for pair in chosen.values()), default=now) - BASELINE
    rows = ctx.store.read(ctx.spark, tables.WINDOWS_HOUR).where(
        f.col("endpoint").isin(list(chosen))
        & (f.col("window_start") >= f.lit(first))
        & (f.col("window_start") < f.lit(now - SETTLED))
    )
    kept = rows.select(
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
    )
    hours: dict[str, list[Counts]] = {}
    for row in kept.toLocalIterator():
        counts = from_row(row.asDict())
        hours.setdefault(counts.endpoint, []).append(counts)
    return hours


__all__ = ["counts", "evidence", "planned", "scores"]
