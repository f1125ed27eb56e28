"""Span attributes -> record fields (pure): one table per dialect, and the rule that says what a span is in its trace.

Attribute names: OpenTelemetry GenAI semantic conventions (current and former), MLflow tracing, OpenInference, OpenLLMetry, Vercel's AI SDK,
vLLM, Azure's SDKs, Langfuse, Pydantic AI, HTTP and RPC spans (current and former); `feature.age_ms` and `lastgood.*` are Lastgood's own.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from lastgood.record.trees import CALL, CALLS, ENTRY, LINK, NAMED, STEP
from lastgood.record.vocabulary import ENDPOINT_ATTRIBUTES, finish_reason, stated_code

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


UNKNOWN_IDS = frozenset({"", "-", "null", "none", "nil", "undefined", "nan", "n/a", "<na>"})
"""What languages write, in lower case, where an id is not known."""


def known_id(read: Reader) -> Reader:
    """Ids as `read` reads them. What stands for "unknown" is none: else all who do not know theirs would share one."""

    def id_of(value: Any) -> Any:
        result = read(value)
        return None if isinstance(result, str) and result.strip().lower() in UNKNOWN_IDS else result

    return id_of


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


def count(value: Any) -> int | None:
    """How many. Below 0 (-1 stands for unknown) is no count."""
    result = whole(value)
    return result if result is not None and result >= 0 else None


def seconds(value: Any) -> float | None:
    """Seconds -> milliseconds."""
    result = number(value)
    return None if result is None else number(result * 1000)


def status(value: Any) -> int | None:
    """An HTTP status."""
    result = whole(value)
    return result if result is not None and 100 <= result <= 599 else None


def flag(value: Any) -> bool | None:
    """A truth value, also from its text."""
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None


def usage(key: str) -> Reader:
    """A count inside a JSON object."""

    def read(value: Any) -> int | None:
        try:
            document = orjson.loads(value)
        except (orjson.JSONDecodeError, TypeError):
            return None
        return count(document.get(key)) if isinstance(document, dict) else None

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


def milliseconds(value: Any) -> float | None:
    """Milliseconds as they are; below 0 is no time."""
    result = number(value)
    return result if result is not None and result >= 0 else None


def first(value: Any) -> str | None:
    """The first of a list (a captured header), or a text."""
    return text(value[0]) if isinstance(value, list) and value else None if isinstance(value, list) else text(value)


def service(value: Any) -> str | None:
    """A service's name; what an SDK writes where nobody named it is none."""
    name = text(value)
    return None if name is None or name.startswith("unknown_service") else name


def code(value: Any) -> str | None:
    return stated_code(text(value))


HEALTH = re.compile(
    r"(?:^|/)(?:_?health(?:[_-]?check)?z?|healthy|ready[z]?|readiness|live[z]?|liveness|liveliness|startup[z]?|ping|heartbeat|metrics|favicon\.ico)/?(?:[?#].*)?",
    re.IGNORECASE,
)
"""The end of a path that asks whether a server is well: probes are no requests."""


def probe(value: Any) -> bool | None:
    """Whether a path, route or URL is a probe's."""
    path = text(value)
    if path is None:
        return None
    match = HEALTH.search(path)
    return match is not None and match.end() == len(path)


PROBERS = re.compile(
    r"kube-probe|ELB-HealthChecker|GoogleHC|Consul Health|Prometheus/|UptimeRobot|Azure Traffic Manager", re.IGNORECASE
)


def prober(value: Any) -> bool | None:
    """Whether a user agent is one that asks for health only."""
    return True if isinstance(value, str) and PROBERS.search(value) else None


def health_service(value: Any) -> bool | None:
    """Whether a service of gRPC is the one for health checks."""
    return True if isinstance(value, str) and value.startswith("grpc.health.") else None


def asks_about(value: Any) -> bool | None:
    """Whether an HTTP method only asks about a resource."""
    return True if value in ("OPTIONS", "HEAD", "TRACE", "CONNECT") else None


