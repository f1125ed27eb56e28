"""Conversations: how they went, worked out anew as requests and feedback come in any order, counted by version, judged where the policy says so."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from jobs_support import START, part, put, row, stored

from lastgood import tables
from lastgood.jobs import conversations as conversations_module
from lastgood.jobs.agents import agents
from lastgood.jobs.conform import conform
from lastgood.jobs.conversations import conversations
from lastgood.jobs.maintain import forget
from lastgood.record import telemetry
from lastgood.settings import EndpointSettings, Policy
from lastgood.tables import delta
from lastgood.tables.runs import Context

QUESTION = "Where is my order from last week?"
TWO_HOURS = START + timedelta(hours=2)


def asked(i: int, conversation: str | None, minute: float, **more: Any) -> dict[str, Any]:
    return row(i, conversation_id=conversation, requested_at=START + timedelta(minutes=minute), **more)


def outcomes(ctx: Context) -> dict[str, tuple[Any, ...]]:
    rows = delta.read(ctx.store.path(tables.CONVERSATIONS)).to_pylist()
    return {
        each["conversation_id"]: (
            each["model_version"],
            each["requests"],
            each["abandoned"],
            each["repeated"],
            each["escalated"],
        )
        for each in rows
    }


def said(ctx: Context, **score: Any) -> None:
    given = {
        "endpoint": "chat",
        "value": 1.0,
        "source": "feedback",
        "at": START,
        "received_at": START + timedelta(minutes=30),
    } | score
    delta.append(
        ctx.store.path(tables.SCORES), pa.Table.from_pylist([given], telemetry.arrow_schema(tables.SCORES.fields))
    )


GIVEN = [
    asked(1, "fine", 0, input=QUESTION), asked(2, "fine", 1, input="Thank you, that is all I wanted"),
    asked(3, "abandoned", 0, input=QUESTION), asked(4, "abandoned", 2, input="And another one", error_code="HTTP_500", status_code=500),
    asked(5, "repeated", 0, input=QUESTION), asked(6, "repeated", 1, input="No, that is wrong"),
    asked(7, "repeated", 2, input="  where is MY order, from last week"),
    asked(8, "retried", 0, input=QUESTION, error_code="HTTP_503", status_code=503), asked(9, "retried", 1, input=QUESTION),
    asked(10, "short", 0, input="go on"), asked(11, "short", 1, input="go on"),
    asked(12, "unseen", 0), asked(13, "unseen", 1),
    asked(14, "two versions", 0, input=QUESTION), asked(15, "two versions", 1, input="Thank you, that is all", model_version="3"),
    asked(16, "called for", 0, input=QUESTION), asked(17, None, 0, input=QUESTION, error_code="HTTP_500"),
]  # fmt: skip
EXPECTED = {
    "fine": ("2", 2, False, False, False), "abandoned": ("2", 2, True, False, False), "repeated": ("2", 3, False, True, False),
    "retried": ("2", 2, False, False, False), "short": ("2", 2, False, False, False), "unseen": ("2", 2, False, None, False),
    "two versions": ("*", 2, False, False, False), "called for": ("2", 1, False, False, True),
}  # fmt: skip


def test_how_conversations_went_is_the_same_in_any_order_of_arrival(make: Callable[..., Context]) -> None:
    ctx, whole = make(now=TWO_HOURS), make("whole", TWO_HOURS)
    arriving = list(GIVEN)
    random.Random(3).shuffle(arriving)
    for some in (arriving[:6], arriving[6:]):
        put(ctx.store, some)
        conform(ctx)
        conversations(ctx)
    said(ctx, request_id="r16", name="escalated")
    said(ctx, request_id="r1", name="thumbs")
    said(ctx, request_id="r1", name="escalated", received_at=START + timedelta(minutes=31))
    conversations(ctx)
    assert outcomes(ctx)["fine"][-1], "somebody was asked to take it over"
    withdrawn = {"request_id": "r1", "name": "escalated", "value": None, "at": START + timedelta(minutes=5)}
    said(ctx, **withdrawn)
    conversations(ctx)
    assert outcomes(ctx) == EXPECTED
    said(whole, request_id="r16", name="escalated")
    put(whole.store, GIVEN)
    conform(whole)
    conversations(whole)
    for table in (tables.CONVERSATIONS, tables.CONVERSATION_WINDOWS):
        assert stored(ctx.store, table) == stored(whole.store, table)
    counted = delta.read(ctx.store.path(tables.CONVERSATION_WINDOWS)).to_pylist()
    sums = {
        name: sum(each[name] for each in counted if each["model_version"] == "2")
        for name in ("conversations", "abandoned", "repeated", "escalated", "repeated_known")
    }
    assert sums == {"conversations": 7, "abandoned": 1, "repeated": 1, "escalated": 1, "repeated_known": 6}
    assert delta.read(ctx.store.path(tables.SCORES)).num_rows == 4, "nothing is judged that no policy asks for"


def test_a_conversation_is_over_after_a_silence_and_goes_on_when_somebody_comes_back(
    make: Callable[..., Context],
) -> None:
    clock = [START + timedelta(minutes=10)]
    ctx = make()
    ctx = Context(ctx.spark, ctx.store, ctx.settings, lambda: clock[0])
    put(ctx.store, [asked(1, "c", 0, error_code="HTTP_500", status_code=500, received_at=clock[0])])
    conform(ctx)
    conversations(ctx)
    assert outcomes(ctx) == {"c": ("2", 1, None, None, False)}, "it is open"
    clock[0] = START + timedelta(minutes=40)
    conversations(ctx)
    assert outcomes(ctx) == {"c": ("2", 1, True, None, False)}, "nothing new came, but time passed"
    put(ctx.store, [asked(2, "c", 39, received_at=clock[0])])
    conform(ctx)
    conversations(ctx)
    assert outcomes(ctx) == {"c": ("2", 2, None, None, False)}
    assert delta.read(ctx.store.path(tables.CONVERSATION_WINDOWS)).num_rows == 1, (
        "it is counted where its newest request is"
    )


def test_a_tool_that_the_policy_names_escalates_and_outcomes_are_scored_once_where_they_are_judged(
    make: Callable[..., Context],
) -> None:
    policy = Policy(conversations="judged", escalation_tools=("call_a_person",))
    clock = [TWO_HOURS]
    ctx = make(endpoints={"app": EndpointSettings(policy=policy)})
    ctx = Context(ctx.spark, ctx.store, ctx.settings, lambda: clock[0])
    for trace, tool in ((1, "call_a_person"), (2, "search"), (3, "search")):
        root = part(
            trace,
            "1",
            "step",
            None,
            0,
            900.0,
            step="agent",
            step_name="a",
            conversation_id=f"c{trace}",
            model_version="7" if trace < 3 else None,
            marks="v",
        )
        put(ctx.store, [root, part(trace, "2", "step", "1", 200, 50.0, step="tool", step_name=tool)])
    put(ctx.store, GIVEN[:2])
    conform(ctx)
    agents(ctx)
    conversations(ctx)
    assert {name: each[-1] for name, each in outcomes(ctx).items()} == {
        "c1": True,
        "c2": False,
        "c3": False,
        "fine": False,
    }
    clock[0] += timedelta(hours=1)
    conversations(ctx)
    scores = delta.read(ctx.store.path(tables.SCORES)).to_pylist()
    assert {(each["request_id"][:32], each["name"], each["value"]) for each in scores} == {
        (f"{1:032x}", "conversation", 0.0),
        (f"{2:032x}", "conversation", 1.0),
    }
    assert len(scores) == 2, "once, and not of what no version is known for"


@pytest.mark.parametrize("gone", ["forgotten", "part of another"])
def test_a_conversation_whose_requests_are_gone_is_gone(make: Callable[..., Context], gone: str) -> None:
    ctx = make(now=TWO_HOURS)
    inner = part(
        1,
        "2",
        "call",
        "1",
        5,
        50.0,
        conversation_id="c",
        requester="ann",
        tokens_in=3,
        request_id="inner",
        marks="r",
        model="m",
        step="chat",
    )
    put(ctx.store, [inner])
    conform(ctx)
    conversations(ctx)
    assert [*outcomes(ctx)] == ["c"]
    if gone == "forgotten":
        forget(ctx, "ann")
    else:
        put(
            ctx.store, [part(1, "1", "entry", None, 0, 100.0, conversation_id="another", request_id="outer", marks="i")]
        )
        conform(ctx)
    conversations(ctx)
    assert [*outcomes(ctx)] == ([] if gone == "forgotten" else ["another"])


def test_an_id_that_everybody_shares_is_no_conversation_and_the_run_says_so(
    make: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constant in the code ("default"), or the name of a batch: first it looks like a conversation, then it is taken back."""
    monkeypatch.setattr(conversations_module, "MOST_REQUESTS", 5)
    ctx = make()
    put(ctx.store, [asked(i, "default", i, input=QUESTION) for i in range(5)] + [asked(90, "own", 0, input=QUESTION)])
    conform(ctx)
    conversations(ctx)
    assert set(outcomes(ctx)) == {"default", "own"}
    put(ctx.store, [asked(50, "default", 7, input=QUESTION), asked(91, "own", 1, input="Thank you, that is all")])
    conform(ctx)
    run = conversations(ctx)
    assert outcomes(ctx) == {"own": ("2", 2, False, False, False)}
    assert run is not None
    assert run.note == "1 id of conversations on more than 5 requests: counted as none"
