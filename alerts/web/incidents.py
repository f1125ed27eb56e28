"""Incidents -> the rows of their page and its CSV, and where each stands on a line of time (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lastgood.alerts.records import Incident, Rollback

SPAN = timedelta(days=42)
WIDTH = 168
"""Of the line of time, in its units: six hours each."""


@dataclass(frozen=True)
class Row:
    """An incident, its newest rollback, how long it lasted (so far), and its bar on the line of time (None: it ended before that)."""

    incident: Incident
    rollback: Rollback | None
    lasted: timedelta
    bar: tuple[int, int] | None


def rows(pairs: Sequence[tuple[Incident, Rollback | None]], now: datetime) -> list[Row]:
    """Newest first, as they are given."""
    made = []
    for incident, rollback in pairs:
        end = incident.resolved_at or now
        first, last = ((at - (now - SPAN)) / SPAN * WIDTH for at in (incident.opened_at, end))
        x = round(min(max(first, 0), WIDTH - 2))
        bar = (x, max(2, round(min(last, WIDTH)) - x)) if last >= 0 else None
        made.append(Row(incident, rollback, end - incident.opened_at, bar))
    return made


def table(made: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows of the CSV."""
    heads = [
        "id",
        "endpoint",
        "version",
        "prior",
        "opened_at",
        "resolved_at",
        "lasted_s",
        "reason",
        "resolution",
        "acknowledged_by",
        "rollback",
    ]
    return heads, [
        [
            i.id, i.endpoint, i.candidate, i.prior, i.opened_at.isoformat(), i.resolved_at.isoformat() if i.resolved_at else None,
            round(row.lasted.total_seconds()), i.verdict["reason"], i.resolution, i.acked_by, str(row.rollback.state) if row.rollback else None,
        ]
        for row in made
        for i in (row.incident,)
    ]  # fmt: skip
