"""Which version is new and which is prior, per endpoint, from what was served (and what was deployed)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from lastgood import tables

if TYPE_CHECKING:
    from lastgood.runs import Context

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
    known = sorted((one for one in served if one.version != "?"), key=lambda one: (one.first, one.version))
    if not known:
        return None
    candidate = known[-1]
    earlier = known[:-1]
    prior = max(earlier, key=lambda one: (one.last, one.first), default=None)
    return Pair(candidate.version, prior.version if prior else None, candidate.first)


def pairs(
    ctx: "Context", rolled_back: Mapping[str, Mapping[str, Sequence[datetime]]] | None = None
) -> Mapping[str, Pair]:
    """endpoint -> Pair, from the windows table. `rolled_back`: endpoint -> version -> when traffic was moved away from it; of such a
    version only what it served when it was tried again counts.
    """
    from pyspark.sql import functions as f

    windows = ctx.store.read(ctx.spark, tables.WINDOWS)
    away = {(e, v): max(times) for e, one in (rolled_back or {}).items() for v, times in one.items()}
    for (endpoint, version), last in away.items():
        mine = (f.col("endpoint") == endpoint) & (f.col("model_version") == version)
        windows = windows.where(~(mine & (f.col("window_start") < f.lit(last + AGAIN_AFTER))))
    rows = (
        windows.groupBy("endpoint", "model_version")
        .agg(
            f.min("window_start").alias("first"),
            f.max("window_start").alias("last"),
            f.sum("rows").alias("rows"),
        )
        .collect()
    )
    by_endpoint: dict[str, list[Served]] = {}
    for row in rows:
        if row["rows"] >= AGAIN_ROWS or (row["endpoint"], row["model_version"]) not in away:
            by_endpoint.setdefault(row["endpoint"], []).append(
                Served(row["model_version"], row["first"], row["last"], row["rows"])
            )
    found = {endpoint: choose(served) for endpoint, served in by_endpoint.items()}
    return {endpoint: pair for endpoint, pair in found.items() if pair}
