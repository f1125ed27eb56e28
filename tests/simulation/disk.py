"""A disk under a page cache: what is not synced is lost with the power, or kept in part.

A file's bytes are durable once the file was synced; a name is durable once its folder was. With the power go, of the bytes written since, a
random set of sectors, and of the folder's changes a random tail. After a failed fsync the pages it was for count as clean: a later one does
not write them (as Linux does). A kill of the process takes nothing: the page cache stays.
"""

import errno
import os
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from simulation.chance import Chance, Killed

SECTOR = 512


@dataclass
class Inode:
    """`cached`: what a read gives; `durable`: what the disk holds; `dirty`: first byte written since the last sync; `dropped`: bytes that a
    failed sync has lost."""

    cached: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    dirty: int | None = None
    dropped: list[tuple[int, int]] = field(default_factory=list)
    folder: bool = False


class Disk:
    """Folders and files by path. `ops` since the last sync of a folder are kept in order."""

    def __init__(self, chance: Chance, limit: int = 1 << 30) -> None:
        self.chance, self.limit = chance, limit
        self.names: dict[str, Inode] = {"/": Inode(folder=True)}
        self._durable: dict[str, Inode] = dict(self.names)
        self._pending: dict[str, list[tuple[str, Inode | None]]] = {}
        self._open: dict[int, Inode] = {}
        self._paths: dict[int, str] = {}
        self._next = 3
        self.held: dict[str, object] = {}

    # faults

    def _may_fail(self, *numbers: int) -> None:
        self.chance.steps += 1
        if self.chance.pick("kill", 0.1):
            raise Killed
        for number in numbers:
            if self.chance.pick({errno.EIO: "EIO", errno.ENOSPC: "ENOSPC"}[number]):
                raise OSError(number, "injected")

    def power_loss(self) -> None:
        """The machine stops and starts again: what was not synced is gone, in part or whole."""
        r = self.chance.random
        for folder, ops in sorted(self._pending.items()):
            for path, inode in ops[: r.randint(0, len(ops))]:
                self._apply(self._durable, path, inode)
            del folder
        self._pending.clear()
        for inode in {id(each): each for each in (*self.names.values(), *self._durable.values())}.values():
            if not inode.folder:
                inode.cached = bytearray(self._survives(inode))
                inode.durable, inode.dirty, inode.dropped = bytes(inode.cached), None, []
        alive = dict(self._durable)
        self.names = {path: inode for path, inode in alive.items() if path == "/" or self._parent(path) in alive}
        self._durable = dict(self.names)
        self._open.clear()
        self.held.clear()

    def _survives(self, inode: Inode) -> bytes:
        """Durable bytes, and of what was written since any sectors. Zeros stand where a length was written and its bytes were not."""
        if inode.dirty is None:
            return inode.durable
        r = self.chance.random
        length = r.randint(min(len(inode.durable), len(inode.cached)), max(len(inode.durable), len(inode.cached)))
        kept = bytearray(inode.durable[:length].ljust(length, b"\0"))
        for start in range(0, length, SECTOR):
            if r.random() < 0.5:
                kept[start : start + SECTOR] = bytes(inode.cached[start : start + SECTOR]).ljust(
                    min(SECTOR, length - start), b"\0"
                )
        return bytes(kept)

    # names

    @staticmethod
    def _parent(path: str) -> str:
        return str(PurePosixPath(path).parent)

    @staticmethod
    def _apply(names: dict[str, Inode], path: str, inode: Inode | None) -> None:
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode

    def say(self, what: str) -> None:
        self.chance.say(f"disk: {what}")

    def change(self, *ops: tuple[str, Inode | None]) -> None:
        """Names that come or go, together."""
        for path, inode in ops:
            self._apply(self.names, path, inode)
            self._pending.setdefault(self._parent(path), []).append((path, inode))

    def at(self, path: str) -> Inode:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self.names[path]

    def sync_names(self, folder: str) -> None:
        for path, inode in self._pending.pop(folder, []):
            self._apply(self._durable, path, inode)

    # the calls of `os` that the spool makes

    def open(self, path: "SimPath | str", flags: int, mode: int = 0o600) -> int:
        name = str(path)
        if flags & os.O_CREAT:
            self._may_fail(errno.EIO, errno.ENOSPC)
            if flags & os.O_EXCL and name in self.names:
                raise FileExistsError(errno.EEXIST, "exists", name)
            self.at(self._parent(name))
            if name not in self.names:
                self.change((name, Inode()))
                self.say(f"{name} made")
        fd, self._next = self._next, self._next + 1
        self._open[fd], self._paths[fd] = self.at(name), name
        return fd

    def close(self, fd: int) -> None:
        if self._open.pop(fd, None) is None:
            raise OSError(errno.EBADF, "not open")

    def write(self, fd: int, data: Any) -> int:
        self._may_fail(errno.EIO)
        inode, given = self._file(fd), bytes(data)
        room = self.limit - sum(len(each.cached) for each in self.names.values())
        if room <= 0 or self.chance.pick("ENOSPC"):
            raise OSError(errno.ENOSPC, "injected")
        part = given[: min(room, self.chance.random.randint(1, len(given)))]
        inode.dirty = len(inode.cached) if inode.dirty is None else min(inode.dirty, len(inode.cached))
        inode.cached += part
        return len(part)

    def _file(self, fd: int) -> Inode:
        if fd not in self._open:
            raise OSError(errno.EBADF, "not open")
        return self._open[fd]

    def ftruncate(self, fd: int, size: int) -> None:
        self._may_fail(errno.EIO)
        self.truncate(self._file(fd), size)

    @staticmethod
    def truncate(inode: Inode, size: int) -> None:
        del inode.cached[size:]
        inode.dirty = size if inode.dirty is None else min(inode.dirty, size)
        inode.dropped = [(a, min(z, size)) for a, z in inode.dropped if a < size]

    def fdatasync(self, fd: int) -> None:
        inode = self._file(fd)
        if inode.folder:
            self._may_fail(errno.EIO)
            self.sync_names(self._paths[fd])
            return
        try:
            self._may_fail(errno.EIO)
        except OSError:
            if inode.dirty is not None:
                inode.dropped.append((inode.dirty, len(inode.cached)))
            inode.dirty = None
            raise
        written = bytearray(inode.cached)
        for start, end in inode.dropped:
            written[start:end] = bytes(max(0, min(end, len(written)) - start))
        inode.durable, inode.dirty = bytes(written), None

    fsync = fdatasync

    def getpid(self) -> int:
        return 1

    def as_os(self) -> Any:
        """`os` as the spool sees it."""
        names = ("open", "close", "write", "ftruncate", "fdatasync", "fsync", "getpid")
        flags = {name: getattr(os, name) for name in ("O_CREAT", "O_EXCL", "O_WRONLY", "O_RDONLY")}
        return types.SimpleNamespace(**{name: getattr(self, name) for name in names}, **flags)

    def as_fcntl(self) -> Any:
        """`fcntl` as the spool sees it: one holder a file until the process ends."""

        def flock(file: "SimFile", _: int) -> None:
            if file.path in self.held:
                raise OSError(errno.EWOULDBLOCK, "held")
            self.held[file.path] = file

        return types.SimpleNamespace(flock=flock, LOCK_EX=2, LOCK_NB=4)


