"""Delta tables without Spark (delta-rs), by folder or object-store address: exactly-once appends, reads, what changed."""

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError
from obstore.exceptions import BaseError
from obstore.store import from_url

from lastgood.errors import ConfigError, CorruptError, TransientError
from lastgood.record import telemetry

if TYPE_CHECKING:
    from obstore.store import ObjectStore

STORAGE_ERRORS = (DeltaError, OSError, pa.ArrowException, BaseError)
"""What the libraries raise when a storage refuses or fails."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
log = logging.getLogger(__name__)
CHANGE_FEED: dict[str, str | None] = {"delta.enableChangeDataFeed": "true"}
"""Set when a table is made: readers take what is new by its change data feed."""


@dataclass(frozen=True)
class Located:
    """A table in an object store: its address, and delta-rs' storage options. They hold credentials: never shown."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.uri


Where = str | Path | Located


def is_remote(where: Where) -> bool:
    """Whether the table is in an object store, not in a folder."""
    return "://" in str(where)


def _options(where: Where) -> dict[str, str] | None:
    return dict(where.options) if isinstance(where, Located) else None


def open_table(where: Where, version: int | None = None) -> DeltaTable:
    """The table as of a version. Errors: delta-rs' own (TableNotFoundError where there is none)."""
    return DeltaTable(str(where), version, storage_options=_options(where))


@contextmanager
def _storage_errors(where: Where) -> Iterator[None]:
    """What an object store refuses or cannot do now as TransientError. A folder's errors stay as they are."""
    try:
        yield
    except TableNotFoundError:
        raise
    except STORAGE_ERRORS as error:
        if not is_remote(where):
            raise
        raise TransientError(f"{where}: {wording(error)}", 5.0) from error


def wording(error: BaseException) -> str:
    """An error of a storage in one line, without addresses that may be signed."""
    return " ".join(COLOURS.sub("", str(error)).split("?", maxsplit=1)[0].split())[:300]


def append(
    where: Where,
    table: pa.Table,
    *,
    partition_by: Sequence[str] = (),
    app: tuple[str, int] | tuple[str, int, int] | None = None,
    held: DeltaTable | None = None,
    known: int | None = None,
) -> bool:
    """Append `table` in one commit, creating the Delta table when missing. `held`: the table as it is now, where somebody has it open; `known`: what the
    application has committed to it, where that need not be looked up.

    `app` = (application id, version): a version that is not above the stored one is skipped (False), so a
    repeated append stores its rows once. delta-rs itself would accept it and lower the stored version. A third number is what the writer takes
    for the stored version, 0 for none: where it is another (a listing was stale), nothing is stored, for the rows may be there in part.
    Such an append is synced where the table is in a folder: who makes it removes what it was made of.
    Errors: TransientError (commit conflict, disk, storage), CorruptError (the schema does not fit).
    """
    held = held or _existing(where)
    done = known
    if done is None and app is not None and held is not None:
        done = held.transaction_version(app[0])
    if app is not None and done is not None and app[1] <= done:
        return False
    if app is not None and len(app) > 2 and app[2] != (done or 0):
        raise TransientError(f"{where}: {app[0]} has committed version {done or 0}, not {app[2]}: looked up again", 0.1)
    before = held.version() if held is not None else -1
    properties = CommitProperties(app_transactions=[Transaction(*app[:2])]) if app else None
    try:
        write_deltalake(
            str(where) if held is None else held,
            table,
            mode="append",
            schema_mode="merge" if held is not None else None,
            configuration=CHANGE_FEED,
            partition_by=list(partition_by) or None,
            commit_properties=properties,
            storage_options=_options(where),
        )
    except Exception as error:  # delta-rs raises a bare Exception for casts
        if not isinstance(error, (DeltaError, OSError)) or "chema" in str(error):
            raise CorruptError(f"{where}: the rows do not fit the table: {error}") from error
        raise TransientError(f"{where}: commit failed: {wording(error)}", 1.0) from error
    if app is not None and not isinstance(where, Located):
        with _storage_errors(where):
            _sync(Path(where), range(before + 1, (held or open_table(where)).version() + 1))
    return True


def _sync(table: Path, versions: range) -> None:
    """These commits of a table, their files and names are on this machine's disk: delta-rs writes into the page cache only. First what a commit
    names, then the commit: at no moment is there one whose files may be gone. Commits of others between ours are synced too, for without them
    ours cannot be read."""
    logs = [table / log_file(version) for version in versions]
    data = []
    for log in logs:
        actions = map(json.loads, log.read_text().splitlines())
        data += [table / unquote(action["add"]["path"]) for action in actions if "add" in action]
    data = [file for file in data if file.exists()]  # a compaction beside us may have taken one away
    folders = {parent for file in data for parent in file.parents if parent == table or table in parent.parents}
    log_folder = table / "_delta_log"
    marks = [path for version in versions for path in log_folder.glob(f"{version:020}.checkpoint*")]
    marks += [path for path in (log_folder / "_last_checkpoint",) if path.exists()]
    for path in (*data, *folders, *logs, *marks, log_folder, table, *(table.parents if 0 in versions else ())):
        with suppress(PermissionError):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def create(where: Where, schema: pa.Schema, partition_by: Sequence[str] = ()) -> None:
    """Make an empty table with a change data feed where there is none."""
    with _storage_errors(where):
        DeltaTable.create(
            str(where),
            schema,
            mode="ignore",
            partition_by=list(partition_by) or None,
            configuration=CHANGE_FEED,
            storage_options=_options(where),
        )


