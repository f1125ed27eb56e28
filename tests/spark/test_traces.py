"""Parts of traces in any order, over any number of runs, any number of times: one row of `requests` for each request, windows that follow."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from jobs_support import START, part, put, row, stored
from soak import scaled

from lastgood import tables
from lastgood.jobs.conform import conform
from lastgood.jobs.windows import windows
from lastgood.record.trees import records
from lastgood.tables import delta
from lastgood.tables.runs import Context


def agent(trace: int, chance: random.Random) -> list[dict[str, Any]]:
    """A request that makes several calls, some below spans that only link them, some that fail and are made again."""
    parts = [part(trace, "1", "step", None, 0, 39_000, step="agent", requester="u1")]
    for i in range(2, 2 + chance.randrange(1, 5)):
        parent = "1"
        if chance.random() < 0.5:
            parts.append(part(trace, f"{i}0", "link", "1", i, 500.0))
            parent = f"{i}0"
        code = "HTTP_429" if chance.random() < 0.3 else None
        parts.append(
            part(trace, str(i), "call", parent, 7_000 * i, 400.0, tokens_in=None if code else i, tokens_out=None if code else 1, error_code=code,
                 model_version="7", marks="v", request_id=f"c{trace}-{i}", step="chat")
        )  # fmt: skip
    return parts


def alone(trace: int) -> list[dict[str, Any]]:
    return [
        part(
            trace,
            "1",
            "call",
            None,
            5,
            80.0,
            model_version="7",
            marks="v",
            tokens_in=3,
            tokens_out=2,
            error_code="HTTP_500",
        )
    ]


def expected(parts: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What `requests` should hold, from all parts at once."""
    traces: dict[str, list[dict[str, Any]]] = {}
    for each in parts:
        traces.setdefault(each["trace_id"], []).append(each)
    made = [record for trace in traces.values() for record in records(trace)]
    names = [name for name in tables.REQUESTS.columns if name not in ("sources", "provenance", "attributes")]
    return sorted((tuple(record[name] for name in names) for record in made), key=repr)


def kept(ctx: Context) -> list[tuple[Any, ...]]:
    return sorted(stored(ctx.store, tables.REQUESTS, "sources", "provenance", "attributes"), key=repr)


@pytest.mark.parametrize("seed", range(scaled(3)))
def test_one_row_for_each_request_whatever_the_order_the_runs_and_the_repeats(
    make: Callable[..., Context], seed: int
) -> None:
    chance = random.Random(seed)
    ctx, whole = make(), make("whole")
    parts = [each for trace in range(12) for each in (agent(trace, chance) if trace % 3 else alone(trace))]
    arriving = [*parts, *chance.choices(parts, k=8)]
    chance.shuffle(arriving)
    while arriving:
        size = chance.randrange(5, 25)
        some, arriving = arriving[:size], arriving[size:]
        put(ctx.store, some)
        conform(ctx)
        if chance.random() < 0.5:
            windows(ctx)
    windows(ctx)
    assert kept(ctx) == expected(parts)
    put(whole.store, parts)
    conform(whole)
    windows(whole)
    assert kept(whole) == expected(parts)
    salted = ("callers", "error_requesters", "score_callers")  # each store has salts of its own
    assert stored(ctx.store, tables.WINDOWS, *salted) == stored(whole.store, tables.WINDOWS, *salted)
    put(ctx.store, parts[:4])
    conform(ctx)
    assert kept(ctx) == expected(parts)
    assert stored(ctx.store, tables.REQUESTS) == stored(whole.store, tables.REQUESTS)


def test_a_row_of_a_table_meets_its_request_before_and_after_the_trace_is_whole(make: Callable[..., Context]) -> None:
    """First the call alone has the platform's id; then its request has another, which the client gave."""
    ctx = make()
    call = part(1, "2", "call", "1", 5, 80.0, request_id="platform-1", marks="r", tokens_in=3)
    root = part(1, "1", "entry", None, 0, 100.0, request_id="client-1", marks="i")
    logged = [row(i, endpoint="app", request_id=name, source="ai_gateway", output=name, requested_at=START + timedelta(seconds=41))
              for i, name in enumerate(("platform-1", "client-1"))]  # fmt: skip
    for some in ([call, logged[0]], [root], [logged[1]], [call, root]):
        put(ctx.store, some)
        conform(ctx)
    made = {each["request_id"]: each for each in delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()}
    assert {name: (each["sources"], each["latency_ms"], each["output"]) for name, each in made.items()} == {
        "client-1": (["ai_gateway", "otlp"], 100.0, "client-1"), "platform-1": (["ai_gateway"], 100.0, "platform-1"),
    }  # fmt: skip
    assert made["client-1"]["tokens_in"] == 3


def test_a_client_that_uses_its_id_again_makes_two_attempts_of_two_traces(make: Callable[..., Context]) -> None:
    ctx = make()
    first, second = (
        [
            part(i, "1", "entry", None, 0, 100.0, request_id="again", marks="i"),
            part(i, "2", "call", "1", 5, 50.0 + i, tokens_in=i),
        ]
        for i in (1, 2)
    )
    for some in ([first[1]], [second[0]], [first[0]], [second[1]], first + second):
        put(ctx.store, [each | {"received_at": START + timedelta(minutes=each["tokens_in"] or 3)} for each in some])
        conform(ctx)
    made = {each["request_id"]: each["tokens_in"] for each in delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()}
    assert made == {"again": 1, "again#2": 2}


def test_the_steps_of_a_run_and_what_its_tools_did_are_kept_and_counted_as_a_score(
    make: Callable[..., Context],
) -> None:
    ctx = make()
    parts = [
        part(1, "1", "step", None, 0, 900.0, step="agent", step_name="support", model_version="7", marks="v"),
        part(1, "2", "call", "1", 10, 100.0, tokens_in=5, tokens_out=1, model="m", step="chat"),
        part(1, "3", "step", "1", 200, 50.0, step="tool", step_name="weather"),
        part(1, "4", "step", "1", 300, 70.0, step="tool", step_name="book", error_code="HTTP_500"),
    ]  # fmt: skip
    for some in (parts[1:3], parts[3:], parts[:1]):
        put(ctx.store, some)
        conform(ctx)
    windows(ctx)
    steps = delta.read(ctx.store.path(tables.STEPS)).to_pylist()
    assert sorted((each["kind"], each["name"], each["agent"], each["model_version"], each["error_code"], each["latency_ms"]) for each in steps) == [
        ("agent", "support", None, "7", None, 900.0), ("chat", "m", "support", "7", None, 100.0), ("tool", "book", "support", "7", "HTTP_500", 70.0),
        ("tool", "weather", "support", "7", None, 50.0),
    ]  # fmt: skip
    assert {each["request_id"] for each in steps} == {parts[0]["request_id"]}
    (counted,) = delta.read(ctx.store.path(tables.WINDOWS)).to_pylist()
    assert dict(counted["scores"]) == {"tools": [1.0, 0.5, 0.25], "loops": [1.0, 1.0, 1.0]}
