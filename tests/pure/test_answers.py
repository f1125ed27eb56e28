"""What each family of models answers: text, tool calls, finish reason, refusal; whole and streamed; broken streams; NaN."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lastgood.cli.check import check
from lastgood.collectors.bodies import NOT_FINITE, Body, extract
from lastgood.record.vocabulary import ANSWER_FAILED, STREAM_BROKEN
from lastgood.settings import load

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}
SEEN = [{"name": "weather", "arguments": '{"city":"Ulm"}'}]


def chat(message: dict[str, Any], reason: str | None = "stop") -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant"} | message, "finish_reason": reason}]}


def deltas(*pieces: dict[str, Any], end: str | None = "stop") -> list[Any]:
    return [*({"choices": [{"delta": piece}]} for piece in pieces), {"choices": [{"delta": {}, "finish_reason": end}]}]


def done(**item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": item}


SPOKEN = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}
ANSWERS: dict[str, tuple[Any, tuple[str | None, Any, str | None]]] = {
    "a tool call, content null": (chat({"content": None, "tool_calls": [CALL]}, "tool_calls"), (None, SEEN, "tool_calls")),
    "a tool call, content empty": (chat({"content": "", "tool_calls": [CALL]}, "tool_calls"), (None, SEEN, "tool_calls")),
    "a tool call beside words": (chat({"content": "one moment", "tool_calls": [CALL]}), ("one moment", SEEN, "stop")),
    "a function call of old": (
        chat({"content": None, "function_call": {"name": "weather", "arguments": '{"city":"Ulm"}'}}, "function_call"), (None, SEEN, "tool_calls"),
    ),
    "a tool call in pieces": (
        deltas(
            {"role": "assistant", "content": None},
            {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '"Ulm"}'}}]},
            end="tool_calls",
        ),
        (None, SEEN, "tool_calls"),
    ),
    "a refusal by field": (chat({"content": None, "refusal": "I will not"}), ("I will not", None, "stop")),
    "audio": (chat({"content": None, "audio": {"id": "a", "data": "UklGRg==", "transcript": "hello"}}), ("hello", None, "stop")),
    "an image": (chat({"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}), ("[image_url]", None, "stop")),
    "reasoning before the text": (
        chat({"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, {"type": "text", "text": "yes"}]}),
        ("yes", None, "stop"),
    ),
    "reasoning beside the text": (chat({"content": "yes", "reasoning_content": "hm"}), ("yes", None, "stop")),
    "log probabilities": ({"choices": [{"text": "a", "logprobs": {"tokens": ["a"]}, "finish_reason": "length"}]}, ("a", None, "length")),
    "an embedding as base64": ({"data": [{"embedding": "AACAPw=="}]}, (None, None, None)),
    "a Responses answer": ({"output": [{"type": "reasoning"}, SPOKEN], "status": "completed"}, ("hi", None, "stop")),
    "a Responses answer cut by length": (
        {"output": [SPOKEN], "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, ("hi", None, "length"),
    ),
    "a Responses call": (
        {"output": [{"type": "function_call", "name": "weather", "arguments": '{"city":"Ulm"}'}], "status": "completed"}, (None, SEEN, "tool_calls"),
    ),
    "a Responses stream of done items alone": ([done(**SPOKEN)], ("hi", None, "stop")),
    "a Responses stream of calls alone": (
        [done(type="function_call", name="weather", arguments='{"city":"Ulm"}')], (None, SEEN, "tool_calls"),
    ),
    "a Responses stream with deltas and its item": (
        [{"type": "response.output_text.delta", "delta": "h"}, {"type": "response.output_text.delta", "delta": "i"}, done(**SPOKEN)],
        ("hi", None, "stop"),
    ),
    "a Responses stream to its end": (
        [{"type": "response.output_text.delta", "delta": "hi"}, {"type": "response.completed", "response": {"status": "completed", "output": [SPOKEN]}}],
        ("hi", None, "stop"),
    ),
    "a ChatAgent": (
        {"messages": [{"role": "tool", "content": "21 C"}, {"role": "assistant", "content": "21 degrees", "id": "m"}], "finish_reason": "stop"},
        ("21 degrees", None, "stop"),
    ),
    "a ChatAgent's stream": (
        [{"delta": {"role": "assistant", "content": "21 "}}, {"delta": {"content": "degrees"}, "finish_reason": "stop"}], ("21 degrees", None, "stop"),
    ),
    "Anthropic": (
        {
            "type": "message", "stop_reason": "tool_use",
            "content": [{"type": "text", "text": "hi"}, {"type": "tool_use", "name": "weather", "input": {"city": "Ulm"}}],
        },
        ("hi", SEEN, "tool_calls"),
    ),
    "Anthropic's stream": (
        [
            {"type": "message_start", "message": {"usage": {"input_tokens": 5}}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}, {"type": "message_stop"},
        ],
        ("hi", None, "stop"),
    ),
    "Google": (
        {"candidates": [{
            "content": {"parts": [{"text": "hi"}, {"functionCall": {"name": "weather", "args": {"city": "Ulm"}}}]}, "finishReason": "MAX_TOKENS",
        }]},
        ("hi", SEEN, "length"),
    ),
}  # fmt: skip


def read(response: Any, request: Any = None) -> Body:
    return extract(json.dumps(request or {"messages": []}), json.dumps(response))


@pytest.mark.parametrize("family", ANSWERS)
def test_family_gives_text_calls_and_reason(family: str) -> None:
    response, (text, calls, reason) = ANSWERS[family]
    body = read(response)
    assert (body.output, body.tool_calls and json.loads(body.tool_calls), body.finish_reason) == (text, calls, reason)
    assert body.problem is body.error_code is None
    assert body.refusal == ("1" if "refusal" in family else None)


TWO = [
    {"index": 1, "message": {"content": "b"}, "finish_reason": "length"},
    {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},
]
FORMS: dict[str, tuple[Any, tuple[str | None, Any, str | None]]] = {
    "two choices out of order": ({"choices": TWO}, ("a", None, "stop")),
    "two choices streamed": (
        [{"choices": [{"index": i % 2, "delta": {"content": "aXbY"[i]}, "finish_reason": "stop" if i > 1 else None}]} for i in range(4)],
        ("ab", None, "stop"),
    ),
    "calls without an index": (
        deltas(*({"tool_calls": [{"id": name, "function": {"name": name, "arguments": "{}"}}]} for name in "fg"), end="tool_calls"),
        (None, [{"name": name, "arguments": "{}"} for name in "fg"], "tool_calls"),
    ),
    "a function call of old in pieces": (
        deltas({"content": None, "function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": "{}"}}, end="function_call"),
        (None, [{"name": "f", "arguments": "{}"}], "tool_calls"),
    ),
    "Google's call in a stream": (
        [{"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {}}}]}, "finishReason": "STOP"}]}],
        (None, [{"name": "f", "arguments": "{}"}], "stop"),
    ),
    "Google's blocked prompt": ({"promptFeedback": {"blockReason": "SAFETY"}}, (None, None, "content_filter")),
    "a custom tool's call": (
        {"output": [{"type": "custom_tool_call", "name": "f", "input": "x"}], "status": "completed"},
        (None, [{"name": "f", "arguments": "x"}], "tool_calls"),
    ),
    "a ChatAgent's stream as its messages end": ([{"delta": {"role": "assistant", "content": t, "id": "1"}} for t in "ab"], ("ab", None, None)),
    "a ChatAgent's stream with a tool": (
        [{"delta": {"role": role, "content": role, "id": str(i)}} for i, role in enumerate(("assistant", "tool", "assistant"))],
        ("assistant", None, None),
    ),
    "a pipeline's list of one": ([{"generated_text": "a"}], ("a", None, None)),
    "text-generation-inference, streamed": (
        [{"token": {"text": "a"}}, {"token": {"text": "b"}, "generated_text": "ab", "details": {"finish_reason": "eos_token"}}], ("ab", None, "stop"),
    ),
    "a chat behind predictions": ({"predictions": [chat({"content": "a"})]}, ("a", None, "stop")),
    "Bedrock's converse": ({"output": {"message": {"content": [{"text": "a"}]}}, "stopReason": "max_tokens"}, ("a", None, "length")),
    "chunks as texts": ([json.dumps(chunk) for chunk in deltas({"content": "a"})], ("a", None, "stop")),
    "JSON in a JSON text": (json.dumps(chat({"content": "a"})), ("a", None, "stop")),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_servers_write_are_read(form: str) -> None:
    response, (text, calls, reason) = FORMS[form]
    body = read(response)
    assert (body.output, body.tool_calls and json.loads(body.tool_calls), body.finish_reason) == (text, calls, reason)
    assert body.problem is body.error_code is None


STREAM = 'data: {"choices": [{"delta": {"content": "a\u2028b"}}]}\n\ndata: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'


@pytest.mark.parametrize(
    "text",
    [
        STREAM, ": ping\n\n" + STREAM, "\ufeff" + STREAM, "\n" + STREAM, "id: 1\n" + STREAM, STREAM.replace("\n", "\r\n"),
        STREAM.replace("data: ", "").replace("\n\n", "\n"), STREAM.replace("stop", "null") + "data: [DONE]\n\n",
    ],
)  # fmt: skip
def test_events_are_read_however_they_are_logged(text: str) -> None:
    body = extract("{}", text)
    assert (body.output, body.error_code, body.problem) == ("a\u2028b", None, None)


def test_an_error_event_that_is_no_json_breaks_a_stream() -> None:
    assert extract("{}", "event: error\ndata: Internal Server Error\n\n").error_code == STREAM_BROKEN


@pytest.mark.parametrize(
    "response",
    [
        {"error": {"message": "boom", "code": 500}}, {"error": "out of memory"}, {"type": "error", "error": {"type": "overloaded_error"}},
        {"output": [], "status": "failed"}, {"choices": [{"message": {"content": ""}, "finish_reason": "error"}]},
    ],
)  # fmt: skip
def test_an_error_behind_a_good_status_is_a_failure(response: dict[str, Any]) -> None:
    assert read(response).error_code == ANSWER_FAILED
    assert read(response | {"error": None, "status": "completed"} | chat({"content": "a"})).error_code is None


def test_tokens_of_a_stream_are_those_of_all_its_events() -> None:
    events = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 30, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"text": "hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}}, {"type": "message_stop"},
    ]  # fmt: skip
    body = read(events)
    assert (body.tokens_in, body.tokens_out) == (30, 15)


def test_what_tools_send_as_the_user_is_no_prompt() -> None:
    asked = [{"role": "user", "content": "q"}, {"role": "user", "content": [{"type": "tool_result", "content": "42"}]}]
    assert read({}, {"messages": asked}).input == "q"


def test_json_is_asked_for_in_either_place() -> None:
    form = {"type": "json_schema", "schema": {"required": ["a"]}}
    assert read({}, {"input": "q", "text": {"format": form}}).response_format == "json:a"


BROKEN: dict[str, list[Any]] = {
    "cut": deltas({"content": "and th"})[:1],
    "an error event": [*deltas({"content": "and th"})[:1], {"error": {"message": "boom", "code": 500}}],
    "an error after the end": [*deltas({"content": "all"}), {"error": {"message": "boom"}}],
    "a Responses stream cut": [{"type": "response.output_text.delta", "delta": "and th"}],
    "a Responses stream that failed": [{"type": "response.output_text.delta", "delta": "a"}, {"type": "response.failed", "response": {"error": {"code": "x"}}}],
    "an Anthropic stream cut": [{"type": "message_start", "message": {}}, {"type": "content_block_delta", "delta": {"text": "a"}}],
    "a ChatAgent's stream that failed": [{"delta": {"content": "a"}}, {"error": {"message": "boom"}}],
    "an Anthropic stream that failed": [{"type": "message_start", "message": {}}, {"type": "error", "error": {"type": "overloaded_error"}}],
    "a stream whose reason is the word null": [{"choices": [{"delta": {"content": "a"}, "finish_reason": "null"}]}],
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_a_stream_that_breaks_is_a_failure_of_its_own(how: str) -> None:
    body = read(BROKEN[how])
    assert body.error_code == STREAM_BROKEN
    assert (body.problem or "").startswith("stream broken: ")


@pytest.mark.parametrize(
    "text",
    [
        'data: {"choices": [{"delta": {"content": "and th"}}]}\n\ndata: {"choi',
        'event: response.output_text.delta\ndata: {"type": "response.output_text.delta", "delta": "and th"}\n',
        '[{"choices": [{"delta": {"content": "and th"}}]}, {"choi',
    ],
)
def test_a_stream_whose_text_is_cut_is_broken(text: str) -> None:
    assert extract('{"messages": [], "stream": true}', text).error_code == STREAM_BROKEN


@pytest.mark.parametrize("chunks", [[], [1, 2], [{"anything": 1}], [{"generated_text": "a"}]])
def test_a_list_that_is_no_known_stream_is_not_called_broken(chunks: list[Any]) -> None:
    body = read(chunks)
    assert body.error_code is None or chunks == [{"generated_text": "a"}]


def test_prompts_of_images_and_audio_are_named_not_copied() -> None:
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    assert read({}, {"messages": [{"role": "user", "content": parts}]}).input == "what is this?"
    assert read({}, {"messages": [{"role": "user", "content": parts[1:]}]}).input == "[image_url]"


def test_features_that_are_not_finite_are_null_or_infinite_and_said() -> None:
    body = extract(
        '{"dataframe_records": [{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1.5}]}', '{"predictions": [NaN]}'
    )
    assert body.features == {"a": "", "b": "inf", "c": "-inf", "d": "1.5"}
    assert body.problem == NOT_FINITE
    split = extract('{"dataframe_split": {"columns": ["a", "b"], "data": [[NaN, 2]]}}', None)
    assert split.features == {"a": "", "b": "2"}


def judged(tmp_path: Any, answers: Any) -> dict[str, Any]:
    """`check` of a table whose second entity answers `answers(i)`, the first words."""
    rows = 600
    table = pa.table({
        "databricks_request_id": [f"r{i}" for i in range(rows)],
        "request_time": pa.array([1_772_366_400_000_000 + i * 5_000_000 for i in range(rows)], pa.timestamp("us", "UTC")),
        "status_code": [200] * rows, "execution_duration_ms": [20] * rows, "served_entity_id": ["a", "b"] * (rows // 2),
        "request": [json.dumps({"messages": [{"role": "user", "content": f"question {i}"}], "stream": True}) for i in range(rows)],
        "response": [json.dumps(answers(i) if i % 2 else chat({"content": f"an answer, the {i}th"})) for i in range(rows)],
    })  # fmt: skip
    path = tmp_path / "chat.parquet"
    pq.write_table(table, path)
    return check(str(path), load(None))["endpoints"][0]


def test_a_version_that_calls_tools_is_not_accused(tmp_path: Any) -> None:
    endpoint = judged(tmp_path, lambda _: chat({"content": None, "tool_calls": [CALL]}, "tool_calls"))
    assert endpoint["versions"]["b"]["error_rate"] == 0.0
    assert not endpoint["versions"]["b"]["bad_answers"]
    assert endpoint["verdict"]["state"] not in ("RollBack", "Page")


def test_broken_streams_are_counted_as_errors(tmp_path: Any) -> None:
    endpoint = judged(tmp_path, lambda i: deltas({"content": "a"})[: 1 if i % 8 == 1 else 2])
    figures = endpoint["versions"]["b"]
    assert figures["error_rate"] == pytest.approx(0.25)
    assert figures["error_codes"] == {STREAM_BROKEN: 75.0}
    assert endpoint["verdict"]["state"] == "RollBack"
