"""A version's days in their order -> the performance of each, estimated where labels are not there yet, beside what labels say and the reference (pure)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import numpy.typing as npt

from lastgood.judge.performance import LOSSES, Estimate, estimate
from lastgood.judge.reference import LABELLED, UNLABELLED, Calibration
from lastgood.judge.relation import contradiction

Floats = npt.NDArray[np.float64]
Group = tuple[Sequence[str], Sequence[Calibration]]
"""Metrics, and the calibrations that they are estimated by: one, or one for each class."""
FELL_DAYS, UNKNOWN_DAYS = 3, 7
"""So many whole days in a row are worse than the reference, or cannot be known, before somebody is told."""


@dataclass(frozen=True)
class Counted:
    """A day: tallies by group and calibration, answers that are in none of them, all answers, the share of these that the tallies are of."""

    tallies: Sequence[Sequence[Floats]]
    outside: int
    rows: int
    share: float = 1.0


@dataclass(frozen=True)
class Day:
    """A version's day: `rows` answered, whether it is part of the reference, the metrics."""

    model_version: str
    day: date
    rows: int
    reference: bool
    metrics: tuple[Estimate, ...]

    @property
    def why(self) -> str:
        """Why metrics of the day cannot be known, each reason once."""
        return "; ".join(dict.fromkeys(metric.reason for metric in self.metrics if metric.reason))


def days(version: str, groups: Sequence[Group], counted: Mapping[date, Counted], until: date, since: date) -> list[Day]:
    """Days from `since` on, in their order. Those before `until` are the reference; labels of the later ones watch the calibrations of the first group."""
    usual = _by_labels(groups, [each for day, each in counted.items() if day < until])
    watched, words, made = list[Sequence[Floats]](), "", list[Day]()
    for day in sorted(counted):
        each = counted[day]
        if day >= until and any(tally[..., LABELLED].any() for tally in each.tallies[0]):
            watched.append(each.tallies[0])
            words = contradicted(groups[0][1], watched) if day >= since else ""
        if day < since:
            continue
        real = _by_labels(groups, [each])
        metrics = [
            replace(metric, realised=real[metric.metric], usual=usual[metric.metric])
            for (names, calibrations), tallies in zip(groups, each.tallies, strict=True)
            for metric in estimate(names, calibrations, tallies, each.outside, words, each.share)
        ]
        made.append(Day(version, day, each.rows, day < until, tuple(metrics)))
    return made


def _by_labels(groups: Sequence[Group], counted: Sequence[Counted]) -> dict[str, float | None]:
    """Each metric of the labelled rows alone; None where there are none."""
    made: dict[str, float | None] = {}
    for number, (names, calibrations) in enumerate(groups):
        tallies = [
            sum((each.tallies[number][place] for each in counted), np.zeros((2, calibration.grid.cells, 5)))
            for place, calibration in enumerate(calibrations)
        ]
        for tally in tallies:
            tally[..., UNLABELLED] = 0
        made |= {metric.metric: metric.value for metric in estimate(names, calibrations, tallies)}
    return made


def contradicted(calibrations: Sequence[Calibration], batches: Sequence[Sequence[Floats]]) -> str:
    """What labels say against calibrations that are watched together: [batch][calibration]; empty where nothing."""
    if any(each.refused for each in calibrations):
        return ""
    return max(
        contradiction(calibration, [batch[place] for batch in batches], len(calibrations))
        for place, calibration in enumerate(calibrations)
    )[1]


def worse(made: Sequence[Day], metric: str) -> int:
    """How many of the newest days in a row have an interval that is wholly worse than the reference."""
    return _newest(
        made,
        lambda each: any(
            (m.low > m.usual if metric in LOSSES else m.high < m.usual)
            for m in each.metrics
            if m.metric == metric and m.low is not None and m.high is not None and m.usual is not None
        ),
    )


def unknown(made: Sequence[Day]) -> int:
    """Of how many of the newest days in a row, after the reference, nothing can be known."""
    return _newest(made, lambda each: not each.reference and all(metric.value is None for metric in each.metrics))


def _newest(made: Sequence[Day], holds: Callable[[Day], bool]) -> int:
    return next((n for n, each in enumerate(reversed(made)) if not holds(each)), len(made))
