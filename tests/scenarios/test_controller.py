"""Verdicts come in; incidents, messages and rollbacks come out: by mode, once each, through crashes and restarts."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alerts_support import FixedTelemetry, House, MemoryWorkspace, endpoint, entity, settings, verdict
from tenacity import wait_none

from lastgood.alerts.notify.fake_pagerduty import serve_fake
from lastgood.alerts.notify.pagerduty import PagerDuty
from lastgood.alerts.records import Rollback
from lastgood.alerts.rollback.links import LinkError, Problem
from lastgood.alerts.rollback.machine import Approve, Hold, Reject, Status
from lastgood.alerts.rollback.verify import Recovery
from lastgood.alerts.teller import AUTO
from lastgood.alerts.tx import Tx
from lastgood.config import Mode, Policy, WorkspaceSettings
from lastgood.errors import RefusedError, TransientError
from lastgood.judge.verdict import State
from lastgood.workspace import Endpoint, Update, local
from lastgood.workspace.databricks import connect

SHIFTED = {"chat-2": 100, "chat-3": 0}
Build = Callable[..., House]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    with ExitStack() as stack:

        def make(mode: Mode = Mode.AUTO, workspace: Any = None, **policy: Any) -> House:
            built = House(tmp_path, workspace or MemoryWorkspace(endpoint("2", "3")), settings(mode, **policy))
            stack.callback(built.close)
            return built

        yield make


def ended(rollback: Rollback) -> bool:
    return rollback.state.ended


def audit(house: House) -> list[str]:
    with house.store.read() as tx:
        assert tx.verify() == []
        return [str(entry["what"]) for entry in tx.audit()]


def open_incidents(house: House) -> int:
    with house.store.read() as tx:
        return len(tx.incidents(open_only=True))


def test_a_verdict_of_long_ago_is_not_acted_on(build: Build) -> None:
    """A service that starts beside tables with a history, or after an outage, must not roll back for what was so then."""
    house = build()
    old = house.clock.now - timedelta(seconds=Policy().max_evidence_age_s + 1)
    house.controller.handle(verdict(at=old))
    house.tick(3)
    assert (open_incidents(house), house.workspace.updates, house.notifier.kinds()) == (0, [], [])
    house.verdict()
    assert house.tick_until(ended).state is Status.DONE


# the three modes


def test_auto_rolls_back_verifies_and_resolves(build: Build) -> None:
    house = build()
    house.verdict()
    done = house.tick_until(ended)
    assert done.state is Status.DONE and done.progress.who == AUTO
    assert [traffic for _, traffic, _ in house.workspace.updates] == [SHIFTED]
    assert house.workspace.updates[0][0] == [dict(entity(v).settings) for v in "23"]
    assert house.telemetry.asked[0][:3] == ("chat", "3", "2") and house.telemetry.asked[0][4] == "error_rate"
    assert house.notifier.kinds() == [("trigger", "critical"), ("resolve", "")]
    assert open_incidents(house) == 0
    assert audit(house) == ["opened", "Proposed", "Approved", "Shifting", "Verifying", "Done", "resolved"]


def test_approve_waits_for_the_person_behind_the_link(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.tick(5)
    assert house.workspace.updates == []
    assert house.rollback().state is Status.PROPOSED
    (message,) = house.notifier.events
    assert "roll back to version 2?" in message["payload"]["summary"]
    assert message["payload"]["custom_details"]["new version"] == "3"
    house.controller.people.decide(house.token(), Approve("ann@example.com"))
    done = house.tick_until(ended)
    assert (done.state, done.progress.who) == (Status.DONE, "ann@example.com")
    assert len(house.workspace.updates) == 1
    assert [k for k, _ in house.notifier.kinds()] == ["trigger", "acknowledge", "resolve"]


def test_observe_says_what_it_would_do_and_does_nothing(build: Build) -> None:
    house = build(Mode.OBSERVE)
    for _ in range(3):
        house.verdict()
        house.tick(3)
    (message,) = house.notifier.events
    assert "would roll back to version 2 (fast path)" in message["payload"]["summary"]
    assert house.workspace.updates == []
    assert audit(house) == ["opened", "observed"]


def test_page_sends_a_message_with_the_evidence_and_no_rollback(build: Build) -> None:
    house = build()
    house.verdict(State.PAGE)
    house.verdict(State.PAGE)
    house.tick(3)
    (message,) = house.notifier.events
    assert message["payload"]["severity"] == "error"
    token = message["links"][0]["href"].split("/r/")[1]
    claims, incident, rollback = house.controller.people.verify_link(token)
    assert (claims.endpoint, incident.candidate, rollback) == ("chat", "3", None)
    with pytest.raises(LinkError, match="decides nothing"):
        house.controller.people.decide(token, Approve("ann"))


# verdicts again, late, better, worse


@pytest.mark.parametrize("mode", list(Mode))
def test_a_repeated_verdict_changes_nothing(build: Build, mode: Mode) -> None:
    house = build(mode)
    for _ in range(5):
        house.verdict()
    house.tick()
    assert open_incidents(house) == 1
    assert len(house.notifier.events) == 1
    assert house.rollbacks() == (mode is not Mode.OBSERVE)


def test_a_late_verdict_about_the_version_rolled_back_opens_nothing(build: Build) -> None:
    house = build()
    house.verdict()
    house.tick_until(ended)
    sent = len(house.notifier.events)
    house.verdict()
    house.tick(3)
    assert open_incidents(house) == 0
    assert len(house.notifier.events) == sent


def test_page_then_rollback_is_one_incident_with_one_more_message(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict(State.PAGE)
    house.verdict(State.ROLL_BACK)
    house.verdict(State.PAGE)
    house.tick(3)
    assert house.notifier.kinds() == [("trigger", "error"), ("trigger", "critical")]
    assert len({e["dedup_key"] for e in house.notifier.events}) == 1


def test_healthy_again_withdraws_the_proposal_and_resolves(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.tick()
    house.clock.forward(60)
    house.verdict(State.HEALTHY)
    house.tick(3)
    assert house.rollback().state is Status.EXPIRED
    assert open_incidents(house) == 0
    assert house.notifier.kinds()[-1] == ("resolve", "")
    with pytest.raises(RefusedError, match=r"has ended \(Expired\): the endpoint is healthy again"):
        house.controller.people.decide(house.token(), Approve("ann"))


def test_inconclusive_neither_opens_nor_resolves(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict(State.INCONCLUSIVE)
    house.verdict(State.WATCH)
    assert open_incidents(house) == 0
    house.verdict()
    house.verdict(State.INCONCLUSIVE)
    house.tick()
    assert open_incidents(house) == 1
    assert house.rollback().state is Status.PROPOSED


def test_healthy_during_a_rollback_lets_it_finish(build: Build) -> None:
    house = build()
    house.verdict()
    house.tick(2)
    house.verdict(State.HEALTHY)
    assert house.rollback().state.under_way
    assert house.tick_until(ended).state is Status.DONE


# reasons not to


def second(house: House, at_s: float) -> None:
    """Version 4 is deployed beside 2 and goes bad too."""
    house.clock.forward(at_s)
    house.workspace._endpoints["chat"] = endpoint("2", "4", config_version=20)
    house.verdict(candidate="4")


def test_the_cooldown_turns_the_next_automatic_rollback_into_a_proposal(build: Build) -> None:
    house = build(cooldown_s=1800)
    house.verdict()
    house.tick_until(ended)
    second(house, 600)
    assert house.rollback().state is Status.PROPOSED
    assert "happened less than 1800 s ago" in house.rollback().progress.reason
    house.tick()
    assert "less than 1800 s ago" in house.notifier.events[-1]["payload"]["summary"]


def test_after_the_cooldown_it_acts_by_itself_again(build: Build) -> None:
    house = build(cooldown_s=300)
    house.verdict()
    house.tick_until(ended)
    second(house, 400)
    assert house.tick_until(ended).state is Status.DONE
    assert [traffic for _, traffic, _ in house.workspace.updates] == [SHIFTED, {"chat-2": 100, "chat-4": 0}]


def test_the_cap_per_day_turns_the_next_one_into_a_proposal(build: Build) -> None:
    house = build(cooldown_s=300, max_rollbacks_per_day=1)
    house.verdict()
    house.tick_until(ended)
    second(house, 4000)
    assert house.rollback().state is Status.PROPOSED
    assert house.rollback().progress.reason == "1 rollbacks a day are allowed"
    assert len(house.workspace.updates) == 1


def test_a_rollback_under_way_turns_the_next_one_into_a_proposal(build: Build) -> None:
    house = build(cooldown_s=0, workspace=MemoryWorkspace(endpoint("1", "2", "3", v2=50, v3=50), polls=50))
    house.verdict(candidate="2", prior="1")
    house.clock.forward(1)
    house.verdict()
    assert house.rollback().state is Status.PROPOSED
    assert house.rollback().progress.reason == "another rollback of this endpoint is under way"


def test_the_kill_switch_stops_everything_and_says_so(build: Build) -> None:
    house = build()
    house.controller.people.set_kill_switch(True, "ann", "migration")
    house.verdict()
    house.tick(5)
    assert house.rollback().state is Status.PROPOSED
    assert "kill switch is on (ann: migration)" in house.rollback().progress.reason
    with pytest.raises(RefusedError, match="kill switch is on"):
        house.controller.people.decide(house.token(), Approve("bob"))
    assert house.workspace.updates == []
    house.controller.people.set_kill_switch(False, "ann", "done")
    house.controller.people.decide(house.token(), Approve("bob"))
    assert house.tick_until(ended).state is Status.DONE


def test_the_kill_switch_stops_an_approved_rollback_before_its_next_step(build: Build) -> None:
    house = build(ready_timeout_s=100)
    house.verdict()
    house.controller.people.set_kill_switch(True, "ann", "wait")
    house.tick(10)
    assert house.rollback().state is Status.APPROVED
    assert house.tick_until(ended).state is Status.FAILED
    assert "kill switch" in house.rollback().progress.reason
    assert house.workspace.updates == []


def test_no_plan_is_said_once_with_the_reason(build: Build) -> None:
    house = build(workspace=MemoryWorkspace(endpoint("3")))
    for _ in range(3):
        house.verdict(prior=None)
        house.tick()
    (message,) = house.notifier.events
    assert "no rollback is possible: no prior version is known" in message["payload"]["summary"]


def test_a_version_rolled_back_before_is_no_prior_version(build: Build) -> None:
    house = build(cooldown_s=0)
    house.verdict()
    house.tick_until(ended)
    house.workspace._endpoints["chat"] = endpoint("3", "4", config_version=20)
    house.verdict(candidate="4", prior="3")
    house.tick()
    assert "not version 3: version 3 was itself rolled back" in house.notifier.events[-1]["payload"]["summary"]


def test_an_unreadable_workspace_still_pages_and_the_plan_follows(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.workspace.errors += [TransientError("503 busy"), TransientError("timeout")]
    house.verdict()
    house.verdict()
    house.tick()
    assert len(house.notifier.events) == 1
    house.verdict()
    assert house.rollback().state is Status.PROPOSED


# people


def test_a_link_works_once(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.tick()
    token = house.token()
    house.controller.people.decide(token, Reject("ann", "a test"))
    for decision in (Approve("bob"), Reject("bob", "again")):
        with pytest.raises(LinkError) as caught:
            house.controller.people.decide(token, decision)
        assert caught.value.problem is Problem.USED
    house.verdict()
    house.tick(3)
    assert house.rollbacks() == 1
    assert house.rollback().state is Status.REJECTED
    assert house.workspace.updates == []


def test_a_persons_own_plan_replaces_the_proposal(build: Build) -> None:
    house = build(Mode.APPROVE, workspace=MemoryWorkspace(endpoint("1", "2", "3", v3=100)))
    house.verdict()
    house.tick()
    now, first = house.workspace.endpoint("chat"), house.rollback()
    with house.store.read() as tx:
        plan = house.controller.plan(tx, now, "3", {}, why="I know better", wanted="1")
    house.clock.forward(1)
    house.controller.people.start(plan, "ann", "I know better")
    assert house.tick_until(ended).plan.prior_version == "1"
    with house.store.read() as tx:
        replaced = tx.rollback(first.id)
    assert replaced is not None and replaced.progress.reason == "replaced by a plan of ann"
    assert [traffic for _, traffic, _ in house.workspace.updates] == [{"chat-1": 100, "chat-2": 0, "chat-3": 0}]
    with pytest.raises(RefusedError, match="replaced by a plan of ann"):
        house.controller.people.decide(house.token(), Approve("bob"))


def test_a_refused_decision_does_not_use_the_link_up(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.tick()
    with pytest.raises(RefusedError, match="a hold lasts"):
        house.controller.people.decide(house.token(), Hold("ann", 0))
    assert house.controller.people.decide(house.token(), Approve("ann")).state is Status.APPROVED


def test_a_hold_sends_a_fresh_link_and_the_old_one_is_dead(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.tick()
    old = house.token()
    house.controller.people.decide(old, Hold("ann", 10))
    house.tick()
    with pytest.raises(LinkError, match="replaced"):
        house.controller.people.decide(old, Approve("ann"))
    assert house.token() != old
    house.clock.forward(600)
    house.tick(2)
    assert house.rollback().state is Status.PROPOSED
    house.controller.people.decide(house.token(), Approve("ann"))
    assert house.tick_until(ended).state is Status.DONE


def test_nobody_answers_and_the_next_verdict_asks_again(build: Build) -> None:
    house = build(Mode.APPROVE, proposal_ttl_s=600)
    house.verdict()
    house.tick()
    house.clock.forward(600)
    house.tick()
    assert house.rollback().state is Status.EXPIRED
    house.verdict()
    assert house.rollback().state is Status.PROPOSED
    assert house.rollbacks() == 2
    assert open_incidents(house) == 1


# the workspace does something else


def test_a_plan_for_another_configuration_is_refused_and_made_anew(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.tick()
    token = house.token()
    house.workspace._endpoints["chat"] = endpoint("2", "3", config_version=8, v2=50, v3=50)
    house.controller.people.decide(token, Approve("ann"))
    house.tick(2)
    assert house.rollback().state is Status.EXPIRED
    assert "no longer version 7" in house.rollback().progress.reason
    assert house.workspace.updates == []
    house.verdict()
    assert house.rollback().plan.traffic_before == {"chat-2": 50, "chat-3": 50}
    assert house.rollback().state is Status.PROPOSED


def test_an_update_that_fails_pages_and_stops(build: Build) -> None:
    house = build(workspace=MemoryWorkspace(endpoint("2", "3"), outcome="fail"))
    house.verdict()
    failed = house.tick_until(ended)
    assert failed.state is Status.FAILED and "UPDATE_FAILED" in failed.progress.reason
    house.verdict()
    house.tick(5)
    assert len(house.workspace.updates) == 1
    assert house.rollbacks() == 1
    assert "the rollback failed" in house.notifier.events[-1]["payload"]["summary"]
    assert house.notifier.events[-1]["dedup_key"].endswith("-failed")


def test_somebody_elses_update_is_waited_for_and_then_voids_the_plan(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.tick()
    other = (entity("2"), entity("3"), entity("4"))
    house.workspace.start("chat", other, {"chat-4": 100})
    house.controller.people.decide(house.token(), Approve("ann"))
    house.tick()
    assert "another update" in house.rollback().progress.reason
    assert house.tick_until(ended).state is Status.EXPIRED
    assert house.workspace.updates == []


def test_a_lost_response_is_not_a_second_update(build: Build) -> None:
    workspace = MemoryWorkspace(endpoint("2", "3"))
    workspace.lose = 1
    house = build(workspace=workspace)
    house.verdict()
    assert house.tick_until(ended).state is Status.DONE
    assert len(workspace.updates) == 1


def test_an_update_refused_for_good_ends(build: Build) -> None:
    class Refusing(MemoryWorkspace):
        def update_config(self, *args: Any) -> None:
            raise RefusedError("INVALID_PARAMETER_VALUE: no")

    house = build(workspace=Refusing(endpoint("2", "3")))
    house.verdict()
    assert "refused the update 3 times" in house.tick_until(ended, 6).progress.reason


def test_an_update_that_never_ends_is_bounded(build: Build) -> None:
    house = build(workspace=MemoryWorkspace(endpoint("2", "3"), polls=10**6), ready_timeout_s=60)
    house.verdict()
    assert "not shifted within 60 s" in house.tick_until(ended, 30).progress.reason


def test_the_slow_path_puts_the_prior_version_back_waits_and_shifts(build: Build) -> None:
    workspace = MemoryWorkspace(endpoint("2"), polls=3)
    house = build(workspace=workspace)
    house.controller.observe_endpoints()
    workspace._endpoints["chat"] = endpoint("3", config_version=9)
    house.verdict()
    done = house.tick_until(ended)
    assert done.state is Status.DONE
    assert [traffic for _, traffic, _ in workspace.updates] == [
        {"chat-3": 100, "chat-2": 0},
        {"chat-3": 0, "chat-2": 100},
    ]
    assert all(entities == [dict(entity(v).settings) for v in "32"] for entities, _, _ in workspace.updates)


def test_only_ready_versions_with_traffic_are_remembered(build: Build) -> None:
    e = replace(
        endpoint("1", "2", "3", v2=60, v3=40), entities=(entity("1"), entity("2"), entity("3", "DEPLOYMENT_FAILED"))
    )
    workspace = MemoryWorkspace(e, endpoint("7", name="other"), polls=9)
    workspace.start("other", [entity("8")], {"chat-8": 100})
    house = build(workspace=workspace)
    house.controller.observe_endpoints()
    with house.store.read() as tx:
        kept = [v for v in ("1", "2", "3") if tx.snapshot("chat", v)]
        assert (kept, tx.snapshot("other", "7")) == (["2"], None)


# verification


@pytest.mark.parametrize(
    "answer",
    [Recovery(True, False, "errors stay at 6 %"), Recovery(None, None, "no rows yet"), Recovery(False, True, "x")],
)
def test_without_recovery_it_fails_pages_and_stops(build: Build, answer: Recovery) -> None:
    house = build(verify_timeout_s=60)
    house.telemetry.answer = answer
    house.verdict()
    failed = house.tick_until(ended)
    assert failed.state is Status.FAILED
    assert failed.progress.reason == f"no recovery within 60 s: {answer.sentence}"
    house.tick(3)
    assert house.notifier.kinds()[-1] == ("trigger", "critical")
    assert answer.sentence in house.notifier.events[-1]["payload"]["summary"]
    assert open_incidents(house) == 1
    assert len(house.workspace.updates) == 1


def test_unreadable_telemetry_is_asked_again(build: Build) -> None:
    class Flaky(FixedTelemetry):
        def recovery(self, *args: Any) -> Recovery:
            self.asked.append(args)
            if len(self.asked) < 3:
                raise TransientError("the table is busy")
            return self.answer

    house = build()
    house.telemetry = Flaky()
    house.restart()
    house.verdict()
    assert house.tick_until(ended).state is Status.DONE


# crashes and restarts


class CrashError(Exception):
    """The process dies here."""


def crash_points(house: House, monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Count the moments around every journal write, state write and update; die at the one numbered `at`."""
    count = [0]

    def here() -> None:
        count[0] += 1
        if count[0] == at:
            raise CrashError

    def around(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def wrapped(*args: Any, **values: Any) -> Any:
            here()
            result = inner(*args, **values)
            here()
            return result

        monkeypatch.setattr(owner, name, wrapped)

    for name in ("write_journal", "save_rollback", "add_rollback", "record", "say", "use_nonce"):
        around(Tx, name)
    around(house.workspace, "update_config")
    around(house.notifier, "send")
    return count


def live_through(house: House, clicked: bool) -> Rollback:
    """The same input again and again, restarting after each crash, until the rollback ends."""
    for _ in range(200):
        house.clock.forward(5)
        try:
            with house.store.read() as tx:
                started = bool(tx.incidents())
            if not started or house.rollback().state is Status.PROPOSED:
                house.verdict()
            if clicked and house.rollback().state is Status.PROPOSED and house.notifier.events:
                house.controller.people.decide(house.token(), Approve("ann"))
            house.controller.tick()
            house.controller.send()
        except CrashError:
            house.store.close()
            house.restart()
            house.clock.forward(150)  # the lease of the dead process runs out
            continue
        if house.rollback().state.ended:
            return house.rollback()
    raise AssertionError("no end state within the bound")


@pytest.mark.parametrize("slow", [False, True], ids=["fast", "slow"])
@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.APPROVE])
def test_a_crash_at_any_point_makes_no_second_update(tmp_path: Path, mode: Mode, slow: bool) -> None:
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        workspace = MemoryWorkspace(endpoint("2") if slow else endpoint("2", "3"))
        house = House(folder, workspace, settings(mode))
        if slow:
            house.controller.observe_endpoints()
            workspace._endpoints["chat"] = endpoint("3", config_version=9)
        with pytest.MonkeyPatch.context() as monkeypatch:
            count = crash_points(house, monkeypatch, at)
            done = live_through(house, mode is Mode.APPROVE)
        assert done.state is Status.DONE, (at, done.progress)
        assert len(workspace.updates) == (2 if slow else 1), at
        assert workspace.updates[-1][1] == {"chat-2": 100, "chat-3": 0}
        with house.store.read() as tx:
            assert tx.verify() == []
        assert house.rollbacks() == 1
        house.store.close()
        if count[0] < at:
            break
    assert at > 30, "the crash points were reached"


