"""Comparisons of columns -> the tables, the chart and the two distributions of the page of drift (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lastgood.alerts.web.chart import HEIGHT, WIDTH, Chart, Mark, chart
from lastgood.record.words import percent
from lastgood.tables.drifted import Column, Compared, Distributions
from lastgood.tables.history import Span

LISTED = 200


def number(value: float | None) -> str:
    """A distance for people."""
    return "-" if value is None else f"{value:.3g}"


def over_time(rows: Sequence[Compared], span: Span, limit: float, marks: Sequence[Mark]) -> Chart:
    """The distances of one column: a line for each version that was compared, the newest of each step."""
    starts = span.starts
    lines: dict[str, list[float | None]] = {}
    for row in sorted(rows, key=lambda compared: compared.at):
        step = min((row.at - span.since) // span.step, len(starts) - 1)
        lines.setdefault(row.version, [None] * len(starts))[step] = row.distance
    values = list(reversed(lines.items()))
    return chart("Distance", "distance", starts, span.step, values, number, marks, limit, joined=True)


def chosen(rows: Sequence[Compared], at: datetime | None) -> Compared | None:
    """The comparison whose samples are shown: the newest, or the newest until a moment."""
    until = [row for row in rows if at is None or row.at <= at] or list(rows[:1])
    return max(until, key=lambda row: row.at, default=None)


@dataclass(frozen=True)
class Bar:
    """A bin: `x` and `width` of it, the heights of both samples in the chart's units, and what it says."""

    x: int
    width: int
    current: int
    reference: int
    words: str


def bars(d: Distributions) -> list[Bar]:
    """Both samples over each other, as high as the chart where a share is the largest."""
    top = max([*d.current, *d.reference]) or 1.0
    count = len(d.current)
    edges = [round(i * WIDTH / count) for i in range(count + 1)]
    made = []
    for i, (ours, theirs) in enumerate(zip(d.current, d.reference, strict=True)):
        name = f"{d.labels[i]} to {d.labels[i + 1]}" if d.numeric else d.labels[i]
        high, low = (round((HEIGHT - 4) * share / top) for share in (ours, theirs))
        made.append(
            Bar(
                edges[i],
                edges[i + 1] - edges[i],
                high,
                low,
                f"{name}: {percent(ours)}, reference {percent(theirs)}",
            )
        )
    return made


def bins_csv(d: Distributions | None) -> tuple[list[str], list[list[Any]]]:
    heads = ["bin", "current", "reference"]
    if d is None:
        return heads, []
    names = [f"{a}..{b}" for a, b in zip(d.labels, d.labels[1:], strict=False)] if d.numeric else d.labels
    return heads, [list(row) for row in zip(names, d.current, d.reference, strict=True)]


def columns_csv(columns: Sequence[Column]) -> tuple[list[str], list[list[Any]]]:
    """The newest comparison of each column."""
    return compared_csv([column.newest for column in columns])


def compared_csv(rows: Sequence[Compared]) -> tuple[list[str], list[list[Any]]]:
    heads = ["endpoint", "model_version", "against", "reference", "kind", "column", "computed_at", "distance", "low", "drifted", "method", "n_current",
             "n_reference", "evidently_method", "evidently_score"]  # fmt: skip
    return heads, [
        [
            r.endpoint, r.version, r.against, r.reference, r.kind, r.column, r.at.isoformat(), r.distance, r.low, r.drifted, r.method, r.n_current,
            r.n_reference, r.evidently_method, r.evidently_score,
        ]
        for r in rows
    ]  # fmt: skip
