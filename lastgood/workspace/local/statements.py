"""The SQL statement API as the local workspace plays it: the statements that Lastgood sends, over the catalog's tables.

Databricks REST reference, statement-execution: a statement runs, its result comes as Arrow streams behind links that take no token.
What is not among FORMS is refused as a syntax error.
"""

import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import QueryBuilder
from deltalake.exceptions import TableNotFoundError

from lastgood.errors import TransientError
from lastgood.record.telemetry import spark_type
from lastgood.tables import delta
from lastgood.workspace.local.catalog import LocalCatalog
from lastgood.workspace.local.state import ApiError

PART = r"(?:`[^`]+`|\w+)"
NAME = rf"((?:{PART}\.){{2}}{PART})"
HISTORY = re.compile(rf"DESCRIBE HISTORY {NAME} LIMIT 1$")
DETAIL = re.compile(rf"DESCRIBE DETAIL {NAME}$")
CHANGES = re.compile(rf"SELECT \* FROM table_changes\('{NAME}', (\d+), (\d+)\)$")
INSERT = re.compile(rf"INSERT INTO {NAME} \((.+?)\) SELECT inline\(from_json\(:(\w+), '(.+)'\)\)$")
SELECT = re.compile(rf"SELECT (.+?) FROM {NAME}(?: VERSION AS OF (\d+))?( WHERE .+)?$")
WAREHOUSE = "local-warehouse"
MOST_PARAMETERS = 256
"""Of one statement: more are refused (databricks-sql-nodejs, issue 308)."""


