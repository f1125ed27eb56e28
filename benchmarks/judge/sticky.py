"""Requesters that always meet the same version, some of whom fail and retry in storms -> records, and what is made of them."""

import math

import numpy as np

from benchmarks.judge.traffic import ERRORS, HIGH, LOW, SIGMA, STEP, Floats, Regression, Scenario, Traffic
from lastgood.judge.judge import Evidence, History, first_rollback
from lastgood.judge.records import Records, columns_of
from lastgood.settings import Policy

REQUESTERS, HABIT, STORMS, STORM = 3000, 0.3, 0.3, 4.0
"""How many requesters (a few send most); spread of their typical log latency; which failures are retried in a storm, and the mean number of retries."""
MEDIAN_MS = 400.0


def records(one: Scenario, split: float, regression: Regression, rng: np.random.Generator) -> Records:
    """One run of requests, labelled by requester."""
    share = 1 / np.arange(1, REQUESTERS + 1) ** 0.8
    n = rng.poisson(one.per_minute * one.minutes)
    who = rng.choice(REQUESTERS, n, p=share / share.sum())
    at = rng.uniform(0, 60 * one.minutes, n)
    arm = (rng.random(REQUESTERS) < split).astype(np.int64)
    prone = np.exp(rng.normal(0, 0.7, REQUESTERS)) * ERRORS / math.exp(0.245)
    habit = rng.normal(0, HABIT, REQUESTERS)
    bad = rng.random(n) < np.minimum(0.5, prone[who] * np.where(arm[who] == 1, regression.errors, 1.0))
    storms = np.flatnonzero(bad & (rng.random(n) < STORMS))
    times = rng.poisson(STORM, len(storms))
    again = np.repeat(storms, times)
    at = np.concatenate([at, at[again] + rng.exponential(60, len(again))])
    who, bad = np.concatenate([who, who[again]]), np.concatenate([bad, np.ones(len(again), bool)])
    keep = at < 60 * one.minutes
    at, who, bad = at[keep], who[keep], bad[keep]
    log_ms = habit[who] + rng.normal(0, SIGMA, len(at)) + np.where(arm[who] == 1, math.log(regression.latency), 0.0)
    unknown = np.full(len(at), np.nan)
    return Records(
        at, arm[who], np.where(bad, 0, -1), ("HTTP_500",), who, MEDIAN_MS * np.exp(log_ms), unknown, unknown, unknown, unknown,
        np.zeros(len(at), np.int64), ("model",),
    )  # fmt: skip


def judged(found: Records, policy: Policy, width: float, by_requester: bool = True) -> float:
    """Minutes until the judge rolls back, inf for never. Without `by_requester` nobody tells the judge who sent what."""
    if not by_requester:
        found = Records(**{**vars(found), "who": np.full(len(found.at), -1)})
    cols = columns_of(found, width)
    _, t = first_rollback(Evidence("simulated", "2", "1", cols, round(width)), policy, History())
    return math.inf if t is None else (cols.times[t] + width) / 60


def traffic(runs: list[Records], minutes: int) -> Traffic:
    """What the rivals see of it: counts by the minute."""
    n, failed = (np.zeros((minutes, len(runs), 1, 2)) for _ in range(2))
    hist = np.zeros((minutes, len(runs), 1, 2, HIGH - LOW + 1), np.float32)
    for i, one in enumerate(runs):
        t = np.minimum((one.at / 60).astype(int), minutes - 1)
        bucket: Floats = np.clip(np.floor(np.log(one.latency_ms / MEDIAN_MS) / STEP) - LOW + 1, 0, HIGH - LOW).astype(
            int
        )
        np.add.at(n, (t, i, 0, one.arm), 1)
        np.add.at(failed, (t, i, 0, one.arm), one.code >= 0)
        np.add.at(hist, (t, i, 0, one.arm, bucket), 1)
    return Traffic(n, failed, hist)
