"""Which requests a new version hurts: found where one part is, and nobody is named where none is."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import beta

from benchmarks.quality import Traffic, traffic
from lastgood.judge.slices import MOST_VALUES, Attribute, search


def world(seed: int, minutes: int = 60, **given: Any) -> Traffic:
    """An hour of two versions, five requests a second."""
    return traffic(seed, minutes=minutes, per_minute=300, **given)


def test_where_no_part_is_hurt_none_is_named() -> None:
    runs = 300
    named = sum(bool(search(*world(seed))) for seed in range(runs))
    assert beta.ppf(0.95, named + 1, runs - named) <= 0.01 or named == 0, named


@pytest.mark.parametrize(
    ("hurt", "rate"), [({"language": 5}, 0.1), ({"team": 3}, 0.08), ({"language": 1, "prompt tokens": 2}, 0.12)]
)
def test_a_hurt_part_of_three_in_a_hundred_is_named_first_and_alone(hurt: dict[str, int], rate: float) -> None:
    expected = {name: str(value) for name, value in hurt.items()}
    first = [search(*world(seed, 90, hurt=hurt, rate=rate)) for seed in range(10)]
    assert sum(bool(slices) and slices[0].where == expected and slices[0].only for slices in first) >= 8


def test_a_version_that_fails_everywhere_is_not_said_to_fail_in_one_part_only() -> None:
    attributes, new, _, minutes = world(3)
    bad = np.random.default_rng(3).random(len(new)) < np.where(new, 0.06, 0.01)
    slices = search(attributes, new, bad, minutes)
    assert slices and not any(each.only for each in slices)
    assert slices[0].sentence.startswith("Most of all ")


def test_parts_with_other_rates_and_other_shares_of_the_new_version_are_no_harm() -> None:
    assert sum(bool(search(*world(seed, sticky=True))) for seed in range(60)) == 0


def test_nothing_and_too_much_are_nothing() -> None:
    none = np.zeros(0, np.int64)
    assert search([], none.astype(bool), none.astype(bool), none) == []
    _, new, bad, minutes = world(1, 5)
    many = Attribute("id", [str(i) for i in range(MOST_VALUES + 1)], minutes % 40)
    assert search([many], new, bad, minutes) == []
    unknown = Attribute("team", ["a", "b"], np.full(len(new), -1))
    assert search([unknown], new, bad, minutes) == []
