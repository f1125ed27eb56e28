"""What scorers said of pairs and what people said of them: read back for the label queue, the page and the judge."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from lastgood import tables
from lastgood.judge.corrected import Judgements, bets, settled
from lastgood.record.telemetry import arrow_schema
from lastgood.record.windows import TINY, utc
from lastgood.settings import Settings
from lastgood.tables import Store

LATELY, WEEK, DAY = timedelta(days=30), timedelta(days=7), timedelta(days=1)
REHEARSED = "rehearsed"
"""Why answers that a rehearsal asked for are a pair: they are of no user, so nothing but their cost counts here."""
BY_SCORER = "scorer "
"""What the source of an exact scorer's scores begins with."""
Key = tuple[str, str, str]
"""Endpoint, request, what was judged."""
TURNS = 6
"""Requests of a conversation that are shown with an answer."""
Told = Mapping[Key, tuple[float, float]]
"""What people said (0-1) and when (epoch seconds): the first that came counts."""
NAMES = ["endpoint", "candidate", "prior", "scorer", "scorer_version", "pair_id", "again", "request_ids", "alike", "scores", "errors", "asked", "chance",
         "label_wait_s", "money", "judged_at"]  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How an endpoint's labels are read. ranges: name -> (worst, best), where it is not 0 to 1; names: of feedback -> the scorers that it labels too."""

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def scaled(self, name: str, value: float) -> float | None:
        """A label as 0 (worst) to 1 (best); None where it lies outside, so says nothing."""
        worst, best = self.ranges.get(name, (0.0, 1.0))
        share = (value - worst) / (best - worst)
        return min(max(share, 0.0), 1.0) if -TINY <= share <= 1 + TINY else None


def reading(settings: Settings, endpoint: str) -> Reading:
    """As the settings are now."""
    own, names = settings.endpoint(endpoint), dict[str, list[str]]()
    for scorer in own.scoring.scorers:
        for name in scorer.labelled_by:
            names.setdefault(name, []).append(scorer.name)
    return Reading(own.policy.score_ranges, names)


def labelled(
    rows: Iterable[Mapping[str, Any]], asked: Collection[Key], settings: Settings
) -> tuple[dict[Key, tuple[float, float]], Counter[tuple[str, str]]]:
    """Rows of `scores` with their endpoint and request -> what people said of what was asked; (endpoint, scorer) -> labels outside of their range."""
    told, outside, readings = dict[Key, tuple[float, float]](), Counter[tuple[str, str]](), dict[str, Reading]()
    for row in sorted(rows, key=lambda row: row["received_at"]):
        if row["value"] is None or str(row["source"]).startswith(BY_SCORER):
            continue
        own = readings.setdefault(row["endpoint"], reading(settings, row["endpoint"]))
        for scorer in (row["name"], *own.names.get(row["name"], ())):
            key = (row["endpoint"], row["request_id"], scorer)
            if key not in asked:
                continue
            if (value := own.scaled(row["name"], row["value"])) is None:
                outside[row["endpoint"], scorer] += 1
            else:
                told.setdefault(key, (value, utc(row["received_at"]).timestamp()))
    return told, outside


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
    said of a pair and what it said again in the newest WEEK. `unlabelled`: pairs that people were asked and did not label in time; `outside`: labels
    outside of their range. `calls`, `money`: with rehearsals. `calls_today`, `failed_today`: answers of the newest DAY, and pairs of them with a
    failure."""

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
    outside: int
    difference: float | None
    error: float | None
    scored: float
    agrees: float | None
    moved: float | None
    calls: int
    money: float
    calls_today: int
    failed_today: int
    newest: datetime


@dataclass(frozen=True)
class Judged:
    """Rows of `judged` of the newest LATELY, and what people said of their requests; as of `now`. `outside`: see `labelled`."""

    rows: Sequence[Mapping[str, Any]]
    told: Told
    now: datetime
    outside: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def summaries(self) -> list[Summary]:
        """Of every scorer and pair of versions, the newest first."""
        groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
        for row in self.rows:
            groups.setdefault((row["endpoint"], row["candidate"], row["prior"], row["scorer"]), []).append(row)
        made = [_summary(key, each, self) for key, each in groups.items()]
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


def read(store: Store, settings: Settings, now: datetime) -> Judged:
    """What scorers and people said lately. Errors: as the tables' homes."""
    wanted: Any = [("judged_at", ">=", now - LATELY)]
    rows = store.home(tables.JUDGED).read(NAMES, wanted).to_pylist()
    told, outside = _labels(store, rows, settings)
    return Judged(rows, told, now, outside)


