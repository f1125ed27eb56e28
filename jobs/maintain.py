"""Maintain: small files merged, old rows deleted (by table, bodies by capture setting), deleted files removed; a requester forgotten."""

import time
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from lastgood import tables
from lastgood.errors import ConfigError, TransientError
from lastgood.record.windows import utc
from lastgood.settings import Capture
from lastgood.tables import delta
from lastgood.tables.forgotten import bury, bury_requests
from lastgood.tables.runs import UPKEEP, Context, Run, merge, record

COLLECTED = {"inbox", "scores"}
"""In a folder receivers compact these, and only they: see docs/adr/0002."""
AGE = {
    "inbox": "received_at", "requests": "requested_at", "quarantine": "received_at", "scores": "received_at", "drift": "computed_at",
    "verdicts": "judged_at", "runs": "finished_at", "deployments": "observed_at", "baselines": "set_at",
    "endpoint_minutes": "minute", "freshness": "checked_at", "salts": "made_at",
    "forgotten": "until", "steps": "started_at", "judged": "judged_at", "contents": "noted_at",
}  # fmt: skip
"""Time column that retention goes by; the others: window_start."""
VACUUM_HOURS = 168
"""Deleted files stay a week: change feeds need them, and a job that has not run for so long must be rebuilt (docs/adr/0003)."""
SMALL_FILES = 8
KEPT_RUNS = 50
"""Of a job's runs on a source so many are kept for ever: bookmarks do not depend on what retention deletes."""
FILES = {
    "spark.databricks.delta.optimize.minFileSize": "67108864",
    "spark.databricks.delta.optimize.maxFileSize": "268435456",
}
DAY = timedelta(days=1)
BODIES = ("input", "output", "features")
COPIES = (tables.REQUESTS, tables.INBOX, tables.SAMPLES, tables.PREDICTIONS, tables.BASELINES)
"""Tables that hold bodies."""


def maintain(ctx: Context) -> list[dict[str, Any]]:
    """Look after every table; what was done to each. One that fails is said and does not stop the rest."""
    from pyspark.errors import PySparkException

    for name, value in FILES.items():
        with suppress(PySparkException):  # serverless sizes files itself
            ctx.spark.conf.set(name, value)
    return [_one(ctx, table) for table in tables.ALL]


def _one(ctx: Context, table: tables.Table) -> dict[str, Any]:
    started = time.monotonic()
    report: dict[str, Any] = {"table": table.name}
    from pyspark.errors import PySparkException

    try:
        report["deleted"] = _expire(ctx, table)
        if table in COPIES:
            report["bodies_removed"] = _strip(ctx, table)
        if not ctx.dry_run:
            if table.name not in COLLECTED or not ctx.store.in_folder:
                report |= _compact(ctx, table)
            _vacuum(ctx, table)
    except (PySparkException, TransientError) as error:
        report["error"] = str(error).splitlines()[0][:300]
    return report | {"seconds": round(time.monotonic() - started, 2)}


def _affected(ctx: Context, statement: str, where: str, table: tables.Table) -> int:
    """Run a DELETE or UPDATE when any row needs it (an empty one would still write a version); rows it changes."""
    rows = ctx.store.read(ctx.spark, table).where(where)
    if ctx.dry_run or rows.isEmpty():
        return int(rows.count()) if ctx.dry_run else 0
    before = ctx.store.version(ctx.spark, table)
    done = ctx.spark.sql(f"{statement} WHERE {where}").collect()
    if ctx.store.version(ctx.spark, table) == before + 1:  # the commit is ours alone: no job counts its windows anew
        record(ctx, Run(UPKEEP, table.name, before + 1, after=before), 0.0)
    return int(done[0]["num_affected_rows"])


