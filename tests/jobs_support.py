"""Rows for the inbox and tables read back, for tests of the jobs."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from lastgood import tables
from lastgood.record import telemetry
from lastgood.tables import Store, delta

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW_S = 60


def row(i: int, **more: Any) -> dict[str, Any]:
    base = {
        "endpoint": "chat", "request_id": f"r{i}", "model_version": "2", "requested_at": START + timedelta(seconds=i % 600),
        "latency_ms": 100.0, "latency_scope": "client", "source": "otlp", "received_at": START + timedelta(hours=1),
        "weight": 1.0, "status_code": 200,
    }  # fmt: skip
    return base | more


NAMES = [field.name for field in telemetry.INBOX]


def part(trace: int, span: str, kind: str, parent: str | None, at: float, took: float, **more: Any) -> dict[str, Any]:
    """An inbox row of a span; traces begin 40 s apart, `at` and `took` in milliseconds."""
    base = row(
        0,
        trace_id=f"{trace:032x}",
        span_id=f"{trace:08x}{span:>08}",
        parent_id=parent and f"{trace:08x}{parent:>08}",
        part=kind,
    )
    begun = START + timedelta(seconds=40 * trace, milliseconds=at)
    fields = {
        "request_id": f"{trace:032x}/{trace:08x}{span:>08}", "requested_at": begun, "latency_ms": took, "status_code": None, "model_version": None,
        "received_at": START + timedelta(minutes=10), "endpoint": "app", "weight": 1.0,
    }  # fmt: skip
    return dict.fromkeys(NAMES) | base | fields | more


def put(store: Store, rows: list[dict[str, Any]]) -> None:
    delta.append(store.path(tables.INBOX), pa.Table.from_pylist(rows, telemetry.arrow_schema(telemetry.INBOX)))


def stored(store: Store, table: tables.Table, *leave_out: str) -> list[tuple[Any, ...]]:
    """All rows, comparable: sorted, maps as sorted pairs."""
    names = [name for name in table.columns if name not in leave_out]

    def plain(value: Any) -> Any:
        return sorted(map(repr, value)) if isinstance(value, list) else value

    found = delta.read(store.path(table)).to_pylist()
    return sorted((tuple(plain(one[name]) for name in names) for one in found), key=repr)


def inbox(seed: int, n: int, versions: tuple[str | None, ...], source: str = "otlp") -> list[dict[str, Any]]:
    r = random.Random(seed)
    return [
        row(
            i, source=source, model_version=r.choice(versions), endpoint=r.choice(["chat", "search"]),
            requested_at=START + timedelta(seconds=r.random() * 400), latency_ms=r.choice([None, 0.0, r.lognormvariate(4, 2)]),
            ttft_ms=r.choice([None, r.lognormvariate(2, 1)]), feature_age_ms=r.choice([None, 1e6 * r.random()]),
            tokens_in=r.choice([None, r.randrange(9000)]), tokens_out=r.choice([None, 7]), weight=r.choice([1.0, 10.0]),
            error_code=r.choice([None, None, "TIMEOUT", ""]), status_code=r.choice([200, 200, 500]),
            requester=r.choice([None, f"u{r.randrange(30)}"]), latency_scope=r.choice(["client", "model", None]),
            input=r.choice([None, "q" * r.randrange(20_000)]), output=r.choice([None, "", "fine", "I'm sorry, I cannot", "ja " * 50]),
            finish_reason=r.choice([None, "stop", "length"]),
            attributes=r.choice([None, [("eval.correct", r.choice(["1", "0.5", "7", "no number"])), ("x", "1")]]),
        )
        for i in r.sample(range(3 * n), n)
    ]  # fmt: skip
