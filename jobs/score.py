"""Score: pairs of answers, one of each version, are judged by the endpoint's scorers -> `judged`; what an exact scorer says also -> `scores`.

Pairs are drawn from `samples`, so blind to what was answered; each request is judged once by a scorer, and the calls and the money of a day are bounded.
What people label later corrects what a model says (judge.corrected).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from lastgood import tables
from lastgood.jobs.deployed import all_pairs
from lastgood.jobs.pairing import Asked, Matched, drawn, pairs
from lastgood.jobs.samples import samples
from lastgood.jobs.scorers import Answer, Score, made, version
from lastgood.judge.ledger import Pair
from lastgood.record.telemetry import spark_ddl
from lastgood.record.windows import utc
from lastgood.record.words import counted
from lastgood.settings import Scorer, Scoring
from lastgood.tables.judging import BY_SCORER, REHEARSED
from lastgood.tables.runs import Context, Run, append, record

if TYPE_CHECKING:
    from pyspark.sql import Row

log = logging.getLogger("lastgood.jobs")
JOB = "score"
BACK, REMEMBERED = timedelta(days=1), timedelta(days=40)
"""Requests that are paired are no older; pairs judged before are known so long."""
AGAIN, AGAIN_AFTER = 2, timedelta(days=1)
"""Pairs that a scorer judges again in a day, judged at least so long ago: whether it still says the same."""
SPENT, GONE = "the day's budget is spent", "an answer's text is not kept"
TURNS, AT_ONCE = 6, 8
"""Requests of a conversation that are shown with an answer; answers judged side by side."""


@dataclass
class Budget:
    """What may still be judged today at an endpoint. `left_out`: why -> pairs that were not."""

    calls: int
    money: float | None
    left_out: Counter[str] = field(default_factory=Counter)

    def allows(self, pairs: int) -> int:
        """How many of so many pairs; the others are counted."""
        kept = max(0, min(pairs, self.calls // 2)) if self.money is None or self.money > 0 else 0
        self.left_out[SPENT] += pairs - kept
        return kept

    def spend(self, calls: int, money: float) -> None:
        self.calls -= calls
        self.money = None if self.money is None else self.money - money


def score(ctx: Context) -> Run | None:
    """Judge new pairs at every endpoint that has scorers; None where there is none to judge. The run's rows: pairs there were, pairs judged, pairs of
    which an answer could not be judged; its note says what was left out, and why. Errors: ConfigError where a scorer cannot be had."""
    scoring = {name: own.scoring for name, own in ctx.settings.endpoints.items() if own.scoring.scorers}
    if not scoring:
        return None
    samples(ctx)
    with ExitStack() as clients:
        scorers = {name: [(scorer, made(scorer, clients)) for scorer in own.scorers] for name, own in scoring.items()}
        return _score(ctx, scoring, scorers)


def _score(
    ctx: Context, scoring: Mapping[str, Scoring], scorers: Mapping[str, Sequence[tuple[Scorer, Callable[[Answer], Score]]]]
) -> Run | None:  # fmt: skip
    began, chosen = time.monotonic(), all_pairs(ctx)[0]
    run = Run(JOB, tables.SAMPLES.name, ctx.store.version(ctx.spark, tables.SAMPLES))
    left_out = Counter[str]()
    for endpoint, own in scoring.items():
        budget = _budget(ctx, endpoint, own)
        for pair in [pair for (name, _), pair in sorted(chosen.items()) if name == endpoint and pair.prior is not None]:
            for scorer, judge in scorers[endpoint]:
                number, rows = _judge(ctx, endpoint, pair, own, scorer, judge, budget)
                run.rows_in += number
                run.rows_out += len(rows)
                run.quarantined += sum(any(row["errors"]) for row in rows)
        left_out += budget.left_out
    if run.nothing_new:
        return None
    run.note = "; ".join(f"not judged, {counted(count, 'pair')}: {why}" for why, count in (+left_out).items()) or None
    if run.note:
        log.warning("job score: %s", run.note)
    record(ctx, run, time.monotonic() - began)
    return run


def _budget(ctx: Context, endpoint: str, own: Scoring) -> Budget:
    from pyspark.sql import functions as f

    today = ctx.clock().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    spent = ctx.store.read(ctx.spark, tables.JUDGED).where(
        (f.col("endpoint") == endpoint) & (f.col("judged_at") >= f.lit(today))
    )
    calls, money = spent.agg(f.count("*"), f.coalesce(f.sum("money"), f.lit(0.0))).collect()[0]
    return Budget(own.calls_per_day - 2 * calls, None if own.money_per_day is None else own.money_per_day - money)


def _judge(
    ctx: Context, endpoint: str, pair: Pair, own: Scoring, scorer: Scorer, judge: Callable[[Answer], Score], budget: Budget
) -> tuple[int, list[dict[str, Any]]]:  # fmt: skip
    """Judge new pairs, and a few old ones again: (how many there were, the rows of `judged` that were written). A dry run asks nobody."""
    before = _told(ctx, endpoint, pair, scorer)
    seen = {request for row in before for request in row["request_ids"]}
    new = [(matched, False) for matched in _matched(ctx, endpoint, pair, own.pairs, seen)]
    batch = [*_again(ctx, before, version(scorer)), *new]
    if ctx.dry_run:
        return len(batch), []
    answers = _answers(ctx, endpoint, {request for matched, _ in batch for request in (matched.prior, matched.new)})
    kept = [(matched, again) for matched, again in batch if matched.prior in answers and matched.new in answers]
    budget.left_out[GONE] += len(batch) - len(kept)
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for first in range(0, len(kept), AT_ONCE):
            several = kept[first : first + AT_ONCE]
            several = several[: budget.allows(len(several))]
            given = list(
                pool.map(
                    judge, [answers[request] for matched, _ in several for request in (matched.prior, matched.new)]
                )
            )
            scored = _rows(ctx, endpoint, pair, own, scorer, several, given)
            budget.spend(2 * len(scored), sum(row["money"] for row in scored))
            rows += scored
            if len(scored) == AT_ONCE and all(
                all(row["errors"]) for row in scored
            ):  # it is down: by what it did, not by what comes next
                budget.left_out[f"scorer {scorer.name} fails ({scored[-1]['errors'][1]})"] += (
                    len(kept) - first - AT_ONCE
                )
                break
    if scorer.exact:
        _append(ctx, tables.SCORES, _exact(ctx, rows))
    _append(ctx, tables.JUDGED, rows)
    return len(batch), rows


def _rows(
    ctx: Context, endpoint: str, pair: Pair, own: Scoring, scorer: Scorer, batch: Sequence[tuple[Matched, bool]], judged: Sequence[Score]
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of `judged`: pairs, and what was said of each one's two answers."""
    now = ctx.clock()
    rows: list[dict[str, Any]] = []
    for i, (matched, again) in enumerate(batch):
        pair_id = _pair_id(endpoint, scorer.name, matched)
        chance = 0.0 if scorer.exact or again else own.label_share
        rows.append(told(scorer, judged[2 * i : 2 * i + 2]) | {
            "endpoint": endpoint, "candidate": pair.candidate, "prior": pair.prior, "pair_id": pair_id, "again": again,
            "request_ids": [matched.prior, matched.new], "alike": matched.alike, "asked": drawn(pair_id, chance), "chance": chance,
            "label_wait_s": float(own.label_wait_s), "judged_at": now + timedelta(microseconds=i),
        })  # fmt: skip
    return rows


