"""Samples: changed requests -> per version and hour the KEEP answered ones with the smallest hashes of their id.

Bottom-k samples are mergeable and repeatable: the KEEP smallest of several hours' samples are the KEEP smallest of all their requests,
a uniform sample. So drift reads a bounded number of rows however many requests there are, and however long the history.
"""

from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.sampling import KEEP, TEXT_CHARS
from lastgood.jobs.touched import HOUR_S, Measure, Touched, recompute, window_start
from lastgood.tables.runs import Context, Run

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ROOM = 450
"""Ten standard deviations of how many of KEEP expected hashes fall below a bound: the bound never cuts into the KEEP."""


def smallest(rows: "DataFrame", *group: str) -> "DataFrame":
    """The KEEP rows with the smallest `hash` of each group (ties by request id). Few rows are sorted: a bound on the hash is set first."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    sizes = rows.groupBy(*group).agg(f.count("*").alias("_n"))
    few = rows.join(f.broadcast(sizes), list(group)).where((f.col("hash") / 2.0**64 + 0.5) * f.col("_n") <= KEEP + ROOM)
    place = f.row_number().over(Window.partitionBy(*group).orderBy("hash", "request_id"))
    return few.withColumn("_place", place).where(f.col("_place") <= KEEP).drop("_n", "_place")


def sample(requests: "DataFrame") -> "DataFrame":
    """Requests -> rows of `samples`. Failed requests and those of no known version have nothing to compare."""
    from pyspark.sql import functions as f

    answered = requests.where(f.col("error_code").isNull() & f.col("model_version").isNotNull())
    shaped = answered.select(
        "endpoint", "model_version", window_start(HOUR_S).alias("window_start"), "request_id", "requested_at",
        f.xxhash64("request_id").alias("hash"), "tokens_in", "tokens_out",
        f.length("input").cast("bigint").alias("input_chars"), f.length("output").cast("bigint").alias("output_chars"),
        "finish_reason", f.substring("input", 1, TEXT_CHARS).alias("input"), f.substring("output", 1, TEXT_CHARS).alias("output"),
        "features",
    )  # fmt: skip
    return smallest(shaped, "endpoint", "model_version", "window_start")


def _make(ctx: Context, rows: "DataFrame", _: Touched) -> "DataFrame":
    return sample(rows)


def samples(ctx: Context) -> Run | None:
    """Bring `samples` up to date with `requests`; None when nothing changed."""
    return recompute(ctx, Measure("samples", tables.SAMPLES, _make, seconds=HOUR_S))
