"""The tables -> agents over a time range: runs of each version in equal steps, their tools, their conversations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from lastgood import tables
from lastgood.record.windows import quantile
from lastgood.tables.history import Span, numbered
from lastgood.tables.summing import lists, sums

RUNS = ("runs", "failed", "looped", "loops_known", "step_limited", "tools_failed", "handoffs", "model_calls", "tool_calls", "tool_failures",
        "tokens_in", "tokens_out", "priced", "busy_ms", "tool_ms", "money")  # fmt: skip
CALLS = ("calls", "errors", "runs", "runs_failed")
TALKS = ("conversations", "closed", "abandoned", "repeated", "repeated_known", "escalated", "requests")


@dataclass(frozen=True)
class Sums:
    """Sums of a group of rows by column; None where no row knows the amount. `latency`: milliseconds bucket -> how many; `codes`: error code -> calls."""

    amounts: Mapping[str, float | None]
    latency: Mapping[int, float] = field(default_factory=dict)
    codes: Mapping[str, float] = field(default_factory=dict)

    def share(self, part: str, of: str) -> float | None:
        """One amount per another; None where that is unknown or 0."""
        amount, divisor = self.amounts.get(part), self.amounts.get(of)
        return amount / divisor if divisor and amount is not None else None

    @property
    def p95_ms(self) -> float | None:
        return quantile(self.latency, 0.95)


Groups = dict[tuple[Any, ...], Sums]


def runs(store: tables.Store, endpoint: str, span: Span) -> pa.Table:
    """Rows of `agent_windows` in the span with the number of their step, of one endpoint or (empty) of all."""
    return _read(store, tables.AGENT_WINDOWS, endpoint, span, ("agent", *RUNS, "latency"))


def tools(store: tables.Store, endpoint: str, span: Span) -> Groups:
    """(tool, version) -> its calls, the most first."""
    rows = _read(store, tables.TOOL_WINDOWS, endpoint, span, ("tool", *CALLS, "codes", "latency"))
    return _most(grouped(rows, ("tool", "model_version"), CALLS), "calls")


def conversations(store: tables.Store, endpoint: str, span: Span) -> Groups:
    """(version,) -> its conversations, the most first."""
    rows = _read(store, tables.CONVERSATION_WINDOWS, endpoint, span, TALKS)
    return _most(grouped(rows, ("model_version",), TALKS), "conversations")


def grouped(rows: pa.Table, by: Sequence[str], amounts: Sequence[str] = RUNS) -> Groups:
    """The group's values -> its sums, in order."""
    if not rows.num_rows:
        return {}
    whole = rows.group_by(list(by)).aggregate([(name, "sum") for name in amounts])
    maps: dict[str, dict[tuple[Any, ...], dict[Any, float]]] = {}
    for name in {"latency", "codes"} & set(rows.column_names):
        for *group, key, weight in sums(rows, name, by):
            maps.setdefault(name, {}).setdefault(tuple(group), {})[key] = weight
    made = {}
    for row in lists(whole, *by, *(f"{name}_sum" for name in amounts)):
        place = row[: len(by)]
        known = dict(zip(amounts, row[len(by) :], strict=True))
        made[place] = Sums(known, maps.get("latency", {}).get(place, {}), maps.get("codes", {}).get(place, {}))
    return dict(sorted(made.items()))


def _most(groups: Groups, amount: str) -> Groups:
    return dict(sorted(groups.items(), key=lambda item: (-(item[1].amounts[amount] or 0.0), item[0])))


def _read(store: tables.Store, table: tables.Table, endpoint: str, span: Span, columns: Sequence[str]) -> pa.Table:
    wanted: Any = [("window_start", ">=", span.since), ("window_start", "<", span.until)]
    wanted += [("endpoint", "=", endpoint)] if endpoint else []
    return numbered(store.home(table).read(["endpoint", "model_version", "window_start", *columns], wanted), span)


def newest(store: tables.Store, endpoint: str, since: datetime) -> bool:
    """Whether an endpoint had a run since a moment."""
    wanted: Any = [("endpoint", "=", endpoint), ("window_start", ">=", since)]
    return bool(store.home(tables.AGENT_WINDOWS).read(["endpoint", "window_start"], wanted).num_rows)