def told(scorer: Scorer, given: Sequence[Score]) -> dict[str, Any]:
    """Of a row of `judged`: what a scorer said of the prior's answer and the new version's, and what it took."""
    tokens = sum(each.tokens_in for each in given), sum(each.tokens_out for each in given)
    return {
        "scorer": scorer.name, "scorer_version": version(scorer), "scores": [each.value for each in given], "reasons": [each.reason for each in given],
        "errors": [each.error for each in given], "tokens_in": tokens[0], "tokens_out": tokens[1],
        "money": (tokens[0] * scorer.price_in + tokens[1] * scorer.price_out) / 1e6, "seconds": sum(each.seconds for each in given),
    }  # fmt: skip


def _exact(ctx: Context, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What an exact scorer says is a score like any other. What it could not say is none."""
    now = ctx.clock()
    return [
        {"endpoint": row["endpoint"], "request_id": request, "name": row["scorer"], "value": value, "explanation": reason,
         "source": f"{BY_SCORER}{row['scorer_version']}", "at": now, "received_at": now}
        for row in rows if not row["again"]
        for request, value, reason, error in zip(row["request_ids"], row["scores"], row["reasons"], row["errors"], strict=True) if error is None
    ]  # fmt: skip


def _append(ctx: Context, table: tables.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        values = [tuple(row.get(name) for name in table.columns) for row in rows]
        append(ctx, ctx.spark.createDataFrame(values, spark_ddl(table.fields)), table)


def _pair_id(endpoint: str, scorer: str, matched: Matched) -> str:
    return sha256("\0".join((endpoint, scorer, matched.prior, matched.new)).encode()).hexdigest()[:32]


def _told(ctx: Context, endpoint: str, pair: Pair, scorer: Scorer) -> "list[Row]":
    """What the scorer said of the two versions' pairs lately."""
    from pyspark.sql import functions as f

    rows = ctx.store.read(ctx.spark, tables.JUDGED).where(
        (f.col("endpoint") == endpoint) & (f.col("candidate") == pair.candidate) & (f.col("prior") == pair.prior)
        & (f.col("scorer") == scorer.name) & (f.col("alike") != REHEARSED) & (f.col("judged_at") >= f.lit(ctx.clock() - REMEMBERED))
    )  # fmt: skip
    return list(rows.select("pair_id", "again", "request_ids", "alike", "scorer_version", "judged_at").collect())


def _again(ctx: Context, before: Sequence["Row"], scored_by: str) -> list[tuple[Matched, bool]]:
    """Pairs to be judged again: AGAIN in a day, the first by lot of those that this scorer judged AGAIN_AFTER ago or longer."""
    now = ctx.clock()
    done = {row["pair_id"] for row in before if row["again"]}
    today = sum(row["again"] and utc(row["judged_at"]) > now - AGAIN_AFTER for row in before)
    old = [
        row
        for row in before
        if row["pair_id"] not in done
        and row["scorer_version"] == scored_by
        and utc(row["judged_at"]) <= now - AGAIN_AFTER
    ]
    old.sort(key=lambda row: row["pair_id"])
    return [
        (Matched(row["request_ids"][0], row["request_ids"][1], row["alike"]), True)
        for row in old[: max(0, AGAIN - today)]
    ]


def _matched(ctx: Context, endpoint: str, pair: Pair, most: int, seen: set[str]) -> list[Matched]:
    """New pairs of the newest requests."""
    from pyspark.sql import functions as f

    since = max(utc(pair.since), ctx.clock() - BACK)
    rows = ctx.store.read(ctx.spark, tables.SAMPLES).where(
        (f.col("endpoint") == endpoint) & f.col("model_version").isin(pair.candidate, pair.prior)
        & (f.col("requested_at") >= f.lit(since)) & (f.length("output") > 0)
    )  # fmt: skip
    asked = f.xxhash64(f.lower(f.trim("input")), "input_chars")
    hour = f.floor(f.unix_seconds("window_start") / 3600)
    small = rows.select(
        "model_version",
        "request_id",
        hour.alias("hour"),
        f.when(f.col("input") != "", asked).alias("text"),
        "tokens_in",
        "hash",
    )
    sides: dict[str, list[Asked]] = {pair.candidate: [], str(pair.prior): []}
    for row in small.collect():
        if row["request_id"] not in seen:
            text = None if row["text"] is None else str(row["text"])
            sides[row["model_version"]].append(
                Asked(row["request_id"], row["hour"], text, row["tokens_in"], row["hash"])
            )
    return pairs(sides[str(pair.prior)], sides[pair.candidate], most)


def _answers(ctx: Context, endpoint: str, requests: set[str]) -> dict[str, Answer]:
    """request -> what was asked and answered, whole, with the turns of its conversation before it."""
    from pyspark.sql import functions as f

    if not requests:
        return {}
    recent = ctx.store.read(ctx.spark, tables.REQUESTS).where(
        (f.col("endpoint") == endpoint) & (f.col("requested_at") >= f.lit(ctx.clock() - REMEMBERED))
    )
    wanted = (
        recent.where(f.col("request_id").isin(sorted(requests)) & (f.length("output") > 0))
        .select("request_id", "input", "output", "conversation_id", "requested_at")
        .collect()
    )
    talks = sorted({row["conversation_id"] for row in wanted if row["conversation_id"]})
    turns: dict[str, list[Row]] = {}
    if talks:
        newest = recent.where(f.col("conversation_id").isin(talks)).select(
            "conversation_id", "requested_at", "input", "output"
        )
        for row in sorted(newest.collect(), key=lambda row: row["requested_at"]):
            turns.setdefault(row["conversation_id"], []).append(row)
    return {
        row["request_id"]: Answer(
            row["input"], row["output"],
            [(turn["input"], turn["output"]) for turn in turns.get(row["conversation_id"] or "", ()) if turn["requested_at"] < row["requested_at"]][-TURNS:],
        )
        for row in wanted
    }  # fmt: skip
