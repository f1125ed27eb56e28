"""OTLP spans -> inbox rows (pure): one readable table per dialect, units normalised.

Which span is *the* request: a GenAI client span, or a server span that carries request attributes. Other spans of
the same trace are left alone: they are not requests. Attribute names: OpenTelemetry GenAI semantic conventions
(current and former), MLflow tracing, OpenInference, OpenLLMetry; `feature.age_ms` and `lastgood.*` are Lastgood's own.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

Row = dict[str, Any]


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else value if isinstance(value, str) else orjson.dumps(value).decode()


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and abs(number) < 2**53 else None


def _seconds(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else _number(number * 1000)


def _usage(key: str) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        try:
            found = orjson.loads(value)
        except (orjson.JSONDecodeError, TypeError):
            return None
        return _whole(found.get(key)) if isinstance(found, dict) else None

    return read


def _status(value: Any) -> int | None:
    number = _whole(value)
    return number if number is not None and 100 <= number <= 599 else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


DIALECT: dict[str, tuple[tuple[str, Callable[[Any], Any]], ...]] = {
    "request_id": (
        ("lastgood.request_id", _text),
        ("client_request_id", _text),
        ("gen_ai.response.id", _text),
        ("mlflow.traceRequestId", _text),
        ("traceloop.correlation.id", _text),
    ),
    "endpoint": (
        ("lastgood.endpoint", _text),
        ("mlflow.databricks.modelServingEndpointName", _text),
        ("server.address", _text),
        ("traceloop.workflow.name", _text),
        ("service.name", _text),
    ),
    "model_version": (
        ("model_version", _text),
        ("mlflow.model_version", _text),
        ("databricks.served_entity.version", _text),
    ),
    "served_entity": (("databricks.served_entity.name", _text),),
    "ttft_ms": (
        ("gen_ai.response.time_to_first_chunk", _seconds),
        ("gen_ai.server.time_to_first_token", _seconds),
    ),
    "tokens_in": (
        ("gen_ai.usage.input_tokens", _whole),
        ("gen_ai.usage.prompt_tokens", _whole),
        ("llm.token_count.prompt", _whole),
        ("mlflow.chat.tokenUsage", _usage("input_tokens")),
        ("mlflow.trace.tokenUsage", _usage("input_tokens")),
    ),
    "tokens_out": (
        ("gen_ai.usage.output_tokens", _whole),
        ("gen_ai.usage.completion_tokens", _whole),
        ("llm.token_count.completion", _whole),
        ("mlflow.chat.tokenUsage", _usage("output_tokens")),
        ("mlflow.trace.tokenUsage", _usage("output_tokens")),
    ),
    "status_code": (
        ("http.response.status_code", _status),
        ("http.status_code", _status),
    ),
    "error_code": (("error.type", _text),),
    "feature_age_ms": (("feature.age_ms", _number),),
    "input": (
        ("gen_ai.input.messages", _text),
        ("gen_ai.prompt", _text),
        ("mlflow.spanInputs", _text),
        ("input.value", _text),
        ("traceloop.entity.input", _text),
    ),
    "output": (
        ("gen_ai.output.messages", _text),
        ("gen_ai.completion", _text),
        ("mlflow.spanOutputs", _text),
        ("output.value", _text),
        ("traceloop.entity.output", _text),
    ),
    "finish_reason": (
        (
            "gen_ai.response.finish_reasons",
            lambda v: _text(v[0]) if isinstance(v, list) and v else _text(v),
        ),
    ),
    "streaming": (("gen_ai.request.stream", _flag),),
    "requester": (("enduser.id", _text), ("user.id", _text)),
    "team": (("team", _text),),
    "env": (("deployment.environment.name", _text), ("deployment.environment", _text)),
}
"""Record field -> attributes that may hold it, the first that reads as a value wins."""

_KNOWN = frozenset(name for sources in DIALECT.values() for name, _ in sources)
_MARKS = ("gen_ai.", "llm.", "mlflow.", "traceloop.", "lastgood.", "feature.")
MAX_ATTRIBUTES, MAX_VALUE = 64, 1024


def _value(any_value: AnyValue) -> Any:
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in any_value.array_value.values]
    if kind == "kvlist_value":
        return {one.key: _value(one.value) for one in any_value.kvlist_value.values}
    if kind == "bytes_value":
        return any_value.bytes_value.hex()
    return getattr(any_value, kind) if kind else None


def _time(nanoseconds: int) -> datetime | None:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None


def is_request(span: Span, attributes: Mapping[str, Any]) -> bool:
    """Whether this span is a request: a GenAI / served-model call, or an HTTP server span; not what happens inside one."""
    if any(name.startswith(_MARKS) for name in attributes):
        return span.kind in (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER) or not span.parent_span_id
    return span.kind == Span.SPAN_KIND_SERVER and "http.response.status_code" in attributes


def decode_span(span: Span, resource: Mapping[str, Any], received_at: datetime) -> Row:
    """One inbox row; `reject_reason` and `raw` are set where the span cannot be a record."""
    own = {one.key: _value(one.value) for one in span.attributes}
    row: Row = {"source": "otlp", "received_at": received_at}
    if not is_request(span, own):
        return row | {
            "reject_reason": "span is not a request",
            "raw": span.SerializeToString(),
        }
    attributes = {**resource, **own}
    for name, sources in DIALECT.items():
        row[name] = next(
            (v for key, read in sources if key in attributes and (v := read(attributes[key])) is not None),
            None,
        )
    row["trace_id"] = span.trace_id.hex() or None
    row["request_id"] = row["request_id"] or (f"{span.trace_id.hex()}/{span.span_id.hex()}" if span.span_id else None)
    row["requested_at"] = _time(span.start_time_unix_nano)
    row["latency_ms"] = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    row["latency_scope"] = "client" if span.kind == Span.SPAN_KIND_CLIENT else "model"
    if row["error_code"] is None and span.status.code == Status.STATUS_CODE_ERROR:
        row["error_code"] = span.status.message[:200] or "ERROR"
    rest = [(key, str(_text(value) or "")[:MAX_VALUE]) for key, value in own.items() if key not in _KNOWN]
    row["attributes"] = rest[:MAX_ATTRIBUTES]
    row["weight"] = 1.0
    if span.end_time_unix_nano < span.start_time_unix_nano:
        return row | {
            "reject_reason": "span ends before it starts",
            "raw": span.SerializeToString(),
        }
    return row


def decode(groups: list[ResourceSpans], received_at: datetime) -> Iterator[Row]:
    """Inbox rows of all spans of an export request, in order; one bad span does not cost the others."""
    for group in groups:
        resource = {one.key: _value(one.value) for one in group.resource.attributes}
        for scope in group.scope_spans:
            for span in scope.spans:
                try:
                    yield decode_span(span, resource, received_at)
                except (ValueError, TypeError, OverflowError, RecursionError) as error:
                    reason = f"span could not be read: {error}"[:200]
                    yield {
                        "source": "otlp",
                        "received_at": received_at,
                        "reject_reason": reason,
                        "raw": span.SerializeToString(),
                    }


def parse_json(body: bytes) -> ExportTraceServiceRequest:
    """OTLP/JSON (hex ids, integers as strings, enum numbers) -> the protobuf message. Errors: ValueError."""
    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise ValueError(f"expected a JSON object, found {type(document).__name__}")
    from base64 import b64encode

    from google.protobuf.json_format import ParseDict, ParseError

    try:
        for group in document.get("resourceSpans") or ():
            for scope in group.get("scopeSpans") or ():
                for span in scope.get("spans") or ():
                    for holder in (span, *(span.get("links") or ())):
                        for name in ("traceId", "spanId", "parentSpanId"):
                            if holder.get(name):
                                holder[name] = b64encode(bytes.fromhex(holder[name])).decode()
        message: ExportTraceServiceRequest = ParseDict(
            document, ExportTraceServiceRequest(), ignore_unknown_fields=True
        )
        return message
    except (ParseError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
