"""What scorers said of pairs and what people said of them: read back for the label queue, the page and the judge."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood import tables
from lastgood.judge.corrected import Judgements, bets, settled
from lastgood.record.telemetry import arrow_schema
from lastgood.record.windows import utc
from lastgood.tables import Store

LATELY = timedelta(days=30)
Key = tuple[str, str, str]
"""Endpoint, request, what was judged."""
Ranges = Mapping[str, Mapping[str, tuple[float, float]]]
"""Endpoint -> the policy's score_ranges."""
Told = Mapping[Key, tuple[float, float]]
"""What people said (0-1) and when (epoch seconds): the first that came counts."""


def scaled(value: float, given: tuple[float, float] | None) -> float | None:
    """A label as 0 (worst) to 1 (best), by the policy's range of its name where it has one; None where it lies outside."""
    worst, best = given or (0.0, 1.0)
    share = (value - worst) / (best - worst)
    return share if 0 <= share <= 1 else None


def judgements(rows: Iterable[Mapping[str, Any]], told: Told) -> Judgements:
    """Rows of `judged` of one scorer and pair of versions, beside what people said. A pair that was judged twice side by side counts once."""
    by_id: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["judged_at"], row["pair_id"])):
        by_id.setdefault(row["pair_id"], row)
    kept, nothing = list(by_id.values()), (np.nan, np.nan)
    labels = np.array(
        [
            [told.get((row["endpoint"], request, row["scorer"]), nothing) for request in row["request_ids"]]
            for row in kept
        ]
    ).reshape(-1, 2, 2)
    return Judgements(
        np.array([utc(row["judged_at"]).timestamp() for row in kept]), np.array([row["scores"] for row in kept], np.float64).reshape(-1, 2),
        labels[:, :, 0], np.array([row["asked"] for row in kept], bool), np.array([row["chance"] for row in kept], np.float64),
        labels[:, :, 1].max(1, initial=-np.inf) if kept else np.zeros(0), max((row["label_wait_s"] for row in kept), default=0.0),
    )  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """A scorer on a pair of versions, lately. `difference`, `error`: of what people would say (new - prior) and its standard error; `scored`: what the
    scorer alone says. `agrees`: share of the labelled answers on the same side of the middle as the label. `moved`: mean distance between what it
    said of a pair and what it said again. `unlabelled`: pairs that people were asked and did not label in time."""

    endpoint: str
    candidate: str
    prior: str
    scorer: str
    version: str
    pairs: int
    failed: int
    asked: int
    labelled: int
    unlabelled: int
    difference: float | None
    error: float | None
    scored: float
    agrees: float | None
    moved: float | None
    calls: int
    money: float
    newest: datetime


def summaries(store: Store, ranges: Ranges, now: datetime) -> list[Summary]:
    """Of every scorer and pair of versions, the newest first. ranges: endpoint -> the policy's score_ranges. Errors: as the tables' homes."""
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    rows = _rows(store, now)
    for row in rows:
        groups.setdefault((row["endpoint"], row["candidate"], row["prior"], row["scorer"]), []).append(row)
    told = labels(store, rows, ranges, now)
    made = [_summary(key, each, told, now) for key, each in groups.items()]
    return sorted(made, key=lambda summary: summary.newest, reverse=True)


def _summary(key: tuple[str, str, str, str], rows: Sequence[Mapping[str, Any]], told: Told, now: datetime) -> Summary:
    first = {row["pair_id"]: row for row in rows if not row["again"]}
    given = judgements(first.values(), told)
    counted = bets(settled(given, now.timestamp()), 0.0)
    known = ~np.isnan(given.labels)
    again = [(first[row["pair_id"]], row) for row in rows if row["again"] and row["pair_id"] in first]
    moved = [abs(a - b) for old, new in again for a, b in zip(old["scores"], new["scores"], strict=True)]
    newest = max(rows, key=lambda row: row["judged_at"])
    difference, error = counted.difference or (None, None)
    apart = given.scores[:, 1] - given.scores[:, 0]
    return Summary(
        *key, newest["scorer_version"], len(first), sum(any(row["errors"]) for row in first.values()), int(given.asked.sum()),
        int(known.all(1).sum()), counted.unlabelled, difference, error, float(apart.mean()) if len(apart) else 0.0,
        float(((given.scores > 0.5) == (given.labels > 0.5))[known].mean()) if known.any() else None, float(np.mean(moved)) if moved else None,
        2 * len(rows), sum(row["money"] or 0.0 for row in rows), utc(newest["judged_at"]),
    )  # fmt: skip


