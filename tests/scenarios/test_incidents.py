"""Incidents live and end: each line is a way in which one was deaf, mute or immortal."""

from dataclasses import replace
from datetime import timedelta

from alerts_support import Build, House, MemoryWorkspace, audit, ended, endpoint, open_incidents, verdict

from lastgood.alerts.records import Incident, Pause, PauseKind
from lastgood.alerts.rollback.machine import Approve, Reject, Status
from lastgood.alerts.teller import AUTO
from lastgood.errors import TransientError
from lastgood.record.verdict import LIVE, State
from lastgood.settings import Mode, Policy

QUIET = Policy().quiet_s


def triggers(house: House) -> int:
    return sum(e["event_action"] == "trigger" for e in house.notifier.events)


def incidents(house: House) -> list[Incident]:
    with house.store.read() as tx:
        return tx.incidents()


# an incident ends, and a new onset opens a new one


def test_a_second_outage_two_weeks_later_pages_again(build: Build) -> None:
    house = build()
    house.verdict(State.PAGE)
    house.tick()
    house.clock.forward(QUIET + 60)
    house.verdict(State.WATCH)
    assert open_incidents(house) == 0
    assert "no harm for 30 minutes" in incidents(house)[0].resolution
    house.clock.forward(14 * 86_400)
    house.verdict(State.PAGE)
    house.tick()
    assert (open_incidents(house), triggers(house)) == (1, 2)


def test_silence_of_the_judge_is_no_proof_of_health(build: Build) -> None:
    """Nothing, or Inconclusive, says nothing about the harm: the incident stays open."""
    house = build()
    house.verdict(State.PAGE)
    house.clock.forward(QUIET + 60)
    house.verdict(State.INCONCLUSIVE)
    house.tick()
    assert open_incidents(house) == 1
    house.clock.forward(86_400)
    house.tick()
    assert open_incidents(house) == 1


def test_healthy_of_another_version_resolves_nothing_and_withdraws_nothing(build: Build) -> None:
    house = build(Mode.APPROVE, MemoryWorkspace(endpoint("2", "3", "4", v3=50, v4=50)))
    house.verdict()
    house.verdict(State.HEALTHY, candidate="4")
    house.tick()
    assert open_incidents(house) == 1
    assert house.rollback().state is Status.PROPOSED


