"""Window counts of a new and a prior version -> arrays by (window, stratum, version), for one comparison or many side by side (pure)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from lastgood.judge.corrected import Bets
from lastgood.judge.eprocess import Floats
from lastgood.record.fault import FAULTS, fault
from lastgood.record.windows import CALLER_FACTS, OUTSIDE, Counts, merge

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
HISTOGRAMS = ("latency", "pace", "ttft", "length")
LOWEST, HIGHEST = -160, 760
"""Buckets outside are counted at the end: 0.04 ms and an hour."""
UNRANGED, ROUNDING = 0.01, 1e-4
UNLIKE = 0.2
"""Prompt lengths of a window are compared only where both versions report them about as often: their shares differ by at most this."""


@dataclass(frozen=True)
class Entries:
    """Sparse counts [entries], by window: `weight` rows of (window t, group g, arm 0 prior / 1 new) in a bucket."""

    t: Ints
    g: Ints
    arm: Ints
    bucket: Ints
    weight: Floats


@dataclass(frozen=True)
class Callers:
    """Who was served, one entry per (window, group, arm, requester), by window: requests, failed ones by class [entries, FAULTS], number, sum
    and sum of squares of the buckets of the latencies of successes, answers looked at and bad ones among them."""

    t: Ints
    g: Ints
    arm: Ints
    who: Ints
    n: Ints
    faults: Ints
    timed: Ints
    latency_sum: Ints
    latency_squares: Ints
    answers: Floats
    bad: Floats

    def take(self, at: Bools | Ints, first: int = 0) -> "Callers":
        """Only those entries, window numbers counted from `first`."""
        kept = {name: value[at] for name, value in vars(self).items()}
        return Callers(**{**kept, "t": kept["t"] - first})


def tally(cells: Ints, weights: npt.ArrayLike | None, size: int) -> Floats:
    """Sums of weights by cell [size]."""
    return np.bincount(cells, weights, size).astype(np.float64, copy=False)


def no_entries() -> Entries:
    none = np.zeros(0, np.int64)
    return Entries(none, none, none, none, np.zeros(0))


@dataclass(frozen=True)
class Scored:
    """Whose scores of one name they are, one entry per (window, arm, requester): sums [entries, (n, sum, sum of squares)]."""

    t: Ints
    arm: Ints
    who: Ints
    sums: Floats

    def take(self, at: Bools | Ints, first: int = 0) -> "Scored":
        """Only those entries, window numbers counted from `first`."""
        return Scored(self.t[at] - first, self.arm[at], self.who[at], self.sums[at])


def callers_of(facts: npt.ArrayLike, answers: npt.ArrayLike | None = None) -> Callers:
    """Rows (t, g, arm, who, facts of windows.Counts.callers), and of each the (answers, bad) of windows.Counts.answer_callers, as Callers."""
    rows = np.array(facts, np.int64).reshape(-1, 4 + CALLER_FACTS)
    t, g, arm, who, n = rows[:, :5].T
    timed, latency_sum, latency_squares = rows[:, -3:].T
    looked_at, bad = np.zeros((2, len(rows))) if answers is None else np.array(answers, np.float64).reshape(-1, 2).T
    return Callers(t, g, arm, who, n, rows[:, 5 : 5 + len(FAULTS)], timed, latency_sum, latency_squares, looked_at, bad)


@dataclass(frozen=True)
class Columns:
    """[T windows, G groups, 2 arms]; arm 1 is the new version. A group is a stratum of one comparison: `series` [G] (ascending)
    says of which. Counts are rows seen, not what they stand for: evidence must not grow because rows were sampled.

    sized [G]: False where the prompt length is not known; scope [G]: groups that differ only in prompt length share a number.
    faults [T, G, 2, FAULTS]: failed requests by class. stale [T, S, 2, (known, older than the limit)]; histograms: of successes.
    scores: name -> [T, S, 2, (n, sum, sum of squares)]; scored: the same by requester, of one comparison.
    prompts [T, G, 2]: sum of the prompts' tokens; None where not known.
    breaks [T]: no block goes on from the window before into this one (None: they all may).
    unranged: names of scores that are left out because their values are not within 0-1.
    judged: name -> pairs that a model judged and people corrected, of one comparison.
    """

    times: Floats
    width: float
    strata: tuple[str, ...]
    series: Ints
    scope: Ints
    sized: Bools
    n: Floats
    faults: Floats
    answers: Floats
    bad: Floats
    stale: Floats
    histograms: Mapping[str, Entries] = field(default_factory=dict)
    callers: Callers = field(default_factory=lambda: callers_of(()))
    scores: Mapping[str, Floats] = field(default_factory=dict)
    scored: Mapping[str, Scored] = field(default_factory=dict)
    named: tuple[str, ...] = ()
    prompts: Floats | None = None
    breaks: Bools | None = None
    unranged: tuple[str, ...] = ()
    judged: Mapping[str, Bets] = field(default_factory=dict)

    @property
    def failed(self) -> Floats:
        """Failed requests of whatever class [T, G, 2]."""
        return np.asarray(self.faults.sum(-1))

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

    def within(self, since: datetime | None, until: datetime | None) -> Bools:
        """Which windows lie wholly between two moments (None: unbounded) [T]."""
        a, z = (moment.timestamp() if moment else None for moment in (since, until))
        ended = self.times + self.width
        return np.asarray((self.times >= (a or -np.inf)) & (ended <= (np.inf if z is None else z)))

    def until(self, t: int) -> datetime:
        """When window t ends."""
        return datetime.fromtimestamp(float(self.times[t]) + self.width, UTC)

    def index(self, moment: float) -> int:
        """Number of the first window that starts at or after a moment (epoch seconds)."""
        return int(np.searchsorted(self.times, moment))

    def since_new(self) -> "Columns":
        """Without the windows before the new version's first: a block that reaches back there would compare two times."""
        served = np.flatnonzero(self.n[..., 1].sum(1) > 0)
        first = int(served[0]) if len(served) else 0
        if first == 0:
            return self
        kept: dict[str, Any] = {
            name: value[first:]
            for name in ("times", "n", "faults", "answers", "bad", "stale", "prompts", "breaks")
            if (value := getattr(self, name)) is not None
        }
        histograms = {}
        for name, entry in self.histograms.items():
            late = entry.t >= first
            histograms[name] = Entries(
                entry.t[late] - first, entry.g[late], entry.arm[late], entry.bucket[late], entry.weight[late]
            )
        scores = {name: sums[first:] for name, sums in self.scores.items()}
        callers = self.callers.take(self.callers.t >= first, first)
        scored = {name: whose.take(whose.t >= first, first) for name, whose in self.scored.items()}
        return replace(self, **kept, histograms=histograms, scores=scores, callers=callers, scored=scored)

    def flipped(self) -> "Columns":
        """The prior version as the new one."""
        turned = {name: getattr(self, name)[:, :, ::-1] for name in ("n", "faults", "answers", "bad", "stale")}
        histograms = {name: replace(entries, arm=1 - entries.arm) for name, entries in self.histograms.items()}
        scores = {name: sums[:, :, ::-1] for name, sums in self.scores.items()}
        callers = replace(self.callers, arm=1 - self.callers.arm)
        scored = {name: replace(whose, arm=1 - whose.arm) for name, whose in self.scored.items()}
        return replace(self, **turned, histograms=histograms, scores=scores, callers=callers, scored=scored, judged={})


