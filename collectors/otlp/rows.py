"""OTLP export requests -> inbox rows and scores, span by span (pure). Every shape is understood; `columns` is the fast way.

Every span that may be part of a request is a row: which of them are requests is decided over the whole trace, see `record.trees`. A span that
cannot be a record keeps its bytes (`reject_reason`, `raw`); spans that are not requests themselves are counted as others.
"""

import re
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
from lastgood.collectors.otlp.dialects import FIRST_TOKENS, number, text
from lastgood.record import agents, contents, telemetry
from lastgood.record.trees import CALL, ENTRY, EVENT, LINK, NAMED, STEP
from lastgood.record.vocabulary import ENDPOINT_ATTRIBUTES, ERROR_TEXT, MAX_TEXT, failure_code

Row = dict[str, Any]
MAX_ATTRIBUTES, MAX_VALUE, MAX_NAME = 64, 1024, 128
COLUMNS = frozenset(field.name for field in telemetry.INBOX)
DETAILS = "gen_ai.client.inference.operation.details"
"""Log record that says what the span of a call leaves out: messages, tokens."""
EVALUATION = "gen_ai.evaluation.result"
TELLING = (CALL, ENTRY, NAMED)
"""Parts that may tell what else makes a version: an agent's own messages hold no system prompt."""


@dataclass
class Decoded:
    """Of one export request: inbox rows, rows of the `scores` table, how many items were neither, and of which parts' digests the texts are there."""

    rows: list[Row] = field(default_factory=list)
    scores: list[Row] = field(default_factory=list)
    others: int = 0
    texts: set[str] = field(default_factory=set)