@pytest.mark.parametrize("ticks", range(1, 6))
def test_a_restart_in_the_middle_goes_on(build: Build, ticks: int) -> None:
    house = build()
    house.verdict()
    house.tick(ticks)
    house.store.close()
    house.restart()
    assert house.tick_until(ended).state is Status.DONE
    assert len(house.workspace.updates) == 1


def test_two_controllers_on_one_store_make_one_update(build: Build) -> None:
    house = build()
    other = House(house.folder, house.workspace, house.config, house.notifier, house.telemetry)
    house.verdict()
    other.verdict()
    for _ in range(10):
        house.tick()
        other.clock.now = house.clock.now
        other.controller.tick()
        other.controller.send()
    assert house.rollback().state is Status.DONE
    assert len(house.workspace.updates) == 1
    assert house.rollbacks() == 1
    other.store.close()


def test_one_rollback_per_endpoint_at_a_time(build: Build) -> None:
    house = build(Mode.APPROVE, workspace=MemoryWorkspace(endpoint("1", "2", "3", v2=50, v3=50), polls=50))
    house.verdict(candidate="2", prior="1")
    house.tick()
    first = house.token()
    house.verdict()
    house.tick()
    house.controller.people.decide(first, Approve("ann"))
    with pytest.raises(RefusedError, match="another rollback of chat is under way"):
        house.controller.people.decide(house.token(), Approve("bob"))


