"""Columns -> streams: for every metric the blocks of both versions and the e-process they feed (pure).

A metric is harm (failing, slower, worse answers and scores), which may roll back, or change (shorter or longer answers, another pace, more
requests above a limit or filtered), which is shown and watched at most. The evidence of harm is the sum of share x M over its streams, whose
shares sum to at most 1; the evidence of change is a sum of its own.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from lastgood.judge import eprocess
from lastgood.judge.columns import Bools, Columns, no_entries
from lastgood.judge.eprocess import Floats, State
from lastgood.judge.ranks import THETA_WEIGHTS, Open, Ranked, ends_of, nothing_open, ranked
from lastgood.record.fault import FAULTS, Fault
from lastgood.record.windows import GROWTH
from lastgood.settings import Policy

CHANGE = {"length": 0.4, "pace": 0.3, "limit": 0.15, "content": 0.15}
"""Metrics of change and their shares of that evidence."""
INPUT_DEPENDENT = ("latency", "ttft", "quality", "scores", "client")
"""Harm that another kind of prompts looks like."""
SPEED = ("latency", "ttft")
WHOLE_SHARE, RANK_SHARE = 0.8, 0.8
"""Of a metric's share, the part of all failures together, and of the test over all ranks; the rest goes to the classes and to the slowest few."""
ABSENT = 0.2
BLOCK = 20.0
"""A block has at least so many requests. Few: within a block the split and the rate of failures must not move together."""


@dataclass(frozen=True)
class Stream:
    """One test over time. e: M [T, S] before its share; onset [T, S] in minutes; new, prior: (seen, bad) so far [T, S, 2]; logs
    [T, S, K]: what each window added, by alternative."""

    name: str
    metric: str
    share: float
    e: Floats
    onset: Floats
    new: Floats
    prior: Floats
    logs: Floats

    @property
    def harm(self) -> bool:
        return self.metric not in CHANGE


@dataclass
class Carry:
    """What the judge keeps between looks: e-process states by stream, blocks still open by metric. Handed on, never shared."""

    states: dict[str, State]
    counts: dict[str, Floats]
    ranks: dict[str, Open]
    zero: float | None = None
    weights: Mapping[str, float] | None = None


def nothing() -> Carry:
    return Carry({}, {}, {})


@dataclass(frozen=True)
class Blocks:
    """n [T, G, 2] requests and x [T, G, 2, K] bad ones, for K tests that share them."""

    n: Floats
    x: Floats


def shift_buckets(tolerance: float) -> int:
    """How many latency buckets a slowdown by `tolerance` spans, rounded up in the new version's favour."""
    return math.ceil(math.log1p(tolerance) / math.log(GROWTH) - 1e-9)


def gathered(carry: Floats, counts: Floats, at_least: float, breaks: Bools | None = None) -> tuple[Floats, Floats]:
    """counts [T, G, 2, 1 + K] (requests, then bad ones) as blocks: a group's windows are put together until they hold enough
    requests; the block stands at its last window, zeros elsewhere. (what is still open [G, 2, 1 + K], blocks).

    Where a block ends depends on neither version nor outcome, so within it labels are exchangeable and its own split is exact: a
    split estimated from other windows would be off by chance, and errors of many small blocks add up to false evidence.
    """
    n, size = counts[..., 0].sum(-1), carry[..., 0].sum(-1)
    if not counts.any() or (not size.any() and (n >= at_least).all()):
        return carry, counts
    length, groups = n.shape
    ends, _ = ends_of(n, size, at_least, breaks)
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


def failures(cols: Columns, kinds: tuple[Fault, ...]) -> Blocks:
    """Failed requests of `kinds`, over all and by class.

    Where failures in a window have no prompt length (a failed request may not say it), the lengths of that window and scope are
    pooled: a stratum that only failures can enter would hide them. So are the scopes, where failures say none (who never reached the model has
    no latency of it).
    """
    by_kind = cols.faults[..., [FAULTS.index(kind) for kind in kinds]]
    n, x = cols.n.copy(), np.concatenate([by_kind.sum(-1, keepdims=True), by_kind], -1)
    unscoped = np.array([stratum.startswith("?/") for stratum in cols.strata])
    pools = [(np.flatnonzero(cols.scope == scope), ~cols.sized) for scope in np.unique(cols.scope)]
    if unscoped.any():
        pools += [(np.flatnonzero(cols.series == series), unscoped) for series in np.unique(cols.series)]
    for cells, unsaid in pools:
        unknown = cells[unsaid[cells]]
        if len(unknown) in (0, len(cells)):
            continue
        lost = x[..., 0][:, unknown].sum((1, 2)) > 0
        for counts in (n, x):
            whole = counts[:, cells].sum(1)
            counts[np.ix_(lost, cells)] = 0.0
            counts[lost, unknown[0]] = whole[lost]
    return Blocks(n, x)


