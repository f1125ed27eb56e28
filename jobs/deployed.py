"""Which version is new and which is prior, per endpoint, from what was served (and what was deployed)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.record.windows import Counts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

    from lastgood.tables.runs import Context

AGAIN_AFTER, AGAIN_ROWS = timedelta(minutes=10), 60
"""A version that was rolled back is tried again when it serves so many requests later than so long after traffic was moved away."""


@dataclass(frozen=True)
class Served:
    """A version as the windows show it: first and last window, rows."""

    version: str
    first: datetime
    last: datetime
    rows: int


@dataclass(frozen=True)
class Pair:
    """The candidate (newest version taking traffic), the version before it, and since when the candidate serves."""

    candidate: str
    prior: str | None
    since: datetime


def choose(served: Iterable[Served]) -> Pair | None:
    """Candidate: the version that appeared last. Prior: the one that appeared before it and served most recently. None when no
    version is known.
    """
    known = sorted(
        (version for version in served if version.version != "?"), key=lambda version: (version.first, version.version)
    )
    if not known:
        return None
    candidate = known[-1]
    earlier = known[:-1]
    prior = max(earlier, key=lambda version: (version.last, version.first), default=None)
    return Pair(candidate.version, prior.version if prior else None, candidate.first)


def pairs_of(windows: Iterable[Counts]) -> dict[str, Pair]:
    """endpoint -> Pair, from window counts at hand."""
    served: dict[tuple[str, str], list[Counts]] = {}
    for window in windows:
        served.setdefault((window.endpoint, window.model_version), []).append(window)
    by_endpoint: dict[str, list[Served]] = {}
    for (endpoint, version), group in served.items():
        starts = [window.start for window in group]
        by_endpoint.setdefault(endpoint, []).append(
            Served(version, min(starts), max(starts), sum(window.rows for window in group))
        )
    return {endpoint: pair for endpoint, group in by_endpoint.items() if (pair := choose(group))}


def pairs(
    ctx: "Context", rolled_back: Mapping[str, Mapping[str, Sequence[datetime]]] | None = None
) -> Mapping[str, Pair]:
    """endpoint -> Pair, from the windows. `rolled_back`: endpoint -> version -> when traffic was moved away from it; of such a
    version only what it served when it was tried again counts.
    """
    away = {(e, v): max(times) for e, versions in (rolled_back or {}).items() for v, times in versions.items()}
    by_endpoint: dict[str, list[Served]] = {}
    for (endpoint, version), (first, last, rows) in _served(ctx, away).items():
        if rows >= AGAIN_ROWS or (endpoint, version) not in away:
            by_endpoint.setdefault(endpoint, []).append(Served(version, first, last, rows))
    choices = {endpoint: choose(served) for endpoint, served in by_endpoint.items()}
    return {endpoint: pair for endpoint, pair in choices.items() if pair}


def _served(
    ctx: "Context", away: Mapping[tuple[str, str], datetime]
) -> dict[tuple[str, str], tuple[datetime, datetime, int]]:
    """(endpoint, version) -> first window, last window, rows; of the versions in `away` only what came AGAIN_AFTER its time.

    Where days are rolled up, minutes are read only of the newest day and of days on which a version came or left, so that the cost does not
    grow with history.
    """
    from pyspark.sql import functions as f

    days = _bounds(ctx.store.read(ctx.spark, tables.WINDOWS_DAY), "window_start")
    days = [day for day in days if (day["endpoint"], day["model_version"]) not in away]
    minutes = ctx.store.read(ctx.spark, tables.WINDOWS)
    again = f.lit(False)
    for (endpoint, version), left in away.items():
        matches = (f.col("endpoint") == endpoint) & (f.col("model_version") == version)
        later = f.col("window_start") >= f.lit(left + AGAIN_AFTER)
        minutes, again = minutes.where(~matches | later), again | (matches & later)
    edges: set[datetime] = set()
    for key in {(day["endpoint"], day["model_version"]) for day in days}:
        first_days = [day["first"] for day in days if (day["endpoint"], day["model_version"]) == key]
        edges |= {min(first_days), max(first_days)}
    if days:
        newest = max(day["first"] for day in days)
        near = [f"window_start >= timestamp'{newest}'"]
        near += [
            f"(window_start >= timestamp'{day}' AND window_start < timestamp'{day}' + INTERVAL 1 DAY)"
            for day in sorted(edges)
        ]
        minutes = minutes.where(f.expr(" OR ".join(near)) | again)
    whole = [day for day in days if day["first"] not in edges]
    spans: dict[tuple[str, str], tuple[datetime, datetime, int]] = {}
    for span in [*whole, *_bounds(minutes)]:
        key = (span["endpoint"], span["model_version"])
        first, last, rows = spans.get(key, (span["first"], span["last"], 0))
        spans[key] = (min(first, span["first"]), max(last, span["last"]), rows + span["rows"])
    return spans


def _bounds(windows: "DataFrame", *also: str) -> "list[Row]":
    from pyspark.sql import functions as f

    first, last = f.min("window_start").alias("first"), f.max("window_start").alias("last")
    bounds: list[Row] = (
        windows.groupBy("endpoint", "model_version", *also).agg(first, last, f.sum("rows").alias("rows")).collect()
    )
    return bounds
