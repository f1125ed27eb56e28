"""A table of a Unity Catalog schema -> the calls of `homes`: by credentials that the catalog lends, else by a SQL warehouse.

Lent credentials ("credential vending") let delta-rs read and append at the storage itself: polling keeps no warehouse awake. Where the
platform lends none (no EXTERNAL USE SCHEMA, external access off, a view, a table feature that delta-rs does not know), a warehouse
answers, asked as seldom as the policies allow. docs/adr/0040 says which tables can be written from outside.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from lastgood.errors import ConfigError, DeniedError, GoneError
from lastgood.record.telemetry import Field, spark_columns
from lastgood.tables.delta import Located
from lastgood.tables.homes import CHECK_S, App, Filters, ObjectTable, TableHome
from lastgood.tables.names import literal, parts, quoted, quoted_part

T = TypeVar("T")
RETRY_S = 3600.0
"""How long a refusal to lend credentials is believed."""
MARGIN_S = 300.0
"""Credentials are renewed this long before they end, or after three quarters of a shorter life."""
MOST_ROWS = 1000
"""Rows that one INSERT through a warehouse takes. They are one parameter, as JSON: a statement takes 256 at most."""


@dataclass(frozen=True)
class Entry:
    """What the catalog says of a table. `kind`: MANAGED, EXTERNAL, VIEW, ..."""

    table_id: str
    kind: str
    location: str


@dataclass(frozen=True)
class Lease:
    """Credentials of a table's storage, as delta-rs takes them, and until when they are good (seconds since 1970; None: no end is known)."""

    uri: str
    options: Mapping[str, str] = field(repr=False)
    until: float | None


class Catalog(Protocol):
    """What a Unity Catalog gives. Errors of every call: TransientError, ConfigError."""

    def entry(self, name: str) -> Entry | None:
        """A table by its full name; None where there is none."""
        ...

    def lend(self, table_id: str, write: bool) -> Lease:
        """Credentials for a table's files. Errors: DeniedError (the platform lends none, and which right is missing)."""
        ...

    def query(self, statement: str, parameters: Mapping[str, object]) -> pa.Table:
        """Run SQL on the warehouse. Errors: DeniedError (no warehouse is named), GoneError (no such table)."""
        ...

    @property
    def poll_s(self) -> float:
        """Seconds between two looks at a table through the warehouse."""
        ...