def _merged(windows: Iterable[Counts], arms: Mapping[str, int]) -> list[tuple[int, Counts]]:
    groups: dict[tuple[float, str, int], list[Counts]] = {}
    for window in windows:
        if window.model_version in arms and (window.rows > 0 or window.scores):
            groups.setdefault((window.start.timestamp(), window.stratum, arms[window.model_version]), []).append(window)
    return [(key[2], group[0] if len(group) == 1 else merge(group)) for key, group in sorted(groups.items())]


def groups(strata: Sequence[str]) -> tuple[Ints, Bools]:
    """(scope number, whether sized) per stratum name `scope/size`."""
    names = [stratum.rsplit("/", 1)[0] for stratum in strata]
    order = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([order[n] for n in names], np.int64), np.array(
        [not stratum.endswith("/?") for stratum in strata], bool
    )


def columns(windows: Iterable[Counts], new: str, prior: str | None, width: float, stale_bucket: int = 2**31) -> Columns:
    """The windows of two versions of one endpoint. Rows of one window, stratum and version are merged; order does not matter, and
    windows of other versions change nothing."""
    rows = _merged(windows, {new: 1} | ({prior: 0} if prior is not None else {}))
    starts = sorted({window.start.timestamp() for _, window in rows})
    strata = tuple(sorted({window.stratum for _, window in rows if window.rows > 0})) or ("?/?",)
    when, which = {v: i for i, v in enumerate(starts)}, {v: i for i, v in enumerate(strata)}
    shape = (len(starts), len(strata), 2)
    n, answers, bad, prompts = (np.zeros(shape) for _ in range(4))
    faults, stale = np.zeros((*shape, len(FAULTS))), np.zeros((len(starts), 1, 2, 2))
    cells: dict[str, list[tuple[int, int, int, int, float]]] = {name: [] for name in HISTOGRAMS}
    people: list[tuple[int, ...]] = []
    owned = sorted({pair for _, window in rows for pair in window.score_callers})
    names = sorted({who for _, window in rows for who in window.callers} | {pair.partition("/")[0] for pair in owned})
    number = {who: i for i, who in enumerate(names)}
    answered: list[Sequence[float]] = []
    whose: list[tuple[str, int, int, int, Sequence[float]]] = []
    scores = {name: np.zeros((len(starts), 1, 2, 3)) for _, window in rows for name in window.scores}
    for arm, window in rows:
        t = when[window.start.timestamp()]
        for name, sums in window.scores.items():
            scores[name][t, 0, arm] += sums
        for pair, sums in window.score_callers.items():
            who, _, name = pair.partition("/")
            whose.append((name, t, arm, number[who], sums))
        if window.rows == 0:
            continue
        g = which[window.stratum]
        thin = window.rows / window.requests if window.requests > 0 else 0.0
        n[t, g, arm], prompts[t, g, arm] = window.rows, window.tokens_in * thin
        for code, weight in window.errors.items():
            faults[t, g, arm, FAULTS.index(fault(code))] += weight * thin
        answers[t, g, arm] = window.quality.get("answers", 0.0) * thin
        bad[t, g, arm] = window.quality.get("bad", 0.0) * thin
        for age, weight in window.feature_age.items():
            stale[t, 0, arm] += weight * thin * np.array([1.0, age > stale_bucket])
        for name in HISTOGRAMS:
            cells[name] += [(t, g, arm, bucket, w * thin) for bucket, w in _successes(window, name)]
        people += [(t, g, arm, number[who], *facts) for who, facts in window.callers.items()]
        answered += [[thin * value for value in window.answer_callers.get(who, (0.0, 0.0))] for who in window.callers]
    scope, sized = groups(strata)
    made = {name: entries(cell) for name, cell in cells.items() if cell}
    return alike(
        Columns(
            np.array(starts), width, strata, np.zeros(len(strata), np.int64), scope, sized, n, faults, answers, bad, stale,
            made, callers_of(people, answered), dict(sorted(scores.items())), scored_of(whose), tuple(names), prompts,
        )
    )  # fmt: skip


