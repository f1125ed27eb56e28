"""Tables and files of labels -> rows of `scores`, new and corrected ones. The newest by `at` holds; earlier ones stay.

A report that the table has already is not appended again, so a source may be read whole, again and again. Where a source gives no times,
its last row about a request holds, and one that differs from the newest report is a correction made now.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.collectors.reading import read_any
from lastgood.errors import ConfigError
from lastgood.settings import Labels
from lastgood.tables.runs import Context, Run, append, record

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ABOUT = ("endpoint", "request_id", "name")
SAID = (*ABOUT, "value", "label")
"""What makes two reports of one source the same, besides `at` where the source gives it."""


def reports(frame: "DataFrame", source: Labels) -> "DataFrame":
    """Rows of a label source -> columns of `scores`. Errors: ConfigError naming the table and the column it lacks."""
    from pyspark.sql import functions as f

    wanted = {column for column in (source.request_id, source.value, source.label, source.at) if column}
    if missing := sorted(wanted - set(frame.columns)):
        have = ", ".join(frame.columns[:12])
        raise ConfigError(f"{source.table}: no column {', '.join(missing)} for labels; there are {have}")
    if source.value is None and source.label is None:
        raise ConfigError(f"{source.table}: labels need a column of values (value: ...) or of words (label: ...)")
    nothing = f.lit(None).cast("string")
    number = f.col(source.value).cast("string") if source.value else nothing
    flag = f.when(f.lower(number) == "true", 1.0).when(f.lower(number) == "false", 0.0)
    value = f.coalesce(flag, f.expr(f"try_cast(`{source.value}` as double)")) if source.value else nothing
    given = {
        "endpoint": f.lit(source.endpoint)
        if source.endpoint
        else f.col("endpoint")
        if "endpoint" in frame.columns
        else nothing,
        "request_id": f.col(source.request_id),
        "name": f.lit(source.name),
        "value": f.when(~f.isnan(value.cast("double")), value),
        "label": f.col(source.label) if source.label else nothing,
        "source": f.lit(source.table),
        "at": f.expr(f"try_cast(`{source.at}` as timestamp)") if source.at else f.current_timestamp(),
        "received_at": f.current_timestamp(),
    }
    rows = frame.select(
        *(given.get(field.name, nothing).cast(field.type).alias(field.name) for field in tables.SCORES.fields)
    )
    return rows.where("request_id IS NOT NULL AND (value IS NOT NULL OR label IS NOT NULL)")


def collect_labels(ctx: Context, source: Labels) -> Run | None:
    """Append what a source says that `scores` does not have; None when there is no such table or nothing is new."""
    if tables.is_path(source.table) and not Path(source.table).exists():
        return None
    from pyspark.sql import functions as f

    started = time.monotonic()
    key = [*SAID, "at"] if source.at else list(SAID)
    rows = reports(read_any(ctx.spark, source.table), source)
    had = ctx.store.read(ctx.spark, tables.SCORES).where(f.col("source") == source.table)
    if source.at:
        rows = rows.dropDuplicates(key)
    else:
        rows = _last(rows.withColumn("_order", f.monotonically_increasing_id()), "_order").drop("_order")
        had = _last(had, "received_at")
    same = " AND ".join(f"n.{name} <=> h.{name}" for name in key)
    new = rows.alias("n").join(had.alias("h"), f.expr(same), "left_anti")
    run = Run("labels", source.table, ctx.store.version(ctx.spark, tables.SCORES), new.count())
    if run.nothing_new:
        return None
    append(ctx, new, tables.SCORES)
    record(ctx, run, time.monotonic() - started)
    return run


def _last(rows: "DataFrame", order: str) -> "DataFrame":
    """The last row by `order` about each request and name."""
    from pyspark.sql import functions as f

    whole = f.struct(order, *(column for column in rows.columns if column != order)).alias("_row")
    return (
        rows.groupBy(*(f.col(name).alias(f"_{name}") for name in ABOUT))
        .agg(f.max_by(whole, order).alias("_row"))
        .select("_row.*")
    )


def collect_all(ctx: Context) -> list[Run]:
    """New labels of every source that the settings name."""
    return [run for source in ctx.settings.sources.labels if (run := collect_labels(ctx, source))]
