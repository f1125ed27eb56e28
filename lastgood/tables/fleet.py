"""The tables -> one row of figures for each endpoint, for the page of the fleet. A table is read again when it has changed."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from lastgood import tables
from lastgood.record.windows import quantile, utc
from lastgood.tables.summing import lists, sums

HOUR, WEEK = timedelta(hours=1), timedelta(days=7)
WEEK_POINTS = 28
"""A week in steps of six hours."""
AGAIN_S = 300
"""What "the last hour" is moves on also while nothing new arrives."""


@dataclass(frozen=True)
class Row:
    """An endpoint's figures of docs/reference/figures.md; None is unknown.

    versions: (version, its share 0-1 of the last hour's requests), the largest first. requests, p95_ms, error_rate (0-1): of all
    versions in the last hour. week: requests in each six hours of the last seven days. newest: start of the newest window, to the hour
    where there is none in the last hour. cost: seven days in the currency of the prices; None where a part of it has no price.
    drifted, compared: columns of each version's newest comparison. features: newest event of the endpoint's oldest feature source;
    sources_unknown: sources that do not say it. agent: whether an agent ran in the last week.
    """

    endpoint: str
    versions: tuple[tuple[str, float], ...] = ()
    requests: float = 0.0
    p95_ms: float | None = None
    error_rate: float | None = None
    week: tuple[float, ...] = ()
    newest: datetime | None = None
    cost: float | None = None
    drifted: int = 0
    compared: int = 0
    features: datetime | None = None
    sources_unknown: int = 0
    agent: bool = False


Facts = dict[str, dict[str, Any]]
"""Endpoint -> fields of its Row."""


@dataclass
class Fleet:
    """All rows, as of the last `refresh`; `read_at` is None before the first."""

    store: tables.Store
    clock: Callable[[], datetime]
    rows: Mapping[str, Row] = field(default_factory=dict)
    read_at: datetime | None = None
    _parts: dict[str, tuple[Any, Facts]] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read what has changed. Errors: as the tables' homes; the rows stay as they were."""
        now = self.clock()
        turn = int(now.timestamp() // AGAIN_S)
        changed = False
        for table, part in PARTS:
            home = self.store.home(table)
            key = (home.version(), turn)
            if self._parts.get(table.name, (None, {}))[0] != key:
                self._parts[table.name] = (key, part(home.read, now))
                changed = True
        if changed:
            rows: dict[str, Row] = {}
            for _, facts in self._parts.values():
                for endpoint, values in facts.items():
                    rows[endpoint] = replace(rows.get(endpoint, Row(endpoint)), **values)
            self.rows = rows
        self.read_at = now


Read = Callable[..., pa.Table]


def _hour(read: Read, now: datetime) -> Facts:
    columns = ["endpoint", "model_version", "window_start", "requests", "errors", "latency"]
    rows = read(columns, [("window_start", ">=", now - HOUR)])
    if not rows.num_rows:
        return {}
    requests: dict[str, dict[str, float]] = defaultdict(dict)
    newest: dict[str, datetime] = {}
    summed = rows.group_by(["endpoint", "model_version"]).aggregate([("requests", "sum"), ("window_start", "max")])
    for endpoint, version, number, start in lists(
        summed, "endpoint", "model_version", "requests_sum", "window_start_max"
    ):
        requests[endpoint][version] = number
        newest[endpoint] = max(utc(start), newest.get(endpoint, utc(start)))
    failed: dict[str, float] = defaultdict(float)
    for endpoint, _, weight in sums(rows, "errors", ("endpoint",)):
        failed[endpoint] += weight
    latency: dict[str, dict[int, float]] = defaultdict(dict)
    for endpoint, bucket, weight in sums(rows, "latency", ("endpoint",)):
        latency[endpoint][bucket] = weight
    return {
        endpoint: {
            "versions": tuple((v, n / total) for v, n in sorted(numbers.items(), key=lambda kv: (-kv[1], kv[0]))),
            "requests": total, "p95_ms": quantile(latency[endpoint], 0.95), "error_rate": failed[endpoint] / total,
            "newest": newest[endpoint],
        }
        for endpoint, numbers in requests.items()
        if (total := sum(numbers.values())) > 0
    }  # fmt: skip


def _week(read: Read, now: datetime) -> Facts:
    rows = read(["endpoint", "window_start", "requests"], [("window_start", ">=", now - WEEK)])
    week: dict[str, list[float]] = defaultdict(lambda: [0.0] * WEEK_POINTS)
    newest: dict[str, datetime] = {}
    if rows.num_rows:
        rows = rows.group_by(["endpoint", "window_start"]).aggregate([("requests", "sum")])
        for endpoint, start, number in lists(rows, "endpoint", "window_start", "requests_sum"):
            point = int((utc(start) - (now - WEEK)) / WEEK * WEEK_POINTS)
            week[endpoint][min(max(point, 0), WEEK_POINTS - 1)] += number
            newest[endpoint] = max(utc(start), newest.get(endpoint, utc(start)))
    return {endpoint: {"week": tuple(points), "newest": newest[endpoint]} for endpoint, points in week.items()}


def _cost(read: Read, now: datetime) -> Facts:
    rows = read(["endpoint", "window_start", "money"], [("window_start", ">=", now - WEEK)])
    money: dict[str, list[float | None]] = defaultdict(list)
    for endpoint, value in lists(rows, "endpoint", "money") if rows.num_rows else ():
        money[endpoint].append(value)
    return {
        endpoint: {"cost": None if None in values else sum(v for v in values if v is not None)}
        for endpoint, values in money.items()
    }


def _drift(read: Read, now: datetime) -> Facts:
    columns = ["endpoint", "model_version", "against", "kind", "column", "computed_at", "drifted"]
    rows = read(columns, [("computed_at", ">=", now - WEEK)])
    newest: dict[tuple[str, ...], tuple[datetime, bool]] = {}
    for *key, at, drifted in lists(rows, *columns) if rows.num_rows else ():
        name = tuple(key)
        if name not in newest or newest[name][0] < at:
            newest[name] = (at, bool(drifted))
    facts: Facts = {}
    for (endpoint, *_), (_, drifted) in newest.items():
        counts = facts.setdefault(endpoint, {"drifted": 0, "compared": 0})
        counts["compared"] += 1
        counts["drifted"] += drifted
    return facts


def _features(read: Read, now: datetime) -> Facts:
    rows = read(["endpoint", "name", "as_of", "checked_at"], [("checked_at", ">=", now - WEEK)])
    newest: dict[tuple[str, str], tuple[datetime, datetime | None]] = {}
    for endpoint, name, as_of, at in lists(rows, "endpoint", "name", "as_of", "checked_at") if rows.num_rows else ():
        if (endpoint, name) not in newest or newest[endpoint, name][0] < at:
            newest[endpoint, name] = (at, as_of)
    facts: Facts = {}
    for (endpoint, _), (_, as_of) in newest.items():
        known = facts.setdefault(endpoint, {"features": None, "sources_unknown": 0})
        if as_of is None:
            known["sources_unknown"] += 1
        else:
            known["features"] = min(utc(as_of), known["features"] or utc(as_of))
    return facts


def _agents(read: Read, now: datetime) -> Facts:
    rows = read(["endpoint", "window_start"], [("window_start", ">=", now - WEEK)])
    return {endpoint: {"agent": True} for endpoint in rows["endpoint"].unique().to_pylist()} if rows.num_rows else {}


def _deployed(read: Read, now: datetime) -> Facts:
    rows = read(["endpoint"])
    return {endpoint: {} for (endpoint,) in lists(rows, "endpoint")} if rows.num_rows else {}


PARTS: tuple[tuple[tables.Table, Callable[[Read, datetime], Facts]], ...] = (
    (tables.DEPLOYMENTS, _deployed),
    (tables.WINDOWS_HOUR, _week),
    (tables.WINDOWS, _hour),
    (tables.COST, _cost),
    (tables.DRIFT, _drift),
    (tables.FRESHNESS, _features),
    (tables.AGENT_WINDOWS, _agents),
)
"""What is read of which table; the last hour knows `newest` better than the hours of the week."""