def scored_of(rows: Sequence[tuple[str, int, int, int, Sequence[float]]]) -> dict[str, Scored]:
    """Rows (name, t, arm, who, sums) as Scored by name."""
    made = {}
    for name in sorted({row[0] for row in rows}):
        t, arm, who, sums = zip(*(row[1:] for row in rows if row[0] == name), strict=True)
        made[name] = Scored(
            np.array(t, np.int64), np.array(arm, np.int64), np.array(who, np.int64), np.array(sums, np.float64)
        )
    return made


def _successes(window: Counts, name: str) -> list[tuple[int, float]]:
    """(bucket, weight) of a histogram's successes."""
    failed = window.failed_latency if name == "latency" else {}
    left = {bucket: weight - failed.get(bucket, 0.0) for bucket, weight in getattr(window, name).items()}
    return [(min(max(bucket, LOWEST), HIGHEST), weight) for bucket, weight in sorted(left.items()) if weight > 1e-9]


def entries(cells: Sequence[tuple[int, int, int, int, float]]) -> Entries:
    """Rows (t, g, arm, bucket, weight) as arrays by window."""
    flat = np.array(cells, np.float64).reshape(-1, 5)
    flat = flat[np.argsort(flat[:, 0], kind="stable")]
    whole = [flat[:, i].astype(np.int64) for i in range(4)]
    return Entries(whole[0], whole[1], whole[2], whole[3], flat[:, 4])


