"""Window counts of a new and a prior version -> arrays by (window, stratum, version), for one comparison or many side by side (pure)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from lastgood.judge.eprocess import Floats
from lastgood.record.windows import ZERO, Counts, merge

Ints = npt.NDArray[np.int64]
FAMILIES = ("4xx", "429", "5xx", "timeout", "other")
HISTOGRAMS = ("latency", "pace", "ttft", "length")
LOWEST, HIGHEST = -160, 760
"""Buckets outside are counted at the end: 0.04 ms and an hour."""


def family(code: str) -> int:
    """Index into FAMILIES of an error code such as HTTP_503, RATE_LIMIT or DeadlineExceeded."""
    text = code.lower()
    if "429" in text or ("rate" in text and "limit" in text):
        return 1
    if "timeout" in text or "deadline" in text or "408" in text or "504" in text:
        return 3
    digits = next((part for part in "".join(c if c.isdigit() else " " for c in text).split() if len(part) == 3), "")
    return {"4": 0, "5": 2}.get(digits[:1], 4)


@dataclass(frozen=True)
class Entries:
    """Sparse counts [entries], by window: `weight` rows of (window t, group g, arm 0 prior / 1 new) in a bucket."""

    t: Ints
    g: Ints
    arm: Ints
    bucket: Ints
    weight: Floats


@dataclass(frozen=True)
class Requesters:
    """Who was served, one entry per (window, group, arm, requester): requests, failed ones, buckets of its longest latency and
    pace (ZERO: unknown), and number and sum of the buckets of latency and of pace."""

    t: Ints
    g: Ints
    arm: Ints
    who: Ints
    n: Ints
    failed: Ints
    slow: Ints
    pace: Ints
    timed: Ints
    latency_sum: Ints
    paced: Ints
    pace_sum: Ints

    def take(self, at: npt.NDArray[np.bool_] | Ints, first: int = 0) -> "Requesters":
        """Only those entries, window numbers counted from `first`."""
        kept = {name: value[at] for name, value in vars(self).items()}
        return Requesters(**{**kept, "t": kept["t"] - first})

    def between(self, i: int, j: int, first: int) -> "Requesters":
        """Entries i to j as a view, window numbers counted from `first`."""
        kept = {name: value[i:j] for name, value in vars(self).items()}
        return Requesters(**{**kept, "t": kept["t"] - first})


def tally(cells: Ints, weights: npt.ArrayLike | None, size: int) -> Floats:
    """Sums of weights by cell [size]."""
    return np.bincount(cells, weights, size).astype(np.float64, copy=False)


def no_entries() -> Entries:
    none = np.zeros(0, np.int64)
    return Entries(none, none, none, none, np.zeros(0))


def no_requesters() -> Requesters:
    return Requesters(*[np.zeros(0, np.int64)] * 12)


@dataclass(frozen=True)
class Columns:
    """[T windows, G groups, 2 arms]; arm 1 is the new version. A group is a stratum of one comparison: `series` [G] (ascending)
    says of which. Counts are rows seen, not what they stand for: evidence must not grow because rows were sampled.

    sized [G]: False where the prompt length is not known; scope [G]: groups that differ only in prompt length share a number.
    stale [T, S, 2, (known, older than the limit)]; scores: name -> [T, S, 2, (n, sum, sum of squares)].
    """

    times: Floats
    width: float
    strata: tuple[str, ...]
    series: Ints
    scope: Ints
    sized: npt.NDArray[np.bool_]
    n: Floats
    failed: Floats
    families: Floats
    answers: Floats
    bad: Floats
    stale: Floats
    histograms: Mapping[str, Entries] = field(default_factory=dict)
    requesters: Requesters = field(default_factory=no_requesters)
    scores: Mapping[str, Floats] = field(default_factory=dict)
    named: tuple[str, ...] = ()

    @property
    def many(self) -> int:
        """How many comparisons."""
        return int(self.series[-1]) + 1 if len(self.series) else 1

    def per_series(self, values: Floats) -> Floats:
        """Sum [T, G, ...] over the groups of each comparison: [T, S, ...]. In the groups' order, so that bits repeat."""
        total = np.zeros((values.shape[0], self.many, *values.shape[2:]))
        place = np.arange(len(self.series)) - np.searchsorted(self.series, self.series)
        for k in range(int(place.max()) + 1 if len(place) else 0):
            at = np.flatnonzero(place == k)
            total[:, self.series[at]] += values[:, at]
        return total

    def within(self, since: datetime | None, until: datetime | None) -> npt.NDArray[np.bool_]:
        """Which windows lie wholly between two moments (None: unbounded) [T]."""
        a, z = (moment.timestamp() if moment else None for moment in (since, until))
        ended = self.times + self.width
        return np.asarray((self.times >= (a or -np.inf)) & (ended <= (np.inf if z is None else z)))

    def until(self, t: int) -> datetime:
        """When window t ends."""
        return datetime.fromtimestamp(float(self.times[t]) + self.width, UTC)


