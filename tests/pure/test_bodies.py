"""Bodies of every family are read; hostile ones never raise."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.collectors.bodies import MAX_BODY, MAX_FEATURES, Body, extract


def dumps(document: Any) -> str:
    return orjson.dumps(document).decode()


USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "chat": (
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}], "stream": False},
        {"choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}], "usage": USAGE},
        {
            "input": "hello", "output": "hi", "finish_reason": "stop", "tokens_in": 12, "tokens_out": 3, "streaming": False,
        },
    ),
    "chat with content parts and an assistant turn last": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": "thinking"},
            ]
        },
        {"choices": [{"message": {"content": [{"type": "text", "text": "c"}]}}]},
        {"input": "ab", "output": "c", "finish_reason": None},
    ),
    "completions": (
        {"prompt": "once", "client_request_id": "mine"},
        {"choices": [{"text": "upon", "finish_reason": "length"}], "usage": USAGE},
        {"input": "once", "output": "upon", "finish_reason": "length", "client_request_id": "mine"},
    ),
    "the prompt contract": (
        {"prompt": "why", "system_message": "s", "max_tokens": 9, "metadata": {"team": "search", "env": "prod"}},
        {"generated_text": "because", "model_version": "2", "latency_ms": 4.0, "request_id": "r", "finish_reason": "stop"},
        {"input": "why", "output": "because", "team": "search", "env": "prod", "finish_reason": "stop"},
    ),
    "embeddings": (
        {"input": "vector me"},
        {"data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 2}},
        {"input": "vector me", "output": "[0.1]", "tokens_in": 2, "tokens_out": None},
    ),
    "JSON asked for by schema": (
        {"prompt": "q", "response_format": {"type": "json_schema", "json_schema": {"schema": {"required": ["a", "b", 3]}}}},
        {"generated_text": "{}"},
        {"output": "{}", "response_format": "json:a,b"},
    ),
    "JSON asked for": ({"prompt": "q", "response_format": {"type": "json_object"}}, {}, {"response_format": "json"}),
    "dataframe_split": (
        {"dataframe_split": {"columns": ["age", "city"], "data": [[31, "Ulm"]]}},
        {"predictions": [0.5]},
        {"features": {"age": "31", "city": "Ulm"}, "output": "0.5", "records": 1},
    ),
    "dataframe_records": (
        {"dataframe_records": [{"age": 31, "city": None}]},
        {"predictions": [{"score": 1}]},
        {"features": {"age": "31", "city": ""}, "output": '{"score":1}'},
    ),
    "instances as rows": ({"instances": [[1.5, "x"]]}, {"predictions": [1]}, {"features": {"0": "1.5", "1": "x"}}),
    "instances as scalars": ({"instances": [7, 7]}, {"predictions": [1]}, {"features": {"0": "7"}, "output": "[1]"}),
    "inputs as columns": ({"inputs": {"a": [1, 1], "b": 3}}, {"outputs": [1]}, {"features": {"a": "1", "b": "3"}}),
    "inputs as a tensor": ({"inputs": [[1, 2]]}, {"predictions": [1]}, {"features": {"0": "1", "1": "2"}}),
    "an agent's output list": (
        {"input": [{"role": "user", "content": "book it"}]},
        {
            "output": [{"type": "function_call"}, {"type": "message", "content": [{"type": "output_text", "text": "done"}]}],
            "status": "completed",
            "usage": {"input_tokens": 5, "output_tokens": 6},
        },
        {"input": "book it", "output": "done", "finish_reason": "stop", "tokens_in": 5, "tokens_out": 6},
    ),
    "an agent's output list that ends with a call": (
        {"input": "book it"},
        {"output": [{"type": "message", "content": [{"text": "done"}]}, {"type": "function_call", "name": "n"}]},
        {"output": "done"},
    ),
    "an agent's stream": (
        {"input": "book it", "stream": True},
        [
            {"type": "response.output_text.delta", "delta": "do"},
            {"type": "response.output_text.delta", "delta": "ne"},
            {"type": "response.completed", "response": {"status": "completed", "usage": {"input_tokens": 5, "output_tokens": 6}}},
        ],
        {"output": "done", "streaming": True, "tokens_in": 5, "tokens_out": 6},
    ),
    "streamed chunks": (
        {"messages": [{"role": "user", "content": "go"}], "stream": True},
        [
            {"choices": [{"delta": {"role": "assistant", "content": "one "}}]},
            {"choices": [{"delta": {"content": "two"}, "finish_reason": None}]},
            {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": None},
            {"choices": [], "usage": USAGE},
        ],
        {"output": "one two", "finish_reason": "stop", "streaming": True, "tokens_in": 12, "tokens_out": 3},
    ),
    "an error": (
        {"prompt": "x"},
        {"error_code": "INTERNAL_ERROR", "message": "m"},
        {"error_code": "INTERNAL_ERROR", "output": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_read(family: str) -> None:
    request, response, expected = FAMILIES[family]
    found = extract(dumps(request), dumps(response).encode())
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.problem is None


def test_a_stream_logged_as_server_sent_events_is_put_together() -> None:
    chunks = [
        {"choices": [{"delta": {"content": "one "}}]},
        {"choices": [{"delta": {"content": "two"}, "finish_reason": "stop"}], "usage": USAGE},
    ]
    said = "".join(f"data: {dumps(one)}\n\n" for one in chunks) + "data: [DONE]\n\n"
    found = extract(dumps({"prompt": "go", "stream": True}), said)
    assert (found.output, found.tokens_out, found.streaming, found.problem) == ("one two", 3, True, None)
    assert (extract("{}", "data: {broken\n").problem or "").startswith("body is not JSON")


def test_of_a_batch_each_record_stands_for_all_as_often_and_brings_its_own_prediction() -> None:
    places = [0] * 4
    for seed in range(2_000):
        rows = [[seed, place] for place in range(4)]
        asked = dumps({"dataframe_split": {"columns": ["seed", "place"], "data": rows}})
        found = extract(asked, dumps({"predictions": [f"p{place}" for place in range(4)]}))
        assert found.records == 4
        assert found.output == f"p{found.features['place']}"
        places[int(found.features["place"])] += 1
    assert max(abs(one - 500) for one in places) < 5 * (2_000 * 0.25 * 0.75) ** 0.5


HOSTILE: dict[str, tuple[str | bytes | None, str | None]] = {
    "not JSON": ("{", "body is not JSON"),
    "empty": ("", "body is not JSON"),
    "a list": ("[1,2]", "request body is not a JSON object"),
    "a number": ("7", "request body is not a JSON object"),
    "NaN": ('{"prompt": NaN}', "numbers in the body are not finite"),
    "NaN beside a lone surrogate": ('{"prompt": NaN, "a": "\\ud800"}', "body is not JSON"),
    "nested 100,000 deep": ("[" * 100_000 + "]" * 100_000, "body is not JSON"),
    "10 MiB nested deep": ("[" * 5 * 2**20 + "]" * 5 * 2**20, "body above 4 MiB"),
    "5 MiB": ('{"prompt":"' + "x" * 5 * 1024 * 1024 + '"}', "body above 4 MiB"),
    "invalid UTF-8": (b'{"prompt": "\xff\xfe"}', "body is not JSON"),
    "a lone surrogate escape": ('{"prompt": "\\ud800"}', "body is not JSON"),
    "a lone surrogate": ('{"prompt": "\ud800"}', "body is not JSON"),
    "nothing": (None, None),
    "null": ("null", None),
    "fields of other types": ('{"messages": 5, "prompt": {"a": 1}, "metadata": [], "stream": "yes"}', None),
    "huge token counts": ('{"prompt": "x"}', None),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_body_is_a_problem_never_an_error(case: str) -> None:
    body, problem = HOSTILE[case]
    found = extract(body, body)
    assert (found.problem or "").startswith(problem or "")
    assert (found.problem is None) == (problem is None)


def test_counts_that_are_no_counts_are_unknown() -> None:
    for value in (-1, 1e300, True, "12", None, 2**60):
        assert extract("{}", dumps({"usage": {"prompt_tokens": value}}) if value != 2**60 else None).tokens_in is None


def test_features_are_bounded() -> None:
    row = {f"c{i}": i for i in range(10_000)}
    assert len(extract(dumps({"dataframe_records": [row]}), None).features) == MAX_FEATURES


def test_a_body_of_the_largest_size_is_read() -> None:
    body = '{"prompt":"' + "x" * (MAX_BODY - 13) + '"}'
    assert len(body) == MAX_BODY
    assert extract(body, None).problem is None


KEYS = st.sampled_from(
    ["messages", "prompt", "input", "choices", "output", "usage", "metadata", "dataframe_split", "dataframe_records",
     "instances", "inputs", "columns", "data", "delta", "message", "content", "text", "role", "finish_reason",
     "client_request_id", "error_code", "prompt_tokens", "predictions", "team", "generated_text", "stream"]
)  # fmt: skip
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.just("user"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text("ab", max_size=2), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(json, json)
def test_any_json_gives_a_body_of_the_promised_types(request: Any, response: Any) -> None:
    found = extract(orjson.dumps(request), orjson.dumps(response))
    kinds = {"records": int, "tokens_in": int, "tokens_out": int, "streaming": bool}
    for name in Body._fields:
        value = getattr(found, name)
        if name == "features":
            assert all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
        else:
            assert value is None or isinstance(value, kinds.get(name, str))


@given(st.binary(max_size=200) | st.text(max_size=200), st.binary(max_size=200))
def test_any_bytes_and_any_text_give_a_body(request: str | bytes, response: bytes) -> None:
    assert isinstance(extract(request, response), Body)


APART = {
    "OpenAI": (
        {"prompt_tokens": 100, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 3},
         "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 1}},
        (100, 50, 64, None, 20, 3, 1),
    ),
    "Anthropic, who counts them beside the others": (
        {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30}, (100, 5, 60, 30, None, None, None),
    ),
    "Google": ({"promptTokenCount": 9, "cachedContentTokenCount": 4, "thoughtsTokenCount": 2}, (9, None, 4, None, 2, None, None)),
    "details that are none": ({"prompt_tokens": 1, "prompt_tokens_details": [7]}, (1, None, None, None, None, None, None)),
}  # fmt: skip


@pytest.mark.parametrize("case", APART)
def test_tokens_that_may_have_prices_of_their_own_are_read(case: str) -> None:
    usage, expected = APART[case]
    found = extract(dumps({"messages": []}), dumps({"choices": [], "usage": usage}))
    names = (
        "tokens_in",
        "tokens_out",
        "tokens_cached",
        "tokens_cache_write",
        "tokens_reasoning",
        "tokens_audio_in",
        "tokens_audio_out",
    )
    assert tuple(getattr(found, name) for name in names) == expected
