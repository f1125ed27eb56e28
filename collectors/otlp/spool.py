"""Export bodies -> a write-ahead spool on disk: appended, checksummed, fsynced together, and only then acknowledged.

A spool is a folder of numbered segments: `NNNNNNNNNN.open` takes appends, `.seg` is sealed and waits for the drain.
A record is a 20-byte header (magic, CRC-32 of what follows it, length, received_at in microseconds, kind) and the body. Numbers only
grow: the newest segment is never removed before its successor exists, so (spool id, number) names a segment for ever.
"""

import fcntl
import os
import struct
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lastgood.collectors.otlp.admission import NOTHING, BusyError, Shares
from lastgood.errors import ConfigError, CorruptError, TransientError

_HEADER = struct.Struct("<2sHIIq")
_MAGIC = b"LG"
TRACES, LOGS, METRICS, FEEDBACK = 0, 1, 2, 3
"""Kinds of bodies: which OTLP export request a record holds, as protobuf; feedback as JSON."""


@dataclass(frozen=True)
class Record:
    """One export request as it came: `received_at` in microseconds since 1970, `body` protobuf; `sender`, who does not stand in the segment."""

    kind: int
    received_at: int
    body: bytes
    sender: str = field(default="", compare=False)


def pack(record: Record) -> bytes:
    """The record as it stands in a segment."""
    rest = struct.pack("<HIq", record.kind, len(record.body), record.received_at)
    crc = zlib.crc32(record.body, zlib.crc32(rest))
    return _HEADER.pack(_MAGIC, record.kind, crc, len(record.body), record.received_at) + record.body


def unpack(data: bytes) -> Iterator[tuple[Record, int]]:
    """(record, offset behind it) of each whole record from the start; ends at the first that is torn or damaged."""
    at = 0
    while at + _HEADER.size <= len(data):
        magic, kind, crc, length, received_at = _HEADER.unpack_from(data, at)
        end = at + _HEADER.size + length
        if magic != _MAGIC or end > len(data):
            return
        body = data[at + _HEADER.size : end]
        if zlib.crc32(body, zlib.crc32(struct.pack("<HIq", kind, length, received_at))) != crc:
            return
        yield Record(kind, received_at, body), end
        at = end


