"""Columns -> streams: for every metric the blocks of good and bad in both versions and the e-process they feed (pure).

A stream has a fixed share of the budget; the shares of all streams sum to at most 1. Counting by request, the evidence is
the sum of share x M. Counting by requester (sticky routing), every stream has a filtration of its own, so the evidence is
the largest share x M (union bound).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lastgood.judge import eprocess
from lastgood.judge.columns import FAMILIES, Columns, Entries, Ints, no_entries, tally
from lastgood.judge.eprocess import Floats, State
from lastgood.record.windows import GROWTH
from lastgood.settings import Policy

QUANTILES = (0.75, 0.90, 0.95, 0.99)
QUANTILE_SHARES = (0.20, 0.35, 0.25, 0.20)
ABSENT = 0.2
TIED, TIED_OF = (0.1, 0.9), 100.0
POOL, BLOCK, CHUNK = 400.0, 60.0, 64
"""A threshold rests on at least POOL requests, the window's and trailing ones; a block on at least BLOCK."""


@dataclass(frozen=True)
class Stream:
    """One test over time. e: M [T, S] before its share; onset [T, S] in minutes; new, prior: (seen, bad) so far [T, S, 2]."""

    name: str
    metric: str
    share: float
    e: Floats
    onset: Floats
    new: Floats
    prior: Floats


@dataclass
class Carry:
    """What the judge keeps between looks: e-process states by stream, trailing pools by metric. Handed on, never shared."""

    states: dict[str, State]
    pools: dict[str, tuple[int, Floats, Floats]]
    zero: float | None = None
    weights: Mapping[str, float] | None = None


def nothing() -> Carry:
    return Carry({}, {})


@dataclass(frozen=True)
class Blocks:
    """n [T, G, 2] requests and x [T, G, 2, K] bad ones, for K tests that share them; thresholds [T, G, K] as buckets."""

    n: Floats
    x: Floats
    thresholds: Floats | None = None


def shift_buckets(tolerance: float) -> int:
    """How many latency buckets a slowdown by `tolerance` spans, rounded up in the new version's favour."""
    return math.ceil(math.log1p(tolerance) / math.log(GROWTH) - 1e-9)


def pooled(carry: Floats, size: Floats, counts: Floats, at_least: float) -> tuple[Floats, Floats, Floats]:
    """counts [T, G, ...] each with as much of what came before as makes `at_least`: (pool after, sizes after [G], pools [T, G, ...]).

    Linear in the counts and blind to versions, so it is a fair threshold; dense windows stand for themselves.
    """
    out = np.empty_like(counts)
    n = counts.reshape(*counts.shape[:2], -1).sum(-1)
    sizes, kept, lack = np.concatenate([size[None], n]), np.empty_like(n), np.maximum(at_least - n, 0.0)
    for t in range(len(n)):
        np.minimum(lack[t], sizes[t], out=kept[t])
        sizes[t + 1] += kept[t]
    size = sizes[-1].copy()
    kept /= np.maximum(sizes[:-1], 1e-9)
    for more, part, here in zip(counts, kept.reshape(*kept.shape, *[1] * (counts.ndim - 2)), out, strict=True):
        np.multiply(carry, part, out=here)
        here += more
        carry = here
    return carry.copy(), size, out