_STEPS = (
    (
        "admin",
        re.compile(
            r"^(?:create|list|get|delete|update|cancel|upload|retrieve)_(?:agent|thread|message|assistant|file|run|vector|memory)"
        ),
    ),
    ("tool", re.compile("tool|function")),
    ("agent", re.compile("agent|thread_run")),
    ("embedding", re.compile("embed")),
    ("chat", re.compile("chat|complet|generat|response|inference|^llm$|^text$|^realtime|^message")),
    ("workflow", re.compile("workflow|crew|flow_run|invoke_flow|^flow$")),
    ("retrieval", re.compile("retriev|search|^query|vector")),
    ("rerank", re.compile("rerank")),
    ("guardrail", re.compile("guardrail")),
    ("evaluator", re.compile("evaluat")),
)


def step(value: Any) -> str | None:
    """Kind of step that an instrumentation names in its words: `invoke_agent`, `LLM`, `CHAT_MODEL`, `chat.completions`; what nobody knows is a
    link of a chain."""
    word = unquoted(value)
    if word is None or not isinstance(value, str):
        return None
    word = word.lower()
    if word in ("unknown", "span", "internal"):
        return None
    return next((kind for kind, words in _STEPS if words.search(word)), "chain")


def vercel(value: Any) -> str | None:
    """Vercel's AI SDK: `ai.generateText.doGenerate` calls the model, `ai.generateText` is the run around its calls."""
    if not isinstance(value, str) or not value.startswith("ai."):
        return None
    last = value.rpartition(".")[2]
    if last.startswith("do"):
        return "embedding" if "Embed" in last else "chat"
    return "tool" if last.startswith("toolCall") else "workflow"


def streams(value: Any) -> bool | None:
    """Whether an operation of Vercel's AI SDK is one that streams."""
    return "stream" in value.lower() if isinstance(value, str) and value.startswith("ai.") else None


Table = Mapping[str, Sequence[tuple[str, Reader]]]

