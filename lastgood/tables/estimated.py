"""Rows of `estimates`, read back without Spark -> the performance of each version by day, and what of it people are told."""

from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

from lastgood import tables
from lastgood.judge.days import Day
from lastgood.judge.performance import CLASSIFICATION, LOSSES, Estimate
from lastgood.record.windows import utc
from lastgood.tables import Store

METRICS = (*CLASSIFICATION, *LOSSES)
PRESENT, MOST_VERSIONS = timedelta(days=3), 4
"""A version with a whole day within this time serves; so many of an endpoint, those with the most answers, are exported."""


def plain(day: Day) -> dict[str, Any]:
    """A day as JSON has it."""
    return asdict(day) | {"day": day.day.isoformat()}


def by_day(
    store: Store, since: datetime, endpoint: str | None = None, version: str | None = None
) -> dict[str, list[Day]]:
    """Endpoint -> its days from `since` on, by version and time. Errors: as the tables' homes."""
    wanted: Any = [("window_start", ">=", datetime(since.year, since.month, since.day, tzinfo=UTC))]
    wanted += [(name, "=", value) for name, value in (("endpoint", endpoint), ("model_version", version)) if value]
    rows = store.home(tables.ESTIMATES).read(filters=wanted).to_pylist()
    by_key: dict[tuple[str, str, date], list[dict[str, Any]]] = {}
    for row in rows:
        by_key.setdefault((row["endpoint"], row["model_version"], utc(row["window_start"]).date()), []).append(row)
    made: dict[str, list[Day]] = {}
    for (name, of, day), given in sorted(by_key.items()):
        given.sort(key=lambda row: METRICS.index(row["metric"]))
        metrics = tuple(
            Estimate(
                row["metric"],
                row["value"],
                row["low"],
                row["high"],
                row["labelled"],
                row["reason"] or "",
                row["realised"],
                row["usual"],
            )
            for row in given
        )
        made.setdefault(name, []).append(Day(of, day, given[0]["rows"], given[0]["reference"], metrics))
    return made


def present(days: list[Day], today: date) -> dict[str, list[Day]]:
    """Version -> its whole days, of those that serve."""
    whole: dict[str, list[Day]] = {}
    for day in days:
        if day.day < today:
            whole.setdefault(day.model_version, []).append(day)
    serving = {version: made for version, made in whole.items() if made[-1].day >= today - PRESENT}
    kept = sorted(serving, key=lambda version: (-serving[version][-1].rows, version))[:MOST_VERSIONS]
    return {version: serving[version] for version in sorted(kept)}