def gathered(carry: Floats, counts: Floats, at_least: float) -> tuple[Floats, Floats]:
    """counts [T, G, 2, 1 + K] (requests, then bad ones) as blocks: a group's windows are put together until they hold enough
    requests; the block stands at its last window, zeros elsewhere. (what is still open [G, 2, 1 + K], blocks).

    Where a block ends depends on neither version nor outcome, so within it labels are exchangeable and its own split is exact: a
    split estimated from other windows would be off by chance, and errors of many small blocks add up to false evidence.
    """
    n, size = counts[..., 0].sum(-1), carry[..., 0].sum(-1)
    if not counts.any() or (not size.any() and (n >= at_least).all()):
        return carry, counts
    length, groups = n.shape
    ends = np.zeros(n.shape, bool)
    for more, end in zip(n, ends, strict=True):
        size += more
        np.greater_equal(size, at_least, out=end)
        size[end] = 0.0
    rows = np.concatenate([carry[None], counts]).swapaxes(0, 1).reshape(-1, *carry.shape[1:])
    begins = np.zeros((groups, length + 1), bool)
    begins[:, 0], begins[:, 2:] = True, ends[:-1].T
    starts = np.flatnonzero(begins)
    whole = np.add.reduceat(rows, starts, 0)
    g, row = np.divmod(np.append(starts[1:], len(rows)) - 1, length + 1)
    done = (row > 0) & ends[row - 1, g]
    out, left = np.zeros_like(counts), np.zeros_like(carry)
    out[row[done] - 1, g[done]] = whole[done]
    left[g[~done]] = whole[~done]
    return left, out


def _reached(ranked: Floats, limit: Floats) -> Ints:
    """The first bucket [rows, K] up to which there are at least `limit` [rows, K]; ranked [rows, buckets] never falls."""
    row, low = np.arange(len(ranked))[:, None], np.zeros(limit.shape, np.int64)
    high = np.full(limit.shape, ranked.shape[1] - 1)
    for _ in range(ranked.shape[1].bit_length()):
        half = (low + high) // 2
        short = ranked[row, half] < limit
        low, high = np.where(short, np.minimum(half + 1, high), low), np.where(short, high, half)
    return high


def _quantiles(pools: Floats) -> Ints:
    """The bucket of each of QUANTILES [rows, K] of what is in buckets [rows, buckets].

    Where nothing is above it, for very many requests are in it (all took as long, or were cut off there), they are the slow ones,
    unless nearly all are: then it is the bucket below.
    """
    ranked, row = np.cumsum(pools, -1), np.arange(len(pools))[:, None]
    whole = ranked[:, -1:]
    at = _reached(ranked, (np.array(QUANTILES) - 1e-9) * whole)
    upto = ranked[row, at]
    own = upto - ranked[row, np.maximum(at - 1, 0)]
    tied = (upto >= whole) & (whole >= TIED_OF) & (own >= TIED[0] * whole) & (own <= TIED[1] * whole)
    return np.asarray(at - tied)


def slow(entries: Entries, cols: Columns, tolerance: float, carry: Carry, name: str, flip: bool = False) -> Blocks:
    """Requests above the label-blind pooled quantiles, the new version's values shifted down by the tolerance (`flip`: below, up).

    After the shift the null is "no slower than": a bad-rate ratio of 1 at every threshold.
    """
    if not len(entries.t) and name not in carry.pools:
        empty = np.zeros((len(cols.times), len(cols.strata), 2, len(QUANTILES)))
        return Blocks(empty[..., 0], empty)
    sign = -1 if flip else 1
    value = sign * entries.bucket - shift_buckets(tolerance) * entries.arm
    length, count = len(cols.times), len(cols.strata)
    low, high = (int(value.min()), int(value.max())) if len(value) else (0, 0)
    was, pool, size = carry.pools.get(name, (low, np.zeros((count, 0)), np.zeros(count)))
    low, high = min(low, was), max(high, was + pool.shape[-1] - 1)
    pool = np.pad(pool, ((0, 0), (was - low, high + 1 - was - pool.shape[-1])))
    thresholds = np.zeros((length, count, len(QUANTILES)))
    for a in range(0, length, CHUNK):
        z = min(a + CHUNK, length)
        i, j = np.searchsorted(entries.t, [a, z])
        cell = ((entries.t[i:j] - a) * count + entries.g[i:j]) * (high + 1 - low) + value[i:j] - low
        whole = tally(cell, entries.weight[i:j], (z - a) * count * (high + 1 - low))
        pool, size, pools = pooled(pool, size, whole.reshape(z - a, count, high + 1 - low), POOL)
        thresholds[a:z] = low + _quantiles(pools.reshape((z - a) * count, -1)).reshape(z - a, count, -1)
    carry.pools[name] = (low, pool, size)
    row, shape = entries.t * count + entries.g, (length, count, 2)
    where = row * 2 + entries.arm
    n = tally(where, entries.weight, math.prod(shape)).reshape(shape)
    x = np.empty((*shape, len(QUANTILES)))
    for k in range(len(QUANTILES)):
        over = np.flatnonzero(value > np.ascontiguousarray(thresholds[..., k]).ravel()[row])
        x[..., k] = tally(where[over], entries.weight[over], math.prod(shape)).reshape(shape)
    return Blocks(n, x, thresholds)


