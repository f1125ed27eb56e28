"""A table of canonical records or window counts -> every change of the verdict on one version, without Spark or a server."""

import itertools
import logging
import re
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lastgood.collectors.files import whole
from lastgood.errors import ConfigError
from lastgood.judge import Evidence, Verdict
from lastgood.judge.columns import Ints, columns
from lastgood.judge.power import Traffic
from lastgood.judge.records import Records, buckets, columns_of
from lastgood.record.windows import Counts, bucket, from_row
from lastgood.settings import Policy
from lastgood.tables import files

log = logging.getLogger(__name__)

NEEDED = ("endpoint", "model_version", "requested_at")
NUMBERS = ("latency_ms", "tokens_in", "tokens_out", "ttft_ms", "feature_age_ms")
TEXTS = ("error_code", "requester", "latency_scope", "pod")
SUCCESS = frozenset({"ok", "success", "succeeded", "false", "unset", "status_code_ok", "status_code_unset", "no_error"})
STATUS = re.compile(r"(?:http|status)?[ _:/-]*(\d+)(?:\.0+)?(?: [a-z ]+)?")


def _used(names: list[str]) -> list[str]:
    """Of records only what is looked at: bodies may be large. Errors: ConfigError."""
    if "window_start" in names:
        return names
    if lost := [name for name in NEEDED if name not in names]:
        raise ConfigError(f"no column {', '.join(lost)}; there are {', '.join(names) or 'none'}")
    known = {*NEEDED, *NUMBERS, *TEXTS}
    return [name for name in names if name in known or name.startswith("eval.")]


def read(path: Path) -> pa.Table:
    """The table. Errors: ConfigError when it cannot be read, or lacks columns."""
    if not path.exists():
        raise ConfigError(f"{path}: cannot be read: there is no such file or folder")
    with tempfile.TemporaryDirectory(prefix="lastgood-") as scratch:
        return whole(str(path), _used, Path(scratch))


def failed(code: str) -> bool:
    """Whether an error code is one: no word for success, no 0 and no status from 100 to 399."""
    text = code.lower()
    status = STATUS.fullmatch(text)
    return not (int(status[1]) == 0 or 100 <= int(status[1]) < 400) if status else text not in SUCCESS


def _text(table: pa.Table, name: str) -> tuple[Ints, list[str]]:
    return files.text(table[name], name) if name in table.column_names else (np.full(len(table), -1), [])


def _errors(table: pa.Table) -> tuple[Ints, list[str]]:
    """(which failure, -1 for none; the codes)."""
    index, names = _text(table, "error_code")
    return np.append([i if failed(code) else -1 for i, code in enumerate(names)], -1).astype(np.int64)[index], names


def _people(table: pa.Table) -> Ints:
    """Requesters by number, in the order of the hashes that the windows job knows them by, so that both judge in one order."""
    index, names = _text(table, "requester")
    place = np.argsort(np.argsort([sha256(requester.encode()).hexdigest()[:12] for requester in names]))
    return np.append(place, -1).astype(np.int64)[index]


def _of(table: pa.Table, endpoint: str) -> pa.Table:
    """The rows of one endpoint. Errors: ConfigError when it has none."""
    index, names = _text(table, "endpoint")
    if endpoint not in names:
        raise ConfigError(f"no requests to endpoint {endpoint}, found {', '.join(sorted(names)[:10]) or 'none'}")
    return table.filter(pa.array(index == names.index(endpoint)))


def _version(wanted: str, seen: list[str]) -> str:
    """As it is written there: where numbers have holes, 2 is written 2.0."""
    return wanted if wanted in seen or f"{wanted}.0" not in seen else f"{wanted}.0"


