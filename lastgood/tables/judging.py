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
BY_SCORER = "scorer "
"""What the source of an exact scorer's scores begins with."""
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


@dataclass(frozen=True)
class Judged:
    """Rows of `judged` of the newest LATELY, without what exact scorers said, and what people said of their requests; as of `now`."""

    rows: Sequence[Mapping[str, Any]]
    told: Told
    now: datetime

    def summaries(self) -> list[Summary]:
        """Of every scorer and pair of versions, the newest first."""
        groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
        for row in self.rows:
            groups.setdefault((row["endpoint"], row["candidate"], row["prior"], row["scorer"]), []).append(row)
        made = [_summary(key, each, self.told, self.now) for key, each in groups.items()]
        return sorted(made, key=lambda summary: summary.newest, reverse=True)

    def queue(self) -> list[Key]:
        """Answers that wait for a label: those whose pairs wait the longest first; of a pair in an order that says nothing."""
        waiting = [
            (row["judged_at"], sha256(request.encode()).hexdigest(), (row["endpoint"], request, row["scorer"]))
            for row in self.rows
            if row["asked"]
            and not row["again"]
            and utc(row["judged_at"]) + timedelta(seconds=row["label_wait_s"]) > self.now
            for request in row["request_ids"]
        ]
        return [key for _, _, key in sorted(waiting) if key not in self.told]


def read(store: Store, ranges: Ranges, now: datetime) -> Judged:
    """What scorers and people said lately. Errors: as the tables' homes."""
    rows = _rows(store, now)
    return Judged(rows, _labels(store, rows, ranges), now)


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


def _labels(store: Store, rows: Sequence[Mapping[str, Any]], ranges: Ranges) -> Told:
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
        if key in asked and value is not None and not str(row["source"]).startswith(BY_SCORER):
            told.setdefault(key, (value, utc(row["received_at"]).timestamp()))
    return told


def texts(store: Store, key: Key) -> tuple[str | None, str | None]:
    """What was asked and answered, as far as it is kept. Errors: as the tables' homes."""
    wanted: Any = [("endpoint", "=", key[0]), ("request_id", "=", key[1])]
    rows = store.home(tables.REQUESTS).read(["endpoint", "request_id", "input", "output"], wanted)
    return next(((row["input"], row["output"]) for row in rows.to_pylist()), (None, None))


def _rows(store: Store, now: datetime) -> list[dict[str, Any]]:
    """Rows of `judged`, without what exact scorers said."""
    wanted: Any = [("judged_at", ">=", now - LATELY)]
    rows = store.home(tables.JUDGED).read(filters=wanted)
    if not rows.num_rows:
        return []
    return list(rows.filter(pc.or_(pc.greater(rows["chance"], 0), rows["again"])).to_pylist())


def label(store: Store, key: Key, value: float, who: str, now: datetime) -> None:
    """Write down what a person said of an answer. Errors: as the tables' homes."""
    row = dict(zip(("endpoint", "request_id", "name"), key, strict=True)) | {
        "value": value,
        "source": who,
        "at": now,
        "received_at": now,
    }
    store.home(tables.SCORES).append(pa.Table.from_pylist([row], arrow_schema(tables.SCORES.fields)))
