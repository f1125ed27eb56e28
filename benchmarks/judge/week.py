"""A healthy week looked at every minute."""

import math

import numpy as np

from benchmarks.judge.ours import decided
from benchmarks.judge.traffic import ERRORS, SIGMA, noise
from lastgood.judge import budget
from lastgood.judge.columns import Columns, Entries
from lastgood.judge.trail import follow
from lastgood.record.fault import FAULTS, Fault
from lastgood.record.windows import GROWTH
from lastgood.settings import Policy

MINUTES, PER_MINUTE = 7 * 1440, 60.0


def measure(runs: int, policy: Policy, chunk: int = 10) -> dict[str, float]:
    """Shares of runs with a rollback, and with a page. Day and night, shared noise, splits of 50% and 10% in turns."""
    hits, pages, limit = 0, 0, policy.page_e / budget.of_try(1)
    for i in range(0, runs, chunk):
        trail = follow(_columns(chunk, np.random.default_rng(i)), policy)[0]
        hits += int(np.isfinite(decided(trail, policy)).sum())
        pages += int((trail.e >= limit).any(0).sum())
    return {"runs": runs, "hits": hits, "frr": hits / runs, "paged": pages / runs}


def _columns(runs: int, rng: np.random.Generator) -> Columns:
    shape = (MINUTES, runs, 2)
    day = np.sin(np.arange(MINUTES) / 1440 * 2 * np.pi)[:, None, None]
    split = np.where(np.arange(runs) % 2, 0.1, 0.5)
    n = rng.poisson(PER_MINUTE * (1 + 0.8 * day) * np.stack([1 - split, split], -1)[None])
    errors = np.exp(noise(rng, shape[:2], 0.3, 0.95)[..., None] + 0.5 * day) * ERRORS
    failed = rng.binomial(n, np.minimum(0.9, errors)).astype(float)
    cell = np.repeat(np.arange(n.size), n.ravel())
    t, g, arm = np.unravel_index(cell, shape)
    slow = noise(rng, shape[:2], 0.1, 0.95)[t, g] + rng.normal(0, SIGMA, len(cell))
    bucket = np.floor(slow / math.log(GROWTH)).astype(np.int64)
    faults = np.zeros((*shape, len(FAULTS)))
    faults[..., FAULTS.index(Fault.MODEL)] = failed
    zero = np.zeros(shape)
    return Columns(
        np.arange(MINUTES) * 60.0, 60.0, ("model/64",) * runs, np.arange(runs), np.arange(runs), np.ones(runs, bool), n.astype(float),
        faults, zero, zero, np.zeros((MINUTES, runs, 2, 2)),
        {"latency": Entries(t, g, arm, bucket, np.ones(len(cell)))},
    )  # fmt: skip
