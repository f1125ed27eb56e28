"""An endpoint is deleted from the workspace while its history stays: every job goes on, and who asks for it is told its name and what to do."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from waiting import HANG_S

from lastgood import tables
from lastgood.collectors.endpoint_metrics import scrape
from lastgood.service import loop
from lastgood.tables import delta
from lastgood.tables.runs import Context
from lastgood.workspace.databricks import connect
from lastgood.workspace.local import CHAT, TABULAR, LocalConfig, row, serve

ASK: dict[str, dict[str, Any]] = {
    CHAT: {"prompt": "What does with do?", "max_tokens": 8},
    TABULAR: {"dataframe_records": [row(np.random.default_rng(3))]},
}


def test_jobs_go_on_when_an_endpoint_is_gone_and_it_is_named(
    make: Callable[..., Context], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LocalConfig(str(tmp_path / "payload"), latency_scale=0.01, payload_batch_s=60, duplicate_share=0)
    with serve(config) as running, httpx.Client(base_url=running.url, timeout=HANG_S) as http:
        http.headers["authorization"] = f"Bearer {running.token}"
        for name in (CHAT, TABULAR) * 30:
            http.post(f"/serving-endpoints/{name}/invocations", json=ASK[name])
        running.flush()
        payload = {
            "payload_table": running.service.payload.table,
            "entities_table": running.service.payload.entities_table,
        }
        monkeypatch.setenv("LOCAL", running.token)
        ctx = make(
            now=datetime.now(UTC),
            endpoints={CHAT: {**payload, "features": [{"kind": "online_table", "name": "m.s.gone"}]}, TABULAR: {}},
            workspace={"host": running.url, "token_env": "LOCAL", "retry_timeout_s": 1},
        )
        assert http.delete(f"/api/2.0/serving-endpoints/{CHAT}").status_code == 200
        said: list[dict[str, Any]] = []
        loop.run_all(ctx, [name for name in loop.JOBS if name != "maintain"], said.append)
        assert [one["job"] for one in said if "error" not in one] == [name for name in loop.JOBS if name != "maintain"]
        _, told = scrape(connect(ctx.settings.workspace), (CHAT, TABULAR), ctx.store, datetime.now(UTC))
    assert len(told) == 1
    assert f"metrics of {CHAT}: there is no such endpoint" in told[0]
    assert "take it out of `endpoints`" in told[0]

    def seen(table: tables.Table) -> set[str]:
        return {one["endpoint"] for one in delta.read(ctx.store.path(table), ["endpoint"]).to_pylist()}

    measured = (tables.REQUESTS, tables.WINDOWS, tables.COMPLETENESS, tables.COST, tables.SAMPLES, tables.VERDICTS)
    assert {table.name: seen(table) for table in measured} == {table.name: {CHAT, TABULAR} for table in measured}
    assert seen(tables.ENDPOINT_MINUTES) == {TABULAR}
    [asked] = delta.read(ctx.store.path(tables.FRESHNESS)).to_pylist()
    assert asked["state"].startswith("cannot be asked: online_table m.s.gone: there is no such endpoint or source")
