"""The alerting layer on the local workspace with the real client, a clock that is moved by hand, and messages that are kept."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from lastgood.alerts.controller import Controller
from lastgood.alerts.records import Rollback
from lastgood.alerts.rollback.links import Signer
from lastgood.alerts.rollback.plan import Snapshot
from lastgood.alerts.rollback.verify import Recovery
from lastgood.alerts.store import Store
from lastgood.errors import LastgoodError
from lastgood.record.verdict import Finding, State, Verdict
from lastgood.settings import EndpointSettings, Mode, Policy, Settings
from lastgood.workspace import local
from lastgood.workspace.databricks import DatabricksWorkspace

if TYPE_CHECKING:
    from simulation.network import Network

MODEL = local.MODELS[local.CHAT]
OLD, NEW = local.entity(MODEL, "2"), local.entity(MODEL, "3")


@dataclass
class Said:
    """Answers as telemetry once `ready`; keeps every message."""

    ready: bool = True
    events: list[Mapping[str, Any]] = field(default_factory=list)

    def recovery(self, endpoint: str, bad: str, prior: str, since: datetime, metric: str) -> Recovery:
        if not self.ready:
            return Recovery(None, None, "no requests since the shift")
        return Recovery(True, True, "traffic moved, errors are back to 0.4%")

    def send(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing is held."""


def config(shares: Mapping[str, int], *entities: Mapping[str, Any]) -> dict[str, Any]:
    """A config body of the serving API; `shares` by version."""
    names = {e["entity_version"]: e["name"] for e in entities}
    routes = [{"served_entity_name": names[v], "traffic_percentage": share} for v, share in shares.items()]
    return {"served_entities": [dict(e) for e in entities], "traffic_config": {"routes": routes}}


class HandClock:
    """The local workspace's clock, in seconds: it moves when somebody moves it, so that no fault comes too early or too late."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """One endpoint that serves bad version 3, with version 2 ready at 0% (or, `slow`, taken away and remembered)."""

    def __init__(
        self,
        name: str,
        folder: Path,
        network: "Network",
        api: httpx.Client,
        workspace: DatabricksWorkspace,
        clock: HandClock,
        slow: bool = False,
    ) -> None:
        self.name, self.network, self.api, self.workspace, self.clock = name, network, api, workspace, clock
        self.now, self.said = datetime(2026, 3, 1, 12, tzinfo=UTC), Said()
        self.policy = Policy(ready_timeout_s=60, verify_timeout_s=60, proposal_ttl_s=600, cooldown_s=0)
        self.store = Store(f"sqlite:///{folder}/{name}.db")
        self.controller = self.instance()
        entities, shares = ((NEW,), {"3": 100}) if slow else ((OLD, NEW), {"2": 0, "3": 100})
        self.call("POST", "/api/2.0/serving-endpoints", {"name": name, "config": config(shares, *entities)})
        with self.store.begin() as tx:
            tx.add_snapshot(Snapshot(name, 0, "2", OLD), self.now)
        self.verdict()

    def instance(self) -> Controller:
        """A controller of its own on the same state."""
        mine = EndpointSettings(mode=Mode.APPROVE, policy=self.policy)
        signer = Signer(["a-key-for-this-benchmark"])
        settings = Settings(endpoints={self.name: mine})
        return Controller(
            self.store, self.workspace, settings, {"list": self.said}, self.said, signer, lambda: self.now
        )

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.api.request(method, path, json=body)

    def verdict(self, state: State = State.ROLL_BACK) -> None:
        finding = Finding("error_rate", "6.1% of requests fail, 0.4% before", 400.0, 15.2, 9.1, 24.8, 0.061, 0.004)
        since = self.now - timedelta(minutes=4)
        self.controller.handle(
            Verdict(self.name, "3", "2", state, finding.sentence, self.now, since, 400.0, (finding,))
        )

    def rollback(self) -> Rollback:
        with self.store.read() as tx:
            found = tx.rollbacks(self.name, 1)
        return found[0]

    def decide(self, decision: Any) -> None:
        """Through the newest link, as a person would."""
        with self.store.read() as tx:
            incident = tx.incident(self.rollback().incident_id)
        assert incident is not None
        self.controller.people.decide(self.controller.teller.link(incident, self.rollback()), decision)

    def tick(self, seconds: float = 15) -> None:
        self.now += timedelta(seconds=seconds)
        with suppress(LastgoodError):
            self.controller.tick()
        self.controller.send()

    def shown(self) -> dict[str, Any]:
        """The endpoint as the API shows it; empty when it is gone."""
        answer = self.call("GET", f"/api/2.0/serving-endpoints/{self.name}")
        return answer.json() if answer.status_code == 200 else {}
