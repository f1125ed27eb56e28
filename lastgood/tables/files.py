"""A file of requests that somebody else wrote -> its columns as texts, moments and numbers, or one sentence that says what is wrong."""

import gzip
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.json
import pyarrow.parquet

from lastgood.errors import ConfigError
from lastgood.tables import delta

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NOTHING = frozenset({"", "-", "null", "none", "nan", "nat", "na", "n/a", "<na>", "\\n"})
"""Text that stands for "unknown" in files without nulls."""
UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
MONTH = re.compile(r"[A-Za-z]{3}")


def read(path: Path, used: Callable[[list[str]], list[str]]) -> pa.Table:
    """The table in a file or folder, of columns `used(names)`. Errors: ConfigError."""
    if not path.exists():
        raise ConfigError(f"{path}: cannot be read: there is no such file or folder")
    try:
        table = _read(path, used)
        views = [pa.string() if pa.types.is_string_view(field.type) else field.type for field in table.schema]
        return table.cast(pa.schema(list(zip(table.schema.names, views, strict=True))))
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _read(path: Path, used: Callable[[list[str]], list[str]]) -> pa.Table:
    if (path / "_delta_log").is_dir():
        table = delta.read(path)
        return table.select(used(table.column_names))
    plain = path.name.lower().removesuffix(".gz")
    kind = "parquet" if path.is_dir() else _KINDS.get(plain.rpartition(".")[2]) or _guess(path)
    if kind == "parquet":
        folder = pyarrow.dataset.dataset(path, format="parquet", partitioning="hive")
        return folder.to_table(used(folder.schema.names))
    if kind == "csv":
        return _csv(path, used)
    if kind == "json":
        table = _json(path)
        return table.select(used(table.column_names))
    raise ConfigError(f"{path}: expected a Delta or Parquet folder, or a .parquet, .csv, .json or .jsonl file")


_KINDS = {
    "parquet": "parquet", "pq": "parquet", "csv": "csv", "tsv": "csv", "txt": "csv",
    "json": "json", "jsonl": "json", "ndjson": "json",
}  # fmt: skip


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _guess(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    return "parquet" if start.startswith(b"PAR1") else "json" if start[:1] in (b"{", b"[") else ""


def _csv(path: Path, used: Callable[[list[str]], list[str]]) -> pa.Table:
    """Every column as text: a type guessed from the first rows would not fit an error that is rare."""
    with _open(path) as file:
        header = file.readline().decode("utf-8-sig")
    parse = pyarrow.csv.ParseOptions(delimiter=max(",;\t|", key=header.count), newlines_in_values=True)
    with pyarrow.csv.open_csv(path, parse_options=parse) as first:
        names = used(first.schema.names)
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=names)
    return pyarrow.csv.read_csv(path, None, parse, convert)


def _json(path: Path) -> pa.Table:
    """Objects by line, or one array of them. Values of one name may be of several kinds: then all become text."""
    with _open(path) as file:
        array = file.read(64).lstrip().startswith(b"[")
    if not array:
        try:
            return pyarrow.json.read_json(path, pyarrow.json.ReadOptions(block_size=1 << 24))
        except pa.ArrowInvalid:
            pass  # a code that is sometimes a number and sometimes text: below
    with _open(path) as file:
        try:
            rows = json.load(file) if array else [json.loads(line) for line in file if line.strip()]
        except ValueError as error:
            raise ConfigError(f"{path}: expected an array of JSON objects, or one by line: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path}: expected JSON objects, found others")
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values])


def text(column: pa.ChunkedArray, name: str = "") -> tuple[Ints, list[str]]:
    """(which of the texts, -1 where unknown; the texts): whole numbers without a fraction, no space around. Errors: ConfigError."""
    try:
        coded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
        whole = coded.unify_dictionaries().combine_chunks()
        words = _words(whole.dictionary)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: expected text or numbers, found {column.type}") from error
    known = [word is not None and word.lower() not in NOTHING for word in words]
    names = list(dict.fromkeys(word for word, use in zip(words, known, strict=True) if use and word is not None))
    number = {word: i for i, word in enumerate(names)}
    place = np.array(
        [*(number[str(word)] if use else -1 for word, use in zip(words, known, strict=True)), -1], np.int64
    )
    return place[pc.fill_null(whole.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)], names


def _words(values: pa.Array) -> list[str | None]:
    if pa.types.is_floating(values.type):
        return [_number_word(v) for v in values.to_pylist()]
    return [None if v is None else v.strip() for v in values.cast(pa.string()).to_pylist()]


def _number_word(value: float | None) -> str | None:
    if value is None or math.isnan(value):
        return None
    return str(int(value)) if value.is_integer() else repr(value)


def moments(column: pa.ChunkedArray, name: str = "requested_at") -> Floats:
    """A time column as epoch seconds, NaN where unknown: timestamps, ISO text, or numbers in s, ms, us or ns. Errors: ConfigError."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if pa.types.is_timestamp(kind):
        return _floats(column.cast(pa.int64())) / UNITS[kind.unit]
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _in_seconds(_floats(column))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise ConfigError(f"{name}: expected times, found {kind}")
    values = column.to_pandas().astype(object)
    values = values.where(~values.astype(str).str.strip().str.lower().isin(NOTHING), None)
    first = next((value for value in values if value is not None), None)
    if first is None:
        return np.full(len(values), np.nan)
    if re.fullmatch(r"-?\d+(\.\d*)?([eE]\+?\d+)?", first.strip()):
        return _in_seconds(_parsed(values, first, name))
    return _dates(values, first, name)


def _in_seconds(values: Floats) -> Floats:
    known = values[np.isfinite(values)]
    size = float(np.median(known)) if len(known) else 0.0
    return values / next(
        (UNITS[unit] for unit, least in (("ns", 1e17), ("us", 1e14), ("ms", 1e11)) if size > least), 1.0
    )


def _dates(texts: "pd.Series[Any]", first: str, name: str) -> Floats:
    texts = texts.str.strip().str.removesuffix(" UTC")
    try:
        try:
            parsed = pd.to_datetime(texts, utc=True, format="ISO8601")
        except ValueError:
            if not MONTH.search(first):  # 03/04/2026 may be March or April
                raise
            parsed = pd.to_datetime(texts, utc=True, format="mixed")
    except (ValueError, TypeError, OverflowError) as error:
        what = str(error).split(". ")[0].split(", at position")[0]
        raise ConfigError(f"{name}: expected times in ISO 8601 or numbers since 1970: {what}") from error
    values = parsed.astype("datetime64[us, UTC]")
    return np.asarray(np.where(values.isna(), np.nan, values.astype("int64") / 1e6), float)


def numbers(table: pa.Table, name: str) -> Floats:
    """A column as numbers, NaN where unknown or not there; durations in ms. Errors: ConfigError."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_duration(column.type):
        return _floats(column.cast(pa.int64())) / UNITS[column.type.unit] * 1e3
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _parsed(column.to_pandas().astype(object), "", name)
    try:
        return _floats(column)
    except pa.ArrowException as error:
        raise ConfigError(f"{name}: expected numbers, found {column.type}") from error


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), float)


def _parsed(texts: "pd.Series[Any]", first: str, name: str) -> Floats:
    """Numbers from text."""
    numbers = pd.to_numeric(texts, errors="coerce")
    odd = texts[numbers.isna() & ~texts.astype(str).str.strip().str.lower().isin(NOTHING)]
    if len(odd):
        raise ConfigError(f"{name}: expected numbers, found {odd.iloc[0]!r}")
    return np.asarray(numbers, float)
