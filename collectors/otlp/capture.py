"""What an endpoint's capture setting lets through of everything beside the bodies' own columns (pure): applied once, before anything is written.

An allow-list of meanings: numbers, truth values, and the attributes that the dialects read as names, codes and counts. What is in no list is
taken for a body: left out, or, with `redacted`, blotted. A dialect that is not known can so lose figures, but tell no text.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lastgood.collectors.otlp import dialects
from lastgood.collectors.otlp.rows import DETAILS, EVALUATION, MESSAGES, attributes_of
from lastgood.record import contents
from lastgood.record.redact import Redactor
from lastgood.record.vocabulary import ENDPOINT_ATTRIBUTES, code_in, stated_code

Rule = Callable[[str | None], Redactor]
_FIELDS = dialects.fields()
BODIES = ("input", "output")
NAMED = (
    "client_id",
    "provider_id",
    "endpoint",
    "served_entity",
    "version",
    "release",
    "requester",
    "team",
    "env",
    "model",
    "step_name",
)
"""Fields that are names: whatever they say, up to a line of it."""
NAMES = frozenset(name for field in NAMED for name, _ in _FIELDS.get(field, ())) | {
    "gen_ai.request.model", "gen_ai.response.model", "gen_ai.system", "gen_ai.provider.name", "llm.model_name", "llm.provider", "llm.system",
    contents.WHO,
    "service.namespace", "service.instance.id", "telemetry.sdk.language", "http.request.method", "http.method", "rpc.system", "rpc.system.name", "rpc.service",
}  # fmt: skip
IDS = frozenset(name for name, _ in _FIELDS["conversation_id"])
"""Attributes that hold an id: a word, whatever it says. What has blanks in it is a client's text."""
CODES = frozenset(name for field in ("error_code", "finish_reason") for name, _ in _FIELDS[field]) | {
    *(name for name, _ in _FIELDS["step"]), *dialects.LEAVES, "exception.type",
    "gen_ai.evaluation.name", "gen_ai.evaluation.score.label", "gen_ai.output.type", "event.name",
}  # fmt: skip
"""Attributes that hold a word of a vocabulary."""
USAGE = frozenset(
    name for field in ("tokens_in", "tokens_out", "tokens_cached", "tokens_cache_write") for name, _ in _FIELDS[field]
)
PATHS = frozenset(name for name, read in _FIELDS["probe"] if read is dialects.probe)
"""Paths and URLs: only whether they are a probe's is kept."""
AGENTS = frozenset(name for name, read in _FIELDS["probe"] if read is dialects.prober)
NOTES = frozenset({"body_problem", "refusal", "unlogged", "unreadable"})
"""Attributes that Lastgood itself writes."""
SCORED = ("eval.", "outcome.", "label.")
ERROR_CODES = frozenset(name for name, _ in _FIELDS["error_code"])
_NAME = re.compile(r"[^\r\n]{1,200}")
_ID = re.compile(r"\S{1,128}")
_CODE = re.compile(r"[\w.:/+\"-]{1,64}")
EXCEPTION = "exception"
MARKED = "lastgood.marked"
"""Set where all attributes that told of a model are gone: the span stays a request."""


def attribute(name: str, value: str, rule: Redactor) -> str | None:
    """What is kept of an attribute that is a text; None: it is left out. A name is a word: what is none may be a client's text."""
    if not _CODE.fullmatch(name):
        return None
    if dialects.number(value) is not None or value in ("true", "false"):
        return value
    if name in NAMES and _NAME.fullmatch(value):
        return value
    if name in contents.DIGESTS and contents.is_digest(value):
        return value
    if name in IDS and _ID.fullmatch(value):
        return value
    if name in ERROR_CODES:
        return error_code(value)
    if (name in CODES or (name.startswith(SCORED) and not name.endswith(".explanation"))) and _CODE.fullmatch(value):
        return value
    if name in AGENTS:
        return "kube-probe" if dialects.prober(value) else None
    if name in PATHS:
        return "/health" if dialects.probe(value) else None
    if name in USAGE:
        return _counts(value)
    if name == "unlogged":
        return ",".join(code for word in value.split(",") if (code := stated_code(word)))
    if name in NOTES:
        return value
    if name == "response_format":
        return value.split(":", 1)[0]
    return rule.text(value)


def error_code(value: str | None) -> str | None:
    """An error code: a word, and never nothing: the request failed."""
    return stated_code(value)


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


def unnamed(rule: Rule) -> Rule:
    """The rule for what does not name its endpoint itself."""
    return getattr(rule, "unnamed", rule)


def _read(texts: Mapping[str, str], readers: Sequence[tuple[str, dialects.Reader]]) -> str | None:
    values = (read(texts[name]) for name, read in readers if name in texts)
    return next((value for value in values if value is not None), None)