def in_range(cols: Columns) -> Columns:
    """Without the scores of names of which more than UNRANGED of the values are outside 0-1 (`unranged` says which); single ones are left
    out."""
    if not cols.scores:
        return cols
    many = {name: float(sums[..., 0].sum()) for name, sums in cols.scores.items()}
    outside = {name.removeprefix(OUTSIDE): n for name, n in many.items() if name.startswith(OUTSIDE)}
    unranged = {name for name, n in outside.items() if n > UNRANGED * (n + many.get(name, 0.0))}
    for name, sums in cols.scores.items():  # of values within 0-1 no square is above its value
        n, total, squares = (sums[..., i] for i in range(3))
        if ((squares > total + ROUNDING * n) | (total > n * (1 + ROUNDING))).any():
            unranged.add(name.removeprefix(OUTSIDE))

    def kept(by_name: Mapping[str, Any]) -> dict[str, Any]:
        return {name: sums for name, sums in by_name.items() if not name.startswith(OUTSIDE) and name not in unranged}

    return replace(cols, scores=kept(cols.scores), scored=kept(cols.scored), unranged=tuple(sorted(unranged)))


def alike(cols: Columns) -> Columns:
    """Strata known in the same way for both versions: in a window where one version reports prompt lengths and the other does not (see
    UNLIKE), the lengths of that scope are pooled, for whoever reports them would only meet its like."""
    home = np.tile(np.arange(len(cols.scope)), (len(cols.times), 1))
    for scope in np.unique(cols.scope):
        cells = np.flatnonzero(cols.scope == scope)
        unknown = cells[~cols.sized[cells]]
        if not len(unknown) or len(cells) == 1:
            continue
        served = cols.n[:, cells].sum(1)
        share = cols.n[:, unknown].sum(1) / np.maximum(served, 1e-9)
        unlike = (served > 0).all(1) & (np.abs(share[:, 1] - share[:, 0]) > UNLIKE)
        home[np.ix_(unlike, cells)] = unknown[0]
    if (home == np.arange(len(cols.scope))).all():
        return cols
    t = np.arange(len(cols.times))[:, None]

    def moved(values: Floats) -> Floats:
        out = np.zeros_like(values)
        np.add.at(out, (t, home), values)
        return out

    counted = [name for name in ("n", "faults", "answers", "bad", "prompts") if getattr(cols, name) is not None]
    kept: dict[str, Any] = {name: moved(getattr(cols, name)) for name in counted}
    histograms = {name: replace(entry, g=home[entry.t, entry.g]) for name, entry in cols.histograms.items()}
    callers = replace(cols.callers, g=home[cols.callers.t, cols.callers.g])
    return replace(cols, **kept, histograms=histograms, callers=callers)
