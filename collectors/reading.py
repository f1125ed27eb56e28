"""A table of requests, whatever its kind -> new rows of the inbox (and of `scores`), each time only what is new.

A table with a change data feed is read by version. Any other (system tables, shared tables, views) is read by its own clock: rows
of the last day again, without those the inbox has. docs/adr/0007 says why.
"""

import difflib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.collectors import inference_tables, log_tables, span_tables
from lastgood.collectors.otlp.capture import attribute, error_code, unnamed
from lastgood.errors import ConfigError
from lastgood.record import telemetry
from lastgood.record.redact import Redactor
from lastgood.record.words import counted
from lastgood.settings import Settings
from lastgood.settings.redaction import rules
from lastgood.tables.forgotten import remembered
from lastgood.tables.runs import Context, Run, append, bookmark, place, record, unreadable

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

log = logging.getLogger(__name__)
LATE_S = 86_400
"""How late a row may appear in a table that is read by its clock."""
Rule = Callable[[str | None], Redactor]
UNNAMED = "\0"
"""Before an endpoint that a span does not name itself."""


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
    telemetry_tables = (*shared.span_tables, *shared.log_tables, *shared.annotation_tables)
    return [*own, *usage, *map(Origin, telemetry_tables)]


OF_TELEMETRY = {"span_table": "spans", "log_table": "log records", "annotation_table": "annotations"}
"""Kinds of OpenTelemetry tables, and what their rows are."""


def detect(columns: list[str]) -> str:
    """A key of OF_TELEMETRY, or what `inference_tables.detect` says. Errors: ConfigError."""
    if set(span_tables.MARKS) <= set(columns):
        return "span_table"
    return log_tables.kind_of(columns) or inference_tables.detect(columns)


def kind_of(columns: list[str], table: str) -> str:
    """The same. Errors: ConfigError that names the table."""
    try:
        return detect(columns)
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
            frame = spark.read.table(tables.sql_name(table))
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


def _allowed(pairs: Mapping[str, str | None], rule: Redactor) -> dict[str, str | None]:
    if not rule.active:
        return dict(pairs)
    kept = {key: None if value is None else attribute(key, value, rule) for key, value in pairs.items()}
    return {key: value for key, value in kept.items() if value is not None or pairs[key] is None}


def _hidden(rows: "DataFrame", rule: Rule) -> "DataFrame":
    """Rows without what their endpoint's rule hides: of bodies, features, attributes, error codes and explanations."""
    from pyspark.sql import functions as f

    def of(whose: str | None) -> Redactor:
        return unnamed(rule)(whose[1:]) if whose and whose.startswith(UNNAMED) else rule(whose)

    text = f.udf(lambda endpoint, value: of(endpoint).text(value), "string")
    feature = f.udf(
        lambda endpoint, pairs: pairs and of(endpoint).features(pairs),
        "map<string,string>",
    )
    rest = f.udf(
        lambda endpoint, pairs: pairs and _allowed(pairs, of(endpoint)),
        "map<string,string>",
    )
    code = f.udf(lambda endpoint, value: error_code(value) if of(endpoint).active else value, "string")
    if "scores" in rows.columns:
        explained = f.udf(
            lambda endpoint, scores: (
                scores and [s.asDict() | {"explanation": of(endpoint).text(s["explanation"])} for s in scores]
            ),
            rows.schema["scores"].dataType,
        )
        rows = rows.withColumn("scores", explained("endpoint", "scores"))
    whose = f.when(
        f.col("part").isNotNull() & ~f.coalesce(f.col("marks").contains("e"), f.lit(False)),
        f.concat(f.lit(UNNAMED), "endpoint"),
    )
    rows = rows.withColumn("_whose", f.coalesce(whose, "endpoint"))
    hide = {"input": text, "output": text, "features": feature, "attributes": rest, "error_code": code, "raw": None}
    return rows.withColumns(
        {name: how("_whose", name) if how else f.lit(None).cast("binary") for name, how in hide.items()}
    ).drop("_whose")


def candidates(
    frame: "DataFrame",
    origin: Origin,
    settings: Settings,
    entities: "DataFrame | None" = None,
    alone: bool = False,
) -> "DataFrame":
    """Rows of a table -> inbox columns, and `scores` (rows of that table, nested) where the table is one of telemetry: there a row without
    `source` only carries scores."""
    from pyspark.sql import functions as f

    if alone and "request_id" not in frame.columns and kind_of(frame.columns, origin.table) == "canonical":
        frame = _with_ids(frame, origin.table)
    if origin.workspace_id and "workspace_id" in frame.columns:
        frame = frame.where(f.col("workspace_id") == origin.workspace_id)
    kind = kind_of(frame.columns, origin.table)
    if kind in OF_TELEMETRY:
        decoded = span_tables.decoded if kind == "span_table" else log_tables.decoded
        rows = decoded(
            frame, settings.receiver.version_attributes, settings.receiver.endpoint_attributes, settings.tells_contents
        )
    else:
        rows = inference_tables.candidates(
            frame, origin.endpoint, entities, settings.sources.schema_versions, alone, settings.tells_contents
        )
    rule = rules(settings)
    return _hidden(rows, rule) if rule else rows


