"""Served entity ids -> the endpoint and model version behind them at the time of the request. Spark only.

History: system.serving.served_entities (served_entity_id, endpoint_name, served_entity_name, entity_version, change_time).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

KNOWN = ("endpoint_name", "served_entity_name", "entity_version")
_DDL = "struct<" + ",".join(f"{name}:string" for name in KNOWN) + ">"


def periods(entities: "DataFrame") -> "DataFrame":
    """(entity_id, known, from, until): one row for each time an entity kept its version. The first reaches back for ever:
    a request that is older than the history is the first version's."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    of_one = Window.partitionBy("served_entity_id").orderBy("change_time")
    started = f.when(f.row_number().over(of_one) > 1, f.col("change_time"))
    known = f.max(f.struct(*(f.col(name).cast("string").alias(name) for name in KNOWN))).alias("known")
    return (
        entities.groupBy("served_entity_id", "change_time")
        .agg(known)
        .select(
            f.col("served_entity_id").alias("entity_id"),
            "known",
            started.alias("from"),
            f.lead("change_time").over(of_one).alias("until"),
        )
    )


def named(rows: "DataFrame", entities: "DataFrame | None") -> "DataFrame":
    """`rows` (columns entity, at) with `known`: what `entity` was at the time `at`; null where the history does not name it."""
    from pyspark.sql import functions as f

    if entities is None:
        return rows.withColumn("known", f.lit(None).cast(_DDL))
    history = f.broadcast(periods(entities))
    then = f.coalesce(f.col("at") >= f.col("from"), f.lit(True)) & f.coalesce(f.col("at") < f.col("until"), f.lit(True))
    matches = (f.col("entity") == f.col("entity_id")) & (f.col("at").isNotNull() | f.col("until").isNull()) & then
    return rows.join(history, matches, "left").drop("entity_id", "from", "until")
