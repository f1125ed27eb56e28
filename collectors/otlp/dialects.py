"""Span attributes -> record fields (pure): one table per dialect, and the rule that says which span is the request.

Attribute names: OpenTelemetry GenAI semantic conventions (current and former), MLflow tracing, OpenInference,
OpenLLMetry, HTTP server spans; `feature.age_ms` and `lastgood.*` are Lastgood's own, documented in the README.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from lastgood.record.vocabulary import finish_reason

Reader = Callable[[Any], Any]


def text(value: Any) -> str | None:
    """A string as it is, anything else as JSON; None for nothing."""
    return None if value is None or value == "" else value if isinstance(value, str) else orjson.dumps(value).decode()


def unquoted(value: Any) -> str | None:
    """A text that may stand as JSON (MLflow writes its attributes so): `"chat"` is chat."""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return text(orjson.loads(value))
        except orjson.JSONDecodeError:
            return value
    return text(value)


def number(value: Any) -> float | None:
    """A finite number, also from its text."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def whole(value: Any) -> int | None:
    """A whole number that a double can hold exactly."""
    result = number(value)
    return int(result) if result is not None and abs(result) < 2**53 else None


def seconds(value: Any) -> float | None:
    """Seconds -> milliseconds."""
    result = number(value)
    return None if result is None else number(result * 1000)


def status(value: Any) -> int | None:
    """An HTTP status."""
    result = whole(value)
    return result if result is not None and 100 <= result <= 599 else None


def flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def usage(key: str) -> Reader:
    """A count inside a JSON object."""

    def read(value: Any) -> int | None:
        try:
            document = orjson.loads(value)
        except (orjson.JSONDecodeError, TypeError):
            return None
        return whole(document.get(key)) if isinstance(document, dict) else None

    return read


def message(role: str) -> Reader:
    """The text of the last message of `role` in a GenAI message list (JSON); what is not such a list stays as it is."""

    def read(value: Any) -> str | None:
        try:
            messages = orjson.loads(value) if isinstance(value, str) else value
        except orjson.JSONDecodeError:
            return text(value)
        if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
            return text(value)
        last = ([message for message in messages if message.get("role") == role] or messages)[-1]
        parts = last.get("parts", last.get("content"))
        if isinstance(parts, list):
            held = [part.get("content", part.get("text")) for part in parts if isinstance(part, dict)]
            return "".join(part for part in held if isinstance(part, str)) or text(value)
        return text(parts)

    return read


Table = Mapping[str, Sequence[tuple[str, Reader]]]

LASTGOOD: Table = {
    "request_id": [("lastgood.request_id", text), ("client_request_id", text)],
    "endpoint": [("lastgood.endpoint", text)],
    "model_version": [("model_version", text)],
    "feature_age_ms": [("feature.age_ms", number)],
    "team": [("team", text)],
}
GENAI: Table = {
    "request_id": [("gen_ai.response.id", text)],
    "endpoint": [("server.address", text)],
    "ttft_ms": [("gen_ai.response.time_to_first_chunk", seconds), ("gen_ai.server.time_to_first_token", seconds)],
    "tokens_in": [("gen_ai.usage.input_tokens", whole)],
    "tokens_out": [("gen_ai.usage.output_tokens", whole)],
    "error_code": [("error.type", text)],
    "input": [("gen_ai.input.messages", message("user"))],
    "output": [("gen_ai.output.messages", message("assistant"))],
    "finish_reason": [("gen_ai.response.finish_reasons", finish_reason)],
    "streaming": [("gen_ai.request.stream", flag)],
}
GENAI_FORMER: Table = {
    "tokens_in": [("gen_ai.usage.prompt_tokens", whole)],
    "tokens_out": [("gen_ai.usage.completion_tokens", whole)],
    "input": [("gen_ai.prompt", message("user"))],
    "output": [("gen_ai.completion", message("assistant"))],
}
MLFLOW: Table = {
    "request_id": [("mlflow.traceRequestId", unquoted)],
    "endpoint": [("mlflow.databricks.modelServingEndpointName", unquoted)],
    "model_version": [("mlflow.model_version", unquoted)],
    "tokens_in": [("mlflow.chat.tokenUsage", usage("input_tokens")), ("mlflow.trace.tokenUsage", usage("input_tokens"))],
    "tokens_out": [("mlflow.chat.tokenUsage", usage("output_tokens")), ("mlflow.trace.tokenUsage", usage("output_tokens"))],
    "input": [("mlflow.spanInputs", unquoted)],
    "output": [("mlflow.spanOutputs", unquoted)],
}  # fmt: skip
OPENINFERENCE: Table = {
    "tokens_in": [("llm.token_count.prompt", whole)],
    "tokens_out": [("llm.token_count.completion", whole)],
    "input": [("input.value", text)],
    "output": [("output.value", text)],
    "requester": [("user.id", text)],
}
OPENLLMETRY: Table = {
    "request_id": [("traceloop.correlation.id", text)],
    "endpoint": [("traceloop.workflow.name", text)],
    "input": [("traceloop.entity.input", text), ("gen_ai.prompt.0.content", text)],
    "output": [("traceloop.entity.output", text), ("gen_ai.completion.0.content", text)],
    "finish_reason": [("gen_ai.completion.0.finish_reason", finish_reason)],
}
HTTP: Table = {
    "endpoint": [("service.name", text)],
    "served_entity": [("databricks.served_entity.name", text)],
    "model_version": [("databricks.served_entity.version", text), ("service.version", text)],
    "status_code": [("http.response.status_code", status), ("http.status_code", status)],
    "requester": [("enduser.id", text)],
    "env": [("deployment.environment.name", text), ("deployment.environment", text)],
}
DIALECTS = (LASTGOOD, GENAI, GENAI_FORMER, MLFLOW, OPENINFERENCE, OPENLLMETRY, HTTP)
"""In the order of belief: a field comes from the first attribute, in this order, that reads as a value."""


