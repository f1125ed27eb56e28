"""Mergeable window counts (pure): bucket a value, merge counts, read quantiles.

Buckets are logarithmic with a fixed growth, so a histogram is {bucket index: weight}; the sum of two histograms is the
histogram of both. A value v > 0 falls into bucket floor(log(v) / log(GROWTH)); a bucket is reported as its
geometric middle, so a quantile is off by at most sqrt(GROWTH) - 1 < 1% (relative). 0 and below: bucket ZERO.
Source of the method: Masson, Rim, Lee, "DDSketch", VLDB 2019.
"""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lastgood.record.fault import FAULTS
from lastgood.record.telemetry import KINDS

GROWTH = 1.02
RELATIVE_ERROR = math.sqrt(GROWTH) - 1
ZERO = -(2**31)
SIZE_EDGES = (64, 256, 1024, 4096)
KEPT_REQUESTERS = 8
"""How many distinct requesters with a failure are remembered per window (the smallest hashes: mergeable)."""
CAP_REQUESTERS = 512
"""How many requesters a window describes (the smallest hashes: mergeable, and the same requesters in every window)."""
CALLER_FACTS = 4 + len(FAULTS)
START_TOKENS = 16
"""Pace is latency_ms / (tokens_out + START_TOKENS): what a request costs before its first token is worth about so many tokens."""

OUTSIDE = "outside 0-1: "
"""Before the name of a score: how many values of it were no share of anything (of `sums` only the number is one)."""

TINY = 1e-9
"""So far outside of 0-1 a share may be by rounding."""

Histogram = Mapping[int, float]


def bucket(value: float) -> int:
    """Index of the bucket that holds `value` (any unit); ZERO for values <= 0."""
    return math.floor(math.log(value) / math.log(GROWTH)) if value > 0 else ZERO


def middle(index: int) -> float:
    """The value that stands for a bucket, within RELATIVE_ERROR of all its values."""
    return 0.0 if index == ZERO else GROWTH ** (index + 0.5)


def add(*histograms: Mapping[int, float]) -> dict[int, float]:
    """Bucket-wise sum."""
    total: dict[int, float] = {}
    for histogram in histograms:
        for index, weight in histogram.items():
            total[index] = total.get(index, 0.0) + weight
    return total


def quantile(histogram: Histogram, q: float) -> float | None:
    """The q-quantile (0 <= q <= 1) in the histogram's unit, or None when it is empty."""
    total = math.fsum(histogram.values())
    if total <= 0:
        return None
    seen = 0.0
    for index in sorted(histogram):
        seen += histogram[index]
        if seen >= q * total - 1e-9 * total:
            return middle(index)
    return middle(max(histogram))


def above(histogram: Histogram, index: float) -> float:
    """Weight in buckets above `index`."""
    return math.fsum(weight for bucket, weight in histogram.items() if bucket > index)


@dataclass(frozen=True)
class Counts:
    """Counts of one (endpoint, model_version, stratum, window). Sums are weights (1 / sampling fraction); `rows` is not.

    errors: error code -> requests. latency, ttft, feature_age: milliseconds; failed_latency: the part of `latency` that failed; ttft,
    length (tokens_out) and pace (see START_TOKENS) are of successes only. told_in, told_out: requests that say their tokens.
    kinds: kind of tokens (telemetry.KINDS) -> tokens.
    quality: flag -> answers (`answers` is how many were looked at, `bad` how many had any flag that counts as bad).
    callers: hash of a requester -> (requests, failed ones by class in the order of FAULTS, then number, sum and sum of
    squares of the buckets of the latencies of its successes).
    scores: name of an evaluation or label -> (number, sum, sum of squares) of values in 0-1, 1 = best.
    answer_callers: hash of a requester -> (answers looked at, those with a bad flag). score_callers: "hash/name" -> the requester's part
    of `scores`.
    """

    endpoint: str
    model_version: str
    stratum: str
    start: datetime
    rows: int = 0
    requests: float = 0.0
    errors: Mapping[str, float] = field(default_factory=dict)
    latency: Histogram = field(default_factory=dict)
    ttft: Histogram = field(default_factory=dict)
    feature_age: Histogram = field(default_factory=dict)
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    error_requesters: tuple[str, ...] = ()
    quality: Mapping[str, float] = field(default_factory=dict)
    length: Histogram = field(default_factory=dict)
    pace: Histogram = field(default_factory=dict)
    failed_latency: Histogram = field(default_factory=dict)
    callers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    answer_callers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    score_callers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    told_in: float = 0.0
    told_out: float = 0.0
    kinds: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> float:
        """Requests with an error code."""
        return math.fsum(self.errors.values())


