"""Columns without some requesters: evidence must stand without whoever carries most of it, and without those who do not meet the versions
as the split has it (pure)."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from lastgood.judge.columns import Callers, Columns, Entries, Ints, Scored, tally
from lastgood.judge.eprocess import Floats
from lastgood.record.fault import FAULTS, Fault
from lastgood.settings import Policy

ITSELF = 0.8
"""A requester with so much of all requests, whom both versions serve, is a fair comparison by itself: there are no others to stand on."""


APART = 0.1
"""Of those who are taken to be kept to one version, at most this share is so by chance (false discovery rate). What is left out blindly to
the outcome, and lowers evidence only, may be generous."""
Group = frozenset[int]
"""Requesters that are left out together."""


def heaviest(cols: Columns, t: int, policy: Policy) -> dict[str, set[Group]]:
    """metric -> requesters without whom its evidence after window t must stand: who has most failures of the new version beyond its share,
    most of its slowness, bad answers or low scores; and all together whose requests go to one version more than the split has it, with who
    is the most one-sided. One comparison only."""
    callers = cols.callers.take(cols.callers.t <= t)
    if not len(callers.t):
        return {}
    size = int(callers.who.max()) + 1
    new, prior = (tally(callers.who[callers.arm == arm], callers.n[callers.arm == arm], size) for arm in (1, 0))
    share = new.sum() / max(new.sum() + prior.sum(), 1.0)
    counted = [FAULTS.index(kind) for kind in policy.rollback_faults]
    alone = _by_itself(new, prior, share)

    def most(score: Floats) -> set[Group]:
        who = int(np.argmax(score))
        return {frozenset({who})} if score[who] > 0 and who not in alone else set()

    def bad(kinds: list[int]) -> Floats:
        failed = callers.faults[:, kinds].sum(1)
        return np.asarray(tally(callers.who, failed * np.where(callers.arm == 1, 1 - share, -share), size))

    middle = callers.latency_sum.sum() / max(callers.timed.sum(), 1)
    excess = (callers.latency_sum - middle * callers.timed) * np.where(callers.arm == 1, 1 - share, -share)
    uneven = most(np.abs(new * (1 - share) - prior * share))
    if apart := frozenset(_apart(callers, size) - alone):
        uneven = {apart.union(*uneven)}
    slow = most(np.asarray(tally(callers.who, excess, size))) | uneven
    poor = tally(callers.who, callers.bad * np.where(callers.arm == 1, 1 - share, -share), size)
    return {
        "errors": most(bad(counted)) | uneven, "client": most(bad([FAULTS.index(Fault.CLIENT)])) | uneven, "latency": slow, "ttft": slow,
        "quality": most(poor) | uneven,
        "scores": uneven | {frozenset({who}) for sums in cols.scored.values() for who in _lowest(sums, t) - alone},
    }  # fmt: skip


def _lowest(scored: Scored, t: int) -> set[int]:
    """Who pulls the new version's mean score down most, and who has most of the scores on one side."""
    scored = scored.take(scored.t <= t)
    n, total = scored.sums[:, 0], scored.sums[:, 1]
    if not n.sum():
        return set()
    size, share = int(scored.who.max()) + 1, n[scored.arm == 1].sum() / n.sum()
    side = np.where(scored.arm == 1, 1 - share, -share)
    below = tally(scored.who, (total.sum() / n.sum() * n - total) * side, size)
    apart = np.abs(tally(scored.who, n * side, size))
    return {int(np.argmax(amount)) for amount in (below, apart) if amount.max() > 0}


def odd(cols: Columns, t: int) -> Group:
    """Requesters who by window t look as if they were kept to one version, each by itself: a tenth of the others do, by chance."""
    callers = cols.callers.take(cols.callers.t <= t)
    if not len(callers.t):
        return frozenset()
    who, chance = _chances(callers, int(callers.who.max()) + 1)
    return frozenset(who[chance <= APART].tolist())


def _apart(callers: Callers, size: int) -> set[int]:
    """Requesters whose requests do not meet the versions as everybody else's in the same windows do: whoever calls a version by its URL, or
    is kept to one. Of their chances by Benjamini and Hochberg (1995)."""
    who, chance = _chances(callers, size)
    ranked = np.sort(chance)
    below = ranked[ranked <= APART * np.arange(1, len(ranked) + 1) / max(len(ranked), 1)]
    return set(who[chance <= below[-1]].tolist()) if len(below) else set()


def _chances(callers: Callers, size: int) -> tuple[Ints, Floats]:
    """(requesters, the chance that one who is drawn like the others meets the versions so unevenly).

    Under independent labels the n requests of one go to the new version k times, and P(K >= k) <= exp(-n KL(k/n || p)) with p the mean of the
    others' shares in the same windows (Hoeffding 1963, Theorem 1, for labels that are not alike); it depends on no outcome.
    """
    cells, place = np.unique(callers.t * size + callers.who, return_inverse=True)
    t, who = np.divmod(cells, size)
    own = np.stack([tally(place[callers.arm == arm], callers.n[callers.arm == arm], len(cells)) for arm in (0, 1)], -1)
    length = int(callers.t.max()) + 1
    rest = np.stack([tally(t, own[:, arm], length) for arm in (0, 1)], -1)[t] - own
    beside = rest.sum(1)
    n = own.sum(1) * (beside > 0)
    whole, others = tally(who, n, size), tally(who, beside, size)
    p, k = (
        tally(who, n * part, size) / np.maximum(whole, 1)
        for part in (rest[:, 1] / np.maximum(beside, 1), own[:, 1] / own.sum(1))
    )
    p = (p * whole + 0.5) / (whole + 1)
    served = np.flatnonzero(whole)
    sure = (whole * others / np.maximum(whole + others, 1))[served]  # p is an estimate, too
    return served, 2 * np.exp(-sure * (_part(k, p) + _part(1 - k, 1 - p))[served])


