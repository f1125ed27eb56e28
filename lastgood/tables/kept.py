"""The tables -> single requests, as far as capture kept them: found by id, trace, error and time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lastgood import tables

LISTED = (
    "endpoint", "request_id", "requested_at", "model_version", "latency_ms", "error_code", "tokens_in", "tokens_out", "team", "trace_id",
    "finish_reason",
)  # fmt: skip
TEXTS = ("output", "input", "attributes")
"""What flags are read from, besides LISTED."""
STEP = ("kind", "name", "agent", "started_at", "latency_ms", "error_code", "tokens_in", "tokens_out", "span_id")


@dataclass(frozen=True)
class Wanted:
    """What requests are asked for. `code`: an error code, or `any` for every failed one; an id or a trace is looked for at any time."""

    endpoint: str = ""
    id: str = ""
    trace: str = ""
    code: str = ""

    @property
    def bounded(self) -> bool:
        """Whether it says enough to be looked for."""
        return bool(self.endpoint or self.id or self.trace)


def search(store: tables.Store, wanted: Wanted, since: datetime, until: datetime, more: Sequence[str] = ()) -> pa.Table:
    """The requests, newest first, with the columns LISTED and `more`. Errors: as the tables' homes."""
    filters: list[tuple[str, str, object]] = []
    if wanted.endpoint:
        filters.append(("endpoint", "=", wanted.endpoint))
    if wanted.id:
        filters.append(("request_id", "=", wanted.id))
    if wanted.trace:
        filters.append(("trace_id", "=", wanted.trace))
    if not wanted.id and not wanted.trace:
        filters += [("requested_at", ">=", since), ("requested_at", "<", until)]
    if wanted.code and wanted.code != "any":
        filters.append(("error_code", "=", wanted.code))
    rows = store.home(tables.REQUESTS).read([*LISTED, *more], filters)
    if not rows.num_rows:
        return rows
    if wanted.code == "any":
        rows = rows.filter(pc.is_valid(rows["error_code"]))
    return rows.take(pc.sort_indices(rows, [("requested_at", "descending")]))


def whole(store: tables.Store, wanted: Wanted, most: int) -> list[dict[str, Any]]:
    """All that is kept of the requests with an id or a trace, newest first."""
    filters: Any = [
        (column, "=", value)
        for column, value in (("endpoint", wanted.endpoint), ("request_id", wanted.id), ("trace_id", wanted.trace))
        if value
    ]
    rows = store.home(tables.REQUESTS).read(filters=filters)
    if not rows.num_rows:
        return []
    kept: list[dict[str, Any]] = rows.sort_by([("requested_at", "descending")]).slice(0, most).to_pylist()
    return kept


def steps(store: tables.Store, endpoint: str, request_id: str) -> list[dict[str, Any]]:
    """The steps that a request is made of (STEP), in the order in which they began."""
    wanted: Any = [("endpoint", "=", endpoint), ("request_id", "=", request_id)]
    rows = store.home(tables.STEPS).read([*STEP, "endpoint", "request_id"], wanted)
    if not rows.num_rows:
        return []
    ordered: list[dict[str, Any]] = rows.sort_by([("started_at", "ascending")]).to_pylist()
    return ordered
