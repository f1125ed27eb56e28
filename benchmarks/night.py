"""One night of an on-call engineer on a fake clock: 1,000 endpoints, 200 incidents, faults of every kind: `python -m benchmarks.night [--quick]`.

The alerting layer is the real one on a real state store. The workspace, the judge's word, the telemetry, the channels and the people are
played from one seed. Each page is labelled: needed when, at that moment, a bad version takes traffic, a rollback has failed, or Lastgood
itself cannot protect an endpoint.
"""

import argparse
import heapq
import itertools
import json
import logging
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.measured import machine
from lastgood.alerts.controller import Controller
from lastgood.alerts.records import Incident
from lastgood.alerts.rollback.links import Signer
from lastgood.alerts.rollback.machine import Approve, Hold, Reject, Status
from lastgood.alerts.rollback.verify import Recovery
from lastgood.alerts.store import Store
from lastgood.errors import ConfigError, GoneError, LastgoodError, RefusedError, TransientError
from lastgood.record.verdict import Finding, State, Verdict
from lastgood.settings import EndpointSettings, Mode, Policy, Settings
from lastgood.workspace import Endpoint, RegistryMark, Reply, ServedEntity, Update

START = datetime(2026, 3, 1, 20, tzinfo=UTC)
HOURS, TICK_S, JUDGE_S, OBSERVE_S = 12.0, 30.0, 60.0, 600.0
DETECTION_S = 120.0
"""How long the judge needs from the onset; minutes before its word are nobody's fault here."""
PAGED_WITHIN_S = 2 * JUDGE_S + DETECTION_S + 60
"""A bad minute counts as unpaged from here on: the judge's word, its next turn, delivery."""
FAULTS = (
    "none", "errors that end by themselves", "fixed by hand", "workspace down", "update fails", "answer lost", "telemetry late",
    "telemetry silent", "config changed", "rejected", "held", "nobody answers", "kill switch", "pager refuses", "pager down", "prior gone",
    "bad again", "endpoint deleted", "unreadable", "verdicts stop",
)  # fmt: skip


@dataclass
class Case:
    """What happens to one endpoint. `onset`, `ends`: seconds since the start; `ends` is when the harm goes away by itself."""

    name: str
    fault: str
    mode: Mode
    onset: float
    ends: float = float("inf")


@dataclass
class World:
    """The workspace, and what is true in it."""

    rng: random.Random
    now: float = 0.0
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    cases: dict[str, Case] = field(default_factory=dict)
    pending: dict[str, tuple[float, Endpoint]] = field(default_factory=dict)
    down_until: dict[str, float] = field(default_factory=dict)
    moved_at: dict[str, float] = field(default_factory=dict)
    updates: Counter[str] = field(default_factory=Counter)
    lost: set[str] = field(default_factory=set)

    def clock(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def bad(self, name: str) -> bool:
        """Whether users of the endpoint are harmed now."""
        case, endpoint = self.cases.get(name), self.endpoints.get(name)
        return (
            case is not None and endpoint is not None and case.onset <= self.now < case.ends and endpoint.share("3") > 0
        )

    # Workspace

    def endpoint(self, name: str) -> Endpoint:
        self._settle(name)
        case = self.cases.get(name)
        if self.now < self.down_until.get(name, 0.0):
            raise TransientError("the workspace cannot be reached")
        if case and case.fault == "unreadable":
            raise ConfigError(f"endpoint {name}: permission denied")
        if name not in self.endpoints:
            raise GoneError(f"there is no endpoint {name}")
        return self.endpoints[name]

    def names(self) -> Sequence[str]:
        return list(self.endpoints)

    def aliases(self, model: str) -> Mapping[str, str]:
        return {}

    def version_tags(self, model: str, version: str) -> Mapping[str, str]:
        return {}

    def put_mark(self, mark: RegistryMark) -> None:
        """Taken, and forgotten."""

    def permissions(self, name: str) -> Mapping[str, str]:
        return {}

    def me(self) -> str:
        return "lastgood"

    def invoke(
        self, name: str, document: Mapping[str, Any], *, token: str | None = None, entity: str | None = None
    ) -> Reply:
        return Reply(200, 0.1, entity or "", {})

    def update_config(
        self,
        name: str,
        entities: Sequence[Mapping[str, Any]],
        traffic: Mapping[str, int],
        passthrough: Mapping[str, Any],
    ) -> None:
        current = self.endpoint(name)
        if name in self.pending:
            if dict(self.pending[name][1].traffic) == dict(traffic):
                return
            raise RefusedError("an update is in progress")
        served = tuple(
            ServedEntity(e["name"], e["entity_name"], e["entity_version"], settings=dict(e)) for e in entities
        )
        self.deploy(name, replace(current, entities=served, traffic=dict(traffic)))
        self.updates[name] += 1
        if self.cases[name].fault == "answer lost" and name not in self.lost:
            self.lost.add(name)
            raise TransientError("the answer was lost")

    def deploy(self, name: str, wanted: Endpoint, takes_s: float = 60.0) -> None:
        self.pending[name] = (self.now + takes_s, replace(wanted, config_version=wanted.config_version + 1))
        self.endpoints[name] = replace(
            self.endpoints[name],
            update=Update.IN_PROGRESS,
            pending_traffic=wanted.traffic,
            pending_entities=wanted.entities,
        )

    def _settle(self, name: str) -> None:
        ready_at, wanted = self.pending.get(name, (float("inf"), None))
        if wanted is None or self.now < ready_at:
            return
        del self.pending[name]
        calm = {"pending_traffic": None, "pending_entities": ()}
        if self.cases[name].fault == "update fails" and self.updates[name] < 2:
            self.endpoints[name] = replace(self.endpoints[name], update=Update.FAILED, **calm)
        else:
            self.endpoints[name] = replace(wanted, update=Update.NOT_UPDATING, **calm)
            self.moved_at[name] = self.now

    # Telemetry

    def recovery(self, endpoint: str, bad_version: str, prior_version: str, since: datetime, metric: str) -> Recovery:
        fault = self.cases[endpoint].fault
        waited = self.now - self.moved_at.get(endpoint, self.now)
        if fault == "telemetry silent" or waited < (3600 if fault == "telemetry late" else 180):
            return Recovery(None, None, "0 requests since the shift")
        return Recovery(self.endpoints[endpoint].share(bad_version) == 0, True, "errors are back to 0.4%")


@dataclass
class Channel:
    """A pager that keeps what it took. `fault(now)`: "", "refuses" or "down"."""

    world: World
    fault: Callable[[float], str]
    events: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)

    def send(self, event: Mapping[str, Any]) -> None:
        state = self.fault(self.world.now)
        if state == "down":
            raise TransientError("the pager does not answer")
        if state == "refuses":
            raise RefusedError("the pager refused the event (400): invalid routing key")
        self.events.append((self.world.now, event))

    def close(self) -> None:
        """Nothing is held."""


