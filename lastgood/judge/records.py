"""Request records as arrays -> Columns of two versions (pure): what the windows job counts, without the detour by tables.

It counts a second time what `jobs/counting.py` counts, because the live judge looks every ten seconds and the two make different things: windows
are merged and stored, these arrays are judged and thrown away. tests/pure/test_counting.py holds them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lastgood.judge.columns import (
    HIGHEST,
    LOWEST,
    Callers,
    Columns,
    Entries,
    Ints,
    Scored,
    alike,
    callers_of,
    groups,
    tally,
)
from lastgood.judge.eprocess import Floats
from lastgood.record.fault import FAULTS, fault
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
    classes = np.array([FAULTS.index(fault(code)) for code in records.codes] or [0])
    kinds = np.where(bad, classes[records.code] if len(records.codes) else 0, -1)
    faults = np.stack([count(kinds == k) for k in range(len(FAULTS))], -1)
    age = records.feature_age_ms
    stale = np.stack([count(~np.isnan(age)).sum(1), count(age > stale_ms).sum(1)], -1)[:, None]
    values = {
        "latency": records.latency_ms, "pace": pace(records), "ttft": records.ttft_ms, "length": records.tokens_out,
    }  # fmt: skip
    values = {name: np.where(bad, np.nan, series) for name, series in values.items()}
    marks = {name: buckets(series) for name, series in values.items() if not np.isnan(series).all()}
    histograms = {name: _entries(t, g, records.arm, series_marks, values[name]) for name, series_marks in marks.items()}
    scope, sized = groups(strata)
    nothing = np.zeros(shape)
    return alike(
        Columns(
            starts * width, width, strata, np.zeros(shape[1], np.int64), scope, sized, count(np.ones(len(t))), faults, nothing, nothing,
            stale, histograms, _callers(records, t, g, kinds, marks.get("latency")),
            {name: _sums(t, records.arm, series, len(starts)) for name, series in sorted(records.values.items())},
            {name: _whose(records, t, series) for name, series in sorted(records.values.items())},
            prompts=count(np.nan_to_num(records.tokens_in)),
        )
    )  # fmt: skip


def _entries(t: Ints, g: Ints, arm: Ints, marks: Ints, values: Floats) -> Entries:
    """Requests of one window, stratum, version and bucket are one entry: what judges them costs by the entry."""
    known = ~np.isnan(values)
    at = np.clip(marks[known], LOWEST, HIGHEST)
    wide, spread = int(g.max(initial=0)) + 1, HIGHEST - LOWEST + 1
    cells, many = np.unique(
        ((t[known] * wide + g[known]) * 2 + arm[known]) * spread + (at - LOWEST), return_counts=True
    )
    rest, bucket = np.divmod(cells, spread)
    rest, version = np.divmod(rest, 2)
    return Entries(rest // wide, rest % wide, version, bucket + LOWEST, many.astype(np.float64))


def _callers(records: Records, t: Ints, g: Ints, kinds: Ints, latency: Ints | None) -> Callers:
    known = np.flatnonzero(records.who >= 0)
    if not len(known):
        return callers_of(())
    t, g, arm, who, kinds = t[known], g[known], records.arm[known], records.who[known], kinds[known]
    mark = latency[known] if latency is not None else np.full(len(known), ZERO)
    key = ((t * (g.max() + 1) + g) * 2 + arm) * (who.max() + 1) + who
    order = np.argsort(key, kind="stable")
    key, mark, kinds = key[order], mark[order], kinds[order]
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    first, timed = order[starts], (mark != ZERO).astype(np.int64)
    failed = (kinds[:, None] == np.arange(len(FAULTS))).astype(np.int64)
    requests, faults, timed, total, squares = (
        np.add.reduceat(part, starts)
        for part in (np.ones(len(known), np.int64), failed, timed, mark * timed, mark**2 * timed)
    )
    none = np.zeros(len(first))
    return Callers(t[first], g[first], arm[first], who[first], requests, faults, timed, total, squares, none, none)


def _whose(records: Records, t: Ints, values: Floats) -> Scored:
    """Scores of one name by requester."""
    known = ~np.isnan(values) & (records.who >= 0)
    size = int(records.who.max(initial=0)) + 1
    cells, place = np.unique((t[known] * 2 + records.arm[known]) * size + records.who[known], return_inverse=True)
    value = values[known]
    sums = np.stack([tally(place, power, len(cells)) for power in (np.ones(len(value)), value, value * value)], -1)
    return Scored(cells // size // 2, cells // size % 2, cells % size, sums)


def _sums(t: Ints, arm: Ints, values: Floats, length: int) -> Floats:
    known = ~np.isnan(values)
    cell, v = t[known] * 2 + arm[known], values[known]
    parts = [tally(cell, power, 2 * length).reshape(length, 1, 2) for power in (np.ones(len(v)), v, v * v)]
    return np.stack(parts, -1)
