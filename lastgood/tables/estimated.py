"""Cells of scores, read back without Spark -> the performance of each version by day, estimated where labels are not there yet."""

from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from lastgood import tables
from lastgood.judge.performance import CLASSIFICATION, Estimate, estimate
from lastgood.judge.reference import LABELLED, OVER, SQUARES, TOTAL, UNLABELLED, calibrated, even_grid
from lastgood.judge.relation import contradiction
from lastgood.tables import Store

Floats = npt.NDArray[np.float64]


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

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"day": self.day.isoformat()}


def by_day(store: Store, endpoint: str, reference_days: int, since: datetime, version: str | None = None) -> list[Day]:
    """Days from `since` on, by version and time. The first `reference_days` of a version's traffic are its reference. Errors: as the tables' homes."""
    wanted: Any = [("endpoint", "=", endpoint), *([("model_version", "=", version)] if version else [])]
    counts: dict[str, dict[date, tuple[Floats, int]]] = {}
    for row in store.home(tables.SCORE_CELLS).read(filters=wanted).to_pylist():
        day = row["window_start"].astimezone(UTC).date()
        tally, outside = counts.setdefault(row["model_version"], {}).setdefault(day, (_empty(), 0))
        if row["cell"] < 0:
            counts[row["model_version"]][day] = tally, outside + row["unlabelled"] + row["labelled"]
            continue
        cell = tally[int(row["predicted"]), row["cell"]]
        cell[UNLABELLED] += row["unlabelled"]
        cell[LABELLED] += row["labelled"]
        cell[[TOTAL, SQUARES, OVER]] += row["positive"]
    return [
        day for name in sorted(counts) for day in _days(name, counts[name], reference_days) if day.day >= since.date()
    ]


def _empty() -> Floats:
    return np.zeros((2, even_grid().cells, OVER + 1))


def _days(version: str, counts: dict[date, tuple[Floats, int]], reference_days: int) -> list[Day]:
    until = min(counts) + timedelta(days=reference_days)
    calibration = calibrated(even_grid(), np.sum([tally for day, (tally, _) in counts.items() if day < until], axis=0))
    made, labels = [], list[Floats]()
    for day in sorted(counts):
        tally, outside = counts[day]
        words = ""
        if day >= until and not calibration.refused:
            labels.append(tally)
            words = contradiction(calibration, labels)[1]
        metrics = estimate(CLASSIFICATION, [calibration], [tally], outside, words)
        made.append(Day(version, day, int(tally[..., :TOTAL].sum()) + outside, day < until, tuple(metrics)))
    return made
