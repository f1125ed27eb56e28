"""GenAI spans of 20 attributes and about 1 KB, as exporters send them."""

import json
import time
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
START = time.time_ns()


def _pair(key: str, value: Any) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    if isinstance(value, float):
        return KeyValue(key=key, value=AnyValue(double_value=value))
    if isinstance(value, list):
        return KeyValue(
            key=key, value=AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=v) for v in value]))
        )
    return KeyValue(key=key, value=AnyValue(string_value=value))


def span(i: int) -> Span:
    """One GenAI client span, 20 attributes, about 1 KB."""
    marks: dict[str, Any] = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "databricks", "gen_ai.request.model": "support-chat",
        "gen_ai.response.id": f"chatcmpl-{i:024x}", "lastgood.endpoint": "support-chat", "model_version": str(2 + i % 2),
        "gen_ai.usage.input_tokens": 40 + i % 900, "gen_ai.usage.output_tokens": 30 + i % 400,
        "gen_ai.response.finish_reasons": ["stop"], "gen_ai.request.max_tokens": 512, "gen_ai.request.temperature": 0.2,
        "gen_ai.response.time_to_first_chunk": 0.05 + (i % 50) / 1000, "feature.age_ms": float(i % 60_000),
        "http.response.status_code": 200, "server.address": "workspace.example.com", "server.port": 443, "enduser.id": f"user-{i % 500}",
        "team": ("search", "billing", "docs")[i % 3],
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": f"question {i} " + "about it " * 12}]}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "an answer " * 14}]}]),
    }  # fmt: skip
    at = START + i * 1_000
    return Span(
        trace_id=i.to_bytes(16, "big"), span_id=(i + 1).to_bytes(8, "big"), name="chat support-chat", kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=at, end_time_unix_nano=at + 80_000_000 + i % 1000, attributes=[_pair(k, v) for k, v in marks.items()],
    )  # fmt: skip


def bodies(spans: int, size: int) -> list[bytes]:
    """Export bodies of `size` spans each."""
    return [
        ExportTraceServiceRequest(
            resource_spans=[
                ResourceSpans(scope_spans=[ScopeSpans(spans=[span(i) for i in range(first, min(first + size, spans))])])
            ]
        ).SerializeToString()
        for first in range(0, spans, size)
    ]
