"""The version that a rollback leaves when nobody names one: the newest, never the busiest, and nobody where that is unclear."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.alerts.rollback.leave import choose_leaving
from lastgood.alerts.rollback.plan import make_plan
from lastgood.alerts.rollback.prior import Known, choose
from lastgood.errors import RefusedError
from lastgood.judge.ledger import Configuration
from lastgood.workspace import Endpoint, ServedEntity

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def endpoint(shares: dict[str, int], models: dict[str, str] | None = None) -> Endpoint:
    named = models or {}
    entities = tuple(ServedEntity(f"m-{v}", named.get(v, "prod.ml.m"), v) for v in shares)
    return Endpoint("chat", 7, entities, {f"m-{version}": share for version, share in shares.items()})


def history(*traffic: dict[str, int], hours: float = 24.0) -> list[Configuration]:
    """Configurations, each in force for so long, the last one until now."""
    first = NOW - timedelta(hours=hours) * len(traffic)
    return [
        Configuration(first + timedelta(hours=hours) * number, {v: float(s) for v, s in shares.items()})
        for number, shares in enumerate(traffic)
    ]


CASES = {
    "a canary at 10% is left, not the busy version": ({"2": 90, "3": 10}, [{"2": 100}, {"2": 90, "3": 10}], (), "3"),
    "at 50/50 the newer one is left": ({"2": 50, "3": 50}, [{"2": 100}, {"2": 50, "3": 50}], (), "3"),
    "a new version with most traffic is left": ({"2": 10, "3": 90}, [{"2": 100}, {"2": 10, "3": 90}], (), "3"),
    "an older number deployed later is the newer deployment": ({"5": 90, "2": 10}, [{"5": 100}, {"5": 90, "2": 10}], (), "2"),
    "an incident outweighs the history": ({"2": 90, "3": 10}, [{"2": 100}, {"2": 90, "3": 10}], ("2",), "2"),
    "an incident about a version without traffic says nothing": ({"2": 90, "3": 10}, [{"2": 100}, {"2": 90, "3": 10}], ("9",), "3"),
    "a lone version is left": ({"4": 100, "3": 0}, [], (), "4"),
    "without a history the registry says": ({"9": 50, "10": 50}, [], (), "10"),
    "a history that begins with both says nothing, the registry does": ({"9": 50, "10": 50}, [{"9": 50, "10": 50}], (), "10"),
    "a canary that the ledger has not seen yet": ({"2": 95, "3": 5}, [{"2": 100}], (), "3"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_newest_version_is_left(case: str) -> None:
    shares, seen, accused, expected = CASES[case]
    leaving = choose_leaving(endpoint(shares), history(*seen), {}, accused, NOW)
    assert leaving.version == expected
    assert expected in leaving.why


UNCLEAR = {
    "two models and no history": (endpoint({"1": 50, "2": 50}, {"1": "prod.ml.a", "2": "prod.ml.b"}), [], ()),
    "identities that no registry orders": (endpoint({"gpt@1a2b3c4d": 50, "claude@5e6f7a8b": 50}), [], ()),
    "incidents on both": (endpoint({"1": 50, "2": 50}), [{"1": 100}, {"1": 50, "2": 50}], ("1", "2")),
    "nothing serves": (endpoint({"1": 0, "2": 0}), [], ()),
    "no entity at all": (endpoint({}), [], ()),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_where_it_is_unclear_nobody_is_left(case: str) -> None:
    shown, seen, accused = UNCLEAR[case]
    with pytest.raises(RefusedError):
        choose_leaving(shown, history(*seen), {}, accused, NOW)


versions = st.lists(st.integers(1, 40).map(str), min_size=2, max_size=5, unique=True)


@given(versions, st.data())
def test_of_versions_rolled_out_one_after_the_other_the_last_is_left_whatever_the_shares(
    order: list[str], data: st.DataObject
) -> None:
    """Every version has taken all traffic from the one before it, the last one some or all of it; what each has now is anybody's guess."""
    seen = [{version: 100} for version in order[:-1]]
    last = data.draw(st.integers(1, 99))
    now = {order[-2]: 100 - last, order[-1]: last}
    resting = dict.fromkeys(order[:-2], 0)
    leaving = choose_leaving(endpoint(resting | now), history(*seen, now), {}, (), NOW)
    assert leaving.version == order[-1]


shapes = st.dictionaries(st.sampled_from(["1", "2", "3", "10", "chat@0a0b0c0d"]), st.integers(0, 100), max_size=5)


@given(shapes, st.lists(shapes, max_size=5), st.frozensets(st.sampled_from(["1", "2", "3"])))
def test_for_endpoints_of_every_shape_a_serving_version_is_left_or_nobody(
    shares: dict[str, int], seen: list[dict[str, int]], accused: frozenset[str]
) -> None:
    shown = endpoint(shares)
    serving = {version for version, share in shares.items() if share}
    try:
        leaving = choose_leaving(shown, history(*seen), {}, accused, NOW)
    except RefusedError:
        assert len(serving) != 1
        return
    assert leaving.version in serving
    suspects = serving & accused
    assert not suspects or {leaving.version} == suspects
    swapped = endpoint({version: 101 - share if share else 0 for version, share in shares.items()})
    if not seen:
        assert choose_leaving(swapped, [], {}, accused, NOW).version == leaving.version


served = st.tuples(
    st.sampled_from(["prod.ml.a", "prod.ml.b", ""]), st.sampled_from(["1", "2", "3", "chat@0a"]), st.booleans(), st.integers(0, 3)
)  # fmt: skip


@given(
    st.lists(served, min_size=1, max_size=6), st.lists(shapes, max_size=3), st.frozensets(st.sampled_from(["1", "2"]))
)
def test_what_is_left_and_what_is_gone_back_to_make_a_plan_or_a_reason(
    shown: list[tuple[str, str, bool, int]], seen: list[dict[str, int]], accused: frozenset[str]
) -> None:
    """Two models, a version twice, entities that are not ready, routes of 0% and none: whatever it is, nobody's traffic is lost or doubled."""
    entities, traffic, left = [], {}, 100
    for number, (model, version, ready, weight) in enumerate(shown):
        settings = {"entity_name": model, "entity_version": version} if model else {"entity_name": version}
        state = "DEPLOYMENT_READY" if ready else "DEPLOYMENT_FAILED"
        entities.append(ServedEntity(f"e{number}", model, version, state, {"name": f"e{number}", **settings}))
        if weight:
            traffic[f"e{number}"] = left if number == len(shown) - 1 else left // (weight + 1)
            left -= traffic[f"e{number}"]
    chat = Endpoint("chat", 7, tuple(entities), traffic)
    try:
        bad = choose_leaving(chat, history(*seen), {}, accused, NOW).version
        choice = choose(chat, bad, Known())
        plan = make_plan(chat, bad, choice.version, refused=(), snapshot=None, reasons=choice.reasons, now=NOW)
    except RefusedError as refusal:
        assert str(refusal)
        return
    models = {entity.name: entity.entity_name for entity in entities}
    versions = {entity.name: entity.entity_version for entity in entities}
    moved = {name for name in models if plan.traffic_after.get(name, 0) != traffic.get(name, 0)}
    assert sum(plan.traffic_after.values()) == sum(traffic.values())
    assert not any(plan.traffic_after.get(name, 0) for name in models if versions[name] == bad)
    assert {versions[name] for name in moved} == {bad, plan.prior_version}
    assert len({models[name] for name in moved}) == 1
    assert entities[[entity.name for entity in entities].index(plan.prior_entity)].ready