def _existing(where: Where) -> DeltaTable | None:
    """The table; None where there is none."""
    try:
        with _storage_errors(where):
            return open_table(where)
    except TableNotFoundError:
        return None


def version(where: Where) -> int | None:
    """The newest version of a table; None when there is no table."""
    table = _existing(where)
    return None if table is None else table.version()


def identity(where: Where) -> str | None:
    """What makes this table another than one that was there before; None when there is no table."""
    table = _existing(where)
    return None if table is None else str(table.metadata().id)


def committed_at(path: str | Path, version: int) -> float | None:
    """When a version was committed, in seconds since 1970; None where its log file is gone, or not on this machine's disk."""
    try:
        return (Path(path) / "_delta_log" / f"{version:020}.json").stat().st_mtime
    except OSError:
        return None


def facts(where: Where) -> dict[str, Any] | None:
    """Version, files, bytes, rows (None where a file has no statistics) and time of the newest commit; None when there is no table."""
    table = _existing(where)
    if table is None:
        return None
    files = pa.table(table.get_add_actions(flatten=True))
    rows = files["num_records"].to_pylist() if "num_records" in files.column_names else [None] * files.num_rows
    with _storage_errors(where):
        newest = table.history(1)[0].get("timestamp")
    return {
        "version": table.version(), "files": files.num_rows, "bytes": sum(files["size_bytes"].to_pylist()),
        "rows": None if None in rows else sum(rows), "changed_at": newest,
    }  # fmt: skip


def vacuum(where: Where, hours: int) -> None:
    """Remove files that no version of the last `hours` needs. Errors: TransientError.

    `full`: the files of the change feed are in no tombstone. Without it they stay for ever, and with them the rows of who was forgotten.
    """
    try:
        open_table(where).vacuum(retention_hours=hours, dry_run=False, full=True)
    except TableNotFoundError:
        return
    except DeltaError as error:
        raise TransientError(f"{where}: vacuum failed: {wording(error)}", 60.0) from error


def keeps_changes(where: Where) -> bool:
    """Whether the table has a change data feed."""
    return open_table(where).metadata().configuration.get("delta.enableChangeDataFeed") == "true"


def app_version(where: Where, app_id: str) -> int | None:
    """The newest version that application `app_id` has committed to the table, or None."""
    table = _existing(where)
    return None if table is None else table.transaction_version(app_id)


def read(
    where: Where,
    columns: Sequence[str] | None = None,
    filters: list[tuple[str, str, object]] | None = None,
    version: int | None = None,
    fields: Sequence[telemetry.Field] = (),
) -> pa.Table:
    """The table's rows (as of a version); an empty table without columns when there is no Delta table (yet). `fields`: see `rows_of`."""
    try:
        with _storage_errors(where):
            return rows_of(open_table(where, version), where, columns, filters, fields)
    except TableNotFoundError:
        return pa.table({})


def rows_of(
    table: DeltaTable,
    where: Where,
    columns: Sequence[str] | None,
    filters: list[tuple[str, str, object]] | None,
    fields: Sequence[telemetry.Field] = (),
) -> pa.Table:
    """The rows of an opened table. `fields`: those that the table should have; one that it does not have yet is null (`Store.ensure` adds it)."""
    # delta-rs' own file system is Python: a reading thread of Arrow's that lets go of it while the process ends aborts the process
    # ("terminate called without an active exception", 2 of 40 processes that end right after reading on a busy machine).
    local = None if is_remote(where) else pyarrow.fs.SubTreeFileSystem(str(where), pyarrow.fs.LocalFileSystem())
    rows = table.to_pyarrow_dataset(filesystem=local)
    newer = [field.arrow for field in fields if field.name not in rows.schema.names]
    if newer:
        rows = rows.replace_schema(pa.schema([*rows.schema, *newer]))
    wanted = pq.filters_to_expression(filters) if filters else None
    return rows.to_table(columns=list(columns) if columns else None, filter=wanted)


def files(path: str | Path) -> list[Path]:
    """The Parquet files of a table on this machine's disk; none when there is no table.

    Errors: ConfigError where a file alone does not say which rows there are (deletion vectors, column mapping, partitions).
    """
    try:
        table = DeltaTable(str(path))
    except TableNotFoundError:
        return []
    features = set(table.protocol().reader_features or ()) - {"timestampNtz"}
    if features or table.metadata().partition_columns:
        reason = ", ".join(sorted(features)) or "partitions"
        raise ConfigError(f"{path}: has {reason}, which only Spark reads here; run `lastgood job drift`")
    return [Path(path) / uri for uri in pa.table(table.get_add_actions(flatten=True))["path"].to_pylist()]


