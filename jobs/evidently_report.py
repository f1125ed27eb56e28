"""Two pandas samples -> Evidently's own verdict per column, and its report. The only module that imports Evidently."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Opinion:
    """Evidently's method, score (p-value or distance) and verdict on one column."""

    method: str
    score: float
    drifted: bool


@contextmanager
def _tests_alone() -> Iterator[None]:
    """Evidently's modules can be imported without all of Evidently: a web server, plots and language tools, 4 s and 90 MiB for each
    Spark worker. An empty package stands in while they are, and goes again, so that who wants all of it gets it.
    """
    spec = None if "evidently" in sys.modules else find_spec("evidently")
    if spec:
        sys.modules["evidently"] = module_from_spec(spec)
    try:
        yield
    finally:
        if spec:
            del sys.modules["evidently"]


def opinion(current: "pd.Series[float]", reference: "pd.Series[float]", numeric: bool) -> Opinion | None:
    """What Evidently's own choice of test says of a column, by its test functions: a report of 20 columns takes two seconds, these ten
    milliseconds. None where it cannot judge.
    """
    os.environ["DO_NOT_TRACK"] = "1"
    with _tests_alone():
        from evidently.legacy.calculations.stattests import get_stattest
        from evidently.legacy.core import ColumnType

    kind = ColumnType.Numerical if numeric else ColumnType.Categorical
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            test = get_stattest(reference, current, kind, None)
            result = test(reference, current, kind, None)
        except (ValueError, ZeroDivisionError):
            return None
    return Opinion(test.display_name, float(result.drift_score), bool(result.drifted))


def _snapshot(current: "pd.DataFrame", reference: "pd.DataFrame", numeric: list[str], categorical: list[str]) -> object:
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        columns = [*numeric, *categorical]
        return Report([DataDriftPreset(columns=columns)]).run(
            Dataset.from_pandas(current[columns], definition),
            Dataset.from_pandas(reference[columns], definition),
        )


def opinions(
    current: "pd.DataFrame",
    reference: "pd.DataFrame",
    numeric: list[str],
    categorical: list[str],
) -> dict[str, Opinion]:
    """column -> Opinion as plain Evidently's report has it; columns it could not judge are left out."""
    results = {}
    for metric in _snapshot(current, reference, numeric, categorical).dict()["metrics"]:  # type: ignore[attr-defined]
        config = metric["config"]
        if not str(config.get("type", "")).endswith("ValueDrift"):
            continue
        score, threshold = float(metric["value"]), float(config["threshold"])
        drifted = score < threshold if "p_value" in config["method"] else score >= threshold
        results[str(config["column"])] = Opinion(str(config["method"]), score, drifted)
    return results


def report(
    current: "pd.DataFrame", reference: "pd.DataFrame", numeric: list[str], categorical: list[str], path: Path
) -> None:
    """Write Evidently's own HTML report."""
    _snapshot(current, reference, numeric, categorical).save_html(str(path))  # type: ignore[attr-defined]


def descriptor(name: str) -> Callable[[str | None], object]:
    """What one of Evidently's descriptors says of a text. Errors: ConfigError for a name that it does not have."""
    os.environ["DO_NOT_TRACK"] = "1"
    import pandas as pd
    from evidently import DataDefinition, Dataset, descriptors

    if not hasattr(descriptors, name):
        raise ConfigError(f"Evidently has no descriptor {name}")
    kind, texts = getattr(descriptors, name)("text", alias="value"), DataDefinition(text_columns=["text"])

    def of(text: str | None) -> object:
        described = Dataset.from_pandas(pd.DataFrame({"text": [text or ""]}), texts, [kind])
        return described.as_dataframe()["value"].iloc[0]

    return of