def test_a_fix_by_hand_ends_the_incident_from_the_configuration(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.tick()
    house.workspace._endpoints["chat"] = endpoint("2", "3", config_version=8, v2=100, v3=0)
    house.controller.observe_endpoints()
    house.verdict()
    house.tick(2)
    assert open_incidents(house) == 0
    assert "takes no traffic any more (configuration 8)" in incidents(house)[0].resolution
    assert house.rollback().state is Status.EXPIRED
    assert not any("no rollback is possible" in str(e) for e in house.notifier.events)
    house.clock.forward(60)
    house.verdict()
    assert open_incidents(house) == 0, "a verdict on traffic of before opens nothing"


def test_an_endpoint_that_is_deleted_ends_its_incident(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    del house.workspace._endpoints["chat"]
    house.controller.observe_endpoints()
    house.tick()
    assert open_incidents(house) == 0
    assert incidents(house)[0].resolution == "the endpoint chat is gone"


def test_neither_judge_hides_the_other(build: Build) -> None:
    """The live judge's newer Watch does not hide what the scheduled one saw a moment before, and the other way round."""
    for first, second in (
        (verdict(), replace(verdict(State.WATCH), judge=LIVE)),
        (replace(verdict(), judge=LIVE), verdict(State.WATCH)),
    ):
        house = build(Mode.APPROVE)
        house.controller.handle(first)
        house.controller.handle(replace(second, judged_at=first.judged_at + timedelta(seconds=5)))
        house.tick()
        assert open_incidents(house) == 1
        assert house.rollback().state is Status.PROPOSED
        house.close()
        for file in house.folder.glob("state.db*"):
            file.unlink()


def test_healthy_from_older_evidence_does_not_end_what_newer_evidence_showed(build: Build) -> None:
    house = build(Mode.APPROVE)
    now = house.clock.now
    house.controller.handle(replace(verdict(State.PAGE, now), judge=LIVE, until=now))
    late = replace(verdict(State.HEALTHY, now + timedelta(seconds=30)), until=now - timedelta(minutes=20))
    house.controller.handle(late)
    assert open_incidents(house) == 1
    house.clock.forward(1800)
    house.controller.handle(replace(verdict(State.HEALTHY, house.clock.now), until=house.clock.now))
    assert open_incidents(house) == 0


def test_a_person_closes_it_and_the_same_evidence_does_not_open_it_at_once(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.controller.people.close(incidents(house)[0].id, "ann@example.com", "known: load test")
    house.clock.forward(60)
    house.controller.handle(
        replace(verdict(at=house.clock.now), since=incidents(house)[0].opened_at - timedelta(minutes=4))
    )
    assert open_incidents(house) == 0
    house.clock.forward(60)
    house.controller.handle(replace(verdict(at=house.clock.now), since=house.clock.now - timedelta(seconds=30)))
    assert open_incidents(house) == 1, "a later onset is news"
    assert "closed by ann@example.com: known: load test" in incidents(house)[1].resolution


def test_acknowledging_and_noting_is_kept(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    (incident,) = incidents(house)
    house.controller.people.acknowledge(incident.id, "ann@example.com")
    house.controller.people.note(incident.id, "ann@example.com", "vendor ticket 7")
    (incident,) = incidents(house)
    assert incident.acked_by == "ann@example.com"
    assert audit(house)[-2:] == ["acknowledged", "note"]
    house.tick()
    assert [e["event_action"] for e in house.notifier.events] == ["trigger", "acknowledge"]


# failures that pass, and decisions that stand


def test_a_rollback_that_failed_because_the_workspace_was_down_is_tried_again(build: Build) -> None:
    house = build(ready_timeout_s=600, retry_s=300)
    house.verdict()
    house.workspace.errors += [TransientError("503 the workspace is down")] * 2000
    failed = house.tick_until(ended, most=300)
    assert failed.state is Status.FAILED
    house.workspace.errors.clear()
    for _ in range(100):
        house.tick(every_s=30)
        house.verdict()
        if open_incidents(house) == 0:
            break
    assert open_incidents(house) == 0
    assert [traffic for _, traffic, _ in house.workspace.updates] == [{"chat-2": 100, "chat-3": 0}]
    assert "rolled back to version 2" in incidents(house)[0].resolution


def test_attempts_that_move_nothing_end_with_a_person(build: Build) -> None:
    house = build(workspace=MemoryWorkspace(endpoint("2", "3"), outcome="fail"), retry_s=60, max_attempts=2)
    house.verdict()
    for _ in range(400):
        house.tick(every_s=30)
        house.verdict()
    assert house.rollbacks() == 2
    assert open_incidents(house) == 1
    assert "2 attempts failed: a person must act" in " ".join(house.controller.explain("chat").because)


def test_a_rejected_rollback_is_silent_for_that_evidence_only(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.tick()
    house.controller.people.decide(house.token(), Reject("ann", "a load test"))
    onset = house.clock.now - timedelta(minutes=4)
    for _ in range(20):
        house.clock.forward(60)
        house.controller.handle(replace(verdict(at=house.clock.now), since=onset))
        house.tick()
    assert house.rollbacks() == 1
    worse = verdict(at=house.clock.now)
    house.controller.handle(replace(worse, since=onset, findings=(replace(worse.findings[0], new_rate=0.2),)))
    house.tick()
    assert house.rollbacks() == 2, "three times as bad is other evidence"


def test_automatic_action_resumes_with_the_next_tick_after_the_kill_switch(build: Build) -> None:
    house = build()
    house.controller.people.set_kill_switch(True, "ann", "maintenance")
    house.verdict()
    house.tick(3)
    assert house.rollback().state is Status.PROPOSED and "kill switch" in house.rollback().progress.reason
    house.controller.people.set_kill_switch(False, "ann", "over")
    house.tick(1)
    assert house.rollback().progress.who == AUTO
    assert house.tick_until(ended).state is Status.DONE


# silences and freezes


def pause(house: House, kind: PauseKind, minutes: int = 60) -> None:
    now = house.clock.now
    house.controller.people.pause(Pause("p1", kind, "ch*", now, now + timedelta(minutes=minutes), "ann", "load test"))


def test_a_silence_keeps_pages_back_and_not_rollbacks_and_pages_when_it_ends(build: Build) -> None:
    house = build(Mode.APPROVE)
    pause(house, PauseKind.SILENCE)
    house.verdict(State.PAGE)
    house.tick(3)
    assert triggers(house) == 0
    assert "silenced until 2026-03-01 13:00 UTC (ann: load test)" in incidents(house)[0].note
    house.clock.forward(3600)
    house.verdict(State.PAGE)
    house.tick()
    assert triggers(house) == 1


def test_a_freeze_lets_nothing_change_by_itself_and_a_person_may(build: Build) -> None:
    house = build()
    pause(house, PauseKind.FREEZE)
    house.verdict()
    house.tick(5)
    assert house.workspace.updates == []
    assert "changes are frozen until" in house.rollback().progress.reason
    assert any("changes are frozen" in e["payload"]["summary"] for e in house.notifier.events)
    house.controller.people.decide(house.token(), Approve("ann"))
    assert house.tick_until(ended).state is Status.DONE


def test_when_a_freeze_ends_what_it_held_goes_on(build: Build) -> None:
    house = build()
    pause(house, PauseKind.FREEZE, minutes=10)
    house.verdict()
    house.tick(3)
    house.clock.forward(600)
    house.tick(1)
    assert house.tick_until(ended).state is Status.DONE


# one endpoint's fault is its own


def test_an_endpoint_that_cannot_be_read_stops_no_other(build: Build) -> None:
    workspace = MemoryWorkspace(endpoint("2", "3"), endpoint("2", "3", name="search"))
    house = build(Mode.APPROVE, workspace)
    workspace.errors.append(TransientError("403 of one"))
    seen = house.controller.observe_endpoints()
    assert [e.name for e in seen] == ["search"]
    assert list(house.controller.unreadable) == ["chat"]


def test_deciding_twice_on_the_same_facts_adds_nothing(build: Build) -> None:
    for mode in Mode:
        house = build(mode)
        house.verdict()
        house.controller.send()
        before = (audit(house), len(house.notifier.events), house.rollbacks())
        if mode is not Mode.AUTO:
            for _ in range(3):
                house.controller.review("chat")
                house.controller.send()
            assert (audit(house), len(house.notifier.events), house.rollbacks()) == before
        house.close()
        for file in house.folder.glob("state.db*"):
            file.unlink()
