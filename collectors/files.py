"""A Delta or Parquet folder, a Parquet, CSV or JSON file -> Arrow batches of the columns that are wanted, in pieces that processes can share.

No Spark. What a file's beginning says (`sniffing`) holds for all of it: a row that does not fit is set aside with its reason, never bent.
"""

import bz2
import gzip
import json
import lzma
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from lastgood.collectors import coerce, inference_tables, sniffing
from lastgood.collectors.findings import EXPECTED, NOT_AN_OBJECT, RAGGED, Findings, Place, UnfitError
from lastgood.collectors.parquet_folders import Part, parts_of
from lastgood.collectors.sniffing import SAMPLE, Detect, Sniffed
from lastgood.errors import ConfigError
from lastgood.record.words import counted

BATCH = 8_192
"""Rows of a batch: with bodies of a few kilobytes some tens of megabytes."""
PIECE = 4 * 2**20
"""Bytes of a text file that are read at once."""
MOST_SAMPLE = 64 * 2**20
"""Bytes of a text file that are looked at when its first line is long."""
UNREADABLE = "could not be read as Delta, Parquet, CSV or JSON lines"
PACKED: Mapping[bytes, tuple[str, Callable[[Path], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
}
ARCHIVES = {b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "packed by zstd", b"7z\xbc\xaf": "a 7z archive"}
BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException)
"""What a damaged file makes its reader raise."""


@dataclass(frozen=True)
class Piece:
    """A part of a table. Parquet: `groups` of `path` (with the values of partition columns). Text: `length` bytes of `path`. Else `batch`:
    rows themselves, in Arrow's bytes. `file`: which of the table's files; `first`: its first row of it, of text its first byte."""

    path: str = ""
    groups: tuple[int, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    first: int = 0
    length: int = 0
    batch: bytes = b""
    file: int = 0


@dataclass(frozen=True)
class Source:
    """A table to read. `name`: as it was asked for; `description`: what the reader took it for; `rows`: how many it has, `size`: how many
    bytes, where known; `notes`: what is not read of it, and what parts of it lack."""

    form: str
    columns: tuple[str, ...]
    description: str
    path: Path
    name: str
    rows: int | None = None
    size: int = 0
    sniffed: Sniffed | None = None
    parts: tuple[Piece, ...] = ()
    notes: tuple[str, ...] = ()

    def pieces(self, names: Sequence[str], workers: int, findings: Findings) -> Iterator[Piece]:
        """The table in pieces; many enough for `workers` wherever it can be cut."""
        try:
            if self.form in ("csv", "lines"):
                yield from _ranges(self)
            elif self.form == "array":
                yield from _array(self, names, findings)
            elif self.parts and (workers < 2 or len(self.parts) >= 2 * workers):
                yield from self.parts
            else:
                yield from self._streamed(names)
        except BROKEN as error:
            raise _damaged(self.name, error) from error

    def _streamed(self, names: Sequence[str]) -> Iterator[Piece]:
        if not self.parts:
            first = 0
            for batch in _by_engine(self.path, names):
                yield Piece(batch=_packed(batch), first=first)
                first += batch.num_rows
        for part in self.parts:
            first = part.first
            for batch in _parquet(part, names):
                yield Piece(part.path, batch=_packed(batch), first=first, file=part.file)
                first += batch.num_rows

    def read(self, piece: Piece, names: Sequence[str], findings: Findings) -> Iterator[pa.RecordBatch]:
        """Batches of a piece, of those of `names` it has; what is set aside goes to `findings`. Errors: ConfigError, UnfitError."""
        findings.begin(Place(piece.file, piece.first, 0, piece.path), not piece.length)
        try:
            for batch in self._batches(piece, names, findings):
                yield batch
                findings.passed(batch.num_rows)
        except BROKEN as error:
            raise _damaged(piece.path or self.name, error) from error

    def _batches(self, piece: Piece, names: Sequence[str], findings: Findings) -> Iterator[pa.RecordBatch]:
        if piece.batch:
            yield from pa.ipc.open_stream(piece.batch)
        elif piece.groups:
            yield from _parquet(piece, names)
        elif self.form == "csv":
            yield from _csv(self, piece, names, findings)
        else:
            yield from _lines(_bytes(piece), names, findings)

    def where(self, place: Place) -> str:
        """A row for people, with its file: of a CSV the header is row 1, of JSON lines the row is the line."""
        name = self.name
        if place.path and self.path.is_dir():
            name = f"{name}: {os.path.relpath(place.path, self.path)}"
        return f"{name}: row {self._row(place):,}"

    def _row(self, place: Place) -> int:
        if self.sniffed is None or self.form == "array":
            return place.first + place.row + 1
        before = _read(self.path, 0, place.first)
        if self.form == "lines":
            return before.count(b"\n") + place.row + 1
        start = self.sniffed.start
        return len(_records(before[start:], self.sniffed)) + place.row + 2

    def refusal(self, unfit: UnfitError) -> ConfigError:
        """The table is refused for one of its values."""
        why = unfit.why or f"{unfit.value} is a number that is no exact name; expected {EXPECTED['name']}"
        return ConfigError(f"{self.where(unfit.place)}, column {unfit.column}: {why}")


def _damaged(name: str, error: Exception) -> ConfigError:
    if isinstance(error, ConfigError):
        return error
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(f"{name}: {UNREADABLE}: {reason:.200}")


def _packed(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _read(path: Path | str, first: int, length: int) -> bytes:
    with Path(path).open("rb") as file:
        file.seek(first)
        return file.read(length)


def _bytes(piece: Piece) -> bytes:
    return _read(piece.path, piece.first, piece.length)


def whole(table: str, used: Callable[[list[str]], Sequence[str]], scratch: Path) -> pa.Table:
    """All rows of a table, of the columns that `used` picks of those there are. Errors: ConfigError, also what `used` raises."""
    source = opened(table, scratch, used)
    try:
        names = used(list(source.columns))
    except ConfigError as error:
        raise ConfigError(f"{table}: {error}") from error
    findings = Findings()
    try:
        batches = [
            batch for piece in source.pieces(names, 1, findings) for batch in source.read(piece, names, findings)
        ]
    except UnfitError as unfit:
        raise source.refusal(unfit) from unfit
    for reason, cases in findings.aside.items():
        raise ConfigError(f"{source.where(cases.place)}: {cases.number} x {reason}: {cases.value!r}")
    tables = [pa.table([coerce.plain(column) for column in batch.columns], batch.schema.names) for batch in batches]
    try:
        together = (
            pa.concat_tables(tables, promote_options="permissive")
            if tables
            else pa.table({n: pa.nulls(0) for n in names})
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column that has several kinds of values: as text
        together = pa.concat_tables([_texts(each) for each in tables], promote_options="permissive")
    lost = [name for name in names if name not in together.column_names]
    for name in lost:
        together = together.append_column(name, pa.nulls(together.num_rows))
    return together.select(list(names))


def _texts(table: pa.Table) -> pa.Table:
    columns = [coerce.text(coerce.plain(table[name].combine_chunks())) for name in table.column_names]
    return pa.table(columns, table.column_names)


def opened(table: str, scratch: Path, detect: Detect = inference_tables.detect) -> Source:
    """What a path holds. `scratch`: a folder for what must be unpacked first. `detect`: raises ConfigError for columns that are not those of a
    table that is wanted. Errors: ConfigError, one clear sentence."""
    path = Path(table)
    try:
        if not table.strip() or table == "-" or path.is_fifo():
            raise ConfigError(
                f"{table or 'the name is empty'}: a file or folder is expected; write what a pipe gives into a file"
            )
        if (path / "_delta_log").is_dir():
            return _delta(path, table)
        if path.is_dir():
            return _parquet_files(path, table, *parts_of(path, detect))
        if path.is_file():
            if not _is_parquet(path):
                return _text(path, scratch, detect)
            return _parquet_files(path, table, [Part(path, {})], ())
    except ConfigError:
        raise
    except BROKEN as error:
        raise _damaged(table, error) from error
    except Exception as error:
        if type(error).__module__ not in ("_internal", "deltalake.exceptions"):
            raise
        raise _damaged(table, error) from error
    raise ConfigError(f"{table}: no such file, folder or table; expected Delta, Parquet, CSV or JSON lines")


def _parquet_files(path: Path, table: str, files: Sequence[Part], notes: Sequence[str]) -> Source:
    parts: list[Piece] = []
    columns, rows = dict[str, None](), 0
    for number, part in enumerate(files):
        parts += _groups(part.path, part.constants, number)
        with pq.ParquetFile(part.path) as opened_file:
            columns |= dict.fromkeys((*opened_file.schema_arrow.names, *part.constants))
            rows += opened_file.metadata.num_rows
    size = sum(part.path.stat().st_size for part in files)
    words = f"Parquet, {counted(len(columns), 'column')}"
    return Source("parquet", tuple(columns), words, path, table, rows, size, None, tuple(parts), tuple(notes))


def _groups(path: Path, constants: Mapping[str, Any], number: int) -> Iterator[Piece]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if doubled := sorted({name for name in names if names.count(name) > 1}):
                raise ConfigError(f"{path}: column {doubled[0]} stands there twice; give each column one name")
            first = 0
            for i in range(file.num_row_groups):
                yield Piece(str(path), (i,), constants, first, file=number)
                first += file.metadata.row_group(i).num_rows
    except BROKEN as error:
        raise _damaged(str(path), error) from error


def _delta(path: Path, name: str) -> Source:
    """Files of a Delta table; None of them where reading them takes more than Parquet (deletion vectors, column mapping)."""
    from deltalake import DeltaTable

    table = DeltaTable(str(path))
    columns = tuple(each.name for each in table.schema().fields)
    words = f"Delta, version {table.version()}, {counted(len(columns), 'column')}"
    files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    size = sum(file["size_bytes"] or 0 for file in files)
    counts = [file.get("num_records") for file in files]
    rows = None if None in counts else sum(counts)
    mapped = table.metadata().configuration.get("delta.columnMapping.mode") or "none"
    if set(table.protocol().reader_features or ()) - {"timestampNtz"} or mapped != "none":
        return Source("delta", columns, words, path, name, rows, size)
    parts: list[Piece] = []
    for number, file in enumerate(files):
        constants = {
            key.removeprefix("partition."): value for key, value in file.items() if key.startswith("partition.")
        }
        where = unquote(file["path"])  # the log writes paths as URIs
        parts += _groups(
            Path(where.removeprefix("file:")) if where.startswith("file:") else path / where, constants, number
        )
    return Source("delta", columns, words, path, name, rows, size, None, tuple(parts))


def _by_engine(path: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """A Delta table's rows by delta-rs' own engine."""
    from deltalake import DeltaTable, QueryBuilder

    table = DeltaTable(str(path))
    have = [each.name for each in table.schema().fields if each.name in names]
    listed = ", ".join(f'"{name}"' for name in have)
    reader = pa.RecordBatchReader.from_stream(QueryBuilder().register("t", table).execute(f"SELECT {listed} FROM t"))
    yield from reader


def _parquet(piece: Piece, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(piece.path) as file:
        have = [name for name in file.schema_arrow.names if name in names]
        first = piece.first
        for batch in file.iter_batches(BATCH, row_groups=list(piece.groups), columns=have, use_threads=False):
            for name, value in piece.constants.items():
                if name in names and name not in have:
                    batch = batch.append_column(name, pa.array([value] * batch.num_rows))
                elif name in names:
                    _agree(piece.path, name, value, batch[name], first)
            yield _valid(batch)
            first += batch.num_rows


def _valid(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Parquet's texts may be no UTF-8, and its reader does not look: such a column goes on as bytes. Errors: ArrowInvalid for one inside another."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        columns = [column.cast(pa.binary()) if pa.types.is_string(column.type) else column for column in batch.columns]
        batch = pa.RecordBatch.from_arrays(columns, batch.schema.names)
        batch.validate(full=True)
    return batch


def _agree(path: str, name: str, value: Any, column: pa.Array, first: int) -> None:
    """Errors: ConfigError where a folder's name gives a column another value than the file."""
    for i, word in enumerate(coerce.name(coerce.known(coerce.plain(column))).to_pylist(), first + 1):
        if word != coerce.name_of(value):
            raise ConfigError(
                f"{path}: row {i}: {name} is {word!r}, and {value!r} in the folder's name; keep it in one of them"
            )


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix.lower() in (".parquet", ".pq") or file.read(4) == b"PAR1"


def _text(path: Path, scratch: Path, detect: Detect) -> Source:
    name, forms = str(path), {"csv": "CSV", "lines": "JSON lines", "array": "JSON"}
    head, packed = _read(path, 0, 6), ""
    for magic, (kind, opener) in PACKED.items():
        if head.startswith(magic):
            packed, inner = f", {kind}", scratch / "unpacked"
            with opener(path) as source, inner.open("wb") as out:
                shutil.copyfileobj(source, out, 2**20)
            path = inner
    if archive := next((kind for magic, kind in ARCHIVES.items() if head.startswith(magic)), None):
        raise ConfigError(f"{name}: is {archive}; unpack it first")
    size, length = path.stat().st_size, SAMPLE
    sample = _read(path, 0, length)
    while b"\n" not in sample and length < min(size, MOST_SAMPLE):
        length *= 4
        sample = _read(path, 0, length)
    sniffed = sniffing.sniff(sample, size <= length, name, detect)
    description = f"{forms[sniffed.form]}{packed}: {sniffed.description}"
    return Source(sniffed.form, sniffed.columns, description, path, name, None, size, sniffed)


def _ranges(source: Source) -> Iterator[Piece]:
    """Ranges of bytes that end where a record ends: in CSV a line break outside quotes."""
    sniffed = source.sniffed
    assert sniffed is not None
    first, size = sniffed.start, source.size
    while first < size:
        block = _read(source.path, first, PIECE)
        length = len(block)
        while first + length < size:
            cut = _cut(block, sniffed)
            if cut:
                length = cut
                break
            block += _read(source.path, first + length, PIECE)
            length = len(block)
        yield Piece(str(source.path), first=first, length=length)
        first += length


def _cut(block: bytes, sniffed: Sniffed) -> int:
    """After the last record that is whole; 0 where none is."""
    if sniffed.dialect is None:
        return block.rfind(b"\n") + 1
    end = sniffed.dialect.end
    if sniffed.dialect.escape == "\\":
        plain = block.replace(b"\\\\", b"xx").replace(b'\\"', b"xx")
    elif _stray(block, sniffed.dialect.delimiter.encode()):
        return _cut_by_field(block, sniffed.dialect.delimiter.encode(), end)
    else:
        plain = block
    last, odd = len(plain), plain.count(b'"') % 2
    while (at := plain.rfind(end, 0, last)) >= 0:
        odd ^= plain.count(b'"', at, last) % 2
        if not odd:
            return at + 1
        last = at
    return 0


def _stray(block: bytes, delimiter: bytes) -> bool:
    """Whether a quote stands within a field that is not quoted: then the number of quotes does not tell what is inside of them."""
    data = np.frombuffer(block, np.uint8)
    at = np.flatnonzero(data == ord('"'))
    edges = np.isin(data[np.maximum(at[::2] - 1, 0)], np.frombuffer(delimiter + b'\r\n"', np.uint8)) | (at[::2] == 0)
    return not bool(edges.all())


def _cut_by_field(block: bytes, delimiter: bytes, end: bytes) -> int:
    """The same, field by field: quotes count where a field begins."""
    fields = re.compile(rb'(?:"(?:[^"]|"")*("|$))?[^%b%b]*' % (re.escape(delimiter), re.escape(end)))
    at = last = 0
    while at < len(block) and (match := fields.match(block, at)):
        at = match.end() + 1
        if at <= len(block) and block[at - 1 : at] == end:
            last = at
    return last


def _records(text: bytes, sniffed: Sniffed) -> list[list[str]]:
    assert sniffed.dialect is not None
    return sniffing.records(text.decode(errors="replace"), sniffed.dialect)


def _csv(source: Source, piece: Piece, names: Sequence[str], findings: Findings) -> Iterator[pa.RecordBatch]:
    """All columns as texts. Only an unquoted field can be null."""
    sniffed, text = source.sniffed, _bytes(piece)
    assert sniffed is not None
    assert sniffed.dialect is not None
    escaped = sniffed.dialect.escape == "\\"

    def aside(row: Any) -> str:
        findings.skip(RAGGED, row.number - 1, row.text or "")
        return "skip"

    parse = pc.ParseOptions(
        delimiter=sniffed.dialect.delimiter, double_quote=not escaped, escape_char="\\" if escaped else False,
        newlines_in_values=True, invalid_row_handler=aside,
    )  # fmt: skip
    convert = pc.ConvertOptions(
        column_types={name: pa.string() for name in sniffed.columns}, strings_can_be_null=True, quoted_strings_can_be_null=False,
        null_values=["", "NULL", "null", "\\N", "NaN", "nan", "None"], include_columns=[n for n in sniffed.columns if n in names],
        check_utf8=True,
    )  # fmt: skip
    read = pc.ReadOptions(use_threads=False, block_size=max(len(text), 1), column_names=list(sniffed.columns))
    try:
        table = pc.read_csv(pa.py_buffer(text), read, parse, convert)
    except pa.ArrowInvalid as error:
        raise _broken_text(source, piece, text, error) from error
    yield from table.to_batches(BATCH)


def _broken_text(source: Source, piece: Piece, text: bytes, error: Exception) -> ConfigError:
    """A piece of a CSV that cannot be read: where a byte is no UTF-8, its row and column."""
    try:
        text.decode()
    except UnicodeDecodeError as odd:
        sniffed = source.sniffed
        assert sniffed is not None
        records = _records(text[: odd.start], sniffed)
        row = max(0, len(records) - 1)
        column = sniffed.columns[min(len(records[-1]), len(sniffed.columns)) - 1] if records else sniffed.columns[0]
        where = source.where(Place(piece.file, piece.first, row, piece.path))
        return ConfigError(
            f"{where}, column {column}: {text[odd.start : odd.start + 10]!r} is not UTF-8; write the file as UTF-8"
        )
    return _damaged(source.name, error)


def _lines(text: bytes, names: Sequence[str], findings: Findings) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    lines: list[bytes] = []
    most = text.count(b"\n") + 1
    once = [name for name in sniffing.ONCE if name in names and text.count(b'"%b"' % name.encode()) > most]
    for number, line in enumerate(text.split(b"\n")):
        row = sniffing.loads(line) if line.strip() else None
        if type(row) is dict:
            if once and (key := sniffing.doubled(line, row)):
                findings.refuse_row(key, number)
            rows.append(row)
            lines.append(line)
        else:
            findings.skip(NOT_AN_OBJECT if line.strip() else "", number, line[:200].decode(errors="replace"))
        if len(rows) >= BATCH:
            yield batch_of(rows, names, findings, lines)
            rows, lines = [], []
    if rows:
        yield batch_of(rows, names, findings, lines)


def batch_of(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], findings: Findings, lines: Sequence[bytes] = ()
) -> pa.RecordBatch:
    """JSON objects as columns; a column whose values are of several kinds as texts. `lines`: the objects as they were written: of a long
    number they have all digits. Errors: UnfitError for a name that is a number with a fraction."""
    held = {name: [row.get(name) for row in rows] for name in names}
    for name in inference_tables.EXACT:
        if any(type(value) is float for value in held.get(name, ())):
            held[name] = _exact(name, held[name], findings, lines)
    columns = {name: column(values) for name, values in held.items() if any(value is not None for value in values)}
    if not columns:
        columns = {names[0]: pa.nulls(len(rows))}
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _exact(name: str, values: Sequence[Any], findings: Findings, lines: Sequence[bytes]) -> list[Any]:
    exact = list(values)
    for i, value in enumerate(values):
        if type(value) is float and coerce.name_of(value) is None and not math.isnan(value):
            whole_number = json.loads(lines[i]).get(name) if lines else value
            if type(whole_number) is not int:
                findings.refuse(name, i, value)
            exact[i] = str(whole_number)
        elif type(value) is float:
            exact[i] = coerce.name_of(value)
    return exact


def column(values: Sequence[Any]) -> pa.Array:
    """JSON values as a column: objects and arrays, and values of several kinds, as JSON text; NaN among other kinds is null."""
    if not any(isinstance(value, dict | list) for value in values):
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
            pass
    return pa.array([_written(value) for value in values], pa.string())


def _written(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, bool | int | float):
        return coerce.name_of(value) or repr(value)
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # long numbers, lone surrogates
        return json.dumps(value)


def _array(source: Source, names: Sequence[str], findings: Findings) -> Iterator[Piece]:
    with source.path.open(encoding="utf-8-sig") as file:
        objects = sniffing.array(iter(lambda: file.read(SAMPLE), ""), findings)
        first = 0
        while True:
            try:
                rows = list(islice(objects, BATCH))
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{source.name}: {error.object[error.start : error.start + 10]!r} is not UTF-8; write the file as UTF-8"
                ) from error
            except ValueError as error:
                raise ConfigError(f"{source.name}: the JSON array breaks off: {error}") from error
            if not rows:
                return
            findings.begin(Place(0, first, 0), counted=True)
            yield Piece(batch=_packed(batch_of(rows, names, findings)), first=first)
            first += len(rows)


__all__ = ["Piece", "Source", "opened"]
