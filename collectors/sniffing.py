"""The beginning of a CSV or JSON file -> how it is to be read, in a sentence (pure). What could be read in two ways is refused.

CSV: RFC 4180 (quotes doubled, line breaks within quotes) or quotes escaped by a backslash; comma, semicolon, tab or bar; a header. JSON:
one object a line, or an array of objects.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from lastgood.collectors import coerce
from lastgood.errors import ConfigError

SAMPLE = 2**20
"""Bytes of a file that are looked at."""
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MOST_RAGGED = 0.1
"""A file in which more of the rows have another number of fields than the header is not read."""
BODIES = ("request", "response", "features", "attributes", "request_metadata")
CLOCKS = ("requested_at", "request_time", "timestamp_ms", "event_time")
VERSIONS = ("model_version", "destination_model")
Detect = Callable[[list[str]], object]
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Dialect:
    """How a CSV is written. `escape`: what makes a quote within quotes: a doubled quote, or a backslash."""

    delimiter: str
    escape: str = '"'

    @property
    def words(self) -> str:
        return "doubled quotes" if self.escape == '"' else "quotes escaped by a backslash"


@dataclass(frozen=True)
class Sniffed:
    """What was taken. `form`: csv, lines or array. `start`: bytes before the first record. `clock`: the unit of times that are numbers."""

    form: str
    columns: tuple[str, ...]
    description: str
    dialect: Dialect | None = None
    start: int = 0
    clock: str | None = None


def _records(text: str, dialect: Dialect, whole: bool) -> list[list[str]]:
    """The records of a text; without the last, which may be cut, when the text is not the whole file."""
    doubled = dialect.escape == '"'
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.delimiter,
        doublequote=doubled,
        escapechar=None if doubled else "\\",
    )
    try:
        records = [record for record in reader if record]
    except csv.Error:
        return []
    return records if whole else records[:-1]


def _json_share(records: Sequence[Sequence[str]]) -> float:
    """Share of the bodies that are JSON, of the columns that hold bodies."""
    held = [i for i, name in enumerate(records[0]) if name in BODIES]
    cells = [record[i] for record in records[1:500] for i in held if i < len(record) and record[i][:1] in ("{", "[")]
    good = 0
    for cell in cells:
        try:
            orjson.loads(cell)
            good += 1
        except orjson.JSONDecodeError:
            pass
    return good / len(cells) if cells else 1.0


def _known(columns: Sequence[str], detect: Detect) -> bool:
    try:
        detect(list(columns))
    except ConfigError:
        return False
    return True


def _decoded(sample: bytes, name: str) -> str:
    """The sample as text; a character cut at its end is left out. Errors: ConfigError for anything but UTF-8."""
    try:
        return sample.decode()
    except UnicodeDecodeError as error:
        if error.start >= len(sample) - 4:
            return sample[: error.start].decode()
        raise ConfigError(
            f"{name}: byte {error.start} is not UTF-8; expected Delta, Parquet, CSV or JSON lines, text in UTF-8"
        ) from error


def sniff(sample: bytes, whole: bool, name: str, detect: Detect) -> Sniffed:
    """What the beginning of a file says. `whole`: the sample is all of it. Errors: ConfigError naming row and column where there is one."""
    start = len(BOM) if sample.startswith(BOM) else 0
    if sample[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in sample[:64]:
        raise ConfigError(f"{name}: not UTF-8 text; expected Delta, Parquet, CSV or JSON lines, text in UTF-8")
    text = _decoded(sample[start:], name)
    first = text.lstrip()[:1]
    if not first:
        raise ConfigError(f"{name}: holds no rows that can be read; expected Delta, Parquet, CSV or JSON lines")
    if first in "{[":
        return _sniff_json(text, first, start, whole, name, detect)
    return _sniff_csv(text, start, whole, name, detect)


def _sniff_csv(text: str, start: int, whole: bool, name: str, detect: Detect) -> Sniffed:
    line = text[: text.find("\n") + 1] or text
    headers = {d: next(csv.reader([line.strip("\r\n")], delimiter=d), []) for d in DELIMITERS}
    known = [d for d, header in headers.items() if _known(header, detect)]
    if not known:
        widest = max(headers.values(), key=len)
        try:
            detect(widest)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    delimiter = known[0]
    header = headers[delimiter]
    if doubled := {column for column in header if header.count(column) > 1}:
        raise ConfigError(f"{name}: row 1: column {sorted(doubled)[0]} stands there twice; give each column one name")
    dialect, records = _quotes(text, delimiter, whole, name)
    ragged = [(i, len(r)) for i, r in enumerate(records[1:], 2) if len(r) != len(header)]
    if len(ragged) > MOST_RAGGED * max(1, len(records) - 1):
        row, fields = ragged[0]
        raise ConfigError(
            f"{name}: row {row} has {fields} fields, the header {len(header)}, and so have {len(ragged)} of the first {len(records) - 1} rows; "
            "quote fields that hold the delimiter or a line break, and double the quotes in them (RFC 4180)"
        )
    rows = [dict(zip(header, record, strict=True)) for record in records[1:] if len(record) == len(header)]
    clock, words = _clock(header, rows, name)
    phrases = [DELIMITERS[delimiter], dialect.words, f"{len(header)} columns", words]
    return Sniffed(
        "csv", tuple(header), ", ".join(part for part in phrases if part), dialect, start + len(line.encode()), clock
    )


def _quotes(text: str, delimiter: str, whole: bool, name: str) -> tuple[Dialect, list[list[str]]]:
    """How quotes within quotes are written: the way in which rows have as many fields as the header and bodies are JSON."""
    ways = []
    for escape in ('"', "\\") if '\\"' in text else ('"',):
        dialect = Dialect(delimiter, escape)
        records = _records(text, dialect, whole)
        if records:
            fits = sum(len(record) == len(records[0]) for record in records) / len(records)
            ways.append(((round(fits, 3), round(_json_share(records), 3)), dialect, records))
    if not ways:
        raise ConfigError(f"{name}: no row of the CSV can be read; quotes are not closed")
    ways.sort(key=lambda way: way[0], reverse=True)
    best = [way for way in ways if way[0] == ways[0][0]]
    if len(best) > 1 and best[0][2] != best[1][2]:
        pairs = enumerate(zip(best[0][2], best[1][2], strict=False), 1)
        row, (a, b) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        column = next((i for i, cells in enumerate(zip(a, b, strict=False)) if cells[0] != cells[1]), 0)
        header = best[0][2][0]
        where = header[column] if column < len(header) else str(column + 1)
        raise ConfigError(
            f"{name}: row {row}, column {where}: quotes could be doubled or escaped by a backslash, and both can be read; double them (RFC 4180)"
        )
    return best[0][1], best[0][2]


def _clock(columns: Sequence[str], rows: Sequence[dict[str, Any]], name: str) -> tuple[str | None, str]:
    """(unit of times that are numbers, words). Errors: ConfigError where one column has two units."""
    column = next((clock for clock in CLOCKS if clock in columns), None)
    if column is None:
        return None, ""
    units: dict[str, int] = {}
    for i, row in enumerate(rows, 2):
        value = row.get(column)
        try:
            number = float(value) if value not in (None, "") and not isinstance(value, bool) else None
        except (TypeError, ValueError):
            number = None
        if number is None or math.isnan(number):
            continue
        units.setdefault(coerce.unit_of(number)[0], i)
    if column == "timestamp_ms":
        return "ms", "times in ms UTC"
    if len(units) > 1:
        (first, _), (other, row_number) = list(units.items())[:2]
        raise ConfigError(
            f"{name}: row {row_number}, column {column}: a time in {other} where earlier rows have {first}; give all rows one unit"
        )
    unit = next(iter(units), None)
    return unit, f"times in {unit} UTC" if unit else "times as text, UTC where they name no zone"


def loads(line: str | bytes) -> Any:
    """The JSON value of a line, NaN and Infinity included; None for what is no JSON."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    try:
        text = line if isinstance(line, str) else line.decode()
        return json.loads(text) if "NaN" in text or "Infinity" in text else None
    except ValueError:
        return None


