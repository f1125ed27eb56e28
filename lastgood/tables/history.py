"""The tables -> one endpoint over a time range: counts of each version in equal steps, what it cost, how late its labels come."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood import tables
from lastgood.record.telemetry import KINDS
from lastgood.record.windows import Counts, merge, utc
from lastgood.tables.summing import lists, sums

STEPS = tuple(timedelta(minutes=n) for n in (1, 5, 15, 60, 6 * 60, 24 * 60, 7 * 24 * 60))
POINTS = 180
"""A range is cut into the shortest of STEPS that gives no more than so many."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_SUMMED = ("rows", "requests", "tokens_in", "tokens_out", "told_in", "told_out", *(f"tokens_{kind}" for kind in KINDS))
_MAPS = ("errors", "latency", "ttft", "feature_age")


@dataclass(frozen=True)
class Span:
    """[since, until), UTC, in equal steps; both ends are whole steps."""

    since: datetime
    until: datetime
    step: timedelta

    @classmethod
    def around(cls, since: datetime, until: datetime, least: timedelta = STEPS[0]) -> "Span":
        """The span of whole steps that covers the range. `least`: no shorter steps than the tables have."""
        wide = [step for step in STEPS if step >= least]
        step = next((step for step in wide if (until - since) / step <= POINTS), wide[-1])
        day = datetime(1970, 1, 1, tzinfo=UTC)
        first, last = (since - day) // step, -((day - until) // step)
        return cls(day + first * step, day + max(last, first + 1) * step, step)

    @property
    def starts(self) -> list[datetime]:
        """When each step begins."""
        return [self.since + n * self.step for n in range(round((self.until - self.since) / self.step))]


Steps = Mapping[tuple[str, int], Counts]
"""(version, number of the step) -> its counts over all strata."""


@dataclass(frozen=True)
class Windows:
    """Rows of an endpoint's windows in a span, and of their output quality, each with the number of its step."""

    endpoint: str
    span: Span
    rows: pa.Table
    answers: pa.Table


def windows(store: tables.Store, endpoint: str, span: Span) -> Windows:
    """From the coarsest table that has the steps. Errors: as the tables' homes."""
    source = tables.WINDOWS if span.step < HOUR else tables.WINDOWS_HOUR if span.step < DAY else tables.WINDOWS_DAY
    rows = _binned(store, source, endpoint, span, ["stratum", *_SUMMED, *_MAPS])
    return Windows(endpoint, span, rows, _binned(store, tables.QUALITY, endpoint, span, ["stratum", "quality"]))


def counts(read: Windows) -> dict[tuple[str, int], Counts]:
    """Counts of every version in every step in which it served, with output quality."""
    rows, span, endpoint = read.rows, read.span, read.endpoint
    quality: dict[tuple[str, int], dict[str, float]] = {}
    for version, step, key, weight in _sums(read.answers, "quality"):
        quality.setdefault((version, step), {})[key] = weight
    if not rows.num_rows:
        return {}
    known = [name for name in _SUMMED if name in rows.column_names]
    whole = rows.group_by(["model_version", "step"]).aggregate([(name, "sum") for name in known])
    maps: dict[str, dict[Any, Any]] = {name: {} for name in _MAPS}
    for name, groups in maps.items():
        for version, step, key, weight in _sums(rows, name):
            groups.setdefault((version, step), {})[key] = weight
    made = {}
    for version, step, *values in lists(whole, "model_version", "step", *(f"{name}_sum" for name in known)):
        of = {name: value or 0.0 for name, value in zip(known, values, strict=True)}
        key = (version, step)
        made[key] = Counts(
            endpoint, version, "all", span.since + step * span.step, int(of["rows"]), of["requests"], tokens_in=of["tokens_in"],
            tokens_out=of["tokens_out"], told_in=of.get("told_in", 0.0), told_out=of.get("told_out", 0.0),
            kinds={kind: n for kind in KINDS if (n := of.get(f"tokens_{kind}"))}, quality=quality.get(key, {}),
            errors=maps["errors"].get(key, {}), latency=maps["latency"].get(key, {}), ttft=maps["ttft"].get(key, {}),
            feature_age=maps["feature_age"].get(key, {}),
        )  # fmt: skip
    return made


def by_stratum(read: Windows) -> list[Counts]:
    """Rows, requests, errors and output quality of each version and stratum in each step: what outcomes are compared on."""
    rows, answers, span, endpoint = read.rows, read.answers, read.span, read.endpoint
    maps: dict[str, dict[tuple[Any, ...], dict[str, float]]] = {"errors": {}, "quality": {}}
    for name, table in (("errors", rows), ("quality", answers)):
        for *group, key, weight in _sums(table, name, "stratum"):
            maps[name].setdefault(tuple(group), {})[key] = weight
    if not rows.num_rows:
        return []
    key = ["model_version", "step", "stratum"]
    whole = rows.group_by(key).aggregate([("rows", "sum"), ("requests", "sum")])
    return [
        Counts(
            endpoint, version, stratum, span.since + step * span.step, int(seen), requests,
            errors=maps["errors"].get((version, step, stratum), {}), quality=maps["quality"].get((version, step, stratum), {}),
        )
        for version, step, stratum, seen, requests in lists(whole, *key, "rows_sum", "requests_sum")
    ]  # fmt: skip


def begin(store: tables.Store, endpoint: str = "") -> datetime | None:
    """The day of the oldest window that is kept, of an endpoint or of all; None where no day is counted yet."""
    wanted: Any = [("endpoint", "=", endpoint)] if endpoint else None
    rows = store.home(tables.WINDOWS_DAY).read(["window_start"], wanted)
    return utc(pc.min(rows["window_start"]).as_py()) if rows.num_rows else None


