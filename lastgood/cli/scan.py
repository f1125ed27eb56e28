"""A file of requests -> window counts, output quality and samples, without Spark: processes that share the file's pieces.

Each batch goes through the functions that Spark's workers run: `inference_tables.shaped`, `conforming.conformed`, `quality.marked`,
`counting.count`. What is held grows with windows, not with rows, but for eight bytes a row: the hash of its id. Requests that
several rows tell of are counted in a second pass, folded.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import pyarrow as pa

from lastgood.cli import examples
from lastgood.collectors import inference_tables
from lastgood.collectors.files import BATCH, Piece, Source
from lastgood.collectors.findings import Findings, UnfitError, first_of
from lastgood.collectors.inference_tables import Shape
from lastgood.errors import ConfigError
from lastgood.jobs import counting, quality, sampling
from lastgood.jobs.conforming import apart, conformed, fold
from lastgood.jobs.keyed import counted, keyed
from lastgood.jobs.sampling import Ints, Sampler, hashes
from lastgood.record.answer_flags import BadAnswers

SMALL = 8 * 2**20
"""Bytes of a table that one process reads alone."""
MOST_WORKERS = 4
HELD = 100_000
"""Requests that a process holds, without their texts, before it counts them."""
PARTS = 16
"""Files over which requests that occur more than once are spread: one is held at a time."""
Say = Callable[[int], None]


@dataclass(frozen=True)
class Plan:
    """What to do with every row: its shape, the settings that matter, and where to leave samples and doubled requests."""

    source: Source
    shape: Shape
    names: tuple[str, ...]
    window_s: int
    rule: BadAnswers
    scratch: Path
    now: datetime
    examples: bool = False


@dataclass
class Counted:
    """What was counted: rows of `windows` and `quality` (several of a key), what the reader says, hashes of the keys of all requests, files of
    rows of `samples`. `folded`: rows that share an id, the requests they became, and the ids that named several versions."""

    rows: int = 0
    windows: list[pa.Table] = field(default_factory=list)
    quality: list[pa.Table] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    keys: list[Ints] = field(default_factory=list)
    samples: list[Path] = field(default_factory=list)
    folded: tuple[int, int, int] = (0, 0, 0)
    examples: list[pa.Table] = field(default_factory=list)

    def merge(self, other: "Counted") -> None:
        self.rows += other.rows
        self.windows += other.windows
        self.quality += other.quality
        self.findings.merge(other.findings)
        self.keys += other.keys
        self.samples += other.samples
        self.examples += other.examples

    def doubled(self) -> Ints:
        """Keys of requests that more than one row tells of, sorted."""
        keys = np.sort(np.concatenate(self.keys)) if self.keys else np.zeros(0, np.int64)
        return np.unique(keys[1:][keys[1:] == keys[:-1]])


class Tally:
    """Counts batches of one process; `leave_out`: keys of requests whose rows are put aside, to be folded."""

    def __init__(self, plan: Plan, number: int, leave_out: Ints | None) -> None:
        self.plan, self.number, self.leave_out = plan, number, leave_out
        self.done, self.sampler = Counted(), Sampler()
        self._narrow: list[pa.Table] = []
        self._marked: list[pa.Table] = []
        self._held = 0
        self._files: dict[str, Any] = {}
        self._salt: dict[str, int] = {}

    def piece(self, piece: Piece) -> Iterator[int]:
        """Count a piece; gives the rows of each batch."""
        plan, findings = self.plan, self.done.findings
        try:
            for batch in plan.source.read(piece, plan.names, findings):
                self.batch(inference_tables.shaped(batch, plan.shape, plan.now, findings))
                yield batch.num_rows
        except UnfitError as unfit:
            raise plan.source.refusal(unfit) from unfit

    def batch(self, rows: pa.RecordBatch) -> None:
        """Count candidates."""
        self.done.rows += rows.num_rows
        good, why = conformed(rows, self.plan.now)
        if why.null_count < len(why):
            for reason, (number, row) in first_of(why).items():
                self.done.findings.set_aside(reason, number, row)
        if not good.num_rows:
            return
        requests = pa.Table.from_batches([good])
        hashed = hashes(requests["request_id"])
        keys = hashed ^ self._salts(requests["endpoint"])
        if self.leave_out is None:
            self.done.keys.append(keys)
        else:
            many = np.isin(keys, self.leave_out)
            self._put_aside(requests.filter(pa.array(many)), keys[many])
            requests, hashed = requests.filter(pa.array(~many)), hashed[~many]
        self.requests(requests, hashed)

    def requests(self, requests: pa.Table, hashed: Ints) -> None:
        """Count records, one of each request."""
        self._write("samples", self.sampler.take(requests, hashed))
        if self.plan.examples:
            self.done.examples = [
                examples.chosen([*self.done.examples, examples.narrow(requests, hashed, self.plan.rule)])
            ]
        made = keyed(requests, self.plan.window_s)
        self._narrow.append(counted(made))
        self._marked.append(quality.marked(made.select(list(quality.COUNTED)), self.plan.rule))
        self._held += requests.num_rows
        if self._held >= HELD:
            self.count()

    def count(self) -> None:
        """Bring what is held together."""
        if self._held:
            self.done.windows.append(counting.count(pa.concat_tables(self._narrow)))
            self.done.quality.append(quality.tallied(pa.concat_tables(self._marked), self.plan.rule))
        self._narrow, self._marked, self._held = [], [], 0

    def finish(self) -> Counted:
        self.count()
        done = self.done
        if len(done.windows) > 1:
            done.windows = [counting.add(pa.concat_tables(done.windows))]
            done.quality = [quality.add(pa.concat_tables(done.quality))]
        for writer in self._files.values():
            writer.close()
        if "samples" in self._files:
            done.samples.append(self.plan.scratch / f"samples-{self.number}")
        return done

    def _salts(self, endpoints: pa.ChunkedArray) -> Ints:
        code, names = counting.codes(endpoints)
        return hashes(names)[code]

    def _put_aside(self, rows: pa.Table, keys: Ints) -> None:
        part = keys.astype(np.uint64) % PARTS
        for number in np.unique(part).tolist():
            self._write(f"doubled-{number}", rows.filter(pa.array(part == number)))

    def _write(self, name: str, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        if name not in self._files:
            self._files[name] = pa.ipc.new_file(str(self.plan.scratch / f"{name}-{self.number}"), rows.schema)
        self._files[name].write_table(rows)


def _work(plan: Plan, number: int, leave_out: Ints | None, tasks: Any, told: Any) -> None:
    """A process: pieces from `tasks` until None; tells (rows, None) and at last (0, Counted) or (0, error)."""
    gc.disable()  # nothing here makes cycles, and every parsed body would be looked through for them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is told too, and ends this one
    pa.set_memory_pool(pa.system_memory_pool())  # gives back what it does not need: batches are large
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    try:
        counter = Tally(plan, number, leave_out)
        while (piece := tasks.get()) is not None:
            told.put((sum(counter.piece(piece)), None))
        told.put((0, counter.finish()))
    except ConfigError as error:
        told.put((0, error))
    except BaseException as error:
        told.put((0, RuntimeError(f"{type(error).__name__}: {error}")))
        raise


def _context() -> Any:
    """Forked processes need no imports of their own; where forking is not safe, new ones."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: in the middle of a fork it would be swallowed, or leave a process that nobody ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        signal.raise_signal(signal.SIGINT)


