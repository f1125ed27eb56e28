"""Request records as arrays -> Columns of two versions (pure): what the windows job counts, without the detour by tables.

It counts a second time what `jobs/counting.py` counts, because the live judge looks every ten seconds and the two make different things: windows
are merged and stored, these arrays are judged and thrown away. tests/pure/test_counting.py holds them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lastgood.judge.columns import (
    FAMILIES,
    HIGHEST,
    LOWEST,
    Columns,
    Entries,
    Ints,
    Requesters,
    family,
    groups,
    no_requesters,
    tally,
)
from lastgood.judge.eprocess import Floats
from lastgood.record.windows import GROWTH, SIZE_EDGES, START_TOKENS, ZERO

SIZES = (*(str(edge) for edge in SIZE_EDGES), "more", "?")


@dataclass(frozen=True)
class Records:
    """Requests of the two versions, any order. at: epoch seconds; arm: 1 new, 0 prior; code: index into `codes`, -1 for success;
    who, pod: index of the requester and of where it was served, -1 unknown (pod may be empty); the rest NaN where unknown.
    scope: index into `scopes`. values: evaluation scores and labels by name, 0-1."""

    at: Floats
    arm: Ints
    code: Ints
    codes: Sequence[str]
    who: Ints
    latency_ms: Floats
    tokens_in: Floats
    tokens_out: Floats
    ttft_ms: Floats
    feature_age_ms: Floats
    scope: Ints
    scopes: Sequence[str]
    pod: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    values: Mapping[str, Floats] = field(default_factory=dict)

    def take(self, at: npt.NDArray[np.bool_] | Ints) -> "Records":
        """Only those rows."""
        rows = {name: value[at] for name, value in vars(self).items() if isinstance(value, np.ndarray) and len(value)}
        return Records(**{**vars(self), **rows, "values": {name: value[at] for name, value in self.values.items()}})

    def labelled(self, arm: Ints) -> "Records":
        """The same requests as if versions had been drawn otherwise."""
        return Records(**{**vars(self), "arm": arm})


def buckets(values: Floats) -> Ints:
    """windows.bucket of each value, what never ended in the last; ZERO where unknown or not above 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        index = np.minimum(np.floor(np.log(values) / np.log(GROWTH)), HIGHEST)
    return np.where(np.isfinite(index), index, ZERO).astype(np.int64)


def pace(records: Records) -> Floats:
    """Milliseconds per token, see windows.START_TOKENS; NaN where tokens are unknown."""
    return np.asarray(records.latency_ms / (records.tokens_out + START_TOKENS))


def columns_of(records: Records, width: float, stale_ms: float = np.inf) -> Columns:
    """Counts by window of `width` seconds. Errors: none; no records give no windows."""
    if (np.diff(records.at) < 0).any():
        records = records.take(np.argsort(records.at, kind="stable"))
    sizes = np.where(
        np.isnan(records.tokens_in), len(SIZE_EDGES) + 1, np.searchsorted(SIZE_EDGES, records.tokens_in, "right")
    )
    starts, t = np.unique(np.floor(records.at / width), return_inverse=True)
    codes, group = np.unique(records.scope * len(SIZES) + sizes, return_inverse=True)
    names = [f"{records.scopes[i // len(SIZES)]}/{SIZES[i % len(SIZES)]}" for i in codes]
    order = np.argsort(np.array(names)) if names else np.zeros(0, np.int64)
    g = np.argsort(order)[group] if names else group
    strata = tuple(names[i] for i in order) or ("?/?",)
    shape = (len(starts), len(strata), 2)
    cell = (t * shape[1] + g) * 2 + records.arm

    def count(weights: npt.ArrayLike) -> Floats:
        return tally(cell, weights, int(np.prod(shape))).reshape(shape)

    bad = records.code >= 0
    kinds = (
        np.array([family(code) for code in records.codes] or [0])[records.code] if len(records.codes) else records.code
    )
    families = np.stack([count(bad & (kinds == k)) for k in range(len(FAMILIES))], -1)
    age = records.feature_age_ms
    stale = np.stack([count(~np.isnan(age)).sum(1), count(age > stale_ms).sum(1)], -1)[:, None]
    values = {
        "latency": records.latency_ms, "pace": pace(records), "ttft": records.ttft_ms, "length": records.tokens_out,
    }  # fmt: skip
    marks = {name: buckets(series) for name, series in values.items() if not np.isnan(series).all()}
    histograms = {name: _entries(t, g, records.arm, series_marks, values[name]) for name, series_marks in marks.items()}
    scope, sized = groups(strata)
    nothing = np.zeros(shape)
    return Columns(
        starts * width, width, strata, np.zeros(shape[1], np.int64), scope, sized, count(np.ones(len(t))), count(bad), families,
        nothing, nothing, stale, histograms, _requesters(records, t, g, bad, marks),
        {name: _sums(t, records.arm, series, len(starts)) for name, series in sorted(records.values.items())},
    )  # fmt: skip


def _entries(t: Ints, g: Ints, arm: Ints, marks: Ints, values: Floats) -> Entries:
    known = ~np.isnan(values)
    at = np.maximum(marks[known], LOWEST)
    return Entries(t[known], g[known], arm[known], at, np.ones(len(at)))


def _requesters(
    records: Records, t: Ints, g: Ints, bad: npt.NDArray[np.bool_], buckets: Mapping[str, Ints]
) -> Requesters:
    known = np.flatnonzero(records.who >= 0)
    if not len(known):
        return no_requesters()
    t, g, arm, who = t[known], g[known], records.arm[known], records.who[known]
    key = ((t * (g.max() + 1) + g) * 2 + arm) * (who.max() + 1) + who
    order = np.argsort(key, kind="stable")
    key, known = key[order], known[order]
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    first = order[starts]
    unknown = np.full(len(known), ZERO)
    marks = [buckets[name][known] if name in buckets else unknown for name in ("latency", "pace")]
    has_value = [(mark != ZERO).astype(np.int64) for mark in marks]
    adds = [np.ones(len(known), np.int64), bad[known].astype(np.int64)]
    adds += [part for mark, has in zip(marks, has_value, strict=True) for part in (has, mark * has)]
    sums = [np.add.reduceat(addend, starts) for addend in adds]
    worst = [np.maximum.reduceat(mark, starts) for mark in marks]
    return Requesters(t[first], g[first], arm[first], who[first], *sums[:2], *worst, *sums[2:])


def _sums(t: Ints, arm: Ints, values: Floats, length: int) -> Floats:
    known = ~np.isnan(values)
    cell, v = t[known] * 2 + arm[known], np.clip(values[known], 0.0, 1.0)
    parts = [tally(cell, power, 2 * length).reshape(length, 1, 2) for power in (np.ones(len(v)), v, v * v)]
    return np.stack(parts, -1)
