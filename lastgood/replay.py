"""A table of canonical records or window counts -> every change of the verdict on one version, without Spark or a server."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from lastgood import delta
from lastgood.config import Policy
from lastgood.errors import ConfigError
from lastgood.judge import Evidence, Verdict
from lastgood.judge.columns import Columns, columns
from lastgood.judge.power import Traffic
from lastgood.judge.records import Records, buckets, columns_of
from lastgood.windows import Counts, bucket, from_row

NEEDED = ("endpoint", "model_version", "requested_at")
NOTHING = frozenset({"", "-", "null", "none", "nan"})
"""Text that stands for "unknown" in files without nulls."""
SUCCESS = NOTHING | {"0", "0.0", "ok", "success"}
"""Error codes that are none; numbers below 400 are none either."""


def read(path: Path) -> pa.Table:
    """The whole table. Errors: ConfigError when it cannot be read."""
    try:
        if (path / "_delta_log").is_dir():
            return delta.read(path)
        if path.is_dir() or path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix in (".csv", ".gz") or path.name.endswith(".csv.gz"):
            return pyarrow.csv.read_csv(path)
        if path.suffix in (".json", ".jsonl", ".ndjson"):
            return pyarrow.json.read_json(path)
    except (OSError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    raise ConfigError(f"{path}: expected a Delta or Parquet folder, or a .parquet, .csv, .json or .jsonl file")


def text(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A column as text, None where null; whole numbers without a fraction."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        values = column.to_pandas()
        return np.array([None if np.isnan(v) else f"{v:g}" for v in values], object)
    return np.array(column.cast(pa.string()).to_pylist(), object)


def moments(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A time column as epoch seconds: timestamps, ISO text, or numbers in s, ms, us or ns. Errors: ConfigError."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return np.asarray(column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy() / 1e6, float)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = column.to_numpy().astype(float)
        size = np.nanmedian(values) if len(values) else 0.0
        return np.asarray(values / next((10.0**p for p in (9, 6, 3) if size > 1e8 * 10.0 ** (p + 1)), 1.0))
    try:
        parsed = pd.to_datetime(column.to_pandas(), utc=True, format="ISO8601")
    except (ValueError, TypeError) as error:
        raise ConfigError(f"requested_at: expected times in ISO 8601, found {error}") from error
    return np.asarray(parsed.astype("datetime64[us, UTC]").astype("int64") / 1e6, float)


def _number(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    try:
        return np.asarray(table[name].cast(pa.float64()).to_numpy(), float)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{name}: expected numbers, found {table[name].type} ({error})") from error


def _codes(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], list[str]]:
    """(index, -1 for None; names)."""
    index, names = pd.factorize(values, sort=False)
    return index.astype(np.int64), [str(one) for one in names]


def _named(value: str) -> bool:
    return value.strip().lower() not in NOTHING


def _failed(value: str) -> bool:
    said = value.strip().lower()
    return said not in SUCCESS and not (said.removesuffix(".0").isdigit() and int(said.removesuffix(".0")) < 400)


def _only(values: np.ndarray[Any, Any], wanted: Callable[[str], bool]) -> np.ndarray[Any, Any]:
    """The same with None where a text is not wanted; each different text is asked once."""
    index, names = pd.factorize(values)
    kept = np.array([*(one if wanted(one) else None for one in names), None], object)
    return kept[index]


def _people(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Requesters by number, in the order of the hashes that the windows job knows them by, so that both judge in one order."""
    index, names = pd.factorize(values)
    place = np.argsort(np.argsort(np.array([sha256(str(one).encode()).hexdigest()[:12] for one in names], "U12")))
    return np.asarray(np.append(place, -1)[index], np.int64)


def records(table: pa.Table, endpoint: str, new: str | None, prior: str | None) -> Records:
    """Usable requests of the two versions (None, None: of all). Errors: ConfigError when columns or versions are missing."""
    lost = [name for name in NEEDED if name not in table.column_names]
    if lost:
        raise ConfigError(f"no column {', '.join(lost)}; there are {', '.join(table.column_names)}")
    table = table.filter(pc.equal(pc.cast(table["endpoint"], pa.string()), endpoint))
    version = text(table["model_version"])
    seen = sorted({str(one) for one in version if one is not None})
    wanted = [one for one in (new, prior) if one is not None]
    if not seen or not set(wanted) <= set(seen):
        names = " and ".join(wanted) or "any"
        raise ConfigError(f"endpoint {endpoint}: version {names} wanted, found {', '.join(seen) or 'none'}")
    keep = np.isin(version.astype(str), wanted or seen)
    table, version = table.filter(pa.array(keep)), version[keep]
    nobody = np.full(len(table), None, object)
    errors = text(table["error_code"]) if "error_code" in table.column_names else nobody
    code, codes = _codes(_only(errors, _failed))
    who = _people(_only(text(table["requester"]) if "requester" in table.column_names else nobody, _named))
    scope = text(table["latency_scope"]) if "latency_scope" in table.column_names else nobody
    scope_index, scopes = _codes(np.where(scope == None, "?", scope))  # noqa: E711 (element-wise)
    at = moments(table["requested_at"])
    numbers = {n: _number(table, n) for n in ("latency_ms", "tokens_in", "tokens_out", "ttft_ms", "feature_age_ms")}
    pod, _ = _codes(text(table["pod"]) if "pod" in table.column_names else nobody)
    values = {n[5:]: _number(table, n) for n in table.column_names if n.startswith("eval.")}
    found = Records(
        at, (version == new).astype(np.int64), code, codes, who, scope=scope_index, scopes=scopes, pod=pod, values=values, **numbers
    )  # fmt: skip
    return found.take(np.isfinite(at))


