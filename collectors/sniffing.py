"""The beginning of a CSV or JSON file -> how it is to be read, in a sentence (pure). What could be read in two ways is refused.

CSV: RFC 4180 (quotes doubled, line breaks within quotes) or quotes escaped by a backslash; comma, semicolon, tab or bar; a header. JSON:
one object a line, or an array of objects.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import orjson

from lastgood.collectors import coerce
from lastgood.collectors.findings import LEAST_TIME, MOST_ODD, NOT_AN_OBJECT, Findings
from lastgood.errors import ConfigError
from lastgood.record.words import counted

SAMPLE = 2**20
"""Bytes of a file that are looked at."""
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
BODIES = ("request", "response", "features", "attributes", "request_metadata")
CLOCKS = ("requested_at", "request_time", "timestamp_ms", "event_time")
ONCE = (
    "model_version",
    "destination_model",
    "endpoint",
    "request_id",
    "databricks_request_id",
    "latency_ms",
    "status_code",
    "error_code",
    *CLOCKS,
)
"""Keys that an object may have only once, in every row; in the first rows no key may stand twice."""
Detect = Callable[[list[str]], object]
BOM = b"\xef\xbb\xbf"
LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r|$)")
SEPARATOR = re.compile(r"sep=([,;\t|])")
"""How Excel names the delimiter, in a line before the header."""


@dataclass(frozen=True)
class Dialect:
    """How a CSV is written. `escape`: what makes a quote within quotes: a doubled quote, or a backslash; `end`: of a line."""

    delimiter: str
    escape: str = '"'
    end: bytes = b"\n"

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


def records(text: str, dialect: Dialect, whole: bool = True) -> list[list[str]]:
    """The records of a text; without the last, which may be cut, when the text is not the whole file."""
    doubled = dialect.escape == '"'
    csv.field_size_limit(2**31 - 1)  # bodies are longer than its default
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.delimiter,
        doublequote=doubled,
        escapechar=None if doubled else "\\",
    )
    try:
        read = [record for record in reader if record]
    except csv.Error:
        return []
    return read if whole else read[:-1]


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
    delimiters: Sequence[str] = list(DELIMITERS)
    line = _line(text)
    if named := SEPARATOR.fullmatch(line.strip("\r\n")):
        text, start, delimiters = text[len(line) :], start + len(line.encode()), [named[1]]
        line = _line(text)
    cells = {d: next(csv.reader([line.strip("\r\n")], delimiter=d), []) for d in delimiters}
    headers = {d: [cell.strip() for cell in row] for d, row in cells.items()}
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
    dialect, rows_read = _quotes(text, delimiter, whole, name)
    if line.endswith("\r"):
        dialect = replace(dialect, end=b"\r")
    cells_of = rows_read[1:]
    ragged = [(i, len(r)) for i, r in enumerate(cells_of, 2) if len(r) != len(header)]
    if len(ragged) > MOST_ODD * max(1, len(cells_of)):
        row, fields = ragged[0]
        raise ConfigError(
            f"{name}: row {row} has {counted(fields, 'field')}, the header {len(header)}, and so have {len(ragged)} "
            f"of the first {counted(len(cells_of), 'row')}; quote fields that hold the delimiter or a line break, and double the quotes in them (RFC 4180)"
        )
    rows = [dict(zip(header, record, strict=True)) for record in cells_of if len(record) == len(header)]
    clock, words = _clock(header, rows, name)
    phrases = [DELIMITERS[delimiter], dialect.words, counted(len(header), "column"), words]
    return Sniffed(
        "csv", tuple(header), ", ".join(part for part in phrases if part), dialect, start + len(line.encode()), clock
    )


def _line(text: str) -> str:
    first = LINE.match(text)
    return first[0] if first else ""


def _quotes(text: str, delimiter: str, whole: bool, name: str) -> tuple[Dialect, list[list[str]]]:
    """How quotes within quotes are written: the way in which rows have as many fields as the header and bodies are JSON."""
    ways = []
    for escape in ('"', "\\") if '\\"' in text else ('"',):
        dialect = Dialect(delimiter, escape)
        rows = records(text, dialect, whole)
        if rows:
            fits = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
            ways.append(((round(fits, 3), round(_json_share(rows), 3)), dialect, rows))
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
        if number is None or math.isnan(number) or abs(number) < LEAST_TIME:
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
    """The JSON value of a line, NaN, Infinity and lone surrogates included; None for what is no JSON."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    try:
        text = line if isinstance(line, str) else line.decode()
        return json.loads(text) if "NaN" in text or "Infinity" in text or "\\ud" in text.lower() else None
    except (ValueError, RecursionError):
        return None


