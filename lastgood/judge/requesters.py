"""Who was served -> evidence that holds when a requester always meets the same version (pure).

Where routing is sticky a requester's requests share one label, so requests are not independent evidence. The unit is then a
requester's *first* bad event: its label was drawn once, by the split, whatever the requester does afterwards (retry storms).
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

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
QUANTILE_PART, QUANTILE_SHARES = 0.45, (0.36, 0.34, 0.2, 0.1)
LEVELS, RISES = {1: 0.2, 3: 0.15, 20: 0.08}, {0.9: 0.08, 0.98: 0.04}
"""How a latency budget is split: slow requests; the level of requesters after so many requests; those that got slower than they were."""
FAILING_WEIGHTS = np.array([0.02, 0.06, 0.36, 0.40, 0.12, 0.04])
SLOWER_WEIGHTS = np.array([0.08, 0.27, 0.33, 0.22, 0.08, 0.02])
"""Of the omegas, for slow requests: whoever is slow by habit was so before, so ratios of *first* slow requests are small."""
SCORED, FEW, LAST, FAR = 8, 20, 200, 2.0
"""Requests per rise of a requester; scores before one can count; scores that one is compared with; largest strength of one."""
DECIDED, MIXED = 20.0, 0.8
"""Routing counts as request by request after as many expected changes of version as this, at this share of them seen."""


def mixing(cols: Columns, pi: Floats) -> tuple[Floats, Floats]:
    """(changes of version seen, expected) so far [T, S], between a requester's successive entries; expected under routing of every
    request on its own with share pi [T, S] of new."""
    t, arm, who, series = _visits(cols)
    again = np.flatnonzero((who[1:] == who[:-1]) & (series[1:] == series[:-1])) + 1
    cell, size = t[again] * cols.many + series[again], len(cols.times) * cols.many
    seen = tally(cell[arm[again] != arm[again - 1]], None, size).reshape(-1, cols.many)
    hoped = tally(cell, None, size).reshape(-1, cols.many) * 2 * pi * (1 - pi)
    return np.cumsum(seen, 0), np.cumsum(hoped, 0)


def _visits(cols: Columns) -> tuple[Ints, Ints, Ints, Ints]:
    """(window, version, requester, comparison), each once, by comparison and requester: a window's strata are not visits of their own."""
    found = cols.requesters
    kept = np.flatnonzero(found.n > 0)
    facts = found.t[kept], found.arm[kept], found.who[kept], cols.series[found.g[kept]]
    order = sorting(facts[1], facts[0], *facts[2:])
    t, arm, who, series = (one[order] for one in facts)
    other = np.ones(len(t), bool)
    other[1:] = (t[1:] != t[:-1]) | (arm[1:] != arm[:-1]) | (who[1:] != who[:-1]) | (series[1:] != series[:-1])
    return t[other], arm[other], who[other], series[other]


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
    """First bad events drawn from cohorts, one by one: (window, entry, share of new among the cohort's requesters that had none
    before). found: entries by window; bad: see first_bad; moved: see changed; sets: see cohorts.

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
    at, key = place(chosen), key[order]
    left = so_far[np.searchsorted(key, at, "right")] - so_far[np.searchsorted(key, at // span * span)]
    nth, group = np.arange(len(at)), np.searchsorted(at, at)
    drawn = np.concatenate([[0], np.cumsum(found.arm[chosen])])
    left_new = left[:, 1] - (drawn[nth] - drawn[group])
    return at % span, chosen, left_new / np.maximum(left.sum(1) - (nth - group), 1)


def sorting(*keys: Ints) -> Ints:
    """np.lexsort, by counting where numbers are small (a radix sort is ten times as fast)."""
    order = np.arange(len(keys[0]))
    for key in keys:
        small = key.astype(np.uint16) if key.max(initial=0) < 2**16 else key
        order = order[np.argsort(small[order], kind="stable")]
    return order


def changed(found: Requesters) -> npt.NDArray[np.bool_]:
    """Entries by window -> which have another version than their requester's entry before."""
    order = sorting(found.who)
    who, arm = found.who[order], found.arm[order]
    out = np.zeros(len(who), bool)
    out[order[1:]] = (who[1:] == who[:-1]) & (arm[1:] != arm[:-1])
    return out


