"""People decide about plans, and plans are carried out: links, the fast and the slow path, what fails, what the telemetry says after."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from alerts_support import Build, FixedTelemetry, MemoryWorkspace, ended, endpoint, entity, open_incidents

from lastgood.alerts.rollback.executor import STALE
from lastgood.alerts.rollback.links import LinkError, Problem
from lastgood.alerts.rollback.machine import WAITING, Approve, Hold, Reject, Status
from lastgood.alerts.rollback.verify import Recovery
from lastgood.errors import RefusedError, TransientError
from lastgood.settings import Mode
from lastgood.workspace import Endpoint

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
    house.tick(3)
    assert house.workspace.updates == []
    assert house.rollback().plan.traffic_before == {"chat-2": 50, "chat-3": 50}
    assert house.rollback().state is Status.PROPOSED
    void, again = (e["dedup_key"] for e in house.notifier.events if e["event_action"] == "trigger")
    assert again.startswith(f"{void}-again-"), "the first alert was acknowledged: it would call nobody"
    house.controller.people.decide(house.token(), Approve("ann"))
    house.tick_until(ended)
    resolved = {e["dedup_key"] for e in house.notifier.events if e["event_action"] == "resolve"}
    assert resolved == {void, again}


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


def test_a_workspace_that_answers_too_slowly_to_act_on_ends_with_that_reason(build: Build) -> None:
    """What is seen of the endpoint is always too old to act on: nothing is sent, and who is paged reads why."""

    class Slow(MemoryWorkspace):
        def endpoint(self, name: str) -> Endpoint:
            house.clock.now += delay
            return super().endpoint(name)

    delay = timedelta()
    house = build(workspace=Slow(endpoint("2", "3")), ready_timeout_s=600)
    house.verdict()
    delay = 2 * STALE
    failed = house.tick_until(ended, 60)
    assert (failed.state, house.workspace.updates) == (Status.FAILED, [])
    assert failed.progress.reason is not None and "more than 30 s ago" in failed.progress.reason


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


# capacity, and what else changed


def sized(prior: dict[str, Any], bad: dict[str, Any]) -> MemoryWorkspace:
    return MemoryWorkspace(replace(endpoint("2", "3"), entities=(entity("2", **prior), entity("3", **bad))))


SMALL, LARGE = {"workload_size": "Small"}, {"workload_size": "Large"}


def test_a_smaller_prior_version_waits_for_a_person(build: Build) -> None:
    house = build(Mode.AUTO, sized(SMALL, LARGE))
    house.verdict()
    house.tick()
    assert house.rollback().state is Status.PROPOSED
    assert "carries up to 4 requests at once" in house.notifier.events[-1]["payload"]["summary"]
    assert any("caution" in line for line in house.notifier.events[-1]["payload"]["custom_details"]["plan"])


def test_a_smaller_prior_version_goes_where_the_policy_lets_it(build: Build) -> None:
    house = build(Mode.AUTO, sized(SMALL, LARGE), less_capacity="go")
    house.verdict()
    assert house.tick_until(ended).state is Status.DONE


def test_a_sleeping_prior_version_is_woken_before_it_gets_traffic(build: Build) -> None:
    workspace = sized({"scale_to_zero_enabled": True}, {})
    workspace.asleep = [503, 504, 429]
    house = build(Mode.AUTO, workspace)
    house.verdict()
    house.tick(3)
    assert (workspace.updates, house.rollback().progress.reason) == ([], "waiting for chat-2 to wake: it answers 429")
    assert house.tick_until(ended).state is Status.DONE
    assert workspace.invoked == ["chat-2"] * 4
    assert len(workspace.updates) == 1


def test_a_prior_version_that_never_wakes_gets_no_traffic_and_a_person_is_paged(build: Build) -> None:
    workspace = sized({"scale_to_zero_enabled": True}, {})
    workspace.asleep = [503] * 1000
    house = build(Mode.AUTO, workspace, ready_timeout_s=60, max_attempts=1)
    house.verdict()
    failed = house.tick_until(ended)
    assert failed.state is Status.FAILED and "waiting for chat-2 to wake" in failed.progress.reason
    assert workspace.updates == []
    assert "waiting for chat-2 to wake" in house.notifier.events[-1]["payload"]["summary"]


def test_what_changed_besides_the_plan_is_paged_and_verification_goes_on(build: Build) -> None:
    class Dropping(MemoryWorkspace):
        """A platform that loses a setting with every update."""

        def update_config(self, name: str, entities: Any, *more: Any) -> None:
            super().update_config(name, [{k: v for k, v in e.items() if k != "workload_size"} for e in entities], *more)

    house = build(Mode.AUTO, Dropping(endpoint("2", "3")))
    house.verdict()
    assert house.tick_until(ended).state is Status.DONE
    summaries = house.notifier.summaries()
    assert any("served entity chat-2: workload_size is gone" in summary for summary in summaries), summaries


def test_traffic_that_somebody_moves_back_while_telemetry_is_late_is_paged_at_once(build: Build) -> None:
    house = build(Mode.AUTO)
    house.telemetry.answer = Recovery(None, None, "0 requests since the shift")
    house.verdict()
    house.tick_until(lambda rollback: rollback.state is Status.VERIFYING)
    house.tick()
    assert house.rollback().state is Status.VERIFYING
    now = house.workspace.endpoint("chat")
    house.workspace.start("chat", now.entities, {"chat-2": 0, "chat-3": 100})
    failed = house.tick_until(ended)
    assert failed.state is Status.FAILED and "sends 100% to version 3 again" in failed.progress.reason


# verification


@pytest.mark.parametrize(
    "answer",
    [Recovery(True, False, "errors stay at 6%"), Recovery(None, None, "no rows yet"), Recovery(False, True, "x")],
)
def test_without_recovery_it_fails_pages_and_stops(build: Build, answer: Recovery) -> None:
    house = build(verify_timeout_s=60, telemetry_timeout_s=120)
    house.telemetry.answer = answer
    house.verdict()
    failed = house.tick_until(ended)
    assert failed.state is Status.FAILED
    late = answer.traffic_moved is None  # no telemetry yet, while the configuration has moved the traffic
    assert failed.progress.reason == (
        f"no recovery within 120 s: {WAITING}: {answer.sentence}"
        if late
        else f"no recovery within 60 s: {answer.sentence}"
    )
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
