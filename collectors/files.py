"""A Delta or Parquet folder, a Parquet, CSV or JSON file -> Arrow batches of the columns that are wanted, in pieces that processes can share.

No Spark. What a file's beginning says (`sniffing`) holds for all of it: a row that does not fit is set aside with its reason, never bent.
"""

import gzip
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from lastgood.collectors import coerce, inference_tables, sniffing
from lastgood.collectors.sniffing import SAMPLE, Detect, Sniffed
from lastgood.errors import ConfigError

BATCH = 8_192
"""Rows of a batch: with bodies of a few kilobytes some tens of megabytes."""
PIECE = 4 * 2**20
"""Bytes of a text file that are read at once."""
NOT_AN_OBJECT = "line is not a JSON object"
RAGGED = "row has another number of fields than the header"


@dataclass(frozen=True)
class Piece:
    """A part of a table. Parquet: `groups` of `path` (with the values of partition columns). Text: `length` bytes of `path` from `first`.
    Else `batch`: rows themselves, in Arrow's bytes."""

    path: str = ""
    groups: tuple[int, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    first: int = 0
    length: int = 0
    batch: bytes = b""


@dataclass(frozen=True)
class Source:
    """A table to read. `description`: what the reader took it for; `rows`: how many it has, `size`: how many bytes, where known."""

    form: str
    columns: tuple[str, ...]
    description: str
    path: Path
    rows: int | None = None
    size: int = 0
    sniffed: Sniffed | None = None
    parts: tuple[Piece, ...] = ()

    def pieces(self, names: Sequence[str], workers: int) -> Iterator[Piece]:
        """The table in pieces; many enough for `workers` wherever it can be cut."""
        if self.form in ("csv", "lines"):
            yield from _ranges(self)
        elif self.form == "array":
            yield from _array(self, names)
        elif self.parts and (workers < 2 or len(self.parts) >= 2 * workers):
            yield from self.parts
        else:
            for batch in self._streamed(names):
                yield Piece(batch=_packed(batch))

    def _streamed(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        if self.parts:
            for part in self.parts:
                yield from _parquet(part, names)
        else:
            yield from _by_engine(self.path, names)

    def read(self, piece: Piece, names: Sequence[str], reasons: dict[str, int]) -> Iterator[pa.RecordBatch]:
        """Batches of a piece, of those of `names` it has; what is set aside is added to `reasons`."""
        for batch in self._batches(piece, names, reasons):
            yield pa.RecordBatch.from_arrays([_plain(column) for column in batch.columns], batch.schema.names)

    def _batches(self, piece: Piece, names: Sequence[str], reasons: dict[str, int]) -> Iterator[pa.RecordBatch]:
        if piece.batch:
            yield from pa.ipc.open_stream(piece.batch)
        elif piece.groups:
            yield from _parquet(piece, names)
        elif self.form == "csv":
            yield from _csv(self, _bytes(piece), names, reasons)
        else:
            yield from _lines(_bytes(piece), names, reasons)


def _packed(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _bytes(piece: Piece) -> bytes:
    with Path(piece.path).open("rb") as file:
        file.seek(piece.first)
        return file.read(piece.length)


def whole(table: str, used: Callable[[list[str]], Sequence[str]], scratch: Path) -> pa.Table:
    """All rows of a table, of the columns that `used` picks of those there are. Errors: ConfigError, also what `used` raises."""
    source = opened(table, scratch, used)
    try:
        names = used(list(source.columns))
    except ConfigError as error:
        raise ConfigError(f"{table}: {error}") from error
    reasons: dict[str, int] = {}
    batches = [batch for piece in source.pieces(names, 1) for batch in source.read(piece, names, reasons)]
    if reasons:
        reason, number = next(iter(reasons.items()))
        raise ConfigError(f"{table}: {number} x {reason}")
    tables = [pa.Table.from_batches([batch]) for batch in batches]
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
    columns = [coerce.text(table[name].combine_chunks()) for name in table.column_names]
    return pa.table(columns, table.column_names)


def opened(table: str, scratch: Path, detect: Detect = inference_tables.detect) -> Source:
    """What a path holds. `scratch`: a folder for what must be unpacked first. `detect`: raises ConfigError for columns that are not those of a
    table that is wanted. Errors: ConfigError, one clear sentence."""
    path = Path(table)
    try:
        if (path / "_delta_log").is_dir():
            return _delta(path)
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _parquet_files(path, [path]) if _is_parquet(path) else _text(path, scratch, detect)
    except ConfigError:
        raise
    except (OSError, pa.ArrowException, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{table}: could not be read as Delta, Parquet, CSV or JSON lines: {reason:.200}") from error
    raise ConfigError(f"{table}: no such file, folder or table; expected Delta, Parquet, CSV or JSON lines")


def _folder(path: Path) -> Source:
    files = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith(("_", ".")))
    if not files:
        raise ConfigError(f"{path}: holds no rows that can be read; expected Delta, Parquet, CSV or JSON lines")
    return _parquet_files(path, files)


def _parquet_files(path: Path, files: Sequence[Path]) -> Source:
    parts: list[Piece] = []
    columns, rows = dict[str, None](), 0
    for file in files:
        folders = file.relative_to(path).parts[:-1] if file != path else ()
        constants = dict(part.split("=", 1) for part in folders if "=" in part)
        parts += _groups(file, constants)
        with pq.ParquetFile(file) as opened_file:
            columns |= dict.fromkeys((*opened_file.schema_arrow.names, *constants))
            rows += opened_file.metadata.num_rows
    if not columns:
        raise ConfigError(f"{path}: holds no rows that can be read; expected Delta, Parquet, CSV or JSON lines")
    size = sum(file.stat().st_size for file in files)
    return Source("parquet", tuple(columns), f"Parquet, {len(columns)} columns", path, rows, size, None, tuple(parts))


def _groups(file: Path, constants: Mapping[str, Any]) -> Iterator[Piece]:
    with pq.ParquetFile(file) as opened_file:
        for i in range(opened_file.num_row_groups):
            yield Piece(str(file), (i,), constants)


def _delta(path: Path) -> Source:
    """Files of a Delta table; None of them where reading them takes more than Parquet (deletion vectors, column mapping)."""
    from deltalake import DeltaTable

    table = DeltaTable(str(path))
    columns = tuple(each.name for each in table.schema().fields)
    words = f"Delta, version {table.version()}, {len(columns)} columns"
    files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    size = sum(file["size_bytes"] or 0 for file in files)
    counts = [file.get("num_records") for file in files]
    rows = None if None in counts else sum(counts)
    if set(table.protocol().reader_features or ()) - {"timestampNtz"}:
        return Source("delta", columns, words, path, rows, size)
    parts: list[Piece] = []
    for file in files:
        constants = {
            key.removeprefix("partition."): value for key, value in file.items() if key.startswith("partition.")
        }
        parts += _groups(path / file["path"], constants)
    return Source("delta", columns, words, path, rows, size, None, tuple(parts))


def _by_engine(path: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """A Delta table's rows by delta-rs' own engine."""
    from deltalake import DeltaTable, QueryBuilder

    table = DeltaTable(str(path))
    have = [each.name for each in table.schema().fields if each.name in names]
    listed = ", ".join(f'"{name}"' for name in have)
    reader = pa.RecordBatchReader.from_stream(QueryBuilder().register("t", table).execute(f"SELECT {listed} FROM t"))
    yield from reader


def _plain(column: pa.Array) -> pa.Array:
    """Text views, which few kernels know, as texts."""
    return column.cast(pa.string()) if column.type == pa.string_view() else column


def _parquet(piece: Piece, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(piece.path) as file:
        have = [name for name in file.schema_arrow.names if name in names]
        for batch in file.iter_batches(BATCH, row_groups=list(piece.groups), columns=have, use_threads=False):
            for name, value in piece.constants.items():
                if name in names and name not in have:
                    batch = batch.append_column(name, pa.array([value] * batch.num_rows))
            yield batch


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix in (".parquet", ".pq") or file.read(4) == b"PAR1"


def _text(path: Path, scratch: Path, detect: Detect) -> Source:
    packed = path
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            path = scratch / "unpacked"
            with gzip.open(packed) as whole, path.open("wb") as out:
                shutil.copyfileobj(whole, out, 2**20)
    size = path.stat().st_size
    with path.open("rb") as file:
        sniffed = sniffing.sniff(file.read(SAMPLE), size <= SAMPLE, str(packed), detect)
    names = {"csv": "CSV", "lines": "JSON lines", "array": "JSON"}
    words = f"{names[sniffed.form]}{', gzip' if path != packed else ''}: {sniffed.description}"
    return Source(sniffed.form, sniffed.columns, words, path, None, size, sniffed)


def _ranges(source: Source) -> Iterator[Piece]:
    """Ranges of bytes that end where a record ends: in CSV a line break outside quotes."""
    sniffed = source.sniffed
    assert sniffed is not None
    first, size = sniffed.start, source.size
    with source.path.open("rb") as file:
        while first < size:
            file.seek(first)
            block = file.read(PIECE)
            length = len(block)
            while first + length < size:
                cut = _cut(block, sniffed)
                if cut:
                    length = cut
                    break
                more = file.read(PIECE)
                block += more
                length = len(block)
            yield Piece(str(source.path), first=first, length=length)
            first += length


def _cut(block: bytes, sniffed: Sniffed) -> int:
    """After the last record that is whole; 0 where none is."""
    if sniffed.dialect is None:
        return block.rfind(b"\n") + 1
    escaped = sniffed.dialect.escape == "\\"

    def quotes(text: bytes) -> int:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"") if escaped else text
        return text.count(b'"')

    end, odd = len(block), quotes(block) % 2
    while (at := block.rfind(b"\n", 0, end)) >= 0:
        odd ^= quotes(block[at:end]) % 2
        if not odd:
            return at + 1
        end = at
    return 0


def _csv(source: Source, text: bytes, names: Sequence[str], reasons: dict[str, int]) -> Iterator[pa.RecordBatch]:
    """All columns as texts. Only an unquoted field can be null."""
    sniffed = source.sniffed
    assert sniffed is not None
    assert sniffed.dialect is not None
    escaped = sniffed.dialect.escape == "\\"

    def aside(_: Any) -> str:
        reasons[RAGGED] = reasons.get(RAGGED, 0) + 1
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
        raise ConfigError(f"{source.path}: {str(error).splitlines()[0]:.200}") from error
    yield from table.to_batches(BATCH)


def _lines(text: bytes, names: Sequence[str], reasons: dict[str, int]) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        row = sniffing.loads(line)
        if isinstance(row, dict):
            rows.append(row)
        else:
            reasons[NOT_AN_OBJECT] = reasons.get(NOT_AN_OBJECT, 0) + 1
        if len(rows) >= BATCH:
            yield batch_of(rows, names)
            rows = []
    if rows:
        yield batch_of(rows, names)


def batch_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pa.RecordBatch:
    """JSON objects as columns; a column whose values are of several kinds as texts."""
    held = {name: [row.get(name) for row in rows] for name in names}
    columns = {name: column(values) for name, values in held.items() if any(value is not None for value in values)}
    if not columns:
        columns = {names[0]: pa.nulls(len(rows))}
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def column(values: Sequence[Any]) -> pa.Array:
    """JSON values as a column: objects and arrays, and values of several kinds, as JSON text."""
    if not any(isinstance(value, dict | list) for value in values):
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass
    texts = [value if value is None or isinstance(value, str) else orjson.dumps(value).decode() for value in values]
    return pa.array(texts, pa.string())


def _array(source: Source, names: Sequence[str]) -> Iterator[Piece]:
    with source.path.open(encoding="utf-8-sig") as file:
        objects = sniffing.array(iter(lambda: file.read(SAMPLE), ""))
        while True:
            try:
                rows = list(islice(objects, BATCH))
            except ValueError as error:
                raise ConfigError(f"{source.path}: the JSON array breaks off: {error}") from error
            if not rows:
                return
            yield Piece(batch=_packed(batch_of(rows, names)))


__all__ = ["Piece", "Source", "opened"]
