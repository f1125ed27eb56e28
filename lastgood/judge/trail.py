"""Columns -> trail: the evidence after every window, for one comparison or many side by side (pure)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lastgood.judge import eprocess
from lastgood.judge.columns import Columns, Ints, tally
from lastgood.judge.eprocess import Floats
from lastgood.judge.requesters import DECIDED, MIXED, by_requester, largest, mixing
from lastgood.judge.streams import Blocks, Carry, Stream, by_request, nothing, pooled, total
from lastgood.settings import Policy

STICKY, UNDECIDED, REQUEST = 0, 1, 2
KNOWN = 0.2
"""Share of requests whose requester must be known before routing is judged by requesters."""
RECENT = 60
UNDECIDED_SHARE = 0.3
"""Until routing is known, evidence by requester may use this part of the budget; evidence by request the rest."""


@dataclass(frozen=True)
class Trail:
    """After window t of comparison s: e [T, S]; routing [T, S]; slo [T, S, 2] evidence that an arm breaks its objective; windows,
    bad, bad_requesters [T, S] of the new version. `streams` count requests, `sticky` requesters."""

    cols: Columns
    e: Floats
    routing: Ints
    known: npt.NDArray[np.bool_]
    streams: list[Stream]
    sticky: list[Stream]
    blocks: dict[str, Blocks]
    slo: Floats
    slo_onset: Floats
    windows: Ints
    bad: Floats
    bad_requesters: Floats
    clumped: npt.NDArray[np.bool_]

    def counted(self, t: int, s: int = 0) -> list[Stream]:
        """The streams the evidence at t rests on."""
        return self.streams if self.routing[t, s] == REQUEST else self.sticky


def follow(cols: Columns, policy: Policy, carry: Carry | None = None) -> tuple[Trail, Carry]:
    """Fold windows into the evidence, from nothing or from what an earlier call handed on (only when counting requests)."""
    carry = carry or nothing()
    streams, blocks = by_request(cols, policy, carry)
    shape = (len(cols.times), cols.many)
    e, routing, known, sticky = total(streams, cols), np.full(shape, REQUEST), np.zeros(shape, bool), []
    if (cols.requesters.n > 0).any():
        routing, known = _routing(cols)
        sticky = by_requester(cols, policy, blocks, (routing != REQUEST).any(1))
        first = largest(sticky, shape) * np.where(routing == UNDECIDED, UNDECIDED_SHARE, 1.0)
        e = np.where(known, np.where(routing == REQUEST, (1 - UNDECIDED_SHARE) * e, first), e)
    served = cols.per_series(cols.n)
    bad = np.cumsum(cols.per_series(cols.failed)[..., 1], 0)
    trail = Trail(
        cols, e, routing, known, streams, sticky, blocks, *_objective(cols, policy, carry), np.cumsum(served[..., 1] > 0, 0), bad,
        _who_saw_failures(cols), ~known & _clumped(cols, blocks),
    )  # fmt: skip
    return trail, carry


def _routing(cols: Columns) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """(how requests are routed, whether requesters are known) [T, S] so far."""
    served = cols.per_series(cols.n)
    _, _, split = pooled(np.zeros(served.shape[1:]), np.zeros(served.shape[1]), served, 400.0)
    seen, expected = mixing(cols, split[..., 1] / np.maximum(split.sum(-1), 1e-9))
    decided = expected >= DECIDED
    routing = np.where(decided & (seen >= MIXED * expected), REQUEST, UNDECIDED)
    routing = np.where(decided & (seen < 0.5 * expected), STICKY, routing)
    requesters = cols.requesters
    cell = requesters.t * cols.many + cols.series[requesters.g]
    named = np.cumsum(tally(cell, requesters.n, served.shape[0] * cols.many).reshape(-1, cols.many), 0)
    known = named >= KNOWN * np.cumsum(served.sum(-1), 0)
    return np.where(known, routing, REQUEST), known


def _clumped(cols: Columns, blocks: dict[str, Blocks]) -> npt.NDArray[np.bool_]:
    """[T, S]: requests, failures or slow requests change sides in bunches, as they do when a requester always meets the same version.

    For the split the median over pairs of neighbours decides, which keeps planned changes of it out; for failures the mean, which
    sees single storms.
    """
    served, failed = cols.per_series(cols.n), cols.per_series(blocks["errors"].x[..., 0])
    slow = cols.per_series(blocks["latency"].x[..., 1])
    return _restless(served, 8, True) | _restless(failed, 2, False) | _restless(slow, 2, False)


def _restless(counts: Floats, least: int, robust: bool) -> npt.NDArray[np.bool_]:
    """[T, S]: whether the share of new among counts [T, S, 2] differs between neighbours more than a binomial one would, at some
    scale (sums of 1, 8 and 64 windows with at least `least` each), over the last RECENT pairs of them."""
    out = np.zeros(counts.shape[:2], bool)
    for scale in (1, 8, 64):
        whole = len(counts) // scale
        if whole < 4:
            continue
        sums = counts[: whole * scale].reshape(whole, scale, *counts.shape[1:]).sum(1)
        n, so_far = sums.sum(-1), np.cumsum(sums, 0)[1:]
        share = so_far[..., 1] / np.maximum(so_far.sum(-1), 1)
        gap = sums[1:, :, 1] / np.maximum(n[1:], 1) - sums[:-1, :, 1] / np.maximum(n[:-1], 1)
        spread = share * (1 - share) * (1 / np.maximum(n[1:], 1) + 1 / np.maximum(n[:-1], 1))
        use = (np.minimum(n[1:], n[:-1]) >= least) & (spread > 0)
        score = np.where(use, gap**2 / np.maximum(spread, 1e-12), np.nan)
        at = np.arange(2, whole - 1, 8 if scale == 1 else 1)
        recent = np.concatenate([np.full((RECENT - 1, score.shape[1]), np.nan), score])
        recent = np.lib.stride_tricks.sliding_window_view(recent, RECENT, 0)[at]
        seen = np.isfinite(recent).sum(-1)
        recent = np.where((seen > 0)[..., None], recent, 0.0)
        middle, limit = (np.nanmedian(recent, -1), 0.4549) if robust else (np.nanmean(recent, -1), 1.0)
        over = (seen >= 3) & (middle > limit * (1 + (10 if robust else 4) / np.sqrt(np.maximum(seen, 1))))
        last = np.searchsorted((at + 2) * scale - 1, np.arange(len(counts)), "right") - 1
        out |= np.where((last >= 0)[:, None], over[np.maximum(last, 0)], False)
    return out


def _objective(cols: Columns, policy: Policy, carry: Carry) -> tuple[Floats, Floats]:
    """(evidence that a version breaks the error objective, since which minute) [T, S, 2], with restarts for a late onset."""
    zero = carry.zero or 0.0
    minutes = (cols.times + cols.width - zero) / 60
    logs = cols.per_series(eprocess.log_e_above(cols.n, np.minimum(cols.failed, cols.n), policy.error_slo))
    state = carry.states.get("slo") or eprocess.start(cols.many, 2, len(eprocess.BURN))
    even = np.full(len(eprocess.BURN), 1 / len(eprocess.BURN))
    carry.states["slo"], e, onset = eprocess.advance(state, logs, minutes, even)
    return e, onset


def _who_saw_failures(cols: Columns) -> Floats:
    """Distinct requesters that have seen the new version fail, so far [T, S]; inf where one of them is not known."""
    requesters = cols.requesters
    hit = (requesters.failed > 0) & (requesters.arm == 1)
    shape = (len(cols.times), cols.many)
    if not hit.any():
        return np.zeros(shape)
    t, who, series = requesters.t[hit], requesters.who[hit], cols.series[requesters.g[hit]]
    order = np.lexsort((t, who, series))
    t, who, series = t[order], who[order], series[order]
    new = np.concatenate([[True], (who[1:] != who[:-1]) | (series[1:] != series[:-1])])
    anonymous = np.array([name == "?" for name in cols.named] or [False])
    weight = np.where(anonymous[np.minimum(who, len(anonymous) - 1)], np.inf, 1.0)
    counted = np.zeros(shape)
    np.add.at(counted, (t[new], series[new]), weight[new])
    return np.cumsum(counted, 0)
