"""Spans of every dialect become inbox rows; hostile ones are set aside and never cost the others."""

import math
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from soak import scaled

from lastgood import tables
from lastgood.collectors.otlp import dialects
from lastgood.collectors.otlp import rows as decoded
from lastgood.collectors.otlp.columns import TraceDecoder
from lastgood.collectors.otlp.rows import MAX_ATTRIBUTES, MAX_NAME, MAX_VALUE, SpanDecoder
from lastgood.record import telemetry
from lastgood.record.agents import FIGURES

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = int(NOW.timestamp()) * 10**9
SCHEMA = telemetry.arrow_schema(telemetry.INBOX)


def any_value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[any_value(one) for one in value]))
    if isinstance(value, dict):
        return AnyValue(
            kvlist_value=KeyValueList(values=[KeyValue(key=k, value=any_value(v)) for k, v in value.items()])
        )
    return AnyValue() if value is None else AnyValue(string_value=value)


def pairs(attributes: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def span(attributes: dict[str, Any] | None = None, **fields: Any) -> Span:
    given = {"lastgood.endpoint": "chat"} if attributes is None else attributes
    base = {
        "trace_id": b"\x01" * 16, "span_id": b"\x02" * 8, "kind": Span.SPAN_KIND_CLIENT, "name": "chat",
        "start_time_unix_nano": AT, "end_time_unix_nano": AT + 250_000_000,
    }  # fmt: skip
    return Span(**(base | fields), attributes=pairs(given))


def group(*spans: Span, resource: dict[str, Any] | None = None) -> ResourceSpans:
    found = ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])
    found.resource.attributes.extend(pairs(resource or {}))
    return found


def export(*groups: ResourceSpans) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest(resource_spans=groups)


FAST = TraceDecoder()


def parse_json(body: bytes) -> ExportTraceServiceRequest:
    return decoded.parse_json(body, ExportTraceServiceRequest())


def comparable(table: pa.Table) -> list[str]:
    """Rows as texts, in an order of their own (NaN equals itself)."""
    return sorted(repr(sorted((name, value or None) for name, value in row.items())) for row in table.to_pylist())


def both(*requests: ExportTraceServiceRequest) -> decoded.Decoded:
    """Decoded span by span, and column by column alike."""
    found = [SpanDecoder().traces(one, NOW) for one in requests]
    whole = decoded.Decoded(
        [row for one in found for row in one.rows],
        [row for one in found for row in one.scores],
        sum(one.others for one in found),
    )
    fast = FAST.decode([(one.SerializeToString(), NOW) for one in requests])
    assert comparable(fast.table) == comparable(pa.Table.from_pylist(whole.rows, SCHEMA))
    assert (fast.scores, fast.others) == (whole.scores, whole.others)
    return whole


