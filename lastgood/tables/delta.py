"""Delta tables without Spark (delta-rs): exactly-once appends by the collectors, reads by service and dashboards."""

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from lastgood.errors import ConfigError, CorruptError, TransientError

CHANGE_FEED: dict[str, str | None] = {"delta.enableChangeDataFeed": "true"}
"""Set when a table is made: readers take what is new by its change data feed."""


def append(
    path: str | Path,
    table: pa.Table,
    *,
    partition_by: Sequence[str] = (),
    app: tuple[str, int] | None = None,
) -> bool:
    """Append `table` in one commit, creating the Delta table when missing.

    `app` = (application id, version): a version that is not above the stored one is skipped (False), so a
    repeated append stores its rows once. delta-rs itself would accept it and lower the stored version.
    Errors: TransientError (commit conflict, disk), CorruptError (the schema does not fit).
    """
    if app is not None and (last := app_version(path, app[0])) is not None and app[1] <= last:
        return False
    properties = CommitProperties(app_transactions=[Transaction(*app)]) if app else None
    try:
        write_deltalake(
            str(path),
            table,
            mode="append",
            schema_mode="merge" if DeltaTable.is_deltatable(str(path)) else None,
            configuration=CHANGE_FEED,
            partition_by=list(partition_by) or None,
            commit_properties=properties,
        )
    except Exception as error:  # delta-rs raises a bare Exception for casts
        if not isinstance(error, (DeltaError, OSError)) or "chema" in str(error):
            raise CorruptError(f"{path}: the rows do not fit the table: {error}") from error
        raise TransientError(f"{path}: commit failed: {error}", 1.0) from error
    return True


def create(path: str | Path, schema: pa.Schema, partition_by: Sequence[str] = ()) -> None:
    """Make an empty table with a change data feed where there is none."""
    DeltaTable.create(
        str(path),
        schema,
        mode="ignore",
        partition_by=list(partition_by) or None,
        configuration=CHANGE_FEED,
    )


def version(path: str | Path) -> int | None:
    """The newest version of a table; None when there is no table."""
    try:
        return DeltaTable(str(path)).version()
    except TableNotFoundError:
        return None


def identity(path: str | Path) -> str | None:
    """What makes this table another than one that was there before; None when there is no table."""
    try:
        return str(DeltaTable(str(path)).metadata().id)
    except TableNotFoundError:
        return None


def committed_at(path: str | Path, version: int) -> float | None:
    """When a version was committed, in seconds since 1970; None where its log file is gone."""
    try:
        return (Path(path) / "_delta_log" / f"{version:020}.json").stat().st_mtime
    except OSError:
        return None


def facts(path: str | Path) -> dict[str, Any] | None:
    """Version, files, bytes, rows (None where a file has no statistics) and time of the newest commit; None when there is no table."""
    try:
        table = DeltaTable(str(path))
    except TableNotFoundError:
        return None
    files = pa.table(table.get_add_actions(flatten=True))
    rows = files["num_records"].to_pylist() if "num_records" in files.column_names else [None] * files.num_rows
    newest = table.history(1)[0].get("timestamp")
    return {
        "version": table.version(), "files": files.num_rows, "bytes": sum(files["size_bytes"].to_pylist()),
        "rows": None if None in rows else sum(rows), "changed_at": newest,
    }  # fmt: skip


def vacuum(path: str | Path, hours: int) -> None:
    """Remove files that no version of the last `hours` needs. Errors: TransientError."""
    try:
        DeltaTable(str(path)).vacuum(retention_hours=hours, dry_run=False)
    except TableNotFoundError:
        return
    except DeltaError as error:
        raise TransientError(f"{path}: vacuum failed: {error}", 60.0) from error


def keeps_changes(path: str | Path) -> bool:
    """Whether the table has a change data feed."""
    return DeltaTable(str(path)).metadata().configuration.get("delta.enableChangeDataFeed") == "true"


def app_version(path: str | Path, app_id: str) -> int | None:
    """The newest version that application `app_id` has committed to the table, or None."""
    try:
        return DeltaTable(str(path)).transaction_version(app_id)
    except TableNotFoundError:
        return None


def read(
    path: str | Path,
    columns: Sequence[str] | None = None,
    filters: list[tuple[str, str, object]] | None = None,
    version: int | None = None,
) -> pa.Table:
    """The table's rows (as of a version); an empty table without columns when there is no Delta table at `path` (yet)."""
    try:
        table = DeltaTable(str(path), version)
    except TableNotFoundError:
        return pa.table({})
    # delta-rs' own file system is Python: a reading thread of Arrow's that lets go of it while the process ends aborts the process
    # ("terminate called without an active exception", 2 of 40 processes that end right after reading on a busy machine).
    local = None if "://" in str(path) else pyarrow.fs.SubTreeFileSystem(str(path), pyarrow.fs.LocalFileSystem())
    return table.to_pyarrow_table(columns=list(columns) if columns else None, filters=filters, filesystem=local)


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


def changes(path: str | Path, first: int, last: int) -> list[dict[str, Any]]:
    """Rows changed in versions first..last (both included) with `_change_type`, from the table's change data feed.

    Errors: TransientError when the feed cannot be read (vacuumed, or no feed in these versions).
    """
    try:
        changed = pa.table(DeltaTable(str(path)).load_cdf(first, last))
    except DeltaError as error:
        raise TransientError(f"{path}: changes {first}..{last} cannot be read: {error}") from error
    rows: list[dict[str, Any]] = changed.to_pylist()
    return rows


def newest(path: str | Path, column: str) -> Any:
    """The largest value of a column by the files' statistics; None where they do not say."""
    files = pa.table(DeltaTable(str(path)).get_add_actions(flatten=True))
    name = f"max.{column}"
    return pc.max(files[name]).as_py() if name in files.column_names else None


def compact(path: str | Path, target_bytes: int = 128 * 2**20) -> int:
    """Merge small files into larger ones (no row changes, so change feeds show nothing); how many files went.

    Of two compactions at once delta-rs lets both succeed, which doubles the rows they share: so one at a time, by a lock beside
    the table; where the lock is held nothing is done. Machines that share a table must agree on one that compacts.
    Errors: TransientError (a conflicting commit; nothing was changed).
    """
    where = Path(path)
    with where.with_name(f".{where.name}.compacting").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return int(DeltaTable(str(path)).optimize.compact(target_size=target_bytes)["numFilesRemoved"])
        except (BlockingIOError, TableNotFoundError):
            return 0
        except DeltaError as error:
            raise TransientError(f"{path}: compaction failed: {error}", 60.0) from error
