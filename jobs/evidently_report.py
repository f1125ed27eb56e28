"""Two pandas samples -> Evidently's own verdict per column. The only module that imports Evidently."""

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Opinion:
    """Evidently's method, score (p-value or distance) and verdict on one column."""

    method: str
    score: float
    drifted: bool


def opinions(
    current: "pd.DataFrame",
    reference: "pd.DataFrame",
    numeric: list[str],
    categorical: list[str],
) -> dict[str, Opinion]:
    """column -> Opinion by Evidently's default choice of test; columns it could not judge are left out."""
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        columns = [*numeric, *categorical]
        snapshot = Report([DataDriftPreset(columns=columns)]).run(
            Dataset.from_pandas(current[columns], definition),
            Dataset.from_pandas(reference[columns], definition),
        )
    found = {}
    for metric in snapshot.dict()["metrics"]:
        config = metric["config"]
        if not str(config.get("type", "")).endswith("ValueDrift"):
            continue
        score, threshold = float(metric["value"]), float(config["threshold"])
        drifted = score < threshold if "p_value" in config["method"] else score >= threshold
        found[str(config["column"])] = Opinion(str(config["method"]), score, drifted)
    return found