_MAPS = (
    "errors", "latency", "ttft", "feature_age", "quality", "length", "pace", "failed_latency", "callers", "scores", "answer_callers",
    "score_callers",
)  # fmt: skip


def utc(moment: datetime) -> datetime:
    """The moment with its zone: one without is UTC, as Spark gives them."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def from_row(row: Mapping[str, Any]) -> Counts:
    """A row of the `windows` table (with the map `quality` where it was joined) as Counts; maps as such or as lists of pairs."""
    maps: dict[str, Any] = {name: dict(row.get(name) or ()) for name in _MAPS}
    return Counts(
        row["endpoint"], row["model_version"], row["stratum"], utc(row["window_start"]), row["rows"], row["requests"],
        tokens_in=row.get("tokens_in") or 0.0, tokens_out=row.get("tokens_out") or 0.0, told_in=_told(row, "in"), told_out=_told(row, "out"),
        error_requesters=tuple(row.get("error_requesters") or ()), kinds={kind: n for kind in KINDS if (n := row.get(f"tokens_{kind}"))}, **maps,
    )  # fmt: skip


def _told(row: Mapping[str, Any], side: str) -> float:
    """Requests that say their tokens; of windows that were counted before this was: all, where any did."""
    told = row.get(f"told_{side}")
    return float(told) if told is not None else float(row["requests"]) if row.get(f"tokens_{side}") else 0.0


def _sum(maps: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for histogram in maps:
        for key, weight in histogram.items():
            total[key] = total.get(key, 0.0) + weight
    return total


def _vectors(maps: Iterable[Mapping[str, Sequence[Any]]]) -> dict[str, tuple[Any, ...]]:
    """Sums of vectors by name; the first CAP_REQUESTERS names are kept."""
    total: dict[str, tuple[Any, ...]] = {}
    for vectors in maps:
        for name, facts in vectors.items():
            before = total.get(name)
            total[name] = tuple(facts) if before is None else tuple(map(operator.add, before, facts))
    return dict(sorted(total.items())[:CAP_REQUESTERS])


def merge(
    counts: Iterable[Counts],
    *,
    stratum: str | None = None,
    start: datetime | None = None,
) -> Counts:
    """One Counts for all of `counts` (at least one), labelled like the first unless told otherwise."""
    group = list(counts)
    first = group[0]
    return Counts(
        endpoint=first.endpoint,
        model_version=first.model_version,
        stratum=first.stratum if stratum is None else stratum,
        start=start or min(window.start for window in group),
        rows=sum(window.rows for window in group),
        requests=math.fsum(window.requests for window in group),
        errors=_sum(window.errors for window in group),
        latency=add(*(window.latency for window in group)),
        ttft=add(*(window.ttft for window in group)),
        feature_age=add(*(window.feature_age for window in group)),
        tokens_in=math.fsum(window.tokens_in for window in group),
        tokens_out=math.fsum(window.tokens_out for window in group),
        told_in=math.fsum(window.told_in for window in group),
        told_out=math.fsum(window.told_out for window in group),
        kinds=_sum(window.kinds for window in group),
        error_requesters=tuple(sorted({r for window in group for r in window.error_requesters})[:KEPT_REQUESTERS]),
        quality=_sum(window.quality for window in group),
        length=add(*(window.length for window in group)),
        pace=add(*(window.pace for window in group)),
        failed_latency=add(*(window.failed_latency for window in group)),
        callers=_vectors(window.callers for window in group),
        scores=_vectors(window.scores for window in group),
        answer_callers=_vectors(window.answer_callers for window in group),
        score_callers=_vectors(window.score_callers for window in group),
    )


CHARS_PER_TOKEN = 4


def stratum(latency_scope: str | None, tokens_in: float | None, input_chars: int | None = None) -> str:
    """The stratum of a request: latency scope (scopes are never pooled) and prompt-length bucket (powers of four).

    The length is taken from the prompt where it was captured: a failed request has no token count, and a stratum must
    not depend on the outcome.
    """
    size = tokens_in if input_chars is None else input_chars / CHARS_PER_TOKEN
    bucket_name = "?" if size is None else next((str(e) for e in SIZE_EDGES if size < e), "more")
    return f"{latency_scope or '?'}/{bucket_name}"