@dataclass(frozen=True)
class _SoFar:
    """Entries ordered by requester and window: the requests of one metric that are known so far (this entry's `new` ones too), and
    the sum of their buckets."""

    found: Requesters
    order: Ints
    new: Ints
    n: Ints
    total: Ints

    def at(self, places: Ints, score: Floats) -> tuple[Requesters, Floats]:
        """Entries at those places of the order, by window, with their scores; strata are not told apart."""
        by_window = np.argsort(self.order[places])
        kept = self.found.take(self.order[places][by_window])
        return replace(kept, g=np.zeros_like(kept.g)), score[by_window]


def so_far(found: Requesters, metric: str) -> _SoFar:
    """found: entries by window; where versions share one, in an order blind to them."""
    order = sorting(found.arm ^ (found.who & 1), found.t, found.who)
    known, total = (found.timed, found.latency_sum) if metric == "latency" else (found.paced, found.pace_sum)
    who, known, total = found.who[order], known[order], total[order]
    begins = np.concatenate([[True], who[1:] != who[:-1]]) if len(who) else np.zeros(0, bool)
    first, n, s = np.maximum.accumulate(np.where(begins, np.arange(len(who)), 0)), np.cumsum(known), np.cumsum(total)
    return _SoFar(found, order, known, n - (n - known)[first], s - (s - total)[first])


def levels(seen: _SoFar, least: int, shift: int) -> tuple[Requesters, Floats]:
    """Each requester once, when `least` of its requests are known: their mean bucket, the new version's lowered by `shift`."""
    full = np.flatnonzero((seen.n >= least) & (seen.n - seen.new < least))
    return seen.at(full, seen.total[full] / seen.n[full] - shift * seen.found.arm[seen.order[full]])


def rises(seen: _SoFar, shift: int) -> tuple[Requesters, Floats]:
    """Every SCORED requests of a requester their mean bucket against that of all its earlier ones (SCORED twice, at least), a change
    and not a habit."""
    full = np.flatnonzero(seen.n // SCORED > (seen.n - seen.new) // SCORED)
    who, n, total = seen.found.who[seen.order[full]], seen.n[full].astype(float), seen.total[full].astype(float)
    later = np.flatnonzero((who[1:] == who[:-1]) & (n[:-1] >= 2 * SCORED)) + 1
    mean = (total[later] - total[later - 1]) / (n[later] - n[later - 1])
    full, rise = full[later], mean - total[later - 1] / n[later - 1]
    return seen.at(full, rise - shift * seen.found.arm[seen.order[full]])


def ranks(score: Floats) -> Floats:
    """The part of the LAST scores before each that is below it, in (0, 1); one half for the first FEW."""
    before = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.full(LAST, np.nan), score]), LAST)
    out = np.full(len(score), 0.5)
    for a in range(FEW, len(score), 4096):
        z = min(a + 4096, len(score))
        here, one = before[a:z], score[a:z, None]
        below = (here < one).sum(1) + 0.5 * (here == one).sum(1)
        out[a:z] = (below + 0.5) / (np.minimum(np.arange(a, z), LAST) + 1)
    return out


@dataclass(frozen=True)
class _Test:
    """One stream by requester: entries by window, which of them are bad, and how much (an exponent of omega; None: 1)."""

    name: str
    metric: str
    share: float
    r0: float
    found: Requesters
    bad: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.bool_]
    strength: Floats | None = None


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
        seen = so_far(found, metric)
        for least, part in LEVELS.items():
            once, level = levels(seen, least, shift)
            strength = np.clip(ndtri(ranks(level)), -FAR, FAR)
            none, everyone = np.zeros(len(level), bool), np.ones(len(level), bool)
            made.append(_Test(f"{metric} level {least}", metric, weight * part, 1.0, once, everyone, none, strength))
        risen, rise = rises(seen, shift)
        above, turned = ranks(rise), changed(risen)
        for q, part in RISES.items():
            made.append(_Test(f"{metric} rise {q}", metric, weight * part, 1.0, risen, above > q, turned))
    return made


