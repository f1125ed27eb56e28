"""What moved together with a harm, ranked: offered to who looks for the cause, not claimed to be it. Read back without Spark."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow.compute as pc

from lastgood import tables
from lastgood.record.windows import Counts, merge, quantile, utc
from lastgood.record.words import counted, percent
from lastgood.tables import Store, measures
from lastgood.tables.summing import lists

BEFORE, AROUND = timedelta(hours=6), timedelta(minutes=30)
"""What is called usual; how near a deploy must be to the onset."""
RATIO, LEAST, MOST = 1.2, 20, 5
"""How much a figure must have changed; requests that it must rest on; how many are said."""
STALE = timedelta(hours=1)


@dataclass(frozen=True)
class Moved:
    """One thing that moved. weight: how far, in doublings; what has no size (a deploy) by how near in time."""

    sentence: str
    weight: float


def moved(store: Store, endpoint: str, new: str, prior: str | None, since: datetime, now: datetime) -> list[Moved]:
    """At most MOST, the farthest first. Errors: as the tables' homes."""
    counts = measures.windows(store, endpoint, since - BEFORE, now)
    candidates = [
        *_figures(counts, new, prior, since), *_tools(store, endpoint, new, prior, since), *_sources(store, endpoint, since, now),
        *_columns(store, endpoint, new, now), *_deploys(store, endpoint, since), *_others(store, endpoint, since, now),
    ]  # fmt: skip
    return sorted(candidates, key=lambda each: -each.weight)[:MOST]


def _mean(total: str, told: str) -> Callable[[Counts], float | None]:
    return lambda window: getattr(window, total) / getattr(window, told) if getattr(window, told) >= LEAST else None


def _age(window: Counts) -> float | None:
    return quantile(window.feature_age, 0.5) if sum(window.feature_age.values()) >= LEAST else None


FIGURES: tuple[tuple[str, Callable[[Counts], float | None], Callable[[float], str]], ...] = (
    ("prompts", _mean("tokens_in", "told_in"), lambda v: f"{v:,.0f} tokens"),
    ("answers", _mean("tokens_out", "told_out"), lambda v: f"{v:,.0f} tokens"),
    ("features", _age, lambda v: f"{counted(v / 60_000, 'minute')} old"),
)


def _figures(counts: Sequence[Counts], new: str, prior: str | None, since: datetime) -> Iterator[Moved]:
    """Sizes of prompts and answers, age of features: of the new version beside the prior one, and of the prior beside itself before."""
    after = [c for c in counts if c.start >= since]
    sides = (
        [c for c in after if c.model_version == new], [c for c in after if c.model_version == prior],
        [c for c in counts if c.start < since and c.model_version == prior],
    )  # fmt: skip
    ours, theirs, earlier = (merge(own) if own else None for own in sides)
    for a, b, whose, beside in (
        (ours, theirs, f"of version {new}", f"of version {prior}"), (theirs, earlier, f"of version {prior} too,", "before"),
    ):  # fmt: skip
        for what, of, show in FIGURES if a and b else ():
            now, usual = of(a), of(b)  # type: ignore[arg-type]
            if now and usual and max(now / usual, usual / now) >= RATIO:
                yield Moved(f"{what} {whose} against {show(usual)} {beside}: {show(now)}", abs(math.log2(now / usual)))


def _tools(store: Store, endpoint: str, new: str, prior: str | None, since: datetime) -> Iterator[Moved]:
    for row in measures.tools(store, endpoint, new, prior, since):
        ours, theirs = row["new"], row["prior"]
        if ours and ours["calls"] >= LEAST:
            rate, usual = ours["error_rate"], theirs["error_rate"] if theirs else 0.0
            if rate >= usual + 0.02 and rate >= RATIO * usual:
                yield Moved(
                    f"tool {row['tool']} fails in {percent(rate)} of its calls against {percent(usual)}",
                    math.log2((rate + 0.01) / (usual + 0.01)),
                )


