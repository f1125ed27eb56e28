"""E-values are honest: expectation at most 1 under the null, few false alarms over hours, real faults found."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from lastgood.judge.eprocess import (
    BETTER,
    LAMBDAS,
    WORSE,
    WORSE_WEIGHTS,
    advance,
    alarm,
    log_e,
    log_e_above,
    log_e_better,
    log_e_mean,
    log_e_split,
    spent,
    start,
)
from lastgood.judge.intervals import quantile_band, rate_interval, ratio_interval, ratio_sequence

SIZES = [(1, 1), (1, 20), (20, 1), (5, 8), (12, 12), (30, 6)]
RATES = [0.001, 0.02, 0.1, 0.4, 0.8]


def arrays(*values: float) -> tuple[np.ndarray, ...]:
    return tuple(np.array(v, float) for v in values)


def grid(r0: float) -> Iterator[tuple[int, int, float, float]]:
    """(n1, n0, new rate, prior rate) at the boundary of the null: new rate = r0 * prior rate."""
    for (n1, n0), p0 in itertools.product(SIZES, RATES):
        if r0 * p0 < 1:
            yield n1, n0, r0 * p0, p0


def outcomes(n1: int, n0: int, p1: float, p0: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every (x1, x0) and its probability."""
    x1, x0 = (v.ravel().astype(float) for v in np.meshgrid(np.arange(n1 + 1), np.arange(n0 + 1), indexing="ij"))
    return x1, x0, binom.pmf(x1, n1, p1) * binom.pmf(x0, n0, p0)


@pytest.mark.parametrize("r0", [0.5, 0.8, 1.0, 1.25, 2.0])
def test_evidence_against_the_new_version_is_worth_at_most_one_under_the_null(r0: float) -> None:
    for n1, n0, p1, p0 in grid(r0):
        x1, x0, weight = outcomes(n1, n0, p1, p0)
        e = np.exp(log_e(np.full(len(x1), n1 / (n1 + n0)), x1, x1 + x0, r0))
        assert (weight @ e <= 1 + 1e-9).all(), (n1, n0, p1, p0)


@pytest.mark.parametrize("r0", [1.0, 1.5, 2.0])
def test_evidence_for_the_new_version_is_worth_at_most_one_under_the_null(r0: float) -> None:
    for n1, n0, p1, p0 in grid(r0):
        x1, x0, weight = outcomes(n1, n0, p1, p0)
        e = np.exp(log_e_better(np.full(len(x1), n1), np.full(len(x1), n0), x1, x1 + x0, r0))
        assert (weight @ e <= 1 + 1e-9).all(), (n1, n0, p1, p0)


@pytest.mark.parametrize("slo", [0.01, 0.02, 0.2])
@pytest.mark.parametrize("n", [1, 10, 60, 300])
def test_evidence_about_the_objective_is_worth_at_most_one_at_it(slo: float, n: int) -> None:
    x = np.arange(n + 1.0)
    for burn in (np.array([1.5, 2.0, 3.0, 6.0, 14.4]), np.array([0.5, 0.25, 0.1])):
        mean = np.exp(binom.logpmf(x, n, slo)[:, None] + log_e_above(np.full(n + 1, float(n)), x, slo, burn)).sum(0)
        assert (mean <= 1 + 1e-9).all()