def counts(table: pa.Table, endpoint: str) -> list[Counts]:
    """Rows of a windows table as Counts."""
    return [from_row(row) for row in table.filter(pc.equal(table["endpoint"], endpoint)).to_pylist()]


def _pair(table: pa.Table, endpoint: str, new: str | None, prior: str | None) -> tuple[str, str]:
    """The versions named, else the one that appeared last and the one before it. Errors: ConfigError when there are no two."""
    if new is not None and prior is not None:
        return new, prior
    lost = {"endpoint", "model_version"} - set(table.column_names)
    mine = table.filter(pc.equal(pc.cast(table["endpoint"], pa.string()), endpoint)) if not lost else table.slice(0, 0)
    order: list[str] = []
    if len(mine):
        at = moments(mine["requested_at" if "requested_at" in mine.column_names else "window_start"])
        first = pd.Series(at).groupby(text(mine["model_version"])).min().sort_values()
        order = [str(one) for one in first.index if one not in ("?", new, prior)]
    order = [*([prior] if prior else []), *order[-2:], *([new] if new else [])]
    if len(order) < 2:
        raise ConfigError(f"endpoint {endpoint}: two versions are compared, found {', '.join(order) or 'none'}")
    return (new or order[-1], prior or order[-2])


def evidence(path: Path, endpoint: str, new: str | None, prior: str | None, width: int, policy: Policy) -> Evidence:
    """Evidence from a file, from the candidate's first window on. `width`: seconds per window (records only). None: the version
    that appeared last, the one before it.

    Errors: ConfigError.
    """
    table = read(path)
    new, prior = _pair(table, endpoint, new, prior)
    if "window_start" in table.column_names:
        windows = counts(table, endpoint)
        starts = sorted({one.start for one in windows})
        width = int(min((b - a).total_seconds() for a, b in itertools.pairwise(starts))) if starts[1:] else 60
        cols = columns(windows, new, prior, width, bucket(policy.feature_age_limit_ms))
    else:
        cols = columns_of(records(table, endpoint, new, prior), width, policy.feature_age_limit_ms)
    return Evidence(endpoint, new, prior, since_new(cols), width)


def since_new(cols: Columns) -> Columns:
    """Without the windows before the new version's first."""
    served = np.flatnonzero(cols.n[..., 1].sum(1) > 0)
    first = int(served[0]) if len(served) else 0
    if first == 0:
        return cols
    rows = {
        name: getattr(cols, name)[first:] for name in ("times", "n", "failed", "families", "answers", "bad", "stale")
    }
    scores = {name: one[first:] for name, one in cols.scores.items()}

    def later(found: Any) -> Any:
        kept = {name: value[found.t >= first] for name, value in vars(found).items()}
        return replace(found, **{**kept, "t": kept["t"] - first})

    histograms = {name: later(one) for name, one in cols.histograms.items()}
    return replace(cols, **rows, scores=scores, histograms=histograms, requesters=later(cols.requesters))


def plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict change for JSON: time, verdict, reason, e-values."""
    document: dict[str, Any] = json.loads(
        json.dumps(verdict.as_dict(), default=lambda v: v.isoformat() if hasattr(v, "isoformat") else str(v))
    )
    trail = document["figures"].get("trail", {})
    return {
        "time": document["judged_at"], "verdict": document["state"], "reason": verdict.reason, "e_value": min(verdict.e_value, 1e300),
        "since": document["since"], "vetoes": list(verdict.vetoes), "outlook": verdict.outlook,
        "e_values": {name: one["e"] for name, one in trail.get("streams", {}).items()},
        "unit": trail.get("unit"), "findings": document["findings"],
    }  # fmt: skip


def traffic(path: Path, endpoint: str, share: float) -> Traffic:
    """Requests a minute, failures and latency of an endpoint's history. Errors: ConfigError."""
    found = records(read(path), endpoint, None, None)
    minutes = max(1.0, float(found.at.max() - found.at.min()) / 60)
    known = found.latency_ms[found.latency_ms > 0]
    names, weights = np.unique(buckets(known), return_counts=True)
    return Traffic(
        len(found.at) / minutes, share, float((found.code >= 0).mean()), names.astype(float), weights.astype(float)
    )


def draw_power(curves: dict[str, list[float]], out: Path) -> None:
    """The share of regressions seen by the minute, one line per case."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for name, share in curves.items():
        axis.step(range(len(share)), [100 * one for one in share], where="post", label=name)
    axis.set(xlabel="minutes since the regression began", ylabel="seen (%)", ylim=(0, 101))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(out, dpi=120)
    plt.close(figure)
