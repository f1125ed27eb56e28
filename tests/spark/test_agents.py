"""Runs of agents: one row for each, counts by agent version and by tool that follow what comes late, without scans of all there is."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from jobs_support import START, part, put, row, stored
from soak import scaled

from lastgood import tables
from lastgood.jobs.agents import RUNS, agents
from lastgood.jobs.conform import conform
from lastgood.jobs.maintain import forget
from lastgood.record.windows import RELATIVE_ERROR, quantile
from lastgood.settings import EndpointSettings
from lastgood.settings.prices import prices
from lastgood.tables import delta
from lastgood.tables.runs import Context, bookmark

TOOLS = ("search", "book", "mail")
TABLES = (tables.AGENT_RUNS, tables.AGENT_WINDOWS, tables.TOOL_WINDOWS)


def run(trace: int, chance: random.Random) -> list[dict[str, Any]]:
    """A run of an agent: a call of a model, then tools, some of which fail, some that are called again and again."""
    parts = [
        part(trace, "1", "step", None, 0, 30_000.0, step="agent", step_name=chance.choice(["support", "sales"]), model_version=chance.choice("78"), marks="v"),
        part(trace, "2", "call", "1", 10, 100.0, tokens_in=50, tokens_out=7, tokens_cached=20, model="m", step="chat"),
    ]  # fmt: skip
    for i in range(3, 3 + chance.randrange(6)):
        code = "HTTP_503" if chance.random() < 0.3 else None
        parts.append(
            part(trace, str(i), "step", "1", 1000.0 * i, chance.lognormvariate(5, 1), step="tool", step_name=chance.choice(TOOLS), error_code=code,
                 input=chance.choice(["a", "b"]))
        )  # fmt: skip
    return parts


def kept(ctx: Context) -> list[list[tuple[Any, ...]]]:
    return [stored(ctx.store, table) for table in TABLES]


@pytest.mark.parametrize("seed", range(scaled(1)))
def test_counts_of_runs_and_tools_are_the_same_whatever_comes_late(make: Callable[..., Context], seed: int) -> None:
    chance = random.Random(seed)
    ctx, whole = make(), make("whole")
    parts = [each for trace in range(10) for each in run(trace, chance)]
    arriving = [*parts, *chance.choices(parts, k=10)]
    chance.shuffle(arriving)
    size = len(arriving) // 3 + 1
    for first in range(0, len(arriving), size):
        put(ctx.store, arriving[first : first + size])
        conform(ctx)
        agents(ctx)
    put(whole.store, parts)
    conform(whole)
    agents(whole)
    assert kept(ctx) == kept(whole)
    tools = [each for each in parts if each["step"] == "tool"]
    counted = delta.read(ctx.store.path(tables.TOOL_WINDOWS)).to_pylist()
    assert sum(each["calls"] for each in counted) == len(tools)
    assert sum(each["errors"] for each in counted) == sum(each["error_code"] is not None for each in tools)
    for name in TOOLS:
        histogram: dict[int, float] = {}
        for each in counted:
            for index, weight in each["latency"] if each["tool"] == name else ():
                histogram[index] = histogram.get(index, 0.0) + weight
        took = sorted(each["latency_ms"] for each in tools if each["step_name"] == name)
        assert quantile(histogram, 1.0) == pytest.approx(took[-1], rel=RELATIVE_ERROR * 1.01)
    runs = delta.read(ctx.store.path(tables.AGENT_RUNS)).to_pylist()
    assert len(runs) == 10
    assert {each["agent"] for each in runs} == {each["step_name"] for each in parts if each["step"] == "agent"}
    windows = delta.read(ctx.store.path(tables.AGENT_WINDOWS)).to_pylist()
    for name, column in {
        "runs": None,
        "tool_failures": "tool_failures",
        "model_calls": "model_calls",
        "tokens_cached": "tokens_cached",
    }.items():
        assert sum(each[name] for each in windows) == sum(1 if column is None else each[column] for each in runs)


def test_a_run_says_what_it_did_and_what_it_cost(make: Callable[..., Context]) -> None:
    ctx = make(endpoints={"app": EndpointSettings()})
    parts = [
        part(1, "1", "step", None, 0, 1000.0, step="workflow", step_name="flow", model_version="7", marks="v", error_code="GraphRecursionError"),
        part(1, "2", "step", "1", 0, 400.0, step="agent", step_name="a"), part(1, "3", "step", "1", 500, 400.0, step="agent", step_name="b"),
        part(1, "4", "call", "2", 10, 100.0, tokens_in=1_000_000, tokens_out=10, tokens_cached=400_000, model="m", step="chat"),
        *(
            part(1, f"1{i}", "step", "3", 500 + 10 * i, 20.0, step="tool", step_name="search", input="x", error_code=code)
            for i, code in enumerate((None, "HTTP_500", "HTTP_500"))
        ),
        part(2, "1", "call", None, 0, 50.0, tokens_in=5, model="m", step="chat"),
    ]  # fmt: skip
    put(ctx.store, parts)
    conform(ctx)
    agents(ctx)
    (made,) = delta.read(ctx.store.path(tables.AGENT_RUNS)).to_pylist()
    token, dbu = (
        prices(ctx.settings.prices).pay_per_token[ctx.settings.endpoint("app").cost.model],
        prices(ctx.settings.prices).dbu,
    )
    cached = token.input if token.cached is None else token.cached
    expected = {
        "agent": "a", "model_version": "7", "error_code": "GraphRecursionError", "model_calls": 1, "tool_calls": 3, "tool_failures": 2,
        "longest_repeat": 3, "looped": True, "step_limit": True, "handoffs": 1, "tokens_cached": 400_000, "tool_share": 0.04,
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    assert made["money"] == pytest.approx((0.6 * token.input + 0.4 * cached + 1e-5 * token.output) * dbu)
    (tool,) = delta.read(ctx.store.path(tables.TOOL_WINDOWS)).to_pylist()
    assert (tool["tool"], tool["calls"], tool["errors"], tool["runs"], tool["runs_failed"]) == ("search", 3, 2, 1, 1)
    assert tool["codes"] == [("HTTP_500", 2.0)]


def test_what_turns_out_to_be_part_of_another_run_and_a_version_learnt_later_move_the_counts(
    make: Callable[..., Context],
) -> None:
    ctx = make()
    inner = [
        part(1, "2", "step", "1", 10, 200.0, step="agent", step_name="inner"),
        part(1, "3", "step", "2", 20, 50.0, step="tool", step_name="search", error_code="HTTP_500"),
    ]  # fmt: skip
    put(ctx.store, inner)
    conform(ctx)
    agents(ctx)
    assert [each["agent"] for each in delta.read(ctx.store.path(tables.AGENT_RUNS)).to_pylist()] == ["inner"]
    put(
        ctx.store,
        [part(1, "1", "step", None, 0, 300.0, step="agent", step_name="outer", request_id="client-1", marks="i")],
    )
    conform(ctx)
    agents(ctx)
    (made,) = delta.read(ctx.store.path(tables.AGENT_RUNS)).to_pylist()
    assert (made["agent"], made["request_id"], made["model_version"]) == ("outer", "client-1", "?")
    logged = row(
        1,
        endpoint="app",
        request_id="client-1",
        source="ai_gateway",
        model_version="9",
        requested_at=START + timedelta(seconds=40),
    )
    put(ctx.store, [logged])
    conform(ctx)
    agents(ctx)
    for table in TABLES:
        assert [each["model_version"] for each in delta.read(ctx.store.path(table)).to_pylist()] == ["9"], table.name


def test_requests_that_are_no_runs_cost_no_count_and_who_is_forgotten_leaves_no_run(
    make: Callable[..., Context],
) -> None:
    ctx = make()
    put(ctx.store, [part(1, "1", "step", None, 0, 300.0, step="agent", step_name="a", requester="ann")])
    conform(ctx)
    agents(ctx)
    before = delta.version(ctx.store.path(tables.AGENT_WINDOWS))
    put(ctx.store, [part(2, "1", "call", None, 0, 50.0, tokens_in=5, model="m", step="chat")])
    conform(ctx)
    agents(ctx)
    assert delta.version(ctx.store.path(tables.AGENT_WINDOWS)) == before
    assert bookmark(ctx, RUNS.job, "requests") == delta.version(ctx.store.path(tables.REQUESTS))
    forget(ctx, "ann")
    assert delta.read(ctx.store.path(tables.AGENT_RUNS)).num_rows == 0


def test_tools_of_two_attempts_under_one_id_are_counted_with_their_own(make: Callable[..., Context]) -> None:
    ctx = make()
    for trace, version, code in ((1, "7", "HTTP_500"), (2, "8", None)):
        root = part(
            trace,
            "1",
            "step",
            None,
            0,
            900.0,
            step="agent",
            step_name="a",
            request_id="again",
            marks="iv",
            model_version=version,
        )
        put(ctx.store, [root, part(trace, "2", "step", "1", 10, 5.0, step="tool", step_name="search", error_code=code)])
        conform(ctx)
        agents(ctx)
    assert {each["request_id"] for each in delta.read(ctx.store.path(tables.AGENT_RUNS)).to_pylist()} == {
        "again",
        "again#2",
    }
    counted = delta.read(ctx.store.path(tables.TOOL_WINDOWS)).to_pylist()
    assert {each["model_version"]: (each["calls"], each["errors"]) for each in counted} == {"7": (1, 1), "8": (1, 0)}


def test_a_nested_report_of_a_call_that_came_first_is_no_call_of_its_own_and_an_agent_alone_is_a_run(
    make: Callable[..., Context],
) -> None:
    ctx = make()
    inner = part(1, "3", "step", "2", 12, 3.0, step="tool", step_name="search")
    outer = [
        part(1, "1", "step", None, 0, 900.0, step="agent", step_name="a"),
        part(1, "2", "step", "1", 10, 5.0, step="tool", step_name="search"),
    ]
    for some in ([inner], outer, [part(2, "1", "step", None, 0, 900.0, step="agent", step_name="alone")]):
        put(ctx.store, some)
        conform(ctx)
        agents(ctx)
    (tool,) = delta.read(ctx.store.path(tables.TOOL_WINDOWS)).to_pylist()
    assert (tool["calls"], tool["runs"]) == (1, 1)
    assert {
        each["agent"]: each["tool_calls"] for each in delta.read(ctx.store.path(tables.AGENT_RUNS)).to_pylist()
    } == {"a": 1, "alone": 0}