@dataclass(frozen=True)
class Rules:
    """Whose rule is asked for: that of the endpoint which the decoders will give a span, by the same order of attributes."""

    rule: Rule
    order: Sequence[str] = ENDPOINT_ATTRIBUTES
    contents: bool = False

    @cached_property
    def _readers(self) -> dict[str, list[tuple[str, dialects.Reader]]]:
        return dialects.fields((), self.order)

    def of(self, attributes: Iterable[Any], resource: Iterable[Any]) -> Redactor:
        texts = {pair.key: pair.value.string_value for pair in (*resource, *attributes) if pair.value.string_value}
        named = _read(texts, self._readers["named"])
        if named is not None:
            return self.rule(named)
        return unnamed(self.rule)(_read(texts, self._readers["endpoint"]))


def redact(request: Message, rules: Rules) -> None:
    """Takes what is not to be kept out of an export of spans, logs or metrics, in place."""
    if isinstance(request, ExportTraceServiceRequest):
        _spans(request, rules)
    elif isinstance(request, ExportLogsServiceRequest):
        _logs(request, rules)
    elif isinstance(request, ExportMetricsServiceRequest):
        _metrics(request, rules)


def _spans(request: ExportTraceServiceRequest, rules: Rules) -> None:
    for group in request.resource_spans:
        each = []
        for scope in group.scope_spans:
            for span in scope.spans:
                own = rules.of(span.attributes, group.resource.attributes)
                each.append(own)
                if own.active:
                    told = _contents(span, group.resource, own) if rules.contents else []
                    _span(span, own)
                    kept = list(span.attributes)
                    del span.attributes[:]
                    for name, value in told:
                        span.attributes.add(key=name).value.string_value = value
                    span.attributes.extend(kept)
        active = next((own for own in each if own.active), None)
        if active:
            _strip(group.resource.attributes, active)
            for scope in group.scope_spans:
                del scope.scope.attributes[:]


def _contents(span: Any, resource: Any, rule: Redactor) -> list[tuple[str, str]]:
    """What else makes a version (see record.contents), told before the texts are gone; texts themselves only as the rule has them."""
    own = attributes_of(span.attributes)
    if contents.told(own) or not any(map(contents.tells, own)):
        return []
    told = contents.attributes(contents.of_span({**attributes_of(resource.attributes), **own}), set())
    return [(name, kept) for name, value in told if (kept := attribute(name, value, rule)) is not None]


def _span(span: Any, rule: Redactor) -> None:
    marked = any(pair.key.startswith(dialects.MARKS) for pair in span.attributes)
    _strip(span.attributes, rule)
    if marked and not any(pair.key.startswith(dialects.MARKS) for pair in span.attributes):
        span.attributes.add(key=MARKED).value.bool_value = True
    span.name = span.trace_state = ""
    if span.status.message:
        span.status.message = rule.text(span.status.message) or code_in(span.status.message)
    del span.links[:]
    kept = [
        event for event in span.events if event.name in (EVALUATION, EXCEPTION) or event.name in dialects.FIRST_TOKENS
    ]
    for event in kept:
        if event.name == EXCEPTION:
            _only_its_class(event.attributes)
        else:
            _strip(event.attributes, rule)
    del span.events[:]
    span.events.extend(kept)
    span.DiscardUnknownFields()


def _only_its_class(attributes: Any) -> None:
    """Leaves of an exception the code that its class is."""
    thrown = next((pair.value.string_value for pair in attributes if pair.key == "exception.type"), "")
    del attributes[:]
    if code := stated_code(thrown):
        attributes.add(key="exception.type").value.string_value = code


def _logs(request: ExportLogsServiceRequest, rules: Rules) -> None:
    for group in request.resource_logs:
        for scope in group.scope_logs:
            for log in scope.log_records:
                own = rules.of(log.attributes, group.resource.attributes)
                if own.active:
                    _strip(log.attributes, own)
                    log.ClearField("body")
                    log.event_name = (
                        log.event_name if log.event_name in (EVALUATION, DETAILS) or log.event_name in MESSAGES else ""
                    )
                    log.severity_text = ""
        if rules.of((), group.resource.attributes).active:
            _strip(group.resource.attributes, rules.rule(None))
            for scope in group.scope_logs:
                del scope.scope.attributes[:]


def _metrics(request: ExportMetricsServiceRequest, rules: Rules) -> None:
    for group in request.resource_metrics:
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                for point in metric.gauge.data_points:
                    own = rules.of(point.attributes, group.resource.attributes)
                    if own.active:
                        _strip(point.attributes, own)
                        del point.exemplars[:]
                        metric.description = ""
                if not metric.HasField("gauge") and rules.rule(None).active:
                    metric.Clear()  # only gauges are read
        if rules.of((), group.resource.attributes).active:
            _strip(group.resource.attributes, rules.rule(None))
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
