"""The next step of a promotion: more traffic for the version that passed, everything else as it is."""

import json

import pytest
from alerts_support import START, endpoint, entity
from hypothesis import given
from hypothesis import strategies as st

from lastgood.alerts.promote import next_step
from lastgood.alerts.rollback.plan import Kind, Plan, Route, Snapshot
from lastgood.errors import RefusedError
from lastgood.settings import EndpointSettings, Policy
from lastgood.workspace import Endpoint

SETTINGS = EndpointSettings(policy=Policy(promote_shares=(5, 25, 50)), write_only={"burst_scaling_enabled": True})


def step(e: Endpoint, version: str = "3", kept: Snapshot | None = None) -> Plan | None:
    return next_step(e, version, SETTINGS, kept, START)


def test_the_first_step_deploys_the_version_like_the_one_in_charge() -> None:
    plan = step(endpoint("2", v2=100))
    assert plan is not None and (plan.kind, plan.path) == (Kind.PROMOTE, Route.SLOW)
    assert (plan.bad_version, plan.prior_version) == ("2", "3")
    assert plan.targets[0].traffic == {"chat-2": 100, "chat-3": 0}
    assert plan.traffic_after == {"chat-2": 95, "chat-3": 5}
    new = plan.entities[1]
    assert {k: v for k, v in new.items() if k not in ("name", "entity_version", "burst_scaling_enabled")} == {
        k: v for k, v in entity("2").settings.items() if k not in ("name", "entity_version")
    }
    assert all(e["burst_scaling_enabled"] is True for e in plan.entities)
    assert "version 2 stays deployed at 95%" in plan.diff()


def test_a_snapshot_of_the_version_is_used_where_there_is_one() -> None:
    kept = Snapshot("elsewhere", 3, "3", dict(entity("3").settings) | {"workload_size": "Large"})
    plan = step(endpoint("2", v2=100), kept=kept)
    assert plan is not None and plan.entities[1]["workload_size"] == "Large"


def test_a_prior_version_that_may_scale_to_zero_is_named() -> None:
    e = Endpoint("chat", 7, (entity("2", scale_to_zero_enabled=True), entity("3")), {"chat-2": 100, "chat-3": 0})
    plan = step(e)
    assert plan is not None and "version 2 may scale to zero" in plan.reasons[-1]


@pytest.mark.parametrize(("share", "after"), [(0, 5), (4, 5), (5, 25), (30, 50), (50, 100), (99, 100)])
def test_it_goes_on_from_the_share_the_endpoint_shows(share: int, after: int) -> None:
    plan = step(endpoint("2", "3", v2=100 - share, v3=share))
    assert plan is not None and plan.traffic_after == {"chat-2": 100 - after, "chat-3": after}


def test_it_ends_and_it_needs_another_version() -> None:
    assert step(endpoint("2", "3", v2=0, v3=100)) is None
    with pytest.raises(RefusedError, match="nothing to promote against"):
        step(Endpoint("chat", 7, (entity("3"),), {"chat-3": 50}))


@given(a=st.integers(0, 100), b=st.integers(0, 100))
def test_a_step_keeps_the_sum_and_the_others_traffic(a: int, b: int) -> None:
    a, b = min(a, 99), min(b, 100 - min(a, 99))
    e = endpoint("1", "2", "3", v1=100 - a - b, v2=b, v3=a)
    try:
        plan = step(e)
    except RefusedError:
        return
    assert plan is not None
    assert sum(plan.traffic_after.values()) == 100 and min(plan.traffic_after.values()) >= 0
    assert plan.traffic_after["chat-3"] > a
    moved = [name for name in e.traffic if plan.traffic_after[name] != e.traffic[name]]
    assert set(moved) <= {"chat-3", f"chat-{plan.bad_version}"}


def test_the_diff_of_the_config_hides_what_may_be_secret() -> None:
    secret = entity("3", environment_vars={"TOKEN": "hunter2", "REF": "{{secrets/a/b}}"})
    plan = step(Endpoint("chat", 7, (secret,), {"chat-3": 100}), "4")
    assert plan is not None
    diff = plan.config_diff()
    assert "hunter2" not in diff and "(hidden)" in diff and "{{secrets/a/b}}" in diff
    assert '+    "chat-4": 5' in diff and json.dumps(plan.traffic_after)
