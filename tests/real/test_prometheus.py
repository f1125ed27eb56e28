"""A real Prometheus scrapes the real exporter, evaluates the built rules, and a real Alertmanager tells PagerDuty, and that it is over."""

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from conftest import needs
from servers import alertmanager, prometheus
from starlette.applications import Starlette

from lastgood import delta, scrape, tables, telemetry
from lastgood.alerts.notify.fake_pagerduty import serve_fake, serving
from lastgood.dashboards.exporter import Exporter, Operations
from lastgood.judge.verdict import State, Verdict
from lastgood.tables import Store

ROUTING = """
route: {{receiver: pagerduty, group_by: [endpoint, alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers:
  - name: pagerduty
    pagerduty_configs:
      - routing_key: r0
        url: {pagerduty}
        severity: critical
        description: '{{{{ .CommonAnnotations.summary }}}}'
        links: [{{href: '{{{{ .CommonAnnotations.evidence_url }}}}', text: evidence}}]
"""


def judged(store: Store, state: State) -> None:
    verdict = Verdict("chat", "8", "7", state, "because", datetime.now(UTC), e_value=150.0)
    document = json.dumps(
        verdict.as_dict(), default=lambda one: one.isoformat() if isinstance(one, datetime) else str(one)
    )
    row = {
        "endpoint": "chat",
        "candidate": "8",
        "prior": "7",
        "state": str(state),
        "reason": "because",
        "judged_at": verdict.judged_at,
    }
    schema = telemetry.arrow_schema(tables.VERDICTS.fields)
    delta.append(store.path(tables.VERDICTS), pa.Table.from_pylist([row | {"document": document}], schema))


def until(done: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if found := done():
                return found
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    pytest.fail(f"not seen within {timeout_s:.0f} s: {what}")


def test_a_verdict_becomes_a_page_and_its_end_resolves_it(tmp_path: Path) -> None:
    binary = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    needs("Alertmanager (Debian: prometheus-alertmanager)", binary is not None)
    assert binary is not None
    store = Store(str(tmp_path / "data"))
    windows = {
        "endpoint": "chat",
        "model_version": "8",
        "stratum": "s",
        "window_start": datetime.now(UTC),
        "rows": 5,
        "requests": 5.0,
    }
    schema = telemetry.arrow_schema(tables.WINDOWS.fields)
    delta.create(store.path(tables.WINDOWS), schema)
    delta.append(store.path(tables.WINDOWS), pa.Table.from_pylist([windows], schema))
    judged(store, State.ROLL_BACK)
    open_incidents = {"chat": 1}
    exporter = Exporter(store, operations=lambda: Operations(incidents=open_incidents))
    exporter.refresh()
    app = Starlette(routes=[scrape.route(exporter)])
    with (
        serve_fake() as pager,
        serving(app) as url,
        alertmanager(binary, ROUTING.format(pagerduty=pager.url)) as alerts,
    ):
        target, manager = (one.removeprefix("http://") for one in (url, alerts))
        with prometheus(tmp_path, target, manager, "https://lastgood.test") as prom:

            def sample(query: str) -> list[Any]:
                answer = httpx.get(f"{prom}/api/v1/query", params={"query": query}, timeout=10).json()
                return list(answer["data"]["result"])

            (one,) = until(lambda: sample('lastgood_requests_total{endpoint="chat"}'), "a scrape")
            assert (one["metric"]["model_version"], float(one["value"][1])) == ("8", 5.0)
            assert until(lambda: sample('up{job="lastgood"} == 1'), "the target is up")
            event = until(lambda: [e for e in pager.events() if e["event_action"] == "trigger"], "a page")[0]
            assert event["payload"]["summary"] == "chat version 8 should be rolled back"
            assert event["links"][0]["href"].startswith("https://lastgood.test")
            open_incidents.clear()
            done = until(lambda: [e for e in pager.events() if e["event_action"] == "resolve"], "its end")[0]
            assert done["dedup_key"] == event["dedup_key"]
