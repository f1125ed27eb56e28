"""Parts of traces in the inbox -> the requests they are: all parts of every trace that has something new, folded together by `record.trees`.

A trace that is whole in one run costs nothing more. One whose parts come in several runs is folded anew each time, and what an earlier run
made of fewer parts is put right: rows of `requests` are replaced, and those that turn out to be parts of others are deleted.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from lastgood import tables
from lastgood.record import telemetry, trees
from lastgood.tables.forgotten import remembered
from lastgood.tables.runs import Context, merge

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

PARTS = "part IS NOT NULL AND trace_id IS NOT NULL AND span_id IS NOT NULL AND reject_reason IS NULL"
TANGLED = f"{PARTS} AND (parent_id IS NOT NULL OR part = '{trees.EVENT}' OR step IN ('agent', 'workflow', 'tool'))"
"""SQL: a part that is not the root of a trace of its own, or is a run, about which there is more to tell."""
LATE = timedelta(days=1)
"""How much later than the first the last part of a trace may come."""
_SCHEMA = telemetry.arrow_schema(telemetry.INBOX)
_STEPS = telemetry.arrow_schema(tables.STEPS.fields)
_COLUMNS = tables.INBOX.columns


FEW, SMALL = 10_000, 4 * 2**20
"""What has at most so many rows and bytes is worked out once and kept; more is worked out wherever it is asked for."""


def held(ctx: Context, frame: "DataFrame") -> "DataFrame":
    """The frame, worked out where it is small: nothing can be cached on serverless."""
    table = frame.limit(FEW + 1).toArrow()
    if table.num_rows > FEW or table.nbytes > SMALL:
        return frame
    return ctx.spark.createDataFrame(table, frame.schema) if table.num_rows else frame.limit(0)


def _fold(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Parts sorted by trace -> records. A trace that batches cut is put together again."""
    rows = (row for batch in batches for row in batch.to_pylist())
    made: list[trees.Row] = []
    for _, parts in groupby(rows, lambda row: row["trace_id"]):
        made += trees.records(parts)
        if len(made) >= 1_000:
            yield from pa.Table.from_pylist(made, _SCHEMA).to_batches()
            made = []
    yield from pa.Table.from_pylist(made, _SCHEMA).to_batches()


def folded(parts: "DataFrame") -> "DataFrame":
    """All parts of some traces -> an inbox row for each request."""
    together = parts.select(*_COLUMNS).repartition("trace_id").sortWithinPartitions("trace_id")
    return together.mapInArrow(_fold, telemetry.spark_ddl(telemetry.INBOX))


def _steps(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Parts sorted by trace -> rows of `steps`."""
    rows = (row for batch in batches for row in batch.to_pylist())
    for _, parts in groupby(rows, lambda row: row["trace_id"]):
        yield from pa.Table.from_pylist(trees.steps(list(parts)), _STEPS).to_batches()


class Tangled(NamedTuple):
    """All parts of some traces (inbox rows), the traces' ids, and when the first part of the oldest may have come."""

    parts: "DataFrame"
    ids: "DataFrame"
    since: datetime


def keep_steps(ctx: Context, tangled: Tangled) -> int:
    """Write the steps of the runs that these traces hold, in place of what was known of them; rows changed."""
    from pyspark.sql import functions as f

    together = tangled.parts.select(*_COLUMNS).repartition("trace_id").sortWithinPartitions("trace_id")
    rows = held(ctx, together.mapInArrow(_steps, telemetry.spark_ddl(tables.STEPS.fields)))
    known = ctx.store.read(ctx.spark, tables.STEPS).where(f.col("started_at") >= f.lit(tangled.since))
    known = known.join(tangled.ids, "trace_id", "left_semi").select("trace_id", "span_id")
    gone = held(ctx, known.join(rows, ["trace_id", "span_id"], "left_anti"))
    if rows.isEmpty() and gone.isEmpty():
        return 0
    marked = rows.withColumn("gone", f.lit(False)).unionByName(
        gone.withColumn("gone", f.lit(True)), allowMissingColumns=True
    )
    same = " AND ".join(f"t.{name} <=> s.{name}" for name in tables.STEPS.columns)
    sets = ", ".join(f"{name} = s.{name}" for name in tables.STEPS.columns)
    values = ", ".join(f"s.{name}" for name in tables.STEPS.columns)
    clauses = f"WHEN MATCHED AND s.gone THEN DELETE WHEN MATCHED AND NOT ({same}) THEN UPDATE SET {sets} "
    clauses += f"WHEN NOT MATCHED AND NOT s.gone THEN INSERT ({', '.join(tables.STEPS.columns)}) VALUES ({values})"
    return merge(ctx, marked, tables.STEPS, "t.trace_id = s.trace_id AND t.span_id = s.span_id", clauses)


def step_key() -> list["Column"]:
    """What joins a request, or what is made of one, with its steps: these know nothing of the number of an attempt (see conform.attempts)."""
    from pyspark.sql import functions as f

    return [f.col("endpoint"), f.col("trace_id"), f.regexp_replace("request_id", r"#\d+$", "").alias("own_id")]


STEP_KEY = ["endpoint", "trace_id", "own_id"]


def of_traces(ctx: Context, traces: "DataFrame", since: datetime) -> "DataFrame":
    """All parts that the inbox has of these traces."""
    inbox = ctx.store.read(ctx.spark, tables.INBOX).where(PARTS).where(_since(since))
    return remembered(ctx, inbox.join(traces, "trace_id", "left_semi").select(*_COLUMNS))[0]


def _since(moment: datetime) -> str:
    return f"received_at >= timestamp'{moment}'"


def tangled(ctx: Context, new: "DataFrame", since: datetime) -> "DataFrame":
    """The traces of new parts that are more than one span."""
    from pyspark.sql import functions as f

    parts = new.where(PARTS)
    several = parts.groupBy("trace_id").agg(f.count_distinct("span_id").alias("n")).where("n > 1").select("trace_id")
    own = parts.where(TANGLED).select("trace_id")
    older = ctx.store.read(ctx.spark, tables.INBOX).where(TANGLED).where(_since(since)).select("trace_id")
    late = parts.select("trace_id").join(older, "trace_id", "left_semi")
    return own.unionByName(several).unionByName(late).distinct()


def simple(new: "DataFrame", traces: "DataFrame | None") -> "DataFrame":
    """Candidates that are requests as they stand: of other sources, and spans that are all of their trace."""
    from pyspark.sql import functions as f

    told = f.col("tokens_in").isNotNull() | f.col("tokens_out").isNotNull()
    is_call = (f.col("part") == trees.CALL) | ((f.col("part") == trees.ENTRY) & told)
    alone = new if traces is None else new.join(traces.withColumn("_tree", f.lit(True)), "trace_id", "left").where(
        f"_tree IS NULL OR NOT ({PARTS})"
    )  # fmt: skip
    return alone.withColumn("calls", f.when(is_call, f.coalesce("calls", f.lit(1))).otherwise(f.col("calls"))).select(
        *_COLUMNS
    )


def known_as(ctx: Context, traces: "DataFrame", since: datetime) -> "DataFrame":
    """(endpoint, request_id, requested_at) of what earlier runs made of these traces."""
    from pyspark.sql import functions as f

    spans = f.array(*(f.lit(name) for name in telemetry.of_kind(telemetry.SPAN)))
    made = ctx.store.read(ctx.spark, tables.REQUESTS).where(f.arrays_overlap("sources", spans))
    made = made.where(f.col("requested_at") >= f.lit(since - LATE))
    return made.join(traces, "trace_id", "left_semi").select("endpoint", "request_id", "requested_at")
