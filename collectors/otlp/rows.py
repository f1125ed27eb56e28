"""OTLP export requests -> inbox rows and scores, span by span (pure). Every shape is understood; `columns` is the fast way.

A span that cannot be a record keeps its bytes (`reject_reason`, `raw`); spans that are not requests are only counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import orjson
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from lastgood.collectors.otlp import dialects
from lastgood.collectors.otlp.dialects import number, text

Row = dict[str, Any]
MAX_ATTRIBUTES, MAX_VALUE = 64, 1024
FIRST_CHUNK = "mlflow.chunk.item.0"
EVALUATION = "gen_ai.evaluation.result"


@dataclass
class Decoded:
    """Of one export request: inbox rows, rows of the `scores` table, and how many items were neither."""

    rows: list[Row] = field(default_factory=list)
    scores: list[Row] = field(default_factory=list)
    others: int = 0


def plain(value: AnyValue) -> Any:
    """An attribute value as Python has it; bytes as hex."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return getattr(value, kind) if kind else None


def attributes_of(pairs: Any) -> dict[str, Any]:
    """Attributes as a dictionary; one is left as it is."""
    return pairs if isinstance(pairs, dict) else {pair.key: plain(pair.value) for pair in pairs}


def when(nanoseconds: int) -> datetime | None:
    """Nanoseconds since 1970 -> time; None outside the calendar."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None


def score(attributes: Mapping[str, Any], at: int, trace_id: bytes, received_at: datetime, **more: Any) -> Row:
    """One evaluation result as a row of `scores`."""
    return {
        "request_id": text(attributes.get("lastgood.request_id") or attributes.get("gen_ai.response.id")),
        "endpoint": text(attributes.get("lastgood.endpoint")),
        "trace_id": trace_id.hex() or None,
        "name": text(attributes.get("gen_ai.evaluation.name")),
        "value": number(attributes.get("gen_ai.evaluation.score.value")),
        "label": text(attributes.get("gen_ai.evaluation.score.label")),
        "explanation": text(attributes.get("gen_ai.evaluation.explanation")),
        "source": "otlp",
        "at": when(at),
        "received_at": received_at,
    } | {name: value for name, value in more.items() if value is not None}


class SpanLike(Protocol):
    """What is read of a span: OTLP's own message, or a row of a span table. Times in nanoseconds."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    kind: int
    start_time_unix_nano: int
    end_time_unix_nano: int
    attributes: Any
    events: Any
    status: Any

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


