"""The tables -> how far each column of each endpoint moved, week by week, and the two samples behind one comparison."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from lastgood import tables
from lastgood.record.windows import utc
from lastgood.tables.summing import lists

COLUMNS = ("endpoint", "model_version", "against", "kind", "column", "computed_at", "distance", "low", "drifted", "reference", "method", "n_current",
           "n_reference", "evidently_method", "evidently_score")  # fmt: skip
BINS, TOP = 16, 12
DAY, WEEK = timedelta(days=1), timedelta(days=7)
LENGTHS = {"input": "input_chars", "output": "output_chars"}
"""Texts are compared by a classifier; what can be drawn of them is how long they are."""


@dataclass(frozen=True)
class Compared:
    """A row of `drift`; `distance` and `low` are Jensen-Shannon distances 0-1, None where they could not be measured."""

    endpoint: str
    version: str
    against: str
    kind: str
    column: str
    at: datetime
    distance: float | None
    low: float | None
    drifted: bool
    reference: str
    method: str
    n_current: int
    n_reference: int
    evidently_method: str | None
    evidently_score: float | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What is one line over time: (endpoint, against, column)."""
        return self.endpoint, self.against, self.column


def compared(
    store: tables.Store, since: datetime, until: datetime, endpoint: str = "", column: str = "", against: str = ""
) -> list[Compared]:
    """Comparisons of a time, of one endpoint, column or reference where they are named, in the order of time."""
    named = (("endpoint", endpoint), ("column", column), ("against", against))
    wanted: Any = [("computed_at", ">=", since), ("computed_at", "<=", until)]
    wanted += [(name, "=", value) for name, value in named if value]
    rows = store.home(tables.DRIFT).read(list(COLUMNS), wanted)
    if not rows.num_rows:
        return []
    made = []
    for e, version, against_, kind, name, at, distance, low, moved, reference, method, *rest in lists(rows, *COLUMNS):
        n_current, n_reference, evidently, score = rest
        made.append(
            Compared(e, version, against_, kind, name, utc(at), distance, low, bool(moved), reference or "", method or "",
                     n_current or 0, n_reference or 0, evidently, score)
        )  # fmt: skip
    return sorted(made, key=lambda row: (row.at, row.key, row.version))


@dataclass(frozen=True)
class Column:
    """A column's newest comparison, and the distances of the time before it, evenly spread (None: not measured then)."""

    newest: Compared
    past: Sequence[float | None]


def columns(rows: Iterable[Compared], since: datetime, until: datetime, points: int = 28) -> list[Column]:
    """One for each endpoint, reference and column: those that drifted first, then by distance."""
    groups: dict[tuple[str, str, str], list[Compared]] = {}
    for row in rows:
        groups.setdefault(row.key, []).append(row)
    made = []
    for group in groups.values():
        past: list[float | None] = [None] * points
        for row in group:
            past[min(int((row.at - since) / (until - since) * points), points - 1)] = row.distance
        made.append(Column(group[-1], past))
    return sorted(made, key=lambda c: (not c.newest.drifted, -(c.newest.distance or 0.0), c.newest.key))


@dataclass(frozen=True)
class Distributions:
    """Two samples of a column in the same bins: `labels` name them (of numbers: their lower edges and the last upper one), shares are 0-1 and sum to 1.
    `n`: values of each side; `of`: what was drawn, where it is not the column itself."""

    labels: Sequence[str]
    numeric: bool
    current: Sequence[float]
    reference: Sequence[float]
    n: tuple[int, int]
    of: str


def distributions(
    store: tables.Store, row: Compared, since: datetime | None, prior: str | None
) -> Distributions | None:
    """The samples behind a comparison, as far as they are kept; None where one side is not. `since`: when the version was deployed; `prior`: the version
    before it."""
    begin = max(since, row.at - DAY) if since and since < row.at else row.at - DAY
    ours = _sample(store, row.endpoint, row.version, begin, row.at)
    number = row.reference.removeprefix("baseline ")
    if row.reference.startswith("baseline ") and number.isdigit():
        wanted: Any = [("endpoint", "=", row.endpoint), ("baseline", "=", int(number))]
        theirs = store.home(tables.BASELINES).read(filters=wanted).to_pylist()
    elif row.against == "prior":
        theirs = _sample(store, row.endpoint, prior or "", begin, row.at)
    elif row.reference == "last week":
        theirs = _sample(store, row.endpoint, None, begin - WEEK, row.at - WEEK)
    else:
        first = since or row.at
        theirs = _sample(store, row.endpoint, None, first - DAY, first)
    column = LENGTHS.get(row.column, row.column)
    made = binned(values(ours, column), values(theirs, column))
    if made is None:
        return None
    labels, numeric, current, reference = made
    sizes = len(values(ours, column)), len(values(theirs, column))
    return Distributions(labels, numeric, current, reference, sizes, column if column != row.column else "")


def _sample(
    store: tables.Store, endpoint: str, version: str | None, since: datetime, until: datetime
) -> list[Mapping[str, Any]]:
    wanted: Any = [("endpoint", "=", endpoint), ("requested_at", ">=", since), ("requested_at", "<=", until)]
    wanted += [("model_version", "=", version)] if version is not None else []
    rows: list[Mapping[str, Any]] = store.home(tables.SAMPLES).read(filters=wanted).to_pylist()
    return rows


def values(rows: Iterable[Mapping[str, Any]], column: str) -> list[str | float]:
    """A column's values in rows of `samples`, without nulls. `feature.NAME` is an entry of `features`, `:type` what kind of value it is."""
    name, _, typed = column.partition(":")
    read: list[str | float] = []
    for row in rows:
        if not name.startswith("feature."):
            value: Any = row.get(name)
        elif row.get("features") is None:
            continue
        else:
            value = dict(row["features"]).get(name.removeprefix("feature.")) or None
        if typed:
            read.append("null" if value is None else "text" if _number(value) is None else "number")
        elif value is not None:
            read.append(value)
    return read


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def binned(
    ours: Sequence[str | float], theirs: Sequence[str | float]
) -> tuple[list[str], bool, list[float], list[float]] | None:
    """(labels, whether they are numbers, shares of ours, of theirs) in common bins: numbers where nine of ten are, between the 1st and the 99th
    percentile of both (what lies beyond is in the outer bins); else the most frequent values and the rest. None where a side has no value."""
    if not ours or not theirs:
        return None
    numbers = [[_number(value) for value in side] for side in (ours, theirs)]
    known = [[value for value in side if value is not None] for side in numbers]
    distinct = {value for side in known for value in side}
    if sum(map(len, known)) >= 0.9 * (len(ours) + len(theirs)) and all(known) and len(distinct) > TOP:
        low, high = np.quantile(np.concatenate([np.asarray(side, float) for side in known]), [0.01, 0.99])
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        counts = [np.histogram(np.clip(side, edges[0], edges[-1]), edges)[0] for side in known]
        labels = [f"{edge:.3g}" for edge in edges]
        return labels, True, *((count / count.sum()).tolist() for count in counts)
    words = [[str(value)[:60] for value in side] for side in (ours, theirs)]
    often = sorted(
        {*words[0], *words[1]}, key=lambda word: (-max(side.count(word) / len(side) for side in words), word)
    )
    names, rest = often[:TOP], set(often[TOP:])
    shares = [
        [side.count(name) / len(side) for name in names]
        + ([sum(word in rest for word in side) / len(side)] if rest else [])
        for side in words
    ]
    return names + (["other"] if rest else []), False, shares[0], shares[1]