class Spool:
    """The writing side. One process at a time; `append` and `seal` are called from one thread at a time.

    Errors: ConfigError when another process holds the folder.
    """

    def __init__(self, folder: Path, segment_bytes: int, max_bytes: int) -> None:
        self.folder, self._segment_bytes = folder, segment_bytes
        self._shares = Shares(max_bytes, "spool", "bytes of the spool", retry_after_s=2.0)
        self._owners: dict[str, Counter[str]] = {}
        _make(folder)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigError(f"{folder}: another receiver writes to this spool; give each its own folder") from error
        self.repaired_bytes = self._recover()
        self._next = max((int(segment.stem) for segment in sealed(folder)), default=0) + 1
        self._left: list[Path] = []
        self._open()
        for empty in [segment for segment in sealed(folder) if segment.stat().st_size == 0]:
            empty.unlink()  # only now: the highest number must not be forgotten
        self._sealed = {segment.stem: segment.stat().st_size for segment in sealed(folder)}
        self._guard = threading.Lock()
        self._known = sum(self._sealed.values())

    def _recover(self) -> int:
        """Seal what a dead process left open, without its torn tail; how many bytes that tail had."""
        torn = 0
        for left in sorted(self.folder.glob("*.open")):
            data = left.read_bytes()
            whole = max((end for _, end in unpack(data)), default=0)
            torn += len(data) - whole
            with left.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
            left.rename(left.with_suffix(".seg"))
        _sync(self.folder)
        return torn

    def _open(self) -> None:
        """A new segment to write to. Where this fails nothing has changed, but that its number is spent."""
        path = self.folder / f"{self._next:010}.open"
        self._next += 1
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            _sync(self.folder)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._path, self._fd, self._size, self._torn = path, fd, 0, 0
        self._opened, self._broken = time.monotonic(), False

    @property
    def pending_bytes(self) -> int:
        """Bytes that are on disk here and not yet known to be in Delta. The drain takes segments in the order of their numbers."""
        with self._guard:
            for stem in list(self._sealed):
                if self._there(stem):
                    break
                del self._sealed[stem]
                self._shares.give(self._owners.pop(stem, {}))
            self._known = sum(self._sealed.values()) + self._size
            return self._known

    def _there(self, stem: str) -> bool:
        """Asked in the order in which a segment changes its name, so that one just being sealed is not missed."""
        return any((self.folder / f"{stem}{ending}").exists() for ending in (".open", ".seg"))

    def room(self, size: int, sender: str = "", coming: Mapping[str, int] = NOTHING) -> None:
        """Errors: BusyError when `size` more bytes would go over the bound, or over the sender's share of it. `coming`: sender -> bytes that were let
        in before and are not appended yet."""
        try:
            self._shares.fits(sender, size, self._known, coming)
        except BusyError:  # unless the drain took some since
            self._shares.fits(sender, size, self.pending_bytes, coming)

    def append(self, records: list[Record]) -> None:
        """All of them on disk (written and fsynced), or none: TransientError (disk full, I/O error).

        A segment whose write or fsync failed takes nothing more: the system may have dropped its pages and call them clean. What of it was
        acknowledged before is on disk, and the next records go to a new one.
        """
        data = b"".join(map(pack, records))
        if self._broken:
            self._rotate()
        try:
            written = 0
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
            os.fdatasync(self._fd)
        except OSError as error:
            self._broken = True
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                self._torn = written  # it stays on the disk until the drain has read what stands before it
            raise TransientError(f"{self.folder}: the spool could not be written: {error}", 5.0) from error
        self._size += len(data)
        self._known += len(data)
        with self._guard:
            owned = Counter[str]()
            for record in records:
                owned[record.sender] += _HEADER.size + len(record.body)
            self._owners.setdefault(self._path.stem, Counter()).update(owned)
            for sender, size in owned.items():
                self._shares.take(sender, size)
        if self._size >= self._segment_bytes:
            with suppress(TransientError):  # what was appended is on disk; the next seal tries again
                self.seal()

    def seal(self, older_than_s: float = 0.0) -> None:
        """Hand the open segment to the drain, if it holds anything and is old enough. Errors: TransientError (disk full, I/O error); the
        next call goes on where this one failed."""
        if self._broken or (self._size and time.monotonic() - self._opened >= older_than_s):
            self._rotate()
        try:
            while self._left:
                self._left[0].rename(self._left[0].with_suffix(".seg"))
                del self._left[0]
                _sync(self.folder)
        except OSError as error:
            raise TransientError(f"{self.folder}: a segment could not be handed to the drain: {error}", 5.0) from error

    def _rotate(self) -> None:
        """Write to a new segment from now on; the one before waits to be handed over, or is removed where it holds nothing."""
        path, fd, size, torn = self._path, self._fd, self._size, self._torn
        try:
            self._open()
        except OSError as error:
            raise TransientError(f"{self.folder}: no new segment could be made: {error}", 5.0) from error
        with suppress(OSError):  # every byte that counts was synced
            os.close(fd)
        if not size:
            with suppress(OSError):
                path.unlink()
            return
        with self._guard:
            self._sealed[path.stem] = size + torn
            self._known += torn
        self._left.append(path)

    def close(self) -> None:
        """Errors: TransientError where the last segment could not be handed over: the next start does it."""
        try:
            self.seal()
        finally:
            with suppress(OSError):
                os.close(self._fd)
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sync(path: Path) -> None:
    """A file's bytes, or a folder's names, are on disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make(folder: Path) -> None:
    """A folder that is there after a loss of power too: its name is in its parent, which must be synced, and so on upwards. Also where it is
    there already: the process that made it may have ended before it synced."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in folder.parents:
        with suppress(PermissionError):  # such a one we have not made
            _sync(each)


def identity(folder: Path) -> str:
    """The spool's own id, made on first use: half of the key that makes the drain exactly-once. It is on disk before anybody uses it: with
    another id after a loss of power, segments that were committed would be committed again."""
    path = folder / "id"
    if not (path.exists() and path.read_text().strip()):
        _make(folder)
        draft = folder / f"id.{os.getpid()}"
        draft.write_text(uuid.uuid4().hex)
        _sync(draft)
        draft.rename(path)
        _sync(folder)
    return path.read_text().strip()


def sealed(folder: Path) -> list[Path]:
    """Sealed segments, oldest first."""
    return sorted(folder.glob("*.seg"))


def read(segment: Path) -> list[Record]:
    """The records of a sealed segment. Errors: CorruptError where the bytes are not what was written."""
    data = segment.read_bytes()
    records, end = [], 0
    for record, behind in unpack(data):
        records.append(record)
        end = behind
    if end != len(data):
        raise CorruptError(f"{segment}: damaged at byte {end} of {len(data)}")
    return records