class SpanDecoder:
    """Decodes with one order of attributes for the model version (see `dialects.fields`)."""

    def __init__(self, version_attributes: Sequence[str] = (), source: str = "otlp") -> None:
        self.fields, self.source = dialects.fields(version_attributes), source
        self.known = frozenset(name for sources in self.fields.values() for name, _ in sources)

    def traces(self, request: ExportTraceServiceRequest, received_at: datetime) -> Decoded:
        """All spans of an export, in order."""
        spans: list[SpanLike] = []
        resources: list[Mapping[str, Any]] = []
        for group in request.resource_spans:
            resource = attributes_of(group.resource.attributes)
            for scope in group.scope_spans:
                spans += scope.spans
                resources += [resource] * len(scope.spans)
        return self.spans(spans, resources, received_at)

    def spans(
        self, spans: Sequence[SpanLike], resources: Sequence[Mapping[str, Any]], received_at: datetime
    ) -> Decoded:
        """Spans and their resources' attributes -> what they say; one bad span does not cost the others."""
        out, candidates = Decoded(), []
        own: list[dict[str, Any]] = []
        for i, (span, resource) in enumerate(zip(spans, resources, strict=True)):
            attributes: dict[str, Any] = {}
            try:
                attributes = attributes_of(span.attributes)
                if self._is_candidate(span, attributes):
                    candidates.append((i, self._row(span, attributes, resource, received_at)))
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                reason = f"span could not be read: {error}"[:200]
                out.rows.append(self._stamp(received_at) | {"reject_reason": reason, "raw": span.SerializeToString()})
            own.append(attributes)
        place = {(span.trace_id, span.span_id): i for i, span in enumerate(spans) if span.span_id}
        parents = [place.get((s.trace_id, s.parent_span_id), -1) if s.parent_span_id else -1 for s in spans]
        ends: list[str | None] = [None] * len(spans)
        for i, row in candidates:
            ends[i] = row["endpoint"]
        chosen = set(dialects.outermost([i for i, _ in candidates], parents, ends))
        out.rows += [row for i, row in candidates if i in chosen]
        out.others = len(spans) - len(out.rows)
        for i, row in candidates:
            out.scores += self._scores(spans[i], own[i], row, received_at)
        return out

    def _stamp(self, received_at: datetime) -> Row:
        return {"source": self.source, "received_at": received_at}

    @staticmethod
    def _is_candidate(span: SpanLike, own: Mapping[str, Any]) -> bool:
        verdicts = [
            own[name] in values for name, values in dialects.MODEL_CALLS.items() if isinstance(own.get(name), str)
        ]
        return dialects.is_candidate(
            span.kind,
            not span.parent_span_id,
            any(name.startswith(dialects.MARKS) for name in own),
            any(verdicts) if verdicts else None,
            "lastgood.request_id" in own or "lastgood.endpoint" in own,
            "http.response.status_code" in own,
        )

    def _row(self, span: SpanLike, own: Mapping[str, Any], resource: Mapping[str, Any], received_at: datetime) -> Row:
        """One inbox row; `reject_reason` and `raw` are set where the span cannot be a record."""
        attributes, row = {**resource, **own}, self._stamp(received_at)
        for name, sources in self.fields.items():
            values = (read(attributes[key]) for key, read in sources if key in attributes)
            row[name] = next((value for value in values if value is not None), None)
        row["trace_id"] = span.trace_id.hex() or None
        row["request_id"] = row["request_id"] or (
            f"{span.trace_id.hex()}/{span.span_id.hex()}" if span.span_id else None
        )
        row["requested_at"] = when(span.start_time_unix_nano)
        row["latency_ms"] = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        row["latency_scope"] = "client" if span.kind == dialects.CLIENT else "model"
        if row["error_code"] is None and span.status.code == dialects.ERROR:
            row["error_code"] = span.status.message[:200] or "ERROR"
        if row["ttft_ms"] is None:
            chunks = (event.time_unix_nano for event in span.events if event.name == FIRST_CHUNK)
            row["ttft_ms"] = next(((at - span.start_time_unix_nano) / 1e6 for at in chunks), None)
        rest = [(key, (text(value) or "")[:MAX_VALUE]) for key, value in own.items() if key not in self.known]
        row["attributes"] = rest[:MAX_ATTRIBUTES]
        row["weight"] = 1.0
        if span.end_time_unix_nano < span.start_time_unix_nano:
            return row | {"reject_reason": "span ends before it starts", "raw": span.SerializeToString()}
        return row

    @staticmethod
    def _scores(span: SpanLike, own: Mapping[str, Any], row: Row, received_at: datetime) -> list[Row]:
        """Evaluation events of a request's span, and OpenInference's `eval.NAME.score|label|explanation`."""
        about = {"request_id": row["request_id"], "endpoint": row["endpoint"]}
        scores = [
            score(attributes_of(event.attributes), event.time_unix_nano, span.trace_id, received_at, **about)
            for event in span.events
            if event.name == EVALUATION
        ]
        for key in own:
            if key.startswith("eval.") and key.endswith(".score"):
                name = key[len("eval.") : -len(".score")]
                marks = {
                    "gen_ai.evaluation.name": name,
                    "gen_ai.evaluation.score.value": own[key],
                    "gen_ai.evaluation.score.label": own.get(f"eval.{name}.label"),
                    "gen_ai.evaluation.explanation": own.get(f"eval.{name}.explanation"),
                }
                scores.append(score(marks, span.end_time_unix_nano, span.trace_id, received_at, **about))
        return scores


def logs(request: ExportLogsServiceRequest, received_at: datetime) -> Decoded:
    """Log records that are evaluation events -> scores; others are counted."""
    out = Decoded()
    for group in request.resource_logs:
        for scope in group.scope_logs:
            for record in scope.log_records:
                own = attributes_of(record.attributes)
                if EVALUATION in (record.event_name, own.get("event.name")):
                    at = record.time_unix_nano or record.observed_time_unix_nano
                    out.scores.append(score(own, at, record.trace_id, received_at))
                else:
                    out.others += 1
    return out


def metrics(request: ExportMetricsServiceRequest, received_at: datetime) -> Decoded:
    """Gauge points of metrics named `gen_ai.evaluation...` -> scores; others are counted."""
    out = Decoded()
    for group in request.resource_metrics:
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                points = metric.gauge.data_points
                if not metric.name.startswith("gen_ai.evaluation") or not points:
                    out.others += 1
                for point in points if metric.name.startswith("gen_ai.evaluation") else ():
                    own = {"gen_ai.evaluation.name": metric.name, **attributes_of(point.attributes)}
                    own["gen_ai.evaluation.score.value"] = (
                        point.as_double if point.HasField("as_double") else float(point.as_int)
                    )
                    out.scores.append(score(own, point.time_unix_nano, b"", received_at))
    return out


_GROUPS = (("resourceSpans", "scopeSpans", "spans"), ("resourceLogs", "scopeLogs", "logRecords"))
_IDS = ("traceId", "spanId", "parentSpanId")
M = TypeVar("M", bound=Message)


def parse_json(body: bytes, message: M) -> M:
    """OTLP/JSON (hex ids, integers as strings, enum numbers) into `message`. Errors: ValueError."""
    from base64 import b64encode

    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise ValueError(f"expected a JSON object, found {type(document).__name__}")
    try:
        for resources, scopes, items in _GROUPS:
            for group in document.get(resources) or ():
                for scope in group.get(scopes) or ():
                    for item in scope.get(items) or ():
                        for holder in (item, *(item.get("links") or ())):
                            for name in _IDS:
                                if holder.get(name):
                                    holder[name] = b64encode(bytes.fromhex(holder[name])).decode()
        ParseDict(document, message, ignore_unknown_fields=True)
        return message
    except (ParseError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
