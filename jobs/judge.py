"""Judge: windows, quality and drift of each endpoint -> rows of `verdicts`. The judge itself is lastgood.judge (pure)."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lastgood import tables
from lastgood.jobs.deployed import Pair, pairs
from lastgood.judge import Drifted, Evidence, History, State, Verdict, judge
from lastgood.runs import Context, append
from lastgood.telemetry import spark_ddl
from lastgood.windows import Counts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LOOKBACK = timedelta(days=1)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def counts(windows: "DataFrame", quality: "DataFrame") -> list[Counts]:
    """Rows of the windows and quality tables, joined, as Counts."""
    key = ["endpoint", "model_version", "stratum", "window_start"]
    rows = windows.join(quality, key, "left").orderBy("window_start", "stratum", "model_version").toLocalIterator()
    return [
        Counts(
            row["endpoint"], row["model_version"], row["stratum"], _utc(row["window_start"]), row["rows"], row["requests"],
            row["errors"] or {}, row["latency"] or {}, row["ttft"] or {}, row["feature_age"] or {}, row["tokens_in"], row["tokens_out"],
            tuple(row["error_requesters"] or ()), row["quality"] or {}, row["length"] or {}, row["pace"] or {},
            row["requesters"] or {}, row["scores"] or {},
        )
        for row in rows
    ]  # fmt: skip


def evidence(
    ctx: Context,
    chosen: Mapping[str, Pair],
    now: datetime,
    since: datetime | None = None,
) -> Iterable[tuple[Evidence, Pair]]:
    """Evidence per endpoint: closed windows of both versions since the candidate appeared (at most LOOKBACK)."""
    from pyspark.sql import functions as f

    width = timedelta(seconds=ctx.settings.window_s)
    windows = ctx.store.read(ctx.spark, tables.WINDOWS).where(
        f.col("window_start") + f.expr(f"INTERVAL {ctx.settings.window_s} SECONDS") <= f.lit(now)
    )
    if since is None:
        windows = windows.where(f.col("window_start") >= f.lit(now - LOOKBACK))
    quality = ctx.store.read(ctx.spark, tables.QUALITY)
    by_endpoint: dict[str, list[Counts]] = {}
    for one in counts(windows, quality):
        pair = chosen.get(one.endpoint)
        if pair and one.model_version in (pair.candidate, pair.prior) and one.start >= _utc(pair.since) - width:
            by_endpoint.setdefault(one.endpoint, []).append(one)
    latest = ctx.store.read(ctx.spark, tables.DRIFT)
    newest = latest.groupBy("endpoint").agg(f.max("computed_at").alias("computed_at"))
    moved: dict[str, list[Drifted]] = {}
    for row in latest.where("drifted").join(newest, ["endpoint", "computed_at"]).collect():
        moved.setdefault(row["endpoint"], []).append(
            Drifted(
                row["model_version"],
                row["against"],
                row["kind"],
                row["column"],
                row["distance"],
                row["low"],
            )
        )
    for endpoint, pair in chosen.items():
        drifted = [one for one in moved.get(endpoint, ()) if one.model_version in (pair.candidate, pair.prior)]
        found = by_endpoint.get(endpoint, [])
        yield (
            Evidence(
                endpoint,
                pair.candidate,
                pair.prior,
                found,
                ctx.settings.window_s,
                drifted,
            ),
            pair,
        )


def row(verdict: Verdict) -> tuple[Any, ...]:
    """A verdict as a row of the verdicts table."""
    document = json.dumps(
        verdict.as_dict(),
        default=lambda value: value.isoformat() if isinstance(value, datetime) else str(value),
    )
    return (
        verdict.endpoint, verdict.candidate, verdict.prior, str(verdict.state), verdict.reason, min(verdict.e_value, 1e300),
        verdict.since, verdict.judged_at, document,
    )  # fmt: skip


def run_judge(ctx: Context, history: Mapping[str, History] | None = None) -> list[Verdict]:
    """Judge every endpoint now and append to `verdicts`."""
    now = ctx.clock()
    history = history or {}
    verdicts = [
        judge(
            found,
            ctx.settings.endpoint(found.endpoint).policy,
            history.get(found.endpoint, History()),
            now,
        )
        for found, _ in evidence(ctx, pairs(ctx, {name: one.rolled_back for name, one in history.items()}), now)
    ]
    if verdicts:
        append(
            ctx,
            ctx.spark.createDataFrame([row(one) for one in verdicts], spark_ddl(tables.VERDICTS.fields)),
            tables.VERDICTS,
        )
    return verdicts


__all__ = ["State", "counts", "evidence", "row", "run_judge"]