def _passed(plan: Plan, workers: int, leave_out: Ints | None, say: Say) -> Counted:
    """One pass over the table."""
    if workers < 2:
        counter = Tally(plan, 0, leave_out)
        for piece in plan.source.pieces(plan.names, 1, counter.done.findings):
            for rows in counter.piece(piece):
                say(rows)
        return counter.finish()
    context = _context()
    tasks, told = context.Queue(workers + 1), context.Queue()
    processes = [
        context.Process(target=_work, args=(plan, number, leave_out, tasks, told), daemon=True)
        for number in range(workers)
    ]
    try:
        with _uninterrupted():
            for process in processes:
                process.start()
        return _gathered(plan, workers, tasks, told, processes, say)
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _gathered(plan: Plan, workers: int, tasks: Any, told: Any, processes: Sequence[Any], say: Say) -> Counted:
    total, finished = Counted(), 0

    def listen(wait: float) -> None:
        nonlocal finished
        try:
            rows, result = told.get(timeout=wait) if wait else told.get_nowait()
        except Empty:
            if any(process.exitcode not in (None, 0) for process in processes):
                raise RuntimeError("a process that reads the table has died; is there enough memory?") from None
            return
        say(rows)
        if isinstance(result, Exception):
            raise result
        if result is not None:
            finished += 1
            total.merge(result)

    waiting: list[Piece | None] = []
    pieces = plan.source.pieces(plan.names, workers, total.findings)
    exhausted = False
    while finished < workers:
        if not waiting and not exhausted:
            piece = next(pieces, None)
            exhausted = piece is None
            waiting += [None] * workers if piece is None else [piece]
        while waiting and not tasks.full():
            tasks.put(waiting.pop(0))
        listen(0.05 if waiting or exhausted else 0)
    return total


def workers_for(source: Source) -> int:
    """How many processes read a table."""
    return (
        1
        if source.size < SMALL
        else min(
            MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
    )


def scan(plan: Plan, say: Say, workers: int | None = None) -> Counted:
    """Count a table. `say` hears of rows as they are counted."""
    workers = workers or workers_for(plan.source)
    first = _passed(plan, workers, None, say)
    doubled = first.doubled()
    if not len(doubled):
        return first
    for path in first.samples:
        path.unlink()
    second = _passed(plan, workers, doubled, say)
    second.findings = first.findings
    folder, rows_of_several, requests, split = Tally(plan, -1, None), 0, 0, 0
    for number in range(PARTS):
        rows = [_ipc(path) for path in sorted(plan.scratch.glob(f"doubled-{number}-*"))]
        if rows:
            several, ids = apart(pa.concat_tables(rows))
            folded = fold(several).combine_chunks()
            rows_of_several, requests, split = rows_of_several + len(several), requests + len(folded), split + ids
            for start in range(0, folded.num_rows, BATCH):
                some = folded.slice(start, BATCH)
                folder.requests(some, hashes(some["request_id"]))
    second.merge(folder.finish())
    second.folded = (rows_of_several, requests, split)
    return second


def _ipc(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def samples(counted_rows: Counted) -> pa.Table:
    """Rows that may be in a sample, on disk until they are chosen."""
    tables = [_ipc(path) for path in counted_rows.samples if path.exists()]
    return pa.concat_tables(tables) if tables else sampling.SCHEMA.empty_table()


__all__ = ["Counted", "Plan", "samples", "scan"]
