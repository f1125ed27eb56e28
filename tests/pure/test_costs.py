"""What traffic costs in each serving mode, against sums by hand; the cheapest never misses the latency target."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cost_support import PRICES, SETTINGS
from hypothesis import given
from hypothesis import strategies as st

from lastgood.errors import ConfigError
from lastgood.jobs.cost import KINDS, surcharges
from lastgood.jobs.offers import MODES, cheapest, loads, offers, report, scaled
from lastgood.jobs.offers import changes as when_it_changes
from lastgood.record.windows import Counts, bucket
from lastgood.settings import CostSettings
from lastgood.settings.prices import Prices, TokenPrice, prices

START = datetime(2026, 3, 2, tzinfo=UTC)


def window(minute: int, requests: float = 60, latency_ms: float = 1000.0) -> Counts:
    return Counts(
        "e", "1", "s", START + timedelta(minutes=minute), int(requests), requests, latency={bucket(latency_ms): requests},
        tokens_in=100 * requests, tokens_out=10 * requests,
    )  # fmt: skip


def test_each_mode_costs_what_a_sum_by_hand_gives() -> None:
    """Two busy minutes an hour apart, a request a second of one second each."""
    windows = [window(0), window(60)]
    found = {one.mode: one for one in offers(loads(windows), 60, PRICES, SETTINGS, 1000.0, 2000.0)}
    assert found["pay_per_token"].dbu == pytest.approx((12_000 * 1 + 1_200 * 10) / 1e6)
    assert (found["provisioned"].dbu, found["provisioned"].units) == (200.0, 2)
    up_hours = 2 * (60 + 600) / 3600
    assert found["gpu"].dbu == pytest.approx(up_hours * 10 * 1 + 2 * 2.0)
    assert (found["cpu"].units, found["cpu"].dbu) == (20, pytest.approx(up_hours * 20 + 2 * 2.0, rel=0.02))
    assert [(mode, found[mode].meets) for mode in MODES] == [
        ("pay_per_token", True),
        ("provisioned", True),
        ("cpu", False),
        ("gpu", True),
    ]
    always = CostSettings(model="m", scale_to_zero=False, mode="gpu")
    alone = {one.mode: one for one in offers(loads(windows), 60, PRICES, always, 1000.0, 2000.0)}
    assert alone["gpu"].dbu == pytest.approx(10 * 61 / 60)
    assert alone["cpu"].meets is None


def test_the_report_names_the_cheapest_and_the_traffic_at_which_it_changes() -> None:
    dear = PRICES.model_copy(update={"pay_per_token": {"m": TokenPrice(input=10.0, output=100.0)}})
    said = report([window(i) for i in range(0, 600)], 60, dear, SETTINGS, 2000.0)
    assert said["cheapest"] == "pay_per_token"
    turning = {one["mode"]: one["traffic"] for one in said["changes"]}
    traffic = loads([window(i) for i in range(0, 600)])
    for mode, factor in turning.items():
        there = cheapest(offers(scaled(traffic, factor), 60, dear, SETTINGS, said["p95_ms"], 2000.0))
        before = cheapest(offers(scaled(traffic, factor / 1.13), 60, dear, SETTINGS, said["p95_ms"], 2000.0))
        assert there is not None
        assert before is not None
        assert (there.mode, before.mode) == (mode, "pay_per_token")
    assert turning
    assert not said["checked"]


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.floats(0.1, 1e4), st.floats(1, 1e5)), min_size=1, max_size=20),
    st.floats(1, 1e6),
)
def test_the_cheapest_never_misses_the_target_and_more_traffic_never_costs_less(some: list[Any], target: float) -> None:
    traffic = loads([window(*one) for one in some])
    found = offers(traffic, 60, PRICES, SETTINGS, 1000.0, target)
    best = cheapest(found)
    assert best is None or (best.meets and all(best.money <= one.money for one in found if one.meets))
    twice = {one.mode: one.dbu for one in offers(scaled(traffic, 2.0), 60, PRICES, SETTINGS, 1000.0, target)}
    assert all(twice[one.mode] >= one.dbu * (1 - 1e-9) for one in found)


def test_no_traffic_and_no_prices_are_no_error() -> None:
    assert offers([], 60, Prices(as_of=date(2026, 1, 1), dbu=1.0), SETTINGS, None, 1.0) == []
    assert [one.money for one in offers([], 60, PRICES, SETTINGS, None, 1.0) if one.mode != "provisioned"] == [
        0.0,
        0.0,
        0.0,
    ]
    assert when_it_changes([], 60, Prices(as_of=date(2026, 1, 1), dbu=1.0), SETTINGS, None, 1.0) == []


def test_prices_come_from_the_file_that_ships_and_a_broken_one_is_named(tmp_path: Path) -> None:
    shipped = prices(Path(__file__).parents[2] / "conf" / "prices.yaml")
    assert {"llama-3.3-70b"} <= set(shipped.pay_per_token) & set(shipped.provisioned)
    bad = tmp_path / "prices.yaml"
    bad.write_text("as_of: 2026-01-01\ndbu: -1\n")
    with pytest.raises(ConfigError, match=r"prices.yaml: dbu: "):
        prices(bad)
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot be read as prices"):
        prices(tmp_path / "nowhere.yaml")


def test_tokens_that_are_priced_apart_cost_what_a_sum_by_hand_gives() -> None:
    token = TokenPrice(input=10.0, output=40.0, cached=1.0, cache_write=12.5, audio_out=80.0)
    dear = PRICES.model_copy(update={"pay_per_token": {"m": token}})
    more = dict(zip(KINDS, surcharges(CostSettings(model="m", mode="pay_per_token"), dear), strict=True))
    tokens = {"cached": 600, "cache_write": 100, "reasoning": 50, "audio_in": 5, "audio_out": 20}
    paid = 1000 * 10e-6 + 200 * 40e-6 + sum(tokens[kind] * more[kind] for kind in KINDS)
    assert paid == pytest.approx((300 * 10 + 600 * 1 + 100 * 12.5 + 180 * 40 + 20 * 80) / 1e6)
    assert surcharges(CostSettings(model="m", mode="gpu"), dear) == (0.0,) * len(KINDS)
