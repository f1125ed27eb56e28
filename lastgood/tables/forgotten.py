"""Tombstones: hashes of requesters who are forgotten, and of their requests -> which rows of a source are not taken in again."""

import secrets
from hashlib import sha256
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.tables.runs import Context, append

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


NEAR_S = 600
"""Requests of one id are taken for the same within this time: clients count from one, and clocks of two sources differ."""
ATTEMPT = r"#\d+$"
"""How the id of a later attempt ends (jobs/conform)."""


def bury(ctx: Context, requester: str) -> None:
    """Leave a tombstone: what this requester asked until now is not taken in again."""
    salt = _salt(ctx) or secrets.token_hex(16)
    row = (sha256((salt + requester).encode()).hexdigest(), salt, ctx.clock())
    append(ctx, ctx.spark.createDataFrame([row], "requester string, salt string, until timestamp"), tables.FORGOTTEN)


def bury_requests(ctx: Context, requests: "DataFrame") -> None:
    """Leave a tombstone for each request (endpoint, request_id, requested_at) that is deleted: a source that names no requester does not
    bring it back. After `bury`."""
    from pyspark.sql import functions as f

    salt = _salt(ctx)
    places = f.explode(f.array(*(_place() + step for step in (-1, 0, 1)))).alias("place")
    stones = requests.where("request_id IS NOT NULL AND requested_at IS NOT NULL").select(
        "endpoint", "request_id", places
    )
    stones = stones.select(_of_request(salt, f.col("place")).alias("requester"), f.lit(salt).alias("salt")).distinct()
    append(ctx, stones.withColumn("until", f.lit(ctx.clock())), tables.FORGOTTEN)


def _salt(ctx: Context) -> str | None:
    first = ctx.store.read(ctx.spark, tables.FORGOTTEN).select("salt").take(1)
    return str(first[0]["salt"]) if first else None


def _place() -> "Column":
    from pyspark.sql import functions as f

    return f.floor(f.unix_seconds("requested_at") / NEAR_S)


def _of_request(salt: str | None, place: "Column") -> "Column":
    from pyspark.sql import functions as f

    identity = f.regexp_replace("request_id", ATTEMPT, "")
    return f.sha2(f.concat_ws("/", f.lit(salt), "endpoint", identity, place), 256)


def remembered(ctx: Context, rows: "DataFrame") -> tuple["DataFrame", int]:
    """(rows with requester, endpoint, request_id and requested_at, without those of forgotten requesters, and those that name none and
    are a request that was forgotten; how many were left out)."""
    from pyspark.sql import functions as f

    salt = _salt(ctx)
    if salt is None:
        return rows, 0
    named = f.sha2(f.concat(f.lit(salt), f.trim("requester")), 256)
    unnamed = f.coalesce(f.trim("requester"), f.lit("")) == ""
    stones = ctx.store.read(ctx.spark, tables.FORGOTTEN).groupBy(f.col("requester").alias("stone"))
    stones = stones.agg(f.max("until").alias("until"))
    joined = rows.withColumn("stone", f.when(unnamed, _of_request(salt, _place())).otherwise(named)).join(
        stones, "stone", "left"
    )
    gone = f.col("until").isNotNull() & (f.col("requested_at").isNull() | (f.col("requested_at") <= f.col("until")))
    return joined.where(~gone).select(*rows.columns), int(joined.where(gone).count())
