"""Which span is the request is decided over its trace: one record per request, whatever the exports, their order and how often they came."""

import random
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soak import scaled

from lastgood.record import telemetry
from lastgood.record.trees import records, steps

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = [field.name for field in telemetry.INBOX]


def part(
    span: str, kind: str, parent: str | None = None, at: float = 0.0, took: float | None = 100.0, **more: Any
) -> dict[str, Any]:
    """An inbox row of a span; `at` and `took` in milliseconds."""
    row = dict.fromkeys(NAMES) | {
        "trace_id": "t", "span_id": span, "parent_id": parent, "part": kind, "requested_at": START + timedelta(milliseconds=at),
        "latency_ms": took, "endpoint": "app", "request_id": f"t/{span}", "source": "otlp", "received_at": START + timedelta(seconds=1),
        "weight": 1.0, "latency_scope": "model",
    }  # fmt: skip
    return row | more


def call(
    span: str, parent: str | None = None, at: float = 0.0, took: float | None = 50.0, **more: Any
) -> dict[str, Any]:
    return part(
        span, "call", parent, at, took, **{"tokens_in": 10, "tokens_out": 5, "step": "chat", "model": "m"} | more
    )


def step(
    span: str, kind: str, parent: str | None = None, at: float = 0.0, took: float | None = 100.0, **more: Any
) -> dict[str, Any]:
    return part(span, "step", parent, at, took, step=kind, **more)