def _merged(windows: Iterable[Counts], arms: Mapping[str, int]) -> list[tuple[int, Counts]]:
    groups: dict[tuple[float, str, int], list[Counts]] = {}
    for window in windows:
        if window.model_version in arms and (window.rows > 0 or window.scores):
            groups.setdefault((window.start.timestamp(), window.stratum, arms[window.model_version]), []).append(window)
    return [(key[2], group[0] if len(group) == 1 else merge(group)) for key, group in sorted(groups.items())]


def groups(strata: Sequence[str]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """(scope number, whether sized) per stratum name `scope/size`."""
    names = [stratum.rsplit("/", 1)[0] for stratum in strata]
    order = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([order[n] for n in names], np.int64), np.array(
        [not stratum.endswith("/?") for stratum in strata], bool
    )


def columns(windows: Iterable[Counts], new: str, prior: str | None, width: float, stale_bucket: int = 2**31) -> Columns:
    """The windows of two versions of one endpoint. Rows of one window, stratum and version are merged; order does not matter."""
    rows = _merged(windows, {new: 1} | ({prior: 0} if prior is not None else {}))
    starts = sorted({window.start.timestamp() for _, window in rows})
    strata = tuple(sorted({window.stratum for _, window in rows if window.rows > 0})) or ("?/?",)
    when, which = {v: i for i, v in enumerate(starts)}, {v: i for i, v in enumerate(strata)}
    shape = (len(starts), len(strata), 2)
    n, failed, answers, bad = (np.zeros(shape) for _ in range(4))
    families, stale = np.zeros((*shape, len(FAMILIES))), np.zeros((len(starts), 1, 2, 2))
    cells: dict[str, list[tuple[int, int, int, int, float]]] = {name: [] for name in HISTOGRAMS}
    people: list[tuple[int, ...]] = []
    names = sorted({who for _, window in rows for who in (*window.requesters, *window.error_requesters)})
    number = {who: i for i, who in enumerate(names)}
    scores = {name: np.zeros((len(starts), 1, 2, 3)) for _, window in rows for name in window.scores}
    for arm, window in rows:
        t = when[window.start.timestamp()]
        for name, sums in window.scores.items():
            scores[name][t, 0, arm] += sums
        if window.rows == 0:
            continue
        g = which[window.stratum]
        thin = window.rows / window.requests if window.requests > 0 else 0.0
        n[t, g, arm] = window.rows
        for code, weight in window.errors.items():
            families[t, g, arm, family(code)] += weight * thin
        failed[t, g, arm] = window.failed * thin
        answers[t, g, arm] = window.quality.get("answers", 0.0) * thin
        bad[t, g, arm] = window.quality.get("bad", 0.0) * thin
        for age, weight in window.feature_age.items():
            stale[t, 0, arm] += weight * thin * np.array([1.0, age > stale_bucket])
        for name in HISTOGRAMS:
            cells[name] += [
                (t, g, arm, min(max(b, LOWEST), HIGHEST), w * thin) for b, w in sorted(getattr(window, name).items())
            ]
        people += [(t, g, arm, number[who], *facts) for who, facts in window.requesters.items()]
        people += [
            (t, g, arm, number[who], 0, 1, ZERO, ZERO, 0, 0, 0, 0)
            for who in window.error_requesters
            if who not in window.requesters
        ]
    scope, sized = groups(strata)
    made = {name: entries(cell) for name, cell in cells.items() if cell}
    everyone = Requesters(*np.array(people, np.int64).reshape(-1, 12).T)
    return Columns(
        np.array(starts), width, strata, np.zeros(len(strata), np.int64), scope, sized, n, failed, families, answers, bad, stale,
        made, everyone, dict(sorted(scores.items())), tuple(names),
    )  # fmt: skip


def entries(cells: Sequence[tuple[int, int, int, int, float]]) -> Entries:
    """Rows (t, g, arm, bucket, weight) as arrays by window."""
    flat = np.array(cells, np.float64).reshape(-1, 5)
    flat = flat[np.argsort(flat[:, 0], kind="stable")]
    whole = [flat[:, i].astype(np.int64) for i in range(4)]
    return Entries(whole[0], whole[1], whole[2], whole[3], flat[:, 4])