LASTGOOD: Table = {
    "client_id": [("lastgood.request_id", text), ("client_request_id", text)],
    "version": [("model_version", text)],
    "feature_age_ms": [("feature.age_ms", number)],
    "team": [("team", text)],
}
GENAI: Table = {
    "provider_id": [("gen_ai.response.id", text)],
    "ttft_ms": [("gen_ai.response.time_to_first_chunk", seconds), ("gen_ai.server.time_to_first_token", seconds)],
    "tokens_in": [("gen_ai.usage.input_tokens", count)],
    "tokens_out": [("gen_ai.usage.output_tokens", count)],
    "tokens_cached": [("gen_ai.usage.cache_read.input_tokens", count)],
    "tokens_cache_write": [
        ("gen_ai.usage.cache_write.input_tokens", count),
        ("gen_ai.usage.cache_creation.input_tokens", count),
    ],
    "tokens_reasoning": [("gen_ai.usage.reasoning.output_tokens", count)],
    "error_code": [("error.type", code)],
    "input": [("gen_ai.input.messages", message("user")), ("gen_ai.tool.call.arguments", text)],
    "output": [("gen_ai.output.messages", message("assistant")), ("gen_ai.tool.call.result", text)],
    "finish_reason": [("gen_ai.response.finish_reasons", finish_reason)],
    "streaming": [("gen_ai.request.stream", flag)],
    "model": [("gen_ai.response.model", text), ("gen_ai.request.model", text)],
    "conversation_id": [("gen_ai.conversation.id", text)],
    "step": [("gen_ai.operation.name", step)],
    "step_name": [("gen_ai.tool.name", text), ("gen_ai.agent.name", text), ("gen_ai.workflow.name", text)],
}
GENAI_FORMER: Table = {
    "tokens_in": [("gen_ai.usage.prompt_tokens", count)],
    "tokens_out": [("gen_ai.usage.completion_tokens", count)],
    "tokens_cached": [("gen_ai.usage.cache_read_input_tokens", count)],
    "tokens_cache_write": [("gen_ai.usage.cache_creation_input_tokens", count)],
    "input": [("gen_ai.prompt", message("user"))],
    "output": [("gen_ai.completion", message("assistant"))],
}
VLLM: Table = {
    "provider_id": [("gen_ai.request.id", text)],
    "ttft_ms": [("gen_ai.latency.time_to_first_token", seconds)],
}
MLFLOW: Table = {
    "client_id": [("mlflow.traceRequestId", unquoted)],
    "version": [("mlflow.model_version", unquoted)],
    "tokens_in": [
        ("mlflow.chat.tokenUsage", usage("input_tokens")),
        ("mlflow.trace.tokenUsage", usage("input_tokens")),
    ],
    "tokens_out": [
        ("mlflow.chat.tokenUsage", usage("output_tokens")),
        ("mlflow.trace.tokenUsage", usage("output_tokens")),
    ],
    "tokens_cached": [("mlflow.chat.tokenUsage", usage("cache_read_input_tokens"))],
    "tokens_cache_write": [("mlflow.chat.tokenUsage", usage("cache_creation_input_tokens"))],
    "input": [("mlflow.spanInputs", unquoted)],
    "output": [("mlflow.spanOutputs", unquoted)],
    "model": [("mlflow.llm.model", unquoted)],
    "conversation_id": [("mlflow.trace.session", unquoted)],
    "requester": [("mlflow.trace.user", unquoted)],
    "step": [("mlflow.spanType", step)],
}
OPENINFERENCE: Table = {
    "tokens_in": [("llm.token_count.prompt", count)],
    "tokens_out": [("llm.token_count.completion", count)],
    "tokens_cached": [
        ("llm.token_count.prompt_details.cache_read", count),
        ("llm.token_count.prompt_details.cache_input", count),
    ],
    "tokens_cache_write": [("llm.token_count.prompt_details.cache_write", count)],
    "tokens_reasoning": [("llm.token_count.completion_details.reasoning", count)],
    "tokens_audio_in": [("llm.token_count.prompt_details.audio", count)],
    "tokens_audio_out": [("llm.token_count.completion_details.audio", count)],
    "input": [("input.value", text)],
    "output": [("output.value", text)],
    "finish_reason": [("llm.finish_reason", finish_reason)],
    "requester": [("user.id", text)],
    "model": [("llm.response.model_name", text), ("llm.model_name", text), ("embedding.model_name", text)],
    "conversation_id": [("session.id", text)],
    "step": [("openinference.span.kind", step)],
    "step_name": [("tool.name", text), ("agent.name", text)],
}
OPENLLMETRY: Table = {
    "client_id": [("traceloop.correlation.id", text)],
    "tokens_reasoning": [("gen_ai.usage.reasoning_tokens", count), ("llm.usage.reasoning_tokens", count)],
    "input": [("traceloop.entity.input", text), ("gen_ai.prompt.0.content", text)],
    "output": [("traceloop.entity.output", text), ("gen_ai.completion.0.content", text)],
    "finish_reason": [
        ("gen_ai.completion.0.finish_reason", finish_reason),
        ("gen_ai.response.finish_reason", finish_reason),
        ("llm.response.finish_reason", finish_reason),
    ],
    "streaming": [("gen_ai.is_streaming", flag), ("llm.is_streaming", flag)],
    "conversation_id": [
        ("traceloop.association.properties.conversation_id", text),
        ("traceloop.association.properties.session_id", text),
        ("traceloop.association.properties.thread_id", text),
    ],
    "requester": [("traceloop.association.properties.user_id", text), ("gen_ai.user", text), ("llm.user", text)],
    "step": [("llm.request.type", step), ("traceloop.span.kind", step)],
    "step_name": [("traceloop.entity.name", text)],
}
VERCEL: Table = {
    "provider_id": [("ai.response.id", text)],
    "ttft_ms": [("ai.response.msToFirstChunk", milliseconds), ("ai.stream.msToFirstChunk", milliseconds)],
    "tokens_in": [("ai.usage.inputTokens", count), ("ai.usage.promptTokens", count), ("ai.usage.tokens", count)],
    "tokens_out": [("ai.usage.outputTokens", count), ("ai.usage.completionTokens", count)],
    "tokens_cached": [("ai.usage.cachedInputTokens", count), ("ai.usage.inputTokenDetails.cacheReadTokens", count)],
    "tokens_cache_write": [("ai.usage.inputTokenDetails.cacheWriteTokens", count)],
    "tokens_reasoning": [("ai.usage.reasoningTokens", count), ("ai.usage.outputTokenDetails.reasoningTokens", count)],
    "input": [
        ("ai.prompt.messages", message("user")),
        ("ai.prompt", text),
        ("ai.value", text),
        ("ai.toolCall.args", text),
    ],
    "output": [
        ("ai.response.text", text),
        ("ai.response.object", text),
        ("ai.result.text", text),
        ("ai.response.toolCalls", text),
    ],
    "finish_reason": [("ai.response.finishReason", finish_reason), ("ai.finishReason", finish_reason)],
    "model": [("ai.response.model", text), ("ai.model.id", text)],
    "conversation_id": [("ai.telemetry.metadata.sessionId", text), ("ai.telemetry.metadata.conversationId", text)],
    "requester": [("ai.telemetry.metadata.userId", text)],
    "streaming": [("ai.operationId", streams)],
    "step": [("ai.operationId", vercel)],
    "step_name": [("ai.toolCall.name", text), ("ai.telemetry.functionId", text)],
}
OTHERS: Table = {
    "provider_id": [("az.service_request_id", text)],
    "tokens_cached": [("gen_ai.usage.details.cache_read_tokens", count), ("gen_ai.usage.details.cached_tokens", count)],
    "tokens_cache_write": [("gen_ai.usage.details.cache_write_tokens", count)],
    "tokens_reasoning": [("gen_ai.usage.details.reasoning_tokens", count)],
    "tokens_audio_in": [("gen_ai.usage.details.input_audio_tokens", count)],
    "tokens_audio_out": [("gen_ai.usage.details.output_audio_tokens", count)],
    "tokens_in": [("langfuse.observation.usage_details", usage("input"))],
    "tokens_out": [("langfuse.observation.usage_details", usage("output"))],
    "input": [("langfuse.observation.input", text)],
    "output": [("langfuse.observation.output", text), ("final_result", text)],
    "model": [("langfuse.observation.model.name", text), ("model_name", text)],
    "conversation_id": [("gen_ai.thread.id", text), ("langfuse.session.id", text)],
    "requester": [("langfuse.user.id", text)],
    "step": [("langfuse.observation.type", step), ("langsmith.span.kind", step)],
    "step_name": [("agent_name", text)],
}
HTTP: Table = {
    "client_id": [("http.request.header.x-request-id", first), ("http.request.header.x_request_id", first)],
    "served_entity": [("databricks.served_entity.name", text)],
    "version": [("databricks.served_entity.version", text)],
    "release": [("service.version", text)],
    "status_code": [("http.response.status_code", status), ("http.status_code", status)],
    "requester": [("enduser.id", text)],
    "env": [("deployment.environment.name", text), ("deployment.environment", text)],
    "probe": [
        ("http.request.method", asks_about), ("http.method", asks_about), ("user_agent.original", prober), ("http.user_agent", prober),
        ("rpc.service", health_service), ("url.path", probe), ("http.target", probe), ("http.route", probe),
        ("url.full", probe), ("http.url", probe),
    ],
}  # fmt: skip
DIALECTS = (LASTGOOD, GENAI, GENAI_FORMER, VLLM, MLFLOW, OPENINFERENCE, OPENLLMETRY, VERCEL, OTHERS, HTTP)
"""In the order of belief: a field comes from the first attribute, in this order, that reads as a value."""