def failures(cols: Columns) -> Blocks:
    """Failed requests, over all and by class of error.

    Where failures in a window have no prompt length (a failed request may not say it), the lengths of that window and scope are
    pooled: a stratum that only failures can enter would hide them.
    """
    n, x = cols.n.copy(), np.concatenate([cols.failed[..., None], cols.families], -1)
    for scope in np.unique(cols.scope):
        cells = np.flatnonzero(cols.scope == scope)
        unknown = cells[~cols.sized[cells]]
        if not len(unknown) or len(cells) == 1:
            continue
        lost = cols.failed[:, unknown].sum((1, 2)) > 0
        for counts in (n, x):
            whole = counts[:, cells].sum(1)
            counts[np.ix_(lost, cells)] = 0.0
            counts[lost, unknown[0]] = whole[lost]
    return Blocks(n, x)


def fold(name: str, metric: str, shares: Mapping[str, float], blocks: Blocks, r0: float, cols: Columns, carry: Carry,
         minutes: Floats, tempering: float) -> list[Stream]:  # fmt: skip
    """The e-processes of one metric, one per name in `shares` (in the order of the blocks' K)."""
    counts = np.concatenate([blocks.n[..., None], blocks.x], -1)
    key = f"{name}:open"
    opened = carry.pools[key][1] if key in carry.pools else np.zeros(counts.shape[1:])
    opened, counts = gathered(opened, counts, BLOCK)
    carry.pools[key] = (0, opened, np.zeros(0))
    whole = counts[..., 0].sum(-1)
    pi = counts[..., 1, 0] / np.maximum(whole, 1e-9)
    use = (pi > 0) & (pi < 1)
    seen = np.cumsum(cols.per_series(blocks.n), 0)
    x = (counts[..., 1:] * use[..., None, None]).swapaxes(-1, -2)
    logs = cols.per_series(tempering * eprocess.log_e(pi[..., None], x[..., 1], x.sum(-1), r0))
    bad, made = np.cumsum(cols.per_series(blocks.x), 0), []
    for k, (part, share) in enumerate(shares.items()):
        state = carry.states.get(part) or eprocess.start(cols.many, len(eprocess.WORSE))
        carry.states[part], e, onset = eprocess.advance(state, logs[:, :, k], minutes, eprocess.WORSE_WEIGHTS)
        new, prior = (np.stack([seen[..., arm], bad[..., arm, k]], -1) for arm in (1, 0))
        made.append(Stream(part, metric, share, e, onset, new, prior))
    return made


def quantile_shares(name: str, weight: float, shares: Sequence[float] = QUANTILE_SHARES) -> dict[str, float]:
    return {f"{name} p{q * 100:.0f}": weight * share for q, share in zip(QUANTILES, shares, strict=True)}


def error_shares(weight: float) -> dict[str, float]:
    return {"errors": weight * 0.8} | {f"errors {name}": weight * 0.2 / len(FAMILIES) for name in FAMILIES}


