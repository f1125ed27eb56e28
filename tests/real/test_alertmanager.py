"""A real Alertmanager takes our alerts, groups them, pages on; and its groups open and resolve incidents here."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from alerts_support import House, MemoryWorkspace, endpoint, settings
from conftest import needs
from servers import alertmanager, free_port
from tenacity import wait_none
from waiting import until

from lastgood.alerts.controller import Controller
from lastgood.alerts.notify.alertmanager import NAME, Alertmanager
from lastgood.alerts.notify.fake_pagerduty import FakePagerDuty, serve_fake, serving
from lastgood.alerts.rollback.links import Signer
from lastgood.alerts.web.app import create_app
from lastgood.record.verdict import State
from lastgood.settings import Mode

TOKEN = "hook-token"


@pytest.fixture
def binary() -> str:
    found = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    needs("Alertmanager (Debian: prometheus-alertmanager)", found is not None)
    assert found is not None
    return found


def routing(pagerduty: str, hook: str) -> str:
    """Grouped by endpoint, so that an endpoint's link survives grouping; to PagerDuty and back to us."""
    return f"""
route:
  receiver: both
  group_by: [endpoint]
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1h
receivers:
  - name: both
    pagerduty_configs:
      - routing_key: r0
        url: {pagerduty}
        client_url: '{{{{ .CommonAnnotations.evidence_url }}}}'
        severity: '{{{{ .CommonLabels.severity }}}}'
        description: '{{{{ .CommonAnnotations.summary }}}}'
    webhook_configs:
      - url: {hook}
        send_resolved: true
        http_config: {{authorization: {{type: Bearer, credentials: {TOKEN}}}}}
"""


class World:
    """A house whose messages go to Alertmanager, and its web application where Alertmanager's groups arrive."""

    def __init__(self, folder: Path, url: str, pager: FakePagerDuty) -> None:
        self.url, self.pager = url, pager
        self.alertmanager = Alertmanager(url, wait=wait_none())
        now = datetime.now(UTC)
        self.house = House(folder, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE), self.alertmanager)
        self.house.clock.now = now
        self.acts: Controller = self.house.controller

    def alerts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/api/v2/alerts").json()
        return found

    def push(self, **labels: str) -> None:
        end = labels.pop("ends", "")
        body = {"labels": labels, "annotations": {"summary": "p99 above 2 s for 10 minutes"}}
        httpx.post(f"{self.url}/api/v2/alerts", json=[body | ({"endsAt": end} if end else {})]).raise_for_status()

    def incidents(self, open_only: bool = True) -> list[Any]:
        with self.house.store.read() as tx:
            return list(tx.incidents(open_only=open_only))


@pytest.fixture
def world(tmp_path: Path, binary: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("LASTGOOD_HOOK_TOKEN", TOKEN)
    port = free_port()
    config = "http://127.0.0.1"
    with serve_fake() as pager, alertmanager(binary, routing(pager.url, f"{config}:{port}/hooks/alertmanager")) as url:
        world = World(tmp_path, url, pager)
        with serving(create_app(world.acts), port):
            yield world
        world.alertmanager.close()
        world.house.close()


def test_our_alert_fires_pages_with_the_link_and_is_resolved(world: World) -> None:
    world.house.verdict()
    world.acts.send()
    until(lambda: len(world.alerts()) == 1, "the alert is there")
    (alert,) = world.alerts()
    assert alert["labels"]["alertname"] == NAME
    assert (alert["labels"]["endpoint"], alert["labels"]["version"], alert["labels"]["severity"]) == (
        "chat",
        "3",
        "critical",
    )
    assert "roll back to version 2?" in alert["annotations"]["summary"]
    assert "/r/" in alert["annotations"]["evidence_url"]
    until(lambda: len(world.pager.events()) == 1, "Alertmanager pages")
    (event,) = world.pager.events()
    assert event["event_action"] == "trigger" and len(event["dedup_key"]) == 64
    assert "roll back to version 2?" in event["payload"]["summary"] and "/r/" in event["client_url"]
    world.house.clock.forward(60)
    world.house.verdict(State.HEALTHY)
    world.acts.send()
    until(lambda: [e["event_action"] for e in world.pager.events()] == ["trigger", "resolve"], "and resolves")
    assert len(world.incidents(open_only=False)) == 1, "our own alert, come back through the hook, opens nothing"


def test_somebody_elses_alert_opens_one_incident_with_evidence_and_its_end_resolves_it(world: World) -> None:
    for _ in range(2):
        world.push(alertname="HighLatency", endpoint="chat", severity="critical")
    until(lambda: len(world.incidents()) == 1, "an incident is opened")
    (incident,) = world.incidents()
    assert (incident.endpoint, incident.candidate) == ("chat", "3")
    assert incident.verdict["reason"] == "p99 above 2 s for 10 minutes"
    world.acts.send()
    until(lambda: any(a["labels"]["alertname"] == NAME for a in world.alerts()), "and told on, with a link")
    ended = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    world.push(alertname="HighLatency", endpoint="chat", severity="critical", ends=ended)
    until(lambda: not world.incidents(), "the end of the alert resolves it")
    (resolved,) = world.incidents(open_only=False)
    assert resolved.resolution.startswith("Alertmanager resolved")


def test_an_alert_of_an_endpoint_nobody_knows_opens_nothing(world: World) -> None:
    world.push(alertname="HighLatency", endpoint="ghost", severity="critical")
    world.push(alertname="DiskFull", instance="db1", severity="critical")
    until(lambda: len(world.pager.events()) >= 2, "Alertmanager has sent both groups")
    assert world.incidents(open_only=False) == []


def test_while_alertmanager_is_down_the_rollback_goes_on_and_the_end_follows(tmp_path: Path, binary: str) -> None:
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings(Mode.AUTO))
    port = free_port()
    notifiers = {"alertmanager": Alertmanager(f"http://127.0.0.1:{port}", wait=wait_none()), "list": house.notifier}
    acts = Controller(
        house.store, house.workspace, house.config, notifiers, house.telemetry, Signer(["k" * 16]), house.clock
    )
    house.controller = acts
    house.verdict()
    assert house.tick_until(lambda r: r.state.ended).state == "Done"
    assert [e["event_action"] for e in house.notifier.events] == ["trigger", "resolve"], (
        "the other channel is not held up"
    )
    with house.store.read() as tx:
        assert tx.unsent()["alertmanager"][0] == 1, "what is over is not told as firing: only its end"
    house.close()
