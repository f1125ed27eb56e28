"""Verdicts come in; incidents and rollbacks come out: by mode, once each, within what the policy allows."""

from datetime import timedelta

import pytest
from alerts_support import Build, House, MemoryWorkspace, audit, ended, endpoint, entity, open_incidents, verdict

from lastgood.alerts.rollback.links import LinkError
from lastgood.alerts.rollback.machine import Approve, Status
from lastgood.alerts.teller import AUTO
from lastgood.errors import RefusedError, TransientError
from lastgood.record.verdict import State
from lastgood.settings import Mode, Policy

SHIFTED = {"chat-2": 100, "chat-3": 0}


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
    rollback = ["opened", "Proposed", "Approved", "Shifting", "Verifying", "Done"]
    assert audit(house) == [*rollback, "asked of the registry", "resolved", "registry written"]


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
    with pytest.raises(RefusedError, match=r"has ended \(Expired\): version 3 is healthy"):
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
    house.controller.send()
    assert len(house.notifier.events) == 1
    house.tick()
    assert house.rollback().state is Status.PROPOSED
