"""Inbox candidates -> records, set aside ones, folded ones (pure): what `conform` does, on Arrow tables in one process.

Spark does the same with column expressions (`jobs/conform.py`): handing every body to a Python worker and back would cost a cluster more
than the rest of the job. `tests/spark/test_onemachine.py` holds the two together.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.record import telemetry

MAX_WEIGHT = 1e9
SCHEMA = telemetry.arrow_schema(telemetry.INBOX)
KEPT = tuple(field.name for field in (*telemetry.KEY, *telemetry.VALUES))


def _blank(column: pa.Array) -> pa.Array:
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)


def _when(condition: pa.Array) -> pa.Array:
    return pc.fill_null(condition, False)


REASONS: dict[str, Callable[[pa.RecordBatch, pa.Array], pa.Array]] = {
    "no endpoint": lambda rows, _: _blank(rows["endpoint"]),
    "no request id": lambda rows, _: _blank(rows["request_id"]),
    "no request time": lambda rows, _: pc.is_null(rows["requested_at"]),
    "request time is in the future": lambda _, ahead: _when(pc.greater(ahead, telemetry.MAX_AHEAD_S)),
    "request time is too long ago": lambda _, ahead: _when(pc.less(ahead, -telemetry.MAX_BEHIND_S)),
    "latency is negative or not a number": lambda rows, _: _when(
        pc.or_kleene(pc.is_nan(rows["latency_ms"]), pc.less(rows["latency_ms"], 0.0))
    ),
    "latency is above one day": lambda rows, _: _when(pc.greater(rows["latency_ms"], telemetry.MAX_LATENCY_MS)),
    "token count is negative": lambda rows, _: _when(
        pc.or_kleene(pc.less(rows["tokens_in"], 0), pc.less(rows["tokens_out"], 0))
    ),
    "weight is not a positive number": lambda rows, _: _when(
        pc.or_kleene(
            pc.is_nan(rows["weight"]),
            pc.or_kleene(pc.less_equal(rows["weight"], 0.0), pc.greater(rows["weight"], MAX_WEIGHT)),
        )
    ),
    "unknown source": lambda rows, _: pc.invert(pc.is_in(rows["source"], pa.array(list(telemetry.SOURCES)))),
}
"""Why a candidate cannot be a record -> which cannot, given how many seconds ahead of their arrival they claim to be. The first counts."""


def why_rejected(rows: pa.RecordBatch, now: datetime) -> pa.Array:
    """The reason why each candidate cannot be a record, its collector's own first; null when it can."""
    received = pc.fill_null(rows["received_at"], pa.scalar(now, pa.timestamp("us", "UTC")))
    ahead = pc.divide(pc.subtract(rows["requested_at"].cast(pa.int64()), received.cast(pa.int64())), 1_000_000)
    why = rows["reject_reason"]
    for reason, fails in REASONS.items():
        failed = fails(rows, ahead)
        if pc.any(failed).as_py():
            why = pc.coalesce(why, pc.if_else(failed, reason, None))
    return why


def conformed(rows: pa.RecordBatch, now: datetime) -> tuple[pa.RecordBatch, pa.Array]:
    """(candidates that can be records, with an error code wherever they failed; why each candidate is set aside, null where it is not)."""
    why = why_rejected(rows, now)
    if why.null_count < len(why):
        rows = rows.filter(pc.is_null(why))
    status = rows["status_code"]
    http = pc.binary_join_element_wise("HTTP_", status.cast(pa.string()), "")
    stated = pc.if_else(pc.equal(rows["error_code"], ""), None, rows["error_code"])
    code = pc.coalesce(stated, pc.if_else(pc.fill_null(pc.greater_equal(status, 400), False), http, None))
    place = rows.schema.get_field_index("error_code")
    columns = [code if i == place else column for i, column in enumerate(rows.columns)]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema), why


def _best(field: telemetry.Field, group: Sequence[dict[str, Any]]) -> Any:
    """The field's value from the source that is believed first; ties by the value, so that the order of arrival does not matter. Attributes
    are merged key by key."""
    given = [row for row in group if row[field.name] is not None]

    def key(row: dict[str, Any]) -> Any:
        value = row[field.name]
        return field.rank(row["source"]), orjson.dumps(dict(value)) if field.type.startswith("map") else value

    if field.name == "attributes" and given:
        entries = [(name, field.rank(row["source"]), value) for row in given for name, value in row[field.name]]
        return list(
            {
                name: value for name, _, value in sorted(entries, key=lambda e: (e[0], e[1], e[2] or ""), reverse=True)
            }.items()
        )
    return min(given, key=key)[field.name] if given else None


def apart(rows: pa.Table) -> tuple[pa.Table, int]:
    """(candidates, in which an id that names requests of several versions is one id of each; how many such ids there were).

    Of one table: there, two versions under one id are two requests. Sources that saw one request may name its version differently.
    """
    names: dict[tuple[str, str], set[str]] = {}
    keys = list(zip(*(rows[name].to_pylist() for name in ("endpoint", "request_id", "model_version")), strict=True))
    for endpoint, request, version in keys:
        if version is not None:
            names.setdefault((endpoint, request), set()).add(version)
    several = {key for key, versions in names.items() if len(versions) > 1}
    if not several:
        return rows, 0
    ids = [
        f"{request}@{version or '?'}" if (endpoint, request) in several else request
        for endpoint, request, version in keys
    ]
    return rows.set_column(rows.schema.get_field_index("request_id"), "request_id", pa.array(ids, pa.string())), len(
        several
    )


def fold(rows: pa.Table) -> pa.Table:
    """Candidates -> one row per (endpoint, request_id), in the inbox's columns: each field from the best source that gave it."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        groups.setdefault((row["endpoint"], row["request_id"]), []).append(row)
    merged = [
        {
            "endpoint": key[0], "request_id": key[1], "source": min(row["source"] for row in group),
            "received_at": min((row["received_at"] for row in group if row["received_at"] is not None), default=None),
        }
        | {field.name: _best(field, group) for field in telemetry.VALUES}
        for key, group in groups.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(merged, SCHEMA)