TREES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "an agent with two calls and a tool is one request": (
        [
            step("1", "agent", None, 0, 400), call("2", "1", 10, 100, ttft_ms=20.0), step("3", "tool", "1", 120, 50), call("4", "1", 200, 100),
        ],
        [{"request_id": "t/1", "latency_ms": 400.0, "tokens_in": 20, "tokens_out": 10, "ttft_ms": 30.0, "calls": 2, "model": "m"}],
    ),
    "a library's call around the client's own counts its tokens once": (
        [call("1", None, 0, 100, step="chat"), part("2", "link", "1", 1, 90), call("3", "2", 2, 80, request_id="c1", marks="r")],
        [{"request_id": "c1", "tokens_in": 10, "tokens_out": 5, "latency_ms": 100.0, "calls": 1}],
    ),
    "an agent that tells all tokens itself does not double them": (
        [step("1", "agent", tokens_in=20, tokens_out=10), call("2", "1"), call("3", "1", 60)],
        [{"tokens_in": 20, "tokens_out": 10}],
    ),
    "an agent alone tells its tokens": ([step("1", "agent", tokens_in=20, tokens_out=10)], [{"tokens_in": 20, "tokens_out": 10, "calls": None}]),
    "a class that stands for every status is told by the status": (
        [call("1", error_code="HttpResponseError", tokens_in=None), part("2", "link", "1", 1, 20, error_code="HTTP_429", status_code=429)],
        [{"error_code": "HTTP_429", "status_code": 429}],
    ),
    "a server and the client in it are one request": (
        [part("1", "entry", None, 0, 120, status_code=200), call("2", "1", 5, 100, model_version="7", marks="v", finish_reason="stop")],
        [{"endpoint": "app", "latency_ms": 120.0, "status_code": 200, "model_version": "7", "finish_reason": "stop", "tokens_in": 10}],
    ),
    "a server that takes a client's call is the same request, and names it": (
        [call("1", None, 0, 130, endpoint="shop"), part("2", "link", "1"), part("3", "entry", "2", 10, 100, endpoint="llama", model_version="3", marks="v")],
        [{"endpoint": "llama", "latency_ms": 130.0, "model_version": "3", "tokens_in": 10}],
    ),
    "another service's server, called from within a request, is a request of its own": (
        [step("1", "agent", None, 0, 400), call("2", "1", 10, 100), part("3", "entry", "2", 20, 80, endpoint="llama", tokens_in=10, tokens_out=5)],
        [{"endpoint": "app", "latency_ms": 400.0, "tokens_in": 10}, {"endpoint": "llama", "latency_ms": 80.0, "tokens_in": 10}],
    ),
    "a request of the endpoint that only the call names": (
        [part("1", "entry", None, 0, 120), call("2", "1", 5, 100, endpoint="chat", marks="e")],
        [{"endpoint": "chat", "latency_ms": 120.0, "tokens_in": 10}],
    ),
    "calls of two named endpoints in one request are requests of theirs": (
        [part("1", "entry", None, 0, 220), call("2", "1", 5, 100, endpoint="a", marks="e"), call("3", "1", 110, 100, endpoint="b", marks="e")],
        [{"endpoint": "app", "latency_ms": 220.0, "tokens_in": None}, {"endpoint": "a", "tokens_in": 10}, {"endpoint": "b", "tokens_in": 10}],
    ),
    "calls side by side below a span that is no request are requests": (
        [part("0", "link", "x"), call("1", "0"), call("2", "0", 10), step("3", "agent", "0", 200), call("4", "3", 210)],
        [{"request_id": "t/1"}, {"request_id": "t/2"}, {"request_id": "t/3", "tokens_in": 10}],
    ),
    "a tool that is no part of a request is none": ([part("0", "link", "x"), step("1", "tool", "0")], []),
    "spans whose links are lost belong to the root": (
        [step("1", "workflow", None, 0, 300), call("2", "lost", 10), call("3", "lost as well", 90)], [{"request_id": "t/1", "calls": 2}],
    ),
    "a circle of parents is cut": ([call("1", "2"), call("2", "1", 10)], [{"request_id": "t/1"}]),
    "its own parent": ([call("1", "1")], [{"request_id": "t/1"}]),
    "errors that were healed are kept as attempts": (
        [
            call("1", None, 0, 300, ), call("2", "1", 0, 50, error_code="HTTP_429", tokens_in=None, tokens_out=None),
            part("3", "link", "1", 60, 50, status_code=503), part("4", "link", "1", 120, 100, status_code=200),
        ],
        [{"error_code": None, "healed": 2, "calls": 1, "tokens_in": 10, "latency_ms": 300.0}],
    ),
    "a failure that nobody named has the name of what failed within": (
        [step("1", "workflow", None, 0, 100, error_code="ERROR"), call("2", "1", 5, 50, error_code="HTTP_500", status_code=500, tokens_in=None)],
        [{"error_code": "HTTP_500", "status_code": 500, "healed": None}],
    ),
    "an application that answers although a call failed has succeeded": (
        [part("1", "entry", None, 0, 100, status_code=200), call("2", "1", 5, 50, error_code="HTTP_500")], [{"error_code": None, "healed": 1}],
    ),
    "a span that ended when it handed over its stream is not believed": (
        [call("1", None, 0, 61, tokens_in=None, tokens_out=None), call("2", "1", 5, 495, ttft_ms=60.0, finish_reason="stop", streaming=True)],
        [{"latency_ms": 500.0, "ttft_ms": 65.0, "tokens_in": 10, "finish_reason": "stop", "streaming": True}],
    ),
    "a stream of which only the first token is known": (
        [call("1", None, 0, 19, streaming=True), call("2", "1", 1, None, ttft_ms=60.0)], [{"latency_ms": None, "ttft_ms": 61.0}],
    ),
    "a stream whose end a log record tells": (
        [call("1", None, 0, 19), call("2", "1", 1, None, ttft_ms=60.0), part("2", "event", None, 500, None, output="a")],
        [{"latency_ms": 500.0, "output": "a"}],
    ),
    "a stream that begins when it is read": ([step("1", "chain", None, 0, 2), call("2", "1", 30, 400)], [{"latency_ms": 430.0}]),
    "a stream that breaks after its span has ended": (
        [call("1", None, 0, 61), call("2", "1", 5, 295, error_code="APIError")], [{"latency_ms": 300.0, "error_code": "APIError"}],
    ),
    "what is done after the answer does not make it late": ([step("1", "chain", None, 0, 100), call("2", "1", 5, 50), call("3", "1", 120, 400)],
        [{"latency_ms": 100.0}]),
    "what a server does after its answer does not make it late": ([part("1", "entry", None, 0, 100), call("2", "1", 5, 400)], [{"latency_ms": 100.0}]),
    "texts that come apart from their span": (
        [call("1"), part("1", "event", None, 49, 0.0, input="q", output="a", tokens_cached=4, latency_ms=None)],
        [{"input": "q", "output": "a", "tokens_cached": 4, "latency_ms": 50.0}],
    ),
    "texts without a span": ([part("1", "event", None, 49, 0.0, input="q")], []),
    "one answer that two instrumentations report side by side": (
        [step("1", "chain"), call("2", "1", 5, 60, request_id="c", marks="r"), call("3", "1", 6, 50, request_id="c", marks="r")],
        [{"request_id": "c", "tokens_in": 10, "calls": 1}],
    ),
    "the ids of a transport's spans are not the request's": (
        [call("1", None, request_id="chatcmpl-1", marks="r"), part("2", "link", "1", request_id="az-1", marks="r")], [{"request_id": "chatcmpl-1"}],
    ),
    "a server whose clock is ahead does not make its caller late": (
        [
            step("1", "agent", None, 0, 500), part("2", "link", "1", 10, 400), part("3", "entry", "2", 300_010, 300),
            call("4", "3", 300_020, 250, ttft_ms=30.0),
        ],
        [{"latency_ms": 500.0, "ttft_ms": 100.0}],
    ),
    "nor does one whose clock is behind": (
        [
            step("1", "agent", None, 0, 500), part("2", "link", "1", 10, 400), part("3", "entry", "2", -300_010, 300),
            call("4", "3", -300_000, 250, ttft_ms=30.0),
        ],
        [{"latency_ms": 500.0, "ttft_ms": 100.0}],
    ),
    "the client's id is the request's": (
        [part("1", "entry"), call("2", "1", request_id="c", marks="r"), part("3", "named", "1", request_id="mine", marks="i")],
        [{"request_id": "mine"}],
    ),
    "parallel calls": ([step("1", "workflow", None, 0, 120), *(call(str(i), "1", 5, 100) for i in range(2, 9))], [{"calls": 7, "tokens_in": 70}]),
}  # fmt: skip