def mistake(table: str, named: Iterable[str] = ()) -> str | None:
    """What a person must mend about a table that the settings name; None where it is one, or may become one. `named`: all that they name."""
    path = Path(table)
    if not tables.is_path(table) or "://" in table or (path / "_delta_log").is_dir():
        return None
    if path.exists():
        return f"{table}: is no Delta table, and only what is new in one can be told; write it as Delta, or look at it with `lastgood check`"
    if not path.parent.is_dir():
        return f"{table}: there is no folder {path.parent}; is it misspelt?"
    others = {str(log.parent) for log in path.parent.glob("*/_delta_log")} - {str(Path(name)) for name in named}
    near = difflib.get_close_matches(path.name, [Path(other).name for other in others], cutoff=0.8)
    return f"{table}: there is no such table, but {path.parent / near[0]}; is it misspelt?" if near else None


def mistakes(settings: Settings) -> list[str]:
    """What must be mended about the tables of requests and of entities that the settings name."""
    every = [origin.table for origin in origins(settings)]
    every += [origin.entities for origin in origins(settings) if origin.entities]
    return [sentence for table in dict.fromkeys(every) if (sentence := mistake(table, every))]


def check(settings: Settings) -> None:
    """Errors: ConfigError that names every table that is misspelt or of another kind."""
    if wrong := mistakes(settings):
        raise ConfigError("; ".join(wrong))


def _there(table: str, settings: Settings) -> bool:
    """Whether there is a table to read; where it is not there yet, the log says so. Errors: ConfigError, see `mistake`."""
    if wrong := mistake(table, [origin.table for origin in origins(settings)]):
        raise ConfigError(wrong)
    missing = tables.is_path(table) and "://" not in table and not Path(table).exists()
    if missing:
        log.warning("%s: there is no table yet; nothing of it is taken in", table)
    return not missing


def _clock(columns: list[str], table: str) -> "Column":
    """When each row's request was made, by the table's own column."""
    from pyspark.sql import functions as f

    kind = kind_of(columns, table)
    if kind == "span_table":
        return f.expr("timestamp_micros(cast(start_time_unix_nano / 1000 as bigint))")
    if kind in OF_TELEMETRY:
        return f.expr(log_tables.clock(columns))
    generation = next((candidate for candidate in inference_tables.GENERATIONS if candidate.name == kind), None)
    return f.expr(f"try_cast({generation.clock if generation else 'requested_at'} as timestamp)")


@dataclass
class _New:
    """Rows of a table that have not been taken; `again`: some of them may have been, so those that the inbox has are left out."""

    rows: "DataFrame"
    run: Run
    again: bool


def _by_version(ctx: Context, table: str) -> _New | None:
    """What was inserted since the bookmark; the whole table where its feed cannot say, or where it is another table than before."""
    last, table_id = tables.version(ctx.spark, table), tables.identity(ctx.spark, table)
    done, reason = place(ctx, "collect", table, table_id, last)
    if done >= last:
        return None
    run = Run("collect", table, last, after=done, table_id=table_id)
    if reason is None:
        kinds, reason = unreadable(lambda: tables.changes(ctx.spark, table, done, last))
        if reason is None and done < 0:  # what was deleted before anybody read it is not brought back out of the feed
            return _New(tables.as_of(ctx.spark, table, last), run, again=False)
        run.passed_over = kinds.get("update_postimage", 0) + kinds.get("delete", 0)
    if reason is not None:
        run.note = f"read whole, version {last}: {reason}"
        return _New(tables.as_of(ctx.spark, table, last), run, again=True)
    new = tables.changes(ctx.spark, table, done, last).where("_change_type = 'insert'")
    return _New(new.drop("_change_type", "_commit_version", "_commit_timestamp"), run, again=False)


def _by_clock(ctx: Context, table: str) -> _New | None:
    """Rows of the last day before the newest time there was. Times that cannot be are taken too, so that `conform` sets them aside with a
    reason; they do not move the bookmark."""
    from pyspark.sql import functions as f

    job = "collect by clock"
    done, frame = bookmark(ctx, job, table), read_any(ctx.spark, table)
    at = _clock(frame.columns, table)
    most = int((ctx.clock().timestamp() + telemetry.MAX_AHEAD_S) * 1_000_000)
    possible = f.unix_micros(at) <= most
    recent = at >= f.timestamp_micros(f.lit(max(0, done - LATE_S * 1_000_000)))
    new = frame.where(recent | at.isNull())
    seen = new.agg(f.max(f.when(possible, f.unix_micros(at))).alias("last"), f.count("*").alias("n")).collect()[0]
    if not seen["n"]:
        return None
    return _New(new, Run(job, table, max(done, seen["last"] or -1)), again=True)


