"""Rows of the fleet, and what an address asks of them -> the rows a page or a CSV shows (pure)."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException

from lastgood.record.verdict import State, Verdict
from lastgood.tables.fleet import Row

PAGE_ROWS = 100
UNJUDGED = "Not judged"
STATES = (*(str(state) for state in sorted(State, key=lambda state: -state.severity)), UNJUDGED)


@dataclass(frozen=True)
class Line:
    """An endpoint as the page shows it: its figures, its leading verdict, its open incident's id and mode."""

    row: Row
    verdict: Verdict | None
    incident: str | None
    mode: str

    @property
    def state(self) -> str:
        return str(self.verdict.state) if self.verdict else UNJUDGED


SORTS: Mapping[str, tuple[str, Callable[[Line], Any], bool]] = {
    "verdict": ("Verdict", lambda line: -STATES.index(line.state), True),
    "endpoint": ("Endpoint", lambda line: line.row.endpoint, False),
    "requests": ("Requests", lambda line: line.row.requests, True),
    "p95": ("p95", lambda line: line.row.p95_ms, True),
    "errors": ("Errors", lambda line: line.row.error_rate, True),
    "cost": ("Cost, 7 days", lambda line: line.row.cost, True),
    "newest": ("Freshness", lambda line: line.row.newest, False),
    "drift": ("Drift", lambda line: line.row.drifted if line.row.compared else None, True),
}
"""Name in the address -> heading, value (None: unknown, always last), whether the largest comes first."""


@dataclass(frozen=True)
class Asked:
    """What the address asks for. `order`: `up` or `down`; empty: as the column's own."""

    q: str = ""
    state: str = ""
    sort: str = "verdict"
    order: str = ""
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Asked":
        """Errors: HTTPException 400 that names the parameter."""
        state, sort, order = query.get("state", ""), query.get("sort", "") or "verdict", query.get("order", "")
        for name, value, allowed in (
            ("state", state, ("", *STATES)), ("sort", sort, tuple(SORTS)), ("order", order, ("", "up", "down")),
        ):  # fmt: skip
            if value not in allowed:
                raise HTTPException(400, f"{name} must be one of {', '.join(name for name in allowed if name)}.")
        page = query.get("page", "") or "1"
        if not (page.isascii() and page.isdigit() and len(page) < 7 and int(page)):
            raise HTTPException(400, "page must be a number from 1.")
        return cls(query.get("q", "").strip()[:200], state, sort, order, int(page))

    def address(self, **changes: Any) -> str:
        """The address that asks for this, with changes; a change other than of the page begins at the first."""
        values = {**vars(self), **({} if "page" in changes else {"page": 1}), **changes}
        usual = vars(Asked())
        return "?" + urlencode({name: value for name, value in values.items() if value != usual[name]})

    @property
    def down(self) -> bool:
        return self.order == "down" if self.order else SORTS[self.sort][2]

    def by(self, sort: str) -> str:
        """The address that sorts by a column; the other way round where it does already."""
        if sort == self.sort:
            return self.address(order="up" if self.down else "down")
        return self.address(sort=sort, order="")


def chosen(lines: Iterable[Line], asked: Asked) -> list[Line]:
    """The lines that are asked for, in order. A search looks at the endpoint's name, its versions and its verdict's reason."""
    words = asked.q.casefold().split()
    kept = [line for line in lines if asked.state in ("", line.state) and all(word in _text(line) for word in words)]
    value = SORTS[asked.sort][1]
    kept.sort(key=lambda line: line.row.endpoint)
    known = [line for line in kept if value(line) is not None]
    known.sort(key=value, reverse=asked.down)
    return known + [line for line in kept if value(line) is None]


def _text(line: Line) -> str:
    reason = line.verdict.reason if line.verdict else ""
    return " ".join((line.row.endpoint, *(version for version, _ in line.row.versions), reason)).casefold()


def table(lines: Sequence[Line]) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows of the CSV; shares are 0-1, moments ISO 8601 in UTC, what is unknown is empty."""
    heads = [
        "endpoint", "verdict", "reason", "judged_at", "mode", "versions", "requests_hour", "p95_ms", "error_rate", "cost_7_days",
        "newest_window", "feature_sources_as_of", "feature_sources_unknown", "columns_drifted", "columns_compared", "incident",
    ]  # fmt: skip
    rows = []
    for line in lines:
        row, verdict = line.row, line.verdict
        judged = (verdict.reason, _iso(verdict.judged_at)) if verdict else (None, None)
        versions = " ".join(f"{version}={share:.4f}" for version, share in row.versions)
        rows.append([
            row.endpoint, line.state, *judged, line.mode, versions, row.requests, row.p95_ms,
            row.error_rate, row.cost, _iso(row.newest), _iso(row.features), row.sources_unknown, row.drifted, row.compared, line.incident,
        ])  # fmt: skip
    return heads, rows


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def written(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV (RFC 4180). A text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, CSV injection)."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(heads)
    for row in rows:
        writer.writerow(
            [f"'{v}" if isinstance(v, str) and v.startswith(("=", "+", "-", "@", "\t", "\r")) else v for v in row]
        )
    return out.getvalue()
