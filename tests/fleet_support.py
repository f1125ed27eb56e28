"""A small fleet in tables without Spark, and the pages over it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from alerts_support import START

from lastgood import tables
from lastgood.record import telemetry
from lastgood.record.windows import bucket

NIGHT = timedelta(days=1)


def put(store: tables.Store, table: tables.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows; a column that a row does not name is null."""
    store.home(table).append(pa.Table.from_pylist(list(rows), telemetry.arrow_schema(table.fields)))


def window(
    endpoint: str, version: str, start: datetime, requests: float, failed: float = 0, ms: float = 100
) -> dict[str, Any]:
    """A row of `windows` whose requests all took `ms`."""
    return {
        "endpoint": endpoint, "model_version": version, "stratum": "all", "window_start": start, "rows": int(requests),
        "requests": requests, "errors": [("HTTP_500", failed)] if failed else [], "latency": [(bucket(ms), requests)],
        "tokens_in": 0.0, "tokens_out": 0.0,
    }  # fmt: skip


def fleet_tables(folder: Path) -> tables.Store:
    """chat: versions 2 and 3, one in twenty requests of 3 fails, priced, drifted, with features. search: silent for two days, without prices."""
    store = tables.Store(str(folder))
    minutes = [START - timedelta(minutes=n) for n in (40, 20, 5)]
    put(store, tables.WINDOWS, [window("chat", "2", at, 300.0) for at in minutes])
    put(store, tables.WINDOWS, [window("chat", "3", at, 100.0, failed=5.0, ms=900) for at in minutes])
    put(
        store,
        tables.WINDOWS_HOUR,
        [window("chat", "2", START - timedelta(hours=6 * n + 1), 100.0 * n) for n in range(28)],
    )
    put(store, tables.WINDOWS_HOUR, [window("search", "1", START - 2 * NIGHT, 50.0)])
    day = START.replace(hour=0)
    bill = {"team": "?", "window_start": day}
    put(store, tables.COST, [bill | {"endpoint": "chat", "model_version": v, "money": 12.5} for v in ("2", "3")])
    put(
        store,
        tables.COST,
        [
            bill | {"endpoint": "search", "model_version": "1", "money": m, "team": t}
            for m, t in ((1.0, "a"), (None, "b"))
        ],
    )
    compared = {"endpoint": "chat", "model_version": "3", "against": "prior", "kind": "input"}
    put(store, tables.DRIFT, [
        compared | {"column": column, "computed_at": START - timedelta(hours=hours), "drifted": drifted}
        for column, hours, drifted in (("age", 9, True), ("age", 3, False), ("city", 3, True), ("size", 3, False))
    ])  # fmt: skip
    source = {"endpoint": "chat", "kind": "feature_table", "checked_at": START}
    put(store, tables.FRESHNESS, [
        source | {"name": "users", "as_of": START - timedelta(hours=5)}, source | {"name": "items", "as_of": START - timedelta(hours=1)},
        source | {"name": "odd", "as_of": None},
    ])  # fmt: skip
    return store
