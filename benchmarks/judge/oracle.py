"""What nobody can beat: the information limit, and the likelihood-ratio test that is told which metric, by how much and since when.

By Wald's identity a test of "at most the tolerance" that errs at most once in 1/budget needs log(1/budget) / I minutes on average, I the
Kullback-Leibler information of a minute about who is worse, given the split. For errors two limits: the base rate is not known (labels of
failures are all there is to see), or it is (weeks of history): the count of failures tells too. For latency: log-normal with spread SIGMA.
"""

import math

import numpy as np

from benchmarks.judge import ours
from benchmarks.judge.traffic import ERRORS, FAILING, SIGMA, SLOW, Floats, Scenario, simulate
from lastgood.judge import eprocess
from lastgood.judge.streams import failures
from lastgood.settings import Policy


def information(per_minute: float, share: float, errors: float, latency: float, policy: Policy) -> dict[str, float]:
    """Nats a minute about errors x `errors` (base rate unknown, known) and latency x `latency`, against the policy's tolerances."""
    rate = per_minute * ERRORS
    p0 = share * policy.error_tolerance / (1 - share + share * policy.error_tolerance)
    p1 = share * errors / (1 - share + share * errors)
    labels = (
        p1 * math.log(p1 / p0) + (1 - p1) * math.log((1 - p1) / (1 - p0)) if errors > policy.error_tolerance else 0.0
    )
    more = errors / policy.error_tolerance
    counts = share * rate * policy.error_tolerance * (more * math.log(more) - more + 1)
    shift = (math.log(latency) - math.log1p(policy.latency_tolerance)) / SIGMA
    return {
        "errors": rate * (1 - share + share * errors) * labels,
        "errors, rate known": counts,
        "latency": per_minute * share * (1 - share) * max(0.0, shift) ** 2 / 2,
    }


def limits(one: Scenario, share: float, policy: Policy) -> dict[str, float]:
    """Minutes that nobody can beat on average, by case of benchmarks.judge and "errors x4, rate known"."""
    nats = information(one.per_minute, share, FAILING.errors, SLOW.latency, policy)
    wanted = math.log(policy.rollback_e)
    return {
        "errors x4": wanted / nats["errors"],
        "errors x4, rate known": wanted / nats["errors, rate known"],
        "latency x1.3": wanted / nats["latency"],
    }


def _minutes(logs: Floats, width: float, onset: int, limit: float) -> Floats:
    """Minutes from the onset until the sum of log e [T, runs] since then reaches the limit."""
    logs = np.cumsum(np.where((np.arange(len(logs)) * width < 60 * onset)[:, None], 0.0, logs), 0)
    over = logs >= limit
    return np.where(over.any(0), (over.argmax(0) + 1) * width / 60 - onset, np.inf)


def oracle(one: Scenario, share: float, policy: Policy, runs: int, seed: int) -> float:
    """Median minutes to errors x4 in a scenario of requests drawn one by one."""
    rng, limit = np.random.default_rng(seed), math.log(policy.rollback_e)
    omega = np.array([FAILING.errors / policy.error_tolerance])
    cols = ours.columns(simulate(one, share, FAILING, runs, rng, 3))
    blocks = failures(cols, policy.rollback_faults)
    pi = blocks.n[..., 1] / np.maximum(blocks.n.sum(-1), 1)
    x = blocks.x[..., 0] * ((pi > 0) & (pi < 1))[..., None]
    logs = cols.per_series(eprocess.log_e(pi, x[..., 1], x.sum(-1), policy.error_tolerance, omega))[..., 0]
    return float(np.median(_minutes(logs, cols.width, one.onset, limit)))
