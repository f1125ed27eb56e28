"""Who was served -> evidence that holds when a requester always meets the same version (pure).

Where routing is sticky a requester's requests share one label, so requests are not independent evidence. The unit is then a
requester's *first* bad event: its label was drawn once, by the split, whatever the requester does afterwards (retry storms).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from lastgood.judge import eprocess
from lastgood.judge.cohorts import changed, cohorts, draws, first_bad, sorting
from lastgood.judge.columns import Columns, Ints, Requesters, tally
from lastgood.judge.eprocess import Floats
from lastgood.judge.levels import by_visit, levels, ranks, rises, so_far
from lastgood.judge.streams import Blocks, Stream, quantile_shares, shift_buckets
from lastgood.record.windows import ZERO
from lastgood.settings import Policy

EPOCH_S = 1800.0
FROM_START = 0.95
WHOLE = 0.8
"""Share of a stream's budget on the whole time; the rest is spread over epochs of two EPOCH_S, one begun each EPOCH_S, in
which every requester counts anew: a late regression is seen although everybody has had a bad moment before."""
QUANTILE_PART, QUANTILE_SHARES = 0.45, (0.36, 0.34, 0.2, 0.1)
LEVELS, RISES = {1: 0.2, 3: 0.15, 20: 0.08}, {0.9: 0.08, 0.98: 0.04}
"""How a latency budget is split: slow requests; the level of requesters after so many requests; those that got slower than they were."""
FAILING_WEIGHTS = np.array([0.01, 0.04, 0.30, 0.50, 0.13, 0.02])
SLOWER_WEIGHTS = np.array([0.08, 0.27, 0.33, 0.22, 0.08, 0.02])
"""Of the omegas, for slow requests: whoever is slow by habit was so before, so ratios of *first* slow requests are small."""
FAR = 2.0
"""Largest strength of one draw."""
DECIDED, MIXED = 20.0, 0.8
"""Routing counts as request by request after as many expected changes of version as this, at this share of them seen."""


def mixing(cols: Columns, pi: Floats) -> tuple[Floats, Floats]:
    """(changes of version seen, expected) so far [T, S], between a requester's successive entries; expected under routing of every
    request on its own with share pi [T, S] of new."""
    t, arm, who, series = _visits(cols)
    again = np.flatnonzero((who[1:] == who[:-1]) & (series[1:] == series[:-1])) + 1
    cell, size = t[again] * cols.many + series[again], len(cols.times) * cols.many
    seen = tally(cell[arm[again] != arm[again - 1]], None, size).reshape(-1, cols.many)
    expected = tally(cell, None, size).reshape(-1, cols.many) * 2 * pi * (1 - pi)
    return np.cumsum(seen, 0), np.cumsum(expected, 0)


def _visits(cols: Columns) -> tuple[Ints, Ints, Ints, Ints]:
    """(window, version, requester, comparison), each once, by comparison and requester: a window's strata are not visits of their own."""
    requesters = cols.requesters
    kept = np.flatnonzero(requesters.n > 0)
    facts = requesters.t[kept], requesters.arm[kept], requesters.who[kept], cols.series[requesters.g[kept]]
    order = sorting(facts[1], facts[0], *facts[2:])
    t, arm, who, series = (fact[order] for fact in facts)
    other = np.ones(len(t), bool)
    other[1:] = (t[1:] != t[:-1]) | (arm[1:] != arm[:-1]) | (who[1:] != who[:-1]) | (series[1:] != series[:-1])
    return t[other], arm[other], who[other], series[other]


@dataclass(frozen=True)
class _Test:
    """One stream by requester: entries by window, which of them are bad, and how much (an exponent of omega; None: 1)."""

    name: str
    metric: str
    share: float
    r0: float
    requesters: Requesters
    bad: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.bool_]
    strength: Floats | None = None

    @cached_property
    def first(self) -> tuple[Ints, Ints]:
        """See first_bad, over the whole time."""
        return first_bad(self.requesters, self.bad)


