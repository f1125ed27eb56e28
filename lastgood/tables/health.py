"""Tables and run records -> how they are: sizes, how far behind the jobs, the newest verdicts. Folders are read without Spark."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from lastgood import tables
from lastgood.tables import delta
from lastgood.tables.runs import UPKEEP, chain

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Rows = list[dict[str, Any]]


def _read(store: tables.Store, spark: "SparkSession | None", table: tables.Table, *columns: str) -> Rows:
    if spark is None:
        have = delta.read(store.path(table))
        rows: Rows = have.select([name for name in columns if name in have.column_names]).to_pylist()
        return rows
    return [row.asDict() for row in store.read(spark, table).select(*columns).collect()]


def _facts(store: tables.Store, spark: "SparkSession | None", table: tables.Table) -> dict[str, Any] | None:
    """See `delta.facts`."""
    if spark is None:
        return delta.facts(store.path(table))
    name = store.sql(table)
    if not spark.catalog.tableExists(name):
        return None
    detail = spark.sql(f"DESCRIBE DETAIL {name}").collect()[0]
    newest = (
        spark.sql(f"DESCRIBE HISTORY {name} LIMIT 1").selectExpr("version", "unix_millis(timestamp) AS at").collect()[0]
    )
    return {
        "version": newest["version"], "files": detail["numFiles"], "bytes": detail["sizeInBytes"],
        "rows": spark.read.table(name).count(), "changed_at": newest["at"],
    }  # fmt: skip


def health(store: tables.Store, now: datetime, spark: "SparkSession | None" = None) -> dict[str, Rows]:
    """What `lastgood status` shows; tables of a catalog take a Spark session. tables: size, files, seconds since the newest commit; jobs:
    bookmark, how many versions of its source it has not taken in, its newest run; verdicts: the newest of each endpoint.
    """
    sizes = {table.name: facts for table in tables.ALL if (facts := _facts(store, spark, table))}
    shown = [
        {
            "table": name, "rows": facts["rows"], "files": facts["files"], "MiB": round(facts["bytes"] / 2**20, 2),
            "version": facts["version"], "age_s": None if facts["changed_at"] is None else round(now.timestamp() - facts["changed_at"] / 1000),
        }
        for name, facts in sizes.items()
    ]  # fmt: skip
    records: dict[tuple[str, str], Rows] = {}
    if tables.RUNS.name in sizes:
        for run_record in _read(store, spark, tables.RUNS, *tables.RUNS.columns):
            records.setdefault((run_record["job"], run_record["source"]), []).append(run_record)
    jobs = []
    for (job, source), runs in sorted(records.items()):
        if job == UPKEEP:
            continue
        run, at = max(runs, key=lambda record: record["finished_at"]), chain(runs)
        known = sizes.get(source)
        jobs.append({
            "job": job, "source": source, "taken": at, "behind": known["version"] - at if known else None, "rows_in": run["rows_in"],
            "rows_out": run["rows_out"], "seconds": run["seconds"], "finished_at": str(run["finished_at"]),
            "read_whole": sum(record.get("note") is not None for record in runs),
            "passed_over": sum(record.get("passed_over") or 0 for record in runs), "note": run.get("note"),
        })  # fmt: skip
    newest: dict[str, dict[str, Any]] = {}
    if tables.VERDICTS.name in sizes:
        verdicts = _read(store, spark, tables.VERDICTS, "endpoint", "state", "reason", "judged_at")
        newest = {
            verdict["endpoint"]: verdict for verdict in sorted(verdicts, key=lambda verdict: verdict["judged_at"])
        }
    judged = [verdict | {"judged_at": str(verdict["judged_at"])} for verdict in newest.values()]
    return {"tables": shown, "jobs": jobs, "verdicts": judged}
