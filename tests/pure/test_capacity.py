"""A plan says when the version that is to take the traffic cannot carry it, or may sleep."""

from dataclasses import replace
from typing import Any

import pytest
from alerts_support import START, endpoint, entity
from hypothesis import given
from hypothesis import strategies as st

from lastgood.alerts.rollback.capacity import CONCURRENCY
from lastgood.alerts.rollback.plan import Plan, besides, make_plan
from lastgood.workspace import Endpoint


def plan(prior: dict[str, Any], bad: dict[str, Any], share: int = 100) -> Plan:
    e = replace(
        endpoint("2", "3"),
        entities=(entity("2", **prior), entity("3", **bad)),
        traffic={"chat-2": 100 - share, "chat-3": share},
    )
    return make_plan(e, "3", "2", refused=(), snapshot=None, reasons=("errors",), now=START)


@pytest.mark.parametrize(
    ("prior", "bad", "sentence"),
    [
        ({"workload_size": "Small"}, {"workload_size": "Large"}, "carries up to 4 requests at once, what it replaces up to 64"),
        ({"max_provisioned_concurrency": 8}, {"max_provisioned_concurrency": 12}, "up to 8 requests at once"),
        ({"workload_size": "Medium"}, {"max_provisioned_concurrency": 40}, "up to 16 requests at once"),
        ({"max_provisioned_throughput": 50}, {"max_provisioned_throughput": 95}, "up to 50 tokens a second"),
        ({"provisioned_model_units": 1}, {"provisioned_model_units": 4}, "up to 1 model units"),
        ({}, {"workload_type": "GPU_SMALL"}, "runs on CPU, what it replaces on GPU_SMALL"),
    ],
)  # fmt: skip
def test_less_capacity_is_said(prior: dict[str, Any], bad: dict[str, Any], sentence: str) -> None:
    made = plan(prior, bad)
    assert any(sentence in caution for caution in made.cautions), made.cautions
    assert any(line.startswith("caution: chat-2") for line in made.diff())


@given(st.sampled_from(sorted(CONCURRENCY)), st.sampled_from(sorted(CONCURRENCY)), st.integers(1, 100))
def test_a_caution_is_there_exactly_when_the_prior_is_smaller(prior: str, bad: str, share: int) -> None:
    """However the traffic is split: what takes all of a version's traffic needs all of its capacity."""
    made = plan({"workload_size": prior}, {"workload_size": bad}, share)
    assert bool(made.cautions) == (CONCURRENCY[prior] < CONCURRENCY[bad])


def test_what_may_have_scaled_to_zero_is_woken_unless_it_serves() -> None:
    assert plan({"scale_to_zero_enabled": True}, {}).wake
    assert not plan({"scale_to_zero_enabled": True}, {}, share=90).wake
    assert not plan({}, {}).wake


def test_plans_that_an_earlier_release_stored_are_read_and_keep_their_id() -> None:
    made = plan({}, {})
    document = {key: value for key, value in made.as_dict().items() if key not in ("cautions", "wake")}
    assert Plan.from_dict(document) == made


def changed(made: Plan, **settings: Any) -> Endpoint:
    after = endpoint("2", "3", v2=100, v3=0)
    return replace(after, entities=(entity("2", **settings), entity("3")), traffic=made.traffic_after)


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({}, ()),
        ({"workload_size": "Large"}, ("served entity chat-2: workload_size changed",)),
        ({"new_2027": 1}, ("served entity chat-2: new_2027 is new",)),
    ],
)
def test_what_the_configuration_has_besides_the_plan_is_named_without_values(
    settings: dict[str, Any], lines: Any
) -> None:
    made = plan({}, {})
    assert besides(made, changed(made, **settings), ()) == lines


def test_what_is_gone_from_the_configuration_is_named() -> None:
    made = plan({"tuned": "s3cret"}, {})
    after = replace(changed(made), passthrough={"auto_capture_config": {"enabled": False}})
    assert besides(made, after, ()) == ("served entity chat-2: tuned is gone", "auto_capture_config changed")
    assert besides(made, after, ("tuned",)) == ("auto_capture_config changed",)
