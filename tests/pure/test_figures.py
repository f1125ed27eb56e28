"""Figures against single requests, some of which say nothing (docs/reference/figures.md)."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cost_support import PRICES, SETTINGS
from hypothesis import given
from hypothesis import strategies as st

from lastgood.dashboards.exporter import amounts
from lastgood.jobs.cost import LEAST_IDLE_S, rates
from lastgood.jobs.offers import loads, offers, report, show
from lastgood.record.windows import Counts, bucket, merge
from lastgood.settings import CostSettings

START = datetime(2026, 3, 2, tzinfo=UTC)
requests = st.lists(
    st.fixed_dictionaries({
        "minute": st.integers(0, 180), "weight": st.sampled_from([1.0, 2.0, 10.0]),
        "tokens_in": st.none() | st.integers(0, 5000), "tokens_out": st.none() | st.integers(0, 5000),
    }),
    min_size=1, max_size=30,
)  # fmt: skip


def window(request: Mapping[str, Any]) -> Counts:
    weight, into, out = request["weight"], request["tokens_in"], request["tokens_out"]
    return Counts(
        "e", "1", "s", START + timedelta(minutes=request["minute"]), 1, weight, latency={bucket(1000.0): weight},
        tokens_in=weight * (into or 0), tokens_out=weight * (out or 0),
        told_in=weight * (into is not None), told_out=weight * (out is not None),
    )  # fmt: skip


@given(requests)
def test_tokens_per_request_are_those_of_the_requests_that_say_them(given_requests: list[dict[str, Any]]) -> None:
    whole = merge(map(window, given_requests))
    row = vars(whole) | {"errors": None, "latency": None, "ttft": None, "feature_age": None, "quality": None}
    exported = amounts(row)
    for side in ("in", "out"):
        known = [r for r in given_requests if r[f"tokens_{side}"] is not None]
        weights = math.fsum(r["weight"] for r in known)
        assert exported.get(f"told_{side}", 0.0) == weights
        mean = math.fsum(r["weight"] * r[f"tokens_{side}"] for r in known)
        assert exported.get(f"tokens_{side}", 0.0) == pytest.approx(mean)


@given(requests)
def test_cost_by_token_is_of_the_known_tokens_and_the_unknown_share_is_said(
    given_requests: list[dict[str, Any]],
) -> None:
    made = report([window(r) for r in given_requests], 60, PRICES, SETTINGS, 2000.0)
    by_hand = math.fsum(
        r["weight"] * ((r["tokens_in"] or 0) * 1.0 + (r["tokens_out"] or 0) * 10.0) / 1e6 for r in given_requests
    )
    by = {offer["mode"]: offer for offer in made["offers"]}
    assert by["pay_per_token"]["dbu"] == pytest.approx(by_hand)
    weight = math.fsum(r["weight"] for r in given_requests)
    told = max(
        math.fsum(r["weight"] for r in given_requests if r[f"tokens_{side}"] is not None) for side in ("in", "out")
    )
    assert made["tokens_known"] == pytest.approx(told / weight)
    lines: list[str] = []
    show("e", made, lines.append, lambda *_: None)
    assert any("say no tokens" in line for line in lines) == (told < weight), "the side that more requests say counts"


@given(requests, st.sampled_from([0.0, 1.0, 600.0]))
def test_units_are_whole_and_what_never_sleeps_is_paid_all_day(
    given_requests: list[dict[str, Any]], idle_s: float
) -> None:
    prices = PRICES.model_copy(update={"idle_s": idle_s})
    always = CostSettings(model="m", mode="gpu", scale_to_zero=False)
    windows = [window(r) for r in given_requests]
    by = {offer.mode: offer for offer in offers(loads(windows), 60, prices, always, 1000.0, 2000.0)}
    minutes = [r["minute"] for r in given_requests]
    hours = {minute // 60 for minute in minutes}
    units = by["provisioned"].dbu / 50.0
    assert units == int(units)
    assert units >= max(hours) - min(hours) + 1
    span_h = (max(minutes) - min(minutes) + 1) / 60
    assert by["gpu"].dbu >= 10.0 * span_h * (1 - 1e-9), "at least one instance, all the time"
    slept = {offer.mode: offer for offer in offers(loads(windows), 60, prices, SETTINGS, 1000.0, 2000.0)}
    assert all(math.isfinite(offer.dbu) for offer in slept.values())


def test_rates_say_who_is_up_all_day() -> None:
    up = {
        mode: rates(CostSettings(model="m", mode=mode, scale_to_zero=False), PRICES)[-1]
        for mode in ("pay_per_token", "provisioned", "cpu", "gpu")
    }
    assert up == {"pay_per_token": False, "provisioned": True, "cpu": True, "gpu": True}
    assert LEAST_IDLE_S > 0