@pytest.mark.parametrize("case", TREES)
def test_the_requests_of_a_trace(case: str) -> None:
    parts, expected = TREES[case]
    made = records(parts)
    assert [{name: row[name] for name in wanted} for row, wanted in zip(made, expected, strict=True)] == expected
    assert all(set(row) == set(NAMES) for row in made)


@pytest.mark.parametrize("case", TREES)
def test_any_order_and_any_number_of_copies_give_the_same_requests(case: str) -> None:
    parts, _ = TREES[case]
    chance = random.Random(case)
    for _ in range(20):
        again = [*parts, *chance.choices(parts, k=3)]
        chance.shuffle(again)
        assert records(again) == records(parts)


SPANS = st.lists(
    st.tuples(st.sampled_from(["call", "entry", "named", "step", "link"]), st.integers(-1, 12), st.integers(0, 400), st.integers(0, 400),
              st.sampled_from([None, "HTTP_500"]), st.sampled_from(["", "e", "v", "r", "i"]), st.sampled_from(["a", "b", None])),
    min_size=1, max_size=12,
)  # fmt: skip


def drawn(spans: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        part(str(i), kind, None if parent < 0 else str(parent), at, took, error_code=code, marks=marks or None, endpoint=endpoint,
             tokens_in=7 if kind == "call" else None, step={"call": "chat", "step": "agent"}.get(kind))
        for i, (kind, parent, at, took, code, marks, endpoint) in enumerate(spans)
    ]  # fmt: skip


@settings(max_examples=scaled(200))
@given(SPANS, st.randoms(use_true_random=False))
def test_the_outcome_is_the_same_in_any_order_and_every_part_belongs_to_one_request(
    spans: Sequence[Any], chance: random.Random
) -> None:
    parts = drawn(spans)
    made = records(parts)
    shuffled = [*parts, *chance.choices(parts, k=2)]
    chance.shuffle(shuffled)
    assert records(shuffled) == made
    told = sum(row["tokens_in"] or 0 for row in made)
    assert told <= 7 * sum(row["part"] == "call" for row in parts)
    assert len({row["span_id"] for row in made}) == len(made)
    outermost = [row for row in parts if row["parent_id"] is None and row["part"] not in ("link",)]
    assert len(made) >= bool(outermost)


def test_a_trace_as_deep_as_a_sender_likes() -> None:
    parts = [
        call("0", None, 0, 9000),
        *(part(str(i), "link", str(i - 1), 0, 9000) for i in range(1, 5000)),
        call("x", "4999", 10),
    ]
    assert [(row["calls"], row["tokens_in"]) for row in records(parts)] == [(1, 10)]


@pytest.mark.parametrize(
    "shape",
    [
        lambda n: [step("r", "agent", None, 0, 1), *(call(f"{i}", "r", 9 + i, 5, request_id=f"{i}", marks="r") for i in range(n))],
        lambda n: [step(f"{i}", "chain", f"{i - 1}", i, 5) for i in range(n)],
        lambda n: [step(f"{i}", "agent", f"{i - 1}" if i else None, i, 5, endpoint=f"e{i % 2}", marks="e") for i in range(n)],
        lambda n: [step("r", "agent"), *(step(f"{i}", "tool", "r", i, 5, step_name=f"t{i}", input="x") for i in range(n))],
    ],
    ids=["calls that begin late", "steps without a root", "agents of two endpoints in each other", "tools"],
)  # fmt: skip
def test_what_a_trace_costs_grows_with_its_steps_and_not_with_their_square(
    shape: Callable[[int], list[dict[str, Any]]],
) -> None:
    def cost(n: int) -> int:
        """Calls of functions."""
        parts, profile, calls = shape(n), sys.getprofile(), 0

        def count(_: Any, event: str, __: Any) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        try:
            records(parts)
        finally:
            sys.setprofile(profile)
        return calls

    assert cost(800) < 3 * cost(400)


