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
    Block,
    above_slo,
    below_slo,
    log_e,
    log_e_better,
    not_worse,
    rate_interval,
    ratio_interval,
    run,
    worse,
)

SIZES = [(1, 1), (1, 20), (20, 1), (5, 8), (12, 12), (30, 6)]
RATES = [0.001, 0.02, 0.1, 0.4, 0.8]


def grid(r0: float) -> Iterator[tuple[int, int, float, float]]:
    """(n1, n0, new rate, prior rate) at the boundary of the null: new rate = r0 * prior rate."""
    for (n1, n0), p0 in itertools.product(SIZES, RATES):
        if r0 * p0 < 1:
            yield n1, n0, r0 * p0, p0


def expectation(n1: int, n0: int, p1: float, p0: float, of) -> np.ndarray:
    """E[of(x1, x0)] by enumerating every outcome."""
    total = np.zeros(len(of(0, 0)))
    for x1, x0 in itertools.product(range(n1 + 1), range(n0 + 1)):
        total = total + binom.pmf(x1, n1, p1) * binom.pmf(x0, n0, p0) * of(x1, x0)
    return total


@pytest.mark.parametrize("r0", [1.0, 1.25, 2.0])
def test_evidence_against_the_new_version_is_worth_at_most_one_under_the_null(r0: float) -> None:
    for n1, n0, p1, p0 in grid(r0):
        mean = expectation(n1, n0, p1, p0, lambda x1, x0, a=n1, b=n0: np.exp(log_e(Block(0, a, b, x1, x0), r0)))
        assert (mean <= 1 + 1e-9).all(), (n1, n0, p1, p0, mean)


@pytest.mark.parametrize("r0", [1.0, 1.5, 2.0])
def test_evidence_for_the_new_version_is_worth_at_most_one_under_the_null(r0: float) -> None:
    for n1, n0, p1, p0 in grid(r0):
        mean = expectation(n1, n0, p1, p0, lambda x1, x0, a=n1, b=n0: np.exp(log_e_better(Block(0, a, b, x1, x0), r0)))
        assert (mean <= 1 + 1e-9).all(), (n1, n0, p1, p0, mean)


@pytest.mark.parametrize("slo", [0.01, 0.02, 0.2])
@pytest.mark.parametrize("n", [1, 10, 60, 300])
def test_evidence_about_the_objective_is_worth_at_most_one_at_it(slo: float, n: int) -> None:
    x = np.arange(n + 1)
    weights = binom.pmf(x, n, slo)
    for test in (above_slo, below_slo):
        assert float(weights @ [test(float(n), float(one), slo) for one in x]) <= 1 + 1e-9


def test_the_restarting_process_is_worth_at_most_one_over_its_horizon() -> None:
    """Exact: all 2**8 paths of 8 blocks with one request on each side, failing with 1/2."""
    logs = {(a, b): log_e(Block(0, 1, 1, a, b), 1.0) for a in (0, 1) for b in (0, 1)}
    paths = list(itertools.product(logs.values(), repeat=4))
    for horizon in (4, 10):
        assert sum(run(range(4), path, horizon).e for path in paths) / len(paths) <= 1 + 1e-9


blocks = st.builds(
    lambda t, n1, n0, a, b: Block(float(t), n1, n0, min(a, n1), min(b, n0)),
    st.integers(0, 99), st.integers(0, 200), st.integers(0, 200), st.integers(0, 50), st.integers(0, 50),
)  # fmt: skip


@given(st.lists(blocks, max_size=8, unique_by=lambda b: b.time), st.randoms())
def test_the_order_in_which_blocks_are_given_does_not_matter(given_blocks: list[Block], random) -> None:
    shuffled = list(given_blocks)
    random.shuffle(shuffled)
    assert worse(shuffled, 1.25, 100) == worse(given_blocks, 1.25, 100)


@given(blocks)
def test_blocks_without_both_versions_say_nothing(block: Block) -> None:
    alone = Block(block.time, block.n1, 0, block.x1, 0)
    assert (log_e(alone, 1.0) == 0).all()
    assert (log_e_better(alone, 1.0) == 0).all()


@given(blocks, st.integers(1, 20))
def test_one_more_failure_of_the_new_version_is_never_less_evidence(block: Block, more: int) -> None:
    if block.n1 >= block.x1 + more and block.n0 > 0:
        again = Block(block.time, block.n1, block.n0, block.x1 + more, block.x0)
        assert worse([again], 1.25, 10).e >= worse([block], 1.25, 10).e - 1e-12


def test_overwhelming_evidence_stays_a_number() -> None:
    e = worse([Block(float(i), 10_000, 10_000, 9_000, 1) for i in range(50)], 1.25, 1440).e
    assert math.isfinite(e)
    assert e > 1e100


def test_nothing_seen_is_no_evidence() -> None:
    assert worse([], 1.25, 10).e == 1.0
    assert not_worse([], 1.5) == 1.0
    assert ratio_interval([]) == (None, None, None)
    assert rate_interval(0, 0) is None
    assert rate_interval(10, 0) == (0.0, 0.0, pytest.approx(0.3085, abs=1e-4))


def test_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(400):
        x1, x0 = rng.binomial(500, 0.06), rng.binomial(900, 0.03)
        _, low, high = ratio_interval([Block(0, 500, 900, float(x1), float(x0))])
        inside += low is not None and low <= 2.0 <= (high or math.inf)
    assert inside / 400 >= 0.93


def hour(rng: np.random.Generator, p1: float, p0: float, new_share: float, windows: int = 60) -> list[Block]:
    """One hour of one-minute windows: common shocks, 60 requests a minute."""
    made = []
    for i in range(windows):
        n = int(rng.poisson(60))
        n1 = int(rng.binomial(n, new_share))
        shock = float(np.exp(rng.normal(0, 0.4)))
        made.append(
            Block(float(i), n1, n - n1, float(rng.binomial(n1, min(1, p1 * shock))), float(rng.binomial(n - n1, min(1, p0 * shock))))
        )  # fmt: skip
    return made


def upper(alarms: int, runs: int) -> float:
    """Upper 95 % Clopper-Pearson limit of a share."""
    return float(beta.ppf(0.95, alarms + 1, runs - alarms))


def peak(blocks_: list[Block], r0: float) -> float:
    """The highest evidence shown when looked at after every block."""
    return max(worse(blocks_[: i + 1], r0, 1440).e for i in range(4, len(blocks_), 5))


@pytest.mark.parametrize("r0", [1.0, 1.25])
def test_healthy_hours_raise_a_false_alarm_at_most_in_one_and_a_half_per_cent(r0: float) -> None:
    rng = np.random.default_rng(11)
    runs = 1000
    alarms = sum(peak(hour(rng, 0.02 * r0, 0.02, (0.1, 0.5)[i % 2]), r0) >= 100 for i in range(runs))
    assert upper(alarms, runs) <= 0.015


def test_four_times_the_failures_are_found() -> None:
    rng = np.random.default_rng(12)
    found = sum(peak(hour(rng, 0.08, 0.02, 0.5), 1.25) >= 100 for _ in range(300))
    assert found / 300 >= 0.99


def test_a_late_onset_is_found_and_dated() -> None:
    rng = np.random.default_rng(13)
    healthy, ill = hour(rng, 0.02, 0.02, 0.5, 240), hour(rng, 0.12, 0.02, 0.5)
    shown = worse(healthy + [Block(b.time + 240, b.n1, b.n0, b.x1, b.x0) for b in ill], 1.25, 1440)
    assert shown.e >= 100
    assert shown.since is not None
    assert 200 <= shown.since <= 270