def _expire(ctx: Context, table: tables.Table) -> int:
    """Delete rows older than the table's retention; windows of a request that is gone stay."""
    at = AGE.get(table.name, "window_start")
    limit = ctx.kept_since(table)
    if table is tables.RUNS:
        return _expire_runs(ctx, limit)
    if table is tables.CONTENTS:
        return _expire_contents(ctx)
    return _affected(ctx, f"DELETE FROM {ctx.store.sql(table)}", f"{at} < timestamp'{limit.isoformat()}'", table)


def _expire_runs(ctx: Context, limit: datetime) -> int:
    """Of each job and source the newest KEPT_RUNS stay whatever their age: they are the bookmark."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    newest = Window.partitionBy("job", "source").orderBy(f.col("finished_at").desc())
    runs = ctx.store.read(ctx.spark, tables.RUNS).withColumn("place", f.row_number().over(newest))
    edges = runs.where(f.col("place") == KEPT_RUNS).select("job", "source", "finished_at").collect()
    total = 0
    for edge in edges:
        before = min(limit, utc(edge["finished_at"]))
        where = f"job = {tables.literal(edge['job'])} AND source = {tables.literal(edge['source'])}"
        where += f" AND finished_at < timestamp'{before.isoformat()}'"
        total += _affected(ctx, f"DELETE FROM {ctx.store.sql(tables.RUNS)}", where, tables.RUNS)
    return total


def _expire_contents(ctx: Context) -> int:
    """A content that became a version stays; its texts go where a changed capture setting no longer keeps them. Others are counted for a day."""
    ledger = ctx.store.sql(tables.CONTENTS)
    rare = f"NOT admitted AND noted_at < timestamp'{(ctx.clock() - 2 * DAY).isoformat()}'"
    total = _affected(ctx, f"DELETE FROM {ledger}", rare, tables.CONTENTS)
    for name in [*ctx.settings.endpoints, None]:
        if ctx.settings.endpoint(name or "").capture in (Capture.NONE, Capture.FEATURES):
            matches = f"{_whose(ctx, name)} AND size(texts) > 0"
            total += _affected(ctx, f"UPDATE {ledger} SET texts = map()", matches, tables.CONTENTS)
    return total


def _whose(ctx: Context, name: str | None) -> str:
    """SQL: rows of an endpoint; None: of all that have no settings of their own."""
    names = ", ".join(map(tables.literal, ctx.settings.endpoints))
    if name is not None:
        return f"endpoint = {tables.literal(name)}"
    return f"endpoint NOT IN ({names})" if names else "true"


def _strip(ctx: Context, table: tables.Table) -> int:
    """Take bodies out of copies of requests that are older than `body_days`, or that a changed capture setting no longer keeps."""
    total = 0
    for name in [*ctx.settings.endpoints, None]:
        settings = ctx.settings.endpoint(name or "")
        gone = {Capture.NONE: BODIES, Capture.FEATURES: BODIES[:2]}.get(settings.capture, ())
        matches = _whose(ctx, name)
        limit = (ctx.clock() - timedelta(days=settings.body_days)).isoformat()
        for columns, when in ((gone, "true"), (BODIES, f"requested_at < timestamp'{limit}'")):
            if columns := tuple(name for name in columns if name in table.columns):
                sets = ", ".join(f"{column} = NULL" for column in columns)
                held = " OR ".join(f"{column} IS NOT NULL" for column in columns)
                total += _affected(
                    ctx, f"UPDATE {ctx.store.sql(table)} SET {sets}", f"{matches} AND {when} AND ({held})", table
                )
    return total


def _vacuum(ctx: Context, table: tables.Table) -> None:
    """Remove files deleted VACUUM_HOURS ago. In a folder without Spark, which would take a second a table."""
    if ctx.store.in_catalog:
        ctx.spark.sql(f"VACUUM {ctx.store.sql(table)} RETAIN {VACUUM_HOURS} HOURS").collect()
    else:
        delta.vacuum(ctx.store.located(table), VACUUM_HOURS)


def _files(ctx: Context, table: tables.Table) -> int:
    if ctx.store.in_catalog:
        return int(ctx.spark.sql(f"DESCRIBE DETAIL {ctx.store.sql(table)}").collect()[0]["numFiles"])
    return int((ctx.store.home(table).facts() or {"files": 0})["files"])


def _compact(ctx: Context, table: tables.Table) -> dict[str, Any]:
    """Merge small files where there are many. Only small ones, so that those of different days are not mixed (docs/adr/0021)."""
    files = _files(ctx, table)
    if files < SMALL_FILES:
        return {"files": files}
    ctx.spark.sql(f"OPTIMIZE {ctx.store.sql(table)}").collect()
    return {"files": _files(ctx, table), "files_before": files}


def forget(ctx: Context, requester: str) -> dict[str, int]:
    """Delete a requester's requests and everything that came of them row by row; rows deleted by table.

    A tombstone stays (a salted hash): sources and the inbox do not bring back what was asked until now. Counts remain: a window names a
    requester by a hash whose salt is deleted after two months. Deleted files stay on disk until VACUUM (a week), as do the tables' own
    histories. Errors: ConfigError without a requester.
    """
    requester = requester.strip()
    if not requester:
        raise ConfigError("forget needs a requester")
    matches = f"trim(requester) = {tables.literal(requester)}"
    if not ctx.dry_run:
        bury(ctx, requester)  # first: what is collected meanwhile does not come back
    ids = (
        ctx.store.read(ctx.spark, tables.REQUESTS)
        .where(matches)
        .select("endpoint", "request_id", "trace_id", "requested_at")
        .distinct()
    )
    asked = (
        ctx.store.read(ctx.spark, tables.INBOX)
        .where(matches)
        .select("endpoint", "request_id", "trace_id", "requested_at")
        .distinct()
    )
    ids = ids.union(asked).distinct()
    kind = "endpoint string, request_id string, trace_id string, requested_at timestamp"
    frame = ctx.spark.createDataFrame([tuple(row) for row in ids.collect()], kind)
    if not ctx.dry_run:
        bury_requests(ctx, frame)
    done = {}
    by_id = "t.endpoint = s.endpoint AND t.request_id = s.request_id"
    copies = (tables.AGENT_RUNS, tables.SAMPLES, tables.PREDICTIONS, tables.BASELINES, tables.SCORES)
    for table in (*copies, tables.INBOX, tables.REQUESTS):
        done[table.name] = merge(
            ctx, frame.dropDuplicates(["endpoint", "request_id"]), table, by_id, "WHEN MATCHED THEN DELETE"
        )
    either = "t.endpoint = s.endpoint AND array_contains(t.request_ids, s.request_id)"
    done["judged"] = merge(
        ctx, frame.dropDuplicates(["endpoint", "request_id"]), tables.JUDGED, either, "WHEN MATCHED THEN DELETE"
    )
    unplaced = frame.dropDuplicates(["request_id"])
    done["scores"] += merge(
        ctx, unplaced, tables.SCORES, "t.endpoint IS NULL AND t.request_id = s.request_id", "WHEN MATCHED THEN DELETE"
    )
    traced = frame.where("trace_id IS NOT NULL").dropDuplicates(["trace_id"])
    done["scores"] += merge(ctx, traced, tables.SCORES, "t.trace_id = s.trace_id", "WHEN MATCHED THEN DELETE")
    done["steps"] = merge(ctx, traced, tables.STEPS, "t.trace_id = s.trace_id", "WHEN MATCHED THEN DELETE")
    done["inbox"] += merge(
        ctx, traced, tables.INBOX, "t.part IS NOT NULL AND t.trace_id = s.trace_id", "WHEN MATCHED THEN DELETE"
    )
    done["quarantine"] = _affected(
        ctx, f"DELETE FROM {ctx.store.sql(tables.QUARANTINE)}", f"contains(cast(raw as string), {tables.literal(requester)})", tables.QUARANTINE
    )  # fmt: skip
    return done
