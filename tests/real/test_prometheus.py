"""A real Prometheus scrapes the real exporter, evaluates the built rules, and a real Alertmanager tells PagerDuty, and that it is over."""

import json
import math
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from conftest import needs
from servers import alertmanager, prometheus
from starlette.applications import Starlette
from waiting import HANG_S, until

from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import serve_fake, serving
from lastgood.dashboards.exporter import SCHEMA, Exporter, Operations
from lastgood.record import telemetry
from lastgood.record.verdict import State, Verdict
from lastgood.record.windows import GROWTH, bucket, middle
from lastgood.service import scrape
from lastgood.tables import Store, delta

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
                answer = (
                    httpx.get(f"{prom}/api/v1/query", params={"query": query}, timeout=HANG_S).raise_for_status().json()
                )
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


def test_a_prometheus_that_takes_native_histograms_gets_them(tmp_path: Path) -> None:
    needs("Prometheus", shutil.which("prometheus") is not None)
    store = Store(str(tmp_path / "data"))
    ms = [0.0, *(1.07**i for i in range(150)), *(1.07**i for i in range(100, 150))]
    latency = Counter(bucket(one) for one in ms)
    window = {
        "endpoint": "chat", "model_version": "8", "stratum": "s", "window_start": datetime.now(UTC), "rows": len(ms),
        "requests": 2.5 * len(ms), "latency": [(index, 2.5 * number) for index, number in latency.items()],
    }  # fmt: skip
    schema = telemetry.arrow_schema(tables.WINDOWS.fields)
    delta.create(store.path(tables.WINDOWS), schema)
    delta.append(store.path(tables.WINDOWS), pa.Table.from_pylist([window], schema))
    exporter = Exporter(store)
    exporter.refresh()
    with serving(Starlette(routes=[scrape.route(exporter)])) as url:
        feature = "--enable-feature=native-histograms"
        target = url.removeprefix("http://")
        with prometheus(tmp_path, target, "127.0.0.1:1", "https://lastgood.test", feature) as prom:

            def value(query: str) -> float:
                def asked() -> Any:
                    answer = (
                        httpx.get(f"{prom}/api/v1/query", params={"query": query}, timeout=HANG_S)
                        .raise_for_status()
                        .json()
                    )
                    return answer["data"]["result"]

                (one,) = until(asked, query)
                return float(one["value"][1])

            name = "lastgood_request_duration_seconds"
            assert value(f"histogram_count({name})") == 2.5 * len(ms), "weights need not be whole"
            exact = sum(2.5 * number * middle(index) for index, number in latency.items()) / 1000
            assert value(f"histogram_sum({name})") == pytest.approx(exact)
            for q in (0.5, 0.9, 0.95, 0.99):
                within = 2 ** (1 / 2**SCHEMA) * GROWTH
                assert value(f"histogram_quantile({q}, {name})") == pytest.approx(
                    sorted(ms)[math.ceil(q * len(ms)) - 1] / 1000, rel=within - 1
                )
            assert value(f"histogram_fraction(-1, 0.0001, {name})") == pytest.approx(1 / len(ms)), "zero is kept apart"
            assert value('lastgood_requests_total{endpoint="chat"}') == 2.5 * len(ms)
            assert value("lastgood_kill_switch") == 0
