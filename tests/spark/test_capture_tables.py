"""A canary in every column of a source table: per capture setting, no table of the storage holds what is not kept."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from jobs_support import START

from lastgood import tables
from lastgood.collectors.otlp.capture import NAMES
from lastgood.collectors.reading import collect_all
from lastgood.jobs.conform import conform
from lastgood.jobs.samples import samples
from lastgood.jobs.windows import quality, windows
from lastgood.tables import delta
from lastgood.tables.runs import Context

CANARY = "mail ann@example.com about the canary of tweet street"
IDENTITIES = {"request_id", "served_entity", "requester", "team", "env", "raw"}
"""Columns that name what they say, and the quarantine's copy of them."""


def source(path: Path, feature: str) -> None:
    """Canonical records: ones that are kept, one that failed, one that is set aside."""
    rows: list[dict[str, Any]] = [
        {
            "endpoint": "chat", "model_version": "1", "request_id": f"r{i}", "requested_at": START + timedelta(seconds=i),
            "latency_ms": -1.0 if i == 3 else 20.0, "error_code": CANARY if i % 2 else None, "input": CANARY, "output": CANARY,
        }
        for i in range(6)
    ]  # fmt: skip
    kind = pa.map_(pa.string(), pa.string())
    attributes = [
        (name, CANARY)
        for name in ("tool_calls", "note", "eval.helpful.explanation", "gen_ai.prompt.0.content", "error.type")
    ]
    assert not NAMES & {name for name, _ in attributes}
    table = pa.Table.from_pylist(rows).append_column("attributes", pa.array([attributes] * 6, kind))
    write_deltalake(str(path), table.append_column("features", pa.array([[("text", feature), ("x", "1")]] * 6, kind)))


@pytest.mark.parametrize(("capture", "features"), [("none", False), ("features", True), ("redacted", False)])
def test_no_table_holds_what_is_not_kept(
    make: Callable[..., Context], tmp_path: Path, capture: str, features: bool
) -> None:
    where = str(tmp_path / "source")
    source(Path(where), "kept" if features else CANARY)
    ctx = make(now=START + timedelta(hours=1), endpoints={"chat": {"capture": capture, "payload_table": where}})
    collect_all(ctx)
    for job in (conform, windows, quality, samples):
        job(ctx)
    word = "example.com" if capture == "redacted" else "canary"
    for table in tables.ALL:
        assert word not in str(delta.read(ctx.store.path(table)).to_pylist()), table.name
    kept = delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()
    assert (len(kept), sum(row["error_code"] is not None for row in kept)) == (5, 2)
    assert len(delta.read(ctx.store.path(tables.QUARANTINE))) == 1
    assert ("kept" in str(kept)) is features


def logged() -> list[dict[str, Any]]:
    """Rows of an inference table with the canary wherever a client, a model or the platform may write it."""
    asked = {
        "messages": [{"role": "user", "content": CANARY}], "client_request_id": CANARY, "metadata": {"team": CANARY},
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"required": [CANARY]}}},
    }  # fmt: skip
    call = {"function": {"name": CANARY, "arguments": CANARY}}
    answer = {
        "choices": [{"message": {"content": CANARY, "tool_calls": [call]}, "finish_reason": CANARY}],
        "error_code": CANARY,
    }
    bodies = (
        (asked, answer), ({"dataframe_records": [{CANARY: 1, "question": CANARY}]}, {"predictions": [CANARY]}),
        ({"inputs": [CANARY]}, {"error": CANARY}), (CANARY, [{"type": CANARY, "error": CANARY}]),
    )  # fmt: skip
    return [
        {
            "databricks_request_id": f"p{i}", "client_request_id": CANARY, "request_time": None if i == 5 else START + timedelta(seconds=i),
            "status_code": 500 if i % 3 == 0 else 200, "execution_duration_ms": CANARY if i == 6 else "20", "served_entity_id": CANARY,
            "request": json.dumps(bodies[i % 4][0]), "response": json.dumps(bodies[i % 4][1]), "requester": CANARY,
            "logging_error_codes": [CANARY], "sampling_fraction": 1.0,
        }
        for i in range(12)
    ]  # fmt: skip


@pytest.mark.parametrize("capture", ["none", "features", "redacted"])
def test_of_an_inference_table_only_names_are_kept(make: Callable[..., Context], tmp_path: Path, capture: str) -> None:
    where = str(tmp_path / "payload")
    write_deltalake(where, pa.Table.from_pylist(logged()))
    ctx = make(now=START + timedelta(hours=1), endpoints={"chat": {"capture": capture, "payload_table": where}})
    collect_all(ctx)
    for job in (conform, windows, quality, samples):
        job(ctx)
    word = "example.com" if capture == "redacted" else "canary"
    for table in tables.ALL:
        for row in delta.read(ctx.store.path(table)).to_pylist():
            assert not {name for name, value in row.items() if word in str(value)} - IDENTITIES, (table.name, row)
    assert len(delta.read(ctx.store.path(tables.REQUESTS))) == 11
