"""Columns -> trail: the evidence after every window, for one comparison or many side by side (pure)."""

from dataclasses import dataclass

import numpy as np

from lastgood.judge import eprocess
from lastgood.judge.columns import Bools, Columns, Ints, tally
from lastgood.judge.eprocess import Floats
from lastgood.judge.streams import Blocks, Carry, Stream, nothing, streams, total
from lastgood.record.fault import FAULTS
from lastgood.settings import Policy

KNOWN = 0.2
"""Share of requests whose requester must be known before anything is said of requesters."""
DECIDED, MIXED = 20.0, 0.5
"""Routing is judged after as many expected changes of version as this; with fewer than MIXED of them seen it is not request by request."""


@dataclass(frozen=True)
class Trail:
    """After window t of comparison s: e and change [T, S]; slo [T, S, 2] evidence that an arm breaks its error objective, slo_logs what
    each window added to it; known, pinned [T, S]: requesters are known; they do not change versions as the split would have them;
    windows, bad [T, S] of the new version."""

    cols: Columns
    e: Floats
    change: Floats
    streams: list[Stream]
    blocks: dict[str, Blocks]
    slo: Floats
    slo_onset: Floats
    slo_logs: Floats
    known: Bools
    pinned: Bools
    windows: Ints
    bad: Floats


def counted_failures(cols: Columns, policy: Policy) -> Floats:
    """Failed requests of the classes that may roll back [T, G, 2]."""
    return np.asarray(cols.faults[..., [FAULTS.index(kind) for kind in policy.rollback_faults]].sum(-1))


def follow(cols: Columns, policy: Policy, carry: Carry | None = None) -> tuple[Trail, Carry]:
    """Fold windows into the evidence, from nothing or from what an earlier call handed on."""
    carry = carry or nothing()
    made, blocks = streams(cols, policy, carry)
    e, change = (total([stream for stream in made if stream.harm is harm], cols) for harm in (True, False))
    served, failed = cols.per_series(cols.n), counted_failures(cols, policy)
    bad = np.cumsum(cols.per_series(failed)[..., 1], 0)
    known, pinned = _routing(cols, served)
    slo = _objective(cols, failed, policy, carry)
    return Trail(cols, e, change, made, blocks, *slo, known, pinned, np.cumsum(served[..., 1] > 0, 0), bad), carry


def _routing(cols: Columns, served: Floats) -> tuple[Bools, Bools]:
    """(requesters known, pinned to a version) [T, S] so far: their successive windows change version far less often than requests that
    are drawn one by one."""
    callers, shape = cols.callers, served.shape[:2]
    if not len(callers.t):
        return np.zeros(shape, bool), np.zeros(shape, bool)
    series, so_far = cols.series[callers.g], np.cumsum(served, 0)
    cell = callers.t * cols.many + series
    named = np.cumsum(tally(cell, callers.n, served[..., 0].size).reshape(shape), 0)
    known = named >= KNOWN * so_far.sum(-1)
    order = np.lexsort((callers.arm, callers.t, callers.who, series))
    t, arm, who, of = callers.t[order], callers.arm[order], callers.who[order], series[order]
    other = np.ones(len(t), bool)
    other[1:] = (t[1:] != t[:-1]) | (arm[1:] != arm[:-1]) | (who[1:] != who[:-1]) | (of[1:] != of[:-1])
    t, arm, who, of = t[other], arm[other], who[other], of[other]
    again = np.flatnonzero((who[1:] == who[:-1]) & (of[1:] == of[:-1])) + 1
    share = so_far[..., 1] / np.maximum(so_far.sum(-1), 1)
    cell = t[again] * cols.many + of[again]
    seen = tally(cell[arm[again] != arm[again - 1]], None, share.size).reshape(shape)
    expected = tally(cell, None, share.size).reshape(shape) * 2 * share * (1 - share)
    seen, expected = np.cumsum(seen, 0), np.cumsum(expected, 0)
    return known, known & (expected >= DECIDED) & (seen < MIXED * expected)


def _objective(cols: Columns, failed: Floats, policy: Policy, carry: Carry) -> tuple[Floats, Floats, Floats]:
    """(evidence that a version breaks the error objective, since which minute [T, S, 2], what each window added [T, S, 2, K])."""
    minutes = (cols.times + cols.width - (carry.zero or 0.0)) / 60
    logs = cols.per_series(eprocess.log_e_above(cols.n, np.minimum(failed, cols.n), policy.error_slo))
    state = carry.states.get("slo") or eprocess.start(cols.many, 2, len(eprocess.BURN))
    even = np.full(len(eprocess.BURN), 1 / len(eprocess.BURN))
    carry.states["slo"], e, onset = eprocess.advance(state, logs, minutes, even)
    return e, onset, logs
