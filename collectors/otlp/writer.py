"""Accepted export bodies -> the spool, fsynced together; and the process that drains it, watched and restarted."""

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from lastgood.collectors.otlp.admission import REASONS
from lastgood.collectors.otlp.drain import FRAME
from lastgood.collectors.otlp.spool import Record, Spool, identity
from lastgood.errors import LastgoodError, TransientError
from lastgood.settings import Receiver

log = logging.getLogger(__name__)
Sink = Callable[[pa.Table], None]


@dataclass
class Tally:
    """What the receiver has seen since it started. `accepted` spans are on disk; `rows` and what follows are in Delta; `refused`: exports, and
    connections that brought none, by reason."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    set_aside: int = 0
    others: int = 0
    scores: int = 0
    segments: int = 0
    commits: int = 0
    commit_seconds: float = 0.0
    drain_restarts: int = 0
    spool_errors: int = 0


class GroupCommit:
    """`put` returns once the record is on disk; whatever waits at the same time shares one fsync. The disk has a thread of its own: no other task
    of the service keeps an export waiting.

    Errors of put: BusyError when the spool is full, TransientError when it cannot be written or is closing.
    """

    def __init__(self, spool: Spool, settings: Receiver, tally: Tally) -> None:
        self.spool, self._settings, self._tally = spool, settings, tally
        self._waiting: list[tuple[Record, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._coming: Counter[str] = Counter()
        """Bytes that wait or are being written, by sender."""
        self._closing = False
        self._disk = ThreadPoolExecutor(1, "spool")

    async def put(self, record: Record) -> None:
        if self._closing:
            raise TransientError("the receiver is shutting down", 1.0)
        self.spool.room(len(record.body), record.sender, self._coming)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        self._coming[record.sender] += len(record.body)
        self._wake.set()
        await done

    async def run(self) -> None:
        """Write until closed and empty; seal the open segment as it gets old."""
        while not (self._closing and not self._waiting):
            try:
                await asyncio.wait_for(self._wake.wait(), self._settings.commit_interval_s / 4)
            except TimeoutError:
                pass
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            failure: LastgoodError | None = None
            try:
                records = [record for record, _ in waiting]
                await asyncio.get_running_loop().run_in_executor(self._disk, self._write, records)
            except LastgoodError as error:
                log.error("%s", error)
                failure = error
            except Exception as error:  # whatever it is: the next export is tried again, and this one has an answer
                log.exception("the spool could not be written")
                failure = TransientError(f"the spool could not be written: {error}", 5.0)
            self._tally.spool_errors += failure is not None
            for record, done in waiting:
                self._coming[record.sender] -= len(record.body)
                if not done.done():
                    done.set_result(None) if failure is None else done.set_exception(failure)
            self._coming = +self._coming
        self._disk.shutdown()

    def _write(self, records: list[Record]) -> None:
        if records:
            self.spool.append(records)
        try:
            self.spool.seal(self._settings.commit_interval_s)
        except TransientError as error:  # what was appended is on disk all the same
            log.error("%s", error)
            self._tally.spool_errors += 1

    def close(self) -> None:
        """Take no more; `run` ends once what was taken is on disk."""
        self._closing = True
        self._wake.set()


@dataclass
class DrainProcess:
    """Runs `drain` on a spool; a drain that dies is started again. `sink` gets each commit's requests (without texts). `reach`: see the
    drain's argument of that name."""

    inbox: str
    scores: str
    settings: Receiver
    tally: Tally
    sink: Sink | None = None
    reach: str = ""
    contents: bool = False
    _closing: bool = False
    _process: "subprocess.Popen[bytes] | None" = None
    _thread: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        identity(self.settings.spool)
        self._thread = threading.Thread(target=self._keep_up, daemon=True)
        self._thread.start()

    def _command(self) -> list[str]:
        names = [part for name in self.settings.version_attributes for part in ("--version-attribute", name)]
        names += [part for name in self.settings.endpoint_attributes for part in ("--endpoint-attribute", name)]
        more = ["--compact-every", str(self.settings.compact_every), *names, *(["--feed"] if self.sink else [])]
        more += ["--contents"] if self.contents else []
        more += ["--reach", self.reach] if self.reach else []
        return [
            sys.executable,
            "-m",
            "lastgood.collectors.otlp.drain",
            str(self.settings.spool),
            self.inbox,
            self.scores,
            *more,
        ]

    def _keep_up(self) -> None:
        while not self._closing:
            how = ""
            try:
                self._run()
            except Exception as error:  # no memory for a process, a frame that cannot be read, a sink that fails
                log.exception("the drain is not heard")
                how = f" ({error})"
            if not self._closing:
                self.tally.drain_restarts += 1
                code = self._process.returncode if self._process else None
                log.error("the drain ended with %s%s; starting it again", code, how)
                time.sleep(0.5)

    def _run(self) -> None:
        """One process, until it ends."""
        heap = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # see serve.steady_memory
        self._process = subprocess.Popen(self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=heap)
        if self._closing:
            self._close_stdin()
        with self._process:  # closes its pipes and waits
            try:
                self._listen(self._process)
            except BaseException:
                self._process.kill()  # it must not wait for a reader that is gone
                raise

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        out = process.stdout
        while out and len(head := out.read(FRAME.size)) == FRAME.size:
            kind, length = FRAME.unpack(head)
            body = out.read(length)
            if len(body) < length:
                return
            if kind == b"J":
                self._note(json.loads(body))
            elif self.sink:
                self.sink(pa.ipc.open_stream(io.BytesIO(body)).read_all())

    def _note(self, figures: dict[str, Any]) -> None:
        for name in ("rows", "set_aside", "others", "scores", "segments"):
            setattr(self.tally, name, getattr(self.tally, name) + figures[name])
        self.tally.commits += 1
        self.tally.commit_seconds += figures["seconds"]

    def _close_stdin(self) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.close()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Let it drain what is sealed, then end; what it cannot commit in time stays in the spool."""
        self._closing = True
        self._close_stdin()
        if self._thread:
            self._thread.join(timeout_s)
        if self._process and self._process.poll() is None:
            self._process.kill()


def figures(tally: Tally, spool: Spool) -> dict[str, float]:
    """Counters and depths for metrics; what was refused as `refused_REASON`."""
    refused = {f"refused_{reason}": tally.refused[reason] for reason in REASONS}
    counts = {name: value for name, value in vars(tally).items() if name != "refused"}
    return counts | {"spool_bytes": spool.pending_bytes} | refused


def open_spool(settings: Receiver) -> Spool:
    """The receiver's spool. Errors: ConfigError when another receiver holds it."""
    made = Spool(Path(settings.spool), settings.segment_bytes, settings.max_spool_bytes)
    if made.repaired_bytes:
        log.warning("%s: a torn tail of %d bytes was cut off (never acknowledged)", settings.spool, made.repaired_bytes)
    return made