def plain(value: Any) -> Any:
    """An attribute value as Python has it; bytes as hex. What is no protobuf message is left as it is."""
    if not isinstance(value, AnyValue):
        return value
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

    name: str
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

    def __init__(
        self,
        version_attributes: Sequence[str] = (),
        source: str = "otlp",
        endpoint_attributes: Sequence[str] = ENDPOINT_ATTRIBUTES,
        contents: bool = False,
    ) -> None:
        """contents: whether spans are asked for what else makes a version (see record.contents)."""
        self.fields, self.source = dialects.fields(version_attributes, endpoint_attributes), source
        self.known = frozenset(name for sources in self.fields.values() for name, _ in sources)
        self.known |= agents.FIGURES | {ERROR_TEXT}
        self.contents = contents

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
        out = Decoded()
        for span, resource in zip(spans, resources, strict=True):
            try:
                own = attributes_of(span.attributes)
                row = self._row(span, own, resource, received_at)
                if self.contents and row["part"] in TELLING and not contents.told(own):
                    row["attributes"] += contents.attributes(contents.of_span({**resource, **own}), out.texts)
                out.others += row["part"] == LINK or (row["part"] == STEP and bool(span.parent_span_id))
                if row["part"] == LINK and (not span.parent_span_id or any(name in own for name in dialects.LEAVES)):
                    continue
                if span.end_time_unix_nano < span.start_time_unix_nano:
                    row |= {"reject_reason": "span ends before it starts", "raw": span.SerializeToString()}
                out.rows.append(row)
                if row["part"] != LINK:
                    out.scores += self._scores(span, own, row, received_at)
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                reason = f"span could not be read: {error}"[:200]
                out.rows.append(self._stamp(received_at) | {"reject_reason": reason, "raw": span.SerializeToString()})
        return out

    def _stamp(self, received_at: datetime) -> Row:
        return {"source": self.source, "received_at": received_at}

    def read(self, attributes: Mapping[str, Any]) -> Row:
        """Every field's value from the first attribute that reads as one."""
        row: Row = {}
        for name, sources in self.fields.items():
            values = (read(attributes[key]) for key, read in sources if key in attributes)
            row[name] = next((value for value in values if value is not None), None)
        return row

    def _row(self, span: SpanLike, own: Mapping[str, Any], resource: Mapping[str, Any], received_at: datetime) -> Row:
        """One inbox row."""
        given = self.read({**resource, **own})
        row = self._stamp(received_at) | {name: value for name, value in given.items() if name in COLUMNS}
        row |= _names(given, span.trace_id, span.span_id)
        row["part"] = dialects.part_of(
            span.kind,
            row["step"],
            named=any(name in own for name in dialects.OWN_NAMES),
            marked=any(name.startswith(dialects.MARKS) for name in own),
            http=any(name in own for name in dialects.HTTP_MARKS),
            probe=bool(given["probe"]),
            model=any(name in own for name in dialects.MODEL_MARKS)
            and not any(name in own for name in dialects.AGENT_MARKS),
        )
        if row["part"] == STEP:
            row["step_name"] = row["step_name"] or re.sub(agents.NAME_PREFIX, "", span.name) or None
        row["step_name"] = row["step_name"] and re.sub(agents.SERIAL, "*", row["step_name"])[:MAX_NAME]
        row["parent_id"] = span.parent_span_id.hex() or None
        row["requested_at"] = when(span.start_time_unix_nano)
        row["latency_ms"] = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        row["latency_scope"] = "client" if span.kind == dialects.CLIENT else "model"
        most = {contents.TEXTS: contents.MAX_TEXTS} if self.contents else {}
        rest = [
            (key, (text(value) or "")[: most.get(key, MAX_VALUE)])
            for key, value in own.items()
            if key not in self.known
        ]
        row["attributes"] = _failure(span, row) + rest[:MAX_ATTRIBUTES]
        tokens = [event.time_unix_nano for event in span.events if event.name in FIRST_TOKENS]
        if tokens:
            first = (min(tokens) - span.start_time_unix_nano) / 1e6
            row["ttft_ms"] = first if row["ttft_ms"] is None else row["ttft_ms"]
            if row["latency_ms"] is not None and 0 <= row["latency_ms"] < first:
                row["latency_ms"] = None  # it ended before its first token: when the stream ended is not known
        row["weight"] = 1.0
        return row

    @staticmethod
    def _scores(span: SpanLike, own: Mapping[str, Any], row: Row, received_at: datetime) -> list[Row]:
        """Evaluation events of a request's span, and OpenInference's `eval.NAME.score|label|explanation`."""
        marks = row["marks"] or ""
        about = {
            "request_id": row["request_id"] if set(marks) & {"i", "r"} else None,
            "endpoint": row["endpoint"] if "e" in marks else None,
        }
        scores = [
            score(attributes_of(event.attributes), event.time_unix_nano, span.trace_id, received_at, **about)
            for event in span.events
            if event.name == EVALUATION
        ]
        for key in own:
            if key.startswith("eval.") and key.endswith(".score"):
                name = key[len("eval.") : -len(".score")]
                result = {
                    "gen_ai.evaluation.name": name,
                    "gen_ai.evaluation.score.value": own[key],
                    "gen_ai.evaluation.score.label": own.get(f"eval.{name}.label"),
                    "gen_ai.evaluation.explanation": own.get(f"eval.{name}.explanation"),
                }
                scores.append(score(result, span.end_time_unix_nano, span.trace_id, received_at, **about))
        return scores


def _names(given: Row, trace_id: bytes, span_id: bytes) -> Row:
    """What a span or a log record is known by: ids, endpoint, version, and which of them it says itself."""
    stated, provider = given["client_id"], given["provider_id"]
    own = f"{trace_id.hex()}/{span_id.hex()}" if span_id else None
    marks = {"e": given["named"], "v": given["version"], "i": stated, "r": provider if stated is None else None}
    return {
        "trace_id": trace_id.hex() or None, "span_id": span_id.hex() or None,
        "request_id": next((value for value in (stated, provider, own) if value is not None), None),
        "model_version": given["version"] if given["version"] is not None else given["release"],
        "marks": "".join(mark for mark, value in marks.items() if value is not None) or None,
        "endpoint": given["endpoint"],
    }  # fmt: skip


