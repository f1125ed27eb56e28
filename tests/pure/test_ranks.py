"""Evidence from ranks is worth at most one: exactly, by enumerating labels, at the tolerance and where the new version is faster."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.judge import ours
from benchmarks.judge.traffic import SCENARIOS, Regression, simulate
from lastgood.judge import budget
from lastgood.judge.columns import Entries
from lastgood.judge.eprocess import Floats
from lastgood.judge.ranks import THETA_WEIGHTS, Open, _revealed, nothing_open, ranked
from lastgood.judge.records import columns_of
from lastgood.judge.trail import follow
from lastgood.settings import Policy


def worth(values: list[int], new: int, faster: float) -> Floats:
    """E[e] by alternative, over all ways to label `new` of the values; odds of a label are exp(-faster * rank)."""
    ranks = np.argsort(np.argsort(values, kind="stable")).astype(float)
    ranks = np.array([ranks[[i for i, other in enumerate(values) if other == v]].mean() for v in values])
    ways = list(combinations(range(len(values)), new))
    odds = np.array([math.exp(-faster * ranks[list(way)].sum()) for way in ways])
    arms = np.zeros((len(ways), len(values)), np.int64)
    for i, way in enumerate(ways):
        arms[i, list(way)] = 1
    row = np.repeat(np.arange(len(ways)), len(values))
    _, scores, tail, _, _ = _revealed(row, np.tile(values, len(ways)), arms.ravel(), np.ones(arms.size))
    return np.asarray(odds @ np.exp(np.concatenate([scores, tail], 1)) / odds.sum())


@given(st.lists(st.integers(0, 12), min_size=4, max_size=11), st.data())
def test_at_the_tolerance_evidence_is_worth_at_most_one_whatever_the_values(
    values: list[int], data: st.DataObject
) -> None:
    new = data.draw(st.integers(1, len(values) - 1))
    assert (worth(values, new, 0.0) <= 1 + 1e-9).all()


@given(st.lists(st.integers(0, 12), min_size=4, max_size=11), st.floats(0.0, 2.0), st.data())
def test_a_version_that_is_faster_gives_no_evidence_against_itself(
    values: list[int], faster: float, data: st.DataObject
) -> None:
    new = data.draw(st.integers(1, len(values) - 1))
    assert (worth(values, new, faster) <= 1 + 1e-9).all()


def test_distinct_values_are_worth_exactly_one_at_the_tolerance() -> None:
    assert worth([5, 1, 9, 2, 7, 3, 8], 3, 0.0) == pytest.approx(1.0)
    assert THETA_WEIGHTS.sum() == pytest.approx(1.0)


def test_slower_values_are_worth_more_the_more_of_them_there_are() -> None:
    slow = np.concatenate([np.arange(100), np.arange(100) + 40])
    arm = np.repeat([0, 1], 100)
    _, scores, _, n, x = _revealed(np.zeros(200, np.int64), slow, arm, np.ones(200))
    assert scores.max() > 10
    assert n.tolist() == [[100.0, 100.0]]
    assert x[0, 1] > x[0, 0]


@pytest.mark.parametrize("cut", [1, 7, 15])
def test_blocks_carried_over_are_those_of_one_pass(cut: int) -> None:
    rng = np.random.default_rng(3)
    shape = (20, 2)
    t = np.sort(rng.integers(0, shape[0], 900))
    entries = Entries(t, rng.integers(0, 2, 900), rng.integers(0, 2, 900), rng.integers(100, 160, 900), np.ones(900))

    class Cols:
        times, strata, breaks = np.arange(20.0), ("a/64", "b/64"), None

    whole, _ = ranked(entries, Cols(), 5, 60, nothing_open(2))  # type: ignore[arg-type]
    opened: Open = nothing_open(2)
    parts = []
    for a, z in ((0, cut), (cut, 20)):
        some = (t >= a) & (t < z)
        piece = Entries(t[some] - a, entries.g[some], entries.arm[some], entries.bucket[some], entries.weight[some])
        cols = type("Cols", (), {"times": np.arange(float(z - a)), "strata": Cols.strata, "breaks": None})()
        made, opened = ranked(piece, cols, 5, 60, opened)
        parts.append(made)
    for name in ("scores", "tail", "n", "x"):
        assert np.concatenate([getattr(part, name) for part in parts]) == pytest.approx(getattr(whole, name))


def test_a_version_slower_by_what_is_tolerated_is_rolled_back_within_the_budget() -> None:
    """300 hours at the tolerance itself: at most one in a hundred, so more than 8 have a chance of less than 1 in 200."""
    policy, runs = Policy(), 300
    made = simulate(
        SCENARIOS[0], 0.5, Regression(latency=1 + policy.latency_tolerance), runs, np.random.default_rng(11)
    )
    found = ours.judge(made, policy, 100)
    assert np.isfinite(found).sum() <= 8


def test_one_latency_for_all_is_no_evidence_and_another_one_is() -> None:
    from judge_support import requests

    given_requests = requests(1, minutes=20)
    given_requests.latency_ms[:] = 100.0
    limit = Policy().rollback_e / budget.of_try(1)

    def latency(factor: float) -> float:
        given_requests.latency_ms[given_requests.arm == 1] = 100.0 * factor
        trail, _ = follow(columns_of(given_requests, 60), Policy())
        return max(float((s.share * s.e).max()) for s in trail.streams if s.metric == "latency")

    assert latency(1.0) < 1.5
    assert latency(1.08) < 1.5
    assert latency(1.3) > limit
