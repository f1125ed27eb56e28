"""Which version is new and which is prior, per endpoint, from what was served (and what was deployed)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from lastgood import tables

if TYPE_CHECKING:
    from lastgood.runs import Context


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


def choose(served: Iterable[Served], rolled_back: frozenset[str] = frozenset()) -> Pair | None:
    """Candidate: the version that appeared last, rolled-back ones aside. Prior: the one that appeared before it and
    served most recently. None when no version is known.
    """
    known = sorted(
        (one for one in served if one.version not in {"?", *rolled_back}),
        key=lambda one: (one.first, one.version),
    )
    if not known:
        return None
    candidate = known[-1]
    earlier = known[:-1]
    prior = max(earlier, key=lambda one: (one.last, one.first), default=None)
    return Pair(candidate.version, prior.version if prior else None, candidate.first)


def pairs(ctx: "Context", rolled_back: Mapping[str, frozenset[str]] | None = None) -> Mapping[str, Pair]:
    """endpoint -> Pair, from the windows table; `rolled_back`: versions by endpoint that are out of the question."""
    from pyspark.sql import functions as f

    rows = (
        ctx.store.read(ctx.spark, tables.WINDOWS)
        .groupBy("endpoint", "model_version")
        .agg(
            f.min("window_start").alias("first"),
            f.max("window_start").alias("last"),
            f.sum("rows").alias("rows"),
        )
        .collect()
    )
    by_endpoint: dict[str, list[Served]] = {}
    for row in rows:
        by_endpoint.setdefault(row["endpoint"], []).append(
            Served(row["model_version"], row["first"], row["last"], row["rows"])
        )
    out = rolled_back or {}
    found = {endpoint: choose(served, out.get(endpoint, frozenset())) for endpoint, served in by_endpoint.items()}
    return {endpoint: pair for endpoint, pair in found.items() if pair}
