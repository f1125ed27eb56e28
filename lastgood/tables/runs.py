"""One run of a job: take what is new in a table since the last finished run, work, write down how far it got.

Every job's effect is idempotent (MERGE by key, or recomputation of whole windows), and the bookmark is written last, so
a run that is killed anywhere is simply done again. docs/adr/0003 says why this and not a streaming checkpoint.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lastgood import tables
from lastgood.errors import ConfigError, TransientError
from lastgood.record.telemetry import arrow_schema, spark_ddl
from lastgood.settings import Settings
from lastgood.tables import delta

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


UPKEEP = "maintain"
"""Runs of this name are commits that take rows or bodies away: no reason to count again."""


@dataclass(frozen=True)
class Context:
    """What every job gets. `span`: rebuild this range instead of taking what is new. `dry_run`: work out everything, write nothing."""

    spark: "SparkSession"
    store: tables.Store
    settings: Settings
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    span: tuple[datetime, datetime] | None = None
    dry_run: bool = False

    def kept_since(self, table: tables.Table) -> datetime:
        """Rows older than this are deleted by retention."""
        return self.clock() - timedelta(days=self.settings.retention_days.get(table.name, table.days))

    def spanned(self, frame: "DataFrame", at: str) -> "DataFrame":
        """Rows whose time lies in [from, to) of `span`."""
        from pyspark.sql import functions as f

        assert self.span is not None
        return frame.where((f.col(at) >= f.lit(self.span[0])) & (f.col(at) < f.lit(self.span[1])))


@dataclass
class Run:
    """What a run did: it took in versions (after, until] of the source table. `rows_out`: inserted, updated and deleted ones. `note`: why the
    source was read whole. `passed_over`: see tables.RUNS."""

    job: str
    source: str
    until: int
    rows_in: int = 0
    rows_out: int = 0
    quarantined: int = 0
    windows: int = 0
    after: int | None = None
    table_id: str | None = None
    note: str | None = None
    passed_over: int = 0
    again: int = 0
    """How many runs that finished had taken in this version before: this one puts right what they left."""
    set_back: bool = False
    """A run before has seen a newer version than there is: the table was put back to an older state."""

    @property
    def nothing_new(self) -> bool:
        return self.rows_in == 0


ANOTHER = "it is another table than the one of that name before"
AHEAD = "the bookmark is ahead of the table"
FRESH_S = 3 * 86_400
"""Changes committed within this time are surely there: vacuum leaves them a week."""


def place(ctx: Context, job: str, source: str, table_id: str, newest: int) -> tuple[int, str | None]:
    """(bookmark, why it does not fit the table: then the table must be read whole, and the bookmark is -1)."""
    return _placed(_records(ctx, job, source), table_id, newest)


def _placed(records: list[dict[str, Any]], table_id: str, newest: int) -> tuple[int, str | None]:
    known = [record["table_id"] for record in sorted(records, key=lambda r: r["finished_at"]) if record["table_id"]]
    if known and table_id and known[-1] != table_id:
        return -1, ANOTHER
    own = _own(records, table_id) if known else records
    ordered = sorted(own, key=_order)
    whole = max((i for i, record in enumerate(ordered) if record["after"] == -1), default=0)
    seen = max((record["version"] for record in ordered[whole:]), default=-1)
    return (-1, AHEAD) if seen > newest else (chain(own), None)


def _own(records: list[dict[str, Any]], table_id: str | None) -> list[dict[str, Any]]:
    """Records of this table. 0.1.0 wrote no id: its records are the table's until it is made anew."""
    anew = any(record["table_id"] not in (table_id, None) for record in records)
    return [record for record in records if record["table_id"] == table_id or (record["table_id"] is None and not anew)]


def _order(record: dict[str, Any]) -> tuple[datetime, int]:
    """Records in the order in which their runs ended."""
    return record["finished_at"], record["version"]


def unreadable(changes: Callable[[], "DataFrame"]) -> tuple[dict[str, int], str | None]:
    """(rows by kind of change, why the change feed cannot be read: it begins later, or was cleaned up).

    Errors: ConfigError when the table keeps no feed.
    """
    try:
        return {row["_change_type"]: row["count"] for row in changes().groupBy("_change_type").count().collect()}, None
    except ConfigError:
        raise
    except Exception as error:  # a PySpark error through Connect, the gateway's own in process
        reason = str(getattr(error, "java_exception", error)).splitlines()[0]
        return {}, f"its change feed cannot be read ({reason:.200})"


