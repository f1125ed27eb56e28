"""Sealed spool segments -> `inbox` and `scores` in Delta, exactly once. Runs in a process of its own beside the receiver.

A commit carries (spool id, number of its newest segment) as Delta's application transaction, so a segment that a dead process had
committed is known and skipped. Reports go to standard output, one frame each: b"J" or b"A", length, then JSON figures or an Arrow stream
of the committed requests (without texts). The process ends, drained, when its standard input closes: also when its parent dies.
"""

import argparse
import fcntl
import json
import logging
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from lastgood import tables
from lastgood.collectors.otlp import feedback, rows, spool
from lastgood.collectors.otlp.columns import SCHEMA, Batch, TraceDecoder
from lastgood.errors import LastgoodError, TransientError
from lastgood.record import telemetry, trees
from lastgood.record.vocabulary import ENDPOINT_ATTRIBUTES
from lastgood.tables import delta
from lastgood.tables.homes import FolderTable, TableHome

log = logging.getLogger(__name__)
COMMIT_BYTES = 32 * 2**20
"""How many bytes of segments one commit takes when the drain is behind."""
FRAME = struct.Struct("<cI")
NOT_FED = frozenset({"input", "output", "features", "attributes", "raw"})
_SCORES = telemetry.arrow_schema(tables.SCORES.fields)
Report = Callable[[dict[str, Any], pa.Table | None], None]


def decode(records: Sequence[spool.Record], decoder: TraceDecoder) -> Batch:
    """Spooled exports of all kinds -> inbox columns and scores."""
    spans = [(record.body, _time(record)) for record in records if record.kind == spool.TRACES]
    batch = decoder.decode(spans) if spans else Batch(SCHEMA.empty_table())
    parts: list[rows.Row] = []
    for record in records:
        if record.kind == spool.LOGS:
            more = rows.logs(ExportLogsServiceRequest.FromString(record.body), _time(record), decoder.rows)
            parts += more.rows
        elif record.kind == spool.FEEDBACK:
            more = feedback.decode(record.body, _time(record))
        elif record.kind == spool.METRICS:
            more = rows.metrics(ExportMetricsServiceRequest.FromString(record.body), _time(record))
        else:
            continue
        batch.scores += more.scores
        batch.others += more.others
    if parts:
        batch.table = pa.concat_tables([batch.table, pa.Table.from_pylist(parts, SCHEMA)])
    return batch


def _no_requests(table: pa.Table) -> int:
    """Rows that are no requests by themselves: they link others, or add to them."""
    part, inner = table["part"], pc.and_(pc.equal(table["part"], trees.STEP), pc.is_valid(table["parent_id"]))
    linking = pc.is_in(part, pa.array([trees.LINK, trees.EVENT]))
    good = pc.is_null(table["reject_reason"])
    return int(pc.sum(pc.and_(good, pc.or_kleene(linking, pc.fill_null(inner, False)))).as_py() or 0)


def _time(record: spool.Record) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=record.received_at)