def test_a_run_says_what_its_tools_did_and_their_success_is_a_score() -> None:
    parts = [
        step("1", "agent", None, 0, 900, step_name="support"), call("2", "1"), step("3", "tool", "1", 100, 50, step_name="weather", input="Paris"),
        step("4", "tool", "3", 101, 48, step_name="weather", input="Paris"), step("5", "tool", "1", 200, 50, step_name="weather", input="Paris"),
        step("6", "tool", "1", 300, 100, step_name="book", error_code="TimeoutError", input="x"), step("7", "tool", "1", 500, 50, step_name="weather"),
        step("8", "agent", "1", 600, 200, step_name="billing", error_code="GraphRecursionError"),
    ]  # fmt: skip
    (made,) = records(parts)
    assert dict(made["attributes"]) == {
        "run.agent": "support", "run.agents": "2", "run.handoffs": "1", "run.tools": "4", "run.tool_failures": "1", "run.repeated": "1",
        "run.longest": "2", "run.tool_ms": "250.0", "run.step_limit": "true", "eval.tools": "0.75", "eval.loops": "0",
    }  # fmt: skip
    assert records([call("1")])[0]["attributes"] is None


@pytest.mark.parametrize(
    ("between", "calls"),
    [
        (part("b", "link", "2", 11, 40), 1), (step("b", "chain", "2", 11, 40), 1), (call("b", "2", 11, 40), 2),
        (step("b", "agent", "2", 11, 40), 2), (step("b", "tool", "2", 11, 40, step_name="other"), 3),
    ],
)  # fmt: skip
def test_nested_reports_of_a_tool_call_are_one_whatever_stands_between_but_a_model_or_an_agent(
    between: dict[str, Any], calls: int
) -> None:
    outer, inner = step("2", "tool", "1", 10, 50, step_name="pay"), step("3", "tool", "b", 12, 30, step_name="pay")
    parts = [step("1", "agent", None, 0, 500), outer, between, inner]
    (made,) = records(parts)
    assert dict(made["attributes"])["run.tools"] == str(calls)
    assert sum(row["kind"] == "tool" for row in steps(parts)) == calls


def test_a_run_that_fails_fifty_times_in_one_tool_is_one_unit_of_evidence() -> None:
    tools = [
        step(f"t{i}", "tool", "1", 10.0 * i, 5, step_name="search", error_code="HTTP_500", input=str(i))
        for i in range(50)
    ]
    (made,) = records([step("1", "agent", None, 0, 900, step_name="a"), *tools])
    told = dict(made["attributes"])
    assert (told["run.tools"], told["run.tool_failures"], told["eval.tools"], told["eval.loops"]) == (
        "50",
        "50",
        "0.0",
        "1",
    )


@pytest.mark.parametrize(
    ("arguments", "loops"),
    [(["a", "a", "a"], "0"), (["a", "a", "b"], "1"), ([None, None, None], "1"), ([], "1")],
)
def test_a_run_loops_where_one_call_is_made_three_times_with_the_same_arguments(
    arguments: list[str | None], loops: str
) -> None:
    tools = [
        step(f"t{i}", "tool", "1", 10.0 * i, 5, step_name="search", input=given) for i, given in enumerate(arguments)
    ]
    (made,) = records([step("1", "agent", None, 0, 900, step_name="a"), *tools])
    told = dict(made["attributes"])
    assert told["eval.loops"] == loops
    assert ("run.longest" in told) == any(arguments), "what is not captured is not known"


def test_time_in_tools_that_run_side_by_side_counts_once_and_a_hand_off_is_a_change_of_agent() -> None:
    (made,) = records([
        step("1", "workflow", None, 0, 900, step_name="flow"), step("2", "agent", "1", 0, 300, step_name="a"), step("3", "agent", "1", 310, 300, step_name="b"),
        step("4", "agent", "1", 620, 100, step_name="a"), step("5", "tool", "2", 10, 100, step_name="x"), step("6", "tool", "2", 60, 100, step_name="y"),
    ])  # fmt: skip
    told = dict(made["attributes"])
    assert (told["run.tool_ms"], told["run.handoffs"], told["run.agents"], told["run.agent"]) == (
        "150.0",
        "2",
        "2",
        "a",
    )
