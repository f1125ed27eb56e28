"""Judge: windows, quality and drift of each endpoint -> rows of `verdicts`. The judge itself is lastgood.judge (pure)."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
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

SEGMENT = timedelta(days=1)
"""Evidence begins with the candidate and anew every day after its second, two days at most: see `segment`."""
FIRST_DAYS = 0.8
"""Part of the budget for the candidate's first two days."""
BASELINE = timedelta(days=28)
LIVE_SHARE = 0.25
"""Part of the budget that the service's own judging of newest requests spends (lastgood.live.SHARE)."""


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


def segment(since: datetime, now: datetime, live: bool) -> tuple[datetime, float]:
    """(where evidence begins, share of the false-rollback budget it may spend).

    A candidate that stays is judged anew each day on its last one to two days, and all these judgements together, and the service's
    own, spend the budget once.
    """
    day = max(0, int((now - since) / SEGMENT))
    share = FIRST_DAYS if day < 2 else (1 - FIRST_DAYS) * 6 / (math.pi * (day - 1)) ** 2
    return since + max(0, day - 1) * SEGMENT, share * ((1 - LIVE_SHARE) if live else 1.0)


def evidence(ctx: Context, chosen: Mapping[str, Pair], now: datetime) -> Iterable[Evidence]:
    """Evidence per endpoint: closed windows of both versions in the candidate's present segment."""
    from pyspark.sql import functions as f

    width = timedelta(seconds=ctx.settings.window_s)
    starts = {name: segment(_utc(pair.since), now, False)[0] - width for name, pair in chosen.items()}
    windows = ctx.store.read(ctx.spark, tables.WINDOWS).where(
        (f.col("window_start") + f.expr(f"INTERVAL {ctx.settings.window_s} SECONDS") <= f.lit(now))
        & (f.col("window_start") >= f.lit(min(starts.values(), default=now)))
    )
    quality = ctx.store.read(ctx.spark, tables.QUALITY)
    by_endpoint: dict[str, list[Counts]] = {}
    for one in counts(windows, quality):
        pair = chosen.get(one.endpoint)
        if pair and one.model_version in (pair.candidate, pair.prior) and one.start >= starts[one.endpoint]:
            by_endpoint.setdefault(one.endpoint, []).append(one)
    alone = {
        name: pair
        for name, pair in chosen.items()
        if all(o.model_version == pair.candidate for o in by_endpoint.get(name, ()))
    }
    base = _baselines(ctx, alone) if alone else {}
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
        yield Evidence(
            endpoint, pair.candidate, pair.prior, by_endpoint.get(endpoint, []), ctx.settings.window_s, drifted,
            baseline=base.get(endpoint, {}),
        )  # fmt: skip


def _baselines(ctx: Context, alone: Mapping[str, Pair]) -> dict[str, dict[int, tuple[float, float]]]:
    """endpoint -> hour of the week -> (requests, failed ones), over BASELINE before the candidate came; for want of a prior version."""
    from pyspark.sql import functions as f

    first = min(_utc(pair.since) for pair in alone.values()) - BASELINE
    failed = f.aggregate(f.map_values("errors"), f.lit(0.0), lambda total, one: total + one)
    hour = (f.floor(f.unix_timestamp("window_start") / 3600) - f.lit(96)) % 168
    rows = (
        ctx.store.read(ctx.spark, tables.WINDOWS)
        .where(f.col("endpoint").isin(list(alone)) & (f.col("window_start") >= f.lit(first)))
        .groupBy("endpoint", "model_version", hour.cast("int").alias("hour"))
        .agg(f.sum("requests").alias("n"), f.sum(f.coalesce(failed, f.lit(0.0))).alias("x"))
        .collect()
    )
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for one in rows:
        if one["model_version"] != alone[one["endpoint"]].candidate:
            mine = found.setdefault(one["endpoint"], {})
            n, x = mine.get(one["hour"], (0.0, 0.0))
            mine[one["hour"]] = (n + one["n"], x + one["x"])
    return found


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
    chosen = pairs(ctx, {name: one.rolled_back for name, one in history.items()})
    verdicts = []
    for found in evidence(ctx, chosen, now):
        _, share = segment(_utc(chosen[found.endpoint].since), now, ctx.settings.live_every_s > 0)
        known = replace(history.get(found.endpoint, History()), share=share)
        verdicts.append(judge(found, ctx.settings.endpoint(found.endpoint).policy, known, now))
    if verdicts:
        append(
            ctx,
            ctx.spark.createDataFrame([row(one) for one in verdicts], spark_ddl(tables.VERDICTS.fields)),
            tables.VERDICTS,
        )
    return verdicts


__all__ = ["State", "counts", "evidence", "row", "run_judge"]
