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
FROM_START = 0.9
WHOLE = 0.6
"""Share of a stream's budget on the whole time; the rest is spread over epochs of two EPOCH_S, one begun each EPOCH_S, in
which every requester counts anew: a late regression is seen although everybody has had a bad moment before."""
LOOK_BACK, NEVER = ((0.0, 60.0), (60.0, 300.0), (300.0, 300.0), (1800.0, 300.0)), 2**40
"""How far back (seconds; 0: this window) the requesters at risk are counted to know the split, and how many of them are enough."""
QUANTILE_PART, LEVEL_PART, RISES = 0.6, 0.1, {0.9: 0.2, 0.98: 0.1}
"""How a latency budget is split: slow requests, slow requesters, requesters that got slower than they were."""
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


def first_bad(found: Requesters, bad: npt.NDArray[np.bool_], shape: tuple[int, int]) -> tuple[Blocks, Ints]:
    """Entries by window -> requesters at risk (n) and first bad events (x) per window, group and version: a requester counts up to its first bad one.
    And per entry the window of its requester's first bad event.

    Of several bad entries in that window one counts, chosen without regard to the version.
    """
    hit = np.flatnonzero(bad)
    until = np.full(int(found.who.max(initial=0)) + 1, NEVER)
    until[found.who[hit[::-1]]] = found.t[hit[::-1]]  # the last one assigned stays: the first in time
    hit = hit[found.t[hit] == until[found.who[hit]]]
    hit = hit[np.lexsort((found.arm[hit] ^ (found.who[hit] & 1), found.g[hit], found.who[hit]))]
    chosen = hit[np.concatenate([[True], found.who[hit][1:] != found.who[hit][:-1]])] if len(hit) else hit
    at_risk = found.t < until[found.who]
    at_risk[chosen] = True
    cell = (found.t * shape[1] + found.g) * 2 + found.arm
    size = shape[0] * shape[1] * 2
    n = tally(cell[at_risk], None, size).reshape(*shape, 2)
    x = tally(cell[chosen], None, size).reshape(*shape, 2, 1)
    return Blocks(n, x), until[found.who]


def following(found: Requesters) -> Ints:
    """Per entry the window of its requester's next entry in the same group; NEVER for the last."""
    order = np.lexsort((found.t, found.g, found.who))
    who, g, t = found.who[order], found.g[order], found.t[order]
    out = np.full(len(t), NEVER)
    same = (who[1:] == who[:-1]) & (g[1:] == g[:-1])
    out[order[:-1][same]] = t[1:][same]
    return out


def split(found: Requesters, after: Ints, until: Ints, shape: tuple[int, int], width: float) -> Floats:
    """Share of new [T, G] among the distinct requesters at risk that were seen last: of the newest windows that hold enough of them,
    each counted once however busy (a busy one would carry the share with it, window after window), at its last version.

    Bad events draw from these without replacement, so the share is exact where they are the window's own, or all there are.
    """
    pi, settled = np.zeros(shape), np.zeros(shape, bool)
    at_risk = found.t <= until
    t, g, arm, most = found.t[at_risk], found.g[at_risk], found.arm[at_risk], np.minimum(after, until + 1)[at_risk]
    size = (shape[0] + 1) * shape[1] * 2
    begun = tally((t * shape[1] + g) * 2 + arm, None, size)
    for seconds, enough in LOOK_BACK:
        end = np.minimum(np.minimum(t + max(1, round(seconds / width)), most), shape[0])
        ended = tally((end * shape[1] + g) * 2 + arm, None, size)
        people = np.cumsum((begun - ended).reshape(-1, shape[1], 2), 0)[:-1]
        count = people.sum(-1)
        pi = np.where(~settled & (count > 0), people[..., 1] / np.maximum(count, 1), pi)
        settled |= count >= enough
    return pi


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
    after: Ints


def _tests(cols: Columns, policy: Policy, blocks: dict[str, Blocks]) -> list[_Test]:
    found, after = cols.requesters, following(cols.requesters)
    begin = found.take(found.t == found.t.min()) if len(found.t) else found
    there = {"errors": True, "latency": bool(begin.timed.any()), "pace": bool(begin.paced.any())}
    usable = {name: policy.weights.get(name, 0.0) * has for name, has in there.items()}
    usable = {name: weight / (sum(usable.values()) or 1.0) for name, weight in usable.items()}
    made = [_Test("errors", "errors", usable["errors"], policy.error_tolerance, found, found.failed > 0, after)]
    shift = shift_buckets(policy.latency_tolerance)
    for metric, worst in (("latency", found.slow), ("pace", found.pace)):
        weight, limits = usable[metric], blocks[metric].thresholds
        if limits is None or not there[metric]:
            continue
        for k, (name, share) in enumerate(quantile_shares(metric, weight * QUANTILE_PART).items()):
            bad = (worst != ZERO) & (worst - shift * found.arm > limits[found.t, found.g, k])
            made.append(_Test(name, metric, share, 1.0, found, bad, after))
        scored, level, rise = scores(found, metric, shift)
        once = np.unique(scored.who, return_index=True)[1]
        once.sort()
        first, later = scored.take(once), np.flatnonzero(~np.isnan(rise))
        over = above(level[once], 0.5)
        made.append(_Test(f"{metric} level", metric, weight * LEVEL_PART, 1.0, first, over, following(first)))
        risen = scored.take(later)
        for q, part in RISES.items():
            over = above(rise[later], q)
            made.append(_Test(f"{metric} rise {q}", metric, weight * part, 1.0, risen, over, following(risen)))
    return made


def _run(tests: list[_Test], cols: Columns, eta: float, a: int, z: int) -> tuple[Floats, Floats, Floats]:
    """The tests over windows a..z, every requester counting from window a on: M and onset [z - a, tests], and (at risk, bad) so
    far [z - a, tests, 2 arms, 2]."""
    made, shares = [], []
    shape = (z - a, len(cols.strata))
    for one in tests:
        i, j = (int(v) for v in np.searchsorted(one.found.t, [a, z]))
        here = one.found.between(i, j, a)
        part, until = first_bad(here, one.bad[i:j], shape)
        made.append(np.stack([part.n, part.x[..., 0]], -1))
        shares.append(split(here, one.after[i:j] - a, until, shape, cols.width))
    counts, pi = np.stack(made, 1), np.stack(shares, 1)
    hits = counts[..., 1] * ((pi > 0) & (pi < 1))[..., None]
    both = hits.sum(-1)
    t, k, g = np.nonzero(both)  # few windows have any
    found = eprocess.log_e(pi[t, k, g], hits[t, k, g, 1], both[t, k, g], np.array([one.r0 for one in tests])[k])
    logs = np.zeros((*both.shape[:2], found.shape[-1]))
    np.add.at(logs, (t, k), eta * found)
    minutes = (cols.times[a:z] + cols.width - cols.times[a]) / 60
    _, e, onset = eprocess.advance(eprocess.start(*logs.shape[1:]), logs, minutes, eprocess.WORSE_WEIGHTS, FROM_START)
    return e, onset + (cols.times[a] - cols.times[0]) / 60, np.cumsum(counts.sum(2), 0)


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
