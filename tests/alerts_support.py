"""What the tests of alerts/ share: an in-memory workspace, a clock, telemetry and a verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lastgood.alerts.controller import Controller
from lastgood.alerts.records import Pause, Rollback
from lastgood.alerts.rollback.links import Signer
from lastgood.alerts.rollback.verify import Recovery
from lastgood.alerts.store import Store
from lastgood.errors import GoneError, LastgoodError, RefusedError, TransientError
from lastgood.record.verdict import Finding, State, Verdict
from lastgood.settings import EndpointSettings, Mode, Policy, Settings, Web
from lastgood.workspace import Endpoint, RegistryMark, Reply, ServedEntity, Update

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RECOVERED = Recovery(True, True, "traffic moved and errors are back to 0.4%")
KEY = "a-signing-key-for-tests-only"

EVERY_SETTING: dict[str, Any] = {
    "burst_scaling_enabled": True,
    "environment_vars": {"KEY": "{{secrets/scope/key}}", "PLAIN": "x"},
    "external_model": {
        "provider": "openai", "name": "gpt", "task": "llm/v1/chat",
        "openai_config": {"openai_api_key": "{{secrets/s/k}}", "openai_api_base": "https://example.com"},
    },
    "instance_profile_arn": "arn:aws:iam::1:instance-profile/x",
    "max_provisioned_concurrency": 16,
    "max_provisioned_throughput": 900,
    "min_provisioned_concurrency": 4,
    "min_provisioned_throughput": 100,
    "provisioned_model_units": 50,
    "scale_to_zero_enabled": False,
    "workload_size": "Medium",
    "workload_type": "GPU_SMALL",
}  # fmt: skip
"""Every setting of a served entity that an update must carry over."""


def entity(version: str, deployment: str = "DEPLOYMENT_READY", **more: Any) -> ServedEntity:
    settings = {
        "name": f"chat-{version}",
        "entity_name": "prod.ml.chat",
        "entity_version": version,
        "workload_size": "Small",
        "scale_to_zero_enabled": False,
        "environment_vars": {"MODEL": "{{secrets/scope/key}}"},
        **more,
    }
    return ServedEntity(f"chat-{version}", "prod.ml.chat", version, deployment, settings)


def endpoint(*versions: str, config_version: int = 7, name: str = "chat", **traffic: int) -> Endpoint:
    """`traffic` keys are `v3=90`; without any the last version takes everything."""
    shares = {f"chat-{v}": traffic.get(f"v{v}", 0) for v in versions}
    if not traffic:
        shares[f"chat-{versions[-1]}"] = 100
    return Endpoint(name, config_version, tuple(entity(v) for v in versions), shares)


class MemoryWorkspace:
    """A tiny state machine of serving endpoints; an update takes `polls` reads.

    `outcome` of the next updates: "ok" or "fail"; `lose`: how many responses are lost after the server acted;
    `errors` are raised by the next reads.
    """

    def __init__(self, *endpoints: Endpoint, polls: int = 2, outcome: str = "ok") -> None:
        self.polls, self.outcome, self.lose = polls, outcome, 0
        self.errors: list[LastgoodError] = []
        self.known_aliases: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.registry_errors: list[LastgoodError] = []
        self.asleep: list[int] = []
        """Statuses of the next answers of single served entities; 200 afterwards."""
        self.invoked: list[str] = []
        self.updates: list[tuple[list[dict[str, Any]], dict[str, int], dict[str, Any]]] = []
        self._endpoints = {e.name: e for e in endpoints}
        self._left: dict[str, int] = {}

    def endpoint(self, name: str) -> Endpoint:
        if self.errors:
            raise self.errors.pop(0)
        if name not in self._endpoints:
            raise GoneError(f"there is no endpoint {name}")
        self._poll(name)
        return self._endpoints[name]

    def names(self) -> Sequence[str]:
        return list(self._endpoints)

    def aliases(self, model: str) -> Mapping[str, str]:
        return self.known_aliases

    def version_tags(self, model: str, version: str) -> Mapping[str, str]:
        return self.tags.get(version, {})

    def put_mark(self, mark: RegistryMark) -> None:
        if self.registry_errors:
            raise self.registry_errors.pop(0)
        tags = {**self.tags.get(mark.version, {}), **mark.tags}
        self.tags[mark.version] = {key: value for key, value in tags.items() if value is not None}
        if mark.alias and mark.holds:
            self.known_aliases[mark.alias] = mark.version
        elif mark.alias and self.known_aliases.get(mark.alias) == mark.version:
            del self.known_aliases[mark.alias]

    def permissions(self, name: str) -> Mapping[str, str]:
        return {"ann": "CAN_MANAGE"}

    def me(self) -> str:
        return "ann"

    def invoke(
        self, name: str, document: Mapping[str, Any], *, token: str | None = None, entity: str | None = None
    ) -> Reply:
        current = self._endpoints[name]
        if entity is not None:
            self.invoked.append(entity)
            return Reply(self.asleep.pop(0) if self.asleep else 200, 0.01, entity, {})
        return Reply(200, 0.01, max(current.traffic, key=lambda one: current.traffic[one]), {})

    def update_config(
        self,
        name: str,
        entities: Sequence[Mapping[str, Any]],
        traffic: Mapping[str, int],
        passthrough: Mapping[str, Any],
    ) -> None:
        current = self._endpoints[name]
        wanted = tuple(
            ServedEntity(s["name"], s["entity_name"], s["entity_version"], settings=dict(s)) for s in entities
        )
        if current.update is Update.IN_PROGRESS:
            if (current.pending_traffic, current.pending_entities) != (dict(traffic), wanted):
                raise RefusedError("RESOURCE_CONFLICT: an update is in progress")
            return
        self.updates.append(([dict(s) for s in entities], dict(traffic), dict(passthrough)))
        self.start(name, wanted, traffic)
        if self.lose:
            self.lose -= 1
            raise TransientError("the response was lost")

    def start(self, name: str, entities: Sequence[ServedEntity], traffic: Mapping[str, int]) -> None:
        """An update by whoever."""
        self._left[name] = self.polls
        self._endpoints[name] = replace(
            self._endpoints[name],
            update=Update.IN_PROGRESS,
            pending_traffic=dict(traffic),
            pending_entities=tuple(entities),
        )

    def _poll(self, name: str) -> None:
        current = self._endpoints[name]
        if current.update is not Update.IN_PROGRESS:
            return
        self._left[name] -= 1
        if self._left[name] >= 0:
            return
        done = replace(current, update=Update.FAILED, pending_traffic=None, pending_entities=())
        if self.outcome == "ok":
            entities, traffic = current.pending_entities, current.pending_traffic or {}
            done = replace(done, update=Update.NOT_UPDATING, entities=entities, traffic=traffic)
            done = replace(done, config_version=current.config_version + 1)
        self._endpoints[name] = done


@dataclass
class Clock:
    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class FixedTelemetry:
    """Answers with `answer`; remembers what it was asked."""

    answer: Recovery = RECOVERED
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def recovery(self, endpoint: str, bad_version: str, prior_version: str, since: datetime, metric: str) -> Recovery:
        self.asked.append((endpoint, bad_version, prior_version, since, metric))
        return self.answer


class ListNotifier:
    """Keeps what it was given; raises `errors` first."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.errors: list[LastgoodError] = []

    def send(self, event: Mapping[str, Any]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.events.append(event)

    def close(self) -> None:
        """Nothing is held."""

    def summaries(self) -> list[str]:
        """Of what was triggered, in order."""
        return [str(e["payload"]["summary"]) for e in self.events if e["event_action"] == "trigger"]

    def kinds(self) -> list[tuple[str, str]]:
        return [(e["event_action"], e.get("payload", {}).get("severity", "")) for e in self.events]


def verdict(
    state: State = State.ROLL_BACK, at: datetime = START, candidate: str = "3", prior: str | None = "2"
) -> Verdict:
    finding = Finding("error_rate", "6.1% of requests fail, 0.4% before", 400.0, 15.2, 9.1, 24.8, 0.061, 0.004)
    return Verdict(
        "chat", candidate, prior, state, "6.1% of requests fail on version 3", at, at - timedelta(minutes=4), 400.0,
        (finding,) if state is not State.HEALTHY else (), (), {"requests": 1200},
    )  # fmt: skip


def settings(mode: Mode = Mode.APPROVE, web: Web | None = None, **policy: Any) -> Settings:
    return Settings(endpoints={"chat": EndpointSettings(mode=mode, policy=Policy(**policy))}, web=web or Web())


class House:
    """A controller with everything around it; `restart()` builds a new one on the same state and workspace."""

    def __init__(
        self,
        folder: Path,
        workspace: Any,
        config: Settings,
        notifier: Any = None,
        telemetry: Any = None,
        url: str | None = None,
        calendar: Callable[[datetime], Sequence[Pause]] = lambda now: (),
    ) -> None:
        self.folder, self.workspace, self.config, self.calendar = folder, workspace, config, calendar
        self.url = url or f"sqlite:///{folder}/state.db"
        self.clock, self.notifier = Clock(), notifier or ListNotifier()
        self.telemetry = telemetry or FixedTelemetry()
        self.restart()

    def restart(self) -> None:
        self.store = Store(self.url)
        self.controller = Controller(
            self.store,
            self.workspace,
            self.config,
            {"pagerduty": self.notifier},
            self.telemetry,
            Signer([KEY]),
            self.clock,
            calendar=self.calendar,
        )

    def close(self) -> None:
        self.controller.close()

    def verdict(self, state: State = State.ROLL_BACK, **more: Any) -> None:
        self.controller.handle(verdict(state, self.clock.now, **more))

    def tick(self, times: int = 1, every_s: float = 5) -> None:
        for _ in range(times):
            self.clock.forward(every_s)
            self.controller.tick()
            self.controller.send()

    def tick_until(self, done: Callable[[Rollback], bool], most: int = 100) -> Rollback:
        for _ in range(most):
            self.tick()
            if done(self.rollback()):
                return self.rollback()
        raise AssertionError(f"still {self.rollback().progress} after {most} ticks")

    def rollback(self) -> Rollback:
        with self.store.read() as tx:
            found = tx.last_rollback(tx.incidents()[0].id)
        assert found is not None
        return found

    def rollbacks(self) -> int:
        with self.store.read() as tx:
            return len([e for e in tx.audit() if e["what"] == "Proposed"])

    def token(self) -> str:
        """The token of the newest message that carries a link to decide."""
        asked = [e for e in self.notifier.events if any(x["text"].endswith("rollback") for x in e.get("links", []))]
        return str(asked[-1]["links"][0]["href"].split("/r/")[1])


Build = Callable[..., House]


def ended(rollback: Rollback) -> bool:
    return rollback.state.ended


def audit(house: House) -> list[str]:
    with house.store.read() as tx:
        assert tx.verify() == []
        return [str(entry["what"]) for entry in tx.audit()]


def open_incidents(house: House) -> int:
    with house.store.read() as tx:
        return len(tx.incidents(open_only=True))
