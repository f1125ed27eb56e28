"""What an endpoint's capture setting lets through of everything beside the bodies' own columns (pure): applied once, before anything is written.

An allow-list of meanings: numbers, truth values, and the attributes that the dialects read as names, codes and counts. What is in no list is
taken for a body: left out, or, with `redacted`, blotted. A dialect that is not known can so lose figures, but tell no text.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lastgood.collectors.otlp import dialects
from lastgood.collectors.otlp.rows import EVALUATION, FIRST_CHUNK
from lastgood.record.redact import Redactor

Rule = Callable[[str | None], Redactor]
_FIELDS = dialects.fields()
BODIES = ("input", "output")
NAMED = ("request_id", "endpoint", "served_entity", "model_version", "requester", "team", "env")
"""Fields that are names: whatever they say, up to a line of it."""
NAMES = frozenset(name for field in NAMED for name, _ in _FIELDS.get(field, ())) | {
    "gen_ai.request.model", "gen_ai.response.model", "gen_ai.system", "gen_ai.provider.name", "llm.model_name", "llm.provider", "llm.system",
    "service.namespace", "service.instance.id", "telemetry.sdk.language", "http.request.method", "http.method",
}  # fmt: skip
CODES = frozenset(name for field in ("error_code", "finish_reason") for name, _ in _FIELDS[field]) | {
    *dialects.MODEL_CALLS, "gen_ai.evaluation.name", "gen_ai.evaluation.score.label", "gen_ai.output.type", "event.name",
}  # fmt: skip
"""Attributes that hold a word of a vocabulary."""
USAGE = frozenset(name for field in ("tokens_in", "tokens_out") for name, _ in _FIELDS[field])
NOTES = frozenset({"body_problem", "refusal", "unlogged", "unreadable"})
"""Attributes that Lastgood itself writes."""
SCORED = ("eval.", "outcome.", "label.")
ERROR_CODES = frozenset(name for name, _ in _FIELDS["error_code"])
_NAME = re.compile(r"[^\r\n]{1,200}")
_CODE = re.compile(r"[\w.:/+\"-]{1,64}")
MARKED = "lastgood.marked"
"""Set where all attributes that told of a model are gone: the span stays a request."""


def attribute(name: str, value: str, rule: Redactor) -> str | None:
    """What is kept of an attribute that is a text; None: it is left out."""
    if dialects.number(value) is not None or value in ("true", "false"):
        return value
    if name in NAMES and _NAME.fullmatch(value):
        return value
    if name in ERROR_CODES:
        return error_code(value, rule)
    if (name in CODES or (name.startswith(SCORED) and not name.endswith(".explanation"))) and _CODE.fullmatch(value):
        return value
    if name in USAGE:
        return _counts(value)
    if name in NOTES:
        return value
    if name == "response_format":
        return value.split(":", 1)[0]
    return rule.text(value)


def error_code(value: str | None, rule: Redactor) -> str | None:
    """An error code: a word, else what the rule keeps of it, and never nothing: the request failed."""
    if not value or _CODE.fullmatch(value):
        return value
    return rule.text(value) or "ERROR"


def _counts(value: str) -> str | None:
    """The numbers of a JSON object."""
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    return orjson.dumps(
        {key: n for key, n in document.items() if isinstance(n, int | float) and _CODE.fullmatch(key)}
    ).decode()


def endpoint_of(attributes: Iterable[Any], resource: Iterable[Any]) -> str | None:
    """The endpoint that the decoders will give the span."""
    texts = {pair.key: pair.value.string_value for pair in (*resource, *attributes) if pair.value.string_value}
    return next((read(texts[name]) for name, read in _FIELDS["endpoint"] if name in texts), None)


def redact(request: Message, rule: Rule) -> None:
    """Takes what is not to be kept out of an export of spans, logs or metrics, in place."""
    if isinstance(request, ExportTraceServiceRequest):
        _spans(request, rule)
    elif isinstance(request, ExportLogsServiceRequest):
        _logs(request, rule)
    elif isinstance(request, ExportMetricsServiceRequest):
        _metrics(request, rule)


def _spans(request: ExportTraceServiceRequest, rule: Rule) -> None:
    for group in request.resource_spans:
        rules = []
        for scope in group.scope_spans:
            for span in scope.spans:
                own = rule(endpoint_of(span.attributes, group.resource.attributes))
                rules.append(own)
                if own.active:
                    _span(span, own)
        active = next((own for own in rules if own.active), None)
        if active:
            _strip(group.resource.attributes, active)
            for scope in group.scope_spans:
                del scope.scope.attributes[:]


def _span(span: Any, rule: Redactor) -> None:
    marked = any(pair.key.startswith(dialects.MARKS) for pair in span.attributes)
    _strip(span.attributes, rule)
    if marked and not any(pair.key.startswith(dialects.MARKS) for pair in span.attributes):
        span.attributes.add(key=MARKED).value.bool_value = True
    span.name = span.trace_state = ""
    span.status.message = error_code(span.status.message, rule) or ""
    del span.links[:]
    kept = [event for event in span.events if event.name in (EVALUATION, FIRST_CHUNK)]
    for event in kept:
        _strip(event.attributes, rule)
    del span.events[:]
    span.events.extend(kept)
    span.DiscardUnknownFields()


def _logs(request: ExportLogsServiceRequest, rule: Rule) -> None:
    for group in request.resource_logs:
        for scope in group.scope_logs:
            for log in scope.log_records:
                own = rule(endpoint_of(log.attributes, group.resource.attributes))
                if own.active:
                    _strip(log.attributes, own)
                    log.ClearField("body")
                    log.event_name = log.event_name if log.event_name == EVALUATION else ""
                    log.severity_text = ""
        if rule(endpoint_of((), group.resource.attributes)).active:
            _strip(group.resource.attributes, rule(None))
            for scope in group.scope_logs:
                del scope.scope.attributes[:]


def _metrics(request: ExportMetricsServiceRequest, rule: Rule) -> None:
    for group in request.resource_metrics:
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                for point in metric.gauge.data_points:
                    own = rule(endpoint_of(point.attributes, group.resource.attributes))
                    if own.active:
                        _strip(point.attributes, own)
                        del point.exemplars[:]
                        metric.description = ""
                if not metric.HasField("gauge") and rule(None).active:
                    metric.Clear()  # only gauges are read
        if rule(endpoint_of((), group.resource.attributes)).active:
            _strip(group.resource.attributes, rule(None))
            for scope in group.scope_metrics:
                del scope.scope.attributes[:]


def _strip(attributes: Any, rule: Redactor) -> None:
    """Leaves in a list of attributes what is kept of it."""
    gone = [i for i, pair in enumerate(attributes) if not _kept(pair, rule)]
    for i in reversed(gone):
        del attributes[i]


def _kept(pair: Any, rule: Redactor) -> bool:
    kind = pair.value.WhichOneof("value")
    if kind in ("int_value", "double_value", "bool_value"):
        return True
    if kind == "array_value" and pair.key in CODES:
        return all(_CODE.fullmatch(item.string_value) for item in pair.value.array_value.values)
    kept = attribute(pair.key, pair.value.string_value, rule) if kind == "string_value" else None
    if kept is None:
        return False
    pair.value.string_value = kept
    return True
