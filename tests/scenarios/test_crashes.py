"""Any history of verdicts, people, faults, crashes and a second instance: one shift per plan, an end state, nothing left unsaid."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from alerts_support import FixedTelemetry, House, ListNotifier, MemoryWorkspace, endpoint, entity, settings
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from soak import scaled

from lastgood.alerts.records import Rollback
from lastgood.alerts.rollback.machine import Approve, Hold, Reject, Status
from lastgood.alerts.rollback.verify import Recovery
from lastgood.alerts.tx import Tx
from lastgood.errors import LastgoodError, TransientError
from lastgood.record.verdict import State
from lastgood.settings import Mode
from lastgood.workspace import ServedEntity

WITHIN_TICKS = 400


class CrashError(Exception):
    """The process dies here."""


class Watched(MemoryWorkspace):
    """Remembers which rollback asked for each accepted update."""

    def __init__(self, *endpoints: Any) -> None:
        super().__init__(*endpoints)
        self.asked: list[tuple[str, str]] = []
        self.live: Any = None

    def update_config(self, *args: Any) -> None:
        before = len(self.updates)
        try:
            super().update_config(*args)
        finally:
            if len(self.updates) > before:
                self.asked.append((self.live(), str(sorted(args[2].items()))))


class Histories(RuleBasedStateMachine):
    @initialize(
        mode=st.sampled_from([Mode.AUTO, Mode.AUTO, Mode.APPROVE]),
        slow=st.booleans(),
        approvals=st.integers(1, 2),
        die_at=st.integers(0, 60),
        fails=st.booleans(),
        polls=st.integers(0, 4),
    )
    def start(self, mode: Mode, slow: bool, approvals: int, die_at: int, fails: bool, polls: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.left = self.people = 0
        self.workspace = Watched(endpoint("2") if slow else endpoint("2", "3"))
        self.workspace.live = self.under_way
        config = settings(mode, cooldown_s=0, max_rollbacks_per_day=100, approvals=approvals, ready_timeout_s=600)
        self.notifier, self.telemetry = ListNotifier(), FixedTelemetry()
        self.house = House(Path(self.folder.name), self.workspace, config, self.notifier, self.telemetry)
        if slow:
            self.house.controller.observe_endpoints()
            self.workspace._endpoints["chat"] = endpoint("3", config_version=9)
        for name in (
            "write_journal",
            "save_rollback",
            "add_rollback",
            "record",
            "say",
            "use_nonce",
            "lease",
            "release",
        ):
            self._around(Tx, name)
        self._around(self.workspace, "update_config")
        self._around(self.notifier, "send")
        self.house.clock.forward(1)
        self.house.verdict()
        self.left, self.workspace.polls, self.workspace.outcome = die_at, polls, "fail" if fails else "ok"

    def _around(self, owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def here() -> None:
            if self.left:
                self.left -= 1
                if not self.left:
                    raise CrashError

        def wrapped(*args: Any, **values: Any) -> Any:
            here()
            result = inner(*args, **values)
            here()
            return result

        self.patch.setattr(owner, name, wrapped)

    def under_way(self) -> str:
        with self.house.store.read() as tx:
            found = [r for i in tx.live_rollbacks() if (r := tx.rollback(i)) and r.state.under_way]
        assert len(found) == 1, "an update without exactly one approved rollback"
        return found[0].id

    def last(self) -> Rollback | None:
        with self.house.store.read() as tx:
            found = tx.rollbacks("chat", 1)
        return found[0] if found else None

    def living(self, act: Any) -> None:
        """Do something in a process that may die on the way and is then started again."""
        try:
            act()
        except CrashError:
            self.house.store.close()
            self.house.restart()
            self.house.clock.forward(150)
        except LastgoodError:
            pass

    def tick_once(self) -> None:
        self.house.clock.forward(20)
        self.house.controller.tick()
        self.house.controller.send()

    @rule(state=st.sampled_from([State.ROLL_BACK, State.ROLL_BACK, State.ROLL_BACK, State.PAGE, State.HEALTHY]))
    def verdict(self, state: State) -> None:
        self.house.clock.forward(1)
        self.living(lambda: self.house.verdict(state))

    @rule(times=st.integers(1, 6))
    def tick(self, times: int) -> None:
        for _ in range(times):
            self.living(self.tick_once)

    @rule(kind=st.sampled_from(["approve", "approve", "approve", "hold", "reject"]))
    def person(self, kind: str) -> None:
        self.people += 1
        who = f"person {self.people}"
        last = self.last()
        if last is None:
            return
        with self.house.store.read() as tx:
            incident = tx.incident(last.incident_id)
        assert incident is not None
        decision = {"approve": Approve(who), "hold": Hold(who, 5), "reject": Reject(who, "no")}[kind]
        token = self.house.controller.teller.link(incident, last)
        self.living(lambda: self.house.controller.people.decide(token, decision) and None)

    @rule(at=st.integers(1, 14))
    def die_soon(self, at: int) -> None:
        self.left = at

    @rule(on=st.sampled_from([True, False, False]))
    def kill_switch(self, on: bool) -> None:
        self.living(lambda: self.house.controller.people.set_kill_switch(on, "ann", "a test"))

    @rule(
        lose=st.integers(0, 2),
        outcome=st.sampled_from(["ok", "fail"]),
        polls=st.integers(0, 4),
        unreadable=st.integers(0, 2),
        recovered=st.sampled_from([True, True, None, False]),
    )
    def trouble(self, lose: int, outcome: str, polls: int, unreadable: int, recovered: bool | None) -> None:
        self.workspace.lose, self.workspace.outcome, self.workspace.polls = lose, outcome, polls
        self.workspace.errors += [TransientError("503")] * unreadable
        self.telemetry.answer = Recovery(True, recovered, f"recovered: {recovered}")

    @precondition(lambda self: self.workspace._endpoints["chat"].pending_traffic is None)
    @rule()
    def somebody_deploys(self) -> None:
        now = self.workspace._endpoints["chat"]
        if any(e.entity_version == "9" for e in now.entities):
            return
        other: tuple[ServedEntity, ...] = (*now.entities, entity("9"))
        self.workspace.start("chat", other, dict(now.traffic))

    @rule()
    def second_instance(self) -> None:
        other = House(self.house.folder, self.workspace, self.house.config, self.notifier, self.telemetry)
        other.clock.now = self.house.clock.now
        self.living(other.controller.tick)
        other.close()

    @invariant()
    def no_shift_is_asked_for_twice(self) -> None:
        if hasattr(self, "workspace"):
            assert len(self.workspace.asked) == len(set(self.workspace.asked)), self.workspace.asked

    def teardown(self) -> None:
        if not hasattr(self, "house"):
            return
        self.left = 0
        self.house.controller.people.set_kill_switch(False, "ann", "over")
        self.workspace.errors.clear()
        self.workspace.outcome, self.workspace.lose = "ok", 0
        for _ in range(WITHIN_TICKS):
            last = self.last()
            if last is None or last.state.ended:
                break
            self.tick_once()
        self.tick_once()
        last = self.last()
        with self.house.store.read() as tx:
            assert tx.verify() == [] and tx.live_rollbacks() == [] and tx.due(self.house.clock.now) == []
            assert not tx.leased("rollback/chat", self.house.clock.now), "the endpoint is free again"
        self.no_shift_is_asked_for_twice()
        if last is not None:
            assert last.state.ended, "no end state within the bound"
            self.nothing_is_left_unsaid(last)
        self.house.close()
        self.patch.undo()
        self.folder.cleanup()

    def nothing_is_left_unsaid(self, last: Rollback) -> None:
        now = self.workspace._endpoints["chat"]
        sums = sum(now.traffic.values())
        assert sums == 100, now.traffic
        if last.state is Status.DONE:
            assert any(e["event_action"] == "resolve" for e in self.notifier.events)
        if last.state is Status.FAILED:
            said = [e["payload"]["summary"] for e in self.notifier.events if e["dedup_key"].endswith("-failed")]
            assert any(last.progress.reason.split(":")[0] in one for one in said), (last.progress, said)


Histories.TestCase.settings = hypothesis_settings(
    phases=[Phase.generate],  # shrinking a history takes minutes
    max_examples=scaled(60),
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)
TestHistories = Histories.TestCase
