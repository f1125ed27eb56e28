"""Requesters and their bad events -> draws from cohorts of requesters who came together, whose labels are as if shuffled (pure)."""

import numpy as np
import numpy.typing as npt

from lastgood.judge.columns import Ints, Requesters
from lastgood.judge.eprocess import Floats

COHORT, COHORT_S, NEVER = 60, 300.0, 2**40
"""A cohort is closed when it has so many requesters, or after so many seconds."""


def first_bad(requesters: Requesters, bad: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Entries by window -> (the entries that are their requester's first bad one, per requester the window of it or NEVER).

    Of several bad entries in that window one counts, chosen without regard to the version.
    """
    hit = np.flatnonzero(bad)
    who, t = requesters.who[hit], requesters.t[hit]
    until = np.full(int(requesters.who.max(initial=0)) + 1, NEVER)
    until[who[::-1]] = t[::-1]  # the last one assigned stays: the first in time
    hit = hit[t == until[who]]
    hit = hit[np.lexsort((requesters.arm[hit] ^ (requesters.who[hit] & 1), requesters.g[hit], requesters.who[hit]))]
    chosen = hit[np.concatenate([[True], requesters.who[hit][1:] != requesters.who[hit][:-1]])] if len(hit) else hit
    return chosen, until


def newcomers(requesters: Requesters) -> Ints:
    """Entries by window -> each requester's first one; of several in that window, one chosen without regard to the version."""
    return first_bad(requesters, np.ones(len(requesters.t), bool))[0]


def cohorts(requesters: Requesters, width: float) -> tuple[Ints, Ints, Ints]:
    """(cohort, closing window) per requester, and each one's first entry. Requesters who came to a group one after another are a
    cohort until it has COHORT of them, or until the end of a span of COHORT_S; it is closed when that is known."""
    first, span = newcomers(requesters), max(1, round(COHORT_S / width))
    first = first[np.lexsort((requesters.t[first], requesters.g[first]))]
    g, t = requesters.g[first], requesters.t[first]
    count = np.arange(len(g)) - np.searchsorted(g, g)
    same = np.concatenate([[False], (g[1:] == g[:-1]) & (t[1:] == t[:-1])]) if len(g) else np.zeros(0, bool)
    before = count[np.maximum.accumulate(np.where(same, 0, np.arange(len(g))))]  # of its group, in earlier windows
    rows = np.stack([g, before // COHORT, t // span])
    new = np.concatenate([[True], (rows[:, 1:] != rows[:, :-1]).any(0)]) if len(g) else same
    which = np.cumsum(new) - 1
    ends = np.flatnonzero(np.concatenate([new[1:], [True]])) if len(g) else np.zeros(0, np.int64)
    full = count[ends] + 1 >= (before[ends] // COHORT + 1) * COHORT
    closed = np.where(full, t[ends], (t[ends] // span + 1) * span - 1)
    cohort = np.zeros(int(requesters.who.max(initial=0)) + 1, np.int64)
    closing = cohort.copy()
    cohort[requesters.who[first]], closing[requesters.who[first]] = which, closed[which]
    return cohort, closing, first


def draws(
    requesters: Requesters, bad: tuple[Ints, Ints], moved: npt.NDArray[np.bool_], sets: tuple[Ints, Ints, Ints]
) -> tuple[Ints, Ints, Floats]:
    """First bad events drawn from cohorts, one by one: (window, entry, share of new among the cohort's requesters that had none
    before). found: entries by window; bad: see first_bad; moved: see changed; sets: see cohorts.

    A cohort's labels are as if shuffled, and each event shows one of them: drawing without replacement, whoever is busy, comes
    seldom or stays away. Events before the cohort is closed count when it is; those of one window in an order blind to versions.
    """
    (chosen, until), (cohort, closing, first) = bad, sets
    span = int(max(requesters.t.max(initial=0), closing.max(initial=0))) + 3
    arrived = np.zeros(len(until), np.int64)
    arrived[requesters.who[first]] = requesters.t[first]
    move = np.flatnonzero(moved)
    who, when = requesters.who[move], requesters.t[move]
    move = move[(when <= until[who]) & (when > arrived[who])]

    def place(entry: Ints, later: int = 0) -> Ints:
        who = requesters.who[entry]
        return np.asarray(cohort[who] * span + np.maximum(requesters.t[entry], closing[who]) + later)

    parts = [
        (place(first), requesters.arm[first], 1), (place(move), requesters.arm[move], 1), (place(move), 1 - requesters.arm[move], -1),
        (place(chosen, 1), requesters.arm[chosen], -1),
    ]  # fmt: skip
    key = np.concatenate([at for at, _, _ in parts])
    change = np.concatenate([np.stack([(arm == 0) * by, (arm == 1) * by], 1) for _, arm, by in parts])
    order = np.argsort(key, kind="stable")
    so_far = np.concatenate([np.zeros((1, 2)), np.cumsum(change[order], 0)])
    chosen = chosen[np.lexsort((requesters.who[chosen], place(chosen)))]
    at, key = place(chosen), key[order]
    left = so_far[np.searchsorted(key, at, "right")] - so_far[np.searchsorted(key, at // span * span)]
    nth, group = np.arange(len(at)), np.searchsorted(at, at)
    drawn = np.concatenate([[0], np.cumsum(requesters.arm[chosen])])
    left_new = left[:, 1] - (drawn[nth] - drawn[group])
    return at % span, chosen, left_new / np.maximum(left.sum(1) - (nth - group), 1)


def sorting(*keys: Ints) -> Ints:
    """np.lexsort, by counting where numbers are small (a radix sort is ten times as fast)."""
    order = np.arange(len(keys[0]))
    for key in keys:
        small = key.astype(np.uint16) if key.max(initial=0) < 2**16 else key
        order = order[np.argsort(small[order], kind="stable")]
    return order


def changed(requesters: Requesters) -> npt.NDArray[np.bool_]:
    """Entries by window -> which have another version than their requester's entry before."""
    order = sorting(requesters.who)
    who, arm = requesters.who[order], requesters.arm[order]
    out = np.zeros(len(who), bool)
    out[order[1:]] = (who[1:] == who[:-1]) & (arm[1:] != arm[:-1])
    return out
