"""No order of events leaves an end state, shifts without approval, or waits for ever."""

from datetime import timedelta
from typing import Any

import pytest
from alerts_support import START, endpoint, entity
from hypothesis import given, settings
from hypothesis import strategies as st
from soak import scaled

from lastgood.alerts.rollback.executor import MAX_REFUSALS, view_of
from lastgood.alerts.rollback.machine import (
    Approve,
    Effect,
    Event,
    Hold,
    Progress,
    Reject,
    Seen,
    Status,
    Tick,
    View,
    Withdraw,
    step,
)
from lastgood.alerts.rollback.plan import Plan, Snapshot, make_plan
from lastgood.alerts.rollback.verify import Recovery
from lastgood.errors import RefusedError
from lastgood.settings import Policy
from lastgood.workspace import Endpoint, Update

POLICY = Policy(ready_timeout_s=600, verify_timeout_s=300, proposal_ttl_s=3600)
EVENTS: list[Event] = [
    Approve("ann"),
    Hold("ann", 30),
    Hold("ann", 0),
    Reject("ann", "looks fine"),
    Reject("ann", " "),
    Withdraw("healthy again"),
    Tick("waiting"),
    *(Seen(view, "seen") for view in View),
    *(Recovery(a, b, "said") for a in (True, False, None) for b in (True, False, None)),
]
CHANGES = {Effect.RESTORE, Effect.SHIFT}
NEXT = {
    Status.PROPOSED: {Status.APPROVED, Status.HELD, Status.REJECTED, Status.EXPIRED},
    Status.HELD: {Status.PROPOSED, Status.APPROVED, Status.REJECTED, Status.EXPIRED},
    Status.APPROVED: {Status.SHIFTING, Status.VERIFYING, Status.EXPIRED, Status.FAILED},
    Status.SHIFTING: {Status.VERIFYING, Status.FAILED},
    Status.VERIFYING: {Status.DONE, Status.FAILED},
}


def proposed() -> Progress:
    return Progress(Status.PROPOSED, START, START + timedelta(seconds=POLICY.proposal_ttl_s))


@pytest.mark.parametrize("state", list(Status))
@pytest.mark.parametrize("event", EVENTS, ids=repr)
@pytest.mark.parametrize("after_s", [0, 10_000])
@pytest.mark.parametrize("slow", [False, True])
def test_every_state_with_every_event(state: Status, event: Event, after_s: int, slow: bool) -> None:
    progress = Progress(state, START, START + timedelta(seconds=3600))
    try:
        after, effects = step(progress, event, START + timedelta(seconds=after_s), POLICY, slow)
    except RefusedError:
        return
    assert not state.ended
    assert after.state is state or after.state in NEXT[state]
    if CHANGES & set(effects):
        assert state in (Status.APPROVED, Status.SHIFTING)
        assert after.state is Status.SHIFTING
        assert isinstance(event, Seen) and event.view in (View.BASE, View.RESTORED)
    if after.state is Status.FAILED:
        assert Effect.PAGE in effects and after.reason
    if after.state is Status.DONE:
        assert isinstance(event, Recovery) and event.traffic_moved is True and event.recovered is True
        assert effects == (Effect.RESOLVE,)


@settings(max_examples=scaled(300))
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 900)), max_size=40), st.booleans())
def test_nothing_is_changed_without_an_approval_and_an_end_is_an_end(history: list[Any], slow: bool) -> None:
    progress, now, approvals, ended = proposed(), START, 0, False
    for event, seconds in history:
        now += timedelta(seconds=seconds)
        try:
            progress, effects = step(progress, event, now, POLICY, slow)
        except RefusedError:
            continue
        assert not ended, "an ended rollback moved"
        approvals += isinstance(event, Approve)
        ended = progress.state.ended
        assert approvals <= 1
        assert not CHANGES & set(effects) or approvals == 1


@given(st.lists(st.sampled_from([Seen(View.BUSY), Seen(View.SENT), Seen(View.BASE), Tick()]), min_size=50, max_size=50))
def test_waiting_ends(views: list[Event]) -> None:
    progress, now = Progress(Status.APPROVED, START, who="ann"), START
    for view in views:
        now += timedelta(seconds=60)
        progress, _ = step(progress, view, now, POLICY, False)
        if progress.state.ended:
            break
    assert progress.state is Status.FAILED
    assert now - START <= timedelta(seconds=2 * POLICY.ready_timeout_s + 60)


