"""Window counts of two versions -> blocks of bad and good requests, per metric (pure)."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from lastgood.judge.eprocess import Block
from lastgood.windows import GROWTH, Counts, above, add, merge, quantile

QUANTILES, SPARSE_QUANTILES = (0.90, 0.95, 0.99), (0.75, 0.90, 0.95)
SPARSE, POOL = 60.0, 400.0
"""Below SPARSE requests a block's own quantile has no power: lower quantiles, threshold from POOL trailing requests."""

Pairs = dict[tuple[float, str], tuple[Counts | None, Counts | None]]


def pair(windows: Iterable[Counts], new: str, prior: str) -> Pairs:
    """(window start in epoch seconds, stratum) -> (counts of new, counts of prior)."""
    found: dict[tuple[float, str], list[Counts | None]] = defaultdict(lambda: [None, None])
    for one in windows:
        if one.model_version in (new, prior):
            found[one.start.timestamp(), one.stratum][0 if one.model_version == new else 1] = one
    return {key: (found[key][0], found[key][1]) for key in sorted(found)}


def thinned(count: Counts, value: float) -> float:
    """A weighted count as observed rows: evidence must not grow because rows were sampled."""
    return value * count.rows / count.requests if count.requests > 0 else 0.0


def errors(pairs: Pairs) -> list[Block]:
    """Failed requests; only blocks in which both versions served.

    Where failures sit in a stratum of unknown prompt length (a failed request may not say it), sizes are pooled: a
    stratum that only failures can enter would hide them.
    """
    if any(stratum.endswith("/?") and one and one.failed for (_, stratum), both in pairs.items() for one in both):
        pairs = _without_size(pairs)
    return [
        Block(time, a.rows, b.rows, thinned(a, a.failed), thinned(b, b.failed))
        for (time, _), (a, b) in pairs.items()
        if a and b
    ]


def _without_size(pairs: Pairs) -> Pairs:
    pooled: dict[tuple[float, str], tuple[list[Counts], list[Counts]]] = defaultdict(lambda: ([], []))
    for (time, stratum), both in pairs.items():
        for side, one in zip(pooled[time, stratum.split("/", 1)[0]], both, strict=True):
            if one:
                side.append(one)
    return {key: (merge(new) if new else None, merge(old) if old else None) for key, (new, old) in pooled.items()}


def quality(pairs: Pairs) -> list[Block]:
    """Bad answers among the answers looked at."""
    blocks = []
    for (time, _), (a, b) in pairs.items():
        if a and b and a.quality.get("answers") and b.quality.get("answers"):
            n1, n0 = thinned(a, a.quality["answers"]), thinned(b, b.quality["answers"])
            blocks.append(
                Block(
                    time,
                    n1,
                    n0,
                    thinned(a, a.quality.get("bad", 0.0)),
                    thinned(b, b.quality.get("bad", 0.0)),
                )
            )
    return blocks


def shift_buckets(tolerance: float) -> int:
    """How many latency buckets a slowdown by `tolerance` spans, rounded up in the new version's favour."""
    return math.ceil(math.log1p(tolerance) / math.log(GROWTH))


def latency(pairs: Pairs, tolerance: float) -> dict[float, list[Block]]:
    """quantile -> blocks: slower than the pooled, label-blind quantile, the new version's latencies shifted down by tolerance.

    After the shift the null is "no slower than": a bad-rate ratio of 1.
    """
    shift = shift_buckets(tolerance)
    by_stratum: dict[str, list[tuple[float, dict[int, float], dict[int, float]]]] = defaultdict(list)
    for (time, stratum), (a, b) in pairs.items():
        if a and b and a.latency and b.latency:
            new = {index - shift: thinned(a, w) for index, w in a.latency.items()}
            old = {index: thinned(b, w) for index, w in b.latency.items()}
            by_stratum[stratum].append((time, new, old))
    served = [sum(new.values()) + sum(old.values()) for rows in by_stratum.values() for _, new, old in rows]
    sparse = not served or sorted(served)[len(served) // 2] < SPARSE
    quantiles = SPARSE_QUANTILES if sparse else QUANTILES
    blocks: dict[float, list[Block]] = {q: [] for q in quantiles}
    for rows in by_stratum.values():
        for i, (time, new, old) in enumerate(rows):
            pooled = _trailing(rows, i) if sparse else add(new, old)
            n1, n0 = math.fsum(new.values()), math.fsum(old.values())
            for q in quantiles:
                threshold = _threshold(pooled, q)
                blocks[q].append(Block(time, n1, n0, above(new, threshold), above(old, threshold)))
    return blocks


def _trailing(rows: Sequence[tuple[float, dict[int, float], dict[int, float]]], i: int) -> dict[int, float]:
    pooled: dict[int, float] = {}
    for _, new, old in reversed(rows[: i + 1]):
        pooled = add(pooled, new, old)
        if sum(pooled.values()) >= POOL:
            break
    return pooled


def _threshold(histogram: dict[int, float], q: float) -> float:
    total, seen = math.fsum(histogram.values()), 0.0
    for index in sorted(histogram):
        seen += histogram[index]
        if seen >= q * total:
            return index
    return math.inf


def quantile_ms(counts: Iterable[Counts], q: float) -> float | None:
    """Latency quantile in milliseconds over all strata."""
    return quantile(add(*(one.latency for one in counts)), q)