def fold(metric: str, shares: Mapping[str, float], blocks: Blocks, r0: float, cols: Columns, carry: Carry, minutes: Floats,
         tempering: float) -> list[Stream]:  # fmt: skip
    """The e-processes of one metric of counts, one per name in `shares` (in the order of the blocks' K)."""
    counts = np.concatenate([blocks.n[..., None], blocks.x], -1)
    opened, counts = gathered(carry.counts.get(metric, np.zeros(counts.shape[1:])), counts, BLOCK, cols.breaks)
    carry.counts[metric] = opened
    whole = counts[..., 0].sum(-1)
    pi = counts[..., 1, 0] / np.maximum(whole, 1e-9)
    use = (pi > 0) & (pi < 1)
    seen, bad = np.cumsum(cols.per_series(blocks.n), 0), np.cumsum(cols.per_series(blocks.x), 0)
    x = (counts[..., 1:] * use[..., None, None]).swapaxes(-1, -2)
    logs = cols.per_series(tempering * eprocess.log_e(pi[..., None], x[..., 1], x.sum(-1), r0))
    made = []
    for k, (name, share) in enumerate(shares.items()):
        kept = [np.stack([seen[..., arm], bad[..., arm, k]], -1) for arm in (1, 0)]
        made.append(_stream(name, metric, share, logs[:, :, k], eprocess.WORSE_WEIGHTS, kept, carry, minutes))
    return made


def _stream(name: str, metric: str, share: float, logs: Floats, weights: Floats, kept: list[Floats], carry: Carry,
            minutes: Floats) -> Stream:  # fmt: skip
    state = carry.states.get(name) or eprocess.start(*logs.shape[1:])
    carry.states[name], e, onset = eprocess.advance(state, logs, minutes, weights)
    return Stream(name, metric, share, e, onset, kept[0], kept[1], logs)


def _by_rank(name: str, metric: str, weight: float, tolerance: float, cols: Columns, carry: Carry, minutes: Floats, tempering: float,
             sign: int = 1) -> tuple[list[Stream], Ranked]:  # fmt: skip
    opened = carry.ranks.get(name) or nothing_open(len(cols.strata))
    entries = cols.histograms.get(metric) or no_entries()
    blocks, carry.ranks[name] = ranked(entries, cols, shift_buckets(tolerance), BLOCK, opened, sign)
    seen, slow = (np.cumsum(cols.per_series(v), 0) for v in (blocks.n, blocks.x))
    kept = [np.stack([seen[..., arm], slow[..., arm]], -1) for arm in (1, 0)]
    tests = [
        (name, RANK_SHARE, blocks.scores, THETA_WEIGHTS),
        (f"{name} tail", 1 - RANK_SHARE, blocks.tail, eprocess.WORSE_WEIGHTS),
    ]
    made = [
        _stream(part, metric, weight * share, cols.per_series(tempering * logs), weights, kept, carry, minutes)
        for part, share, logs, weights in tests
    ]
    return made, blocks


def streams_of(metrics: Collection[str], cols: Columns, policy: Policy) -> list[Stream]:
    """The streams of some metrics for a whole comparison, from nothing."""
    return streams(cols, policy, nothing(), metrics)[0]


def streams(
    cols: Columns, policy: Policy, carry: Carry, only: Collection[str] | None = None
) -> tuple[list[Stream], dict[str, Blocks]]:
    """All streams (or those of `only` some metrics), and the blocks that proofs of safety are made of (metric -> Blocks)."""

    def asked(metric: str) -> bool:
        return only is None or metric in only

    minutes = (cols.times + cols.width - _zero(cols, carry)) / 60
    weights, eta = _weights(cols, policy, carry), policy.tempering
    counted = tuple(kind for kind in FAULTS if kind in policy.rollback_faults)
    blocks = {"errors": failures(cols, counted), "quality": Blocks(cols.answers, cols.bad[..., None])}
    shares = {"errors": weights["errors"] * WHOLE_SHARE}
    shares |= {f"errors {kind}": weights["errors"] * (1 - WHOLE_SHARE) / max(1, len(counted)) for kind in counted}
    made, quality = [], {"quality": weights["quality"]}
    if asked("errors"):
        made += fold("errors", shares, blocks["errors"], policy.error_tolerance, cols, carry, minutes, eta)
    if asked("quality"):
        made += fold("quality", quality, blocks["quality"], policy.quality_tolerance, cols, carry, minutes, eta)
    for kind in (Fault.CLIENT, Fault.LIMIT, Fault.CONTENT):
        if kind not in counted and asked(kind):
            share = {str(kind): CHANGE.get(kind, weights["client"])}
            several = Blocks(cols.n, failures(cols, (kind,)).x[..., :1])
            made += fold(kind, share, several, policy.error_tolerance, cols, carry, minutes, eta)
    for metric in filter(asked, SPEED):
        tests, of_ranks = _by_rank(metric, metric, weights[metric], policy.latency_tolerance, cols, carry, minutes, eta)
        made += tests
        blocks[metric] = Blocks(of_ranks.n, of_ranks.x[..., None])
    for name, metric, limit, sign in (
        ("pace", "pace", policy.latency_tolerance, 1), ("longer", "length", policy.length_tolerance, 1),
        ("shorter", "length", policy.length_tolerance, -1),
    ):  # fmt: skip
        if asked(metric):
            part = CHANGE[metric] * (0.5 if metric == "length" else 1.0)
            made += _by_rank(name, metric, part, limit, cols, carry, minutes, eta, sign)[0]
    return made + (_scores(cols, policy, carry, minutes) if asked("scores") else []), blocks


