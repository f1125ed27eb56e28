"""Answers of two versions to the same requests -> whether the new one is worse, before anybody uses it (pure).

A rehearsal has an end, so these are tests at one look: together they call a version that is as good worse with a probability of at most LEVEL (Bonferroni).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, wilcoxon

from lastgood.record.words import counted, percent

LEVEL = 0.05
SHARES = {"errors": 0.8, "latency": 0.07, "schema": 0.07, "scores": 0.06}
"""Of LEVEL, by what is compared. Failures are few, so their test needs most of it; a slower version or a lost field is seen by far."""
LEAST = 50
"""Requests below which nothing is called as good."""
WARM = 3
"""Pairs at the start whose speed does not count."""
ANSWER = ""
"""The field of every answer."""


@dataclass(frozen=True)
class Reply:
    """One version's answer. failed: its error code, None for success and for a request that was refused. fields: names in it, nested by dots, and ANSWER;
    none where the request was refused. score: 0-1, of exact scorers; opinion: 0-1, of scorers that may be wrong."""

    failed: str | None
    seconds: float
    tokens_out: float | None = None
    fields: frozenset[str] = frozenset()
    score: float | None = None
    opinion: float | None = None


@dataclass(frozen=True)
class Finding:
    """What was compared, whether the new version is worse in it, p, and one sentence."""

    metric: str
    worse: bool
    p: float
    sentence: str


@dataclass(frozen=True)
class Outcome:
    """state: worse, as good (as far as so many requests show it), or undecided (too few)."""

    state: str
    requests: int
    findings: tuple[Finding, ...]

    @property
    def sentence(self) -> str:
        worse = [finding.sentence for finding in self.findings if finding.worse]
        if worse:
            return "; ".join(worse)
        if self.state == "undecided":
            return f"{self.requests} requests are too few to call it as good: {LEAST} are needed"
        return f"no worse in {self.requests} requests"


def compare(
    pairs: Sequence[tuple[Reply, Reply]], history: tuple[float, float], error_tolerance: float, latency_tolerance: float
) -> Outcome:
    """pairs: (prior's answer, new one's) to the same request. history: requests of the prior version lately and how many of them failed, as its windows
    say; a few hundred requests show the prior's rate of failures poorly. Tolerances as the policy has them."""
    findings = [
        _errors(pairs, history, error_tolerance), _latency(pairs, latency_tolerance), _schema(pairs), _scores(pairs), _opinions(pairs), _length(pairs),
    ]  # fmt: skip
    made = tuple(finding for finding in findings if finding is not None)
    state = "worse" if any(finding.worse for finding in made) else "as good" if len(pairs) >= LEAST else "undecided"
    return Outcome(state, len(pairs), made)


def _level(metric: str) -> float:
    return LEVEL * SHARES[metric]


def _errors(pairs: Sequence[tuple[Reply, Reply]], history: tuple[float, float], tolerance: float) -> Finding | None:
    """Given how many failed of all, how many of them are the new version's: binomial at most, where its rate is at most `tolerance` times the prior's."""
    n = len(pairs)
    if not n:
        return None
    new, prior = (sum(pair[arm].failed is not None for pair in pairs) for arm in (1, 0))
    seen, bad = n + history[0], prior + history[1]
    p = float(binom.sf(new - 1, new + round(bad), n * tolerance / (n * tolerance + seen))) if new else 1.0
    codes = sorted({pair[1].failed for pair in pairs if pair[1].failed is not None})[:3]
    rates = f"{percent(new / n)} of its requests fail ({', '.join(codes)})" if new else "none of its requests fails"
    return Finding("errors", p <= _level("errors"), p, f"{rates} against {percent(bad / seen)} of the prior's")


def _latency(pairs: Sequence[tuple[Reply, Reply]], tolerance: float) -> Finding | None:
    """Signed ranks of the logarithms of ratios (Wilcoxon 1945), of requests that both answered."""
    ratios = np.array(
        [
            math.log(new.seconds / prior.seconds)
            for prior, new in pairs[WARM:]
            if _both(prior, new) and min(new.seconds, prior.seconds) > 0
        ]
    )
    if len(ratios) < LEAST // 2:
        return None
    p = _above(ratios - math.log1p(tolerance))
    return Finding(
        "latency",
        p <= _level("latency"),
        p,
        f"it takes {math.exp(float(np.median(ratios))):.2f} times as long (median of pairs)",
    )


def _schema(pairs: Sequence[tuple[Reply, Reply]]) -> Finding | None:
    """Fields that the prior's answer has and the new one's has not, beside the other way round (sign test); the worst field, paid for by their number."""
    both = [pair for pair in pairs if _both(*pair)]
    names = set().union(*(prior.fields for prior, _ in both)) if both else set()
    worst: tuple[float, str, int] | None = None
    for name in sorted(names):
        lost = sum(name in prior.fields and name not in new.fields for prior, new in both)
        won = sum(name in new.fields and name not in prior.fields for prior, new in both)
        p = min(1.0, float(binom.sf(lost - 1, lost + won, 0.5)) * len(names)) if lost else 1.0
        worst = min(worst or (2.0, "", 0), (p, name, lost))
    if worst is None:
        return None
    p, name, lost = worst
    sentence = "its answers have the same fields"
    if p < 1:
        sentence = f"{lost} of {len(both)} answers lack {name}, which the prior's have"
        sentence = sentence if name else f"it refuses {lost} of {counted(len(both), 'request')} more than the prior"
    return Finding("schema", p <= _level("schema"), p, sentence)


def _scores(pairs: Sequence[tuple[Reply, Reply]]) -> Finding | None:
    """Scores of exact scorers, lower on the same request (signed ranks)."""
    apart = np.array(
        [prior.score - new.score for prior, new in pairs if prior.score is not None and new.score is not None]
    )
    if len(apart) < LEAST // 2:
        return None
    p = _above(apart)
    return Finding("scores", p <= _level("scores"), p, f"it scores {-float(apart.mean()):+.2f} on the same requests")


def _opinions(pairs: Sequence[tuple[Reply, Reply]]) -> Finding | None:
    """What scorers that may be wrong say: no test, for nobody has corrected them, and they may like one version's tone."""
    apart = np.array(
        [new.opinion - prior.opinion for prior, new in pairs if prior.opinion is not None and new.opinion is not None]
    )
    if len(apart) < 2:
        return None
    error = float(apart.std(ddof=1)) / len(apart) ** 0.5
    sentence = f"scorers that people have not corrected here say {float(apart.mean()):+.2f} ± {1.96 * error:.2f}"
    return Finding("opinions", False, 1.0, sentence)


def _length(pairs: Sequence[tuple[Reply, Reply]]) -> Finding | None:
    """A change, and no harm by itself."""
    ratios = [
        math.log(new.tokens_out / prior.tokens_out) for prior, new in pairs if prior.tokens_out and new.tokens_out
    ]
    if len(ratios) < LEAST // 2:
        return None
    return Finding(
        "length", False, 1.0, f"its answers have {math.exp(float(np.median(ratios))):.2f} times as many tokens"
    )


def _both(prior: Reply, new: Reply) -> bool:
    return prior.failed is None and new.failed is None


def _above(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """One-sided p of "the values lie around 0 or below"."""
    return float(wilcoxon(values, alternative="greater").pvalue) if np.any(values) else 1.0
