"""Columns that somebody else wrote -> texts, moments and numbers as the judge reads them, or one sentence that says what is wrong."""

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.errors import ConfigError
from lastgood.record.vocabulary import MISSING

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
MONTH = re.compile(r"[A-Za-z]{3}")


def text(column: pa.ChunkedArray, name: str = "") -> tuple[Ints, list[str]]:
    """(which of the texts, -1 where unknown; the texts): whole numbers without a fraction, no space around. Errors: ConfigError."""
    try:
        coded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
        whole = coded.unify_dictionaries().combine_chunks()
        words = _words(whole.dictionary)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: expected text or numbers, found {column.type}") from error
    known = [word is not None and word.lower() not in MISSING for word in words]
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
    values = values.where(~values.astype(str).str.strip().str.lower().isin(MISSING), None)
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
    odd = texts[numbers.isna() & ~texts.astype(str).str.strip().str.lower().isin(MISSING)]
    if len(odd):
        raise ConfigError(f"{name}: expected numbers, found {odd.iloc[0]!r}")
    return np.asarray(numbers, float)
