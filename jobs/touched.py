"""Changed rows -> the windows they touch, recomputed whole and put in place of what a measure's table had of them.

Late rows, re-runs, versions learnt later and back-fills are thereby one thing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.runs import Context, Run, increment, merge

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

HOUR_US = 3_600_000_000
MAX_RANGES = 50


@dataclass(frozen=True)
class Touched:
    """The windows to recompute: `ids` (endpoint, window_start), the hours they start in, their width in seconds."""

    ids: "DataFrame"
    hours: tuple[int, ...]
    seconds: int

    def near(self, column: str, seconds: int | None = None) -> str:
        """SQL: the time lies in one of these hours. Literals, so that files outside are not opened."""
        more = -(-(seconds or self.seconds) // 3600) - 1
        spans = (
            f"({column} >= timestamp_micros({a * HOUR_US}) AND {column} < timestamp_micros({(z + more) * HOUR_US}))"
            for a, z in ranges(self.hours)
        )
        return f"({' OR '.join(spans)})"

    def only(self, frame: "DataFrame") -> "DataFrame":
        """Rows of these windows."""
        return frame.join(self.ids, ["endpoint", "window_start"], "left_semi")


@dataclass(frozen=True)
class Measure:
    """`make` turns the rows of whole windows of `source` (with window_start) into rows of `table`, whose key holds endpoint and
    window_start; `at` is the time column of `source`; `seconds` the width (None: the settings').
    """

    job: str
    table: tables.Table
    make: Callable[[Context, "DataFrame", Touched], "DataFrame"]
    source: tables.Table = tables.REQUESTS
    at: str = "requested_at"
    seconds: int | None = None


def window_start(seconds: int, at: str = "requested_at") -> "Column":
    """Start of the window that holds `at`."""
    from pyspark.sql import functions as f

    width = seconds * 1_000_000
    return f.timestamp_micros(f.floor(f.unix_micros(at) / width) * width)


def ranges(hours: Iterable[int]) -> list[tuple[int, int]]:
    """Hour numbers -> [first, end) runs of neighbours; beyond MAX_RANGES of them one run over all."""
    found: list[tuple[int, int]] = []
    for hour in sorted(hours):
        if found and hour <= found[-1][1]:
            found[-1] = (found[-1][0], hour + 1)
        else:
            found.append((hour, hour + 1))
    return found if len(found) <= MAX_RANGES else [(found[0][0], found[-1][1])]


def recompute(ctx: Context, measure: Measure) -> Run | None:
    """Bring a measure's table up to date with its source (or, with ctx.span, rebuild that range); None when nothing is new."""
    from pyspark.sql import functions as f

    seconds = measure.seconds or ctx.settings.window_s
    with increment(ctx, measure.job, measure.source, measure.at) as found:
        if found is None:
            return None
        changes, run = found
        changes = changes.where(
            f.col(measure.at) >= f.lit(ctx.kept_since(measure.source))
        )  # what retention deleted stays counted
        if measure.source is tables.REQUESTS:
            changes = changes.where("_change_type != 'delete'")  # only `forget` deletes requests
        start = window_start(seconds, measure.at)
        touched = changes.select("endpoint", start.alias("window_start"), f.lit(1).alias("n"))
        if ctx.span:
            kept = ctx.spanned(ctx.store.read(ctx.spark, measure.table), "window_start")
            touched = touched.unionByName(kept.select("endpoint", "window_start", f.lit(0).alias("n")))
        touched = (
            touched.where("window_start IS NOT NULL").groupBy("endpoint", "window_start").agg(f.sum("n").alias("n"))
        )
        hour = f.floor(f.unix_micros("window_start") / HOUR_US).alias("hour")
        facts = touched.groupBy(hour).agg(f.sum("n").alias("n"), f.count("*").alias("windows")).collect()
        if not facts:
            return run
        run.rows_in, run.windows = sum(one["n"] for one in facts), sum(one["windows"] for one in facts)
        ids = f.broadcast(touched.select("endpoint", "window_start"))
        which = Touched(ids, tuple(one["hour"] for one in facts), seconds)
        rows = ctx.store.read(ctx.spark, measure.source).where(which.near(measure.at))
        rows = which.only(rows.withColumn("window_start", start))
        run.rows_out = _replace(ctx, measure.table, measure.make(ctx, rows, which), which)
        return run


def _replace(ctx: Context, table: tables.Table, fresh: "DataFrame", which: Touched) -> int:
    """Make the table hold exactly `fresh` of the touched windows; rows inserted, updated or deleted."""
    from pyspark.sql import functions as f

    key = list(table.key)
    old = which.only(ctx.store.read(ctx.spark, table).where(which.near("window_start", 3600)))
    gone = old.select(*key).withColumn("_gone", f.lit(True))
    new = fresh.select(*table.columns).withColumn("_gone", f.lit(False))
    rest = {one.name: f.lit(None).cast(one.type) for one in table.fields if one.name not in key}
    source = new.unionByName(gone.join(new.select(*key), key, "left_anti").withColumns(rest).select(*new.columns))
    sets = ", ".join(f"{name} = s.{name}" for name in rest)
    names = ", ".join(table.columns)
    values = ", ".join(f"s.{name}" for name in table.columns)
    target = which.near("t.window_start", 3600)
    return merge(
        ctx, source, table, " AND ".join(f"t.{name} = s.{name}" for name in key) + f" AND {target}",
        f"WHEN MATCHED AND s._gone THEN DELETE WHEN MATCHED THEN UPDATE SET {sets} "
        f"WHEN NOT MATCHED AND NOT s._gone THEN INSERT ({names}) VALUES ({values})",
    )  # fmt: skip