def fields(version_attributes: Sequence[str] = ()) -> dict[str, list[tuple[str, Reader]]]:
    """Record field -> attributes that may hold it, in order. `version_attributes` are asked first for model_version."""
    readers: dict[str, list[tuple[str, Reader]]] = {"model_version": [(name, text) for name in version_attributes]}
    for dialect in DIALECTS:
        for name, sources in dialect.items():
            readers.setdefault(name, []).extend(sources)
    return readers


MARKS = ("gen_ai.", "llm.", "mlflow.", "traceloop.", "openinference.", "lastgood.", "feature.")
"""Beginnings of attribute names that say: this span is about a model."""
MODEL_CALLS: dict[str, frozenset[str]] = {
    "gen_ai.operation.name": frozenset(
        {"chat", "text_completion", "generate_content", "embeddings", "completion", "create_message"}
    ),
    "openinference.span.kind": frozenset({"LLM", "EMBEDDING"}),
    "mlflow.spanType": frozenset({"CHAT_MODEL", "LLM", "EMBEDDING", '"CHAT_MODEL"', '"LLM"', '"EMBEDDING"'}),
}
"""Attribute that names what a span does -> the values that are a call of a model; any other value is a step around one."""

CLIENT, SERVER, UNSET, OK, ERROR = 3, 2, 0, 1, 2
"""OTLP's span kinds and status codes."""


def is_candidate(kind: int, root: bool, marked: bool, calls: bool | None, named: bool, http: bool) -> bool:
    """Whether a span may be a request. `calls`: what MODEL_CALLS says (None: nothing); `named`: carries `lastgood.*`.

    Named spans are; model calls are; steps around a call (agents, tools, chains) only at the root of a trace; a span with
    marks that says no more, when it is a client, server or root span; and an HTTP server span with a status. Of candidates
    nested in each other the outermost of an endpoint is the request, see `outermost`.
    """
    if named or calls:
        return True
    if calls is False:
        return root
    if marked:
        return root or kind in (CLIENT, SERVER)
    return kind == SERVER and http


def outermost(candidates: Sequence[int], parents: Sequence[int], endpoints: Sequence[str | None]) -> list[int]:
    """Of candidate spans (indices), those with no candidate of the same endpoint above them.

    `parents`: index of each span's parent, -1 when it is not in the same export. A parent's clone (a cycle) ends the walk.
    """
    chosen = set(candidates)

    def covered(index: int) -> bool:
        seen, at = {index}, parents[index]
        while at >= 0 and at not in seen:
            if at in chosen and endpoints[at] == endpoints[index]:
                return True
            seen.add(at)
            at = parents[at]
        return False

    return [candidate for candidate in candidates if parents[candidate] < 0 or not covered(candidate)]
