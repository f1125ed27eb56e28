"""Drift: inputs and outputs of the newest versions against a reference and against each other, from the hourly samples.

Each comparison is of at most KEEP rows a side, so a group of 50 million rows costs what one of 5,000 does, and 100 days what one does.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import tables
from lastgood.errors import ConfigError
from lastgood.jobs.comparison import COMPARED, CURRENT, WEEK, compare, report
from lastgood.jobs.deployed import pairs
from lastgood.jobs.samples import sample, samples, smallest
from lastgood.jobs.touched import HOUR_S, Touched, ranges
from lastgood.judge.ledger import Pair
from lastgood.record.telemetry import spark_ddl
from lastgood.tables.runs import Context, Run, append

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

GROUPS_A_TASK = 8
"""Comparisons one Python worker makes: each worker holds Evidently, about 110 MiB."""


def _chosen(ctx: Context, chosen: Mapping[str, Pair], now: datetime) -> "DataFrame":
    rows = []
    for endpoint, pair in chosen.items():
        since = pair.since.replace(tzinfo=UTC)
        rows.append(
            (
                endpoint,
                pair.candidate,
                pair.prior,
                since,
                max(since, now - CURRENT),
                ctx.settings.endpoint(endpoint).drift_reference,
            )
        )
    kind = "endpoint string, candidate string, prior string, since timestamp, start timestamp, prefer string"
    return ctx.spark.createDataFrame(rows, kind)


def near(chosen: Mapping[str, Pair], now: datetime) -> str:
    """SQL: hours whose samples the comparisons of these endpoints need: a day each of now, last week and before the candidate."""
    hours: set[int] = set()
    for pair in chosen.values():
        since = pair.since.replace(tzinfo=UTC)
        start = max(since, now - CURRENT)
        for a, z in ((start, now), (start - WEEK, now - WEEK), (since - CURRENT, since)):
            hours |= set(range(int(a.timestamp() // 3600), int(z.timestamp() // 3600) + 1))
    return Touched(ranges((hour * HOUR_S for hour in hours), HOUR_S), tuple(sorted(chosen))).where("window_start")


def sides(rows: "DataFrame", chosen: "DataFrame", now: datetime) -> "DataFrame":
    """Samples (with or without baselines, which have a `baseline` number) -> bounded samples by (endpoint, version, against, side).

    Comparisons: each version since the candidate appeared (a day at most) against the reference, and the candidate against the prior
    version over the same minutes.
    """
    from pyspark.sql import functions as f

    if "baseline" not in rows.columns:
        rows = rows.withColumn("baseline", f.lit(None).cast("bigint"))
    rows = rows.join(f.broadcast(chosen), "endpoint")
    at, stored = f.col("requested_at"), f.col("baseline").isNotNull()
    ago = f.expr(f"INTERVAL {int(WEEK.total_seconds())} SECONDS")
    after = ~stored & (at >= f.col("start")) & (at <= f.lit(now))
    week = ~stored & (at >= f.col("start") - ago) & (at < f.lit(now) - ago) & (at < f.col("since"))
    before = ~stored & (at < f.col("since")) & (at >= f.col("since") - f.expr("INTERVAL 1 DAY"))
    is_new, is_prior = (f.col("model_version") == f.col(name) for name in ("candidate", "prior"))

    def role(version: str, against: str, side: str, when: "Column") -> "Column":
        return f.when(
            when, f.struct(f.col(version).alias("version"), f.lit(against).alias("against"), f.lit(side).alias("side"))
        )

    roles = [
        role("candidate", "prior", "current", after & is_new),
        role("candidate", "prior", "prior", after & is_prior),
    ]
    for version, member in (("candidate", is_new), ("prior", is_prior)):
        roles.append(role(version, "reference", "current", after & member))
        roles += [
            role(version, "reference", s, w) for s, w in (("baseline", stored), ("week", week), ("before", before))
        ]
    tagged = rows.withColumn("role", f.explode(f.filter(f.array(*roles), lambda candidate: candidate.isNotNull())))
    tagged = tagged.select("*", "role.version", "role.against", "role.side").where(f.col("version").isNotNull())
    return comparable(smallest(tagged, "endpoint", "version", "against", "side"))


def comparable(sampled: "DataFrame") -> "DataFrame":
    """Sampled rows, each on a side of a comparison, as `compare` takes them."""
    from pyspark.sql import functions as f

    return sampled.select(
        "endpoint", "version", "against", "side", "prefer", "baseline", f.unix_micros("requested_at").alias("at"), *COMPARED,
        f.to_json("features").alias("features"),
    )  # fmt: skip


def measure(ctx: Context, rows: "DataFrame", chosen: Mapping[str, Pair], now: datetime) -> "DataFrame":
    """Rows of the drift table for the chosen versions of each endpoint, from rows of `samples` (with or without `baseline`)."""
    return compared(ctx, sides(rows, _chosen(ctx, chosen, now), now), chosen, now)


def compared(ctx: Context, few: "DataFrame", chosen: Mapping[str, Pair], now: datetime) -> "DataFrame":
    """Rows of the drift table of samples that stand on their `sides`."""
    from pyspark.sql import types

    limits = {endpoint: ctx.settings.endpoint(endpoint).policy.drift_limit for endpoint in chosen}
    at = now.astimezone(UTC).replace(tzinfo=None)
    schema = types.StructType.fromDDL(spark_ddl(tables.DRIFT.fields))
    tasks = max(1, -(-3 * len(chosen) // GROUPS_A_TASK))
    grouped = few.repartition(tasks, "endpoint", "version", "against").groupBy("endpoint", "version", "against")
    return grouped.applyInPandas(lambda group: compare(group, limits[group["endpoint"].iloc[0]], at), schema)


def of_requests(ctx: Context, requests: "DataFrame", chosen: Mapping[str, Pair], now: datetime) -> "DataFrame":
    """`sides` straight from requests, where there is no table of samples."""
    return sides(sample(requests), _chosen(ctx, chosen, now), now)


def _rows(ctx: Context, chosen: Mapping[str, Pair], now: datetime) -> "DataFrame":
    """Samples the comparisons need, and each endpoint's newest baseline."""
    from pyspark.sql import functions as f

    kept = ctx.store.read(ctx.spark, tables.SAMPLES).where(near(chosen, now))
    kept = kept.withColumn("baseline", f.lit(None).cast("bigint"))
    stored = ctx.store.read(ctx.spark, tables.BASELINES)
    newest = stored.groupBy("endpoint").agg(f.max("baseline").alias("baseline"))
    return kept.unionByName(stored.join(newest, ["endpoint", "baseline"]).select(*kept.columns))