def by_request(cols: Columns, policy: Policy, carry: Carry) -> tuple[list[Stream], dict[str, Blocks]]:
    """All streams that count requests, and the blocks they were made of (metric -> Blocks)."""
    minutes = (cols.times + cols.width - _zero(cols, carry)) / 60
    weights, eta = _weights(cols, policy, carry), policy.tempering
    blocks = {"errors": failures(cols), "quality": Blocks(cols.answers, cols.bad[..., None])}
    tolerance = {
        "latency": policy.latency_tolerance, "pace": policy.latency_tolerance, "ttft": policy.latency_tolerance,
        "length": policy.length_tolerance,
    }  # fmt: skip
    histograms = {name: cols.histograms.get(name) or no_entries() for name in tolerance}
    for name, limit in tolerance.items():
        blocks[name] = slow(histograms[name], cols, limit, carry, name)
    blocks["shorter"] = slow(histograms["length"], cols, policy.length_tolerance, carry, "shorter", flip=True)
    made: list[Stream] = []
    for name, block in blocks.items():
        metric = "length" if name == "shorter" else name
        weight = weights.get(metric, 0.0) * (0.5 if metric == "length" else 1.0)
        r0 = {"errors": policy.error_tolerance, "quality": policy.quality_tolerance}.get(name, 1.0)
        shares = {"errors": error_shares(weight), "quality": {"quality": weight}}.get(
            name, quantile_shares(name, weight)
        )
        made += fold(name, metric, shares, block, r0, cols, carry, minutes, eta)
    return made + _scores(cols, policy, carry, minutes), blocks


def _weights(cols: Columns, policy: Policy, carry: Carry) -> Mapping[str, float]:
    """Share of the budget by metric: one that the very first window says nothing of keeps ABSENT of its weight, and the others get
    the rest. What there is to see does not depend on versions, so this is as fair as fixed weights."""
    if carry.weights is None and len(cols.times):
        present = {name for name, histogram in cols.histograms.items() if (histogram.t == 0).any()} | {"errors"}
        present |= {"quality"} if cols.answers[0].any() else set()
        present |= {"scores"} if any(score[0].any() for score in cols.scores.values()) else set()
        kept = {name: weight * (1.0 if name in present else ABSENT) for name, weight in policy.weights.items()}
        seen = math.fsum(weight for name, weight in kept.items() if name in present)
        more = 1 + (math.fsum(policy.weights.values()) - math.fsum(kept.values())) / max(seen, 1e-9)
        carry.weights = {name: weight * (more if name in present else 1.0) for name, weight in kept.items()}
    return carry.weights or policy.weights


def _zero(cols: Columns, carry: Carry) -> float:
    """When the comparison began: the first window ever given."""
    if carry.zero is None:
        carry.zero = float(cols.times[0]) if len(cols.times) else 0.0
    return carry.zero


def _scores(cols: Columns, policy: Policy, carry: Carry, minutes: Floats) -> list[Stream]:
    """Evaluation scores and labels: bounded means, one stream per name; the guess is the pooled mean of earlier windows."""
    made = []
    weight = _weights(cols, policy, carry).get("scores", 0.0) / max(1, len(cols.scores))
    for name, sums in cols.scores.items():
        part = f"scores {name}"
        whole, total = sums.sum(2), carry.pools.get(part, (0, np.zeros((cols.many, 3)), np.zeros(0)))[1]
        before = np.concatenate([total[None], total + np.cumsum(whole, 0)])
        carry.pools[part] = (0, before[-1], np.zeros(0))
        guess = np.where(before[:-1, :, 0] > 0, before[:-1, :, 1] / np.maximum(before[:-1, :, 0], 1e-9), 0.5)
        logs = policy.tempering * eprocess.log_e_mean(sums[:, :, 1], sums[:, :, 0], guess, policy.score_tolerance)
        state = carry.states.get(part) or eprocess.start(cols.many, len(eprocess.LAMBDAS))
        even = np.full(len(eprocess.LAMBDAS), 1 / len(eprocess.LAMBDAS))
        carry.states[part], e, onset = eprocess.advance(state, logs, minutes, even)
        kept = [np.cumsum(sums[:, :, arm, :2], 0) for arm in (1, 0)]
        made.append(Stream(part, "scores", weight, e, onset, *kept))
    return made


def total(streams: list[Stream], cols: Columns) -> Floats:
    """E [T, S] counting by request: the sum of share x M, what has no stream counting as 1."""
    rest = 1 - math.fsum(stream.share for stream in streams)
    e = np.full((len(cols.times), cols.many), max(0.0, rest))
    for stream in streams:
        e = e + stream.share * stream.e
    return e
