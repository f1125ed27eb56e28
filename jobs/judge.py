"""Judge: the evidence on each endpoint -> rows of `verdicts`. The judge itself is lastgood.judge (pure)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from lastgood import tables
from lastgood.jobs.deployed import pairs
from lastgood.jobs.evidence import evidence
from lastgood.judge import History, State, Verdict, budget, judge
from lastgood.record.telemetry import spark_ddl
from lastgood.record.verdict import SCHEDULED
from lastgood.record.windows import utc
from lastgood.tables.runs import Context, append


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
    chosen = pairs(ctx, {name: story.rolled_back for name, story in history.items()})
    if not chosen:
        return []
    alone = not ctx.settings.live_every_s
    parts = {name: budget.segment(SCHEDULED, utc(pair.since), now, alone) for name, pair in chosen.items()}
    verdicts = []
    for item in evidence(ctx, chosen, {name: start for name, (start, _) in parts.items()}, now):
        known = replace(history.get(item.endpoint, History()), share=parts[item.endpoint][1])
        verdicts.append(judge(item, ctx.settings.endpoint(item.endpoint).policy, known, now))
    if verdicts:
        append(
            ctx,
            ctx.spark.createDataFrame([row(verdict) for verdict in verdicts], spark_ddl(tables.VERDICTS.fields)),
            tables.VERDICTS,
        )
    return verdicts


__all__ = ["State", "row", "run_judge"]
