"""What the model registry is told: the alias of good versions, tags of those that were left; whatever the registry does, a rollback goes on."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from alerts_support import Build, House, MemoryWorkspace, endpoint, entity

from lastgood.alerts.registry import INCIDENT, REASON, ROLLED_BACK
from lastgood.alerts.rollback.machine import Approve, Status
from lastgood.errors import ConfigError, RefusedError, TransientError
from lastgood.record.verdict import State
from lastgood.settings import Mode


def entries(house: House) -> list[tuple[str, Any]]:
    """(what, version) of the audit entries about the registry."""
    with house.store.read() as tx:
        return [(e["what"], e["detail"]["version"]) for e in tx.audit() if "registry" in e["what"]]


def alone(build: Build, version: str = "3") -> House:
    return build(Mode.APPROVE, MemoryWorkspace(endpoint("2", version, **{f"v{version}": 100})))


def healthy(house: House) -> None:
    house.tick()
    house.controller.observe_endpoints()
    house.verdict(State.HEALTHY)
    house.tick()


def left(house: House) -> None:
    """Version 3 is rolled back."""
    house.verdict()
    house.tick()
    house.controller.people.decide(house.token(), Approve("ann"))
    assert house.tick_until(lambda rollback: rollback.state.ended).state is Status.DONE


def test_the_alias_moves_to_a_version_that_is_healthy_with_all_traffic_and_once(build: Build) -> None:
    house = alone(build)
    house.workspace.known_aliases, house.workspace.tags = (
        {"lastgood": "2"},
        {"3": {ROLLED_BACK: "then", "owner": "ann"}},
    )
    healthy(house)
    house.tick()
    assert house.workspace.known_aliases == {"lastgood": "3"}
    assert house.workspace.tags == {"3": {"owner": "ann"}}
    assert entries(house) == [("asked of the registry", "3"), ("registry written", "3")]
    house.workspace.known_aliases = {"lastgood": "2"}  # a person moves it back
    house.clock.forward(3600)
    healthy(house)
    assert house.workspace.known_aliases == {"lastgood": "2"}


def test_a_canary_is_not_the_last_good_version(build: Build) -> None:
    house = build(Mode.APPROVE, MemoryWorkspace(endpoint("2", "3", v2=90, v3=10)))
    healthy(house)
    assert house.workspace.known_aliases == {}


def test_a_version_that_was_left_is_tagged_and_loses_the_alias(build: Build) -> None:
    house = alone(build)
    house.workspace.known_aliases = {"lastgood": "3", "champion": "3"}
    left(house)
    house.tick()
    tags = house.workspace.tags["3"]
    assert tags[REASON] == "6.1% of requests fail on version 3"
    with house.store.read() as tx:
        assert tags[INCIDENT].endswith(f"/incidents/{tx.incidents()[0].id}")
    assert house.clock.now - timedelta(minutes=5) < house.clock.now.fromisoformat(tags[ROLLED_BACK]) <= house.clock.now
    assert house.workspace.known_aliases == {"champion": "3"}
    assert any("loses the alias lastgood" in line for line in house.rollback().plan.diff())


@pytest.mark.parametrize(
    "error", [TransientError("503"), ConfigError("no grant on the model"), RefusedError("a conflict")]
)
def test_a_registry_that_refuses_stops_no_rollback_and_is_asked_again(build: Build, error: Exception) -> None:
    house = alone(build)
    house.workspace.registry_errors = [error] * 3
    left(house)
    house.tick(12, every_s=700)
    assert ROLLED_BACK in house.workspace.tags["3"]
    assert entries(house) == [("asked of the registry", "3"), ("registry written", "3")]
    told = [
        e["payload"]["summary"]
        for e in house.notifier.events
        if "the channel registry" in e.get("payload", {}).get("summary", "")
    ]
    assert bool(told) is not isinstance(error, TransientError), "a refusal is told to people"


def test_without_an_alias_the_registry_is_left_alone(build: Build) -> None:
    house = alone(build)
    own = house.config.endpoints["chat"].model_copy(update={"registry_alias": ""})
    house.config.endpoints["chat"] = own
    healthy(house)
    left(house)
    house.tick(3)
    assert (house.workspace.tags, house.workspace.known_aliases, entries(house)) == ({}, {}, [])


def test_aliases_of_an_endpoint_of_two_models_are_each_models_own(build: Build) -> None:
    other = replace(entity("7"), name="other-7", entity_name="prod.ml.other")
    shown = endpoint("1", "2", "3", v3=90)
    shown = replace(shown, entities=(*shown.entities, other), traffic={**shown.traffic, "other-7": 10})
    house = build(Mode.APPROVE, MemoryWorkspace(shown))
    asked: list[str] = []

    def aliases(model: str) -> dict[str, str]:
        asked.append(model)
        return {"prod.ml.other": {"lastgood": "7"}, "prod.ml.chat": {"lastgood": "1"}}[model]

    house.workspace.aliases = aliases
    house.verdict(prior=None)
    plan = house.rollback().plan
    assert (plan.bad_version, plan.prior_version) == ("3", "1")
    assert "the registry calls it lastgood" in plan.reasons[1]
    assert sorted(asked) == ["prod.ml.chat", "prod.ml.other"]


def test_a_registry_is_not_asked_for_what_is_in_none(build: Build) -> None:
    shown = endpoint("2", "3", v3=100)
    shown = replace(shown, entities=tuple(replace(e, entity_name="") for e in shown.entities))
    house = build(Mode.APPROVE, MemoryWorkspace(shown))
    house.workspace.aliases = lambda model: pytest.fail(f"asked for {model!r}")
    healthy(house)
    house.verdict()
    assert house.rollback().plan.prior_version == "2"
