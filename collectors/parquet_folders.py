"""A folder of Parquet files -> which of them are read, with what their folders' names say, and what is not read, by name."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from lastgood.collectors.sniffing import Detect
from lastgood.errors import ConfigError

NULL = "__HIVE_DEFAULT_PARTITION__"
EXPECTED = "expected Delta, Parquet, CSV or JSON lines"
MOST_NAMED = 5


@dataclass(frozen=True)
class Part:
    """A file, and the values of partition columns that its folders' names say."""

    path: Path
    constants: Mapping[str, str | None]


def parts_of(folder: Path, detect: Detect) -> tuple[list[Part], list[str]]:
    """(files to read, notes on what is not read and what files lack). Hidden folders and files, and those that begin with an underscore, are
    skipped, as Spark does. Errors: ConfigError for a folder that holds a table of another kind, or none."""
    unread: list[str] = []
    paths = sorted(_files(folder, unread))
    if not paths:
        others = f", but {_named(unread)}; name one of them" if unread else ""
        raise ConfigError(f"{folder}: holds no rows that can be read (no Parquet files{others}); {EXPECTED}")
    parts = [Part(path, _constants(path.relative_to(folder).parts[:-1])) for path in paths]
    notes = [f"not read: {_named(unread)}"] if unread else []
    return parts, notes + _alike(folder, parts, detect)


def _files(folder: Path, unread: list[str]) -> Iterator[Path]:
    def refused(error: OSError) -> None:
        unread.append(f"{os.path.relpath(str(error.filename), folder)} ({error.strerror})")

    for root, folders, names in os.walk(folder, onerror=refused):
        here = Path(root)
        if "_delta_log" in folders:
            raise ConfigError(
                f"{folder}: {here} is a Delta table, whose files are not all of its rows; name that folder"
            )
        if any(name.endswith(".metadata.json") for name in names):
            raise ConfigError(
                f"{folder}: {here} belongs to an Iceberg table, whose files are not all of its rows; export it"
            )
        for name in list(folders):
            path = here / name
            if (_hidden(name) and "=" not in name) or path.is_symlink():
                folders.remove(name)
                if path.is_symlink() or any(path.rglob("*.parquet")):
                    unread.append(f"{path.relative_to(folder)}{' (a link)' if path.is_symlink() else ''}")
        for name in names:
            if _hidden(name):
                continue
            if (here / name).suffix.lower() in (".parquet", ".pq"):
                yield here / name
            else:
                unread.append(str((here / name).relative_to(folder)))


def _hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(sorted(names)[:MOST_NAMED]) + more


def _constants(folders: Sequence[str]) -> dict[str, str | None]:
    pairs = (folder.split("=", 1) for folder in folders if "=" in folder)
    return {unquote(name): None if value == NULL else unquote(value) for name, value in pairs}


def _alike(folder: Path, parts: Sequence[Part], detect: Detect) -> list[str]:
    """Notes on columns that some of the files lack. Errors: ConfigError for a file that is damaged, or another kind of table."""
    columns: dict[Path, set[str]] = {}
    kinds: dict[object, Path] = {}
    for part in parts:
        name = part.path.relative_to(folder)
        try:
            columns[name] = {*pq.read_schema(part.path).names, *part.constants}
            detected = detect(sorted(columns[name]))
            kind = detected if isinstance(detected, str) else "table"
        except ConfigError as error:
            raise ConfigError(f"{folder}: {name}: {error}") from error
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ConfigError(
                f"{folder}: {name}: could not be read as Parquet: {str(error).splitlines()[0]:.200}"
            ) from error
        kinds.setdefault(kind, name)
    if len(kinds) > 1:
        (a, first), (b, other) = list(kinds.items())[:2]
        raise ConfigError(f"{folder}: {first} is a table of kind {a}, {other} of kind {b}; name one of them")
    every = set().union(*columns.values())
    lacking: dict[str, list[str]] = {}
    for name, have in columns.items():
        for column in every - have:
            lacking.setdefault(column, []).append(str(name))
    return [
        f"{column} is unknown in {_named(names)}, which {'have' if len(names) > 1 else 'has'} no such column"
        for column, names in sorted(lacking.items())
    ]