def _unseen(ctx: Context, rows: "DataFrame", lately: bool) -> "DataFrame":
    """Rows that the inbox does not have from the same source; what has no id is known by its time. `lately`: only what came in the last
    two days can be among them, or what claims a time that cannot be."""
    from pyspark.sql import functions as f

    key = ["source", "endpoint", "request_id", "requested_at"]
    inbox, now = ctx.store.read(ctx.spark, tables.INBOX), ctx.clock().timestamp()
    if lately:
        odd = f.col("requested_at").isNull() | (f.col("requested_at") > f.timestamp_seconds(f.lit(now)))
        inbox = inbox.where((f.col("received_at") >= f.timestamp_seconds(f.lit(now - 2 * LATE_S))) | odd)
    had = inbox.select(*key).distinct()
    same = " AND ".join(f"r.{name} <=> h.{name}" for name in key)
    return rows.alias("r").join(had.alias("h"), f.expr(same), "left_anti")


def _with_ids(rows: "DataFrame", table_id: str) -> "DataFrame":
    """Canonical records without request ids get one that is the same whenever they are read: of the table, of all their values, and
    the how-manieth of those that are alike."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    content = f.to_json(f.struct(*(f.col(name) for name in sorted(rows.columns))))
    marked = rows.withColumn("_content", f.sha2(f.concat(f.lit(f"{table_id}|"), content), 256))
    place_ = f.row_number().over(Window.partitionBy("_content").orderBy("_content"))
    named_ = f.concat(f.lit("row-"), f.substring("_content", 1, 32), f.lit("-"), place_.cast("string"))
    return marked.withColumn("request_id", named_).drop("_content")


def collect(ctx: Context, origin: Origin) -> Run | None:
    """Append what is new in a table to the inbox; None when nothing is, or when there is no table yet.

    Errors: ConfigError when the table cannot be read or is not one of requests.
    """
    table = origin.table
    if not _there(table, ctx.settings):
        return None
    started = time.monotonic()
    with _named(table):
        feed = tables.keeps_changes(ctx.spark, table)
        new = _by_version(ctx, table) if feed else _by_clock(ctx, table)
        if new is None:
            return None
        new.run.rows_in = _take(ctx, origin, new)
    record(ctx, new.run, time.monotonic() - started)
    return new.run


def _take(ctx: Context, origin: Origin, new: _New) -> int:
    """Append new rows of a table to the inbox; how many were looked at."""
    named = origin.entities
    entities = read_any(ctx.spark, named) if named and _there(named, ctx.settings) else None
    read = new.rows
    if "request_id" not in read.columns and kind_of(read.columns, origin.table) == "canonical":
        read = _with_ids(read, new.run.table_id or origin.table)
    rows = candidates(read, origin, ctx.settings, entities)
    if new.again:
        rows = _unseen(ctx, rows, lately=new.run.table_id is None)
    rows, forgotten = remembered(ctx, rows)
    new.run.passed_over += forgotten
    looked_at = int(new.rows.count())
    if "scores" in rows.columns:
        beside = kind_of(read.columns, origin.table) != "span_table"
        scores, rows = rows.selectExpr("inline(scores)"), rows.where("source IS NOT NULL")
        if beside and (left := looked_at - rows.count() - scores.count()):
            left_out = (
                f"{left} of {counted(looked_at, 'row')} are no messages of a call, evaluations or feedback on a trace"
            )
            new.run.note = "; ".join(filter(None, (new.run.note, left_out)))
        if beside or span_tables.has_scores(read):
            append(ctx, _unscored(ctx, scores, new.again), tables.SCORES)
    append(ctx, rows.select(*tables.INBOX.columns), tables.INBOX)
    return looked_at


def _unscored(ctx: Context, scores: "DataFrame", again: bool) -> "DataFrame":
    """Scores that are not there yet, where rows are read `again`."""
    from pyspark.sql import functions as f

    if not again:
        return scores
    key = ("source", "trace_id", "request_id", "name", "value", "label", "at")
    same = " AND ".join(f"n.{name} <=> h.{name}" for name in key)
    had = ctx.store.read(ctx.spark, tables.SCORES).select(*key)
    return scores.dropDuplicates(list(key)).alias("n").join(had.alias("h"), f.expr(same), "left_anti")


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
    except Exception as error:
        if not type(error).__module__.startswith(("pyspark", "py4j")):
            raise
        reason = str(getattr(error, "java_exception", error)).splitlines()[0]
        raise ConfigError(f"{table}: could not be read: {reason:.400}") from error


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
