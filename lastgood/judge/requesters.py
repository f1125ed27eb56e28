"""Who was served -> evidence that holds when a requester always meets the same version (pure).

Where routing is sticky a requester's requests share one label, so requests are not independent evidence. The unit is then a
requester's *first* bad event: its label was drawn once, by the split, whatever the requester does afterwards (retry storms).
"""

import math
from bisect import insort
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import rank_filter

from lastgood.config import Policy
from lastgood.judge import eprocess
from lastgood.judge.columns import Columns, Ints, Requesters, tally
from lastgood.judge.eprocess import Floats
from lastgood.judge.streams import Blocks, Stream, quantile_shares, shift_buckets
from lastgood.windows import ZERO

EPOCH_S = 1800.0
FROM_START = 0.95
WHOLE = 0.8
"""Share of a stream's budget on the whole time; the rest is spread over epochs of two EPOCH_S, one begun each EPOCH_S, in
which every requester counts anew: a late regression is seen although everybody has had a bad moment before."""
COHORT, COHORT_S, NEVER = 60, 300.0, 2**40
"""A cohort is closed when it has so many requesters, or after so many seconds."""
QUANTILE_PART, QUANTILE_SHARES = 0.8, (0.35, 0.35, 0.2, 0.1)
LEVEL_PART, RISES = 0.05, {0.9: 0.1, 0.98: 0.05}
"""How a latency budget is split: slow requests, slow requesters, requesters that got slower than they were."""
SLOWER_WEIGHTS = np.array([0.08, 0.27, 0.33, 0.22, 0.08, 0.02])
"""Of the omegas, for slow requests: whoever is slow by habit was so before, so ratios of *first* slow requests are small."""
SCORED, FEW, LAST = 8, 20, 200
"""Requests per score of a requester; scores before one can count; scores that one is compared with."""
DECIDED, MIXED = 20.0, 0.8
"""Routing counts as request by request after as many expected changes of version as this, at this share of them seen."""


def mixing(cols: Columns, pi: Floats) -> tuple[Floats, Floats]:
    """(changes of version seen, expected) so far [T, S], between a requester's successive entries; expected under routing of every
    request on its own with share pi [T, S] of new."""
    found = cols.requesters
    keep = found.n > 0
    t, arm, who, series = found.t[keep], found.arm[keep], found.who[keep], cols.series[found.g[keep]]
    t, arm, who, series = _distinct(t, arm, who, series)
    again = (who[1:] == who[:-1]) & (series[1:] == series[:-1])
    cell = t[1:] * cols.many + series[1:]
    share = pi[t[1:], series[1:]]
    size = len(cols.times) * cols.many
    seen = tally(cell, again & (arm[1:] != arm[:-1]), size).reshape(-1, cols.many)
    hoped = tally(cell, again * 2 * share * (1 - share), size).reshape(-1, cols.many)
    return np.cumsum(seen, 0), np.cumsum(hoped, 0)


def _distinct(t: Ints, arm: Ints, who: Ints, series: Ints) -> tuple[Ints, ...]:
    """By comparison, requester, window and version, each once: a window's strata are not visits of their own."""
    rows = np.stack([series, who, t, arm])[:, np.lexsort((arm, t, who, series))]
    rows = rows[:, np.concatenate([[True], (rows[:, 1:] != rows[:, :-1]).any(0)])] if rows.shape[1] else rows
    return rows[2], rows[3], rows[1], rows[0]


