"""A canary in every place of every export: what a capture setting does not keep is in no byte that is written."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lastgood.collectors.otlp import dialects, feedback
from lastgood.collectors.otlp.capture import CODES, ERROR_CODES, NAMES, Rules, attribute, error_code, redact
from lastgood.collectors.otlp.columns import TraceDecoder
from lastgood.collectors.otlp.rows import DETAILS, EVALUATION
from lastgood.record.redact import Capture, Redactor

CANARY = "mail ann@example.com about the canary of tweet street"
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
FAMILIES = (
    "gen_ai.prompt.0.content", "gen_ai.completion.0.content", "gen_ai.system_instructions", "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result", "gen_ai.tool.description", "gen_ai.tool.definitions", "llm.input_messages.0.message.content",
    "llm.output_messages.0.message.content", "llm.prompts", "llm.prompt_template.template", "llm.prompt_template.variables",
    "llm.invocation_parameters", "llm.function_call", "llm.tools", "retrieval.documents.0.document.content", "tool.parameters", "tool.output",
    "embedding.embeddings.0.embedding.text", "reranker.query", "input.mime_type", "metadata", "tag.tags", "exception.message",
    "exception.stacktrace", "url.query", "http.request.header.cookie", "db.query.text", "traceloop.association.properties.x", "mlflow.message.format",
    "mlflow.traceInputs", "mlflow.traceOutputs", "tool_calls", "eval.helpful.explanation", "anything.else",
)  # fmt: skip
EVERY = sorted({name for sources in dialects.fields().values() for name, _ in sources} | set(FAMILIES))
TEXTS = [name for name in EVERY if name not in NAMES]
SHAPES = ("text", "messages", "array", "kvlist", "bytes")


def put(attributes: Any, name: str, shape: str = "text") -> None:
    value = attributes.add(key=name).value
    if shape == "text":
        value.string_value = CANARY
    elif shape == "messages":
        value.string_value = orjson.dumps([{"role": "user", "content": CANARY}]).decode()
    elif shape == "array":
        value.array_value.values.add(string_value=CANARY)
    elif shape == "kvlist":
        value.kvlist_value.values.add(key=CANARY).value.string_value = CANARY
    else:
        value.bytes_value = CANARY.encode()


def spans() -> ExportTraceServiceRequest:
    """A span with the canary in every attribute that is no name, in every shape, and in everything else that a span has."""
    export = ExportTraceServiceRequest()
    for shape in SHAPES:
        group = export.resource_spans.add()
        scope = group.scope_spans.add()
        put(group.resource.attributes, "process.command_args", shape)
        scope.scope.name = "tracer"
        put(scope.scope.attributes, "anything", shape)
        for i, name in enumerate(TEXTS):
            span = scope.spans.add(
                trace_id=bytes([i + 1] * 16), span_id=bytes([i + 1] * 8), name=CANARY, trace_state=f"a={CANARY}", kind=3,
                start_time_unix_nano=int(AT.timestamp()) * 10**9, end_time_unix_nano=int(AT.timestamp()) * 10**9 + i,
            )  # fmt: skip
            span.attributes.add(key="lastgood.endpoint").value.string_value = "chat"
            put(span.attributes, name, shape)
            span.status.code, span.status.message = 2, CANARY
            put(span.events.add(name=CANARY).attributes, "gen_ai.event.content", shape)
            put(span.events.add(name="exception").attributes, "exception.message", shape)
            put(span.events.add(name="exception").attributes, "exception.type", shape)
            put(span.events.add(name=EVALUATION).attributes, "gen_ai.evaluation.explanation", shape)
            put(span.links.add(trace_id=b"x" * 16).attributes, "link", shape)
    return export


def logs() -> ExportLogsServiceRequest:
    export = ExportLogsServiceRequest()
    group = export.resource_logs.add()
    put(group.resource.attributes, "process.command_line")
    for name in (EVALUATION, "gen_ai.user.message", DETAILS):
        log = group.scope_logs.add().log_records.add(event_name=name, severity_text=CANARY)
        log.body.string_value = CANARY
        put(log.attributes, "gen_ai.evaluation.explanation")
        put(log.attributes, "gen_ai.evaluation.score.label")
        put(log.attributes, "gen_ai.input.messages", "messages")
    return export


def metrics() -> ExportMetricsServiceRequest:
    export = ExportMetricsServiceRequest()
    scope = export.resource_metrics.add().scope_metrics.add()
    metric = scope.metrics.add(name="gen_ai.evaluation.helpful", description=CANARY)
    point = metric.gauge.data_points.add(as_double=1.0)
    put(point.attributes, "gen_ai.evaluation.explanation")
    put(point.exemplars.add().filtered_attributes, "prompt")
    put(scope.metrics.add(name="other").sum.data_points.add().attributes, "prompt")
    return export


def hidden(capture: Capture, written: bytes) -> bool:
    return (b"example.com" if capture is Capture.REDACTED else b"canary") not in written


@pytest.mark.parametrize("capture", [Capture.NONE, Capture.FEATURES, Capture.REDACTED])
def test_no_byte_of_an_export_has_what_is_not_kept(capture: Capture) -> None:
    rule = Redactor(capture)
    for export in (spans(), logs(), metrics()):
        assert not hidden(capture, export.SerializeToString())
        redact(export, Rules(lambda _: rule))
        assert hidden(capture, export.SerializeToString())


@pytest.mark.parametrize("capture", list(Capture))
def test_every_span_stays_a_request_and_a_failure(capture: Capture) -> None:
    export, whole = spans(), spans()
    redact(export, Rules(lambda _: Redactor(capture)))
    batch, before = (TraceDecoder().decode([(each.SerializeToString(), AT)]) for each in (export, whole))
    assert batch.table.num_rows == before.table.num_rows
    assert batch.table["error_code"].null_count == 0
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.table.schema) as writer:
        writer.write_table(batch.table)
    assert capture is Capture.FULL or hidden(capture, sink.getvalue().to_pybytes())


def test_a_span_whose_marks_are_all_texts_stays_a_request() -> None:
    export = ExportTraceServiceRequest()
    span = (
        export.resource_spans.add()
        .scope_spans.add()
        .spans.add(kind=3, span_id=b"12345678", trace_id=b"1" * 16, parent_span_id=b"87654321")
    )
    put(span.attributes, "gen_ai.prompt.0.content")
    redact(export, Rules(lambda _: Redactor(Capture.NONE)))
    assert TraceDecoder().decode([(export.SerializeToString(), AT)]).table.num_rows == 1


def test_the_rule_is_that_of_the_endpoint_as_the_decoders_read_it() -> None:
    export = ExportTraceServiceRequest()
    span = export.resource_spans.add().scope_spans.add().spans.add(kind=3)
    span.attributes.add(key="mlflow.databricks.modelServingEndpointName").value.string_value = '"chat"'
    put(span.attributes, "mlflow.spanInputs")
    redact(export, Rules(lambda name: Redactor(Capture.NONE if name == "chat" else Capture.FULL)))
    assert b"canary" not in export.SerializeToString()


def test_reports_keep_words_and_lose_sentences() -> None:
    reports = feedback.parse(
        orjson.dumps(
            [
                {"request_id": "r", "label": CANARY, "explanation": CANARY},
                {"request_id": "s", "label": "good", "value": 1.0},
            ]
        )
    )
    kept = feedback.redacted(reports, lambda _: Redactor(Capture.NONE))
    assert b"canary" not in kept
    first, second = feedback.decode(kept, AT).scores
    assert (first["label"], second["label"], second["value"]) == (feedback.REMOVED, "good", 1.0)


def test_names_codes_counts_and_numbers_are_kept() -> None:
    rule = Redactor(Capture.NONE)
    for name in NAMES:
        assert attribute(name, "chat one", rule) == "chat one"
        assert attribute(name, "chat\none", rule) is None
    for name in CODES - ERROR_CODES:
        assert attribute(name, "a_word", rule) == "a_word"
        assert attribute(name, CANARY, rule) is None
    assert attribute("mlflow.chat.tokenUsage", '{"input_tokens": 3, "note": "canary"}', rule) == '{"input_tokens":3}'
    assert [attribute("x", value, rule) for value in ("1.5", "true", "word")] == ["1.5", "true", None]
    assert [error_code(code) for code in ("TIMEOUT", None, CANARY, "call ann@example.com")] == [
        "TIMEOUT",
        None,
        "ERROR",
        "ERROR",
    ]
