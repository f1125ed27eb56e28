"""Arrow columns of whatever type a source has -> columns of the type that is wanted (pure). What cannot be read is null, never a guess.

Times: Arrow's own, ISO 8601 text, or a number since 1970 whose unit its size tells: years 1973 to 5138 have numbers of different length in
seconds, milliseconds, microseconds and nanoseconds (`UNITS`).
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.errors import ConfigError

TIME = pa.timestamp("us", "UTC")
TEXTS = pa.map_(pa.string(), pa.string())
UNITS = ((1e11, "s", 1e6), (1e14, "ms", 1e3), (1e17, "us", 1.0), (math.inf, "ns", 1e-3))
"""(numbers below this, are in this unit, microseconds of one)."""
LAST_MICROS = 253_402_300_800_000_000
"""The year 10000: no calendar goes further."""


def nested(kind: pa.DataType) -> bool:
    """Whether values are lists, maps or structs."""
    return bool(pa.types.is_nested(kind))


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def text(column: pa.Array) -> pa.Array:
    """As text: whole numbers without a point (also where pandas made them floats), nested values as JSON."""
    kind = column.type
    if pa.types.is_string(kind):
        return column
    if pa.types.is_map(kind):
        return pa.array([None if pairs is None else _json(dict(pairs)) for pairs in column.to_pylist()], pa.string())
    if nested(kind):
        return pa.array([_json(value) for value in column.to_pylist()], pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        decoded = [None if value is None else value.decode(errors="replace") for value in column.to_pylist()]
        return pa.array(decoded, pa.string())
    if pa.types.is_floating(kind):
        values = [None if v is None else str(int(v)) if v.is_integer() else repr(v) for v in column.to_pylist()]
        return pa.array(values, pa.string())
    return column.cast(pa.string())


def filled(column: pa.Array) -> pa.Array:
    """As text, null for blank."""
    words = text(column)
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(words), ""), None, words)


def fractional(column: pa.Array) -> pa.Array | None:
    """Which values are numbers with a fraction, which as names are ambiguous (1.1 and 1.10); None for a column that is not of such numbers."""
    if not pa.types.is_floating(column.type):
        return None
    return pc.fill_null(pc.not_equal(column, pc.floor(column)), False)


def _float(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def number(column: pa.Array) -> pa.Array:
    """As a double; text that is no number is null."""
    kind = column.type
    if pa.types.is_null(kind) or nested(kind):
        return pa.nulls(len(column), pa.float64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            return column.cast(pa.float64())
        except pa.ArrowInvalid:
            return pa.array([_float(value) for value in column.to_pylist()], pa.float64())
    try:
        return column.cast(pa.float64(), safe=False)
    except pa.ArrowNotImplementedError:
        return pa.nulls(len(column), pa.float64())


def whole(column: pa.Array, kind: pa.DataType | None = None) -> pa.Array:
    """As a whole number of `kind` (int64), fractions cut off; null for what such a number cannot hold."""
    kind = kind or pa.int64()
    if column.type == kind:
        return column
    if pa.types.is_integer(column.type) and kind == pa.int64() and not pa.types.is_uint64(column.type):
        return column.cast(kind)
    values = number(column)
    most = 2**53 if kind == pa.int64() else 2**31 - 1
    good = pc.less_equal(pc.abs(pc.if_else(pc.is_finite(values), values, None)), float(most))
    return pc.trunc(pc.if_else(pc.fill_null(good, False), values, None)).cast(kind)


def unit_of(value: float) -> tuple[str, float]:
    """(unit, microseconds of one) of a number that is a time since 1970."""
    return next((unit, micros) for below, unit, micros in UNITS if abs(value) < below)


def _micros(values: pa.Array, unit: str | None) -> pa.Array:
    raw = np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
    size = np.abs(raw)
    if unit:
        scale = np.full(len(raw), next(micros for _, name, micros in UNITS if name == unit))
    else:
        scale = np.select([size < below for below, _, _ in UNITS], [micros for _, _, micros in UNITS], 1.0)
    micros = raw * scale
    good = np.isfinite(micros) & (np.abs(micros) < LAST_MICROS)
    return pa.array(np.where(good, np.round(micros), 0).astype(np.int64), mask=~good).cast(TIME)


def _moment(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value.strip().replace(" UTC", "+00:00"))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def time(column: pa.Array, unit: str | None = None) -> pa.Array:
    """As a time in UTC; times without a zone are UTC. `unit`: of numbers, where the source's documentation says it."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        naive = column.cast(pa.timestamp("us", kind.tz), safe=False)
        return naive.cast(TIME) if kind.tz else pc.assume_timezone(naive, "UTC")
    if pa.types.is_date(kind):
        return pa.array([_midnight(day) for day in column.to_pylist()], TIME)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        numbers = number(column)
        moments = None
        if numbers.null_count:
            moments = _texts(column)
        if numbers.null_count == len(numbers):
            return moments
        counted = _micros(numbers, unit)
        return counted if moments is None else pc.coalesce(counted, moments)
    if pa.types.is_null(kind) or nested(kind):
        return pa.nulls(len(column), TIME)
    return _micros(number(column), unit)


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)


def _texts(column: pa.Array) -> pa.Array:
    try:
        return column.cast(TIME)
    except pa.ArrowInvalid:
        pass
    try:
        return pc.assume_timezone(column.cast(pa.timestamp("us")), "UTC")
    except pa.ArrowInvalid:
        return pa.array([_moment(value) for value in column.to_pylist()], TIME)


def _pairs(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
    if isinstance(value, list) and all(isinstance(pair, tuple) for pair in value):
        return dict(value)
    return value if isinstance(value, dict) else None


def mapping(column: pa.Array) -> list[Mapping[str, Any] | None]:
    """Maps, structs, or JSON text of an object, as dictionaries; None for anything else."""
    if pa.types.is_null(column.type):
        return [None] * len(column)
    return [_pairs(value) for value in column.to_pylist()]


def texts(column: pa.Array) -> pa.Array:
    """As a map of texts."""
    if column.type == TEXTS:
        return column
    if pa.types.is_list(column.type):
        raise ConfigError(f"a column is {column.type}, expected a map of texts")
    return pa.array(
        [
            None
            if pairs is None
            else [(str(k), v if isinstance(v, str) or v is None else _json(v)) for k, v in pairs.items()]
            for pairs in mapping(column)
        ],
        TEXTS,
    )


def words(column: pa.Array) -> list[list[str] | None]:
    """Lists of texts, or JSON text of one; None for anything else."""
    if pa.types.is_null(column.type):
        return [None] * len(column)
    values = []
    for value in column.to_pylist():
        if isinstance(value, str) and value.startswith("["):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                value = None
        values.append([str(word) for word in value] if isinstance(value, list | tuple) else None)
    return values


Coerce = Callable[[pa.Array], pa.Array]
BY_TYPE: Mapping[str, Coerce] = {
    "string": text,
    "double": number,
    "bigint": whole,
    "int": lambda column: whole(column, pa.int32()),
    "timestamp": time,
    "map<string,string>": texts,
    "boolean": lambda column: (
        column if pa.types.is_boolean(column.type)
        else pa.array([{"true": True, "false": False}.get(str(v).lower()) for v in column.to_pylist()], pa.bool_())
    ),
    "binary": lambda column: (
        column if pa.types.is_binary(column.type) else text(column).cast(pa.binary())
    ),
}  # fmt: skip
"""Type of a record's field -> what makes a column of it."""
