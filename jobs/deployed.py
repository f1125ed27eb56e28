"""The ledger of configurations (`deployments`; where it knows nothing, what was served) -> which versions are judged, by endpoint."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lastgood import tables
from lastgood.judge.edits import refined
from lastgood.judge.ledger import AGAIN_AFTER, AGAIN_ROWS, Configuration, Pair, Served, from_traffic, judged
from lastgood.judge.ledger import ledger as as_ledger
from lastgood.record.contents import base
from lastgood.record.windows import Counts, utc
from lastgood.tables.edits import admitted

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

    from lastgood.tables.runs import Context

log = logging.getLogger(__name__)
SEEN_FOR = timedelta(days=7)
"""A content that was not asked with for so long is none that a newer one is compared with."""
Key = tuple[str, str]


def pairs_of(windows: Iterable[Counts]) -> dict[str, Pair]:
    """endpoint -> the pair of its newest version, from window counts at hand."""
    served: dict[str, dict[str, Served]] = {}
    for window in windows:
        versions = served.setdefault(window.endpoint, {})
        had = versions.get(window.model_version, Served(window.model_version, window.start, window.start, 0))
        first, last = min(had.first, window.start), max(had.last, window.start)
        versions[window.model_version] = Served(window.model_version, first, last, had.rows + window.rows)
    chosen = {endpoint: _told(judged(from_traffic(each.values())), each.values()) for endpoint, each in served.items()}
    return {endpoint: pair for endpoint, pair in chosen.items() if pair}


def _told(pairs: Sequence[Pair], served: Iterable[Served]) -> Pair | None:
    """The first pair; where all versions were there from the start, the one that came last, or has fewer requests, against the one with most."""
    if not pairs or pairs[0].prior is not None:
        return pairs[0] if pairs else None
    known = sorted(
        (v for v in served if v.version != "?" and v.rows >= AGAIN_ROWS), key=lambda v: (v.first, -v.rows, v.version)
    )
    if len(known) < 2:
        return pairs[0]
    prior = max(known[:-1], key=lambda v: v.rows)
    return Pair(known[-1].version, prior.version, known[-1].first)


def all_pairs(
    ctx: "Context", away: Mapping[str, Mapping[str, Sequence[datetime]]] | None = None
) -> tuple[dict[Key, Pair], dict[str, list[Configuration]]]:
    """((endpoint, version) -> the pair it is judged in, endpoint -> its configurations as the ledger knows them). away: endpoint -> version
    -> when traffic was moved away from it.

    What was before the ledger began is taken from the history of served entities where the settings name one, else from the windows.
    """
    gone, ledger = away or {}, configurations(ctx)
    clear = frozenset(name for name, given in ledger.items() if _clear(judged(given, gone.get(name)), given))
    known, entities = dict(ledger), _entities(ctx)
    for name, served in _served(ctx, gone, clear).items():
        began = min((configuration.since for configuration in ledger.get(name, ())), default=None)
        before = entities.get(name) if began else None
        before = before or from_traffic(served)
        known[name] = [c for c in before if began is None or c.since < began] + list(ledger.get(name, ()))
    chosen = {name: judged(given, gone.get(name)) for name, given in known.items()}
    chosen |= _by_content(ctx, chosen, known)
    return {(name, pair.candidate): pair for name, pairs in chosen.items() for pair in pairs}, ledger


def _by_content(
    ctx: "Context", chosen: Mapping[str, Sequence[Pair]], known: Mapping[str, Sequence[Configuration]]
) -> dict[str, list[Pair]]:
    """endpoint -> its pairs by effective version, of endpoints whose versions differ by more than the registered one."""
    from pyspark.sql import functions as f

    names = [name for name in chosen if ctx.settings.endpoint(name).versions_by and known.get(name)]
    if not names:
        return {}
    lately = ctx.store.read(ctx.spark, tables.WINDOWS).where(f.col("window_start") >= f.lit(ctx.clock() - SEEN_FOR))
    served: dict[str, list[Served]] = {}
    for span in _bounds(lately.where(f.col("endpoint").isin(names))):
        first, last = utc(span["first"]), utc(span["last"])
        served.setdefault(span["endpoint"], []).append(Served(span["model_version"], first, last, span["rows"]))
    noted: dict[str, list[dict[str, Any]]] = {}
    for row in ctx.store.read(ctx.spark, tables.CONTENTS).where(f.col("endpoint").isin(names)).collect():
        noted.setdefault(row["endpoint"], []).append(row.asDict())
    refined_pairs = {}
    for name in names:
        traffic = max(known[name], key=lambda configuration: configuration.since).traffic
        by_base: dict[str, float] = {}
        for version, share in traffic.items():
            by_base[base(version)] = by_base.get(base(version), 0.0) + share
        refined_pairs[name] = refined(chosen[name], by_base, admitted(noted.get(name, ())), served.get(name, ()))
    return refined_pairs


def _clear(pairs: Sequence[Pair], given: Sequence[Configuration]) -> bool:
    """Whether the ledger reaches back far enough: it saw every version that it gives traffic come, or all but one."""
    began = min(configuration.since for configuration in given)
    return sum(pair.since == began for pair in pairs) <= 1 and (len(pairs) == 1 or all(pair.prior for pair in pairs))


def _entities(ctx: "Context") -> dict[str, list[Configuration]]:
    """endpoint -> its configurations by the platform's history of served entities, which does not tell the split: even."""
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as f

    settings = ctx.settings
    names = {settings.sources.entities_table, *(own.entities_table for own in settings.endpoints.values())} - {None}
    cells: dict[tuple[str, int], tuple[datetime, set[str]]] = {}
    for name in sorted(str(name) for name in names):
        try:
            history = tables.read(ctx.spark, str(name))
            known = "endpoint_config_version" in history.columns
        except AnalysisException as error:
            log.warning("entities table %s cannot be read: %.200s", name, error)
            continue
        if not known:
            continue
        which = f.col("endpoint_config_version").cast("bigint").alias("config")
        for row in history.select("endpoint_name", "entity_version", "change_time", which).collect():
            if row["entity_version"] is not None and row["config"] is not None:
                at, versions = cells.get((row["endpoint_name"], row["config"]), (utc(row["change_time"]), set()))
                cells[row["endpoint_name"], row["config"]] = (
                    min(at, utc(row["change_time"])),
                    versions | {str(row["entity_version"])},
                )
    configurations: dict[str, list[Configuration]] = {}
    for (endpoint, _), (at, versions) in sorted(cells.items()):
        configurations.setdefault(endpoint, []).append(
            Configuration(at, dict.fromkeys(versions, 100.0 / len(versions)))
        )
    return configurations


