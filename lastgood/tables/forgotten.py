"""Tombstones: hashes of requesters who are forgotten -> which rows of a source are not taken in again."""

import secrets
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.record.windows import utc
from lastgood.tables.runs import Context, append

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def bury(ctx: Context, requester: str) -> None:
    """Leave a tombstone: what this requester asked until now is not taken in again."""
    stones = ctx.store.read(ctx.spark, tables.FORGOTTEN).collect()
    salt = stones[0]["salt"] if stones else secrets.token_hex(16)
    row = (sha256((salt + requester).encode()).hexdigest(), salt, ctx.clock())
    append(ctx, ctx.spark.createDataFrame([row], "requester string, salt string, until timestamp"), tables.FORGOTTEN)


def remembered(ctx: Context, rows: "DataFrame") -> tuple["DataFrame", int]:
    """(rows with requester and requested_at, without those of forgotten requesters; how many were left out)."""
    from pyspark.sql import functions as f

    stones = ctx.store.read(ctx.spark, tables.FORGOTTEN).collect()
    if not stones:
        return rows, 0
    until: dict[str, datetime] = {}
    for stone in stones:
        until[stone["requester"]] = max(until.get(stone["requester"], utc(stone["until"])), utc(stone["until"]))
    who = f.sha2(f.concat(f.lit(stones[0]["salt"]), f.trim("requester")), 256)
    frame = ctx.spark.createDataFrame(list(until.items()), "stone string, until timestamp")
    joined = rows.withColumn("stone", who).join(f.broadcast(frame), "stone", "left")
    gone = f.col("until").isNotNull() & (f.col("requested_at").isNull() | (f.col("requested_at") <= f.col("until")))
    return joined.where(~gone).select(*rows.columns), int(joined.where(gone).count())