def _weights(cols: Columns, policy: Policy, carry: Carry) -> Mapping[str, float]:
    """Share of the budget by metric: one that the very first window says nothing of keeps ABSENT of its weight, and the others get
    the rest. What there is to see does not depend on versions, so this is as fair as fixed weights."""
    if carry.weights is None and len(cols.times):
        present = {name for name, histogram in cols.histograms.items() if (histogram.t == 0).any()} | {
            "errors",
            "client",
        }
        present |= {"quality"} if cols.answers[0].any() else set()
        present |= {"scores"} if cols.judged or any(score[0].any() for score in cols.scores.values()) else set()
        kept = {name: weight * (1.0 if name in present else ABSENT) for name, weight in policy.weights.items()}
        seen = math.fsum(weight for name, weight in kept.items() if name in present)
        more = 1 + (math.fsum(policy.weights.values()) - math.fsum(kept.values())) / max(seen, 1e-9)
        carry.weights = {name: weight * (more if name in present else 1.0) for name, weight in kept.items()}
    named = carry.weights or policy.weights
    return {name: named.get(name, 0.0) for name in ("errors", "client", "latency", "ttft", "quality", "scores")}


def _zero(cols: Columns, carry: Carry) -> float:
    """When the comparison began: the first window ever given."""
    if carry.zero is None:
        carry.zero = float(cols.times[0]) if len(cols.times) else 0.0
    return carry.zero


def _scores(cols: Columns, policy: Policy, carry: Carry, minutes: Floats) -> list[Stream]:
    """Evaluation scores and labels: bounded means, one stream per name; the guess is the pooled mean of earlier windows. Pairs that a model judged
    count in the window in which they were settled, else in the next one."""
    made = []
    weight = _weights(cols, policy, carry)["scores"] / max(1, len(cols.scores) + len(cols.judged))
    even = np.full(len(eprocess.LAMBDAS), 1 / len(eprocess.LAMBDAS))
    for name, sums in cols.scores.items():
        part = f"scores {name}"
        whole, total = sums.sum(2), carry.counts.get(part, np.zeros((cols.many, 3)))
        before = np.concatenate([total[None], total + np.cumsum(whole, 0)])
        carry.counts[part] = before[-1]
        guess = np.where(before[:-1, :, 0] > 0, before[:-1, :, 1] / np.maximum(before[:-1, :, 0], 1e-9), 0.5)
        logs = policy.tempering * eprocess.log_e_mean(sums[:, :, 1], sums[:, :, 0], guess, policy.score_tolerance)
        kept = [np.cumsum(sums[:, :, arm, :2], 0) for arm in (1, 0)]
        made.append(_stream(part, "scores", weight, logs, even, kept, carry, minutes))
    for name, pairs in cols.judged.items():
        t = np.minimum(np.searchsorted(cols.times + cols.width, pairs.at), len(cols.times) - 1)
        logs, sums = np.zeros((len(cols.times), len(even))), np.zeros((len(cols.times), 2, 2))
        np.add.at(logs, t, policy.tempering * pairs.logs)
        np.add.at(sums, t, np.stack([np.ones_like(pairs.values), pairs.values], -1))
        kept = [np.cumsum(sums[:, None, arm], 0) for arm in (1, 0)]
        made.append(_stream(f"scores {name}", "scores", weight, logs[:, None], even, kept, carry, minutes))
    return made


def total(streams: list[Stream], cols: Columns) -> Floats:
    """E [T, S]: the sum of share x M, what has no stream counting as 1."""
    rest = 1 - math.fsum(stream.share for stream in streams)
    e = np.full((len(cols.times), cols.many), max(0.0, rest))
    for stream in streams:
        e = e + stream.share * stream.e
    return e