def _failure(span: SpanLike, row: Row) -> list[tuple[str, str]]:
    """Sets the row's error code from what the span says of its failure; the text of it as an attribute."""
    status = row["status_code"]
    if row["error_code"] is None and status is not None and status >= 400:
        row["error_code"] = f"HTTP_{status}"
    if span.status.code != dialects.ERROR:
        return []
    message = span.status.message
    if row["error_code"] is None:
        exceptions = (attributes_of(event.attributes).get("exception.type") for event in span.events)
        thrown = next((kind for kind in exceptions if kind is not None), None)
        row["error_code"] = failure_code(text(thrown), message)
    return [(ERROR_TEXT, message[:MAX_TEXT])] if message else []


class LogLike(Protocol):
    """What is read of a log record: OTLP's own message, or a row of a table. Times in nanoseconds."""

    event_name: str
    trace_id: bytes
    span_id: bytes
    time_unix_nano: int
    observed_time_unix_nano: int
    attributes: Any
    body: Any


def log(
    record: LogLike, resource: Mapping[str, Any], received_at: datetime, out: Decoded, decoder: SpanDecoder
) -> None:
    """Adds to `out` what one log record says."""
    own = attributes_of(record.attributes)
    name = record.event_name or own.get("event.name")
    at = record.time_unix_nano or record.observed_time_unix_nano
    if name == EVALUATION:
        out.scores.append(score(own, at, record.trace_id, received_at))
    elif record.trace_id and record.span_id and (told := _details(name, own, plain(record.body))):
        given = decoder.read({**resource, **own, **told})
        row = {key: value for key, value in given.items() if key in COLUMNS}
        row |= _names(given, record.trace_id, record.span_id)
        rest = [(key, (text(value) or "")[:MAX_VALUE]) for key, value in own.items() if key not in decoder.known]
        stamp = {"source": decoder.source, "received_at": received_at, "part": EVENT, "requested_at": when(at)}
        parts = (
            contents.attributes(contents.of_span({**own, **told}), out.texts)
            if decoder.contents and not contents.told(own)
            else []
        )
        out.rows.append(row | stamp | {"attributes": rest[:MAX_ATTRIBUTES] + parts, "weight": 1.0})
    else:
        out.others += 1


def logs(request: ExportLogsServiceRequest, received_at: datetime, decoder: SpanDecoder | None = None) -> Decoded:
    """Log records that are evaluation events -> scores; those that hold a call's messages -> parts of its span; others are counted."""
    out, decoder = Decoded(), decoder or SpanDecoder()
    for group in request.resource_logs:
        resource = attributes_of(group.resource.attributes)
        for scope in group.scope_logs:
            for record in scope.log_records:
                log(record, resource, received_at, out, decoder)
    return out


MESSAGES = frozenset(
    {"gen_ai.user.message", "gen_ai.choice", "gen_ai.assistant.message", "gen_ai.system.message", "gen_ai.tool.message"}
)
"""Log records of the former conventions: one for each message of a call."""


def _details(name: Any, own: Mapping[str, Any], body: Any) -> dict[str, Any] | None:
    """What a log record says of a call, as attributes of today's conventions; None for a record of another kind."""
    if name == DETAILS:
        return dict(body) if isinstance(body, dict) else {"lastgood.details": True}
    if name not in MESSAGES:
        return None
    held = body if isinstance(body, dict) else {}
    if name == "gen_ai.choice":
        message = held.get("message") if isinstance(held.get("message"), dict) else held
        return {
            "gen_ai.output.messages": text((message or {}).get("content")),
            "gen_ai.response.finish_reasons": held.get("finish_reason"), "lastgood.details": True,
        }  # fmt: skip
    return {"lastgood.details": True} | (
        {"gen_ai.input.messages": text(held.get("content"))} if name == "gen_ai.user.message" else {}
    )


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