def changes(where: Where, first: int, last: int) -> list[dict[str, Any]]:
    """Rows changed in versions first..last (both included) with `_change_type` and `_commit_version`, from the table's change data feed.

    In an object store the log is read here, by the Delta protocol (section Change Data Files): delta-rs' `load_cdf` keeps Python's lock
    while it waits for the network, so a slow storage would stop the whole service.
    Errors: TransientError when the feed cannot be read (vacuumed, or no feed in these versions).
    """
    try:
        if isinstance(where, Located):
            store = objects(where)
            return [row for number in range(first, last + 1) for row in _commit_changes(store, number)]
        changed = pa.table(open_table(where).load_cdf(first, last))
    except STORAGE_ERRORS as error:
        raise TransientError(f"{where}: changes {first}..{last} cannot be read: {wording(error)}") from error
    rows: list[dict[str, Any]] = changed.to_pylist()
    return rows


def objects(located: Located) -> "ObjectStore":
    """The table's folder in its object store, object by object."""
    named: Any = {name.lower(): value for name, value in located.options.items()}
    plain = named.pop("aws_allow_http", named.pop("allow_http", "false")).lower() == "true"
    more: Any = {"client_options": {"allow_http": True}} if plain else {}
    return from_url(located.uri, config=named or None, **more)


def log_file(version: int) -> str:
    """The commit of a version, below the table's folder."""
    return f"_delta_log/{version:020}.json"


def commit_tag(store: "ObjectStore", version: int) -> str | None:
    """What a version's commit is known by, by one HEAD request; None where there is no such version. Errors: STORAGE_ERRORS."""
    try:
        meta = obstore.head(store, log_file(version))
    except FileNotFoundError:
        return None
    return meta["e_tag"] or f"{meta['size']} {meta['last_modified']}"


def _commit_changes(store: "ObjectStore", version: int) -> Iterator[dict[str, Any]]:
    """Where a commit has change files, they are its changes; else what it adds was inserted and what it removes was deleted."""
    log = bytes(obstore.get(store, log_file(version)).bytes()).decode()
    actions = [json.loads(line) for line in log.splitlines() if line.strip()]
    written = [action["cdc"]["path"] for action in actions if "cdc" in action]
    parts: list[tuple[str, str | None]] = [(name, None) for name in written]
    if not written:
        for kind, meaning in (("add", "insert"), ("remove", "delete")):
            listed = [action[kind] for action in actions if kind in action and action[kind].get("dataChange", True)]
            if any(entry.get("deletionVector") or entry.get("partitionValues") for entry in listed):
                raise OSError(f"version {version} has deletion vectors or partitions")
            parts += [(entry["path"], meaning) for entry in listed]
    for name, change in parts:
        stamp = {"_commit_version": version} | ({"_change_type": change} if change else {})
        content = bytes(obstore.get(store, unquote(name)).bytes())
        yield from (row | stamp for row in pq.read_table(pa.BufferReader(content)).to_pylist())


def newest(where: Where, column: str) -> Any:
    """The largest value of a column by the files' statistics; None where they do not say."""
    with _storage_errors(where):
        return newest_of(open_table(where), column)


def newest_of(table: DeltaTable, column: str) -> Any:
    """See `newest`."""
    files = pa.table(table.get_add_actions(flatten=True))
    name = f"max.{column}"
    return pc.max(files[name]).as_py() if name in files.column_names else None


MOUNTS = Path("/proc/self/mountinfo")
LOCKING = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs", "nfs", "nfs4", "cifs", "smb3"})  # fmt: skip
"""File systems of one machine, and shared ones that take `flock` to their server (flock(2))."""


def file_system(path: Path, mounts: str) -> str | None:
    """The kind of file system that a path is on, by the lines of /proc/self/mountinfo (proc_pid_mountinfo(5)); None where they do not say."""
    whole, best = f"{path.resolve()}/", ("", "")
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].rstrip("/") + "/"
        if whole.startswith(point) and len(point) >= len(best[0]):
            best = point, rest.split(" ")[0]
    return best[1] or None


def compact(path: str | Path, target_bytes: int = 128 * 2**20) -> int:
    """Merge small files into larger ones (no row changes, so change feeds show nothing); how many files went.

    Of two compactions at once delta-rs lets both succeed, which doubles the rows they share: so one at a time, by a lock beside
    the table; where the lock is held, or the file system is of a kind whose locks may not hold across machines, nothing is done.
    Errors: TransientError (a conflicting commit; nothing was changed).
    """
    where = Path(path)
    kind = file_system(where, MOUNTS.read_text() if MOUNTS.exists() else "")
    if kind is not None and kind not in LOCKING:
        log.warning(
            "%s: small files are not merged: locks of the file system %s may not hold across machines", path, kind
        )
        return 0
    with where.with_name(f".{where.name}.compacting").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            table = DeltaTable(str(path))
            before = table.version()
            merged = int(table.optimize.compact(target_size=target_bytes)["numFilesRemoved"])
            _sync(where, range(before + 1, table.version() + 1))
            return merged
        except (BlockingIOError, TableNotFoundError):
            return 0
        except (DeltaError, OSError) as error:
            raise TransientError(f"{path}: compaction failed: {error}", 60.0) from error