def labels(
    store: Store,
    rows: Sequence[Mapping[str, Any]],
    ranges: Ranges,
    now: datetime,
) -> Told:
    """What people said of the requests of these rows, by request id."""
    asked = {(row["endpoint"], request, row["scorer"]) for row in rows for request in row["request_ids"]}
    if not asked:
        return {}
    since = min(utc(row["judged_at"]) for row in rows) - LATELY
    wanted: Any = [("name", "in", sorted({name for _, _, name in asked})), ("received_at", ">=", since)]
    scores = store.home(tables.SCORES).read(
        ["endpoint", "request_id", "name", "value", "source", "received_at"], wanted
    )
    told: dict[Key, tuple[float, float]] = {}
    for row in sorted(scores.to_pylist(), key=lambda row: row["received_at"]):
        value = None if row["value"] is None else scaled(row["value"], ranges.get(row["endpoint"], {}).get(row["name"]))
        key = (row["endpoint"], row["request_id"], row["name"])
        if key in asked and value is not None and not str(row["source"]).startswith("scorer "):
            told.setdefault(key, (value, utc(row["received_at"]).timestamp()))
    return told


@dataclass(frozen=True)
class Question:
    """An answer that people are asked about, and nothing of who gave it."""

    endpoint: str
    request_id: str
    scorer: str
    input: str | None
    output: str | None


def queue(store: Store, ranges: Ranges, now: datetime, most: int) -> tuple[int, list[Question]]:
    """(answers that wait for a label, the first of them): those whose pairs wait the longest first; of a pair in an order that says nothing."""
    rows = [row for row in _rows(store, now) if row["asked"] and not row["again"] and _waits(row, now)]
    told = labels(store, rows, ranges, now)
    open_ones = [
        (row["judged_at"], sha256(request.encode()).hexdigest(), row["endpoint"], request, row["scorer"])
        for row in rows
        for request in row["request_ids"]
        if (row["endpoint"], request, row["scorer"]) not in told
    ]
    chosen = sorted(open_ones)[:most]
    texts = _texts(store, chosen, now)
    return len(open_ones), [Question(e, r, s, *texts.get((e, r), (None, None))) for _, _, e, r, s in chosen]


def waits(store: Store, question: tuple[str, str, str], ranges: Ranges, now: datetime) -> bool:
    """Whether an answer (endpoint, request, what was judged) is in the queue."""
    endpoint, request_id, scorer = question
    rows = [
        row
        for row in _rows(store, now)
        if row["asked"]
        and not row["again"]
        and _waits(row, now)
        and (row["endpoint"], row["scorer"]) == (endpoint, scorer)
        and request_id in row["request_ids"]
    ]
    return bool(rows) and question not in labels(store, rows, ranges, now)


def _waits(row: Mapping[str, Any], now: datetime) -> bool:
    return utc(row["judged_at"]) + timedelta(seconds=row["label_wait_s"]) > now


def _texts(
    store: Store, chosen: Sequence[tuple[Any, ...]], now: datetime
) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    if not chosen:
        return {}
    wanted: Any = [("request_id", "in", sorted({each[3] for each in chosen}))]
    rows = store.home(tables.REQUESTS).read(["endpoint", "request_id", "input", "output"], wanted)
    return {(row["endpoint"], row["request_id"]): (row["input"], row["output"]) for row in rows.to_pylist()}


def _rows(store: Store, now: datetime) -> list[dict[str, Any]]:
    """Rows of `judged`, without what exact scorers said."""
    wanted: Any = [("judged_at", ">=", now - LATELY)]
    rows = store.home(tables.JUDGED).read(filters=wanted)
    if not rows.num_rows:
        return []
    return list(rows.filter(pc.or_(pc.greater(rows["chance"], 0), rows["again"])).to_pylist())


def label(store: Store, question: tuple[str, str, str], value: float, who: str, now: datetime) -> None:
    """Write down what a person said of an answer (endpoint, request, what was judged). Errors: as the tables' homes."""
    endpoint, request_id, name = question
    row = {
        "endpoint": endpoint, "request_id": request_id, "trace_id": None, "name": name, "value": value, "label": None, "explanation": None,
        "source": who, "at": now, "received_at": now,
    }  # fmt: skip
    store.home(tables.SCORES).append(pa.Table.from_pylist([row], arrow_schema(tables.SCORES.fields)))