def first_bad(found: Requesters, bad: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Entries by window -> (the entries that are their requester's first bad one, per requester the window of it or NEVER).

    Of several bad entries in that window one counts, chosen without regard to the version.
    """
    hit = np.flatnonzero(bad)
    until = np.full(int(found.who.max(initial=0)) + 1, NEVER)
    until[found.who[hit[::-1]]] = found.t[hit[::-1]]  # the last one assigned stays: the first in time
    hit = hit[found.t[hit] == until[found.who[hit]]]
    hit = hit[np.lexsort((found.arm[hit] ^ (found.who[hit] & 1), found.g[hit], found.who[hit]))]
    chosen = hit[np.concatenate([[True], found.who[hit][1:] != found.who[hit][:-1]])] if len(hit) else hit
    return chosen, until


def newcomers(found: Requesters) -> Ints:
    """Entries by window -> each requester's first one; of several in that window, one chosen without regard to the version."""
    return first_bad(found, np.ones(len(found.t), bool))[0]


def cohorts(found: Requesters, width: float) -> tuple[Ints, Ints, Ints]:
    """(cohort, closing window) per requester, and each one's first entry. Requesters who came to a group one after another are a
    cohort until it has COHORT of them, or until the end of a span of COHORT_S; it is closed when that is known."""
    first, span = newcomers(found), max(1, round(COHORT_S / width))
    first = first[np.lexsort((found.t[first], found.g[first]))]
    g, t = found.g[first], found.t[first]
    count = np.arange(len(g)) - np.searchsorted(g, g)
    same = np.concatenate([[False], (g[1:] == g[:-1]) & (t[1:] == t[:-1])]) if len(g) else np.zeros(0, bool)
    before = count[np.maximum.accumulate(np.where(same, 0, np.arange(len(g))))]  # of its group, in earlier windows
    rows = np.stack([g, before // COHORT, t // span])
    new = np.concatenate([[True], (rows[:, 1:] != rows[:, :-1]).any(0)]) if len(g) else same
    which = np.cumsum(new) - 1
    ends = np.flatnonzero(np.concatenate([new[1:], [True]])) if len(g) else np.zeros(0, np.int64)
    full = count[ends] + 1 >= (before[ends] // COHORT + 1) * COHORT
    closed = np.where(full, t[ends], (t[ends] // span + 1) * span - 1)
    cohort = np.zeros(int(found.who.max(initial=0)) + 1, np.int64)
    closing = cohort.copy()
    cohort[found.who[first]], closing[found.who[first]] = which, closed[which]
    return cohort, closing, first


def draws(
    found: Requesters, bad: tuple[Ints, Ints], moved: npt.NDArray[np.bool_], sets: tuple[Ints, Ints, Ints]
) -> tuple[Ints, Ints, Floats]:
    """First bad events drawn from cohorts, one by one: (window, whether the requester met the new version, share of new among the
    cohort's requesters that had none before). found: entries by window; bad: see first_bad; moved: see changed; sets: see cohorts.

    A cohort's labels are as if shuffled, and each event shows one of them: drawing without replacement, whoever is busy, comes
    seldom or stays away. Events before the cohort is closed count when it is; those of one window in an order blind to versions.
    """
    (chosen, until), (cohort, closing, first) = bad, sets
    span = int(max(found.t.max(initial=0), closing.max(initial=0))) + 3
    came = np.zeros(len(until), np.int64)
    came[found.who[first]] = found.t[first]
    move = np.flatnonzero(moved & (found.t <= until[found.who]) & (found.t > came[found.who]))

    def place(entry: Ints, later: int = 0) -> Ints:
        who = found.who[entry]
        return np.asarray(cohort[who] * span + np.maximum(found.t[entry], closing[who]) + later)

    parts = [
        (place(first), found.arm[first], 1), (place(move), found.arm[move], 1), (place(move), 1 - found.arm[move], -1),
        (place(chosen, 1), found.arm[chosen], -1),
    ]  # fmt: skip
    key = np.concatenate([at for at, _, _ in parts])
    change = np.concatenate([np.stack([(arm == 0) * by, (arm == 1) * by], 1) for _, arm, by in parts])
    order = np.argsort(key, kind="stable")
    so_far = np.concatenate([np.zeros((1, 2)), np.cumsum(change[order], 0)])
    chosen = chosen[np.lexsort((found.who[chosen], place(chosen)))]
    at, new, key = place(chosen), found.arm[chosen], key[order]
    left = so_far[np.searchsorted(key, at, "right")] - so_far[np.searchsorted(key, at // span * span)]
    nth, group = np.arange(len(at)), np.searchsorted(at, at)
    drawn = np.concatenate([[0], np.cumsum(new)])
    left_new = left[:, 1] - (drawn[nth] - drawn[group])
    return at % span, new, left_new / np.maximum(left.sum(1) - (nth - group), 1)


def changed(found: Requesters) -> npt.NDArray[np.bool_]:
    """Entries by window -> which have another version than their requester's entry before."""
    order = np.argsort(found.who, kind="stable")
    who, arm = found.who[order], found.arm[order]
    out = np.zeros(len(who), bool)
    out[order[1:]] = (who[1:] == who[:-1]) & (arm[1:] != arm[:-1])
    return out


def scores(found: Requesters, metric: str, shift: int) -> tuple[Requesters, Floats, Floats]:
    """One entry per requester and SCORED requests of its: (entries, level, rise). Level: their mean bucket; rise: against all its
    earlier ones, a change and not a habit (NaN before twice SCORED). The new version's are lowered by `shift`."""
    known, total = (found.timed, found.latency_sum) if metric == "latency" else (found.paced, found.pace_sum)
    order = np.lexsort((found.t, found.who))
    who, known, total = found.who[order], known[order], total[order]
    first = np.searchsorted(who, who)
    n, s = np.cumsum(known), np.cumsum(total)
    n, s = n - (n[first] - known[first]), s - (s[first] - total[first])
    full = np.flatnonzero(n // SCORED > (n - known) // SCORED)
    same = np.concatenate([[False], who[full][1:] == who[full][:-1]]) if len(full) else np.zeros(0, bool)
    n, s = n[full].astype(float), s[full].astype(float)
    was_n, was_s = (np.where(same, np.concatenate([[0.0], v])[: len(v)], 0.0) for v in (n, s))
    level = (s - was_s) / (n - was_n) - shift * found.arm[order][full]
    rise = np.where(was_n >= 2 * SCORED, level - was_s / np.maximum(was_n, 1), np.nan)
    place = np.lexsort((who[full], found.t[order][full]))
    kept = found.take(order[full][place])
    return replace(kept, g=np.zeros_like(kept.g)), level[place], rise[place]


def above(score: Floats, q: float) -> npt.NDArray[np.bool_]:
    """Whether each score is above the q-quantile of the ones before it (the last LAST, at least FEW)."""
    out = np.zeros(len(score), bool)
    ranked: list[float] = []
    for i, one in enumerate(score[:LAST].tolist()):
        out[i] = i >= FEW and one > ranked[math.ceil(q * i) - 1]
        insort(ranked, one)
    if len(score) > LAST:
        before = rank_filter(score, math.ceil(q * LAST) - 1, size=LAST, mode="nearest")  # of LAST around each
        out[LAST:] = score[LAST:] > before[LAST // 2 : LAST // 2 + len(score) - LAST]
    return out


@dataclass(frozen=True)
class _Test:
    """One stream by requester: entries by window, and which of them are bad."""

    name: str
    metric: str
    share: float
    r0: float
    found: Requesters
    bad: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.bool_]


def _tests(cols: Columns, policy: Policy, blocks: dict[str, Blocks]) -> list[_Test]:
    found, moved = cols.requesters, changed(cols.requesters)
    begin = found.take(found.t == found.t.min()) if len(found.t) else found
    there = {"errors": True, "latency": bool(begin.timed.any()), "pace": bool(begin.paced.any())}
    usable = {name: policy.weights.get(name, 0.0) * has for name, has in there.items()}
    usable = {name: weight / (sum(usable.values()) or 1.0) for name, weight in usable.items()}
    made = [_Test("errors", "errors", usable["errors"], policy.error_tolerance, found, found.failed > 0, moved)]
    shift = shift_buckets(policy.latency_tolerance)
    for metric, worst in (("latency", found.slow), ("pace", found.pace)):
        weight, limits = usable[metric], blocks[metric].thresholds
        if limits is None or not there[metric]:
            continue
        for k, (name, share) in enumerate(quantile_shares(metric, weight * QUANTILE_PART, QUANTILE_SHARES).items()):
            bad = (worst != ZERO) & (worst - shift * found.arm > limits[found.t, found.g, k])
            made.append(_Test(name, metric, share, 1.0, found, bad, moved))
        scored, level, rise = scores(found, metric, shift)
        once = np.unique(scored.who, return_index=True)[1]
        once.sort()
        first, later = scored.take(once), np.flatnonzero(~np.isnan(rise))
        over = above(level[once], 0.5)
        made.append(_Test(f"{metric} level", metric, weight * LEVEL_PART, 1.0, first, over, changed(first)))
        risen = scored.take(later)
        for q, part in RISES.items():
            over = above(rise[later], q)
            made.append(_Test(f"{metric} rise {q}", metric, weight * part, 1.0, risen, over, changed(risen)))
    return made


def _run(tests: list[_Test], cols: Columns, eta: float, a: int, z: int) -> tuple[Floats, Floats, Floats]:
    """The tests over windows a..z, every requester counting from window a on: M and onset [z - a, tests], and (visits of requesters
    at risk, first bad events) so far [z - a, tests, 2 arms, 2]."""
    logs = np.zeros((z - a, len(tests), len(eprocess.WORSE)))
    counts = np.zeros((z - a, len(tests), 2, 2))
    sets: dict[int, tuple[Ints, Ints, Ints]] = {}
    for k, one in enumerate(tests):
        i, j = (int(v) for v in np.searchsorted(one.found.t, [a, z]))
        here, same = one.found.between(i, j, a), id(one.found)  # most tests look at the same requesters
        sets[same] = sets[same] if same in sets else cohorts(here, cols.width)
        chosen, until = first_bad(here, one.bad[i:j])
        t, new, pi = draws(here, (chosen, until), one.moved[i:j], sets[same])
        use = (pi > 0) & (pi < 1) & (t < z - a)
        logs[:, k] = eta * _at(
            t[use], eprocess.log_e(pi[use], new[use].astype(float), np.ones(int(use.sum())), one.r0), z - a
        )
        at_risk = here.t <= until[here.who]
        for what, entry in enumerate((at_risk, chosen)):
            counts[:, k, :, what] = tally(here.t[entry] * 2 + here.arm[entry], None, 2 * (z - a)).reshape(-1, 2)
    minutes = (cols.times[a:z] + cols.width - cols.times[a]) / 60
    parts = []
    for these, weights in ((logs[:, :1], eprocess.WORSE_WEIGHTS), (logs[:, 1:], SLOWER_WEIGHTS)):
        parts.append(eprocess.advance(eprocess.start(*these.shape[1:]), these, minutes, weights, FROM_START)[1:])
    e, onset = (np.concatenate(both, 1) for both in zip(*parts, strict=True))
    return e, onset + (cols.times[a] - cols.times[0]) / 60, np.cumsum(counts, 0)


def _at(t: Ints, values: Floats, length: int) -> Floats:
    """Sum of rows [., K] by window [length, K]."""
    out = np.zeros((length, values.shape[-1]))
    np.add.at(out, t, values)
    return out


def by_requester(
    cols: Columns, policy: Policy, blocks: dict[str, Blocks], wanted: npt.NDArray[np.bool_]
) -> list[Stream]:
    """Streams of one comparison: over the whole time, and anew for every epoch, where they are `wanted` [T] (0 elsewhere).

    An epoch's evidence stands in its stream where it is the larger, so `share x e` is the largest of the parts.
    """
    last, length = int(np.flatnonzero(wanted)[-1]) + 1 if wanted.any() else 0, len(cols.times)
    if not last:
        return []
    known = cols.requesters.take((cols.requesters.n > 0) & (cols.requesters.t < last))
    cols = replace(cols, requesters=known.take(np.argsort(known.t, kind="stable")))
    tests = _tests(cols, policy, blocks)
    e, onset, seen = _run(tests, cols, policy.tempering, 0, last)
    e *= WHOLE
    for j, begin in enumerate(np.arange(cols.times[0] + EPOCH_S, cols.times[last - 1], EPOCH_S)):
        a, z = (min(last, int(i)) for i in np.searchsorted(cols.times, [begin, begin + 2 * EPOCH_S]))
        if z <= a or not wanted[a:z].any():
            continue
        late, since, _ = _run(tests, cols, policy.tempering, a, z)
        late *= (1 - WHOLE) / ((j + 1) * (j + 2))
        onset[a:z] = np.where(late > e[a:z], since, onset[a:z])
        e[a:z] = np.maximum(e[a:z], late)
    rest = ((0, length - last), (0, 0))
    e, onset, seen = np.pad(e, rest), np.pad(onset, rest), np.pad(seen, (*rest, (0, 0), (0, 0)), mode="edge")
    return [
        Stream(one.name, one.metric, one.share, e[:, [k]], onset[:, [k]], seen[:, [k], 1], seen[:, [k], 0])
        for k, one in enumerate(tests)
    ]


def largest(streams: list[Stream], shape: tuple[int, int]) -> Floats:
    """E [T, S] counting by requester: the largest share x M."""
    e = np.zeros(shape)
    for one in streams:
        e = np.maximum(e, one.share * one.e)
    return e


__all__ = ["Ints", "by_requester", "first_bad", "largest", "mixing"]
