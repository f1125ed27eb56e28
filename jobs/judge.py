"""Judge: the evidence on each version with traffic -> rows of `verdicts`, in Spark's workers. The judge itself is lastgood.judge (pure)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lastgood import tables
from lastgood.jobs.columnar import columns_of_table, totals
from lastgood.jobs.deployed import Key, all_pairs
from lastgood.jobs.evidence import USUAL, facts, judged, parts
from lastgood.judge import Evidence, History, State, Verdict, budget, judge
from lastgood.judge.ledger import SEEN_LATE, Configuration, Pair
from lastgood.record.contents import base
from lastgood.record.telemetry import arrow_schema, spark_ddl
from lastgood.record.verdict import SCHEDULED
from lastgood.record.windows import bucket, from_row, utc
from lastgood.settings import Policy
from lastgood.tables.runs import Context, append

Known = tuple[Evidence, Policy, History]
"""What is known of a version beside its windows."""


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


def verdict_of(group: pa.Table, known: Known, now: datetime) -> Verdict:
    """Rows of `parts` of one version -> its verdict."""
    evidence, policy, history = known
    past = pc.equal(group["kind"], USUAL)
    windows, usual = group.filter(pc.invert(past)), [from_row(row) for row in group.filter(past).to_pylist()]
    cols = columns_of_table(
        windows, evidence.candidate, evidence.prior, evidence.window_s, bucket(policy.feature_age_limit_ms)
    )
    return judge(replace(evidence, windows=cols, totals=totals(windows), usual=usual), policy, history, now)


def in_workers(known: Mapping[Key, Known], now: datetime) -> Callable[[pa.Table], pa.Table]:
    """The function that Spark applies to the rows of one version."""

    def one_version(group: pa.Table) -> pa.Table:
        key = (group["endpoint"][0].as_py(), group["candidate"][0].as_py())
        verdict = verdict_of(group, known[key], now)
        columns = zip(*[row(verdict)], strict=True)
        schema = arrow_schema(tables.VERDICTS.fields)
        return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)

    return one_version


def alone(chosen: Mapping[Key, Pair], ledger: Mapping[str, list[Configuration]]) -> list[Key]:
    """Versions that no prior version serves beside."""
    newest = {name: max(given, key=lambda c: c.since).traffic for name, given in ledger.items()}
    return [
        key
        for key, pair in chosen.items()
        if pair.prior is None
        or base(pair.prior) == base(pair.candidate)  # a prompt is edited for everybody, sooner or later
        or not newest.get(key[0], {base(pair.prior): 1.0}).get(base(pair.prior), 0)
    ]


def _story(history: History, pair: Pair) -> History:
    """The history with its rollbacks, which are of served versions, under the names of the pair's versions."""
    moved = history.rolled_back
    named = {v: moved[base(v)] for v in (pair.candidate, pair.prior) if v and base(v) in moved}
    return replace(history, rolled_back={**moved, **named})


def run_judge(ctx: Context, history: Mapping[str, History] | None = None) -> list[Verdict]:
    """Judge every version with traffic now and append to `verdicts`."""
    now, history = ctx.clock(), history or {}
    chosen, ledger = all_pairs(ctx, {name: story.rolled_back for name, story in history.items()})
    if not chosen:
        return []
    only = not ctx.settings.live_every_s
    segments = {key: budget.segment(SCHEDULED, utc(pair.since), now, only) for key, pair in chosen.items()}
    evidence = facts(ctx, chosen, ledger, now)
    pairs = judged(ctx, chosen, {key: start for key, (start, _) in segments.items()}, now)
    evidence = {key: replace(each, judged=pairs.get(key, {})) for key, each in evidence.items()}
    known = {
        key: (
            evidence[key],
            ctx.settings.endpoint(key[0]).policy,
            replace(_story(history.get(key[0], History()), chosen[key]), share=segments[key][1]),
        )
        for key in chosen
    }
    # A configuration is seen a little after it was made; a version that was rolled back begins with that moment.
    away = {(name, version) for name, story in history.items() for version in story.rolled_back}
    starts = {
        key: start if (key[0], base(key[1])) in away else start - SEEN_LATE for key, (start, _) in segments.items()
    }
    rows = parts(ctx, chosen, starts, alone(chosen, ledger), now)
    made = rows.groupBy("endpoint", "candidate").applyInArrow(in_workers(known, now), spark_ddl(tables.VERDICTS.fields))
    documents = [json.loads(verdict["document"]) for verdict in made.select("document").collect()]
    verdicts = [Verdict.from_json(document) for document in documents]
    seen = {(verdict.endpoint, verdict.candidate) for verdict in verdicts}
    verdicts += [judge(*known[key], now) for key in chosen if key not in seen]
    verdicts.sort(key=lambda verdict: (verdict.endpoint, verdict.candidate))
    frame = ctx.spark.createDataFrame([row(verdict) for verdict in verdicts], spark_ddl(tables.VERDICTS.fields))
    append(ctx, frame, tables.VERDICTS)
    return verdicts


__all__ = ["State", "row", "run_judge"]
