"""Senders, a network, the receiver's spool on a disk, its drain, an object store: every acknowledged export is stored exactly once."""

import itertools
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from lastgood.collectors.otlp import drain as drain_module
from lastgood.collectors.otlp import spool as spool_module
from lastgood.collectors.otlp.columns import SCHEMA, Batch
from lastgood.collectors.otlp.drain import Drain
from lastgood.collectors.otlp.spool import TRACES, Record, Spool
from lastgood.errors import LastgoodError
from simulation.chance import Chance, Killed, instead
from simulation.disk import Disk, SimPath
from simulation.storage import Bucket

KINDS = frozenset(
    {
        "kill",
        "power",
        "EIO",
        "ENOSPC",
        "store 5xx",
        "answer lost",
        "lost",
        "delayed",
        "doubled",
        "pause",
        "full",
        "stale list",
    }
)
FOLDER, SEGMENT_BYTES, MOST_BYTES = "/data/spool", 600, 2_500
QUIET_STEPS = 60


class Decoder:
    """Bodies are request ids here; what they hold is `otlp`'s business and has tests of its own."""

    rows = None

    def decode(self, bodies: Sequence[tuple[bytes, datetime]]) -> Batch:
        rows = [
            {"request_id": body.decode(errors="replace"), "received_at": at, "source": "otlp"} for body, at in bodies
        ]
        return Batch(pa.Table.from_pylist(rows, SCHEMA))


def _short(name: str) -> str:
    """An id without its padding."""
    return name.replace("x", "")


@dataclass
class Export:
    """What a sender wants stored. `copies`: the ids under which it was appended; `acknowledged`: those that the spool took."""

    name: str
    due: float
    copies: list[str] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    answered: bool = False