NAMING: Mapping[str, Reader] = {"mlflow.databricks.modelServingEndpointName": unquoted, "service.name": service}
"""Readers of attributes that name an endpoint and are no plain texts."""
LAST_RESORT: tuple[str, Reader] = ("service.name", text)
KNOWN: Mapping[Reader, Reader] = {read: known_id(read) for read in (text, unquoted, first)}
PARTS = frozenset({"client_id", "provider_id", "version", "release", "named", "probe"})
"""Fields read of a span that are no columns of their own."""


def fields(
    version_attributes: Sequence[str] = (), endpoint_attributes: Sequence[str] = ENDPOINT_ATTRIBUTES
) -> dict[str, list[tuple[str, Reader]]]:
    """Field -> attributes that may hold it, in order. `version_attributes` are asked first for the version; `endpoint_attributes` is the order
    of what names an endpoint, where what comes before `service.name` is a name that the span says itself (`named`)."""
    readers: dict[str, list[tuple[str, Reader]]] = {"version": [(name, text) for name in version_attributes]}
    for dialect in DIALECTS:
        for name, sources in dialect.items():
            readers.setdefault(name, []).extend(sources)
    naming = [(name, NAMING.get(name, text)) for name in endpoint_attributes]
    most = next((i for i, (name, _) in enumerate(naming) if name == "service.name"), len(naming))
    for name in ("conversation_id", "client_id", "provider_id", "requester"):
        readers[name] = [(key, KNOWN[read]) for key, read in readers[name]]
    return readers | {"named": naming[:most], "endpoint": [*naming, LAST_RESORT]}


