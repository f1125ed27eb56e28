"""Counts of good and bad in two versions -> anytime-valid evidence (pure, vectorised over any leading shape).

An e-process M satisfies P(sup_t M_t >= 1/alpha) <= alpha under its null (Ville), so it may be looked at after every block
for ever. Derivations, sources and how each formula was checked: docs/explanation/judge-derivations.md.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

Floats = npt.NDArray[np.float64]

WORSE = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 8.0])
WORSE_WEIGHTS = np.array([0.02, 0.06, 0.22, 0.49, 0.17, 0.04])
BETTER = np.array([0.8, 0.6, 0.4, 0.2])
BURN = np.array([1.5, 2.0, 3.0, 6.0, 14.4])
LAMBDAS = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
RISE = np.array([1.5, 2.0, 3.0, 5.0])
RESTART_SCALE = 30.0
"""Minutes in which half of the restarts' capital is spent (see `spent`)."""
FROM_START = 0.3
"""Share of the evidence on "worse from the start"; the rest is on "worse from some later minute on"."""
MAX_LOG = 690.0


def log_e(pi: Floats, x1: Floats, x: Floats, r0: float | Floats, omega: Floats = WORSE) -> Floats:
    """log e [..., omega] against P(bad | new) <= r0 P(bad | prior), r0 >= 1; x1 of the x bad ones are new, pi = share of new.

    log e = x1 ln w - x ln(1 - p0 + p0 w), p0 = pi r0 / (1 - pi + pi r0): given x, x1 is hypergeometric, which the binomial
    dominates in convex order (Hoeffding 1963); sums of events with independent labels are binomial outright.
    """
    p0 = pi * r0 / (1 - pi + pi * r0)
    return np.asarray(x1[..., None] * np.log(omega) - x[..., None] * np.log1p(p0[..., None] * (omega - 1)))


def log_e_better(n1: Floats, n0: Floats, x1: Floats, x: Floats, r0: float, omega: Floats = BETTER) -> Floats:
    """log e [blocks, omega] against odds ratio >= r0 (implied by a ratio of rates >= r0 >= 1); flat blocks.

    e = w^x1 / E[w^x1] = w^x1 Z(r0) / Z(r0 w), Z the normaliser of Fisher's noncentral hypergeometric: the binomial
    bound fails in this direction, so the expectation is exact.
    """
    a, b, k, hits = (np.rint(v).astype(np.int64) for v in (n1, n0, x, x1))
    first, last = np.maximum(0, k - b), np.minimum(a, k)
    use = np.flatnonzero((a > 0) & (b > 0) & (k > 0) & (last >= first))
    out = np.zeros((len(a), len(omega)))
    if not len(use):
        return out
    size = (last - first + 1)[use]
    starts = np.concatenate([[0], np.cumsum(size)[:-1]])
    row = np.repeat(use, size)
    values = first[row] + np.arange(len(row)) - np.repeat(starts, size)
    base = -(gammaln(values + 1) + gammaln(a[row] - values + 1))
    base -= gammaln(k[row] - values + 1) + gammaln(b[row] - k[row] + values + 1)

    def log_z(theta: float) -> Floats:
        terms = base + values * math.log(theta)
        top = np.maximum.reduceat(terms, starts)
        return np.asarray(top + np.log(np.add.reduceat(np.exp(terms - np.repeat(top, size)), starts)))

    whole = log_z(r0)
    for i, w in enumerate(omega):
        out[use, i] = hits[use] * math.log(w) - (log_z(r0 * float(w)) - whole)
    return out


def log_e_above(n: Floats, x: Floats, rate: float, burn: Floats = BURN) -> Floats:
    """log e [..., burn] against P(bad) <= rate: x ln(p/s) + (n - x) ln((1-p)/(1-s)) with p = min(burn s, .99)."""
    p = np.minimum(burn * rate, 0.99)
    return np.asarray(x[..., None] * np.log(p / rate) + (n - x)[..., None] * np.log((1 - p) / (1 - rate)))


def log_e_mean(new: Floats, prior: Floats, guess: Floats, tolerance: float, lambdas: Floats = LAMBDAS) -> Floats:
    """log e [..., lambda] against mean(new) >= mean(prior) - tolerance, values in [0, 1]: a betting e-process.

    new, prior: [..., (n, sum, sum of squares)]; guess: any number in [0, 1] known before the block. Each value is a bet,
    1 + a (guess - tolerance - y) on the new side and 1 + b (y - guess) on the prior's, with a n1 = b n0, so a wrong guess
    cancels: (1 + a d)^n1 (1 - b d)^n0 <= exp(a n1 d - b n0 d) = 1. Products of bets are bounded below from the sums alone by
    ln(1 + l z) >= l z + (ln(1 - l) + l) z^2, z >= -1 (Fan, Grama, Liu 2015), which keeps windows mergeable.
    """
    n1, n0 = new[..., 0, None], prior[..., 0, None]
    whole = np.maximum(n1 + n0, 1.0)
    total = np.zeros(np.broadcast_shapes(n1.shape, lambdas.shape))
    guess = np.clip(guess, tolerance, 1.0)[..., None]
    for side, other, sign, at in ((new, n0, -1.0, guess - tolerance), (prior, n1, 1.0, guess)):
        n, s, q = (side[..., i, None] for i in range(3))
        stake = lambdas * other / whole
        z, z2 = sign * (s - n * at), q - 2 * at * s + n * at * at
        total = total + stake * z + (np.log1p(-stake) + stake) * z2
    return np.where((n1 > 0) & (n0 > 0), total, 0.0)


