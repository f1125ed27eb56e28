"""Changed rows -> the windows they touch, recomputed whole and put in place of what a measure's table had of them.

Late rows, re-runs, versions learnt later and back-fills are thereby one thing. Touched windows are described by literal ranges of time and
names of endpoints: files outside are not opened, and one atomic overwrite (replaceWhere) takes the place of what was there.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.tables.forgotten import remembered
from lastgood.tables.runs import Context, Run, increment, replace_rows

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

MAX_RANGES, MAX_ENDPOINTS = 50, 50
US, HOUR_S = 1_000_000, 3600


@dataclass(frozen=True)
class Measure:
    """`make` turns the rows of whole windows of `source` into rows of `table`, which has endpoint and window_start; `at` is the time
    column of `source`; `seconds` the width (None: the settings'). `only`: SQL, which changed rows matter. `beside`: other tables that rows are made
    of: what the retention of any of them deleted stays counted. `then`: what is made of the table, before the run counts as done.
    """

    job: str
    table: tables.Table
    make: Callable[[Context, "DataFrame", "Touched"], "DataFrame"]
    source: tables.Table = tables.REQUESTS
    at: str = "requested_at"
    seconds: int | None = None
    only: str = "true"
    beside: tuple[tables.Table, ...] = ()
    then: Callable[[Context, "Touched", Run], None] | None = None


@dataclass(frozen=True)
class Touched:
    """What to recompute: [first, end) in seconds since 1970, whole windows; endpoints, or None for all."""

    spans: tuple[tuple[int, int], ...]
    endpoints: tuple[str, ...] | None

    def wider(self, seconds: int) -> "Touched":
        """The same with so much more at both ends of every span."""
        return Touched(tuple((a - seconds, z + seconds) for a, z in self.spans), self.endpoints)

    @property
    def hours(self) -> int:
        """Of how many hours of the clock they are, at most."""
        return sum(-(-z // HOUR_S) - a // HOUR_S for a, z in self.spans)

    def where(self, at: str) -> str:
        """SQL: a row of this time is one of them."""
        spans = (f"({at} >= timestamp_micros({a * US}) AND {at} < timestamp_micros({z * US}))" for a, z in self.spans)
        when = f"({' OR '.join(spans)})"
        if self.endpoints is None:
            return when
        names = ", ".join(map(tables.literal, self.endpoints))
        return f"{when} AND endpoint IN ({names})"


def window_start(seconds: int, at: str = "requested_at") -> "Column":
    """Start of the window that holds `at`."""
    from pyspark.sql import functions as f

    width = seconds * US
    return f.timestamp_micros(f.floor(f.unix_micros(at) / width) * width)


def ranges(starts: Iterable[int], width: int = 1) -> tuple[tuple[int, int], ...]:
    """Window starts -> [first, end) runs of neighbours; where there are more than MAX_RANGES, the smallest gaps are closed."""
    merged: list[list[int]] = []
    for start in sorted(starts):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = start + width
        else:
            merged.append([start, start + width])
    gaps = sorted(((b[0] - a[1], i) for i, (a, b) in enumerate(itertools.pairwise(merged))), reverse=True)
    cuts = sorted(i for _, i in gaps[: MAX_RANGES - 1])
    edges = [-1, *cuts, len(merged) - 1] if merged else [-1]
    return tuple((merged[a + 1][0], merged[z][1]) for a, z in itertools.pairwise(edges))


def recompute(ctx: Context, measure: Measure) -> Run | None:
    """Bring a measure's table up to date with its source (or, with ctx.span, rebuild that range); None when nothing is new."""
    from pyspark.sql import functions as f

    seconds = measure.seconds or ctx.settings.window_s
    with increment(ctx, measure.job, measure.source, measure.at) as changed:
        if changed is None:
            return None
        changes, run = changed
        kept_since = max(ctx.kept_since(table) for table in (measure.source, *measure.beside))
        changes = changes.where(f.col(measure.at) >= f.lit(kept_since))  # what retention deleted stays counted
        changes = changes.where(measure.only)
        if measure.source is tables.REQUESTS:
            # What `forget` deletes stays counted; what turns out to be a part of another request does not.
            gone = remembered(ctx, changes.where("_change_type = 'delete'"))[0]
            changes = changes.where("_change_type != 'delete'").unionByName(gone)
        touched = changes.select(
            "endpoint", window_start(seconds, measure.at).alias("window_start"), f.lit(1).alias("n")
        )
        if ctx.span:
            kept = ctx.spanned(ctx.store.read(ctx.spark, measure.table), "window_start")
            touched = touched.unionByName(kept.select("endpoint", "window_start", f.lit(0).alias("n")))
        facts = (
            touched.groupBy(f.unix_seconds("window_start").alias("start"), "endpoint")
            .agg(f.sum("n").alias("n"))
            .collect()
        )
        if not facts:
            return run
        names = {fact["endpoint"] for fact in facts}
        which = Touched(
            ranges({fact["start"] for fact in facts}, seconds),
            tuple(sorted(names)) if len(names) <= MAX_ENDPOINTS else None,
        )
        run.rows_in, run.windows = sum(fact["n"] for fact in facts), len(facts)
        rows = ctx.store.read(ctx.spark, measure.source).where(which.where(measure.at))
        rows = rows.withColumn("window_start", window_start(seconds, measure.at))
        fresh = measure.make(ctx, rows, which).select(*measure.table.columns)
        run.rows_out = replace_rows(ctx, fresh, measure.table, which.where("window_start"), run)
        if measure.then:
            measure.then(ctx, which, run)
        return run
