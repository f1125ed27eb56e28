"""The live judge's traces: every request told once in the end, whatever the order of the parts, within bounds."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soak import scaled

from lastgood.record import telemetry, trees
from lastgood.service import traces
from lastgood.service.traces import Traces

SCHEMA = telemetry.arrow_schema(telemetry.INBOX)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def part(trace: int, span: int, kind: str, parent: int | None, **more: Any) -> dict[str, Any]:
    return dict.fromkeys(SCHEMA.names) | {
        "trace_id": f"t{trace}", "span_id": f"{trace}-{span}", "parent_id": None if parent is None else f"{trace}-{parent}", "part": kind,
        "requested_at": START + timedelta(milliseconds=span), "latency_ms": 50.0 - span, "endpoint": "app", "request_id": f"t{trace}/{span}",
        "source": "otlp", "received_at": START, "weight": 1.0,
    } | more  # fmt: skip


def agent(trace: int) -> list[dict[str, Any]]:
    return [
        part(trace, 1, "step", None, step="agent"),
        part(trace, 2, "call", 1, tokens_in=5),
        part(trace, 3, "link", 1),
        part(trace, 4, "call", 3, tokens_in=7),
    ]


def told(batches: list[list[dict[str, Any]]], held: Traces, every_s: float = 1.0) -> dict[str, dict[str, Any]]:
    """What a judge that replaces what it is told anew knows in the end, by request."""
    known: dict[str, dict[str, Any]] = {}
    for i, batch in enumerate([*batches, *([] for _ in range(20))]):
        rows, again = held.take(pa.Table.from_pylist(batch, SCHEMA), i * every_s)
        known = {key: row for key, row in known.items() if row["trace_id"] not in again}
        known |= {row["request_id"]: row for row in rows.to_pylist()}
    return known


@settings(max_examples=scaled(60), deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.randoms(use_true_random=False))
def test_every_request_is_told_once_in_the_end(many: int, batches: int, chance: random.Random) -> None:
    parts = [row for trace in range(many) for row in agent(trace)]
    arriving = [*parts, *chance.choices(parts, k=3)]
    chance.shuffle(arriving)
    size = -(-len(arriving) // batches)
    known = told([arriving[i : i + size] for i in range(0, len(arriving), size)], Traces())
    expected = [record for trace in range(many) for record in trees.records(agent(trace))]
    assert sorted((row["request_id"], row["tokens_in"]) for row in known.values()) == sorted(
        (row["request_id"], row["tokens_in"]) for row in expected
    )


def test_a_span_that_is_all_of_its_trace_is_told_at_once_and_what_comes_late_of_it_is_no_request() -> None:
    held = Traces()
    rows, again = held.take(pa.Table.from_pylist([part(1, 1, "call", None)], SCHEMA), 0.0)
    assert (rows.num_rows, again, held.held) == (1, [], 0)
    rows, _ = held.take(pa.Table.from_pylist([part(1, 2, "call", 1)], SCHEMA), 1.0)
    assert (rows.num_rows, held.left_out["late"]) == (0, 1)


def test_a_call_whose_root_never_comes_is_told_after_the_hold() -> None:
    held = Traces(hold_s=10.0)
    call = pa.Table.from_pylist([part(1, 2, "call", 1)], SCHEMA)
    assert [
        held.take(table, at)[0].num_rows
        for table, at in ((call, 0.0), (SCHEMA.empty_table(), 9.0), (SCHEMA.empty_table(), 10.0))
    ] == [0, 0, 1]


def test_rows_of_other_sources_and_set_aside_ones_pass() -> None:
    rows = [part(1, 1, "call", 9, part=None), part(2, 1, "call", 9, reject_reason="x")]
    assert Traces().take(pa.Table.from_pylist(rows, SCHEMA), 0.0)[0].num_rows == 2


def test_no_more_is_held_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_PARTS", 10)
    held = Traces()
    for i in range(40):
        held.take(pa.Table.from_pylist([part(i, 2, "call", 1)], SCHEMA), float(i) / 100)
    assert (held.held, held.left_out["full"]) == (10, 30)
    held.take(SCHEMA.empty_table(), traces.KEPT_S + 1)
    assert held.held == 0


def test_of_more_parts_than_there_is_room_for_whole_traces_are_left_out_by_their_ids_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traces, "MAX_NEW", 40)
    held = Traces()
    parts = [row for trace in range(100) for row in agent(trace)]
    rows, _ = held.take(pa.Table.from_pylist(parts, SCHEMA), 0.0)
    assert 0 < rows.num_rows <= 10
    assert held.held == 4 * rows.num_rows
    assert held.left_out["many"] == len(parts) - held.held
    assert {row["tokens_in"] for row in rows.to_pylist()} == {12}
    for i in range(8 * traces.CALM):
        held.take(pa.Table.from_pylist([part(1000, 1, "call", 1)], SCHEMA), 1.0 + i / 1e4)
    before = held.held
    held.take(pa.Table.from_pylist([row for trace in range(200, 205) for row in agent(trace)], SCHEMA), 2.0)
    assert held.held == before + 20, "all are held again once there is room"
