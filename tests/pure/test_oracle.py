"""The benchmark's oracle and its information limit are bounds only while they read versions as the judge does."""

import pytest

from benchmarks.judge.oracle import limits, oracle
from benchmarks.judge.traffic import SCENARIOS
from lastgood.settings import Policy


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_oracle_needs_about_what_information_allows(share: float) -> None:
    even = SCENARIOS[0]
    least = limits(even, share, Policy())
    assert 0.7 < oracle(even, share, Policy(), 60, 3) / least["errors x4"] < 1.5
    assert least["errors x4, rate known"] < least["errors x4"]
