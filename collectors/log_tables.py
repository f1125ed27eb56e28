"""Tables of OpenTelemetry logs and of MLflow annotations in Unity Catalog -> messages of calls (inbox) and `scores`. Spark only.

Schemas: `<prefix>_otel_logs` in its first version (body as text, attributes as MAP; assessments are log records named
`genai.assessments.snapshot`, whose fields are in the body or in the attributes) and its second (both VARIANT); and
`<prefix>_otel_annotations`, a row for each state of an annotation: annotation_id, annotation_type, target_type, target_id, name, value (VARIANT),
comment, created_at, updated_at, deleted_at. Databricks' documentation of traces in Unity Catalog.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from lastgood.collectors.otlp import rows
from lastgood.collectors.otlp.rows import Decoded, SpanDecoder, when
from lastgood.collectors.span_tables import NESTED_SCORES, SCHEMA, attributes, id_bytes, json_of, resource_of
from lastgood.record import telemetry
from lastgood.record.vocabulary import ENDPOINT_ATTRIBUTES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LOG_MARKS = ("trace_id", "span_id", "time_unix_nano", "severity_number", "body")
ANNOTATION_MARKS = ("annotation_id", "annotation_type", "target_id", "name", "value")
ASSESSMENT = "genai.assessments.snapshot"
WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
"""How judges word a yes and a no."""
TRACE_ID = re.compile(r"(?:^|[^0-9a-f])([0-9a-f]{32})$")
"""The end of an id of a trace: `tr-...`, `trace:/catalog.schema/...`, or it alone."""


@dataclass
class Log:
    """A table row as `rows.log` reads log records."""

    event_name: str
    trace_id: bytes
    span_id: bytes
    time_unix_nano: int
    observed_time_unix_nano: int
    attributes: dict[str, Any]
    body: Any


def kind_of(columns: Sequence[str]) -> str | None:
    """`log_table`, `annotation_table`, or None."""
    have = set(columns)
    return "log_table" if have >= set(LOG_MARKS) else "annotation_table" if have >= set(ANNOTATION_MARKS) else None


def _parsed(text: str | None) -> Any:
    try:
        return orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        return text


def judged(value: Any) -> tuple[float | None, str | None]:
    """What an assessment says -> (number, word). A yes or a no is both; what is neither a number nor a word is not taken."""
    if isinstance(value, str):
        inner = _parsed(value)
        value = value if isinstance(inner, dict | list) or inner is None else inner
    if isinstance(value, bool | int | float):
        return float(value), None
    if isinstance(value, str) and value.strip():
        return WORDS.get(value.strip().lower()), value.strip()
    return None, None


def _assessment(record: Log, now: datetime) -> list[dict[str, Any]]:
    """An assessment that is a log record -> a score; none where it is no feedback, or holds nothing that is a score."""
    told = {**record.attributes, **(record.body if isinstance(record.body, dict) else {})}
    nested = _parsed(told["feedback"]) if isinstance(told.get("feedback"), str) else told.get("feedback")
    value = told.get("feedback.value", nested.get("value") if isinstance(nested, dict) else None)
    withdrawn = str(told.get("deleted")).lower() == "true" or str(told.get("valid")).lower() == "false"
    number, word = (None, None) if withdrawn else judged(value)
    name = told.get("assessment_name") or told.get("name")
    if not name or not (withdrawn or number is not None or word):
        return []
    return [
        _score(str(name), number, word, told.get("rationale"), record.trace_id.hex(), when(record.time_unix_nano), now)
    ]


def _score(
    name: str, value: float | None, label: str | None, why: Any, trace: str | None, at: datetime | None, now: datetime
) -> dict[str, Any]:
    return {
        "trace_id": trace, "name": name[:200], "value": value, "label": label and label[:1000], "explanation": why and str(why)[:20_000],
        "source": "annotation", "at": at, "received_at": now,
    }  # fmt: skip


def _logs(
    batches: Iterator[pa.RecordBatch], versions: Sequence[str], naming: Sequence[str], contents: bool = False
) -> Iterator[pa.RecordBatch]:
    decoder, now = SpanDecoder(versions, "span_table", naming, contents), datetime.now(UTC)
    for batch in batches:
        out = Decoded()
        for row in batch.to_pylist():
            record = Log(
                row["event_name"] or "", id_bytes(row["trace_id"]), id_bytes(row["span_id"]), row["time_unix_nano"] or 0,
                row["observed_time_unix_nano"] or 0, attributes(row["attributes"]), _parsed(row["body"]),
            )  # fmt: skip
            if (record.event_name or record.attributes.get("event.name")) == ASSESSMENT:
                out.scores += _assessment(record, now)
            else:
                rows.log(record, resource_of(row), now, out, decoder)
        carriers = [row | {"scores": []} for row in out.rows]
        if out.scores:
            carriers.append({"scores": out.scores})
        yield from pa.Table.from_pylist(carriers, SCHEMA).to_batches()


def _annotations(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    now = datetime.now(UTC)
    for batch in batches:
        scores = [score for row in batch.to_pylist() if (score := _annotation(row, now))]
        yield from pa.Table.from_pylist([{"scores": scores}] if scores else [], SCHEMA).to_batches()


def _annotation(row: Mapping[str, Any], now: datetime) -> dict[str, Any] | None:
    """A state of an annotation -> a score; without value and label where it was withdrawn. None for what is no feedback on a trace."""
    trace = TRACE_ID.search(str(row["target_id"] or "").lower())
    if (
        row["annotation_type"] != "FEEDBACK"
        or (row["target_type"] or "TRACE") != "TRACE"
        or not trace
        or not row["name"]
    ):
        return None
    number, word = (None, None) if row["deleted_at"] else judged(_parsed(row["value"]))
    if number is None and word is None and not row["deleted_at"]:
        return None
    return _score(row["name"], number, word, row["comment"], trace[1], row["deleted_at"] or row["at"], now)


def decoded(
    frame: "DataFrame",
    versions: Sequence[str] = (),
    naming: Sequence[str] = ENDPOINT_ATTRIBUTES,
    contents: bool = False,
) -> "DataFrame":
    """Rows of such a table -> inbox columns and `scores` (nested), as `span_tables.decoded`; rows without a source carry scores only."""
    from pyspark.sql import functions as f

    have = set(frame.columns)

    def plain(name: str, kind: str = "string") -> Any:
        return (f.col(name) if name in have else f.lit(None)).cast(kind).alias(name)

    schema = f"{telemetry.spark_ddl(telemetry.INBOX)}, scores {NESTED_SCORES}"
    if kind_of(frame.columns) == "annotation_table":
        at = f.coalesce(plain("updated_at", "timestamp"), plain("created_at", "timestamp")).alias("at")
        texts = [plain(name) for name in ("annotation_type", "target_type", "target_id", "name", "comment")]
        rows_ = frame.select(*texts, json_of(frame, "value").alias("value"), at, plain("deleted_at", "timestamp"))
        return rows_.mapInArrow(_annotations, schema)
    flat = frame.select(
        *(plain(name) for name in ("event_name", "trace_id", "span_id", "service_name")),
        *(plain(name, "bigint") for name in ("time_unix_nano", "observed_time_unix_nano")),
        json_of(frame, "attributes").alias("attributes"), json_of(frame, "body").alias("body"),
        json_of(frame, "resource.attributes").alias("resource"),
    )  # fmt: skip
    return flat.mapInArrow(lambda batches: _logs(batches, versions, naming, contents), schema)


def clock(columns: Sequence[str]) -> str:
    """SQL: when each row was written."""
    if kind_of(columns) == "log_table":
        return "timestamp_micros(cast(time_unix_nano / 1000 as bigint))"
    stamps = [name for name in ("deleted_at", "updated_at", "created_at") if name in columns]
    return f"try_cast(coalesce({', '.join(stamps) or 'NULL'}) as timestamp)"
