"""Baselines: the samples of a time set aside, numbered per endpoint, as what drift is measured against; listed; compared."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lastgood import tables
from lastgood.errors import ConfigError
from lastgood.jobs.samples import smallest
from lastgood.tables.runs import Context, append

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

LEAST_ROWS = 50


def set_baseline(
    ctx: Context, endpoint: str, span: tuple[datetime, datetime], version: str | None = None, note: str = ""
) -> dict[str, Any]:
    """Store the sample of the endpoint's answered requests in [from, to) as its next baseline. Run `lastgood job samples` before.

    Errors: ConfigError when there are fewer than LEAST_ROWS.
    """
    from pyspark.sql import functions as f

    rows = ctx.store.read(ctx.spark, tables.SAMPLES).where(f.col("endpoint") == endpoint)
    near = (f.col("window_start") >= f.lit(span[0] - timedelta(hours=1))) & (f.col("window_start") < f.lit(span[1]))
    rows = rows.where(near & (f.col("requested_at") >= f.lit(span[0])) & (f.col("requested_at") < f.lit(span[1])))
    rows = rows.where(f.col("model_version") == version) if version else rows
    kept = smallest(rows, "endpoint").dropDuplicates(["request_id"])
    number = max((stored["baseline"] for stored in list_baselines(ctx, endpoint)), default=0) + 1
    rows_kept = kept.count()
    if rows_kept < LEAST_ROWS:
        raise ConfigError(
            f"{endpoint}: {rows_kept} sampled requests in that time, a baseline needs {LEAST_ROWS}; "
            "widen --from and --to, or run `lastgood job samples --backfill` first"
        )
    stamped = {"baseline": f.lit(number).cast("bigint"), "note": f.lit(note), "set_at": f.lit(ctx.clock())}
    append(ctx, kept.withColumns(stamped).select(*tables.BASELINES.columns), tables.BASELINES)
    return {"endpoint": endpoint, "baseline": number, "rows": rows_kept}


def list_baselines(ctx: Context, endpoint: str | None = None) -> list[dict[str, Any]]:
    """Baselines with their rows, versions, time range and tabular columns, by endpoint and number."""
    from pyspark.sql import functions as f

    rows = ctx.store.read(ctx.spark, tables.BASELINES)
    rows = rows.where(f.col("endpoint") == endpoint) if endpoint else rows
    columns = f.array_sort(f.array_distinct(f.flatten(f.collect_set(f.map_keys("features"))))).alias("columns")
    summary = rows.groupBy("endpoint", "baseline").agg(
        f.max("note").alias("note"), f.max("set_at").alias("set_at"), f.count("*").alias("rows"),
        f.array_sort(f.collect_set("model_version")).alias("versions"), f.min("requested_at").alias("first"),
        f.max("requested_at").alias("last"), columns,
    )  # fmt: skip
    return [row.asDict() for row in summary.orderBy("endpoint", "baseline").collect()]


def _sides(ctx: Context, endpoint: str, current: "DataFrame", reference: "DataFrame") -> "pd.DataFrame":
    """Two sets of sampled rows as one comparison of `jobs.drift.compare`."""
    from pyspark.sql import functions as f

    from lastgood.jobs.drift import comparable

    both = current.withColumn("side", f.lit("current")).unionByName(
        reference.withColumn("side", f.lit("baseline")), True
    )
    named = {"version": "-", "against": "reference", "prefer": "baseline"}
    columns: pd.DataFrame = comparable(
        both.withColumns({name: f.lit(value) for name, value in named.items()})
    ).toPandas()
    return columns


def pick(ctx: Context, endpoint: str, number: int) -> "DataFrame":
    """A baseline's rows. Errors: ConfigError when there is none of that number."""
    from pyspark.sql import functions as f

    rows = ctx.store.read(ctx.spark, tables.BASELINES).where(
        (f.col("endpoint") == endpoint) & (f.col("baseline") == number)
    )
    if rows.isEmpty():
        known = ", ".join(str(stored["baseline"]) for stored in list_baselines(ctx, endpoint)) or "none"
        raise ConfigError(f"{endpoint} has no baseline {number}; there are: {known}")
    return rows


def diff(ctx: Context, endpoint: str, old: int, new: int) -> list[dict[str, Any]]:
    """How the newer baseline differs from the older, column by column, as drift is measured."""
    from lastgood.jobs.comparison import compare

    limit = ctx.settings.endpoint(endpoint).policy.drift_limit
    group = _sides(ctx, endpoint, pick(ctx, endpoint, new), pick(ctx, endpoint, old))
    comparison = compare(group, limit, ctx.clock().astimezone(UTC).replace(tzinfo=None))
    return [{str(name): value for name, value in row.items()} for row in comparison.to_dict("records")]
