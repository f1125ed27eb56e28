"""Latencies of two versions -> evidence that the new one is slower by more than is tolerated, from ranks (pure).

In a block (one stratum, enough requests, both versions, successes) the new version's values are lowered by the tolerance and all values are
ranked together. Labels are then revealed one bucket after the other, from both ends towards the median: the slow half from the slowest
down, the fast half from the fastest up. Before a bucket of m requests is revealed, a share p of the requests still hidden is known to be
new. With a the bucket's score, x of the m are new, and

    log e = theta a x - m log(1 - p + p exp(theta a))

At the tolerance itself labels are exchangeable: x is hypergeometric and the binomial dominates it in convex order (Hoeffding 1963), so
E[e] <= 1. Where the new version is faster than that, and the likelihood ratio of new over prior falls with the value, the slowest hidden
request is new with a chance of at most p and the fastest with at least p: E[e] <= 1 again (docs/explanation/judge-derivations.md).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from lastgood.judge.columns import Bools, Columns, Entries, Ints, tally
from lastgood.judge.eprocess import WORSE, Floats

THETAS = np.array([0.1, 0.2, 0.4, 0.7, 1.2, 2.0])
THETA_WEIGHTS = np.array([0.03, 0.12, 0.45, 0.25, 0.10, 0.05])
FAR = 3.0
"""Normal scores are cut off here."""
DENSE = 2**23
TAIL = 0.95
"""Rank above which a request counts in the test for a slow few."""
SLOW = 0.90
"""Rank above which a request is slow in counts that are shown and in the proof of safety."""


@dataclass(frozen=True)
class Ranked:
    """By window and group, at the window where a block ends: log e by THETAS [T, G, K] and, of the slowest few, by WORSE [T, G, J]; n
    requests and x slow ones [T, G, 2]."""

    scores: Floats
    tail: Floats
    n: Floats
    x: Floats


@dataclass(frozen=True)
class Open:
    """Requests of blocks that have not ended: n by group, and entries (group, value, new, weight)."""

    n: Floats
    g: Ints
    value: Ints
    arm: Ints
    weight: Floats


def nothing_open(groups: int) -> Open:
    none = np.zeros(0, np.int64)
    return Open(np.zeros(groups), none, none, none, np.zeros(0))


def ends_of(n: Floats, size: Floats, at_least: float, breaks: Bools | None) -> tuple[Bools, Floats]:
    """n [T, G] requests, size [G] of the blocks still open -> (windows in which a group's block ends [T, G], sizes after). A block ends
    when it has enough requests, or where the next window breaks with it."""
    ends, size = np.zeros(n.shape, bool), size.copy()
    for t in range(len(n)):
        size += n[t]
        np.greater_equal(size, at_least, out=ends[t])
        if breaks is not None and t + 1 < len(n) and breaks[t + 1]:
            ends[t] |= size > 0
        size[ends[t]] = 0.0
    return ends, size


def ranked(
    entries: Entries, cols: Columns, shift: int, at_least: float, opened: Open, sign: int = 1
) -> tuple[Ranked, Open]:
    """Blocks of `entries`, the new version's values (times `sign`) lowered by `shift` buckets; and what is still open."""
    length, many = len(cols.times), len(cols.strata)
    value = sign * entries.bucket - shift * entries.arm
    n = tally(entries.t * many + entries.g, entries.weight, length * many).reshape(length, many)
    ends, size = ends_of(n, opened.n, at_least, cols.breaks)
    block = np.concatenate([np.zeros((1, many), np.int64), np.cumsum(ends, 0)])
    g = np.concatenate([opened.g, entries.g])
    nth = np.concatenate([np.zeros(len(opened.g), np.int64), block[entries.t, entries.g]])
    value, arm = np.concatenate([opened.value, value]), np.concatenate([opened.arm, entries.arm])
    weight = np.concatenate([opened.weight, entries.weight])
    over = nth < block[-1, g]
    left = ~over
    still = Open(size, g[left], value[left], arm[left], weight[left])
    row = g[over] * (length + 1) + nth[over]
    made = _revealed(row, value[over], arm[over], weight[over])
    shape = (length, many)
    out = Ranked(*(np.zeros((*shape, k)) for k in (len(THETAS), len(WORSE), 2, 2)))
    if len(made[0]):
        rows, parts = made[0], made[1:]
        groups, which = np.divmod(rows, length + 1)
        last = _closing(ends)[groups, which]
        for target, part in zip((out.scores, out.tail, out.n, out.x), parts, strict=True):
            target[last, groups] = part
    return out, still


def _closing(ends: Bools) -> Ints:
    """ends [T, G] -> the window in which the k-th block of each group ends [G, T]."""
    at = np.argsort(~ends, axis=0, kind="stable")
    return np.asarray(at.T)


def _revealed(row: Ints, value: Ints, arm: Ints, weight: Floats) -> tuple[Ints, Floats, Floats, Floats, Floats]:
    """Requests by block (row) -> (blocks, log e by THETAS, log e of the tail by WORSE, requests and slow ones by version)."""
    if not len(row):
        return row, *(np.zeros((0, k)) for k in (len(THETAS), len(WORSE), 2, 2))  # type: ignore[return-value]
    low = int(value.min())
    span = int(value.max()) - low + 1
    cell, size = row * span + value - low, (int(row.max()) + 1) * span
    if size <= DENSE:  # several times as fast as sorting
        m, x = tally(cell, weight, size), tally(cell, weight * arm, size)
        cells = np.flatnonzero(m)
        m, x = m[cells], x[cells]
    else:
        cells, place = np.unique(cell, return_inverse=True)
        m, x = tally(place, weight, len(cells)), tally(place, weight * arm, len(cells))
    block = cells // span
    begins = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]]))
    of = np.cumsum(np.concatenate([[False], block[1:] != block[:-1]]))
    rows = block[begins]

    def upto(amount: Floats) -> tuple[Floats, Floats]:
        """(running total within the block, total of the block) of each bucket."""
        run = np.cumsum(amount)
        before = np.concatenate([[0.0], run[begins[1:] - 1]])
        return run - before[of], np.add.reduceat(amount, begins)[of]

    (c, whole), (c1, whole1) = upto(m), upto(x)
    u = (c - m / 2) / whole
    a, slow_half = np.clip(ndtri(np.clip(u, 1e-9, 1 - 1e-9)), -FAR, FAR), u > 0.5
    fast, fast1 = (upto(np.where(slow_half, 0.0, amount))[1] for amount in (m, x))
    hidden = np.where(slow_half, c, fast - (c - m))
    hidden1 = np.where(slow_half, c1, fast1 - (c1 - x))
    p = np.clip(hidden1 / np.maximum(hidden, 1e-9), 0.0, 1.0)
    both = (whole1 > 1e-9) & (whole1 < whole - 1e-9)
    stake = THETAS * (a * both)[:, None]
    scores = stake * x[:, None] - m[:, None] * np.log1p(p[:, None] * np.expm1(stake))
    few = np.flatnonzero((u > TAIL) & both)
    bets = x[few, None] * np.log(WORSE) - m[few, None] * np.log1p(p[few, None] * (WORSE - 1))
    tail = np.stack([tally(of[few], bets[:, k], len(rows)) for k in range(len(WORSE))], -1)
    slow = u > SLOW
    n = np.stack([whole - whole1, whole1], -1)[begins]
    slowest = np.stack([(m - x) * slow, x * slow], -1)
    return rows, np.add.reduceat(scores, begins), tail, n, np.add.reduceat(slowest, begins)
