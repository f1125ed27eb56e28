"""Spans -> spans without the texts that their endpoint's capture setting hides, before anything is written."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lastgood.collectors.otlp import dialects
from lastgood.collectors.otlp.rows import EVALUATION
from lastgood.record.redact import Redactor

_FIELDS = dialects.fields()
TEXTS = frozenset(name for field in ("input", "output") for name, _ in _FIELDS[field]) | {"tool_calls"}
TEXT_FAMILIES = ("gen_ai.prompt", "gen_ai.completion", "gen_ai.system_instructions", "gen_ai.tool.call", "llm.input_messages",
                 "llm.output_messages", "llm.prompts", "retrieval.documents")  # fmt: skip
"""Attributes that hold bodies: those that the dialects read as input and output, and the families that spell them out."""


def is_text(name: str) -> bool:
    """Whether an attribute of this name holds a prompt or an answer."""
    return name in TEXTS or name.startswith(TEXT_FAMILIES)


def endpoint_of(attributes: Iterable[Any], resource: Iterable[Any]) -> str | None:
    """The endpoint that the decoders will give the span."""
    texts = {pair.key: pair.value.string_value for pair in (*resource, *attributes) if pair.value.string_value}
    return next((texts[name] for name, _ in _FIELDS["endpoint"] if name in texts), None)


def redact(request: ExportTraceServiceRequest, rule: Callable[[str | None], Redactor]) -> None:
    """Takes the texts out of `request`, in place. Texts of other than string type are taken out whole."""
    for group in request.resource_spans:
        for scope in group.scope_spans:
            for span in scope.spans:
                redactor = rule(endpoint_of(span.attributes, group.resource.attributes))
                if redactor.active:
                    _strip(span.attributes, redactor)
                    for event in span.events:
                        if event.name != EVALUATION:
                            _strip(event.attributes, redactor)


def _strip(attributes: Any, rule: Redactor) -> None:
    gone: Sequence[int] = []
    for i, pair in enumerate(attributes):
        if not is_text(pair.key):
            continue
        kept = rule.text(pair.value.string_value) if pair.value.HasField("string_value") else None
        if kept is None:
            gone = [*gone, i]
        else:
            pair.value.string_value = kept
    for i in reversed(gone):
        del attributes[i]
