"""Columns without one requester: evidence must stand without whoever carries most of it (pure)."""

from dataclasses import replace

import numpy as np

from lastgood.judge.columns import Callers, Columns, Entries, Ints, tally
from lastgood.judge.eprocess import Floats
from lastgood.record.fault import FAULTS, Fault
from lastgood.settings import Policy

ITSELF = 0.8
"""A requester with so much of all requests, whom both versions serve, is a fair comparison by itself: there are no others to stand on."""


def heaviest(cols: Columns, t: int, policy: Policy) -> dict[str, set[int]]:
    """metric -> requesters without whom its evidence after window t must stand: who has most failures of the new version beyond its share,
    most of its slowness, and whose requests went to one version most one-sidedly. One comparison only."""
    callers = cols.callers.take(cols.callers.t <= t)
    if not len(callers.t):
        return {}
    size = int(callers.who.max()) + 1
    new, prior = (tally(callers.who[callers.arm == arm], callers.n[callers.arm == arm], size) for arm in (1, 0))
    share = new.sum() / max(new.sum() + prior.sum(), 1.0)
    counted = [FAULTS.index(kind) for kind in policy.rollback_faults]
    alone = _by_itself(new, prior, share)

    def most(score: Floats) -> set[int]:
        who = int(np.argmax(score))
        return {who} if score[who] > 0 and who not in alone else set()

    def bad(kinds: list[int]) -> Floats:
        failed = callers.faults[:, kinds].sum(1)
        return np.asarray(tally(callers.who, failed * np.where(callers.arm == 1, 1 - share, -share), size))

    middle = callers.latency_sum.sum() / max(callers.timed.sum(), 1)
    excess = (callers.latency_sum - middle * callers.timed) * np.where(callers.arm == 1, 1 - share, -share)
    uneven = most(np.abs(new * (1 - share) - prior * share))
    slow = most(np.asarray(tally(callers.who, excess, size))) | uneven
    return {
        "errors": most(bad(counted)) | uneven, "client": most(bad([FAULTS.index(Fault.CLIENT)])) | uneven, "latency": slow, "ttft": slow,
    }  # fmt: skip


def _by_itself(new: Floats, prior: Floats, share: float) -> set[int]:
    """The requester with nearly all requests, where both versions serve it about as the split says."""
    who = int(np.argmax(new + prior))
    of = new[who] + prior[who]
    own = (new[who] + 0.5) / (of + 1)
    odds = own / (1 - own) * (1 - share + 1e-9) / (share + 1e-9)
    return {who} if of >= ITSELF * (new.sum() + prior.sum()) and 0.5 < odds < 2 else set()


def without(cols: Columns, who: int) -> Columns:
    """The columns as if the requester had sent nothing. Of a histogram as many requests are taken as it had in the cell: nearest to its mean
    latency; of a time to the first token, of which it has no mean, the slowest."""
    mine = cols.callers.take(cols.callers.who == who)
    n, faults = cols.n.copy(), cols.faults.copy()
    np.subtract.at(n, (mine.t, mine.g, mine.arm), mine.n)
    np.subtract.at(faults, (mine.t, mine.g, mine.arm), mine.faults)
    histograms = dict(cols.histograms)
    for name in ("latency", "ttft"):
        if name in histograms:
            histograms[name] = _taken(histograms[name], mine, name == "latency")
    return replace(
        cols, n=np.maximum(n, 0.0), faults=np.maximum(faults, 0.0), histograms=histograms, callers=cols.callers.take(cols.callers.who != who)
    )  # fmt: skip


def _taken(entries: Entries, mine: Callers, near: bool) -> Entries:
    """Entries without as many as the requester had in each cell: those nearest to its mean, or the slowest."""
    keys, theirs = (_key(o.t, o.g, o.arm) for o in (entries, mine))
    order = np.argsort(theirs, kind="stable")
    theirs, timed, total = theirs[order], mine.timed[order], mine.latency_sum[order]
    at = np.minimum(np.searchsorted(theirs, keys), max(len(theirs) - 1, 0))
    here = np.flatnonzero(theirs[at] == keys) if len(theirs) else np.zeros(0, np.int64)
    if not len(here):
        return entries
    wanted, mean = timed[at[here]].astype(float), total[at[here]] / np.maximum(timed[at[here]], 1)
    rank = np.abs(entries.bucket[here] - mean) if near else -entries.bucket[here]
    by = np.lexsort((rank, keys[here]))
    here, wanted, key = here[by], wanted[by], keys[here][by]
    run = np.cumsum(entries.weight[here])
    begins = np.concatenate([[True], key[1:] != key[:-1]])
    before = run - entries.weight[here]
    before = before - np.maximum.accumulate(np.where(begins, before, 0.0))
    weight = entries.weight.copy()
    weight[here] -= np.clip(wanted - before, 0.0, entries.weight[here])
    kept = weight > 1e-9
    return Entries(entries.t[kept], entries.g[kept], entries.arm[kept], entries.bucket[kept], weight[kept])


def _key(t: Ints, g: Ints, arm: Ints) -> Ints:
    return np.asarray((t * 100_000 + g) * 2 + arm)