def _run(tests: list[_Test], cols: Columns, eta: float, a: int, z: int) -> tuple[Floats, Floats]:
    """The tests over windows a..z, every requester counting from window a on: M and onset [z - a, tests]."""
    logs = np.zeros((z - a, len(tests), len(eprocess.WORSE)))
    sets: dict[int, tuple[Ints, Ints, Ints]] = {}
    for k, one in enumerate(tests):
        i, j = (int(v) for v in np.searchsorted(one.found.t, [a, z]))
        here, same = one.found.between(i, j, a), id(one.found)  # most tests look at the same requesters
        sets[same] = sets[same] if same in sets else cohorts(here, cols.width)
        t, entry, pi = draws(here, first_bad(here, one.bad[i:j]), one.moved[i:j], sets[same])
        use = np.flatnonzero((pi > 0) & (pi < 1) & (t < z - a))
        new, omega = here.arm[entry[use]].astype(float), eprocess.WORSE
        if one.strength is not None:
            omega = omega ** one.strength[i + entry[use], None]
        logs[:, k] = eta * _at(t[use], eprocess.log_e(pi[use], new, np.ones(len(use)), one.r0, omega), z - a)
    minutes = (cols.times[a:z] + cols.width - cols.times[a]) / 60
    parts = []
    for these, weights in ((logs[:, :1], FAILING_WEIGHTS), (logs[:, 1:], SLOWER_WEIGHTS)):
        parts.append(eprocess.advance(eprocess.start(*these.shape[1:]), these, minutes, weights, FROM_START)[1:])
    e, onset = (np.concatenate(both, 1) for both in zip(*parts, strict=True))
    return e, onset + (cols.times[a] - cols.times[0]) / 60


def _seen(one: _Test, length: int) -> Floats:
    """(visits of requesters at risk, first bad events) so far, prior and new [length, 2 arms, 2]."""
    chosen, until = first_bad(one.found, one.bad)
    at_risk = one.found.t <= until[one.found.who]
    cells = [one.found.t[entry] * 2 + one.found.arm[entry] for entry in (at_risk, chosen)]
    return np.cumsum(np.stack([tally(cell, None, 2 * length).reshape(-1, 2) for cell in cells], -1), 0)


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
    cols = replace(cols, requesters=known if (np.diff(known.t) >= 0).all() else known.take(sorting(known.t)))
    tests = _tests(cols, policy, blocks)
    e, onset = _run(tests, cols, policy.tempering, 0, last)
    renewed = np.array(
        [k for k, one in enumerate(tests) if one.strength is None]
    )  # a requester has a first level but once
    e[:, renewed] *= WHOLE
    for j, begin in enumerate(np.arange(cols.times[0] + EPOCH_S, cols.times[last - 1], EPOCH_S)):
        a, z = (min(last, int(i)) for i in np.searchsorted(cols.times, [begin, begin + 2 * EPOCH_S]))
        if z <= a or not wanted[a:z].any():
            continue
        late, since = _run([tests[k] for k in renewed], cols, policy.tempering, a, z)
        late *= (1 - WHOLE) / ((j + 1) * (j + 2))
        onset[a:z, renewed] = np.where(late > e[a:z, renewed], since, onset[a:z, renewed])
        e[a:z, renewed] = np.maximum(e[a:z, renewed], late)
    rest = ((0, length - last), (0, 0))
    e, onset = np.pad(e, rest), np.pad(onset, rest)
    made = []
    for k, one in enumerate(tests):
        seen = _seen(one, length)
        made.append(Stream(one.name, one.metric, one.share, e[:, [k]], onset[:, [k]], seen[:, [1]], seen[:, [0]]))
    return made


def largest(streams: list[Stream], shape: tuple[int, int]) -> Floats:
    """E [T, S] counting by requester: the largest share x M."""
    e = np.zeros(shape)
    for one in streams:
        e = np.maximum(e, one.share * one.e)
    return e


__all__ = ["Ints", "by_requester", "first_bad", "largest", "mixing"]