def test_the_way_of_a_slow_rollback() -> None:
    progress = proposed()
    seen: list[Effect] = []
    story: list[Event] = [
        Approve("ann"), Seen(View.BASE), Seen(View.SENT, "starting"), Seen(View.RESTORED), Seen(View.SENT),
        Seen(View.SHIFTED), Recovery(True, None, "traffic moved"), Recovery(True, True, "recovered"),
    ]  # fmt: skip
    for event in story:
        progress, effects = step(progress, event, START, POLICY, True)
        seen += effects
    assert progress.state is Status.DONE
    assert seen == [Effect.TOLD, Effect.RESTORE, Effect.SHIFT, Effect.RESOLVE]


def test_an_approval_after_the_expiry_is_refused() -> None:
    with pytest.raises(RefusedError, match="expired before"):
        step(proposed(), Approve("ann"), START + timedelta(hours=1), POLICY, False)


def test_a_hold_ends_in_a_new_proposal() -> None:
    held, effects = step(proposed(), Hold("ann", 5), START, POLICY, False)
    assert (held.state, effects) == (Status.HELD, (Effect.ASK,))
    again, effects = step(held, Tick(), START + timedelta(minutes=5), POLICY, False)
    assert (again.state, effects) == (Status.PROPOSED, (Effect.ASK,))
    assert again.until == START + timedelta(minutes=5, seconds=POLICY.proposal_ttl_s)


# what the workspace shows, read against the plan

FAST = endpoint("2", "3", v3=100)
SNAPSHOT = Snapshot("chat", 5, "2", dict(entity("2").settings))


def made(e: Endpoint) -> Plan:
    return make_plan(e, "3", "2", refused=(), snapshot=SNAPSHOT, reasons=(), now=START)


def look(e: Endpoint, plan: Plan, *journal: tuple[str, str]) -> View:
    return view_of(plan, e, [(effect, kind, "why") for effect, kind in journal]).view


def test_views_of_the_fast_path() -> None:
    plan = made(FAST)
    shifted = endpoint("2", "3", v2=100, config_version=8)
    failed = endpoint("2", "3", v3=100)
    failed = Endpoint("chat", 7, failed.entities, failed.traffic, update=Update.FAILED)
    accepted = (("shift", "intent"), ("shift", "accepted"))
    assert look(FAST, plan) is View.BASE
    assert look(FAST, plan, ("shift", "intent")) is View.BASE
    assert look(FAST, plan, *accepted) is View.SENT
    assert look(failed, plan) is View.BASE, "a failure from before is not ours"
    assert look(failed, plan, *accepted) is View.BROKEN
    assert look(shifted, plan) is View.SHIFTED
    assert look(endpoint("2", "3", v3=100, config_version=8), plan, *accepted) is View.CHANGED
    assert look(FAST, plan, *[("shift", "refused")] * MAX_REFUSALS) is View.BROKEN


def test_an_update_under_way_is_ours_only_when_it_leads_to_the_target() -> None:
    plan, e = made(FAST), FAST

    def pending(traffic: dict[str, int]) -> Endpoint:
        return Endpoint("chat", 7, e.entities, e.traffic, True, Update.IN_PROGRESS, traffic, e.entities)

    assert look(pending({"chat-2": 100}), plan) is View.SENT
    assert look(pending({"chat-2": 50, "chat-3": 50}), plan) is View.BUSY


def test_views_of_the_slow_path() -> None:
    plan = made(endpoint("3"))
    back = endpoint("3", "2", v3=100, config_version=8)
    creating = Endpoint("chat", 8, (entity("3"), entity("2", "DEPLOYMENT_CREATING")), back.traffic)
    broken = Endpoint("chat", 8, (entity("3"), entity("2", "DEPLOYMENT_FAILED")), back.traffic)
    resized = Endpoint("chat", 9, (entity("3", workload_size="Large"), entity("2")), back.traffic)
    failed = Endpoint("chat", 8, back.entities, back.traffic, update=Update.FAILED)
    assert look(endpoint("3"), plan) is View.BASE
    assert look(back, plan, ("restore", "accepted")) is View.RESTORED
    assert look(creating, plan, ("restore", "accepted")) is View.SENT
    assert look(broken, plan, ("restore", "accepted")) is View.BROKEN
    assert look(resized, plan, ("restore", "accepted")) is View.CHANGED
    assert look(failed, plan, ("restore", "accepted"), ("shift", "accepted")) is View.BROKEN