# messages


def test_a_dead_notifier_does_not_block_the_rollback_and_the_messages_arrive_later(tmp_path: Path) -> None:
    with serve_fake() as fake:
        fake.answers += [500] * 60
        pagerduty = PagerDuty(fake.url, "r" * 32, wait=wait_none())
        house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings(Mode.AUTO), pagerduty)
        house.verdict()
        assert house.tick_until(ended, 15).state is Status.DONE
        assert fake.events() == []
        fake.answers.clear()
        house.tick(10, every_s=300)
        sent = fake.events()
        assert [e["event_action"] for e in sent] == ["trigger", "resolve"]
        assert sent[0]["dedup_key"] == sent[1]["dedup_key"]
        pagerduty.close()
        house.store.close()


def test_a_receiver_that_is_down_is_tried_once_a_tick(build: Build) -> None:
    house = build(Mode.APPROVE, workspace=MemoryWorkspace(endpoint("1", "2", "3", v2=50, v3=50)))
    house.notifier.errors.append(TransientError("down"))
    house.verdict(candidate="2", prior="1")
    house.verdict()
    house.tick()
    assert house.notifier.events == []
    house.tick()
    assert len({e["dedup_key"] for e in house.notifier.events}) == 2


def test_an_undeliverable_message_is_recorded_and_does_not_block_the_next(build: Build) -> None:
    house = build()
    house.notifier.errors.append(RefusedError("400"))
    house.verdict()
    house.tick_until(ended)
    house.tick(2)
    assert "undeliverable" in audit(house)
    assert [k for k, _ in house.notifier.kinds()] == ["resolve"]