def _plain(value: Any) -> Any:
    """A value as `from_json` reads it: times as ISO 8601, what is no finite number by its name."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    return value.isoformat() if isinstance(value, date) else value


@dataclass
class WarehouseTable:
    """A table through a SQL warehouse. Its version is asked once in `catalog.poll_s`: between two looks nothing seems new."""

    name: str
    catalog: Catalog
    clock: Callable[[], float] = time.monotonic
    _seen: tuple[float, int | None] | None = None

    def version(self) -> int | None:
        if self._seen is None or self.clock() - self._seen[0] >= self.catalog.poll_s:
            newest = self._rows(f"DESCRIBE HISTORY {self._sql} LIMIT 1")
            self._seen = self.clock(), int(newest[0]["version"]) if newest else None
        return self._seen[1]

    @property
    def _sql(self) -> str:
        return quoted(self.name)

    def _query(self, statement: str, **parameters: object) -> pa.Table:
        try:
            return self.catalog.query(statement, parameters)
        except GoneError:
            return pa.table({})

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._query(statement).to_pylist()
        return rows

    def identity(self) -> str | None:
        detail = self._rows(f"DESCRIBE DETAIL {self._sql}")
        return str(detail[0]["id"]) if detail else None

    def read(
        self, columns: Sequence[str] | None = None, filters: Filters = None, version: int | None = None
    ) -> pa.Table:
        named = ", ".join(map(quoted_part, columns)) if columns else "*"
        conditions, parameters = [], {}
        for number, (column, operator, value) in enumerate(filters or ()):
            if operator == "in":  # a statement takes 256 parameters
                texts = ", ".join(literal(str(each)) for each in value) if isinstance(value, Collection) else ""
                conditions.append(f"{quoted_part(column)} IN ({texts or 'NULL'})")
                continue
            if operator not in ("=", "!=", "<", "<=", ">", ">="):
                raise ValueError(f"filter {operator!r} is not known")
            conditions.append(f"{quoted_part(column)} {operator} :p{number}")
            parameters[f"p{number}"] = value
        as_of = "" if version is None else f" VERSION AS OF {version}"
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return self._query(f"SELECT {named} FROM {self._sql}{as_of}{where}", **parameters)

    def changes(self, first: int, last: int) -> list[dict[str, Any]]:
        return self._rows(f"SELECT * FROM table_changes({literal(self._sql)}, {first}, {last})")

    def append(self, rows: pa.Table, app: App = None) -> bool:
        if app is not None:
            raise DeniedError(
                f"{self.name}: spans cannot be stored exactly once through a SQL warehouse; let the table be an external one "
                "(tables.landing) and grant EXTERNAL USE SCHEMA"
            )
        names, kinds = (
            ", ".join(map(quoted_part, rows.column_names)),
            literal(f"array<struct<{spark_columns(rows.schema)}>>"),
        )
        for start in range(0, rows.num_rows, MOST_ROWS):
            given = json.dumps(
                [_plain(row) for row in rows.slice(start, MOST_ROWS).to_pylist(maps_as_pydicts="strict")]
            )
            statement = f"INSERT INTO {self._sql} ({names}) SELECT inline(from_json(:rows, {kinds}))"
            self.catalog.query(statement, {"rows": given})
        self._seen = None
        return True

    def app_version(self, app_id: str) -> int | None:
        return None

    def newest(self, column: str) -> Any:
        largest = self._rows(f"SELECT max({quoted_part(column)}) AS newest FROM {self._sql}")
        return largest[0]["newest"] if largest else None

    def facts(self) -> dict[str, Any] | None:
        detail, version = self._rows(f"DESCRIBE DETAIL {self._sql}"), self.version()
        if not detail or version is None:
            return None
        changed = detail[0]["lastModified"]
        rows = self._rows(f"SELECT count(*) AS n FROM {self._sql}")[0]["n"]
        return {
            "version": version, "files": detail[0]["numFiles"], "bytes": detail[0]["sizeInBytes"], "rows": rows,
            "changed_at": changed.replace(tzinfo=changed.tzinfo or UTC).timestamp() * 1000 if isinstance(changed, datetime) else None,
        }  # fmt: skip

    def way(self) -> str:
        return f"SQL warehouse, asked every {self.catalog.poll_s:.0f} s"


@dataclass
class CatalogTable:
    """A table by its catalog name. `options`: what the storage needs besides credentials (a region, an endpoint)."""

    name: str
    catalog: Catalog
    options: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    fields: Sequence[Field] = ()
    _entry: Entry | None = None
    _looked_at: float = 0.0
    _leases: dict[bool, tuple[Lease, float]] = field(default_factory=dict, repr=False)
    _denied: dict[bool, tuple[str, float]] = field(default_factory=dict)
    _version: int | None = None
    _lock: Any = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        self._stored = ObjectTable(self._place, self._renew, self.clock, self.fields)
        self._warehouse = WarehouseTable(self.name, self.catalog, self.clock)

    # where it is

    def _look(self) -> bool:
        """Ask the catalog for the table where that was long ago; whether it was asked and the table is the one of before."""
        with self._lock:
            if self._entry is not None and self.clock() - self._looked_at < CHECK_S:
                return False
            entry = self.catalog.entry(".".join(parts(self.name)))
            same, self._entry, self._looked_at = entry == self._entry, entry, self.clock()
            if not same:
                self._leases.clear()
                self._stored.forget()
                self._denied.clear()
                self._version = None
            return same and entry is not None

    def _place(self, write: bool) -> Located:
        with self._lock:
            entry, now = self._entry, self.wall()
            if entry is None:
                raise ConfigError(f"{self.name}: there is no such table; `lastgood job all` makes it")
            lease, end = self._leases.get(write, (None, 0.0))
            if lease is None or now >= end:
                lease = self.catalog.lend(entry.table_id, write)
                life = float("inf") if lease.until is None else lease.until - now
                self._leases[write] = lease, now + life - min(MARGIN_S, life / 4)
            return Located(lease.uri or entry.location, {**lease.options, **self.options})

    def _renew(self) -> bool:
        self._leases.clear()
        return True

    # which way

    def _do(self, work: Callable[[TableHome], T], missing: T, write: bool = False) -> T:
        try:
            return self._tried(work, missing, write)
        except GoneError:  # dropped, or made anew, since the catalog was last asked
            with self._lock:
                self._entry = None
            return self._tried(work, missing, write)

    def _tried(self, work: Callable[[TableHome], T], missing: T, write: bool) -> T:
        self._look()
        if self._entry is None:
            return missing
        why, until = self._denied.get(write, ("", 0.0))
        if not why or self.clock() >= until:
            try:
                done = work(self._stored)
            except DeniedError as error:
                why = str(error)
                self._denied[write] = why, self.clock() + RETRY_S
            else:
                self._denied.pop(write, None)
                return done
        try:
            return work(self._warehouse)
        except DeniedError as error:
            raise DeniedError(f"{why}; and through a warehouse: {error}") from error

    def version(self) -> int | None:
        if self._look() and False not in self._denied and self._version is not None:
            return self._version  # this poll's request went to the catalog
        self._version = self._do(lambda home: home.version(), None)
        return self._version

    def identity(self) -> str | None:
        return self._do(lambda home: home.identity(), None)

    def read(
        self, columns: Sequence[str] | None = None, filters: Filters = None, version: int | None = None
    ) -> pa.Table:
        return self._do(lambda home: home.read(columns, filters, version), pa.table({}))

    def changes(self, first: int, last: int) -> list[dict[str, Any]]:
        none: list[dict[str, Any]] = []
        return self._do(lambda home: home.changes(first, last), none)

    def append(self, rows: pa.Table, app: App = None) -> bool:
        self._look()
        if self._entry is None:
            raise ConfigError(f"{self.name}: there is no such table; `lastgood job all` makes it")
        return self._do(lambda home: home.append(rows, app), False, write=True)

    def app_version(self, app_id: str) -> int | None:
        return self._do(lambda home: home.app_version(app_id), None)

    def newest(self, column: str) -> Any:
        return self._do(lambda home: home.newest(column), None)

    def facts(self) -> dict[str, Any] | None:
        return self._do(lambda home: home.facts(), None)

    def way(self) -> str:
        self._do(lambda home: home.version(), None)
        if self._entry is None:
            return "not there yet"
        why, _ = self._denied.get(False, ("", 0.0))
        return (
            f"{self._warehouse.way()}, because {why}" if why else f"lent credentials ({self._entry.kind.lower()} table)"
        )
