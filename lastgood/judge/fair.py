"""Columns -> the columns that may be compared, and how much was left out and why (pure).

- Requests that reach a version to which the configuration gives no traffic count for nobody: probes, calls of its URL, a gateway's fallbacks.
- Windows in which the split of traffic changes count for nobody: whatever is slow just then is slow for one version more than the other.
- While a version warms up, and while replicas are added, speed counts for nobody, nor do failures of the platform and timeouts.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lastgood.judge.columns import Bools, Columns, Entries
from lastgood.judge.eprocess import Floats
from lastgood.judge.evidence import Evidence
from lastgood.record.fault import FAULTS, Fault
from lastgood.settings import Policy

MOVED_SD, MOVED_ODDS = 5.0, 2.0
"""Where nothing says when the split changed: a window whose split is so many standard errors, and so many times in odds, off the split of
the windows before it."""
LOOK_BACK = 10
EXCUSED = 0.5
COLD = (Fault.PLATFORM, Fault.TIMEOUT)


def comparable(cols: Columns, evidence: Evidence, policy: Policy) -> tuple[Columns, Mapping[str, Bools]]:
    """(columns without what is no comparison, which windows were left out [T], by reason). Comparisons of one version only."""
    if not len(cols.times):
        return cols, {}
    cols, strays = _without_strays(cols, evidence)
    served = cols.n.sum(1)
    moving = (_replanned(cols, evidence, policy) | _moved(served)) & (served.sum(1) > 0)
    cold = _warming(cols, evidence, policy) & (served[:, 1] > 0)
    left = {"the split changed": moving, "warming up": cold & ~moving, "one version is given no traffic": strays}
    return _without(cols, moving, cold | moving), left


def _counts(cols: Columns) -> dict[str, Any]:
    """Copies of what is counted by window, group and version."""
    known = {name: getattr(cols, name) for name in ("n", "faults", "answers", "bad", "prompts")}
    return {name: counts.copy() for name, counts in known.items() if counts is not None}


def _without_strays(cols: Columns, evidence: Evidence) -> tuple[Columns, Bools]:
    """(columns without the requests of a version while the configuration gives it no traffic, windows that had some [T])."""
    stray = np.zeros((len(cols.times), 2), bool)
    for plan in evidence.planned:
        if plan.share in (0.0, 1.0):
            stray[cols.within(plan.since, plan.until), 1 - int(plan.share)] = True
    gone = (stray & (cols.n.sum(1) > 0)).any(1)
    if not gone.any():
        return cols, gone
    at, arm = np.nonzero(stray)
    kept = _counts(cols)
    scores = {name: sums.copy() for name, sums in cols.scores.items()}
    for counts in (*kept.values(), *scores.values()):
        counts[at, :, arm] = 0.0
    histograms = {
        name: Entries(**{column: value[~stray[entry.t, entry.arm]] for column, value in vars(entry).items()})
        for name, entry in cols.histograms.items()
    }
    callers = cols.callers.take(~stray[cols.callers.t, cols.callers.arm])
    scored = {name: whose.take(~stray[whose.t, whose.arm]) for name, whose in cols.scored.items()}
    return replace(cols, **kept, scores=scores, histograms=histograms, callers=callers, scored=scored), gone


def _replanned(cols: Columns, evidence: Evidence, policy: Policy) -> Bools:
    """Windows near a change of the configuration."""
    out = np.zeros(len(cols.times), bool)
    stretches = sorted((plan for plan in evidence.planned if plan.since), key=lambda plan: plan.since or 0)
    for plan in stretches:
        began = plan.since.timestamp() if plan.since else 0.0
        if evidence.deployed is not None and began <= evidence.deployed.timestamp():
            continue  # before it there was no comparison
        before = max(
            (other.until.timestamp() for other in evidence.planned if other.until and other.until.timestamp() <= began),
            default=began,
        )
        out |= (cols.times < began + policy.settle_s) & (cols.times + cols.width > before)
    return out


def _moved(served: Floats) -> Bools:
    """Windows whose split is not that of the windows before them (see MOVED_SD)."""
    out = np.zeros(len(served), bool)
    held: list[tuple[float, float]] = []
    for t, (prior, new) in enumerate(served):
        n0, n1 = (sum(window[i] for window in held) for i in (0, 1))
        whole, here = n0 + n1, prior + new
        if whole >= 20 and here >= 20:
            share, now = (n1 + 0.5) / (whole + 1), (new + 0.5) / (here + 1)
            spread = (share * (1 - share) * (1 / whole + 1 / here)) ** 0.5
            odds = now / (1 - now) * (1 - share) / share
            if abs(now - share) > MOVED_SD * spread and max(odds, 1 / odds) > MOVED_ODDS:
                out[t], held = True, []
        held = [*held[1 - LOOK_BACK :], (prior, new)]
    return out


def _warming(cols: Columns, evidence: Evidence, policy: Policy) -> Bools:
    """Windows in which a version has not served so long, or so many requests, as the policy asks, or in which replicas were added."""
    out, ended = np.zeros(len(cols.times), bool), cols.times + cols.width
    served = np.cumsum(cols.n.sum(1), 0)
    for arm in (0, 1):
        begins = np.flatnonzero(served[:, arm] > 0)
        if not len(begins) or (arm == 0 and begins[0] == 0):
            continue  # the prior version was there before
        began = float(cols.times[begins[0]])
        if arm == 1 and evidence.deployed is not None:
            began = min(began, evidence.deployed.timestamp())
        if cols.times[0] >= began + policy.warmup_s:
            continue
        early = (
            (ended <= began + policy.warmup_s)
            | (served[:, arm] < policy.warmup_requests)
            | (cols.times < began + policy.warmup_s)
        )
        out |= early & (np.arange(len(out)) >= begins[0])
    return out | _scaling(cols, evidence, policy)


def _scaling(cols: Columns, evidence: Evidence, policy: Policy) -> Bools:
    """Windows in which replicas were added: at most EXCUSED of each hour, for a version that is too slow makes them be added all the time."""
    out = np.zeros(len(cols.times), bool)
    for at in sorted(moment.timestamp() for moment in evidence.scaled):
        if (out & (cols.times >= at - 3600)).sum() * cols.width < EXCUSED * 3600:
            out |= (cols.times + cols.width > at) & (cols.times < at + policy.warmup_s)
    return out


def _without(cols: Columns, moving: Bools, cold: Bools) -> Columns:
    if not cold.any():
        return cols
    kept = _counts(cols)
    for counts in kept.values():
        counts[moving] = 0.0
    for kind in COLD:
        kept["faults"][cold, ..., FAULTS.index(kind)] = 0.0

    def later(entry: Entries, gone: Bools) -> Entries:
        return Entries(**{name: value[~gone[entry.t]] for name, value in vars(entry).items()})

    speed = {name: later(entry, cold if name != "length" else moving) for name, entry in cols.histograms.items()}
    callers = cols.callers.take(~moving[cols.callers.t])
    faults = callers.faults.copy()
    late = cold[callers.t]
    for kind in COLD:
        faults[late, FAULTS.index(kind)] = 0
    speeds = {name: np.where(late, 0, getattr(callers, name)) for name in ("timed", "latency_sum", "latency_squares")}
    edges = moving | np.concatenate([[False], moving[:-1]])
    breaks = edges if cols.breaks is None else edges | cols.breaks
    return replace(
        cols, **kept, histograms=speed, callers=replace(callers, faults=faults, **speeds), breaks=breaks
    )  # fmt: skip