class SimFile:
    """An opened file, as far as the spool uses one."""

    def __init__(self, disk: Disk, path: str, mode: str) -> None:
        self.disk, self.path = disk, path
        if mode == "w" and path not in disk.names:
            disk.change((path, Inode()))
        self._fd = disk.open(path, os.O_RDONLY)

    def fileno(self) -> int:
        return self._fd

    def truncate(self, size: int) -> None:
        self.disk.ftruncate(self._fd, size)

    def close(self) -> None:
        self.disk._open.pop(self._fd, None)
        if self.disk.held.get(self.path) is self:
            del self.disk.held[self.path]

    def __enter__(self) -> "SimFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SimPath:
    """`pathlib.Path` on such a disk, as far as spool and drain use one."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.disk, self._path = disk, PurePosixPath(path)

    def __str__(self) -> str:
        return str(self._path)

    def __fspath__(self) -> str:
        return str(self._path)

    def __truediv__(self, name: str) -> "SimPath":
        return SimPath(self.disk, str(self._path / name))

    def __lt__(self, other: "SimPath") -> bool:
        return self._path < other._path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimPath) and other._path == self._path

    def __hash__(self) -> int:
        return hash(self._path)

    @property
    def stem(self) -> str:
        return self._path.stem

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def parent(self) -> "SimPath":
        return SimPath(self.disk, str(self._path.parent))

    def with_suffix(self, suffix: str) -> "SimPath":
        return SimPath(self.disk, str(self._path.with_suffix(suffix)))

    def exists(self) -> bool:
        return str(self) in self.disk.names

    @property
    def parents(self) -> list["SimPath"]:
        return [SimPath(self.disk, str(each)) for each in self._path.parents]

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        del parents, exist_ok
        for each in [*reversed(self._path.parents), self._path]:
            if str(each) not in self.disk.names:
                self.disk.change((str(each), Inode(folder=True)))

    def glob(self, pattern: str) -> Iterator["SimPath"]:
        ending = pattern.removeprefix("*")
        listed = [path for path in self.disk.names if path.endswith(ending) and self.disk._parent(path) == str(self)]
        return iter([SimPath(self.disk, path) for path in listed])

    def stat(self) -> Any:
        return types.SimpleNamespace(st_size=len(self.disk.at(str(self)).cached))

    def read_bytes(self) -> bytes:
        return bytes(self.disk.at(str(self)).cached)

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_text(self, text: str) -> None:
        if str(self) not in self.disk.names:
            self.disk.change((str(self), Inode()))
        inode = self.disk.at(str(self))
        inode.cached, inode.dirty, inode.dropped = bytearray(text.encode()), 0, []

    def open(self, mode: str) -> Any:
        return SimFile(self.disk, str(self), mode)

    def rename(self, target: "SimPath") -> "SimPath":
        self.disk._may_fail(errno.EIO)
        inode = self.disk.at(str(self))
        self.disk.say(f"{self.name} -> {target.name}")
        self.disk.change((str(target), inode), (str(self), None))
        return target

    def unlink(self, missing_ok: bool = False) -> None:
        if not (missing_ok and not self.exists()):
            self.disk._may_fail(errno.EIO)
            self.disk.at(str(self))
            self.disk.say(f"{self.name} removed")
            self.disk.change((str(self), None))