def records(table: pa.Table, endpoint: str, new: str | None, prior: str | None) -> Records:
    """Usable requests of the two versions (None, None: of all). Errors: ConfigError when columns or versions are missing."""
    table = _of(table, endpoint)
    version, seen = _text(table, "model_version")
    wanted = [_version(name, seen) for name in (new, prior) if name is not None]
    if not seen or not set(wanted) <= set(seen):
        names = " and ".join(wanted) or "any"
        raise ConfigError(f"endpoint {endpoint}: version {names} wanted, found {', '.join(seen[:10]) or 'none'}")
    if len(wanted) == 2 and wanted[0] == wanted[1]:
        raise ConfigError(f"endpoint {endpoint}: two versions are compared, {wanted[0]} was named twice")
    keep = np.isin(version, [seen.index(name) for name in wanted or seen])
    table, version = table.filter(pa.array(keep)), version[keep]
    code, codes = _errors(table)
    scope, scopes = _text(table, "latency_scope")
    values = {n[5:]: files.numbers(table, n) for n in table.column_names if n.startswith("eval.")}
    at = files.moments(table["requested_at"])
    result = Records(
        at, (version == seen.index(wanted[0]) if new is not None else version < 0).astype(np.int64), code, codes, _people(table),
        scope=np.where(scope < 0, len(scopes), scope), scopes=[*scopes, "?"], pod=_text(table, "pod")[0], values=values,
        **{name: files.numbers(table, name) for name in NUMBERS},
    )  # fmt: skip
    timed = np.isfinite(at)
    if not timed.any():
        raise ConfigError(f"endpoint {endpoint}: no request has a requested_at")
    if not timed.all():
        log.warning("%d of %d requests have no requested_at and are left out", len(at) - timed.sum(), len(at))
    return result.take(timed)


def counts(table: pa.Table, endpoint: str) -> list[Counts]:
    """Rows of a windows table as Counts."""
    return [from_row(row) for row in _of(table, endpoint).to_pylist()]


def _pair(table: pa.Table, endpoint: str, new: str | None, prior: str | None) -> tuple[str, str]:
    """The versions named, else the one that appeared last and the one before it. Errors: ConfigError when there are no two."""
    if new is not None and prior is not None:
        return new, prior
    rows = _of(table, endpoint)
    version, names = _text(rows, "model_version")
    at = files.moments(rows["requested_at" if "requested_at" in rows.column_names else "window_start"])
    first = pd.Series(at).groupby(version).min().sort_values()
    order = [names[code] for code in first.index if code >= 0 and names[code] not in ("?", new, prior)]
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
        starts = sorted({window.start for window in windows})
        width = int(min((b - a).total_seconds() for a, b in itertools.pairwise(starts))) if starts[1:] else 60
        cols = columns(windows, new, prior, width, bucket(policy.feature_age_limit_ms))
    else:
        cols = columns_of(records(table, endpoint, new, prior), width, policy.feature_age_limit_ms)
    return Evidence(endpoint, new, prior, cols.since_new(), width)


def plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict change for JSON: time, verdict, reason, e-values."""
    document = verdict.as_json()
    trail = document["figures"].get("trail", {})
    return {
        "time": document["judged_at"], "verdict": document["state"], "reason": verdict.reason, "e_value": min(verdict.e_value, 1e300),
        "since": document["since"], "vetoes": list(verdict.vetoes), "outlook": verdict.outlook,
        "e_values": {name: stream["e"] for name, stream in trail.get("streams", {}).items()},
        "unit": trail.get("unit"), "findings": document["findings"],
    }  # fmt: skip


def traffic(path: Path, endpoint: str, share: float) -> Traffic:
    """Requests a minute, failures and latency of an endpoint's history. Errors: ConfigError."""
    result = records(read(path), endpoint, None, None)
    minutes = max(1.0, float(result.at.max() - result.at.min()) / 60)
    known = result.latency_ms[result.latency_ms > 0]
    names, weights = np.unique(buckets(known), return_counts=True)
    return Traffic(
        len(result.at) / minutes, share, float((result.code >= 0).mean()), names.astype(float), weights.astype(float)
    )


def draw_power(curves: dict[str, list[float]], out: Path) -> None:
    """The share of regressions seen by the minute, one line per case."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for name, share in curves.items():
        axis.step(range(len(share)), [100 * value for value in share], where="post", label=name)
    axis.set(xlabel="minutes since the regression began", ylabel="seen (%)", ylim=(0, 101))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(out, dpi=120)
    plt.close(figure)
