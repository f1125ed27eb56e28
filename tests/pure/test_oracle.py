"""The benchmark's oracle is a bound only while it reads versions as the judge does."""

from benchmarks.judge.oracle import oracle
from benchmarks.judge.traffic import SCENARIOS
from lastgood.settings import Policy


def test_the_oracle_of_sticky_requesters_needs_minutes_too() -> None:
    sticky = next(one for one in SCENARIOS if one.sticky)
    assert 2 < oracle(sticky, 0.5, Policy(), 10, 3) < 8
