"""A table of requests, whatever its kind -> new rows of the inbox (and of `scores`), each time only what is new.

A table with a change data feed is read by version. Any other (system tables, shared tables, views) is read by its own clock: rows
of the last day again, without those the inbox has. docs/adr/0007 says why.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.collectors import inference_tables, span_tables
from lastgood.collectors.otlp.bodies import is_text
from lastgood.errors import ConfigError
from lastgood.record.redact import Redactor
from lastgood.settings import Settings
from lastgood.settings.redaction import rules
from lastgood.tables.runs import Context, Run, append, bookmark, record

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

LATE_S = 86_400
"""How late a row may appear in a table that is read by its clock."""
Rule = Callable[[str | None], Redactor]


@dataclass(frozen=True)
class Origin:
    """A table to collect from. `endpoint`: whose requests it holds, where it does not say; `entities`: the table that names the
    versions behind served entity ids; `workspace_id`: of a table of all workspaces, the one whose rows are taken."""

    table: str
    endpoint: str | None = None
    entities: str | None = None
    workspace_id: str | None = None


def origins(settings: Settings) -> list[Origin]:
    """Every table that the settings name, each once."""
    shared = settings.sources
    own = [
        Origin(endpoint.payload_table, name, endpoint.entities_table or shared.entities_table)
        for name, endpoint in settings.endpoints.items()
        if endpoint.payload_table
    ]
    usage = [Origin(table, None, shared.entities_table, shared.workspace_id) for table in shared.usage_tables]
    return [*own, *usage, *(Origin(table) for table in shared.span_tables)]


def kind_of(columns: list[str], table: str) -> str:
    """`span_table`, or what `inference_tables.detect` says. Errors: ConfigError that names the table."""
    try:
        return "span_table" if set(span_tables.MARKS) <= set(columns) else inference_tables.detect(columns)
    except ConfigError as error:
        raise ConfigError(f"{table}: {error}") from error


def read_any(spark: "SparkSession", table: str) -> "DataFrame":
    """A Delta path, Parquet file or folder, JSON lines, CSV, or a catalog name. Errors: ConfigError, one clear sentence."""
    where = Path(table)
    try:
        if (where / "_delta_log").is_dir():
            frame = spark.read.format("delta").load(table)
        elif where.is_dir() or where.suffix == ".parquet":
            frame = spark.read.parquet(table)
        elif where.suffix == ".csv":
            frame = spark.read.csv(table, header=True, inferSchema=True)
        elif where.is_file():
            frame = spark.read.json(table)
        elif "/" not in table and "." in table:
            frame = spark.read.table(table)
        else:
            raise ConfigError(f"{table}: no such file, folder or table; expected Delta, Parquet, CSV or JSON lines")
        columns = frame.columns
    except ConfigError:
        raise
    except Exception as error:  # a broken file surfaces as a PySpark error or as a bare gateway error
        reason = str(getattr(error, "java_exception", error)).splitlines()[0]
        raise ConfigError(f"{table}: could not be read as Delta, Parquet, CSV or JSON lines: {reason:.200}") from error
    if columns in ([], ["_corrupt_record"]):
        raise ConfigError(f"{table}: holds no rows that can be read; expected Delta, Parquet, CSV or JSON lines")
    return frame


def _hidden(rows: "DataFrame", rule: Rule) -> "DataFrame":
    """Rows without what their endpoint's rule hides of input, output, features and attributes."""
    from pyspark.sql import functions as f

    text = f.udf(lambda endpoint, value: rule(endpoint).text(value), "string")
    feature = f.udf(
        lambda endpoint, pairs: pairs and {key: rule(endpoint).feature(value) for key, value in pairs.items()},
        "map<string,string>",
    )
    rest = f.udf(
        lambda endpoint, pairs: (
            pairs and {key: value for key, value in pairs.items() if not (rule(endpoint).active and is_text(key))}
        ),
        "map<string,string>",
    )
    hide = {"input": text, "output": text, "features": feature, "attributes": rest, "raw": None}
    return rows.withColumns(
        {name: how("endpoint", name) if how else f.lit(None).cast("binary") for name, how in hide.items()}
    )


def candidates(
    frame: "DataFrame",
    origin: Origin,
    settings: Settings,
    entities: "DataFrame | None" = None,
    entity_is_version: bool = False,
) -> "DataFrame":
    """Rows of a table -> inbox columns, and `scores` (rows of that table, nested) where the table is one of spans."""
    from pyspark.sql import functions as f

    if origin.workspace_id and "workspace_id" in frame.columns:
        frame = frame.where(f.col("workspace_id") == origin.workspace_id)
    if kind_of(frame.columns, origin.table) == "span_table":
        rows = span_tables.decoded(frame, settings.receiver.version_attributes)
    else:
        rows = inference_tables.candidates(
            frame, origin.endpoint, entities, settings.sources.schema_versions, entity_is_version
        )
    rule = rules(settings)
    return _hidden(rows, rule) if rule else rows