def test_the_settings_of_entities_are_not_in_the_message(build: Build) -> None:
    secret = replace(entity("3"), settings={**entity("3").settings, "environment_vars": {"TOKEN": "hunter2"}})
    e = Endpoint("chat", 7, (entity("2"), secret), {"chat-2": 0, "chat-3": 100})
    house = build(Mode.APPROVE, workspace=MemoryWorkspace(e))
    house.verdict()
    house.tick()
    assert house.notifier.events and "hunter2" not in str(house.notifier.events)


# the real client against the local workspace


@pytest.mark.parametrize("path", ["fast", "slow", "failing"])
def test_through_the_real_client_on_the_local_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for variable in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(variable)
    model = local.MODELS[local.CHAT]
    old, new = local.entity(model, "2", workload_size="Medium"), local.entity(model, "3")
    with local.serve(local.LocalConfig(update_s=0.2)) as running:
        monkeypatch.setenv("LOCAL_TOKEN", running.token)
        state = running.service.state
        state.create({"name": "chat", "config": local_config({old["name"]: 100}, old)})
        workspace = connect(WorkspaceSettings(host=running.url, token_env="LOCAL_TOKEN"))
        house = House(tmp_path, workspace, settings(Mode.AUTO))
        house.controller.observe_endpoints()
        both = () if path == "slow" else (old,)
        state.update("chat", local_config({new["name"]: 100, **{e["name"]: 0 for e in both}}, new, *both))
        while workspace.endpoint("chat").update is Update.IN_PROGRESS:
            time.sleep(0.02)
        if path == "failing":
            state.faults["chat", "2"] = local.Fault(never_ready=True)
        house.verdict()
        while not house.rollback().state.ended:
            time.sleep(0.02)
            house.tick(every_s=1)
        entities, shares = state.serving("chat")
        after = {e["entity_version"]: (share, e["workload_size"]) for e, share in zip(entities, shares, strict=True)}
        if path == "failing":
            assert house.rollback().state is Status.FAILED
            assert after == {"3": (100, "Small"), "2": (0, "Medium")}
        else:
            assert house.rollback().state is Status.DONE, house.rollback().progress
            assert house.rollback().plan.path == path
            assert after == {"3": (0, "Small"), "2": (100, "Medium")}
        house.store.close()


def local_config(traffic: dict[str, int], *entities: dict[str, Any]) -> dict[str, Any]:
    routes = [{"served_entity_name": name, "traffic_percentage": share} for name, share in traffic.items()]
    return {"served_entities": list(entities), "traffic_config": {"routes": routes}}