def spent(minutes: Floats) -> Floats:
    """Share of the restarts' capital that has been put to work after so many minutes: m / (30 + m). Never all of it."""
    return np.asarray(minutes / (RESTART_SCALE + minutes))


@dataclass(frozen=True)
class State:
    """E-processes side by side, [..., omega]: log_l = sum of log e; log_a = log sum over restarts s of v_s exp(-log_l before s);
    low = lowest log_l so far and low_at = its time in minutes (the estimated onset). All that must be kept between looks."""

    minutes: float
    log_l: Floats
    log_a: Floats
    low: Floats
    low_at: Floats


def start(*shape: int) -> State:
    """Nothing seen yet, for e-processes of that shape (the last axis are the omegas)."""
    zero = np.zeros(shape)
    return State(0.0, zero, np.full(shape, -np.inf), zero, zero)


def advance(
    state: State, logs: Floats, minutes: Floats, weights: Floats, from_start: float = FROM_START
) -> tuple[State, Floats, Floats]:
    """Fold log e [T, ..., omega] of blocks that end `minutes` [T] after the start: (state, M [T, ...], onset minute [T, ...]).

    M = mean over omega of from_start exp(L) + (1 - from_start) R, R_t = (R_{t-1} + v_t) e_t plus the capital not yet spent: restarts for a late onset
    with weights v that sum to at most 1 over for ever. Folding block by block gives the same bits as folding all at once.
    """
    if not len(logs):
        return state, np.zeros((0, *logs.shape[1:-1])), np.zeros((0, *logs.shape[1:-1]))
    edge = np.concatenate([[state.minutes], minutes])
    level = np.add.accumulate(np.concatenate([state.log_l[None], logs]))
    with np.errstate(divide="ignore"):
        fresh = np.log(np.diff(spent(edge))).reshape(-1, *[1] * (logs.ndim - 1))
    seeds = np.logaddexp.accumulate(np.concatenate([state.log_a[None], fresh - level[:-1]]))
    low = np.minimum.accumulate(np.concatenate([state.low[None], level[:-1]]))
    when = np.where(level[:-1] <= low[:-1], edge[:-1].reshape(fresh.shape), -1.0)
    low_at = np.maximum.accumulate(np.concatenate([state.low_at[None], when]))
    late = np.logaddexp(level[1:] + seeds[1:], np.log(1 - spent(minutes)).reshape(fresh.shape))
    both = np.logaddexp(level[1:] + math.log(from_start), late + math.log(1 - from_start))
    value = np.exp(np.minimum(both, MAX_LOG)) @ weights
    best = np.argmax(level[1:] - low[1:], axis=-1)[..., None]
    onset = np.take_along_axis(low_at[1:], best, -1)[..., 0]
    return State(float(edge[-1]), level[-1], seeds[-1], low[-1], low_at[-1]), value, onset


def alarm(x: Floats, expected: Floats, dispersion: float | Floats = 1.0, rise: Floats = RISE) -> Floats:
    """The detector without a prior version [T, ...]: mean over r of S_t = (S_{t-1} + 1) exp((x ln r - m (r - 1)) / dispersion).

    S_t - t is a supermartingale while the rate is at most the expected m, so stopping at S >= A takes at least A blocks on
    average (e-detectors; Shin, Ramdas, Rinaldo 2023). x, expected: [T, ...] bad requests seen and expected at most.
    """
    s, out = np.full((*x.shape[1:], len(rise)), -np.inf), np.empty(x.shape)
    for t in range(len(x)):
        row = (x[t, ..., None] * np.log(rise) - expected[t, ..., None] * (rise - 1)) / dispersion
        s = np.minimum(np.logaddexp(s, 0.0) + row, MAX_LOG)
        out[t] = np.exp(s).mean(-1)
    return out


def log_e_split(new: Floats, prior: Floats, planned: float, concentration: float = 100.0) -> Floats:
    """log e [...] against "a request reaches the new version with probability `planned`" from running totals: a Dirichlet mixture
    around the plan (Lindon, Malek 2022)."""
    a, b = concentration * planned, concentration * (1 - planned)
    mixture = gammaln(a + new) - gammaln(a) + gammaln(b + prior) - gammaln(b)
    mixture += gammaln(a + b) - gammaln(a + b + new + prior)
    return np.asarray(mixture - new * math.log(planned) - prior * math.log1p(-planned))
