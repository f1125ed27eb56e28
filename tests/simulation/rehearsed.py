"""Made rehearsals: what two versions answer to the same requests."""

from typing import Any

import numpy as np

from lastgood.judge.rehearsal import Outcome, Reply, compare

FIELDS = frozenset({"choices", "choices.message.content", "usage.total_tokens"})
REQUESTS = 500
AS_GOOD = "as good"
WORSE: dict[str, dict[str, float]] = {
    AS_GOOD: {}, "x1.3 latency": {"slower": 1.3}, "+1 point of errors": {"more": 0.01}, "+2 points of errors": {"more": 0.02},
    "a field is missing in 3 %": {"lost": 0.03}, "a field is missing": {"lost": 1.0}, "10 points of a score": {"drop": 0.1},
}  # fmt: skip


def rehearsed(
    seed: int, n: int = REQUESTS, slower: float = 1.0, failing: float = 0.002, more: float = 0.0, lost: float = 0.0, drop: float = 0.0
) -> Outcome:  # fmt: skip
    """Latencies vary much between requests and some between answers; both fail at `failing`, the new one at `more` besides; 20,000 requests of the prior
    are known beside these."""
    r = np.random.default_rng(seed)

    def reply(base: float, new: bool) -> Reply:
        failed = "HTTP_500" if r.random() < failing + (more if new else 0.0) else None
        fields = FIELDS - {"usage.total_tokens"} if new and r.random() < lost else FIELDS
        score = float(r.random() >= 0.1 + (drop if new else 0.0))
        return Reply(
            failed,
            base * np.exp(r.normal(0, 0.3)) * (slower if new else 1.0),
            50 * np.exp(r.normal(0, 0.3)),
            fields,
            score,
        )

    bases = np.exp(r.normal(0, 0.8, n))
    return compare(
        [(reply(base, False), reply(base, True)) for base in bases], (20_000, r.binomial(20_000, failing)), 1.25, 0.1
    )


def called_worse(worse: dict[str, Any], seed: int) -> bool:
    return rehearsed(seed, **worse).state == "worse"