def drift(ctx: Context) -> Run | None:
    """Bring `samples` up to date and append the present drift of every endpoint to `drift`. Run again, it appends a newer measurement."""
    taken = samples(ctx)
    now, chosen = ctx.clock(), pairs(ctx)
    if not chosen:
        return taken
    append(ctx, measure(ctx, _rows(ctx, chosen, now), chosen, now), tables.DRIFT)
    return taken or Run("drift", tables.SAMPLES.name, ctx.store.version(ctx.spark, tables.SAMPLES))


def evidently_html(ctx: Context, endpoint: str, path: Path | None = None) -> dict[str, Any]:
    """Write Evidently's own report on the candidate against the reference (without `path` where the evidence page looks for it); what was
    compared.

    Errors: ConfigError when there is nothing to compare.
    """
    now, pair = ctx.clock(), pairs(ctx).get(endpoint)
    if pair is None:
        raise ConfigError(f"no version of {endpoint} is known; run `lastgood job windows`")
    chosen = {endpoint: pair}
    frame = sides(_rows(ctx, chosen, now), _chosen(ctx, chosen, now), now)
    group = frame.where(f"version = {tables.literal(pair.candidate)} AND against = 'reference'").toPandas()
    return report(ctx.store, group, endpoint, pair, ctx.settings.endpoint(endpoint).drift_reference, path)
