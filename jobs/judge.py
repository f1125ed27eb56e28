"""Judge: the evidence on each endpoint -> rows of `verdicts`. The judge itself is lastgood.judge (pure)."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from lastgood import tables
from lastgood.jobs.deployed import pairs
from lastgood.jobs.evidence import evidence
from lastgood.judge import History, State, Verdict, judge
from lastgood.judge.evidence import LIVE_SHARE
from lastgood.record.telemetry import spark_ddl
from lastgood.record.windows import utc
from lastgood.tables.runs import Context, append

SEGMENT = timedelta(days=1)
"""Evidence begins with the candidate and anew every day after its second, two days at most: see `segment`."""
FIRST_DAYS = 0.8
"""Part of the budget for the candidate's first two days."""


def segment(since: datetime, now: datetime, live: bool) -> tuple[datetime, float]:
    """(where evidence begins, share of the false-rollback budget it may spend).

    A candidate that stays is judged anew each day on its last one to two days, and all these judgements together, and the service's
    own, spend the budget once.
    """
    day = max(0, int((now - since) / SEGMENT))
    share = FIRST_DAYS if day < 2 else (1 - FIRST_DAYS) * 6 / (math.pi * (day - 1)) ** 2
    return since + max(0, day - 1) * SEGMENT, share * ((1 - LIVE_SHARE) if live else 1.0)


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
    parts = {name: segment(utc(pair.since), now, ctx.settings.live_every_s > 0) for name, pair in chosen.items()}
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