@dataclass
class Drain:
    """`step` commits what is sealed. `home`: how a table is reached; small files of one that is in no folder are merged by the job
    `maintain`. Errors of step: LastgoodError (nothing is lost: the segments stay)."""

    folder: Path
    inbox: str
    scores: str
    decoder: TraceDecoder
    compact_every: int = 64
    report: Report = lambda figures, table: None
    home: Callable[[str], TableHome] = FolderTable
    commits: int = 0
    _done: dict[str, int] = field(default_factory=dict)

    def step(self) -> int:
        """Commit the oldest sealed segments, up to COMMIT_BYTES; how many there were."""
        group: list[Path] = []
        size = 0
        for segment in spool.sealed(self.folder):
            size += segment.stat().st_size
            if group and size > COMMIT_BYTES:
                break
            group.append(segment)
        if not group:
            return 0
        started, newest = time.monotonic(), int(group[-1].stem)
        try:
            tally = {"segments": len(group), "rows": 0, "scores": 0, "others": 0, "set_aside": 0}
            fed = self._commit(group, newest, tally)
        except LastgoodError:
            self._done.clear()
            raise
        for segment in group:
            segment.unlink()
        self.report(tally | {"seconds": round(time.monotonic() - started, 4)}, fed)
        return len(group)

    def _committed(self, path: str) -> int:
        if path not in self._done:
            self._done[path] = self.home(path).app_version(spool.identity(self.folder)) or 0
        return self._done[path]

    def _commit(self, group: Sequence[Path], newest: int, tally: dict[str, int]) -> pa.Table | None:
        application = spool.identity(self.folder)
        fed = None
        decoded: dict[tuple[Path, ...], Batch] = {}  # both tables mostly need the same segments
        for path in (self.inbox, self.scores):
            new = [segment for segment in group if int(segment.stem) > self._committed(path)]
            if not new:
                continue
            if (key := tuple(new)) not in decoded:
                decoded[key] = self._read(new)
            batch = decoded[key]
            scored = path == self.scores
            table = pa.Table.from_pylist(batch.scores, _SCORES) if scored else batch.table
            if table.num_rows:
                self.home(path).append(table, app=(application, newest, self._committed(path)))
                self._done[path] = newest
                self._compact(path)
            if scored:
                tally["scores"] += table.num_rows
            else:
                fed = table
                aside = table.num_rows - table.column("reject_reason").null_count
                tally["set_aside"] += aside
                tally["rows"] += table.num_rows - aside - _no_requests(table)
                tally["others"] += batch.others
        return fed

    def _read(self, segments: Sequence[Path]) -> Batch:
        """What the segments hold; a damaged rest of one becomes a rejected inbox row with its bytes."""
        records: list[spool.Record] = []
        damaged: list[rows.Row] = []
        for segment in segments:
            data, end = segment.read_bytes(), 0
            for record, behind in spool.unpack(data):
                records.append(record)
                end = behind
            if end < len(data):
                reason = f"spool segment {segment.stem} is damaged at byte {end}"
                log.error("%s", reason)
                stamp = {"source": "otlp", "received_at": datetime.now(UTC)}
                damaged.append(stamp | {"reject_reason": reason, "raw": data[end:]})
        batch = self._decoded(records, damaged)
        if damaged:
            batch.table = pa.concat_tables([batch.table, pa.Table.from_pylist(damaged, SCHEMA)])
        return batch

    def _decoded(self, records: Sequence[spool.Record], damaged: list[rows.Row]) -> Batch:
        """The records decoded together; where one makes the decoder fail in a way that nobody foresaw, each alone, and that one becomes a
        rejected row of `damaged`: it was acknowledged, and must stop nothing."""
        try:
            return decode(records, self.decoder)
        except Exception:
            log.exception("exports are decoded one by one")
        batch = Batch(SCHEMA.empty_table())
        for record in records:
            try:
                part = decode([record], self.decoder)
            except Exception as error:
                reason = f"the export could not be decoded: {type(error).__name__}"
                damaged.append(
                    {"source": "otlp", "received_at": _time(record), "reject_reason": reason, "raw": record.body}
                )
                continue
            batch.table = pa.concat_tables([batch.table, part.table])
            batch.scores += part.scores
            batch.others += part.others
        return batch

    def _compact(self, path: str) -> None:
        self.commits += 1
        if self.home is FolderTable and self.compact_every and self.commits % self.compact_every == 0:
            try:
                delta.compact(path)
            except TransientError as error:
                log.warning("%s", error)

    def run(self, closing: threading.Event, poll_s: float = 0.02) -> None:
        """Step until `closing` is set and nothing is left that can be committed."""
        with (self.folder / "drain.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            while True:
                ending = closing.is_set()
                try:
                    if self.step():
                        continue
                except LastgoodError as error:
                    log.error("not committed, tried again: %s", error)
                    if ending:
                        return
                    closing.wait(getattr(error, "retry_after_s", None) or 1.0)
                    continue
                if ending:
                    return
                closing.wait(poll_s)


def _frames(feed: bool) -> Report:
    out = sys.stdout.buffer

    def say(figures: dict[str, Any], table: pa.Table | None) -> None:
        frames = [(b"J", json.dumps(figures).encode())]
        if feed and table is not None and table.num_rows:
            kept = table.select([name for name in table.column_names if name not in NOT_FED])
            stream = pa.BufferOutputStream()
            with pa.ipc.new_stream(stream, kept.schema) as writer:
                writer.write_table(kept)
            frames.append((b"A", stream.getvalue().to_pybytes()))
        try:
            for kind, body in frames:
                out.write(FRAME.pack(kind, len(body)) + body)
            out.flush()
        except BrokenPipeError:  # the parent has gone; the commit stands
            pass

    return say


def main(arguments: Sequence[str] | None = None) -> None:
    """Drain a spool until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spool", type=Path)
    parser.add_argument("inbox")
    parser.add_argument("scores")
    parser.add_argument("--version-attribute", action="append", default=[])
    parser.add_argument("--endpoint-attribute", action="append", default=[])
    parser.add_argument("--compact-every", type=int, default=64)
    parser.add_argument("--contents", action="store_true")
    parser.add_argument("--feed", action="store_true")
    parser.add_argument("--reach", help="settings `tables` and `workspace` as JSON, where the tables are in no folder")
    given = parser.parse_args(arguments)
    closing = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent's to handle: it closes standard input when it is done
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        sys.stdin.buffer.read()
        closing.set()

    threading.Thread(target=watch, daemon=True).start()
    decoder = TraceDecoder(given.version_attribute, given.endpoint_attribute or ENDPOINT_ATTRIBUTES, given.contents)
    home = _reached(given.reach) if given.reach else FolderTable
    Drain(given.spool, given.inbox, given.scores, decoder, given.compact_every, _frames(given.feed), home).run(closing)


def _reached(reach: str) -> Callable[[str], TableHome]:
    """How tables of a catalog or an object store are reached by these settings."""
    from lastgood.settings import Settings
    from lastgood.workspace.stores import tables_of

    return tables_of(Settings(**json.loads(reach))).named


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()
