"""Requesters' latencies -> how slow each is, how much slower than before, and where that ranks among others (pure)."""

from dataclasses import dataclass, replace

import numpy as np

from lastgood.judge.cohorts import sorting
from lastgood.judge.columns import Ints, Requesters
from lastgood.judge.eprocess import Floats

SCORED, FEW, LAST = 8, 20, 200
"""Requests per rise of a requester; scores before one can count; scores that one is compared with."""


@dataclass(frozen=True)
class _SoFar:
    """Entries ordered by requester and window: the requests of one metric that are known so far (this entry's `new` ones too), and
    the sum of their buckets."""

    requesters: Requesters
    order: Ints
    new: Ints
    n: Ints
    total: Ints

    def at(self, places: Ints, score: Floats) -> tuple[Requesters, Floats]:
        """Entries at those places of the order, by window, with their scores; strata are not told apart."""
        by_window = np.argsort(self.order[places])
        kept = self.requesters.take(self.order[places][by_window])
        return replace(kept, g=np.zeros_like(kept.g)), score[by_window]


def by_visit(requesters: Requesters) -> Ints:
    """Entries by requester and window; where versions share one, in an order blind to them."""
    return sorting(requesters.arm ^ (requesters.who & 1), requesters.t, requesters.who)


def so_far(requesters: Requesters, order: Ints, metric: str) -> _SoFar:
    """found: entries by window; order: see by_visit."""
    known, total = (
        (requesters.timed, requesters.latency_sum) if metric == "latency" else (requesters.paced, requesters.pace_sum)
    )
    who, known, total = requesters.who[order], known[order], total[order]
    begins = np.concatenate([[True], who[1:] != who[:-1]]) if len(who) else np.zeros(0, bool)
    first, n, s = np.maximum.accumulate(np.where(begins, np.arange(len(who)), 0)), np.cumsum(known), np.cumsum(total)
    return _SoFar(requesters, order, known, n - (n - known)[first], s - (s - total)[first])


def levels(seen: _SoFar, least: int, shift: int) -> tuple[Requesters, Floats]:
    """Each requester once, when `least` of its requests are known: their mean bucket, the new version's lowered by `shift`."""
    full = np.flatnonzero((seen.n >= least) & (seen.n - seen.new < least))
    return seen.at(full, seen.total[full] / seen.n[full] - shift * seen.requesters.arm[seen.order[full]])


def rises(seen: _SoFar, shift: int) -> tuple[Requesters, Floats]:
    """Every SCORED requests of a requester their mean bucket against that of all its earlier ones (SCORED twice, at least), a change
    and not a habit."""
    full = np.flatnonzero(seen.n // SCORED > (seen.n - seen.new) // SCORED)
    who, n, total = seen.requesters.who[seen.order[full]], seen.n[full].astype(float), seen.total[full].astype(float)
    later = np.flatnonzero((who[1:] == who[:-1]) & (n[:-1] >= 2 * SCORED)) + 1
    mean = (total[later] - total[later - 1]) / (n[later] - n[later - 1])
    full, rise = full[later], mean - total[later - 1] / n[later - 1]
    return seen.at(full, rise - shift * seen.requesters.arm[seen.order[full]])


def ranks(score: Floats) -> Floats:
    """The part of the LAST scores before each that is below it, in (0, 1); one half for the first FEW."""
    before = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.full(LAST, np.nan), score]), LAST)
    out = np.full(len(score), 0.5)
    for a in range(FEW, len(score), 4096):
        z = min(a + 4096, len(score))
        here, value = before[a:z], score[a:z, None]
        below = (here < value).sum(1) + 0.5 * (here == value).sum(1)
        out[a:z] = (below + 0.5) / (np.minimum(np.arange(a, z), LAST) + 1)
    return out