class World:
    """One receiver with its drain; `between` lets a second replica with a spool of its own commit in the middle of a commit."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.disk = Disk(chance)
        self.bucket = Bucket(chance, between=self._other)
        self.exports: list[Export] = []
        self.wire: list[tuple[float, Export]] = []
        self.spool: Spool | None = None
        self.drain: Drain | None = None
        self.paused = {"receiver": 0.0, "drain": 0.0}
        self._numbers, self._foreign = itertools.count(1), itertools.count(1)

    @property
    def folder(self) -> Any:
        return SimPath(self.disk, FOLDER)

    def _other(self) -> None:
        if self.chance.pick("store 5xx", 2.0):  # the other replica's commit comes first
            rows = Decoder().decode([(f"other-{next(self._foreign)}".encode(), self.chance.now())]).table
            self.bucket.tables.setdefault("inbox", []).append(
                types.SimpleNamespace(rows=rows, app=("other", next(self._foreign)))  # type: ignore[arg-type]
            )

    # processes

    def stop(self, power: bool = False) -> None:
        """Both processes are gone; with the power, what was not synced too."""
        self.spool = self.drain = None
        self.disk.held.clear()
        self.disk._open.clear()
        if power:
            self.disk.power_loss()

    def _alive(self) -> None:
        """Start what is not running, as the service does."""
        if self.spool is None:
            self.spool = Spool(self.folder, SEGMENT_BYTES, MOST_BYTES)
            spool_module.identity(self.folder)
        if self.drain is None:
            self.drain = Drain(self.folder, "inbox", "scores", Decoder(), home=self.bucket.home)  # type: ignore[arg-type]

    def receive(self) -> None:
        """The receiver takes what has come, syncs it together, and acknowledges."""
        assert self.spool is not None
        due = [export for at, export in self.wire if at <= self.chance.seconds]
        self.wire = [(at, export) for at, export in self.wire if at > self.chance.seconds]
        records, copies = [], []
        for export in due:
            copy = f"{export.name}/{next(self._numbers)}"
            try:
                self.spool.room(len(copy) + sum(len(record.body) for record in records))
            except LastgoodError:
                continue
            export.copies.append(copy)
            copies.append((export, copy))
            records.append(Record(TRACES, int(self.chance.seconds * 1e6), copy.encode()))
        if records:
            self.spool.append(records)
            for export, copy in copies:
                export.acknowledged.add(copy)
                self.chance.say(f"stored {_short(copy)}")
                if not self.chance.pick("lost"):
                    export.answered = True
        self.spool.seal(1.0)

    def send(self) -> None:
        """Senders send, and send again what was not acknowledged."""
        r = self.chance.random
        if self.chance.storm and r.random() < 0.6:
            self.exports += [
                Export(f"e{len(self.exports) + i}" + "x" * r.choice((1, 50, 300)), self.chance.seconds)
                for i in range(r.randint(1, 4))
            ]
        for export in self.exports:
            if not export.answered and export.due <= self.chance.seconds:
                export.due = self.chance.seconds + 5.0
                for _ in range(1 + self.chance.pick("doubled")):
                    if not self.chance.pick("lost"):
                        delay = 20.0 * r.random() if self.chance.pick("delayed") else 0.01 * r.random()
                        self.wire.append((self.chance.seconds + delay, export))

    # a step

    def step(self) -> None:
        self.chance.seconds += self.chance.random.choice((0.1, 0.5, 2.0))
        for process, until in self.paused.items():
            if until <= self.chance.seconds and self.chance.pick("pause", 0.3):
                self.paused[process] = self.chance.seconds + self.chance.random.choice((10.0, 3600.0))
        if self.chance.pick("power", 0.3):
            self.stop(power=True)
        self.disk.limit = sum(map(len, self._sizes())) + 200 if self.chance.pick("full", 0.5) else 1 << 30
        self.send()
        try:
            self._alive()
            assert self.drain is not None
            if self.paused["receiver"] <= self.chance.seconds:
                try:
                    self.receive()
                except LastgoodError as error:
                    self.chance.say(f"receiver: {error}")
            if self.paused["drain"] <= self.chance.seconds:
                try:
                    self.drain.step()
                except LastgoodError as error:
                    self.chance.say(f"drain: {error}")
        except Killed:
            self.chance.say("killed")
            self.stop()
        except OSError as error:  # start-up or the drain's disk: the supervisor starts the process anew
            self.chance.say(f"ended by {error}")
            self.stop()
        self.check()

    def _sizes(self) -> Iterator[bytes]:
        return (bytes(inode.cached) for inode in self.disk.names.values())

    # invariants

    def check(self) -> None:
        """At every step: nothing twice, nothing made up, the spool within its bound."""
        stored = Counter(name for name in self._stored() if not name.startswith("other-"))
        twice = [name for name, times in stored.items() if times > 1]
        self.chance.demand(not twice, f"stored twice: {[*map(_short, twice[:3])]}")
        known = {copy for export in self.exports for copy in export.copies}
        self.chance.demand(
            stored.keys() <= known, f"stored and never sent: {[*map(_short, sorted(stored.keys() - known)[:3])]}"
        )
        # Beside what counts there may be one batch whose write failed and could not be cut off; and after a loss of power what was removed is back,
        # where its removal was not synced.
        held = sum(path.stat().st_size for path in (*self.folder.glob("*.seg"), *self.folder.glob("*.open")))
        self.chance.demand(held <= 3 * MOST_BYTES, f"the spool holds {held} bytes, its bound is {MOST_BYTES}")

    def _stored(self) -> Sequence[str]:
        names: Sequence[str] = self.bucket.home("inbox").values("request_id")
        return [name for name in names if name is not None]

    def settled(self) -> None:
        """Once the faults have stopped: all that was acknowledged is stored, every sender has its answer, nothing waits."""
        self.chance.storm = False
        for _ in range(QUIET_STEPS):
            self.chance.seconds += 10.0
            self.paused = dict.fromkeys(self.paused, 0.0)
            self.step()
        missing = {copy for export in self.exports for copy in export.acknowledged} - {*self._stored()}
        self.chance.demand(not missing, f"acknowledged and not stored: {[*map(_short, sorted(missing)[:3])]}")
        unanswered = [export.name for export in self.exports if not export.answered]
        self.chance.demand(not unanswered, f"no answer to {[*map(_short, unanswered[:3])]}")
        waiting = [str(path) for path in self.folder.glob("*.seg")]
        self.chance.demand(not waiting, f"not drained: {waiting}")


@contextmanager
def _on(world: World) -> Iterator[None]:
    clock = types.SimpleNamespace(monotonic=lambda: world.chance.seconds)
    ids = types.SimpleNamespace(uuid4=lambda: types.SimpleNamespace(hex=f"{world.chance.random.getrandbits(128):032x}"))
    own_os, locks = world.disk.as_os(), world.disk.as_fcntl()
    with (
        instead(spool_module, os=own_os, fcntl=locks, time=clock, uuid=ids),
        instead(drain_module, time=clock),
    ):
        yield


def play(chance: Chance) -> None:
    """A world of some minutes to hours, then quiet."""
    world = World(chance)
    with _on(world):
        for _ in range(chance.random.randint(20, 80)):
            world.step()
        world.settled()