def _part(a: Floats, b: Floats) -> Floats:
    """a log(a/b), a term of the divergence of two distributions; 0 where a is."""
    return np.asarray(a * np.log(np.where(a > 0, a, b) / b))


def _by_itself(new: Floats, prior: Floats, share: float) -> set[int]:
    """The requester with nearly all requests, where both versions serve it about as the split says."""
    who = int(np.argmax(new + prior))
    of = new[who] + prior[who]
    own = (new[who] + 0.5) / (of + 1)
    odds = own / (1 - own) * (1 - share + 1e-9) / (share + 1e-9)
    return {who} if of >= ITSELF * (new.sum() + prior.sum()) and 0.5 < odds < 2 else set()


def without(cols: Columns, who: Group, metrics: Collection[str]) -> Columns:
    """The columns as if these requesters had sent nothing, as far as `metrics` ask for it. A histogram does not say whose its requests
    are: of each bucket is taken the part that is theirs where their latencies and the others' are log-normal, with the means and
    spreads that are known of both."""
    gone = np.isin(cols.callers.who, list(who))
    caller = cols.callers.take(gone)
    n, faults = cols.n.copy(), cols.faults.copy()
    np.subtract.at(n, (caller.t, caller.g, caller.arm), caller.n)
    np.subtract.at(faults, (caller.t, caller.g, caller.arm), caller.faults)
    histograms = dict(cols.histograms)
    if "latency" in histograms and {"latency", "ttft"} & set(metrics):
        histograms["latency"] = _taken(histograms["latency"], caller, histograms["latency"])
        if "ttft" in histograms:
            histograms["ttft"] = _taken(histograms["ttft"], caller, cols.histograms["latency"])
    answers, bad = cols.answers.copy(), cols.bad.copy()
    np.subtract.at(answers, (caller.t, caller.g, caller.arm), caller.answers)
    np.subtract.at(bad, (caller.t, caller.g, caller.arm), caller.bad)
    scores = {name: sums.copy() for name, sums in cols.scores.items()}
    for name, scored in cols.scored.items():
        its = scored.take(np.isin(scored.who, list(who)))
        np.subtract.at(scores[name], (its.t, np.zeros_like(its.t), its.arm), its.sums)
    return replace(
        cols, n=np.maximum(n, 0.0), faults=np.maximum(faults, 0.0), answers=np.maximum(answers, 0.0), bad=np.maximum(bad, 0.0),
        histograms=histograms, scores={name: np.maximum(sums, 0.0) for name, sums in scores.items()},
        callers=cols.callers.take(~gone),
        scored={name: scored.take(~np.isin(scored.who, list(who))) for name, scored in cols.scored.items()},
    )  # fmt: skip


def _moments(
    side: Ints, n: Floats | Ints, total: Floats | Ints, squares: Floats | Ints, size: int
) -> tuple[Floats, Floats, Floats]:
    """(number, mean, spread) by group and version."""
    count, mean = tally(side, n, size), tally(side, total, size)
    mean = mean / np.maximum(count, 1)
    variance = tally(side, squares, size) / np.maximum(count, 1) - mean**2
    return count, mean, np.sqrt(np.maximum(variance, 1.0))


def _taken(entries: Entries, caller: Callers, latency: Entries) -> Entries:
    """Entries without these requesters' part. Times to the first token are taken to lie as far from their mean as latencies do from theirs."""
    size = 2 * (int(max(entries.g.max(initial=0), caller.g.max(initial=0), latency.g.max(initial=0))) + 1)
    side, own, its = entries.g * 2 + entries.arm, caller.g * 2 + caller.arm, latency.g * 2 + latency.arm
    lat = latency.bucket.astype(float)
    n, mean, spread = _moments(own, caller.timed, caller.latency_sum, caller.latency_squares, size)
    whole, middle, width = _moments(its, latency.weight, latency.weight * lat, latency.weight * lat**2, size)
    left = np.maximum(whole - n, 0.0)
    others = (whole * middle - n * mean) / np.maximum(left, 1.0)
    apart = (
        np.maximum(
            (whole * (width**2 + middle**2) - n * (spread**2 + mean**2)) / np.maximum(left, 1.0) - others**2, 1.0
        )
        ** 0.5
    )
    bucket = entries.bucket.astype(float)
    if entries is not latency:
        _, here, _ = _moments(side, entries.weight, entries.weight * bucket, entries.weight * bucket**2, size)
        bucket = bucket - here[side] + middle[side]

    def density(count: Floats, at: Floats, sd: Floats) -> Floats:
        return np.asarray(
            count[side] / sd[side] * np.exp(-0.5 * ((bucket - at[side]) / sd[side]) ** 2) + 1e-12 * count[side]
        )

    part = density(n, mean, spread)
    part = np.where(n[side] > 0, part / (part + density(left, others, apart) + 1e-300), 0.0)
    cells, place = np.unique(np.concatenate([_key(entries.t, side), _key(caller.t, own)]), return_inverse=True)
    place, whose = place[: len(side)], place[len(side) :]
    wanted, hoped = tally(whose, caller.timed, len(cells)), tally(place, part * entries.weight, len(cells))
    weight = entries.weight * (1 - np.clip(part * (wanted / np.maximum(hoped, 1e-12))[place], 0.0, 1.0))
    kept = weight > 1e-9
    return Entries(entries.t[kept], entries.g[kept], entries.arm[kept], entries.bucket[kept], weight[kept])


def _key(t: Ints, side: Ints) -> Ints:
    return np.asarray(t * 1_000_000 + side)
