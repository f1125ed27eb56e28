"""Baselines: the samples of a time set aside, numbered per endpoint, as what drift is measured against; listed; compared. Without Spark:
the tables are read and written through their homes, wherever they are.
"""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood import tables
from lastgood.errors import ConfigError
from lastgood.jobs.comparison import comparable, measured
from lastgood.jobs.sampling import KEEP
from lastgood.record.telemetry import arrow_schema

LEAST_ROWS = 50


def set_baseline(
    store: tables.Store,
    endpoint: str,
    span: tuple[datetime, datetime],
    now: datetime,
    version: str | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Store the sample of the endpoint's answered requests in [from, to) as its next baseline. Run `lastgood job samples` before.

    Errors: ConfigError when there are fewer than LEAST_ROWS.
    """
    near: list[Any] = [
        ("endpoint", "=", endpoint),
        ("window_start", ">=", span[0] - timedelta(hours=1)),
        ("window_start", "<", span[1]),
        ("requested_at", ">=", span[0]),
        ("requested_at", "<", span[1]),
    ]
    near += [("model_version", "=", version)] if version else []
    rows = store.home(tables.SAMPLES).read(filters=near)
    rows = rows.sort_by([("hash", "ascending"), ("request_id", "ascending")]).slice(0, KEEP)
    _, first = np.unique(np.array(rows["request_id"].to_pylist(), object), return_index=True)
    rows = rows.take(pa.array(np.sort(first)))
    if rows.num_rows < LEAST_ROWS:
        raise ConfigError(
            f"{endpoint}: {rows.num_rows} sampled requests in that time, a baseline needs {LEAST_ROWS}; "
            "widen --from and --to, or run `lastgood job samples --backfill` first"
        )
    number = max((stored["baseline"] for stored in list_baselines(store, endpoint)), default=0) + 1
    stamps = {"baseline": number, "note": note, "set_at": now}
    schema = arrow_schema(tables.BASELINES.fields)
    columns = [
        pa.array([stamps[field.name]] * rows.num_rows, field.type)
        if field.name in stamps
        else rows[field.name].cast(field.type)
        for field in schema
    ]
    store.home(tables.BASELINES).append(pa.Table.from_arrays(columns, schema=schema))
    return {"endpoint": endpoint, "baseline": number, "rows": rows.num_rows}


def list_baselines(store: tables.Store, endpoint: str | None = None) -> list[dict[str, Any]]:
    """Baselines with their rows, versions, time range and tabular columns, by endpoint and number."""
    names = ["endpoint", "baseline", "note", "set_at", "model_version", "requested_at", "features"]
    filters: list[Any] | None = [("endpoint", "=", endpoint)] if endpoint else None
    rows = store.home(tables.BASELINES).read(names, filters)
    if not rows.num_rows:  # where there is no table yet there are no columns
        return []
    made = []
    for owner, number in sorted(set(zip(rows["endpoint"].to_pylist(), rows["baseline"].to_pylist(), strict=True))):
        own = rows.filter(pc.and_(pc.equal(rows["endpoint"], owner), pc.equal(rows["baseline"], number)))
        features = (dict(pairs) for pairs in own["features"].to_pylist() if pairs)
        made.append({
            "endpoint": owner, "baseline": number, "note": pc.max(own["note"]).as_py(), "set_at": pc.max(own["set_at"]).as_py(),
            "rows": own.num_rows, "versions": sorted(set(own["model_version"].to_pylist())),
            "first": pc.min(own["requested_at"]).as_py(), "last": pc.max(own["requested_at"]).as_py(),
            "columns": sorted({name for pairs in features for name in pairs}),
        })  # fmt: skip
    return made


def pick(store: tables.Store, endpoint: str, number: int) -> pa.Table:
    """A baseline's rows. Errors: ConfigError when there is none of that number."""
    rows = store.home(tables.BASELINES).read(filters=[("endpoint", "=", endpoint), ("baseline", "=", number)])
    if not rows.num_rows:
        known = ", ".join(str(stored["baseline"]) for stored in list_baselines(store, endpoint)) or "none"
        raise ConfigError(f"{endpoint} has no baseline {number}; there are: {known}")
    return rows


def diff(
    store: tables.Store, endpoint: str, old: int, new: int, drift_limit: float, now: datetime
) -> list[dict[str, Any]]:
    """How the newer baseline differs from the older, column by column, as drift is measured."""
    newer, older = pick(store, endpoint, new), pick(store, endpoint, old)
    places = np.arange(newer.num_rows + older.num_rows)
    chosen = {"current": places[: newer.num_rows], "baseline": places[newer.num_rows :]}
    group = comparable(pa.concat_tables([newer, older]), chosen, endpoint, "-", "reference", "baseline")
    return measured(group, drift_limit, now)