def bookmark(ctx: Context, job: str, source: str) -> int:
    """The newest source version that finished runs of `job` have taken in; -1 before the first.

    Runs form a chain, each beginning where the one before ended. Two runs at once do not: the later to finish may have written from an
    older look at the source, so what both took in is taken in once more.
    """
    return chain(_records(ctx, job, source))


def chain(records: list[dict[str, Any]]) -> int:
    """The bookmark of a job's records on one source. The oldest that is kept stands for those before it."""
    ordered = sorted(records, key=_order)
    done = -1 if not ordered or ordered[0]["after"] is None else ordered[0]["after"]
    for record in ordered:
        begun = done if record["after"] is None else record["after"]
        done = record["version"] if begun == done else min(done, begun)
    return done


def _records(ctx: Context, job: str, source: str) -> list[dict[str, Any]]:
    """Earlier runs."""
    columns = ["version", "after", "finished_at", "table_id"]
    if ctx.store.in_catalog:
        from pyspark.sql import functions as f

        runs = ctx.store.read(ctx.spark, tables.RUNS).where((f.col("job") == job) & (f.col("source") == source))
        return [row.asDict() for row in runs.select(*columns).collect()]
    own: Any = [("job", "=", job), ("source", "=", source)]
    records: list[dict[str, Any]] = ctx.store.home(tables.RUNS).read(columns, own).to_pylist()
    return records


@contextmanager
def increment(
    ctx: Context, job: str, table: tables.Table, at: str = "requested_at"
) -> Iterator[tuple["DataFrame", Run] | None]:
    """(changes of `table` since the last run, run), or None when there are none; writes the run record at the end.

    With `ctx.span` the changes are all rows whose `at` lies in it, and the bookmark stays where it is.
    """
    earlier = _records(ctx, job, table.name)  # before the version: none of them has seen a newer one
    newest, table_id = ctx.store.version(ctx.spark, table), ctx.store.identity(ctx.spark, table)
    after, reason = _placed(earlier, table_id, newest)
    until = after if ctx.span else newest
    if after >= until and not ctx.span:
        yield None
        return
    started = time.monotonic()
    run = begun(job, table.name, earlier, after, until, newest, table_id)
    if ctx.span:
        from pyspark.sql import functions as f

        rows = ctx.spanned(ctx.store.read(ctx.spark, table), at)
        yield rows.withColumn("_change_type", f.lit("insert")), run
    elif reason := reason or _lost(ctx, table, after, until):
        from pyspark.sql import functions as f

        run.note = f"read whole: {reason}"
        yield ctx.store.read(ctx.spark, table).withColumn("_change_type", f.lit("insert")), run
    else:
        changes = ctx.store.changes(ctx.spark, table, after, until)
        upkeep = [record["version"] for record in _records(ctx, UPKEEP, table.name) if record["version"] > after]
        yield changes.where(~changes["_commit_version"].isin(upkeep)) if upkeep else changes, run
    record(ctx, run, time.monotonic() - started)


def begun(
    job: str, source: str, earlier: list[dict[str, Any]], after: int, until: int, newest: int, table_id: str | None
) -> Run:
    """A run that takes in (after, until] of a source whose newest version is `newest`, after those that have finished."""
    run = Run(job, source, until, after=after, table_id=table_id)
    own = _own(earlier, table_id)
    run.again = sum(record["version"] >= until for record in own)
    run.set_back = any(record["version"] > newest for record in own)
    return run


def _lost(ctx: Context, table: tables.Table, after: int, until: int) -> str | None:
    """Why the changes of versions (after, until] cannot be read; looked at where they are old, or where their age is not known."""
    if ctx.store.in_folder:
        committed = delta.committed_at(ctx.store.path(table), after + 1)
        if committed is not None and time.time() - committed < FRESH_S:
            return None
    return unreadable(lambda: ctx.store.changes(ctx.spark, table, after, until))[1]


def record(ctx: Context, run: Run, seconds: float) -> None:
    """Append the run to `runs`; from here on its input counts as taken."""
    if ctx.dry_run:
        return
    row = {
        "job": run.job, "source": run.source, "version": run.until, "rows_in": run.rows_in, "rows_out": run.rows_out,
        "seconds": round(seconds, 3), "finished_at": ctx.clock(), "after": run.after, "quarantined": run.quarantined,
        "windows": run.windows, "table_id": run.table_id, "note": run.note, "passed_over": run.passed_over,
    }  # fmt: skip
    if ctx.store.in_catalog:
        values = tuple(row[name] for name in tables.RUNS.columns)
        append(ctx, ctx.spark.createDataFrame([values], spark_ddl(tables.RUNS.fields)), tables.RUNS)
        return
    ctx.store.home(tables.RUNS).append(pa.Table.from_pylist([row], arrow_schema(tables.RUNS.fields)))


