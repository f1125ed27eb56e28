"""Judged pairs: unbiased whatever the judge, anytime-valid, and never earlier than their labels."""

from dataclasses import replace

import numpy as np
import pytest
from simulation.judged import DAY, EQUAL, HARSH, LENIENT, World, pairs

from lastgood.judge.corrected import bets, settled
from lastgood.judge.eprocess import LAMBDAS

WRONG = {"equal": EQUAL, "harsh": HARSH, "lenient": LENIENT}


def highest(world: World, n: int, seed: int, tolerance: float = 0.0) -> float:
    """The largest e-value ever shown."""
    logs = np.cumsum(bets(pairs(world, n, seed), tolerance).logs, 0)
    return float(np.exp(np.logaddexp.reduce(logs, 1) - np.log(len(LAMBDAS))).max())


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("silent", [0.0, 0.15])
def test_a_healthy_version_is_not_blamed_for_the_judges_errors(name: str, silent: float) -> None:
    """At 1 / 20, looked at after every pair: at most one in twenty; also where people shirk the answers that are bad."""
    runs = 400
    blamed = sum(highest(World(WRONG[name], silent=silent), 1500, seed) >= 20 for seed in range(runs))
    assert blamed <= 0.05 * runs


@pytest.mark.parametrize("name", WRONG)
def test_the_estimate_is_what_people_say(name: str) -> None:
    """Mean over 200 runs of the estimated difference: the true one, within four standard errors."""
    estimates = [bets(pairs(World(WRONG[name], drop=0.05), 1000, seed), 0.0).difference for seed in range(200)]
    means = np.array([estimate[0] for estimate in estimates if estimate])
    assert abs(means.mean() + 0.05) < 4 * means.std(ddof=1) / 200**0.5
    apart = np.array([estimate[1] for estimate in estimates if estimate])
    assert abs(apart.mean() / means.std(ddof=1) - 1) < 0.2, "its standard error is what it varies by"


@pytest.mark.parametrize("name", WRONG)
def test_a_drop_is_found(name: str) -> None:
    assert sum(highest(World(WRONG[name], drop=0.1), 3000, seed) >= 100 for seed in range(20)) >= 19


def test_a_bet_never_loses_more_than_it_has() -> None:
    """In the worst cases of all: labels and scores at their limits, chances from 1 % to 100 %."""
    given = pairs(World(), 64, 1)
    corners = np.array([[a, b, c, d] for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)] * 4, float)
    for chance in (0.01, 0.2, 1.0):
        worst = replace(
            given, scores=corners[:, :2], labels=corners[:, 2:], asked=np.ones(64, bool), chance=np.full(64, chance), labelled_at=given.at,
        )  # fmt: skip
        assert np.isfinite(bets(worst, 0.05).logs).all()
        assert np.isfinite(bets(replace(worst, asked=np.zeros(64, bool)), 0.05).logs).all()


def test_pairs_wait_for_labels_and_silence_does_not_speak_against_the_new_version() -> None:
    given = pairs(World(), 500, 3)
    waiting = int(np.flatnonzero(given.asked)[10])
    labels, labelled_at = given.labels.copy(), given.labelled_at.copy()
    labels[waiting], labelled_at[waiting] = np.nan, np.nan
    open_one = replace(given, labels=labels, labelled_at=labelled_at)
    assert len(settled(open_one, given.at[waiting] + DAY - 1).at) == waiting
    whole = settled(open_one, given.at[-1] + 2 * DAY)
    assert len(whole.at) == 500 and bets(whole, 0.0).unlabelled == 1
    assert bets(whole, 0.0).logs[waiting].max() < 0, "the best for the new version"
    late = replace(given, labelled_at=np.where(np.arange(500) == waiting, given.at + 2 * DAY, given.labelled_at))
    assert bets(late, 0.0).unlabelled == 1, "a label that came too late changes nothing that was judged"
    assert (np.diff(bets(whole, 0.0).at) >= 0).all()


def test_nobody_asked_says_nothing() -> None:
    assert not len(bets(pairs(World(chance=0.0), 100, 1), 0.0).at)
