"""Arrow columns of whatever type a source has -> columns of the type that is wanted (pure). What cannot be read is null, never a guess:
who calls counts the values that were there and are null (`lost`).

Times: Arrow's own, ISO 8601 text, or a number since 1970 whose unit its size tells: years 1973 to 5138 have numbers of different length in
seconds, milliseconds, microseconds and nanoseconds (`UNITS`).
"""

import ast
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.record.vocabulary import MISSING

TIME = pa.timestamp("us", "UTC")
TEXTS = pa.map_(pa.string(), pa.string())
UNITS = ((1e11, "s", 1e6), (1e14, "ms", 1e3), (1e17, "us", 1.0), (math.inf, "ns", 1e-3))
"""(numbers below this, are in this unit, microseconds of one)."""
LAST_MICROS = 253_402_300_800_000_000
"""The year 10000: no calendar goes further."""


EXACT = 2**53
"""Whole numbers below this are exact as floats."""
_MISSING = pa.array(
    sorted({form for word in MISSING for form in (word, word.upper(), word.capitalize())} | {"NaN", "NaT", "<Na>"})
)
_STATUS = {status.phrase.lower(): status.value for status in HTTPStatus}
_STATUS_LINE = re.compile(r"([1-5]\d\d)(?: +[A-Za-z][A-Za-z '-]*)?")
_BRACED = re.compile(r"\{([^=,{}]+=[^=,{}]*(?:, [^=,{}]+=[^=,{}]*)*)\}")
"""A map as DuckDB casts it to text, where no key or value holds a sign that could be its own."""


def plain(column: pa.Array) -> pa.Array:
    """The column in one of the types that the rest of this module knows: no dictionaries, views, large types or extensions."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = column.storage
    elif pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_large_string(kind) or kind == pa.string_view():
        return column.cast(pa.string())
    if pa.types.is_large_binary(kind) or kind == pa.binary_view():
        return column.cast(pa.binary())
    return column


def known(column: pa.Array) -> pa.Array:
    """A plain column without what stands for "unknown": NaN and, of texts without the space around them, blank and the words in MISSING."""
    if pa.types.is_binary(column.type):
        column = pa.array([_decoded(value) for value in column.to_pylist()], pa.string())
    if pa.types.is_string(column.type):
        words = pc.utf8_trim_whitespace(column)
        missing = pc.is_in(words, _MISSING)
        return pc.if_else(missing, None, words) if pc.any(missing).as_py() else words
    if pa.types.is_floating(column.type):
        odd = pc.is_nan(column)
        return pc.if_else(odd, None, column) if pc.any(odd).as_py() else column
    return column


def _decoded(value: bytes | None) -> str | None:
    """Bytes that are UTF-8 as text, others in hexadecimal digits."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return text if text.isprintable() else value.hex()


def lost(held: pa.Array, made: pa.Array) -> Any:
    """Rows whose value is known in `held` and null in `made`."""
    if made.null_count == held.null_count:
        return np.zeros(0, np.int64)
    return np.flatnonzero(pc.and_(pc.is_valid(held), pc.is_null(made)).to_numpy(zero_copy_only=False))


def name_of(value: Any) -> str | None:
    """A value as a name: text as it stands, whole numbers without a point; None for a number that does not tell which name it was: 1.1 and
    1.10 are one number, and so are two long ids that were made floats."""
    if value is None or isinstance(value, str):
        return value and (None if value.strip().lower() in MISSING else value.strip())
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < EXACT else None
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else None
    return _json(value) if isinstance(value, dict | list) else str(value)


def name(column: pa.Array) -> pa.Array:
    """A known column as names, see `name_of`; bytes of 16 as UUIDs."""
    kind = column.type
    if pa.types.is_string(kind):
        return column
    if pa.types.is_fixed_size_binary(kind):
        held = column.to_pylist()
        return pa.array(
            [v if v is None else str(UUID(bytes=v)) if len(v) == 16 else v.hex() for v in held], pa.string()
        )
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pa.array([name_of(value) for value in column.to_pylist()], pa.string())
    return text(column)


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


def _float(value: str | None) -> float | None:
    try:
        return None if value is None or "_" in value else float(value)
    except ValueError:
        return None


def number(column: pa.Array) -> pa.Array:
    """As a double, durations in milliseconds; what is no number, as a text or a truth value, is null."""
    kind = column.type
    if pa.types.is_duration(kind):
        return pc.divide(
            column.cast(pa.int64()).cast(pa.float64()), {"s": 1e-3, "ms": 1.0, "us": 1e3, "ns": 1e6}[kind.unit]
        )
    if pa.types.is_null(kind) or nested(kind) or pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
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
    """As a whole number of `kind` (int64); null for what is none: 1.234 may be 1,234."""
    kind = kind or pa.int64()
    if column.type == kind:
        return column
    if pa.types.is_integer(column.type) and kind == pa.int64() and not pa.types.is_uint64(column.type):
        return column.cast(kind)
    values = number(column)
    most = 2**53 if kind == pa.int64() else 2**31 - 1
    good = pc.and_(
        pc.less_equal(pc.abs(pc.if_else(pc.is_finite(values), values, None)), float(most)),
        pc.equal(pc.trunc(values), values),
    )
    return pc.if_else(pc.fill_null(good, False), values, None).cast(kind)


def status(column: pa.Array) -> pa.Array:
    """As an HTTP status: numbers, status lines ("500 Internal Server Error") and their phrases ("OK")."""
    made = whole(column, pa.int32())
    if made.null_count == column.null_count or not pa.types.is_string(column.type):
        return made
    return pa.array([_status(value) for value in column.to_pylist()], pa.int32())


def _status(value: str | None) -> int | None:
    line = value and _STATUS_LINE.fullmatch(value)
    number = _float(value)
    if number is not None and number.is_integer() and abs(number) < 2**31:
        return int(number)
    return int(line[1]) if line else _STATUS.get((value or "").lower())


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


def _parsed(text: str) -> Any:
    """The value that a text writes down: as JSON, as Python's repr, or as DuckDB writes a map; None for anything else."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    if braced := _BRACED.fullmatch(text):
        return dict(pair.split("=", 1) for pair in braced[1].split(", "))
    try:
        return ast.literal_eval(text) if text[:1] in ("{", "[") else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _pairs(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, list) and all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in value):
        try:
            return dict(value)
        except TypeError:
            return None
    return value if isinstance(value, dict) else None


def mapping(column: pa.Array) -> list[Mapping[str, Any] | None]:
    """Maps, structs, lists of pairs, or text of one (JSON, Python, DuckDB), as dictionaries; None for anything else."""
    if pa.types.is_null(column.type):
        return [None] * len(column)
    return [_pairs(value) for value in column.to_pylist()]


def texts(column: pa.Array) -> pa.Array:
    """As a map of texts."""
    if column.type == TEXTS:
        return column
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
