"""Figures over time -> what the SVG of a chart is made of (pure). No script draws it; a click on a part of it asks for that time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TypeVar

WIDTH, HEIGHT = 600, 120
PARTS = 12
"""Into so many parts a chart is cut, each a link to its own time, with its figures as a hint."""
LABELS = 5
FAR = 3
"""A limit so many times as high as the highest value is not drawn: the line below it would be flat."""
SEEN = 8
"""So wide is a value that stands alone, in units of the chart: what began just now is seen."""
Value = float | None
Group = TypeVar("Group")


@dataclass(frozen=True)
class Mark:
    """Something that happened. `kind`: deploy, rollback or incident; `until`: the end of what lasted; `href`: where it is told."""

    at: datetime
    kind: str
    text: str
    href: str = ""
    until: datetime | None = None


@dataclass(frozen=True)
class Part:
    """A stretch of the chart: `x` and `width` in its units, its time, and its figures in words."""

    x: int
    width: int
    since: datetime
    until: datetime
    words: str


@dataclass(frozen=True)
class Line:
    """`name`: what it is of; `path`: its SVG path data."""

    name: str
    path: str


@dataclass(frozen=True)
class Chart:
    """`top`, `half`: the values at the upper edge and the middle, in words; `times`: moments at equal distances from edge to edge; `marks`: (x, its width,
    what happened); `limit`: y of a line that must not be crossed."""

    name: str
    anchor: str
    lines: Sequence[Line]
    top: str
    half: str
    times: Sequence[datetime]
    parts: Sequence[Part]
    marks: Sequence[tuple[int, int, Mark]] = ()
    limit: int | None = None
    empty: bool = field(default=False)


def chart(
    name: str,
    anchor: str,
    starts: Sequence[datetime],
    step: timedelta,
    values: Sequence[tuple[str, Sequence[Value]]],
    show: Callable[[Value], str],
    marks: Sequence[Mark] = (),
    limit: float | None = None,
    joined: bool = False,
) -> Chart:
    """`values`: (name of a line, its value in each step); a value stands in the middle of its step. `show`: a value for people. `joined`: a line goes on over
    steps without a value, where these are measured now and then."""
    known = [value for _, line in values for value in line if value is not None]
    if limit is not None and limit > FAR * max(known, default=0.0):
        limit = None
    top = nice(max([*known, *([limit] if limit is not None else [])], default=0.0))
    since, until = starts[0], starts[-1] + step
    spread = (until - since) / (LABELS - 1)
    lines = [Line(of, path(line, top, joined)) for of, line in values]
    drawn = [
        (*_place(mark, since, until), mark) for mark in marks if mark.at < until and (mark.until or mark.at) >= since
    ]
    return Chart(
        name, anchor, lines, show(top), show(top / 2), [since + n * spread for n in range(LABELS)],
        _parts(starts, step, values, show), drawn, None if limit is None else round(_y(limit, top)), not known,
    )  # fmt: skip


def lines(
    steps: Mapping[tuple[str, int], Group], versions: Sequence[str], count: int, of: Callable[[Group], Value]
) -> list[tuple[str, list[Value]]]:
    """A line for each version: its value in each of `count` steps, None where it did not serve. `steps`: (version, number of the step) -> its figures."""
    return [
        (version, [of(steps[version, n]) if (version, n) in steps else None for n in range(count)])
        for version in versions
    ]


def nice(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten: the upper edge of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 1.0
    while power > value:
        power /= 10
    return next(power * n for n in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * n >= value * 0.999)


def _y(value: float, top: float) -> float:
    return HEIGHT - 1 - (HEIGHT - 4) * min(max(value / top, 0.0), 1.0)


def path(values: Sequence[Value], top: float, joined: bool = False) -> str:
    """SVG path data of a line, in whole units; a gap where a value is unknown (unless `joined`), a dash of SEEN where one stands alone."""
    step = WIDTH / max(len(values), 1)
    known = [(i, value) for i, value in enumerate(values) if value is not None]
    parts: list[str] = []
    for n, (i, value) in enumerate(known):
        follows = n > 0 and (joined or known[n - 1][0] == i - 1)
        leads = n + 1 < len(known) and (joined or known[n + 1][0] == i + 1)
        x = (i + 0.5) * step
        if not follows and not leads:
            parts.append(f"M{min(max(x - SEEN / 2, 0), WIDTH - SEEN):.0f} {_y(value, top):.0f}h{SEEN}")
        else:
            parts.append(f"{'L' if follows else 'M'}{x:.0f} {_y(value, top):.0f}")
    return "".join(parts)


def _place(mark: Mark, since: datetime, until: datetime) -> tuple[int, int]:
    """(x, width) of a mark: no width for what did not last."""
    whole = until - since
    first, last = (min(max((at - since) / whole, 0.0), 1.0) for at in (mark.at, mark.until or mark.at))
    return round(WIDTH * first), round(WIDTH * (last - first))


def _parts(
    starts: Sequence[datetime],
    step: timedelta,
    values: Sequence[tuple[str, Sequence[Value]]],
    show: Callable[[Value], str],
) -> list[Part]:
    count = min(PARTS, len(starts))
    edges = [round(i * len(starts) / count) for i in range(count + 1)]
    made = []
    for first, last in pairwise(edges):
        words = []
        for name, line in values:
            known = [value for value in line[first:last] if value is not None]
            if known:
                low, high = show(min(known)), show(max(known))
                words.append(f"{name}: {low}" if low == high else f"{name}: {low} to {high}")
        x, end = (round(WIDTH * edge / len(starts)) for edge in (first, last))
        made.append(Part(x, end - x, starts[first], starts[last - 1] + step, "; ".join(words) or "no figure"))
    return made
