"""One run of a job: take what is new in a table since the last finished run, work, write down how far it got.

Every job's effect is idempotent (MERGE by key, or recomputation of whole windows), and the bookmark is written last, so
a run that is killed anywhere is simply done again. docs/adr/0003 says why this and not a streaming checkpoint.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lastgood import delta, tables
from lastgood.config import Settings
from lastgood.errors import TransientError
from lastgood.telemetry import arrow_schema, spark_ddl

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Context:
    """What every job gets."""

    spark: "SparkSession"
    store: tables.Store
    settings: Settings
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass
class Run:
    """What a run did; `until` is the newest version of the source table it has taken in."""

    job: str
    source: str
    until: int
    rows_in: int = 0
    rows_out: int = 0

    @property
    def nothing_new(self) -> bool:
        return self.rows_in == 0


def bookmark(ctx: Context, job: str, source: str) -> int:
    """The newest source version a finished run of `job` has taken in; -1 before the first."""
    if not ctx.store.in_catalog:
        mine: Any = [("job", "=", job), ("source", "=", source)]
        versions = delta.read(ctx.store.path(tables.RUNS), ["version"], mine).to_pydict().get("version")
        return max(versions or (-1,))
    from pyspark.sql import functions as f

    runs = ctx.store.read(ctx.spark, tables.RUNS).where((f.col("job") == job) & (f.col("source") == source))
    found = runs.agg(f.max("version").alias("version")).collect()[0]["version"]
    return -1 if found is None else int(found)


@contextmanager
def increment(ctx: Context, job: str, table: tables.Table) -> Iterator[tuple["DataFrame", Run] | None]:
    """(changes of `table` since the last run, run), or None when there are none; writes the run record at the end."""
    after, until = bookmark(ctx, job, table.name), ctx.store.version(ctx.spark, table)
    if after >= until:
        yield None
        return
    started = time.monotonic()
    run = Run(job, table.name, until)
    yield ctx.store.changes(ctx.spark, table, after, until), run
    record(ctx, run, time.monotonic() - started)


def record(ctx: Context, run: Run, seconds: float) -> None:
    """Append the run to `runs`; from here on its input counts as taken."""
    row = (
        run.job,
        run.source,
        run.until,
        run.rows_in,
        run.rows_out,
        round(seconds, 3),
        ctx.clock(),
    )
    if ctx.store.in_catalog:
        append(ctx, ctx.spark.createDataFrame([row], spark_ddl(tables.RUNS.fields)), tables.RUNS)
        return
    named = [dict(zip(tables.RUNS.columns, row, strict=True))]
    delta.append(ctx.store.path(tables.RUNS), pa.Table.from_pylist(named, arrow_schema(tables.RUNS.fields)))


def append(ctx: Context, frame: "DataFrame", table: tables.Table) -> None:
    """Append rows to one of Lastgood's tables."""
    writer = frame.write.format("delta").mode("append")
    if ctx.store.in_catalog:
        writer.saveAsTable(ctx.store.sql(table))
    else:
        writer.save(ctx.store.path(table))


def merge(ctx: Context, frame: "DataFrame", table: tables.Table, on: str, clauses: str) -> int:
    """MERGE `frame` (as `s`) into `table` (as `t`); rows inserted, updated and deleted.

    Errors: TransientError when another run committed at the same time (nothing was written: run again).
    """
    from pyspark.errors import PySparkException

    view = f"lastgood_{table.name}"
    frame.createOrReplaceTempView(view)
    try:
        done = ctx.spark.sql(f"MERGE INTO {ctx.store.sql(table)} t USING {view} s ON {on} {clauses}").collect()
    except PySparkException as error:
        if "concurrent" in str(error).lower():
            raise TransientError(f"another run changed {table.name} at the same time: run again") from error
        raise
    return int(done[0]["num_affected_rows"]) if done else 0
