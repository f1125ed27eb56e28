"""What nobody can beat: the likelihood-ratio test that is told which metric, by how much and since when -> minutes, beside ours.

It bets everything on the true ratio of failures from the true onset on, has no other metric to watch, and stops at 1/budget. By Wald's
identity no test of "at most the tolerance" with this budget needs fewer events on average against this alternative.
"""

import math

import numpy as np

from benchmarks.judge import ours, sticky
from benchmarks.judge.traffic import FAILING, Floats, Scenario, simulate
from lastgood.judge import eprocess
from lastgood.judge.cohorts import changed, cohorts, draws, first_bad
from lastgood.judge.records import columns_of
from lastgood.judge.streams import failures
from lastgood.settings import Policy


def _minutes(logs: Floats, width: float, onset: int, limit: float) -> Floats:
    """Minutes from the onset until the sum of log e [T, runs] since then reaches the limit."""
    logs = np.cumsum(np.where((np.arange(len(logs)) * width < 60 * onset)[:, None], 0.0, logs), 0)
    over = logs >= limit
    return np.where(over.any(0), (over.argmax(0) + 1) * width / 60 - onset, np.inf)


def oracle(one: Scenario, share: float, policy: Policy, runs: int, seed: int) -> float:
    """Median minutes to errors x4."""
    rng, limit = np.random.default_rng(seed), math.log(policy.rollback_e)
    omega = np.array([FAILING.errors / policy.error_tolerance])
    if not one.sticky:
        cols = ours.columns(simulate(one, share, FAILING, runs, rng, 3))
        blocks = failures(cols)
        pi = blocks.n[..., 1] / np.maximum(blocks.n.sum(-1), 1)
        x = blocks.x[..., 0] * ((pi > 0) & (pi < 1))[..., None]
        logs = cols.per_series(eprocess.log_e(pi, x[..., 1], x.sum(-1), policy.error_tolerance, omega))[..., 0]
        return float(np.median(_minutes(logs, cols.width, one.onset, limit)))
    took = []
    for _ in range(runs):
        cols = columns_of(sticky.records(one, share, FAILING, rng), 20.0)
        found = cols.requesters
        t, entry, pi = draws(found, first_bad(found, found.failed > 0), changed(found), cohorts(found, cols.width))
        use = (pi > 0) & (pi < 1) & (t < len(cols.times))
        new = found.arm[entry[use]].astype(float)
        each = eprocess.log_e(pi[use], new, np.ones(int(use.sum())), policy.error_tolerance, omega)
        logs = np.bincount(t[use], each[:, 0], len(cols.times))
        took.append(float(_minutes(logs[:, None], cols.width, one.onset, limit)[0]))
    return float(np.median(took))
