"""OpenTelemetry span tables of Unity Catalog -> inbox candidates, by the receiver's own rules. Spark only.

Schemas: Databricks' `<prefix>_otel_spans` (attributes as MAP), its second version and the AI Gateway's unified trace table
(attributes as VARIANT). What a column is, is looked at when the table is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from lastgood import tables
from lastgood.collectors.otlp.rows import EVALUATION, Decoded, SpanDecoder
from lastgood.record import telemetry
from lastgood.record.vocabulary import ENDPOINT_ATTRIBUTES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MARKS = ("trace_id", "span_id", "start_time_unix_nano", "attributes")
KINDS = {"SPAN_KIND_INTERNAL": 1, "SPAN_KIND_SERVER": 2, "SPAN_KIND_CLIENT": 3, "SPAN_KIND_PRODUCER": 4, "SPAN_KIND_CONSUMER": 5}  # fmt: skip
CODES = {"STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}
_SCORES = telemetry.arrow_schema(tables.SCORES.fields)
SCHEMA = pa.schema([*telemetry.arrow_schema(telemetry.INBOX), pa.field("scores", pa.list_(pa.struct(list(_SCORES))))])
NESTED_SCORES = f"array<struct<{telemetry.spark_ddl(tables.SCORES.fields).replace('` ', '`:')}>>"
"""Spark's type of the column `scores`."""


def _object(text: str | None) -> dict[str, Any]:
    try:
        document = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def attributes(text: str | None) -> dict[str, Any]:
    """A JSON object of attributes; values that are themselves JSON texts (a MAP can hold nothing else) are read as JSON."""
    pairs = _object(text)
    for name, value in pairs.items():
        if isinstance(value, str) and (value[:1] in ('"', "[") or value in ("true", "false")):
            try:
                pairs[name] = orjson.loads(value)
            except orjson.JSONDecodeError:
                continue
    return pairs


@dataclass
class Span:
    """A row as the span decoder reads spans."""

    name: str
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    kind: int
    start_time_unix_nano: int
    end_time_unix_nano: int
    attributes: dict[str, Any]
    events: Sequence[Any]
    status: Any
    row: Mapping[str, Any] = field(repr=False)

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        return orjson.dumps(self.row, default=str)


def resource_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The resource's attributes; the table's own service_name where they name none."""
    named = {"service.name": row["service_name"]} if row["service_name"] else {}
    return named | attributes(row["resource"])


def id_bytes(hexadecimal: str | None) -> bytes:
    try:
        return bytes.fromhex(hexadecimal or "")
    except ValueError:
        return (hexadecimal or "").encode()


def span(row: Mapping[str, Any]) -> Span:
    """A table row (see `_flat`) as a span."""
    events = [
        SimpleNamespace(
            name=event.get("name"),
            time_unix_nano=int(event.get("time_unix_nano") or 0),
            attributes=attributes(event["attributes"])
            if isinstance(event.get("attributes"), str)
            else event.get("attributes") or {},
        )
        for event in orjson.loads(row["events"] or b"[]")
    ]
    status = SimpleNamespace(code=CODES.get(row["code"] or "", 0), message=row["message"] or "")
    return Span(
        row["name"] or "", id_bytes(row["trace_id"]), id_bytes(row["span_id"]), id_bytes(row["parent_span_id"]), KINDS.get(row["kind"] or "", 0),
        row["start_time_unix_nano"] or 0, row["end_time_unix_nano"] or 0, attributes(row["attributes"]), events, status, row,
    )  # fmt: skip


def _decode(
    batches: Iterator[pa.RecordBatch], versions: Sequence[str], naming: Sequence[str], contents: bool = False
) -> Iterator[pa.RecordBatch]:
    """Rows sorted by trace -> parts of requests, each span once."""
    decoder, now = SpanDecoder(versions, "span_table", naming, contents), datetime.now(UTC)
    held: list[dict[str, Any]] = []
    for batch in batches:
        rows = held + batch.to_pylist()
        last = rows[-1]["trace_id"] if rows else None
        held = [row for row in rows if row["trace_id"] == last]
        yield from _candidates(decoder, rows[: len(rows) - len(held)], now)
    yield from _candidates(decoder, held, now)


def _candidates(decoder: SpanDecoder, rows: list[dict[str, Any]], now: datetime) -> Iterator[pa.RecordBatch]:
    unique = {(row["trace_id"], row["span_id"]): row for row in rows}.values()
    decoded: Decoded = decoder.spans([span(row) for row in unique], [resource_of(row) for row in unique], now)
    for i, row in enumerate(decoded.rows):
        row["scores"] = [] if i else decoded.scores
    yield from pa.Table.from_pylist(decoded.rows, SCHEMA).to_batches()


def json_of(frame: "DataFrame", column: str) -> Any:
    """The column as JSON text, whatever it is."""
    from pyspark.sql import functions as f

    if column.split(".", maxsplit=1)[0] not in frame.columns:
        return f.lit(None).cast("string")
    kind = frame.select(column).dtypes[0][1]
    return f.col(column) if kind == "string" else f.to_json(column)


def _flat(frame: "DataFrame") -> "DataFrame":
    from pyspark.sql import functions as f

    have = set(frame.columns)

    def plain(name: str, kind: str = "string") -> Any:
        return (f.col(name) if name.split(".", maxsplit=1)[0] in have else f.lit(None)).cast(kind)

    return frame.select(
        plain("name").alias("name"),
        plain("trace_id").alias("trace_id"),
        plain("span_id").alias("span_id"),
        plain("parent_span_id").alias("parent_span_id"),
        plain("kind").alias("kind"),
        plain("start_time_unix_nano", "bigint").alias("start_time_unix_nano"),
        plain("end_time_unix_nano", "bigint").alias("end_time_unix_nano"),
        json_of(frame, "attributes").alias("attributes"),
        json_of(frame, "events").alias("events"),
        plain("status.code").alias("code"),
        plain("status.message").alias("message"),
        json_of(frame, "resource.attributes").alias("resource"),
        plain("service_name").alias("service_name"),
    )


def decoded(
    frame: "DataFrame",
    versions: Sequence[str] = (),
    naming: Sequence[str] = ENDPOINT_ATTRIBUTES,
    contents: bool = False,
) -> "DataFrame":
    """Spans -> inbox columns and `scores` (rows of that table, nested)."""
    together = _flat(frame).repartition("trace_id").sortWithinPartitions("trace_id", "span_id")
    schema = f"{telemetry.spark_ddl(telemetry.INBOX)}, scores {NESTED_SCORES}"
    return together.mapInArrow(lambda batches: _decode(batches, versions, naming, contents), schema)


def has_scores(frame: "DataFrame") -> bool:
    """Whether any span carries an evaluation."""
    from pyspark.sql import functions as f

    scored = _flat(frame).where(f.col("events").contains(EVALUATION) | f.col("attributes").contains('"eval.'))
    return not scored.limit(1).isEmpty()