@dataclass
class Statements:
    """Statements of one warehouse. `running`: a statement is shown as running so often before its result; `chunk_rows`: rows of a chunk;
    `truncated`: results are said to be cut off."""

    catalog: LocalCatalog
    running: int = 0
    chunk_rows: int = 10_000
    truncated: bool = False
    executed: list[str] = field(default_factory=list)
    _results: dict[str, list[bytes]] = field(default_factory=dict)
    _columns: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    _left: dict[str, int] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def execute(self, body: Mapping[str, Any], url: str) -> dict[str, Any]:
        """`POST /api/2.0/sql/statements/`."""
        if body.get("warehouse_id") != WAREHOUSE:
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"warehouse '{body.get('warehouse_id')}' does not exist")
        statement, identity = str(body.get("statement")), uuid.uuid4().hex
        values = {parameter["name"]: parameter for parameter in body.get("parameters") or ()}
        if len(values) > MOST_PARAMETERS:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"{len(values)} parameters, at most {MOST_PARAMETERS}")
        self.executed.append(statement)
        try:
            table = self._run(statement, values)
        except ApiError as error:
            failed = {"error_code": "BAD_REQUEST", "message": error.message}
            return {"statement_id": identity, "status": {"state": "FAILED", "error": failed}}
        with self._lock:
            self._results[identity], self._left[identity] = _chunks(table, self.chunk_rows), self.running
            self._columns[identity] = [
                {"name": column.name, "type_text": spark_type(column.type).upper()} for column in _plain(table.schema)
            ]
        return self.get(identity, url)

    def get(self, identity: str, url: str) -> dict[str, Any]:
        """`GET /api/2.0/sql/statements/{id}`."""
        chunks = self._chunks_of(identity)
        with self._lock:
            self._left[identity] -= 1
            if self._left[identity] >= 0:
                return {"statement_id": identity, "status": {"state": "RUNNING"}}
        manifest = {
            "format": "ARROW_STREAM", "total_chunk_count": len(chunks), "truncated": self.truncated,
            "schema": {"column_count": len(self._columns[identity]), "columns": self._columns[identity]},
        }  # fmt: skip
        answer = {"statement_id": identity, "status": {"state": "SUCCEEDED"}, "manifest": manifest}
        return answer | ({"result": self.chunk(identity, 0, url)} if chunks else {})

    def chunk(self, identity: str, number: int, url: str) -> dict[str, Any]:
        """`GET /api/2.0/sql/statements/{id}/result/chunks/{n}`."""
        chunks = self._chunks_of(identity)
        link = {
            "chunk_index": number,
            "external_link": f"{url}/local/results/{identity}/{number}",
            "expiration": "9999-12-31T00:00:00Z",
        }
        return {"external_links": [link | ({"next_chunk_index": number + 1} if number + 1 < len(chunks) else {})]}

    def result(self, identity: str, number: int) -> bytes:
        """What a link leads to."""
        return self._chunks_of(identity)[number]

    def _chunks_of(self, identity: str) -> list[bytes]:
        if identity not in self._results:
            raise ApiError(404, "NOT_FOUND", f"statement '{identity}' does not exist")
        return self._results[identity]

    def _run(self, statement: str, values: Mapping[str, Any]) -> pa.Table:
        forms: list[tuple[re.Pattern[str], Callable[..., pa.Table]]] = [
            (HISTORY, self._history), (DETAIL, self._detail), (CHANGES, self._changes), (INSERT, self._insert), (SELECT, self._select),
        ]  # fmt: skip
        for pattern, answer in forms:
            if match := pattern.match(statement):
                try:
                    return answer(values, *match.groups())
                except TableNotFoundError as error:
                    raise ApiError(400, "BAD_REQUEST", f"[TABLE_OR_VIEW_NOT_FOUND] {match[1]}") from error
                except TransientError as error:
                    raise ApiError(400, "BAD_REQUEST", f"[DELTA_CHANGE_TABLE_FEED_DISABLED] {error}") from error
        raise ApiError(400, "BAD_REQUEST", f"[PARSE_SYNTAX_ERROR] {statement:.100}")

    def _where(self, name: str, privilege: str = "SELECT") -> delta.Where:
        plain = name.replace("`", "")
        if privilege in self.catalog.denied:
            raise ApiError(403, "PERMISSION_DENIED", f"[INSUFFICIENT_PERMISSIONS] {privilege} on {plain}")
        return self.catalog.located(plain)

    def _history(self, _: Mapping[str, Any], name: str) -> pa.Table:
        newest = delta.open_table(self._where(name)).history(1)[0]
        return pa.table({"version": pa.array([newest["version"]], pa.int64())})

    def _detail(self, _: Mapping[str, Any], name: str) -> pa.Table:
        where = self._where(name)
        facts, table = delta.facts(where), delta.open_table(where)
        assert facts is not None
        changed = datetime.fromtimestamp((facts["changed_at"] or 0) / 1000, UTC)
        row = {
            "id": str(table.metadata().id),
            "numFiles": facts["files"],
            "sizeInBytes": facts["bytes"],
            "lastModified": changed,
        }
        return pa.Table.from_pylist([row])

    def _changes(self, _: Mapping[str, Any], name: str, first: str, last: str) -> pa.Table:
        return pa.table(delta.open_table(self._where(name)).load_cdf(int(first), int(last)))

    def _insert(self, values: Mapping[str, Any], name: str, names: str, rows: str, _: str) -> pa.Table:
        columns, where = [part.strip(" `") for part in names.split(",")], self._where(name, "MODIFY")
        known = pa.schema(delta.open_table(where).schema().to_arrow())
        schema = pa.schema([known.field(column) for column in columns])
        given = json.loads(values[rows]["value"])
        made = [{field.name: _cell(row.get(field.name), field.type) for field in schema} for row in given]
        delta.append(where, pa.Table.from_pylist(made, schema))
        return pa.table({"num_affected_rows": pa.array([len(made)], pa.int64())})

    def _select(
        self, values: Mapping[str, Any], columns: str, name: str, version: str | None, conditions: str | None
    ) -> pa.Table:
        table = delta.open_table(self._where(name), int(version) if version else None)
        wanted = re.sub(r":(\w+)", lambda match: _literal(values[match[1]]), conditions or "")
        statement = f"SELECT {columns} FROM the_table{wanted}".replace("`", '"')
        return pa.table(QueryBuilder().register("the_table", table).execute(statement))


def _cell(value: Any, kind: pa.DataType) -> Any:
    """A value of JSON as `from_json` would read it."""
    if isinstance(value, str) and not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
        return datetime.fromisoformat(value) if pa.types.is_temporal(kind) else float(value)
    return list(value.items()) if isinstance(value, dict) else value


def _literal(parameter: Mapping[str, Any]) -> str:
    """A parameter as SQL."""
    text, kind = str(parameter.get("value")), parameter.get("type", "STRING")
    if kind == "TIMESTAMP":
        micros = round(datetime.fromisoformat(text).timestamp() * 1e6)
        return f"arrow_cast({micros}, 'Timestamp(Microsecond, Some(\"UTC\"))')"
    return text if kind in ("BIGINT", "DOUBLE", "BOOLEAN") else "'" + text.replace("'", "''") + "'"


def _plain(schema: pa.Schema) -> pa.Schema:
    """With text as every reader takes it."""
    return pa.schema(
        [field.with_type(pa.string()) if pa.types.is_string_view(field.type) else field for field in schema]
    )


def _chunks(table: pa.Table, rows: int) -> list[bytes]:
    """A table as Arrow streams; none where it has no rows."""
    plain = _plain(table.schema)
    table, parts = table.cast(plain), []
    for start in range(0, table.num_rows, rows):
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, plain) as writer:
            writer.write_table(table.slice(start, rows))
        parts.append(out.getvalue().to_pybytes())
    return parts
