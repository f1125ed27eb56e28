"""Spans of every dialect become inbox rows; hostile ones are set aside and never cost the others."""

import math
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from lastgood import telemetry
from lastgood.collectors.otlp_decode import MAX_ATTRIBUTES, MAX_VALUE, decode, parse_json

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


def rows(*spans: Span, resource: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    found = list(decode([group(*spans, resource=resource)], NOW))
    assert pa.Table.from_pylist(found, schema=SCHEMA).num_rows == len(spans)
    return found


DIALECTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GenAI conventions, current": (
        {
            "gen_ai.operation.name": "chat", "gen_ai.response.id": "resp-1", "server.address": "chat-endpoint",
            "gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 34,
            "gen_ai.response.finish_reasons": ["stop", "length"],
            "gen_ai.response.time_to_first_chunk": 0.25, "gen_ai.request.stream": True, "error.type": "timeout",
        },
        {
            "request_id": "resp-1", "endpoint": "chat-endpoint", "tokens_in": 12, "tokens_out": 34, "finish_reason": "stop",
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
        {"request_id": "c-1", "endpoint": "flow", "input": "i"},
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


def test_without_any_id_the_trace_and_span_id_stand_for_the_request() -> None:
    found = rows(span())[0]
    assert found["request_id"] == f"{'01' * 16}/{'02' * 8}"
    assert found["trace_id"] == "01" * 16


def test_a_status_message_says_the_error_where_no_attribute_does() -> None:
    failed = span(status=Status(code=Status.STATUS_CODE_ERROR, message="boom"))
    assert rows(failed)[0]["error_code"] == "boom"
    assert rows(span(status=Status(code=Status.STATUS_CODE_ERROR)))[0]["error_code"] == "ERROR"
    assert rows(span())[0]["error_code"] is None


REJECTED = {
    "no attributes, internal": (span({}, kind=Span.SPAN_KIND_INTERNAL), "span is not a request"),
    "no attributes, client": (span({}), "span is not a request"),
    "a tool call inside a trace": (
        span({"gen_ai.tool.name": "t"}, kind=Span.SPAN_KIND_INTERNAL, parent_span_id=b"\x03" * 8), "span is not a request",
    ),
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
    first, second, third = rows(good, bad, good)
    assert second["reject_reason"] == reason
    assert Span.FromString(second["raw"]).SerializeToString() == bad.SerializeToString()
    assert first == third
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
    found = list(decode(list(ExportTraceServiceRequest.FromString(sent).resource_spans), NOW))
    assert [one["endpoint"] for one in (found[0], found[2])] == ["chat", "chat"]


def test_json_and_protobuf_give_the_same_rows() -> None:
    message = ExportTraceServiceRequest(
        resource_spans=[group(span(DIALECTS["MLflow"][0]), resource={"service.name": "s"})]
    )
    document = MessageToDict(message)
    sent = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    sent |= {"traceId": "01" * 16, "spanId": "02" * 8, "kind": 3}
    parsed = parse_json(orjson.dumps(document))
    assert list(decode(list(parsed.resource_spans), NOW)) == list(decode(list(message.resource_spans), NOW))


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
    assert pa.Table.from_pylist(list(decode(list(message.resource_spans), NOW)), schema=SCHEMA) is not None


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
        assert pa.Table.from_pylist(list(decode(list(message.resource_spans), NOW)), schema=SCHEMA) is not None


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
    rows(span(attributes, start_time_unix_nano=start, end_time_unix_nano=end, status=Status(code=code)))