class Night:
    """The night; `run` plays it to the end, `figures` say what came of it."""

    def __init__(self, folder: Path, endpoints: int, incidents: int, seed: int, tick_s: float = TICK_S) -> None:
        self.world, self.tick_s = World(random.Random(seed)), tick_s
        self.rng = self.world.rng
        self.names = [f"endpoint-{number:04}" for number in range(endpoints)]
        policy = Policy(ready_timeout_s=900, proposal_ttl_s=3600)
        policies: dict[str, EndpointSettings] = {}
        for name, fault in zip(self.rng.sample(self.names, incidents), itertools.cycle(FAULTS), strict=False):
            mode = (
                Mode.AUTO
                if self.rng.random() < 0.5 and fault not in ("rejected", "held", "nobody answers")
                else Mode.APPROVE
            )
            self.world.cases[name] = Case(name, fault, mode, self.rng.uniform(600, (HOURS - 4) * 3600))
            policies[name] = EndpointSettings(mode=mode, policy=policy)
        for name in self.names:
            gone = name in self.world.cases and self.world.cases[name].fault == "prior gone"
            versions = ("3",) if gone else ("2", "3")
            served = tuple(
                ServedEntity(
                    f"m-{v}",
                    "main.ml.m",
                    v,
                    settings={"name": f"m-{v}", "entity_name": "main.ml.m", "entity_version": v},
                )
                for v in versions
            )
            self.world.endpoints[name] = Endpoint(name, 4, served, {f"m-{v}": 100 if v == "3" else 0 for v in versions})
        self.settings = Settings(endpoints=policies)
        self.url = f"sqlite:///{folder}/state.db"
        self.store = Store(self.url)
        self.pager = Channel(self.world, self._pager_fault)
        self.chat = Channel(self.world, lambda now: "")
        self.unpaged_s: Counter[str] = Counter()
        self.labels: list[tuple[float, str, str, bool]] = []
        self.acts = Controller(
            self.store, self.world, self.settings, {"pagerduty": self.pager, "chat": self.chat}, self.world,
            Signer(["a-key-for-this-benchmark"]), self.world.clock,
        )  # fmt: skip
        self.script: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for case in self.world.cases.values():
            self._plan(case)

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.script, (when, next(self._order), what))

    def _pager_fault(self, now: float) -> str:
        """The pager's key is rotated for 40 minutes and its service is away for 20, in hours of their own."""
        return "refuses" if 3 * 3600 <= now < 3 * 3600 + 2400 else "down" if 5 * 3600 <= now < 5 * 3600 + 1200 else ""

    def _plan(self, case: Case) -> None:
        world, name, onset = self.world, case.name, case.onset
        match case.fault:
            case "errors that end by themselves":
                case.ends = onset + 1500
            case "fixed by hand":
                self._at(onset + 400, lambda: self._deploy(name, {"m-2": 100, "m-3": 0}))
            case "workspace down":
                world.down_until[name] = onset + 3000
                if onset < 3000:
                    world.down_until[name] = onset + 1000
            case "config changed":
                self._at(onset + 200, lambda: self._deploy(name, {"m-2": 5, "m-3": 95}))
            case "kill switch":
                self._at(onset, lambda: self.acts.people.set_kill_switch(True, "ann", "a migration"))
                self._at(onset + 900, lambda: self.acts.people.set_kill_switch(False, "ann", "over"))
            case "pager refuses":
                case.onset = 3 * 3600 + self.rng.uniform(0, 1200)
            case "pager down":
                case.onset = 5 * 3600 + self.rng.uniform(0, 600)
            case "bad again":
                self._at(onset + 3 * 3600, lambda: self._deploy(name, {"m-2": 0, "m-3": 100}))
            case "endpoint deleted":
                self._at(onset + 800, lambda: self._delete(name))
            case "verdicts stop":
                case.ends = onset + 3600

    def _deploy(self, name: str, traffic: dict[str, int]) -> None:
        if name in self.world.endpoints and name not in self.world.pending:
            self.world.deploy(name, replace(self.world.endpoints[name], traffic=traffic))

    def _delete(self, name: str) -> None:
        self.world.endpoints.pop(name, None)
        self.world.pending.pop(name, None)

    # the judge and the people

    def judge(self) -> None:
        """A word on each endpoint that has a case, while it serves, as the judge would have it."""
        for name, case in self.world.cases.items():
            endpoint = self.world.endpoints.get(name)
            if endpoint is None or not endpoint.share("3") or self.world.now < case.onset - 600:
                continue
            if case.fault == "verdicts stop" and case.onset + 600 < self.world.now < case.onset + 5400:
                continue
            seen = self.world.bad(name) and self.world.now >= case.onset + DETECTION_S
            self._speak(name, case, seen)

    def _speak(self, name: str, case: Case, seen: bool) -> None:
        now = self.world.clock()
        finding = Finding("errors", "6% of requests fail, 0.4% before", 400.0, 15.0, 9.0, 24.0, 0.06, 0.004)
        since = START + timedelta(seconds=case.onset)
        state = State.ROLL_BACK if seen else State.HEALTHY
        if self.world.bad(name) and not seen:
            return
        verdict = Verdict(
            name, "3", "2", state, finding.sentence if seen else "as good as version 2", now, since if seen else None,
            400.0 if seen else 0.5, (finding,) if seen else (),
        )  # fmt: skip
        try:
            self.acts.handle(verdict)
        except TransientError:
            logging.getLogger(__name__).warning("the verdict on %s is handed over with the next", name)

    def decide(self) -> None:
        """People who were paged decide after some minutes, through the newest link."""
        with self.store.read() as tx:
            waiting = [r for name in self.world.cases for r in tx.rollbacks(name, 1) if r.state is Status.PROPOSED]
        for rollback in waiting:
            fault = self.world.cases[rollback.plan.endpoint].fault
            age = (self.world.clock() - rollback.progress.since).total_seconds()
            if fault == "nobody answers" or age < self._patience(rollback.id):
                continue
            with self.store.read() as tx:
                incident = tx.incident(rollback.incident_id)
                held = any(entry["what"] == str(Status.HELD) for entry in tx.audit(rollback.incident_id))
            assert incident is not None
            answer: Approve | Reject | Hold = Approve("ann")
            if fault == "rejected":
                answer = Reject("ann", "a load test")
            elif fault == "held" and not held:
                answer = Hold("ann", 20)
            try:
                self.acts.people.decide(self.acts.teller.link(incident, rollback), answer)
            except LastgoodError as error:
                logging.getLogger(__name__).warning("%s", error)

    @staticmethod
    def _patience(identity: str) -> float:
        """Seconds a person takes, from the plan's own id: 2 to 12 minutes."""
        return 120 + int(identity[:4], 16) / 0xFFFF * 600

    # the clock

    def run(self) -> None:
        end, judged, observed = HOURS * 3600, 0.0, 0.0
        self.acts.observe_endpoints()
        while self.world.now < end:
            self.world.now += self.tick_s
            while self.script and self.script[0][0] <= self.world.now:
                heapq.heappop(self.script)[2]()
            if self.world.now >= judged:
                judged = self.world.now + JUDGE_S
                self.judge()
            if self.world.now >= observed:
                observed = self.world.now + OBSERVE_S
                self.acts.observe_endpoints()
            self.acts.tick()
            self.decide()
            self._sent()
        self.store.close()

    def _sent(self) -> None:
        """Deliver, label the new pages, and count the bad minutes nobody was paged for."""
        before = [(channel, len(channel.events)) for channel in (self.pager, self.chat)]
        self.acts.send()
        for channel, number in before:
            for at, event in channel.events[number:]:
                if event["event_action"] == "trigger":
                    self.labels.append((at, event["dedup_key"], event["payload"]["summary"], self._needed(event)))
        for name in self.world.cases:
            case = self.world.cases[name]
            if self.world.bad(name) and self.world.now > case.onset + PAGED_WITHIN_S and not self._paged(name, case):
                self.unpaged_s[name] += int(self.tick_s)

    def _needed(self, event: Mapping[str, Any]) -> bool:
        about = event.get("about") or {}
        name = about.get("endpoint", "")
        if not name:
            return "refuses messages" in event["payload"]["summary"]
        failed = "the rollback failed" in event["payload"]["summary"]
        with self.store.read() as tx:
            known = [
                v for v in tx.verdicts(name) if v.bad and v.judged_at >= self.world.clock() - timedelta(seconds=1200)
            ]
        return (
            self.world.bad(name) or failed or bool(known)
        )  # a page that was delayed is about what was so when it was written

    def _paged(self, name: str, case: Case) -> bool:
        return any(at >= case.onset and f"{name} " in summary for at, _, summary, _ in self.labels)

    def figures(self) -> dict[str, int]:
        store = Store(str(self.store._engine.url))
        with store.read() as tx:
            incidents: list[Incident] = tx.incidents(limit=100_000)
        store.close()
        first = {key: words for _, key, words, _ in reversed(self.labels)}
        still = [i for i in incidents if i.resolved_at is None and not self._open_with_reason(i)]
        unexplained = [i for i in incidents if i.resolved_at is not None and not i.resolution]
        return {
            "endpoints": len(self.names),
            "incidents": len(incidents),
            "pages": len(first),
            "repeated_pages": len(first) - len({(key.split("-")[0], words) for key, words in first.items()}),
            "needless_pages": len({key for _, key, _, needed in self.labels if not needed}),
            "unpaged_bad_minutes": sum(self.unpaged_s.values()) // 60,
            "double_rollbacks": sum(
                max(0, number - self._allowed(name)) for name, number in self.world.updates.items()
            ),
            "open_without_reason": len(still) + len(unexplained),
            "left_on_bad_without_page": sum(
                self.world.bad(name) and not self._paged(name, case) for name, case in self.world.cases.items()
            ),
        }

    def _allowed(self, name: str) -> int:
        return {"update fails": 2, "bad again": 2, "config changed": 2}.get(self.world.cases[name].fault, 1)

    def _open_with_reason(self, incident: Incident) -> bool:
        """Harm goes on, the endpoint cannot be read, or a rollback waits for telemetry and says so."""
        store = Store(str(self.store._engine.url))
        with store.read() as tx:
            last = tx.last_rollback(incident.id)
        store.close()
        waits = last is not None and last.progress.waits_for_telemetry
        return self.world.bad(incident.endpoint) or incident.endpoint in self.acts.unreadable or waits

    def table(self) -> Iterator[str]:
        """Markdown: what became of the incidents, by fault."""
        store = Store(str(self.store._engine.url))
        yield "| fault | incidents | ended because | rollbacks | pages |"
        yield "|---|---|---|---|---|"
        with store.read() as tx:
            incidents = tx.incidents(limit=100_000)
            for fault in FAULTS:
                own = [i for i in incidents if self.world.cases[i.endpoint].fault == fault]
                whys = Counter(
                    (i.resolution.split(":")[0].split("(")[0].strip() if i.resolved_at else "open") for i in own
                )
                states = Counter(
                    str(r.state) for i in own for r in tx.rollbacks(i.endpoint, 50) if r.incident_id == i.id
                )
                pages = len(
                    {key for _, key, summary, _ in self.labels if any(f"{i.endpoint} " in summary for i in own)}
                )
                yield f"| {fault} | {len(own)} | {_counted(whys)} | {_counted(states)} | {pages} |"
        store.close()


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{what} {number}" for what, number in counter.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 endpoints, 40 incidents")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        night = Night(Path(folder), *((100, 40) if given.quick else (1000, 200)), given.seed)
        night.run()
        print("\n".join(night.table()))
        figures = night.figures()
    for at, key, words, needed in night.labels:
        if not needed:
            print(f"\nneedless, {at / 3600:.2f} h: {key}: {words}")
    print(f"\n{machine()}; seed {given.seed}; {HOURS:g} simulated hours in {time.monotonic() - started:.0f} s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