def _sums(rows: pa.Table, name: str, *more: str) -> Any:
    return sums(rows, name, ("model_version", "step", *more)) if rows.num_rows else ()


def _binned(store: tables.Store, table: tables.Table, endpoint: str, span: Span, columns: Sequence[str]) -> pa.Table:
    """An endpoint's rows of windows in the span."""
    wanted: Any = [("endpoint", "=", endpoint), ("window_start", ">=", span.since), ("window_start", "<", span.until)]
    return numbered(store.home(table).read(["endpoint", "model_version", "window_start", *columns], wanted), span)


def numbered(rows: pa.Table, span: Span) -> pa.Table:
    """Rows of windows that begin in the span, with the number of the `step` that each is in."""
    if not rows.num_rows:
        return rows
    at = micros(rows["window_start"]) - round(span.since.timestamp() * 1e6)
    return rows.append_column("step", pa.array(at // round(span.step.total_seconds() * 1e6)))


def micros(column: pa.ChunkedArray) -> Any:
    """Moments as microseconds since 1970; one without a zone is UTC."""
    return column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64()).to_numpy()


def merged(steps: Steps) -> dict[str, Counts]:
    """Version -> its counts over the whole span, the most requests first."""
    groups: dict[str, list[Counts]] = {}
    for (version, _), window in sorted(steps.items()):
        groups.setdefault(version, []).append(window)
    whole = {version: merge(group, stratum="all") for version, group in groups.items()}
    return dict(sorted(whole.items(), key=lambda item: (-item[1].requests, item[0])))


def newest_first(steps: Iterable[tuple[str, int]]) -> list[str]:
    """The versions of (version, number of the step): those that served last first, of these the newest."""
    seen: dict[str, tuple[int, int]] = {}
    for version, step in steps:
        first, last = seen.get(version, (step, step))
        seen[version] = (min(first, step), max(last, step))
    return sorted(seen, key=lambda version: (-seen[version][1], -seen[version][0], version))


@dataclass(frozen=True)
class Cost:
    """What a version cost a team on the days of a span. money: None where a part of it has no price. `requests_with_tokens` says their tokens."""

    version: str
    team: str
    requests: float
    requests_with_tokens: float
    tokens_in: float
    tokens_out: float
    money: float | None


def costs(store: tables.Store, endpoint: str, span: Span) -> tuple[list[Cost], dict[str, dict[datetime, float | None]]]:
    """(by version and team, the most requests first; version -> day -> money) of whole days that begin in the span."""
    amounts = ["requests", "requests_with_tokens", "tokens_in", "tokens_out", "money"]
    first = span.since.replace(hour=0, minute=0, second=0, microsecond=0)
    wanted: Any = [("endpoint", "=", endpoint), ("window_start", ">=", first), ("window_start", "<", span.until)]
    rows = store.home(tables.COST).read(["endpoint", "model_version", "team", "window_start", *amounts], wanted)
    groups: dict[tuple[str, str], list[list[float | None]]] = {}
    days: dict[str, dict[datetime, list[float | None]]] = {}
    for version, team, at, *values in (
        lists(rows, "model_version", "team", "window_start", *amounts) if rows.num_rows else ()
    ):
        groups.setdefault((version, team), []).append(values)
        days.setdefault(version, {}).setdefault(utc(at), []).append(values[-1])
    by_team = []
    for (version, team), values in groups.items():
        *known, money = zip(*values, strict=True)
        requests, told, tokens_in, tokens_out = (sum(v or 0.0 for v in column) for column in known)
        by_team.append(Cost(version, team, requests, told, tokens_in, tokens_out, whole(money)))
    daily = {
        version: {at: whole(values) for at, values in sorted(by_day.items())}
        for version, by_day in sorted(days.items())
    }
    return sorted(by_team, key=lambda cost: (-cost.requests, cost.version, cost.team)), daily


def whole(amounts: Sequence[float | None]) -> float | None:
    """Their sum; None where a part is unknown."""
    return None if None in amounts else sum(amount for amount in amounts if amount is not None)


@dataclass(frozen=True)
class Delay:
    """How late labels and feedback of a name came: median and 90th percentile, of `n` sampled requests."""

    name: str
    n: int
    median: timedelta
    p90: timedelta


def delays(store: tables.Store, endpoint: str, span: Span) -> list[Delay]:
    """From request to report, by name, of requests in the hourly samples that a report is about: a bounded and fair choice of them."""
    wanted: Any = [("endpoint", "=", endpoint), ("requested_at", ">=", span.since), ("requested_at", "<", span.until)]
    asked = store.home(tables.SAMPLES).read(["endpoint", "request_id", "requested_at"], wanted)
    about: Any = [("endpoint", "=", endpoint), ("received_at", ">=", span.since)]
    told = store.home(tables.SCORES).read(["endpoint", "request_id", "name", "received_at"], about)
    if not asked.num_rows or not told.num_rows:
        return []
    pairs = told.join(asked.select(["request_id", "requested_at"]), "request_id", join_type="inner")
    late = (micros(pairs["received_at"]) - micros(pairs["requested_at"])) / 1e6
    names = np.asarray(pairs["name"].to_pylist(), dtype=object)
    made = []
    for name in sorted(pc.unique(pairs["name"]).drop_null().to_pylist()):
        seconds = late[names == name]
        median, p90 = (timedelta(seconds=float(np.quantile(seconds, q))) for q in (0.5, 0.9))
        made.append(Delay(name, len(seconds), median, p90))
    return made