def rows(*spans: Span, resource: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """All spans are requests, or set aside as ones that cannot be a record."""
    found = both(export(group(*spans, resource=resource)))
    assert (len(found.rows), found.others) == (len(spans), 0)
    return found.rows


DIALECTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GenAI conventions, current": (
        {
            "gen_ai.operation.name": "chat", "gen_ai.response.id": "resp-1", "server.address": "chat-endpoint",
            "gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 34,
            "gen_ai.response.finish_reasons": ["stop", "length"],
            "gen_ai.response.time_to_first_chunk": 0.25, "gen_ai.request.stream": True, "error.type": "timeout",
        },
        {
            "request_id": "resp-1", "endpoint": "billing", "tokens_in": 12, "tokens_out": 34, "finish_reason": "stop",
            "ttft_ms": 250.0, "streaming": True, "error_code": "timeout",
        },
    ),
    "GenAI conventions, former": (
        {"gen_ai.usage.prompt_tokens": 5, "gen_ai.usage.completion_tokens": "6", "gen_ai.prompt": "q", "gen_ai.completion": "a"},
        {"tokens_in": 5, "tokens_out": 6, "input": "q", "output": "a", "endpoint": "billing"},
    ),
    "MLflow": (
        {
            "mlflow.traceRequestId": "tr-1", "mlflow.databricks.modelServingEndpointName": "ep", "mlflow.spanInputs": '{"x":1}',
            "mlflow.chat.tokenUsage": '{"input_tokens": 7, "output_tokens": 8}', "mlflow.model_version": "3",
        },
        {"request_id": "tr-1", "endpoint": "ep", "tokens_in": 7, "tokens_out": 8, "model_version": "3", "input": '{"x":1}'},
    ),
    "OpenInference": (
        {"llm.token_count.prompt": 9, "llm.token_count.completion": 10, "input.value": "i", "output.value": "o", "user.id": "u"},
        {"tokens_in": 9, "tokens_out": 10, "input": "i", "output": "o", "requester": "u"},
    ),
    "OpenLLMetry": (
        {"traceloop.correlation.id": "c-1", "traceloop.workflow.name": "flow", "traceloop.entity.input": "i"},
        {"request_id": "c-1", "endpoint": "billing", "input": "i"},
    ),
    "Lastgood's own first": (
        {
            "lastgood.request_id": "mine", "gen_ai.response.id": "theirs", "lastgood.endpoint": "chat", "feature.age_ms": 1500,
            "model_version": "2", "http.response.status_code": 503, "team": "search",
        },
        {
            "request_id": "mine", "endpoint": "chat", "feature_age_ms": 1500.0, "model_version": "2", "status_code": 503,
            "team": "search", "latency_ms": 250.0, "latency_scope": "client", "requested_at": NOW, "weight": 1.0,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialect_is_read(dialect: str) -> None:
    attributes, expected = DIALECTS[dialect]
    found = rows(span(attributes), resource={"service.name": "billing", "deployment.environment": "prod"})[0]
    assert {name: found[name] for name in expected} == expected
    assert "reject_reason" not in found
    assert found["env"] == "prod"


@pytest.mark.parametrize("unknown", ["None", "null", "undefined", " nil ", "-", "NaN"])
def test_what_languages_write_for_an_unknown_id_is_none(unknown: str) -> None:
    ids = {
        "gen_ai.conversation.id": unknown, "lastgood.request_id": unknown, "gen_ai.response.id": "", "enduser.id": unknown,
        "session.id": "4711",
    }  # fmt: skip
    (row,) = rows(span(ids))
    assert (row["conversation_id"], row["requester"]) == ("4711", None)
    assert row["request_id"] == f"{'01' * 16}/{'02' * 8}", "those who do not know their ids do not share one"


@pytest.mark.parametrize("unknown", [-1, "-1", -(2**60), "many", "", 1e300])
def test_what_is_no_count_of_tokens_costs_neither_the_request_nor_the_next_name_of_the_count(unknown: Any) -> None:
    names = {
        "gen_ai.usage.input_tokens": unknown,
        "gen_ai.usage.prompt_tokens": "12",
        "gen_ai.usage.cache_read.input_tokens": unknown,
    }
    (row,) = rows(span({"gen_ai.operation.name": "chat", **names}))
    assert (row["tokens_in"], row["tokens_cached"], row.get("reject_reason")) == (12, None, None)


SERIAL = "6f1c2f0e-9d44-4c5d-8a55-0242ac120002"


@pytest.mark.parametrize(
    ("own", "shown", "name"),
    [
        ({"gen_ai.operation.name": "execute_tool"}, "execute_tool escalate", "escalate"),
        ({"gen_ai.operation.name": "invoke_agent"}, "invoke_agent support", "support"),
        ({"openinference.span.kind": "TOOL"}, "weather", "weather"),
        ({"openinference.span.kind": "TOOL"}, f"pay_{SERIAL}", "pay_*"),
        ({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": f"pay_{SERIAL.replace('-', '')}_eur"}, "x", "pay_*_eur"),
        ({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "agent-1772366400123"}, "x", "agent-*"),
        ({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "web_search_20250305"}, "x", "web_search_20250305"),
        ({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "x" * 5_000}, "x", "x" * MAX_NAME),
    ],
)  # fmt: skip
def test_the_name_of_a_step_is_its_own_and_one_of_few(own: dict[str, Any], shown: str, name: str) -> None:
    (row,) = rows(span(own, name=shown, kind=Span.SPAN_KIND_INTERNAL))
    assert row["step_name"] == name


def test_what_a_run_did_is_read_from_its_spans_and_not_from_what_a_sender_says_of_it() -> None:
    (row,) = rows(span({"gen_ai.operation.name": "chat", "run.of": "x"} | dict.fromkeys(FIGURES, "77")))
    assert row["attributes"] == [("run.of", "x")]


def test_without_any_id_the_trace_and_span_id_stand_for_the_request() -> None:
    found = rows(span())[0]
    assert found["request_id"] == f"{'01' * 16}/{'02' * 8}"
    assert found["trace_id"] == "01" * 16


def test_a_status_message_says_the_error_where_no_attribute_does() -> None:
    failed = span(status=Status(code=Status.STATUS_CODE_ERROR, message="boom"))
    assert rows(failed)[0]["error_code"] == "ERROR"
    assert dict(rows(failed)[0]["attributes"])["error_text"] == "boom"
    assert rows(span(status=Status(code=Status.STATUS_CODE_ERROR)))[0]["error_code"] == "ERROR"
    assert rows(span())[0]["error_code"] is None


REJECTED = {
    "end before start": (span(end_time_unix_nano=AT - 1), "span ends before it starts"),
    "start at 2**64-1": (span(start_time_unix_nano=2**64 - 1), "span ends before it starts"),
    "a text of lists nested beyond reading": (
        span({"lastgood.request_id": [[[[b"x"]]]], "gen_ai.x": float("nan")}, end_time_unix_nano=0), "span ends before it starts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTED)
def test_span_is_set_aside_with_a_reason_and_its_bytes(case: str) -> None:
    bad, reason = REJECTED[case]
    good = span({"lastgood.endpoint": "chat", "lastgood.request_id": "good"})
    third = span({"lastgood.endpoint": "chat", "lastgood.request_id": "other"}, span_id=b"\x05" * 8)
    first, second, third = rows(good, bad, third)
    assert second["reject_reason"] == reason
    assert Span.FromString(second["raw"]).SerializeToString() == bad.SerializeToString()
    assert first == third | {name: first[name] for name in ("request_id", "span_id")}
    assert first["request_id"] == "good"


ODD = {
    "1970": ({}, {"start_time_unix_nano": 0, "end_time_unix_nano": 5}),
    "2100": ({}, {"start_time_unix_nano": 4_102_444_800 * 10**9, "end_time_unix_nano": 4_102_444_801 * 10**9}),
    "both at 2**64-1": ({}, {"start_time_unix_nano": 2**64 - 1, "end_time_unix_nano": 2**64 - 1}),
    "no times, no ids": ({}, {"start_time_unix_nano": 0, "end_time_unix_nano": 0, "trace_id": b"", "span_id": b""}),
    "status codes out of range": ({"http.response.status_code": 99_999}, {}),
    "status code of an unknown enum": ({}, {"status": Status(code=77)}),
    "kind of an unknown enum": ({}, {"kind": 99}),
    "NaN, infinite and huge numbers": (
        {"feature.age_ms": math.nan, "gen_ai.usage.input_tokens": math.inf, "gen_ai.usage.output_tokens": 2**63 - 1,
         "gen_ai.server.time_to_first_token": 1e308}, {},
    ),
    "wrong types everywhere": (
        {"lastgood.request_id": {"a": 1}, "gen_ai.usage.input_tokens": "many", "gen_ai.response.finish_reasons": [None, 3],
         "model_version": 2, "gen_ai.request.stream": "yes", "mlflow.chat.tokenUsage": 5, "error.type": b"\x00\xff",
         "enduser.id": [], "http.status_code": [], "team": False, "feature.age_ms": None}, {},
    ),
    "10,000 attributes with long values": ({f"gen_ai.x{i}": "y" * 2000 for i in range(10_000)}, {}),
    "the same attribute name twice as empty": ({"": "", "gen_ai.": ""}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_span_still_fits_the_inbox(case: str) -> None:
    attributes, fields = ODD[case]
    found = rows(span({"lastgood.endpoint": "chat", **attributes}, **fields))[0]
    assert len(found.get("attributes", ())) <= MAX_ATTRIBUTES
    assert all(len(value) <= MAX_VALUE for _, value in found.get("attributes", ()))
    for name in ("feature_age_ms", "ttft_ms", "latency_ms"):
        assert found.get(name) is None or math.isfinite(found[name])
    assert found.get("status_code") is None or 100 <= found["status_code"] <= 599


def test_deeply_nested_values_do_not_cost_the_others() -> None:
    value = AnyValue(string_value="x")
    for _ in range(45):
        value = AnyValue(array_value=ArrayValue(values=[value]))
    deep = span()
    deep.attributes.append(KeyValue(key="gen_ai.deep", value=value))
    sent = ExportTraceServiceRequest(resource_spans=[group(span(), deep, span())]).SerializeToString()
    found = SpanDecoder().traces(ExportTraceServiceRequest.FromString(sent), NOW).rows
    assert [one["endpoint"] for one in (found[0], found[2])] == ["chat", "chat"]


def test_json_and_protobuf_give_the_same_rows() -> None:
    message = ExportTraceServiceRequest(
        resource_spans=[group(span(DIALECTS["MLflow"][0]), resource={"service.name": "s"})]
    )
    document = MessageToDict(message)
    sent = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    sent |= {"traceId": "01" * 16, "spanId": "02" * 8, "kind": 3}
    parsed = parse_json(orjson.dumps(document))
    assert both(parsed) == both(message)


HOSTILE_JSON = [
    "", "{", "[]", "7", "null", '"text"', '{"resourceSpans": 5}', '{"resourceSpans": {"a": 1}}', '{"resourceSpans": [5]}',
    '{"resourceSpans": [null]}', '{"resourceSpans": [{"scopeSpans": [{"spans": [7]}]}]}',
    '{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}',
    '{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": 5}]}]}]}',
    '{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": -1}]}]}]}',
    '{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": "18446744073709551616"}]}]}]}',
    '{"resourceSpans": [{"scopeSpans": [{"spans": [{"links": 5}]}]}]}',
    '{"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": {"a": 1}}]}]}]}',
    "[" * 5000 + "]" * 5000,
    '{"resourceSpans": [{"resource": {"attributes": [{"key": "a", "value": ' + '{"arrayValue": {"values": [' * 500 + "]}}" * 500
    + "}]}}]}",
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE_JSON, ids=range(len(HOSTILE_JSON)))
def test_json_that_is_no_export_is_a_value_error(body: str) -> None:
    with pytest.raises(ValueError):
        parse_json(body.encode())


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_decoded(body: bytes) -> None:
    try:
        parse_json(body)
    except ValueError:
        pass
    try:
        message = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        return
    both(message)


KEYS = ["resourceSpans", "scopeSpans", "spans", "resource", "attributes", "key", "value", "stringValue", "intValue", "traceId",
        "kind", "status", "code", "startTimeUnixNano", "links"]  # fmt: skip
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.sampled_from(["01", "gen_ai.x", "xyz", "", "\x00"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(documents)
def test_random_json_is_refused_or_decoded(document: Any) -> None:
    wrapped = {"resourceSpans": [{"scopeSpans": [{"spans": [document]}]}]}
    for one in (document, wrapped):
        try:
            message = parse_json(orjson.dumps(one))
        except ValueError:
            continue
        both(message)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=4)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(
    ["lastgood.request_id", "lastgood.endpoint", "gen_ai.usage.input_tokens", "gen_ai.response.finish_reasons",
     "mlflow.chat.tokenUsage", "http.status_code", "gen_ai.request.stream", "feature.age_ms", "error.type", "input.value",
     "gen_ai.response.time_to_first_chunk", "model_version"]
)  # fmt: skip
times = st.integers(0, 2**64 - 1)


@given(st.dictionaries(NAMES | st.text(max_size=3), values, max_size=6), times, times, st.integers(-(2**31), 2**31 - 1))
def test_every_decoded_span_fits_the_inbox(attributes: dict[str, Any], start: int, end: int, code: int) -> None:
    rows(
        span(
            {"lastgood.endpoint": "chat"} | attributes,
            start_time_unix_nano=start,
            end_time_unix_nano=end,
            status=Status(code=code),
        )
    )


PARTS: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "a call of a model, by the conventions": ({"gen_ai.operation.name": "chat"}, 3, "call"),
    "a call that a server took": ({"gen_ai.operation.name": "chat"}, 2, "entry"),
    "a call by OpenInference": ({"openinference.span.kind": "LLM"}, 1, "call"),
    "a call by MLflow, whose values are JSON": ({"mlflow.spanType": '"CHAT_MODEL"'}, 1, "call"),
    "a call by Vercel": ({"ai.operationId": "ai.generateText.doGenerate"}, 1, "call"),
    "the run around Vercel's calls": ({"ai.operationId": "ai.generateText"}, 1, "step"),
    "a tool of Vercel's": ({"ai.operationId": "ai.toolCall"}, 1, "step"),
    "vLLM's own span": ({"gen_ai.request.id": "cmpl-1", "gen_ai.latency.e2e": 0.5}, 2, "entry"),
    "a span with Lastgood's attributes": ({"lastgood.request_id": "r"}, 1, "named"),
    "an agent's run": ({"gen_ai.operation.name": "invoke_agent"}, 1, "step"),
    "an agent's run that tells all tokens and no operation": ({"agent_name": "a", "gen_ai.usage.input_tokens": 5, "model_name": "m"}, 1, "step"),
    "a call that tells no operation": ({"gen_ai.request.model": "m"}, 1, "call"),
    "the making of a thread": ({"gen_ai.operation.name": "create_thread", "gen_ai.system": "az.ai.agents"}, 3, "link"),
    "a web request, today's names": ({"http.request.method": "POST", "http.response.status_code": 200, "url.path": "/chat"}, 2, "entry"),
    "a web request, former names": ({"http.method": "POST", "http.status_code": 200, "http.target": "/chat"}, 2, "entry"),
    "a probe": ({"http.method": "GET", "http.status_code": 200, "http.target": "/healthz"}, 2, "link"),
    "a probe, by its URL": ({"http.method": "GET", "http.url": "http://10.0.0.1:8000/health?full=1"}, 2, "link"),
    "a probe, by who asks": ({"http.method": "GET", "http.target": "/", "http.user_agent": "kube-probe/1.29"}, 2, "link"),
    "a probe over gRPC": ({"rpc.system": "grpc", "rpc.service": "grpc.health.v1.Health"}, 2, "link"),
    "a request over gRPC": ({"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService"}, 2, "entry"),
    "a preflight": ({"http.request.method": "OPTIONS", "http.response.status_code": 200, "url.path": "/chat"}, 2, "link"),
    "a server span that says nothing": ({"thread.id": 5}, 2, "link"),
    "a client's HTTP span": ({"http.request.method": "POST", "http.response.status_code": 200}, 3, "link"),
    "a client's HTTP span in a workflow of OpenLLMetry": ({"http.method": "POST", "traceloop.workflow.name": "w"}, 3, "link"),
    "an agent's tokens by MLflow": ({"mlflow.trace.tokenUsage": "{}"}, 1, "step"),
    "a part of a server's answer": ({"asgi.event.type": "http.response.body"}, 1, None),
    "a database": ({"db.system": "postgresql"}, 3, None),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_what_a_span_is_in_its_trace(case: str) -> None:
    attributes, kind, part = PARTS[case]
    found = both(export(group(span(attributes, kind=kind, parent_span_id=b"\x09" * 8))))
    assert [row["part"] for row in found.rows] == ([part] if part else [])
    assert found.others == (part in ("link", "step", None))


def test_a_root_that_is_no_request_is_only_counted() -> None:
    found = both(export(group(span({"x": 1}, kind=1))))
    assert (found.rows, found.others) == ([], 1)


FAILURES: dict[str, tuple[dict[str, Any], Status, str | None, str | None]] = {
    "stated": ({"error.type": "openai.RateLimitError"}, Status(code=2, message="Error code: 429"), None, "RateLimitError"),
    "stated as a status": ({"error.type": "503"}, Status(code=2), None, "HTTP_503"),
    "HTTP before the exception": ({"http.status_code": 500}, Status(code=2, message="x"), "ValueError", "HTTP_500"),
    "the exception's class": ({}, Status(code=2, message="prompt of user 17: boom"), "openai.APITimeoutError", "APITimeoutError"),
    "a wrapper's class, a status in the text": ({}, Status(code=2, message="status_code: 429, model_name: m"), "x.ModelHTTPError", "HTTP_429"),
    "a status in the text": ({}, Status(code=2, message="Error code: 429 - {'error': {'message': 'request req_0001'}}"), None, "HTTP_429"),
    "a class in the text": ({}, Status(code=2, message="InternalServerError: failure number 95"), None, "InternalServerError"),
    "nothing but text": ({}, Status(code=2, message="something about customer 4711"), None, "ERROR"),
    "text where a code should be": ({"error.type": "could not serve customer 4711"}, Status(code=2), None, "ERROR"),
    "no failure": ({}, Status(code=0, message="Error code: 429"), None, None),
    "a failed answer without a status": ({"http.response.status_code": 404}, Status(), None, "HTTP_404"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_an_error_code_is_a_word_of_a_vocabulary_and_its_text_a_sample(case: str) -> None:
    attributes, status, thrown, expected = FAILURES[case]
    failed = span({"lastgood.endpoint": "chat", **attributes}, status=status)
    if thrown:
        failed.events.add(
            name="exception", time_unix_nano=AT, attributes=pairs({"exception.type": thrown, "exception.message": "m"})
        )
    row = rows(failed)[0]
    assert row["error_code"] == expected
    text = dict(row["attributes"]).get("error_text")
    assert text == (status.message or None if status.code == 2 else None)


def test_a_first_token_is_an_event_of_any_dialect_and_a_span_that_ended_before_it_is_not_believed() -> None:
    for name in sorted(dialects.FIRST_TOKENS):
        streamed = span()
        streamed.events.add(name=name, time_unix_nano=AT + 400_000_000)
        streamed.events.add(name=name, time_unix_nano=AT + 300_000_000)
        assert [(row["ttft_ms"], row["latency_ms"]) for row in rows(streamed)] == [(300.0, None)], (
            "its end is not known"
        )


ENDPOINTS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None, str | None]] = {
    "the span's own": ({"lastgood.endpoint": "a", "mlflow.databricks.modelServingEndpointName": "b"}, {"service.name": "s"}, "a", "e"),
    "the platform's": ({"mlflow.databricks.modelServingEndpointName": '"b"'}, {"service.name": "s"}, "b", "e"),
    "the process's": ({"server.address": "10.0.0.1"}, {"service.name": "s"}, "s", None),
    "stated for the process": ({"server.address": "10.0.0.1"}, {"lastgood.endpoint": "a", "service.name": "s"}, "a", "e"),
    "no service named": ({"gen_ai.request.model": "m", "server.address": "10.0.0.1"}, {"service.name": "unknown_service:python"}, "m", None),
    "a server's address, where nothing else is known": ({"server.address": "10.0.0.1"}, {}, "10.0.0.1", None),
    "what an SDK writes for want of a name": ({}, {"service.name": "unknown_service"}, "unknown_service", None),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDPOINTS)
def test_what_names_an_endpoint_is_asked_in_one_order(case: str) -> None:
    attributes, resource, endpoint, marks = ENDPOINTS[case]
    row = rows(span({"gen_ai.operation.name": "chat", **attributes}), resource=resource)[0]
    assert (row["endpoint"], row["marks"]) == (endpoint, marks)


def test_the_order_of_what_names_an_endpoint_is_a_setting() -> None:
    order = ["peer.service", "service.name"]
    call = export(
        group(
            span({"gen_ai.operation.name": "chat", "peer.service": "chat", "lastgood.endpoint": "x"}),
            resource={"service.name": "s"},
        )
    )
    fast = TraceDecoder(endpoint_attributes=order).decode([(call.SerializeToString(), NOW)]).table.to_pylist()[0]
    slow = SpanDecoder(endpoint_attributes=order).traces(call, NOW).rows[0]
    assert [(row["endpoint"], row["marks"]) for row in (fast, slow)] == [("chat", "e")] * 2


def test_evaluations_on_spans_become_scores_of_the_request() -> None:
    judged = span(
        {"lastgood.request_id": "r1", "lastgood.endpoint": "chat", "eval.tone.score": 0.25, "eval.tone.label": "rude"}
    )
    marks = {
        "gen_ai.evaluation.name": "relevance",
        "gen_ai.evaluation.score.value": 0.9,
        "gen_ai.evaluation.score.label": "good",
    }
    judged.events.add(name="gen_ai.evaluation.result", time_unix_nano=AT, attributes=pairs(marks))
    judged.events.add(name="mlflow.chunk.item.0", time_unix_nano=AT + 30_000_000)
    found = both(export(group(judged)))
    assert found.rows[0]["ttft_ms"] == 30.0
    said = {one["name"]: (one["request_id"], one["endpoint"], one["value"], one["label"]) for one in found.scores}
    assert said == {"relevance": ("r1", "chat", 0.9, "good"), "tone": ("r1", "chat", 0.25, "rude")}
    assert pa.Table.from_pylist(found.scores, telemetry.arrow_schema(tables.SCORES.fields)).num_rows == 2


def test_messages_are_read_as_what_was_asked_and_said() -> None:
    asked = [
        {"role": "system", "parts": [{"type": "text", "content": "be kind"}]},
        {"role": "user", "parts": [{"type": "text", "content": "hi"}]},
    ]
    said = [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "h"}, {"type": "text", "content": "o"}],
            "finish_reason": "stop",
        }
    ]
    marks = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": orjson.dumps(asked).decode(),
        "gen_ai.output.messages": "plain text",
    }
    assert [rows(span(marks))[0][name] for name in ("input", "output")] == ["hi", "plain text"]
    marks["gen_ai.output.messages"] = orjson.dumps(said).decode()
    assert rows(span(marks))[0]["output"] == "ho"


def test_the_order_of_version_attributes_is_a_setting() -> None:
    one = span({"lastgood.endpoint": "chat", "model_version": "2", "app.release": "7"})
    mine = TraceDecoder(["app.release"]).decode([(export(group(one)).SerializeToString(), NOW)])
    assert mine.table.column("model_version").to_pylist() == ["7"]
    assert rows(one)[0]["model_version"] == "2"


NAMES_OF_ALL = st.sampled_from(
    [*sorted(FAST.rows.known), *dialects.HTTP_MARKS, *dialects.LEAVES, "gen_ai.x", "other", "llm.q"]
)
KINDS_OF_VALUE = st.sampled_from(
    [None, "", "x", "chat", "LLM", "AGENT", "5", "nan", "1e400", 5, -3, 503, 2**60, 2.5, math.nan, math.inf, 1e16, True, False, b"\xff", ["stop", 1],
     [], {"a": 1}, '{"input_tokens": 7}', '[{"role":"user","parts":[{"content":"hi"}]}]', "\u00e9" * 1100]
)  # fmt: skip
SPANS = st.builds(
    lambda attributes, fields: (attributes, fields),
    st.dictionaries(NAMES_OF_ALL, KINDS_OF_VALUE, max_size=7),
    st.fixed_dictionaries(
        {
            "trace_id": st.sampled_from([b"\x01" * 16, b"\x02" * 16, b"", b"\x03" * 5]),
            "span_id": st.integers(0, 40).map(lambda i: i.to_bytes(8, "big")),
            "parent_span_id": st.sampled_from([b"", b""] + [i.to_bytes(8, "big") for i in range(8)]),
            "kind": st.integers(0, 5),
            "end_time_unix_nano": st.sampled_from([AT, AT + 1, AT + 10**9, AT - 1]),
            "status": st.sampled_from([Status(), Status(code=2), Status(code=2, message="b" * 300)]),
        }
    ),
)
EXPORTS = st.lists(
    st.builds(lambda spans, resource: group(*(span(a, **f) for a, f in spans), resource=resource),
              st.lists(SPANS, max_size=5), st.dictionaries(NAMES_OF_ALL, KINDS_OF_VALUE, max_size=3)),
    max_size=2,
).map(lambda groups: export(*groups))  # fmt: skip


@settings(max_examples=scaled(400))
@given(st.lists(EXPORTS, min_size=1, max_size=3))
def test_both_decoders_say_the_same_of_any_export(requests: list[ExportTraceServiceRequest]) -> None:
    both(*requests)