def _summary(key: tuple[str, str, str, str], rows: Sequence[Mapping[str, Any]], whole: Judged) -> Summary:
    first = {row["pair_id"]: row for row in rows if not row["again"] and row["alike"] != REHEARSED}
    given = judgements(first.values(), whole.told)
    counted = bets(settled(given, whole.now.timestamp()), 0.0)
    known = ~np.isnan(given.labels)
    lately = [row for row in rows if utc(row["judged_at"]) >= whole.now - WEEK]
    again = [(first[row["pair_id"]], row) for row in lately if row["again"] and row["pair_id"] in first]
    today = [row for row in lately if utc(row["judged_at"]) >= whole.now - DAY]
    moved = [abs(a - b) for old, new in again for a, b in zip(old["scores"], new["scores"], strict=True)]
    newest = max(rows, key=lambda row: row["judged_at"])
    difference, error = counted.difference or (None, None)
    apart = given.scores[:, 1] - given.scores[:, 0]
    return Summary(
        *key, newest["scorer_version"], len(first), sum(any(row["errors"]) for row in first.values()), int(given.asked.sum()),
        int(known.all(1).sum()), counted.unlabelled, whole.outside.get((key[0], key[3]), 0), difference, error, float(apart.mean()) if len(apart) else 0.0,
        float(((given.scores > 0.5) == (given.labels > 0.5))[known].mean()) if known.any() else None, float(np.mean(moved)) if moved else None,
        2 * len(rows), sum(row["money"] or 0.0 for row in rows), 2 * len(today), sum(any(row["errors"]) for row in today),
        utc(newest["judged_at"]),
    )  # fmt: skip


def _labels(
    store: Store, rows: Sequence[Mapping[str, Any]], settings: Settings
) -> tuple[dict[Key, tuple[float, float]], Counter[tuple[str, str]]]:
    """As `labelled`, of the requests of these rows."""
    asked = {(row["endpoint"], request, row["scorer"]) for row in rows for request in row["request_ids"]}
    if not asked:
        return {}, Counter()
    since = min(utc(row["judged_at"]) for row in rows) - LATELY
    names = {name for _, _, name in asked}
    for endpoint in {endpoint for endpoint, _, _ in asked}:
        names |= reading(settings, endpoint).names.keys()
    wanted: Any = [("name", "in", sorted(names)), ("received_at", ">=", since)]
    columns = ["endpoint", "request_id", "trace_id", "name", "value", "source", "received_at"]
    scores = store.home(tables.SCORES).read(columns, wanted).to_pylist()
    return labelled(_about(store, scores, asked), asked, settings)


def _about(store: Store, scores: Sequence[Mapping[str, Any]], asked: Collection[Key]) -> Iterator[Mapping[str, Any]]:
    """Each score with its endpoint and request, as jobs.scored.about finds them: by the request's id, else its trace."""
    named: dict[str, set[str]] = {}
    for endpoint, request, _ in asked:
        named.setdefault(request, set()).add(endpoint)
    traces = sorted({row["trace_id"] for row in scores if row["request_id"] is None and row["trace_id"]})
    traced: dict[str, list[tuple[str, str]]] = {}
    if traces:
        wanted: Any = [("trace_id", "in", traces)]
        for row in store.home(tables.REQUESTS).read(["endpoint", "request_id", "trace_id"], wanted).to_pylist():
            traced.setdefault(row["trace_id"], []).append((row["endpoint"], row["request_id"]))
    for row in scores:
        request = row["request_id"]
        known = (
            traced.get(row["trace_id"] or "", []) if request is None else [(e, request) for e in named.get(request, ())]
        )
        yield from (
            {**row, "endpoint": endpoint, "request_id": request}
            for endpoint, request in known if row["endpoint"] in (None, endpoint)
        )  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What a person is shown. `before`: what was asked and answered earlier in its conversation, the newest TURNS, the oldest first."""

    asked: str | None
    answered: str | None
    before: Sequence[tuple[str | None, str | None]] = ()


def texts(store: Store, key: Key) -> Shown:
    """As far as it is kept. Errors: as the tables' homes."""
    names = ["endpoint", "request_id", "input", "output", "conversation_id", "requested_at"]
    requests, endpoint = store.home(tables.REQUESTS), ("endpoint", "=", key[0])
    rows = requests.read(names, [endpoint, ("request_id", "=", key[1])]).to_pylist()
    if not rows:
        return Shown(None, None)
    row, turns = rows[0], []
    if row["output"] and row["conversation_id"]:
        talk: Any = [("conversation_id", "=", row["conversation_id"]), ("requested_at", "<", row["requested_at"])]
        turns = sorted(requests.read(names, [endpoint, *talk]).to_pylist(), key=lambda turn: turn["requested_at"])
    return Shown(row["input"], row["output"], [(turn["input"], turn["output"]) for turn in turns[-TURNS:]])


def label(store: Store, key: Key, value: float, who: str, now: datetime) -> None:
    """Write down what a person said of an answer. Errors: as the tables' homes."""
    row = dict(zip(("endpoint", "request_id", "name"), key, strict=True)) | {
        "value": value,
        "source": who,
        "at": now,
        "received_at": now,
    }
    store.home(tables.SCORES).append(pa.Table.from_pylist([row], arrow_schema(tables.SCORES.fields)))