@pytest.mark.parametrize("guess", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(("n1", "n0"), [(1, 1), (3, 1), (2, 9)])
@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_betting_on_scores_is_worth_at_most_one_whatever_the_guess(
    guess: float, n1: int, n0: int, tolerance: float
) -> None:
    """Scores of 0 or 1 (the most spread that a mean allows), by enumeration."""
    for p0 in (0.1, 0.5, 0.9):
        x1, x0, weight = outcomes(n1, n0, max(0.0, p0 - tolerance), p0)
        new, prior = (np.stack([np.full(len(x), float(n)), x, x], -1) for n, x in ((n1, x1), (n0, x0)))
        e = np.exp(log_e_mean(new, prior, np.full(len(x1), guess), tolerance))
        assert (weight @ e <= 1 + 1e-9).all()


def test_lower_scores_are_found() -> None:
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(50):
        values = [np.clip(rng.normal(mean, 0.15, (30, 10)), 0, 1) for mean in (0.65, 0.8)]
        sums = [np.stack([np.full(30, 10.0), v.sum(1), (v * v).sum(1)], -1) for v in values]
        logs = log_e_mean(sums[0], sums[1], np.full(30, 0.75), 0.05)
        found += np.exp(logs.sum(0)).mean() >= 100
    assert found >= 48


def folded(logs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """M after each block, one block a minute."""
    return advance(start(*logs.shape[1:]), logs, np.arange(1.0, len(logs) + 1), weights)[1]


def test_the_restarting_process_is_worth_at_most_one() -> None:
    """Exact: all 4**6 paths of 6 blocks with one request on each side, failing with 1/2."""
    pairs = np.array(list(itertools.product([0.0, 1.0], repeat=2)))
    one = log_e(np.full(4, 0.5), pairs[:, 0], pairs.sum(1), 1.0)
    paths = np.array(list(itertools.product(range(4), repeat=6))).T
    assert (folded(one[paths], WORSE_WEIGHTS).mean(1) <= 1 + 1e-9).all()


def test_restarts_never_spend_more_than_they_have() -> None:
    minutes = np.array([0.0, 1.0, 60.0, 1440.0, 1e6, 1e9])
    assert spent(minutes)[0] == 0
    assert (np.diff(spent(minutes)) > 0).all()
    assert spent(minutes)[-1] < 1


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_folding_window_by_window_gives_the_same_bits_as_all_at_once(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    logs, minutes = rng.normal(0, 1, (sum(cuts), 3, len(WORSE))), np.cumsum(rng.uniform(0.1, 2, sum(cuts)))
    whole_state, whole, onset = advance(start(3, len(WORSE)), logs, minutes, WORSE_WEIGHTS)
    state, parts, onsets, at = start(3, len(WORSE)), [], [], 0
    for cut in cuts:
        state, e, since = advance(state, logs[at : at + cut], minutes[at : at + cut], WORSE_WEIGHTS)
        parts.append(e)
        onsets.append(since)
        at += cut
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert np.concatenate(onsets).tobytes() == onset.tobytes()
    for name in ("log_l", "log_a", "low", "low_at"):
        assert getattr(state, name).tobytes() == getattr(whole_state, name).tobytes()


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 50), st.integers(0, 50), st.integers(1, 20))
def test_one_more_failure_of_the_new_version_is_never_less_evidence(
    n1: int, n0: int, a: int, b: int, more: int
) -> None:
    pi = np.array(n1 / (n1 + n0))
    was, now = (log_e(pi, *arrays(x, x + b), 1.25) for x in (a, a + more))
    assert (now >= was - 1e-9).all()


def test_overwhelming_evidence_stays_a_number() -> None:
    logs = np.repeat(log_e(*arrays(0.5, 9000, 9001), 1.25)[None], 50, 0)
    e = folded(logs[:, None], WORSE_WEIGHTS)[-1, 0]
    assert math.isfinite(e)
    assert e > 1e100


def test_nothing_seen_is_no_evidence() -> None:
    zero = np.zeros(1)
    assert (log_e(zero + 0.5, zero, zero, 1.25) == 0).all()
    assert (log_e_better(zero + 3, zero, zero, zero, 1.5) == 0).all()
    assert (log_e_mean(np.zeros(3), np.array([5.0, 3.0, 2.0]), np.array(0.5), 0.05) == 0).all()
    assert folded(np.zeros((3, 1, len(WORSE))), WORSE_WEIGHTS) == pytest.approx(1.0)
    assert ratio_interval(0, 0, 0, 0) == (None, None, None)
    assert ratio_sequence(zero, zero, zero, zero) == (0.0, math.inf)
    assert rate_interval(0, 0) is None
    assert rate_interval(10, 0) == (0.0, 0.0, pytest.approx(0.3085, abs=1e-4))
    assert quantile_band(0, 0.5) == (0.0, 1.0)


def test_intervals_at_one_look_hold_the_truth() -> None:
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(400):
        x1, x0 = rng.binomial(500, 0.06), rng.binomial(900, 0.03)
        _, low, high = ratio_interval(500, 900, float(x1), float(x0))
        inside += low is not None and low <= 2.0 <= (high or math.inf)
    assert inside / 400 >= 0.93


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_the_sequence_for_the_ratio_holds_it_at_every_look(ratio: float) -> None:
    rng, misses, runs = np.random.default_rng(6), 0, 150
    for _ in range(runs):
        n1, n0 = rng.poisson(40, 60).astype(float), rng.poisson(60, 60).astype(float)
        x1, x0 = (rng.binomial(n.astype(int), p).astype(float) for n, p in ((n1, 0.05 * ratio), (n0, 0.05)))
        limits = [ratio_sequence(n1[:t], n0[:t], x1[:t], x0[:t]) for t in (5, 15, 30, 60)]
        misses += any(not low <= ratio <= high for low, high in limits)
    assert misses / runs <= 0.05
    assert limits[-1][1] / max(limits[-1][0], 1e-9) < 8


def test_the_band_of_a_quantile_holds_it_at_every_look() -> None:
    rng, misses = np.random.default_rng(7), 0
    for _ in range(200):
        values = rng.random(2000)
        bands = [(np.sort(values[:n]), *quantile_band(n, 0.9)) for n in (20, 100, 500, 2000)]
        misses += any(
            not (np.quantile(v, low) if low > 0 else 0) <= 0.9 <= (np.quantile(v, high) if high < 1 else 1)
            for v, low, high in bands
        )
    assert misses / 200 <= 0.05


def test_the_detector_without_a_prior_keeps_its_average_run_length() -> None:
    """Promise: on average at least A blocks before an alarm without cause. Here A = 200."""
    rng = np.random.default_rng(8)
    lengths = []
    for _ in range(200):
        s = alarm(rng.poisson(2.0, 2000).astype(float), np.full(2000, 2.0))
        hit = np.flatnonzero(s >= 200)
        lengths.append(hit[0] + 1 if len(hit) else 2000)
    assert np.mean(lengths) >= 200
    s = alarm(np.concatenate([rng.poisson(2.0, 500), rng.poisson(8.0, 60)]).astype(float), np.full(560, 2.0))
    assert (s[500:] >= 43_200).any()


def test_a_split_off_plan_is_seen_and_one_on_plan_is_not() -> None:
    rng = np.random.default_rng(9)
    alarms = 0
    for _ in range(300):
        new = np.cumsum(rng.binomial(100, 0.1, 200)).astype(float)
        whole = 100.0 * np.arange(1, 201)
        alarms += bool((log_e_split(new, whole - new, 0.1) >= math.log(1000)).any())
    assert alarms <= 3
    assert log_e_split(*arrays(3000, 17000), 0.1) > math.log(1000)


def hours(rng: np.random.Generator, p1: float, p0: float, new_share: float, runs: int, windows: int = 60) -> np.ndarray:
    """log e [windows, runs, omega] of one-minute windows with common shocks, 60 requests a minute, tolerance 1.25."""
    n = rng.poisson(60, (windows, runs))
    n1 = rng.binomial(n, new_share)
    shock = np.exp(rng.normal(0, 0.4, (windows, 1)))
    x1 = rng.binomial(n1, np.minimum(1, p1 * shock)).astype(float)
    x0 = rng.binomial(n - n1, np.minimum(1, p0 * shock)).astype(float)
    return log_e(n1 / np.maximum(n, 1), x1, x1 + x0, 1.25)


def upper(alarms: int, runs: int) -> float:
    """Upper 95% Clopper-Pearson limit of a share."""
    return float(beta.ppf(0.95, alarms + 1, runs - alarms))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_healthy_hours_raise_a_false_alarm_at_most_in_one_and_a_half_per_cent(share: float) -> None:
    runs = 2000
    e = folded(hours(np.random.default_rng(11), 0.025, 0.02, share, runs), WORSE_WEIGHTS)
    assert upper(int((e.max(0) >= 100).sum()), runs) <= 0.015


def test_four_times_the_failures_are_found() -> None:
    e = folded(hours(np.random.default_rng(12), 0.08, 0.02, 0.5, 500), WORSE_WEIGHTS)
    assert (e.max(0) >= 100).mean() >= 0.99


def test_a_late_onset_is_found_and_dated() -> None:
    rng = np.random.default_rng(13)
    logs = np.concatenate([hours(rng, 0.02, 0.02, 0.5, 20, 240), hours(rng, 0.12, 0.02, 0.5, 20)])
    _, e, onset = advance(start(20, len(WORSE)), logs, np.arange(1.0, 301), WORSE_WEIGHTS)
    assert (e[-1] >= 100).all()
    assert (np.abs(onset[-1] - 240) <= 12).mean() >= 0.9


def test_grids_are_what_the_formulas_need() -> None:
    assert WORSE_WEIGHTS.sum() == pytest.approx(1)
    assert (WORSE > 1).all()
    assert (BETTER < 1).all()
    assert ((LAMBDAS > 0) & (LAMBDAS < 1)).all()
