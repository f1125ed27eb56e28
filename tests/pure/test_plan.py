"""A plan moves the bad version's traffic to the prior version and touches nothing else."""

import json
from dataclasses import replace
from typing import Any

import pytest
from alerts_support import START, endpoint, entity
from hypothesis import given
from hypothesis import strategies as st

from lastgood.alerts.rollback.plan import Plan, Route, Snapshot, make_plan
from lastgood.errors import CorruptError, RefusedError
from lastgood.workspace import Endpoint, ServedEntity, Update

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.dictionaries(st.text(min_size=1, max_size=12), JSON, max_size=6)


def plan(e: Endpoint, bad: str = "3", prior: str | None = "2", **more: Any) -> Plan:
    values: dict[str, Any] = {"refused": (), "snapshot": None, "reasons": ("errors",), "now": START}
    return make_plan(e, bad, prior, **(values | more))


def snapshot(version: str = "2", **settings: Any) -> Snapshot:
    return Snapshot("chat", 5, version, dict(entity(version).settings) | settings)


def test_fast_path_shifts_traffic_only() -> None:
    made = plan(endpoint("1", "2", "3", v1=10, v2=0, v3=90))
    assert made.path is Route.FAST
    assert made.traffic_after == {"chat-1": 10, "chat-2": 90, "chat-3": 0}
    assert len(made.targets) == 1
    assert made.diff() == [
        "traffic of chat-2: 0% -> 90%",
        "traffic of chat-3: 90% -> 0%",
        "version 3 stays deployed at 0%",
        "nothing else changes",
    ]


def test_slow_path_puts_the_stored_entity_back_at_0_percent_first() -> None:
    made = plan(endpoint("3"), snapshot=snapshot(workload_size="Large"))
    assert made.path is Route.SLOW
    first, last = made.targets
    assert first.traffic == {"chat-3": 100, "chat-2": 0}
    assert last.traffic == {"chat-3": 0, "chat-2": 100}
    assert first.entities == last.entities
    assert first.entities[1] == dict(entity("2").settings) | {"workload_size": "Large"}
    assert "takes minutes" in made.diff()[0]


def test_a_name_taken_by_the_bad_version_is_not_used_twice() -> None:
    named = replace(entity("3"), name="champion", settings=dict(entity("3").settings) | {"name": "champion"})
    made = plan(Endpoint("chat", 7, (named,), {"champion": 100}), snapshot=snapshot(name="champion"))
    assert [e["name"] for e in made.entities] == ["champion", "champion-2"]
    assert made.traffic_after == {"champion": 0, "champion-2": 100}


@given(ours=SETTINGS, theirs=SETTINGS, share=st.integers(1, 100), slow=st.booleans(), passthrough=SETTINGS)
def test_every_setting_survives_bit_for_bit(ours: Any, theirs: Any, share: int, slow: bool, passthrough: Any) -> None:
    new = {**ours, "name": "new", "entity_name": "m", "entity_version": "3"}
    old = {**theirs, "name": "old", "entity_name": "m", "entity_version": "2"}
    entities = (ServedEntity("new", "m", "3", settings=new), ServedEntity("old", "m", "2", settings=old))
    e = Endpoint("chat", 4, entities[: 1 if slow else 2], {"new": share, "other": 100 - share}, passthrough=passthrough)
    made = plan(e, snapshot=Snapshot("chat", 3, "2", old) if slow else None)
    assert list(made.entities) == [new, old]
    assert made.passthrough == passthrough
    assert sum(made.traffic_after.values()) == 100
    assert made.traffic_after["other"] == 100 - share
    again = Plan.from_dict(json.loads(json.dumps(made.as_dict())))
    assert again == made
    assert json.dumps(list(again.entities)) == json.dumps([new, old])


def test_the_id_is_that_of_the_content() -> None:
    e = endpoint("2", "3", v3=100)
    assert plan(e).id == plan(e).id
    assert plan(e).id != plan(replace(e, config_version=8)).id
    document = plan(e).as_dict()
    document["traffic_after"] = {"chat-2": 0, "chat-3": 100}
    with pytest.raises(CorruptError, match="not what was stored"):
        Plan.from_dict(document)
    with pytest.raises(CorruptError, match="cannot be read"):
        Plan.from_dict({"id": "x"})


READY = endpoint("2", "3", v3=100)
NOT_READY = replace(READY, entities=(entity("2", "DEPLOYMENT_CREATING"), entity("3")))
TWO_MODELS = replace(READY, entities=(entity("2"), entity("3"), replace(entity("3"), name="x", entity_name="other")))
FULL = endpoint("3", *[str(v) for v in range(10, 24)], v3=100)


@pytest.mark.parametrize(
    ("e", "more", "why"),
    [
        (READY, {"prior": None}, "no prior version is known"),
        (READY, {"prior": "3"}, "both the bad and the prior"),
        (READY, {"refused": {"2"}}, "itself rolled back"),
        (READY, {"prior": "1"}, "no snapshot of it is stored"),
        (NOT_READY, {}, "not ready .DEPLOYMENT_CREATING."),
        (endpoint("2", "3", v2=100), {}, "takes no traffic"),
        (endpoint("2"), {}, "version 3 is not deployed"),
        (replace(READY, update=Update.IN_PROGRESS), {}, "in progress"),
        (TWO_MODELS, {}, "several models"),
        (FULL, {"snapshot": snapshot()}, "already holds 15"),
        (READY, {"prior": "1", "snapshot": snapshot("2")}, "the snapshot is of chat version 2"),
    ],
)
def test_a_plan_that_would_not_help_is_refused_with_the_reason(e: Endpoint, more: dict[str, Any], why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        plan(e, **more)


def test_an_update_that_failed_before_does_not_forbid_a_plan() -> None:
    assert plan(replace(READY, update=Update.FAILED, ready=False)).path is Route.FAST


def test_settings_are_not_shown() -> None:
    secret = entity("3", environment_vars={"TOKEN": "hunter2"})
    made = plan(Endpoint("chat", 7, (entity("2"), secret), {"chat-2": 0, "chat-3": 100}))
    assert "hunter2" not in " ".join(made.diff())