def _sources(store: Store, endpoint: str, since: datetime, now: datetime) -> Iterator[Moved]:
    """Sources of features that are old, or cannot be asked."""
    wanted: Any = [("endpoint", "=", endpoint), ("checked_at", ">=", since - BEFORE)]
    rows = store.home(tables.FRESHNESS).read(["name", "as_of", "state", "checked_at", "endpoint"], wanted).to_pylist()
    newest = {row["name"]: row for row in sorted(rows, key=lambda row: row["checked_at"])}
    for name, row in sorted(newest.items()):
        if row["as_of"] is None:
            yield Moved(f"features' source {name} does not say how old it is ({row['state']})", 1.0)
        elif (age := now - utc(row["as_of"])) > STALE and utc(row["as_of"]) <= since:
            yield Moved(
                f"features' source {name} is {age.total_seconds() / 3600:.1f} hours old", math.log2(age / STALE)
            )


def _columns(store: Store, endpoint: str, new: str, now: datetime) -> Iterator[Moved]:
    """Columns that the newest measurement found drifted."""
    wanted: Any = [
        ("endpoint", "=", endpoint),
        ("model_version", "=", new),
        ("computed_at", ">=", now - timedelta(days=1)),
    ]
    names = ["column", "against", "kind", "distance", "drifted", "computed_at", "endpoint", "model_version"]
    rows = store.home(tables.DRIFT).read(names, wanted).to_pylist()
    newest = max((row["computed_at"] for row in rows), default=None)
    for row in rows:
        if row["drifted"] and row["computed_at"] == newest:
            distance = f" (distance {row['distance']:.2f})" if row["distance"] is not None else ""
            yield Moved(
                f"{row['kind']} column {row['column']} drifted from the {row['against']}{distance}",
                1 + (row["distance"] or 0.0),
            )


def _deploys(store: Store, endpoint: str, since: datetime) -> Iterator[Moved]:
    """Configurations of other endpoints that were seen first around the onset."""
    wanted: Any = [("observed_at", ">=", since - AROUND), ("observed_at", "<=", since + AROUND / 6)]
    rows = store.home(tables.DEPLOYMENTS).read(["endpoint", "model_version", "observed_at"], wanted).to_pylist()
    seen: dict[str, datetime] = {}
    for row in rows:
        seen[row["endpoint"]] = max(utc(row["observed_at"]), seen.get(row["endpoint"], utc(row["observed_at"])))
    for name, at in sorted(seen.items()):
        if name != endpoint:
            minutes = (since - at).total_seconds() / 60
            words = f"{counted(abs(minutes), 'minute')} {'before' if minutes >= 0 else 'after'}"
            yield Moved(f"endpoint {name} was deployed {words}", 1.5 * math.exp(-abs(minutes) / 10))


def _others(store: Store, endpoint: str, since: datetime, now: datetime) -> Iterator[Moved]:
    """Other endpoints that fail more since then than before: then look at what they share."""
    wanted: Any = [("window_start", ">=", since - BEFORE), ("window_start", "<=", now)]
    rows = store.home(tables.WINDOWS).read(["endpoint", "window_start", "requests", "errors"], wanted)
    rows = rows.filter(pc.not_equal(rows["endpoint"], endpoint)) if rows.num_rows else rows
    sums: dict[tuple[str, bool], list[float]] = {}
    for name, start, requests, errors in (
        lists(rows, "endpoint", "window_start", "requests", "errors") if rows.num_rows else ()
    ):
        total = sums.setdefault((name, utc(start) >= since), [0.0, 0.0])
        total[0] += requests
        total[1] += sum(count for _, count in errors or ())
    for name in sorted({name for name, _ in sums}):
        (n1, x1), (n0, x0) = sums.get((name, True), [0.0, 0.0]), sums.get((name, False), [0.0, 0.0])
        if n1 >= LEAST and n0 >= LEAST and x1 / n1 >= max(0.02, 2 * x0 / n0):
            weight = math.log2((x1 / n1 + 0.005) / (x0 / n0 + 0.005))
            yield Moved(f"endpoint {name} fails more too: {percent(x1 / n1)} against {percent(x0 / n0)} before", weight)
