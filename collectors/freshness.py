"""Sources of features -> rows of `freshness`: how old is what the model is fed, whether or not a request says so."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lastgood import tables
from lastgood.errors import LastgoodError
from lastgood.record.telemetry import spark_ddl
from lastgood.settings import FeatureSource
from lastgood.tables.runs import Context, append
from lastgood.workspace import Platform

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def feature_table(spark: "SparkSession", source: FeatureSource) -> dict[str, Any]:
    """Newest commit and newest event time of a Delta table. Errors: as Spark words them."""
    from pyspark.sql import functions as f

    name = tables.sql_name(source.name)
    newest = spark.sql(f"DESCRIBE HISTORY {name} LIMIT 1").select(f.unix_micros("timestamp")).collect()[0][0]
    committed = datetime.fromtimestamp(newest / 1e6, UTC)
    if source.event_time is None:
        return {"as_of": committed, "committed_at": committed, "state": "ONLINE"}
    at = f.unix_micros(f.max(f.col(source.event_time).cast("timestamp")))
    event = spark.read.table(name).agg(at).collect()[0][0]
    as_of = datetime.fromtimestamp(event / 1e6, UTC) if event is not None else None
    return {"as_of": as_of, "committed_at": committed, "state": "ONLINE"}


def look(
    ctx: Context, platform: Callable[[], Platform], endpoint: str, source: FeatureSource, now: datetime
) -> dict[str, Any]:
    """One source now. A source that cannot be asked is a row that says why: it may be the reason why features are old."""
    from pyspark.errors import PySparkException

    row = {"endpoint": endpoint, "kind": source.kind, "name": source.name, "checked_at": now}
    try:
        if source.kind == "feature_table":
            return row | feature_table(ctx.spark, source)
        state = platform().source(source.kind, source.name)
        return row | {"as_of": state.as_of, "rows": state.rows, "state": state.state}
    except (LastgoodError, PySparkException) as error:
        return row | {"state": f"cannot be asked: {str(error).splitlines()[0]}"[:300]}


def freshness(ctx: Context, platform: Callable[[], Platform]) -> list[dict[str, Any]]:
    """Ask every source that the settings name and append what it says. `platform` is called when a store must be asked."""
    named, now = ctx.settings.endpoints.items(), ctx.clock()
    rows = [look(ctx, platform, endpoint, source, now) for endpoint, watched in named for source in watched.features]
    if rows:
        values = [tuple(row.get(name) for name in tables.FRESHNESS.columns) for row in rows]
        append(ctx, ctx.spark.createDataFrame(values, spark_ddl(tables.FRESHNESS.fields)), tables.FRESHNESS)
    return rows