def _there(table: str) -> bool:
    return not tables.is_path(table) or (Path(table) / "_delta_log").is_dir()


def _clock(columns: list[str], table: str) -> "Column":
    """When each row's request was made, by the table's own column."""
    from pyspark.sql import functions as f

    kind = kind_of(columns, table)
    if kind == "span_table":
        return f.expr("timestamp_micros(cast(start_time_unix_nano / 1000 as bigint))")
    generation = next((candidate for candidate in inference_tables.GENERATIONS if candidate.name == kind), None)
    return f.expr(generation.clock if generation else "requested_at").cast("timestamp")


def _by_version(ctx: Context, table: str) -> tuple["DataFrame", Run] | None:
    done, last = bookmark(ctx, "collect", table), tables.version(ctx.spark, table)
    if done >= last:
        return None
    new = tables.changes(ctx.spark, table, done, last).where("_change_type = 'insert'")
    return new.drop("_change_type", "_commit_version", "_commit_timestamp"), Run("collect", table, last)


def _by_clock(ctx: Context, table: str) -> tuple["DataFrame", Run] | None:
    from pyspark.sql import functions as f

    job = "collect by clock"
    done, frame = bookmark(ctx, job, table), read_any(ctx.spark, table)
    at = _clock(frame.columns, table)
    new = frame.where(at >= f.timestamp_micros(f.lit(max(0, done - LATE_S * 1_000_000))))
    last = new.agg(f.max(f.unix_micros(at))).collect()[0][0]
    return None if last is None else (new, Run(job, table, max(done, last)))


def _unseen(ctx: Context, rows: "DataFrame") -> "DataFrame":
    """Rows that the inbox does not have from the same source; what has no id is known by its time."""
    from pyspark.sql import functions as f

    key = ["source", "endpoint", "request_id", "requested_at"]
    inbox = ctx.store.read(ctx.spark, tables.INBOX)
    since = ctx.clock().timestamp() - 2 * LATE_S
    had = inbox.where(f.col("received_at") >= f.timestamp_seconds(f.lit(since))).select(*key)
    same = " AND ".join(f"r.{name} <=> h.{name}" for name in key)
    return rows.alias("r").join(had.distinct().alias("h"), f.expr(same), "left_anti")


def collect(ctx: Context, origin: Origin) -> Run | None:
    """Append what is new in a table to the inbox; None when nothing is, or when there is no table yet.

    Errors: ConfigError when the table cannot be read or is not one of requests.
    """
    table = origin.table
    if not _there(table):
        return None
    started, feed = time.monotonic(), tables.keeps_changes(ctx.spark, table)
    unread = _by_version(ctx, table) if feed else _by_clock(ctx, table)
    if unread is None:
        return None
    new, run = unread
    with _named(table):
        run.rows_in = _take(ctx, origin, new, feed)
    record(ctx, run, time.monotonic() - started)
    return run


def _take(ctx: Context, origin: Origin, new: "DataFrame", feed: bool) -> int:
    """Append new rows of a table to the inbox; how many."""
    named = origin.entities
    entities = read_any(ctx.spark, named) if named and _there(named) else None
    rows = candidates(new, origin, ctx.settings, entities)
    if not feed and "request_id" not in new.columns and kind_of(new.columns, origin.table) == "canonical":
        raise ConfigError(
            f"{origin.table}: canonical records without request_id would be taken in again and again; add the column, or the table "
            "property delta.enableChangeDataFeed"
        )
    if not feed:
        rows = _unseen(ctx, rows)
    if "scores" in rows.columns and span_tables.has_scores(new):
        append(ctx, rows.selectExpr("inline(scores)"), tables.SCORES)
    append(ctx, rows.select(*tables.INBOX.columns), tables.INBOX)
    return int(new.count())


@contextmanager
def _named(table: str) -> Iterator[None]:
    """What Spark cannot read of a table, as a ConfigError that names it."""
    from pyspark.errors import AnalysisException

    try:
        yield
    except ConfigError as error:
        raise error if table in str(error) else ConfigError(f"{table}: {error}") from error
    except AnalysisException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{table}: {reason:.400}; give the column the documented type, or collect from a view that casts it"
        ) from error


def collect_all(ctx: Context) -> list[Run]:
    """New rows of every table that the settings name into the inbox. A table that cannot be read does not hold up the others.

    Errors: ConfigError that names all such tables, after the others were taken in.
    """
    runs, broken = [], []
    for origin in origins(ctx.settings):
        try:
            runs.append(collect(ctx, origin))
        except ConfigError as error:
            broken.append(str(error))
    if broken:
        raise ConfigError("; ".join(broken))
    return [run for run in runs if run]