def append(ctx: Context, frame: "DataFrame", table: tables.Table) -> None:
    """Append rows to one of Lastgood's tables."""
    if ctx.dry_run:
        return
    writer = frame.write.format("delta").mode("append")
    if ctx.store.in_catalog:
        writer.saveAsTable(ctx.store.sql(table))
    else:
        writer.save(ctx.store.path(table))


@contextmanager
def _conflicts(table: tables.Table) -> Iterator[None]:
    """Delta's conflicts as TransientError."""
    try:
        yield
    except Exception as error:  # a PySpark error through Connect, the gateway's own in process
        if "concurrent" in str(error).lower():
            raise TransientError(f"another run changed {table.name} at the same time: run again") from error
        raise


MOST_AGAIN = 1000
"""Runs of one version that are told apart."""


def fence(ctx: Context, run: Run) -> tuple[str, int] | None:
    """(application id, version) that a run's commit carries, so that the table takes nothing from one that looked at its source earlier than one
    that has committed. None for a back-fill, and where the source was set back: what was seen of it before counts no more."""
    if ctx.span or run.set_back:
        return None
    return f"lastgood/{run.job}/{run.table_id}", run.until * MOST_AGAIN + min(run.again, MOST_AGAIN - 1)


def same_source(run: Run, table_id: str | None) -> None:
    """Errors: TransientError when the source has been made anew since the run began: what it counted is of a table that is gone."""
    if run.table_id and table_id != run.table_id:
        raise TransientError(f"{run.source} was made anew while its rows were counted: run again")


def replace_rows(ctx: Context, frame: "DataFrame", table: tables.Table, where: str, run: Run) -> int:
    """Put `frame` (all of whose rows meet the condition) in place of the table's rows that meet it, in one commit; rows written. Nothing is
    written where a run that looked at its source later has committed (docs/adr/0022).

    Errors: TransientError when another run committed such rows at the same time (nothing was written: run again).
    """
    from pyspark.sql import Observation
    from pyspark.sql import functions as f

    if ctx.dry_run:
        return int(frame.count())
    same_source(run, ctx.store.identity(ctx.spark, tables.NAMED[run.source]))
    seen, mark = Observation(f"rows of {table.name}"), fence(ctx, run)

    def passed(version: int) -> bool:
        newest = ctx.store.home(table).app_version(mark[0]) if mark and not ctx.store.in_catalog else None
        return newest is not None and newest > version

    if mark and passed(mark[1] - 1):  # Delta would write nothing too, but then what is observed never ends
        return 0
    frame = frame if ctx.store.in_catalog else frame.observe(seen, f.count("*").alias("n"))
    writer = frame.write.format("delta").mode("overwrite").option("replaceWhere", where)
    if mark:
        writer = writer.option("txnAppId", mark[0]).option("txnVersion", mark[1])
    with _conflicts(table):
        if ctx.store.in_catalog:  # where an observed frame is not seen
            writer.saveAsTable(ctx.store.sql(table))
            newest = ctx.spark.sql(f"DESCRIBE HISTORY {ctx.store.sql(table)} LIMIT 1").collect()[0]
            return int((newest["operationMetrics"] or {}).get("numOutputRows", 0))
        writer.save(ctx.store.path(table))
    return 0 if mark and passed(mark[1]) else int(seen.get["n"])


def merge(ctx: Context, frame: "DataFrame", table: tables.Table, on: str, clauses: str) -> int:
    """MERGE `frame` (as `s`) into `table` (as `t`); rows inserted, updated and deleted (in a dry run: rows it would look at).

    Errors: TransientError when another run committed at the same time (nothing was written: run again).
    """
    if ctx.dry_run:
        return int(frame.count())
    view = f"lastgood_{table.name}"
    frame.createOrReplaceTempView(view)
    with _conflicts(table):
        done = ctx.spark.sql(f"MERGE INTO {ctx.store.sql(table)} t USING {view} s ON {on} {clauses}").collect()
    return int(done[0]["num_affected_rows"]) if done else 0