def _objects(lines: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for line in lines:
        value = loads(line)
        if isinstance(value, dict):
            rows.append(value)
    return rows


def _sniff_json(text: str, first: str, start: int, whole: bool, name: str, detect: Detect) -> Sniffed:
    if first == "[":
        try:
            rows = list(islice(array(iter([text]), whole), 1000))
        except ValueError as error:
            raise ConfigError(f"{name}: the JSON array breaks off: {error}") from error
        form, words = "array", "an array of JSON objects"
    else:
        lines = text.splitlines()
        rows = _objects(lines if whole or len(lines) < 2 else lines[:-1])
        form, words = "lines", "JSON, an object a line"
        if not rows:
            raise ConfigError(
                f"{name}: row 1 is not a JSON object on a line of its own; expected JSON lines or an array of objects"
            )
    if not rows:
        raise ConfigError(f"{name}: holds no rows that can be read; expected Delta, Parquet, CSV or JSON lines")
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    try:
        detect(list(columns))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    for column in VERSIONS:
        for i, row in enumerate(rows, 1):
            if isinstance(row.get(column), float) and row[column] % 1:
                raise ConfigError(
                    f"{name}: row {i}, column {column}: the version is the number {row[column]}, which 1.1 and 1.10 share; write it as text"
                )
    clock, times = _clock(columns, rows, name)
    phrases = [words, f"{len(columns)} columns", times]
    return Sniffed(form, columns, ", ".join(part for part in phrases if part), None, start, clock)


def array(texts: Any, whole: bool = True) -> Any:
    """Texts of one JSON array of objects -> the objects, one by one. Where the text is not `whole`, what its end cuts is left out.

    Errors: ValueError with the position of what is no JSON.
    """
    decoder, held, at, begun, ended = json.JSONDecoder(), "", 0, False, False
    for text in [*texts, None] if isinstance(texts, list) else _then_none(texts):
        held = held[at:] + (text or "")
        at = 0
        while True:
            while at < len(held) and (held[at].isspace() or held[at] in ",[" or ord(held[at]) == 0xFEFF):
                if held[at] == "[" and begun:
                    break
                begun = begun or held[at] == "["
                at += 1
            if at >= len(held):
                break
            if held[at] == "]":
                ended = True
                at = len(held)
                break
            try:
                value, at = decoder.raw_decode(held, at)
            except ValueError:
                if text is not None:
                    break
                if not whole:
                    return
                raise
            if isinstance(value, dict):
                yield value
    if whole and not ended:
        raise ValueError("the array does not end")


def _then_none(texts: Any) -> Any:
    yield from texts
    yield None
