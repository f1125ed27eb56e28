"""Where one table lives -> the same calls: a folder, an object store, a Unity Catalog name (`catalog`), a SQL warehouse (`warehouse`)."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaProtocolError, TableNotFoundError

from lastgood.errors import DeniedError, TransientError
from lastgood.record.telemetry import Field
from lastgood.tables import delta
from lastgood.tables.delta import Located

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Filters = list[tuple[str, str, object]] | None
App = tuple[str, int] | tuple[str, int, int] | None
"""(application, version) of an append, and the version that its writer takes for the newest committed one: see `delta.append`."""
T = TypeVar("T")
CHECK_S = 60.0
"""A poll looks this often whether the table is still the one of before, not only whether it grew."""


class TableHome(Protocol):
    """One table without Spark. Errors of every call: TransientError (storage or platform, try again), ConfigError (a right is missing)."""

    def version(self) -> int | None:
        """The newest version; None where there is no table. Cheap to ask again and again."""
        ...

    def identity(self) -> str | None:
        """What makes this table another than one of that name before."""
        ...

    def read(
        self, columns: Sequence[str] | None = None, filters: Filters = None, version: int | None = None
    ) -> pa.Table:
        """Rows (as of a version); a table without columns where there is none yet. `filters`: all of them hold; `in` takes one text or more."""
        ...

    def changes(self, first: int, last: int) -> list[dict[str, Any]]:
        """Rows changed in versions first..last with `_change_type` and `_commit_version`. Errors: TransientError (no longer there)."""
        ...

    def append(self, rows: pa.Table, app: App = None) -> bool:
        """Append in one commit; see `delta.append`. Errors: CorruptError (the rows do not fit)."""
        ...

    def app_version(self, app_id: str) -> int | None:
        """The newest version that an application has committed."""
        ...

    def newest(self, column: str) -> Any:
        """The largest value of a column; None where nothing says it."""
        ...

    def facts(self) -> dict[str, Any] | None:
        """See `delta.facts`."""
        ...

    def way(self) -> str:
        """How the table is reached, and why so, in a phrase."""
        ...


@dataclass(frozen=True)
class FolderTable:
    """A table in a folder of this machine: opened anew at every call. `fields`: see `delta.rows_of`."""

    path: str
    fields: Sequence[Field] = ()

    def version(self) -> int | None:
        return delta.version(self.path)

    def identity(self) -> str | None:
        return delta.identity(self.path)

    def read(
        self, columns: Sequence[str] | None = None, filters: Filters = None, version: int | None = None
    ) -> pa.Table:
        return delta.read(self.path, columns, filters, version, self.fields)

    def changes(self, first: int, last: int) -> list[dict[str, Any]]:
        return delta.changes(self.path, first, last)

    def append(self, rows: pa.Table, app: App = None) -> bool:
        return delta.append(self.path, rows, app=app)

    def app_version(self, app_id: str) -> int | None:
        return delta.app_version(self.path, app_id)

    def newest(self, column: str) -> Any:
        return delta.newest(self.path, column) if self.version() is not None else None

    def facts(self) -> dict[str, Any] | None:
        return delta.facts(self.path)

    def way(self) -> str:
        return f"folder {Path(self.path).parent}"


@dataclass
class _Held:
    """A table that was opened: where, its folder, its snapshot, what its newest commit is known by, when that was last compared,
    and what applications have committed to it here."""

    located: Located
    store: "ObjectStore"
    table: DeltaTable
    commit: str | None
    compared_at: float
    apps: dict[str, int] = field(default_factory=dict)


@dataclass
class ObjectTable:
    """A table in an object store. `place(write)` gives its address and credentials that are good now; `renew` drops credentials that the
    storage refused, and says whether there are others to be had.

    A snapshot is kept: asking an unchanged table for its version is one HEAD request, for the commit that would be next. Once in CHECK_S
    it is for the newest known commit: where that is gone or another one, the table was made anew. One that grew is read on from there.
    """

    place: Callable[[bool], Located]
    renew: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    fields: Sequence[Field] = ()
    _held: dict[bool, _Held] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def _with(self, work: Callable[[Located], T], write: bool = False) -> T:
        """Work, with new credentials once more where the first were refused (they may end in the middle of a read)."""
        for last in (False, True):
            located = self.place(write)
            try:
                return work(located)
            except DeltaProtocolError as error:
                raise DeniedError(f"{located}: {delta.wording(error)}") from error
            except (*delta.STORAGE_ERRORS, TransientError) as error:
                if not refused(error):
                    raise _transient(located, error) from error
                if last or not self.renew():
                    raise DeniedError(
                        f"{located}: the storage refuses the credentials: {delta.wording(error)}"
                    ) from error
        raise AssertionError

    def _snapshot(self, located: Located, write: bool = False) -> DeltaTable:
        """The table as it is now, opened with credentials to read or to write. Errors: TableNotFoundError."""
        with self._lock:
            held, now = self._held.get(write), self.clock()
            if held is not None and held.located == located:
                version = held.table.version()
                if now - held.compared_at >= CHECK_S:
                    held.compared_at = now
                    if delta.commit_tag(held.store, version) == held.commit:
                        return held.table
                elif delta.commit_tag(held.store, version + 1) is None:
                    return held.table
                elif delta.commit_tag(held.store, version) == held.commit:  # the same table has grown
                    held.table.update_incremental()
                    held.commit, held.compared_at = delta.commit_tag(held.store, held.table.version()), now
                    held.apps.clear()
                    return held.table
            self._held.pop(write, None)
            store, table = delta.objects(located), delta.open_table(located)
            self._held[write] = _Held(located, store, table, delta.commit_tag(store, table.version()), now)
            return table

    def _ask(self, work: Callable[[Located, DeltaTable], T], missing: T) -> T:
        def asked(located: Located) -> T:
            try:
                return work(located, self._snapshot(located))
            except TableNotFoundError:
                return missing

        return self._with(asked)

    def version(self) -> int | None:
        return self._ask(lambda _, table: table.version(), None)

    def identity(self) -> str | None:
        return self._ask(lambda _, table: str(table.metadata().id), None)

    def read(
        self, columns: Sequence[str] | None = None, filters: Filters = None, version: int | None = None
    ) -> pa.Table:
        def rows(located: Located, newest: DeltaTable) -> pa.Table:
            known = version is None or version == newest.version()
            table = newest if known else delta.open_table(located, version)
            return delta.rows_of(table, located, columns, filters, self.fields)

        return self._ask(rows, pa.table({}))

    def changes(self, first: int, last: int) -> list[dict[str, Any]]:
        return self._with(lambda located: delta.changes(located, first, last))

    def append(self, rows: pa.Table, app: App = None) -> bool:
        return self._with(lambda located: self._append(located, rows, app), write=True)

    def _append(self, located: Located, rows: pa.Table, app: App) -> bool:
        """Append to the snapshot that is kept: what was committed meanwhile delta-rs reads, not the whole log again."""
        try:
            table = self._snapshot(located, write=True)
        except TableNotFoundError:
            return delta.append(located, rows, app=app)
        held = self._held[True]
        known = held.apps.get(app[0]) if app else None
        try:
            stored = delta.append(located, rows, app=app, held=table, known=known)
        except BaseException:  # whether it was committed is not known: the table is opened anew, and says so
            self._held.pop(True, None)
            raise
        held.commit = delta.commit_tag(held.store, table.version())
        if app and stored:
            held.apps[app[0]] = app[1]
        return stored

    def app_version(self, app_id: str) -> int | None:
        return self._ask(lambda _, table: table.transaction_version(app_id), None)

    def newest(self, column: str) -> Any:
        return self._ask(lambda _, table: delta.newest_of(table, column), None)

    def facts(self) -> dict[str, Any] | None:
        return self._with(delta.facts)

    def forget(self) -> None:
        """Open the table anew at the next call: it is another one."""
        self._held.clear()

    def way(self) -> str:
        return f"object store {self.place(False).uri.rpartition('/')[0]}"


REFUSED = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "AccessDenied",
    "AuthenticationFailed",
    "necessary privileges",
    "403 Forbidden",
)
"""How S3, Azure and object_store say that credentials are not, or no longer, good."""


def refused(error: BaseException) -> bool:
    """Whether an error of a storage is about the credentials."""
    words = str(error)
    return isinstance(error, PermissionError) or any(mark in words for mark in REFUSED)


def _transient(located: Located, error: BaseException) -> TransientError:
    return error if isinstance(error, TransientError) else TransientError(f"{located}: {delta.wording(error)}", 5.0)