def pairs(ctx: "Context") -> dict[str, Pair]:
    """endpoint -> the pair of its newest version."""
    chosen: dict[str, Pair] = {}
    for (endpoint, _), pair in all_pairs(ctx)[0].items():
        chosen.setdefault(endpoint, pair)
    return chosen


def configurations(ctx: "Context") -> dict[str, list[Configuration]]:
    """endpoint -> its configurations as they were observed."""
    return as_ledger(row.asDict() for row in ctx.store.read(ctx.spark, tables.DEPLOYMENTS).collect())


def _served(
    ctx: "Context", away: Mapping[str, Mapping[str, Sequence[datetime]]], known: frozenset[str]
) -> dict[str, list[Served]]:
    """endpoint -> its versions by first window, last window and rows, of endpoints that no ledger knows; of versions in `away` only what
    came AGAIN_AFTER their time.

    Where days are rolled up, minutes are read only of the newest day and of days on which a version came or left, so that the cost does not
    grow with history.
    """
    from pyspark.sql import functions as f

    left = {(e, v): max(times) for e, versions in away.items() for v, times in versions.items() if times}
    days = [
        day
        for day in _bounds(ctx.store.read(ctx.spark, tables.WINDOWS_DAY), "window_start")
        if day["endpoint"] not in known
    ]
    days = [day for day in days if (day["endpoint"], day["model_version"]) not in left]
    minutes, again = ctx.store.read(ctx.spark, tables.WINDOWS), f.lit(False)
    for (endpoint, version), moved in left.items():
        matches = (f.col("endpoint") == endpoint) & (f.col("model_version") == version)
        later = f.col("window_start") >= f.lit(moved + AGAIN_AFTER)
        minutes, again = minutes.where(~matches | later), again | (matches & later)
    outer: dict[Key, tuple[datetime, datetime]] = {}
    for day in days:
        key = (day["endpoint"], day["model_version"])
        first, last = outer.get(key, (day["first"], day["first"]))
        outer[key] = (min(first, day["first"]), max(last, day["first"]))
    edges = {edge for both in outer.values() for edge in both}
    if days:
        newest = max(day["first"] for day in days)
        near = [f"window_start >= timestamp'{newest}'"]
        near += [
            f"(window_start >= timestamp'{day}' AND window_start < timestamp'{day}' + INTERVAL 1 DAY)"
            for day in sorted(edges)
        ]
        minutes = minutes.where(f.expr(" OR ".join(near)) | again)
    whole = [day for day in days if day["first"] not in edges]
    spans: dict[Key, Served] = {}
    for span in [*whole, *_bounds(minutes)]:
        key, first, last = (span["endpoint"], span["model_version"]), utc(span["first"]), utc(span["last"])
        if key[0] not in known:
            had = spans.get(key, Served(key[1], first, last, 0))
            spans[key] = Served(key[1], min(had.first, first), max(had.last, last), had.rows + span["rows"])
    served: dict[str, list[Served]] = {}
    for (endpoint, _), span in spans.items():
        served.setdefault(endpoint, []).append(span)
    return served


def _bounds(windows: "DataFrame", *also: str) -> "list[Row]":
    from pyspark.sql import functions as f

    first, last = f.min("window_start").alias("first"), f.max("window_start").alias("last")
    bounds: list[Row] = (
        windows.groupBy("endpoint", "model_version", *also).agg(first, last, f.sum("rows").alias("rows")).collect()
    )
    return bounds