def _lines(text: str, whole: bool, name: str) -> list[dict[str, Any]]:
    """The objects of a text, one a line. Errors: ConfigError where more than a tenth of the lines are none."""
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    lines = lines if whole or len(lines) < 2 else lines[:-1]
    values = [(i, line, loads(line)) for i, line in lines]
    odd = [(i, line) for i, line, value in values if not isinstance(value, dict)]
    if len(odd) > MOST_ODD * len(lines):
        row, line = odd[0]
        hint = "; end it without a comma" if line.rstrip().endswith(",") else ""
        raise ConfigError(
            f"{name}: row {row} is not a JSON object on a line of its own, and so are {len(odd)} of the first {counted(len(lines), 'row')}: {line[:60]!r}"
            f"{hint}; expected JSON lines or an array of objects"
        )
    for i, line, value in values:
        if isinstance(value, dict):
            key = doubled(line, value)
            if key:
                raise ConfigError(f"{name}: row {i}: key {key} stands there twice; give each key one value")
    return [value for _, _, value in values if isinstance(value, dict)]


def doubled(line: str | bytes, row: dict[str, Any]) -> str | None:
    """The key that an object has twice, None where each is there once; nested objects may be as they are."""
    twice: list[str] = []

    def keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs) and made.keys() == row.keys():
            names = [key for key, _ in pairs]
            twice.extend(key for key in made if names.count(key) > 1)
        return made

    json.loads(line, object_pairs_hook=keys)
    return twice[0] if twice else None


def _sniff_json(text: str, first: str, start: int, whole: bool, name: str, detect: Detect) -> Sniffed:
    if first == "[":
        findings = Findings()
        try:
            rows = list(islice(array(iter([text]), findings, whole), 1000))
        except ValueError as error:
            raise ConfigError(f"{name}: the JSON array breaks off: {error}") from error
        form, words = "array", "an array of JSON objects"
    else:
        rows = _lines(text, whole, name)
        form, words = "lines", "JSON, an object a line"
    if not rows:
        raise ConfigError(f"{name}: holds no rows that can be read; expected Delta, Parquet, CSV or JSON lines")
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    try:
        detect(list(columns))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if len(rows) == 1 and all(isinstance(rows[0].get(key), dict | list) for key in columns):
        raise ConfigError(
            f"{name}: one object that holds columns, not rows; expected an object a line (pandas: to_json(orient='records', lines=True))"
        )
    clock, times = _clock(columns, rows, name)
    phrases = [words, counted(len(columns), "column"), times]
    return Sniffed(form, columns, ", ".join(part for part in phrases if part), None, start, clock)


SIGNS = {"[": "[", "item or ]": "]", "item": "", ",": ",]", "nothing": ""}
"""Where a JSON array stands, by what must follow -> the signs of the array itself that may."""
AFTER = {"[": "item or ]", ",": "item", "]": "nothing"}


def array(texts: Iterable[str], findings: Findings, whole: bool = True) -> Iterator[dict[str, Any]]:
    """Texts of one JSON array of objects -> the objects, one by one; other items are set aside. Where the text is not `whole`, what its end
    cuts is left out.

    Errors: ValueError with the position of what is no JSON, or no array.
    """
    decoder, held, at, passed, items = json.JSONDecoder(object_pairs_hook=_once), "", 0, 0, 0
    want = "["  # then an item or ], then a comma or ], then an item, at last nothing
    for text in _then_none(texts):
        passed, held, at = passed + at, held[at:] + (text or ""), 0
        while True:
            at = _SPACE.match(held, at).end()  # type: ignore[union-attr]
            if at >= len(held):
                break
            sign = held[at]
            if (sign in "[,]" and not (sign == "[" and want.startswith("item"))) or want in ("[", ","):
                if sign not in SIGNS[want]:
                    raise ValueError(f"character {passed + at}: {want!r} expected, found {held[at : at + 20]!r}")
                want = AFTER[sign]
                at += 1
                continue
            if want == "nothing":
                raise ValueError(f"character {passed + at}: the array has ended, found {held[at : at + 20]!r}")
            try:
                value, end = decoder.raw_decode(held, at)
            except RecursionError:
                raise ValueError(f"character {passed + at}: nested too deeply") from None
            except json.JSONDecodeError as error:
                if text is not None:
                    break
                if not whole:
                    return
                raise ValueError(f"character {passed + error.pos}: {error.msg}") from None
            if end >= len(held) and text is not None:
                break  # a number may go on
            at, want = end, ","
            if isinstance(value, dict):
                yield value
            else:
                findings.skip(NOT_AN_OBJECT, items, str(value))
            items += 1
    if whole and want != "nothing":
        raise ValueError("the array does not end")


_SPACE = re.compile(r"[\s\ufeff]*")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [key for key, _ in pairs]
        key = next(key for key in names if names.count(key) > 1)
        if key in ONCE:
            raise ValueError(f"key {key} stands twice in an object; give each key one value")
    return made


def _then_none(texts: Iterable[str]) -> Iterator[str | None]:
    yield from texts
    yield None
