"""Figures against single requests, some of which say nothing (docs/reference/figures.md)."""

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cost_support import PRICES, SETTINGS
from hypothesis import given
from hypothesis import strategies as st

from lastgood.dashboards.exporter import amounts
from lastgood.jobs.cost import LEAST_IDLE_S, rates
from lastgood.jobs.offers import loads, offers, report, show
from lastgood.record.telemetry import KINDS
from lastgood.record.windows import Counts, bucket, merge
from lastgood.settings import CostSettings
from lastgood.settings.prices import TokenPrice

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


KIND_PRICES = PRICES.model_copy(
    update={
        "pay_per_token": {
            "m": TokenPrice(input=1.0, output=10.0, cached=0.1, cache_write=1.25, reasoning=20.0, audio_out=80.0)
        }
    }
)


@given(st.lists(st.dictionaries(st.sampled_from(KINDS), st.integers(0, 1000)), min_size=1, max_size=8))
def test_kinds_of_tokens_cost_their_own_prices_in_the_table_and_on_the_command_line(
    kinds: list[dict[str, int]],
) -> None:
    """Kinds are parts of their side: what has no price of its own costs what its side costs."""
    windows = [
        Counts("e", "1", "s", START + timedelta(minutes=i), 1, 1.0, tokens_in=9000.0, tokens_out=9000.0, told_in=1.0, told_out=1.0, kinds=of)
        for i, of in enumerate(kinds)
    ]  # fmt: skip
    sums = {kind: sum(of.get(kind, 0) for of in kinds) for kind in KINDS}
    apart = {
        "cached": 0.1 - 1.0,
        "cache_write": 1.25 - 1.0,
        "reasoning": 20.0 - 10.0,
        "audio_in": 0.0,
        "audio_out": 80.0 - 10.0,
    }
    by_hand = (len(kinds) * 9000 * (1.0 + 10.0) + sum(sums[kind] * apart[kind] for kind in KINDS)) / 1e6
    made = report(windows, 60, KIND_PRICES, SETTINGS, 2000.0)
    (offer,) = (each for each in made["offers"] if each["mode"] == "pay_per_token")
    assert offer["dbu"] == pytest.approx(by_hand)
    plain = report([replace(window, kinds={}) for window in windows], 60, KIND_PRICES, SETTINGS, 2000.0)
    saved = next(each for each in plain["offers"] if each["mode"] == "pay_per_token")["dbu"] - offer["dbu"]
    assert saved == pytest.approx(-sum(sums[kind] * apart[kind] for kind in KINDS) / 1e6, abs=1e-9)
    titles: list[str] = []
    show("e", made, lambda _: None, lambda title, *_: titles.append(title))
    assert all((f", {n:,} {kind.replace('_', ' ')}" in titles[0]) for kind, n in sums.items() if n)


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
