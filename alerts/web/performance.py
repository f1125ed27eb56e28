"""Days of a model's estimated performance -> what the endpoint's page shows of them (pure)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from lastgood.alerts.web.chart import Chart, Mark, chart
from lastgood.alerts.web.endpoint import SHOWN_VERSIONS
from lastgood.judge.days import Day

DEFINED, SHOWN = "estimated-performance", 7
"""Where the figures are defined; so many days of a version the page lists."""
NAMES: Mapping[str, str] = {
    "accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1", "roc_auc": "ROC AUC",
    "mae": "Mean absolute error", "rmse": "Root mean squared error",
}  # fmt: skip
DAY = timedelta(days=1)


def shown(value: float | None) -> str:
    """A metric for people."""
    return (
        "-"
        if value is None
        else f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.3f}"
        if abs(value) <= 1
        else f"{value:.4g}"
    )


def by_version(days: Sequence[Day], versions: Sequence[str]) -> list[tuple[str, list[Day], int]]:
    """Of each of `versions` that has any: its newest SHOWN days, newest first, and how many more there are."""
    of = {version: [day for day in days if day.model_version == version] for version in versions}
    return [(version, made[::-1][:SHOWN], max(0, len(made) - SHOWN)) for version, made in of.items() if made]


def drawn(days: Sequence[Day], versions: Sequence[str], events: Sequence[Mark]) -> Chart | None:
    """The first metric of each version by day, with the ends of its interval in the hints; None where it is known of no two days."""
    known = [day for day in days if day.metrics[0].value is not None and day.model_version in versions]
    if len({day.day for day in known}) < 2:
        return None
    first, last = min(day.day for day in known), max(day.day for day in known)
    starts = [
        datetime(first.year, first.month, first.day, tzinfo=UTC) + n * DAY for n in range((last - first).days + 1)
    ]
    values = {(day.model_version, day.day): day.metrics[0].value for day in known}
    lines = [(version, [values.get((version, start.date())) for start in starts]) for version in versions]
    name = NAMES[known[0].metrics[0].metric]
    return chart(f"{name}, estimated, by day", DEFINED, starts, DAY, lines, shown, events)


def section(days: Sequence[Day], served: Sequence[str], events: Sequence[Mark]) -> dict[str, Any]:
    """What the template takes. `served`: the versions in the page's order; of these and others at most SHOWN_VERSIONS are shown."""
    versions = list(dict.fromkeys([*served, *(day.model_version for day in reversed(days))]))[:SHOWN_VERSIONS]
    return {
        "versions": by_version(days, versions),
        "drawn": drawn(days, versions, events),
        "names": NAMES,
        "shown": shown,
    }


def table(days: Sequence[Day]) -> tuple[list[str], list[list[Any]]]:
    """Every figure of every day; unknown is empty."""
    heads = [
        "model_version",
        "day",
        "metric",
        "value",
        "low",
        "high",
        "labelled",
        "realised",
        "reference_value",
        "answers",
        "reference",
        "cannot_be_known",
    ]
    return heads, [
        [
            day.model_version,
            day.day.isoformat(),
            m.metric,
            m.value,
            m.low,
            m.high,
            m.labelled,
            m.realised,
            m.usual,
            day.rows,
            day.reference,
            m.reason,
        ]
        for day in days
        for m in day.metrics
    ]