def _tests(cols: Columns, policy: Policy, blocks: dict[str, Blocks]) -> list[_Test]:
    requesters, moved = cols.requesters, changed(cols.requesters)
    begin = requesters.take(requesters.t == requesters.t.min()) if len(requesters.t) else requesters
    present = {"errors": True, "latency": bool(begin.timed.any()), "pace": bool(begin.paced.any())}
    usable = {name: policy.weights.get(name, 0.0) * has for name, has in present.items()}
    usable = {name: weight / (sum(usable.values()) or 1.0) for name, weight in usable.items()}
    made = [
        _Test("errors", "errors", usable["errors"], policy.error_tolerance, requesters, requesters.failed > 0, moved)
    ]
    shift, order, cell = (
        shift_buckets(policy.latency_tolerance),
        by_visit(requesters),
        requesters.t * cols.n.shape[1] + requesters.g,
    )
    for metric, worst in (("latency", requesters.slow), ("pace", requesters.pace)):
        weight, limits = usable[metric], blocks[metric].thresholds
        if limits is None or not present[metric]:
            continue
        value = worst - shift * requesters.arm
        for k, (name, share) in enumerate(quantile_shares(metric, weight * QUANTILE_PART, QUANTILE_SHARES).items()):
            bad = (worst != ZERO) & (value > np.ascontiguousarray(limits[..., k]).ravel()[cell])
            made.append(_Test(name, metric, share, 1.0, requesters, bad, moved))
        seen = so_far(requesters, order, metric)
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
    for k, test in enumerate(tests):
        i, j = (int(v) for v in np.searchsorted(test.requesters.t, [a, z]))
        here, same = test.requesters.between(i, j, a), id(test.requesters)  # most tests look at the same requesters
        sets[same] = sets[same] if same in sets else cohorts(here, cols.width)
        first = test.first if j - i == len(test.bad) else first_bad(here, test.bad[i:j])
        t, entry, pi = draws(here, first, test.moved[i:j], sets[same])
        use = np.flatnonzero((pi > 0) & (pi < 1) & (t < z - a))
        new, omega = here.arm[entry[use]].astype(float), eprocess.WORSE
        if test.strength is not None:
            omega = omega ** test.strength[i + entry[use], None]
        logs[:, k] = eta * _at(t[use], eprocess.log_e(pi[use], new, np.ones(len(use)), test.r0, omega), z - a)
    minutes = (cols.times[a:z] + cols.width - cols.times[a]) / 60
    parts = []
    for these, weights in ((logs[:, :1], FAILING_WEIGHTS), (logs[:, 1:], SLOWER_WEIGHTS)):
        parts.append(eprocess.advance(eprocess.start(*these.shape[1:]), these, minutes, weights, FROM_START)[1:])
    e, onset = (np.concatenate(both, 1) for both in zip(*parts, strict=True))
    return e, onset + (cols.times[a] - cols.times[0]) / 60


def _seen(test: _Test, length: int) -> Floats:
    """(visits of requesters at risk, first bad events) so far, prior and new [length, 2 arms, 2]."""
    chosen, until = test.first
    at_risk = test.requesters.t <= until[test.requesters.who]
    cells = [test.requesters.t[entry] * 2 + test.requesters.arm[entry] for entry in (at_risk, chosen)]
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
        [k for k, test in enumerate(tests) if test.strength is None]
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
    for k, test in enumerate(tests):
        seen = _seen(test, length)
        made.append(Stream(test.name, test.metric, test.share, e[:, [k]], onset[:, [k]], seen[:, [1]], seen[:, [0]]))
    return made


def largest(streams: list[Stream], shape: tuple[int, int]) -> Floats:
    """E [T, S] counting by requester: the largest share x M."""
    e = np.zeros(shape)
    for stream in streams:
        e = np.maximum(e, stream.share * stream.e)
    return e
