"""Simulated counts -> the window after which the judge's evidence reaches the rollback threshold, by the production code itself."""

import numpy as np

from benchmarks.judge.traffic import LOW, Floats, Traffic
from lastgood.judge import budget
from lastgood.judge.columns import Columns, Entries
from lastgood.judge.trail import Trail, follow
from lastgood.record.fault import FAULTS, Fault
from lastgood.settings import Policy


def columns(traffic: Traffic) -> Columns:
    """All runs side by side: a run is a comparison of its own."""
    windows, runs, strata, _ = traffic.n.shape
    shape = (windows, runs * strata, 2)
    t, g, arm, bucket = np.nonzero(traffic.hist.reshape(*shape, -1))
    weight = traffic.hist.reshape(*shape, -1)[t, g, arm, bucket].astype(float)
    failed = traffic.failed.reshape(shape)
    faults = np.zeros((*shape, len(FAULTS)))
    faults[..., FAULTS.index(Fault.MODEL)] = failed
    series = np.repeat(np.arange(runs), strata)
    width = 60 * traffic.minutes_each
    return Columns(
        np.arange(windows) * width, width, tuple(f"model/{k}" for k in range(strata)) * runs, series, np.arange(shape[1]),
        np.ones(shape[1], bool), traffic.n.reshape(shape), faults, np.zeros(shape), np.zeros(shape),
        np.zeros((windows, runs, 2, 2)), {"latency": Entries(t, g, arm, bucket + LOW, weight)},
    )  # fmt: skip


def decided(trail: Trail, policy: Policy) -> Floats:
    """Minutes until a rollback [runs], inf for never: evidence at the threshold and the guards that counts can tell."""
    over = (trail.e >= policy.rollback_e / budget.of_try(1)) & (trail.windows >= policy.min_windows)
    errors = max((one.share * one.e for one in trail.streams if one.metric == "errors"), key=lambda e: e.sum())
    slow = np.maximum.reduce([one.share * one.e for one in trail.streams if one.metric == "latency"])
    over &= (trail.bad >= policy.min_bad) | (slow > errors)
    return np.where(over.any(0), (over.argmax(0) + 1) * trail.cols.width / 60, np.inf)


def judge(traffic: Traffic, policy: Policy, chunk: int = 250) -> Floats:
    """Minutes until a rollback [runs]."""
    runs = traffic.n.shape[1]
    parts = [
        Traffic(
            traffic.n[:, i : i + chunk],
            traffic.failed[:, i : i + chunk],
            traffic.hist[:, i : i + chunk],
            traffic.minutes_each,
        )
        for i in range(0, runs, chunk)
    ]
    return np.concatenate([decided(follow(columns(part), policy)[0], policy) for part in parts])
