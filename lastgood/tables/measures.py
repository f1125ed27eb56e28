"""Measures and verdicts read back without Spark, for the service, the demo and reports."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.compute as pc

from lastgood import tables
from lastgood.record import metrics
from lastgood.record.verdict import Verdict
from lastgood.record.windows import Counts, add, from_row, merge, quantile

NEAR = timedelta(hours=6)


def windows(
    store: tables.Store,
    endpoint: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    version: str | None = None,
) -> list[Counts]:
    """All window counts (of one endpoint, one version; that start in [since, until]), with output quality where it was counted, by time."""
    wanted = (
        ("endpoint", "=", endpoint), ("window_start", ">=", since), ("window_start", "<=", until), ("model_version", "=", version),
    )  # fmt: skip
    filters: Any = [condition for condition in wanted if condition[2] is not None] or None
    key = ("endpoint", "model_version", "stratum", "window_start")
    answers = {
        tuple(row[name] for name in key): row for row in store.home(tables.QUALITY).read(filters=filters).to_pylist()
    }
    rows = store.home(tables.WINDOWS).read(filters=filters).to_pylist()
    counts = [from_row(answers.get(tuple(row[name] for name in key), {}) | row) for row in rows]
    return sorted(counts, key=lambda window: (window.start, window.model_version, window.stratum))


def verdicts(store: tables.Store, after: datetime | None = None) -> list[Verdict]:
    """Verdicts judged after `after`, by time."""
    filters: Any = [("judged_at", ">", after)] if after else None
    rows = store.home(tables.VERDICTS).read(filters=filters).to_pylist()
    return sorted(
        (Verdict.from_json(json.loads(row["document"])) for row in rows),
        key=lambda verdict: verdict.judged_at,
    )


def series(counts: Sequence[Counts], version: str, starts: Sequence[datetime], metric: str) -> list[float | None]:
    """One metric of the catalogue per window, for one version over all strata; None where the version did not serve."""
    by_start: dict[datetime, list[Counts]] = {}
    for window in counts:
        if window.model_version == version:
            by_start.setdefault(window.start, []).append(window)
    of = metrics.BY_NAME[metric].of
    return [of(merge(by_start[start])) if start in by_start else None for start in starts]


def drawn(
    counts: Sequence[Counts], new: str, prior: str | None, names: Sequence[str], points: int = 60
) -> list[dict[str, Any]]:
    """Metrics of two versions over the newest windows, as pages plot them: name, unit, when each window starts, a value or None per window."""
    starts = sorted({window.start for window in counts})[-points:]
    rows = []
    for name in names:
        metric = metrics.BY_NAME[name]
        unit, scale = ("%", 100.0) if metric.unit == "share" else (metric.unit, 1.0)
        sides = (
            [None if value is None else value * scale for value in series(counts, version, starts, name)]
            for version in (new, prior or "")
        )
        rows.append(
            {"name": metric.label, "unit": "" if unit == "1" else unit, "starts": starts}
            | dict(zip(("new", "prior"), sides, strict=True))
        )
    return rows


def sides(
    store: tables.Store, endpoint: str, new: str, prior: str | None, since: datetime
) -> dict[str, dict[str, float | None]]:
    """Figures of two versions over the windows since a moment, as verdicts hold them: `new` and `prior`, each where it served."""
    counts = windows(store, endpoint, since)
    of = {
        side: [window for window in counts if window.model_version == version]
        for side, version in (("new", new), ("prior", prior))
    }
    return {side: metrics.summary(group) for side, group in of.items() if group}


def report_path(store: tables.Store, endpoint: str, version: str) -> Path:
    """Where Evidently's report on a version is kept. Errors: ConfigError when the storage is no folder."""
    names = (quote(name, safe="").replace(".", "%2E") for name in (endpoint, version))
    return Path(store.folder, "reports", "drift", *names).with_suffix(".html")


def drift_report(store: tables.Store, endpoint: str, version: str) -> Path | None:
    """Evidently's report on a version, where somebody has made one."""
    if not store.in_folder:
        return None
    path = report_path(store, endpoint, version)
    return path if path.is_file() else None


FAILING = ("requested_at", "error_code", "latency_ms", "request_id", "trace_id")


def failing(store: tables.Store, endpoint: str, version: str, since: datetime, most: int = 3) -> list[dict[str, Any]]:
    """The newest failed requests of a version since a moment, without their texts (FAILING)."""
    wanted: Any = [("endpoint", "=", endpoint), ("model_version", "=", version), ("requested_at", ">=", since)]
    rows = store.home(tables.REQUESTS).read([*FAILING, "endpoint", "model_version"], wanted)
    if not rows.num_rows:
        return []
    failed = rows.filter(pc.is_valid(rows["error_code"])).sort_by([("requested_at", "descending")])
    newest: list[dict[str, Any]] = failed.select(list(FAILING)).slice(0, most).to_pylist()
    return newest


OTHER_TOOLS = "other"


def tools(
    store: tables.Store, endpoint: str, new: str, prior: str | None, since: datetime, most: int = 10
) -> list[dict[str, Any]]:
    """Tools of an agent's two versions since a moment (of runs that began in whole windows): tool, and for `new` and `prior` calls, error_rate and
    p95_ms, None where a version did not call it. The most runs of the new version in which it failed come first; beyond `most` they are one row."""
    wanted: Any = [("endpoint", "=", endpoint), ("window_start", ">=", since.replace(second=0, microsecond=0))]
    by_tool: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in store.home(tables.TOOL_WINDOWS).read(filters=wanted).to_pylist():
        if row["model_version"] in (new, prior):
            by_tool.setdefault(row["tool"], {}).setdefault(row["model_version"], []).append(row)

    def rank(name: str) -> tuple[float, float, str]:
        ours = by_tool[name].get(new, ())
        return -sum(row["runs_failed"] for row in ours), -sum(row["calls"] for row in ours), name

    ordered = sorted(by_tool, key=rank)
    shown = {name: by_tool[name] for name in ordered[:most]}
    for name in ordered[most:]:
        rest = shown.setdefault(OTHER_TOOLS, {})
        for version, rows in by_tool[name].items():
            rest.setdefault(version, []).extend(rows)
    return [
        {"tool": name, "new": _called(sides.get(new)), "prior": _called(sides.get(prior or ""))}
        for name, sides in shown.items()
    ]


def _called(rows: Sequence[dict[str, Any]] | None) -> dict[str, Any] | None:
    """Rows of `tool_windows` as one."""
    if not rows:
        return None
    calls = sum(row["calls"] for row in rows)
    latency = add(*(dict(row["latency"] or ()) for row in rows))
    return {"calls": calls, "error_rate": sum(row["errors"] for row in rows) / calls, "p95_ms": quantile(latency, 0.95)}


def evidence_series(
    store: tables.Store, endpoint: str, new: str, prior: str | None, around: datetime, window_s: int, points: int = 60
) -> list[dict[str, Any]]:
    """What the evidence page draws: two versions over the newest windows of six hours (or `points` windows) before and after `around`."""
    span = max(NEAR, points * timedelta(seconds=window_s))
    names = ("p95_ms", "error_rate", "bad_answers", "requests")
    return drawn(windows(store, endpoint, around - span, around + span), new, prior, names, points)