MARKS = (
    "gen_ai.", "llm.", "mlflow.", "openinference.", "lastgood.", "feature.", "ai.", "traceloop.span.kind", "traceloop.entity.name", "traceloop.entity.input",
    "langfuse.observation.", "langsmith.span.kind",
)  # fmt: skip
"""Beginnings of attribute names that say: this span is about a model. OpenLLMetry puts its workflow's name on every span of a process."""
HTTP_MARKS = (
    "http.response.status_code",
    "http.status_code",
    "http.request.method",
    "http.method",
    "rpc.system",
    "rpc.system.name",
)
MODEL_MARKS = tuple(
    name
    for name, _ in fields()["model"] + fields()["tokens_in"]
    if name not in ("model_name", "langfuse.observation.usage_details")
)
AGENT_MARKS = ("agent_name", "gen_ai.agent.name", "mlflow.trace.tokenUsage")
"""Attributes of runs, which tell the tokens of all their calls."""
LEAVES = ("asgi.event.type", "db.system", "db.system.name", "messaging.system")
"""Attributes of spans with no call of a model below them: they are not needed to link others."""

OWN_NAMES = ("lastgood.request_id", "lastgood.endpoint")
FIRST_TOKENS = frozenset({
    "mlflow.chunk.item.0", "First Token Stream Event", "llm.content.completion.chunk", "gen_ai.content.completion.chunk", "ai.stream.firstChunk",
})  # fmt: skip
"""Events of a span at its first token (of those that come with every token, the first)."""
CLIENT, SERVER, UNSET, OK, ERROR = 3, 2, 0, 1, 2
"""OTLP's span kinds and status codes."""


def part_of(kind: int, step: str | None, *, named: bool, marked: bool, http: bool, probe: bool, model: bool) -> str:
    """What a span is in its trace (see trees). `step`: kind of step it names; `named`: carries `lastgood.*`; `marked`: any of MARKS; `http`: any
    of HTTP_MARKS; `model`: any of MODEL_MARKS and none of AGENT_MARKS."""
    if step in CALLS:
        return ENTRY if kind == SERVER else CALL
    if named:
        return NAMED
    if step == "admin":
        return LINK
    if step:
        return STEP
    if kind == SERVER:
        return ENTRY if marked or (http and not probe) else LINK
    if not marked:
        return LINK
    if model or (kind == CLIENT and not http):
        return CALL
    return LINK if kind == CLIENT else STEP
