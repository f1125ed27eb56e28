"""The spool and its drain: torn tails, damage, a full disk, kill -9 at random points; what was acknowledged is stored once."""

import asyncio
import errno
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from soak import scaled, seed
from waiting import HANG_S

from lastgood.collectors.otlp import spool
from lastgood.collectors.otlp.admission import SHARE
from lastgood.collectors.otlp.columns import Batch, TraceDecoder
from lastgood.collectors.otlp.drain import Drain
from lastgood.collectors.otlp.spool import Record, Spool
from lastgood.collectors.otlp.writer import GroupCommit, Tally
from lastgood.errors import ConfigError, CorruptError, TransientError
from lastgood.settings import Receiver
from lastgood.tables import delta

NOW = int(datetime.now(UTC).timestamp() * 1e6)
records = st.builds(Record, st.integers(0, 2), st.integers(0, 2**50), st.binary(max_size=200))


def export(name: str) -> bytes:
    marks = {"lastgood.request_id": name, "lastgood.endpoint": "chat"}
    attributes = [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in marks.items()]
    one = Span(trace_id=b"\x01" * 16, span_id=b"\x02" * 8, kind=3, start_time_unix_nano=NOW * 1000,
               end_time_unix_nano=NOW * 1000 + 5, attributes=attributes)  # fmt: skip
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[one])])]
    ).SerializeToString()


def record(name: str) -> Record:
    return Record(spool.TRACES, NOW, export(name))


def opened(folder: Path, segment_bytes: int = 1 << 20, max_bytes: int = 1 << 30) -> Spool:
    return Spool(folder, segment_bytes, max_bytes)


def drain(folder: Path, base: Path) -> Drain:
    return Drain(folder, str(base / "inbox"), str(base / "scores"), TraceDecoder())


def stored(base: Path) -> list[str]:
    return sorted(str(row["request_id"]) for row in delta.read(base / "inbox", ["request_id"]).to_pylist())


@given(st.lists(records, max_size=5), st.data())
def test_whatever_is_cut_off_or_flipped_the_records_before_it_are_read(
    written: list[Record], data: st.DataObject
) -> None:
    whole = b"".join(map(spool.pack, written))
    assert [one for one, _ in spool.unpack(whole)] == written
    if not whole:
        return
    at = data.draw(st.integers(0, len(whole) - 1))
    starts = [0]
    for one in written:
        starts.append(starts[-1] + len(spool.pack(one)))
    safe = sum(end <= at for end in starts[1:])
    assert [one for one, _ in spool.unpack(whole[:at])] == written[:safe]
    flipped = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
    assert [one for one, _ in spool.unpack(flipped)] == written[:safe]


def test_a_torn_tail_is_cut_off_and_numbers_only_grow(tmp_path: Path) -> None:
    with opened(tmp_path) as one:
        one.append([record("a")])
    (sealed,) = spool.sealed(tmp_path)
    left = tmp_path / f"{int(sealed.stem) + 5:010}.open"  # beside the empty one that was open at the end
    left.write_bytes(spool.pack(record("b")) + spool.pack(record("torn"))[:-7])
    with opened(tmp_path) as again:
        assert again.repaired_bytes == len(spool.pack(record("torn"))) - 7
        again.append([record("c")])
    numbers = [int(one.stem) for one in spool.sealed(tmp_path)]
    assert numbers == [int(sealed.stem), int(left.stem), numbers[-1]]
    assert numbers[-1] > numbers[1]
    assert [one for segment in spool.sealed(tmp_path) for one in spool.read(segment)] == [
        record(name) for name in "abc"
    ]


def test_one_receiver_a_spool(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ConfigError, match="another receiver writes to this spool"):
        opened(tmp_path)


def test_exports_that_wait_for_a_slow_disk_are_counted_as_their_senders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender that sends many at once neither fills the bound before the disk has answered, nor is what it has waiting held against another."""
    size, most = 1000, 100_000
    limits = Receiver(spool=tmp_path / "spool", max_body_bytes=most)
    writing, free = threading.Event(), threading.Event()

    async def burst(group: GroupCommit, sender: str, number: int) -> list["asyncio.Task[None]"]:
        record = spool.Record(spool.TRACES, 1, bytes(size), sender)
        tasks = [asyncio.create_task(group.put(record)) for _ in range(number)]
        await asyncio.sleep(0)
        return tasks

    async def main(held: Spool) -> tuple[int, int]:
        group = GroupCommit(held, limits, Tally())
        running = asyncio.create_task(group.run())
        noisy = await burst(group, "noisy", most // size)
        assert await asyncio.to_thread(writing.wait, HANG_S)
        noisy += await burst(group, "noisy", most // size)
        quiet = await burst(group, "quiet", 3)
        free.set()
        answers = [await asyncio.gather(*tasks, return_exceptions=True) for tasks in (noisy, quiet)]
        group.close()
        await running
        assert held.pending_bytes <= most
        return answers[0].count(None), answers[1].count(None)

    with opened(tmp_path / "spool", max_bytes=most) as held:
        append = held.append

        def slow(records: list[spool.Record]) -> None:
            writing.set()
            free.wait(HANG_S)
            append(records)

        monkeypatch.setattr(held, "append", slow)
        noisy, quiet = asyncio.run(main(held))
    assert quiet == 3
    assert noisy == pytest.approx(most / size * SHARE / (SHARE + 1), abs=SHARE)


def test_the_bound_counts_what_is_not_yet_in_delta(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    size = len(spool.pack(record("a")))
    with opened(folder, segment_bytes=1, max_bytes=2 * size) as one:
        for name in "ab":
            one.room(size)
            one.append([record(name)])
        with pytest.raises(TransientError, match="the bound of all senders"):
            one.room(size)
        assert drain(folder, tmp_path).step() == 2
        one.room(size)
    assert stored(tmp_path) == ["a", "b"]


def test_an_export_that_makes_the_decoder_fail_is_set_aside_and_stops_no_other(tmp_path: Path) -> None:
    class Failing(TraceDecoder):
        def decode(self, bodies: Sequence[tuple[bytes, datetime]]) -> Batch:
            if any(b"poison" in body for body, _ in bodies):
                raise KeyError("nobody foresaw this")
            return super().decode(bodies)

    folder = tmp_path / "spool"
    with opened(folder) as one:
        one.append([record(name) for name in ("a", "poison", "b")])
    failing = drain(folder, tmp_path)
    failing.decoder = Failing()
    assert failing.step() == 1
    table = delta.read(tmp_path / "inbox").sort_by("request_id").to_pylist()
    assert [row["request_id"] for row in table] == ["a", "b", None]
    assert table[2]["reject_reason"] == "the export could not be decoded: KeyError"
    assert b"poison" in table[2]["raw"]
    assert not spool.sealed(folder)


def test_a_damaged_segment_gives_up_what_is_whole_and_keeps_the_rest_as_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with opened(folder) as one:
        one.append([record(name) for name in "abc"])
    (segment,) = spool.sealed(folder)
    data = bytearray(segment.read_bytes())
    data[-3] ^= 0xFF
    segment.write_bytes(data)
    with pytest.raises(CorruptError, match="damaged at byte"):
        spool.read(segment)
    assert drain(folder, tmp_path).step() == 1
    rows = {row["request_id"]: row for row in delta.read(tmp_path / "inbox").to_pylist()}
    assert rows.keys() == {"a", "b", None}
    assert "is damaged at byte" in rows[None]["reject_reason"]
    assert rows[None]["raw"] == bytes(data[-len(spool.pack(record("c"))) :])


FULL = """
import resource, signal, sys
from pathlib import Path
from lastgood.collectors.otlp.spool import Record, Spool
from lastgood.errors import TransientError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(Path(sys.argv[1]), 1 << 30, 1 << 40)
for i in range(10):
    if i == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3500, resource.RLIM_INFINITY))
    if i == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        spool.append([Record(0, i, b"x" * 1000)])
        print(i)
    except TransientError as error:
        assert "could not be written" in str(error)
spool.close()
"""


def test_a_full_disk_refuses_and_what_was_acknowledged_stays(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    acknowledged = [int(line) for line in done.stdout.split()]
    assert 3 not in acknowledged and {0, 1, 2, 6, 7, 8, 9} <= {*acknowledged}
    assert [one.received_at for segment in spool.sealed(tmp_path) for one in spool.read(segment)] == acknowledged


RENAME = Path.rename


class Disk:
    """The `os` of a machine whose disk fails: a call fails by chance; a failed fsync has lost what was written since the last one."""

    def __init__(self, r: random.Random, share: float) -> None:
        self.r, self.share, self.synced = r, share, dict[int, int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fails(self) -> None:
        if self.r.random() < self.share:
            raise OSError(self.r.choice((errno.EIO, errno.ENOSPC)), "injected")

    def open(self, *arguments: Any) -> int:
        self.fails()
        fd = os.open(*arguments)
        self.synced[fd] = 0
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        self.fails()
        return os.write(fd, data[: self.r.randint(1, len(data))])

    def ftruncate(self, fd: int, size: int) -> None:
        self.fails()
        os.ftruncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        try:
            self.fails()
        except OSError:
            os.pwrite(fd, bytes(size - self.synced[fd]), self.synced[fd])
            raise
        self.synced[fd] = size

    def fsync(self, fd: int) -> None:
        self.fails()

    def rename(self, path: Path, target: Path) -> Path:
        self.fails()
        return RENAME(path, target)


@settings(max_examples=scaled(60), deadline=None)
@given(st.integers(0, 2**32), st.floats(0.02, 0.5))
def test_a_disk_that_fails_anywhere_loses_nothing_acknowledged_and_the_writer_recovers(
    number: int, share: float
) -> None:
    r, acknowledged = random.Random(number), list[int]()
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        writer = Spool(folder, 200, 1 << 40)
        disk = Disk(r, share)

        def rename(path: Path, target: Path) -> Path:
            return disk.rename(path, target)

        disk.synced[writer._fd] = 0
        patch.setattr(spool, "os", disk)
        patch.setattr(Path, "rename", rename)
        for i in range(60):
            disk.share = share if i < 50 else 0.0
            with suppress(TransientError):
                if r.random() < 0.2:
                    writer.seal()
                else:
                    writer.append([Record(0, i, b"%d" % i * r.randint(1, 40))])
                    acknowledged.append(i)
        writer.append([Record(0, 60, b"after the faults")])
        writer.close()
        patch.undo()
        with Spool(folder, 200, 1 << 40) as again:
            assert again.repaired_bytes == 0
        records = [one.received_at for segment in spool.sealed(folder) for one, _ in spool.unpack(segment.read_bytes())]
    assert [i for i in records if i in acknowledged or i == 60] == [*acknowledged, 60]
    assert len(records) == len(set(records))


WRITER = """
import sys
from pathlib import Path
from lastgood.collectors.otlp.spool import Record, Spool
first = int(sys.argv[2])
spool = Spool(Path(sys.argv[1]), 600, 1 << 40)
for i in range(first, first + 100_000):
    spool.append([Record(0, i, b"%d" % i * (i % 9 + 1))])
    print(i, flush=True)
"""


@pytest.mark.scaled
def test_kills_of_a_writer_lose_nothing_acknowledged(tmp_path: Path) -> None:
    r, acknowledged, lives = random.Random(seed(5)), set(), scaled(6)
    for life in range(lives):
        first = life * 100_000
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(first)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.endswith("\n"):
                    acknowledged.add(int(line))
                if r.random() < 0.05:
                    process.kill()
                    break
            rest = process.stdout.read()
            acknowledged |= {int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")}
    with opened(tmp_path):
        pass
    found = [one for segment in spool.sealed(tmp_path) for one in spool.read(segment)]
    assert len({one.received_at for one in found}) == len(found)
    assert acknowledged <= {one.received_at for one in found}
    assert len(found) <= len(acknowledged) + lives
    assert all(one.body == b"%d" % one.received_at * (one.received_at % 9 + 1) for one in found)


@pytest.mark.scaled
@pytest.mark.parametrize("home", ["folder", "s3"])
def test_kills_of_the_drain_store_every_span_once(tmp_path: Path, home: str, request: pytest.FixtureRequest) -> None:
    """Killed at random moments while segments keep coming; a commit that a dead drain made is not made again, nor is one whose answer the
    storage lost."""
    r, folder = random.Random(seed(6)), tmp_path / "spool"
    base, reach = str(tmp_path), []
    if home == "s3":
        s3 = request.getfixturevalue("s3")
        base, reach = s3.bucket(), ["--reach", json.dumps({"tables": {"options": s3.own}, "workspace": {}})]
        s3.fail(*({"kind": "lost", "method": "PUT", "path": "_delta_log", "after": 3, "times": 1} for _ in range(3)))
    spool.identity(folder)
    names: list[str] = []
    writing, enough = opened(folder, segment_bytes=1), threading.Event()

    def feed() -> None:
        while not enough.wait(0.1):
            names.append(f"r{len(names)}")
            writing.append([record(names[-1])])

    feeder = threading.Thread(target=feed)
    feeder.start()
    command = [
        sys.executable,
        "-m",
        "lastgood.collectors.otlp.drain",
        str(folder),
        f"{base}/inbox",
        f"{base}/scores",
        *reach,
    ]
    for _ in range(scaled(4)):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            if r.random() < 0.7:
                process.stdout.read(1)  # the first commit is done
            time.sleep(r.random() * 0.05)
            process.kill()
    enough.set()
    feeder.join()
    writing.close()
    if home == "s3":
        s3.fail()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        assert process.wait() == 0
    where = delta.Located(f"{base}/inbox", s3.own) if home == "s3" else f"{base}/inbox"
    assert sorted(delta.read(where, ["request_id"])["request_id"].to_pylist()) == sorted(names)
    assert spool.sealed(folder) == []


def test_two_receivers_on_one_table_and_a_compactor(tmp_path: Path) -> None:
    done = []
    folders = [tmp_path / f"spool{i}" for i in range(2)]

    def work(folder: Path) -> None:
        mine = drain(folder, tmp_path)
        mine.compact_every = 3
        with opened(folder, segment_bytes=1) as one:
            for i in range(20):
                one.append([record(f"{folder.name}-{i}")])
                while True:
                    try:
                        mine.step()
                        break
                    except TransientError:
                        continue
        done.append(folder)

    threads = [threading.Thread(target=work, args=(folder,)) for folder in folders]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(done) == 2
    assert stored(tmp_path) == sorted(f"spool{i}-{j}" for i in range(2) for j in range(20))


def test_a_commit_made_before_the_crash_is_known_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with opened(folder, segment_bytes=1) as one:
        for name in "ab":
            one.append([record(name)])
    kept = {path: path.read_bytes() for path in spool.sealed(folder)}
    drain(folder, tmp_path).step()
    for path, data in kept.items():  # as if it had died between the commit and the removal
        path.write_bytes(data)
    with opened(folder, segment_bytes=1) as one:
        one.append([record("c")])
    mine = drain(folder, tmp_path)
    while mine.step():
        pass
    assert stored(tmp_path) == ["a", "b", "c"]


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /data rw - fuse.gcsfuse bucket rw
31 21 0:41 / /data/local rw - xfs /dev/sdb1 rw
32 21 0:42 / /mnt/share rw - nfs4 server:/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/data/lastgood", "fuse.gcsfuse"), ("/data/local/x", "xfs"), ("/database", "ext4"), ("/mnt/share/t", "nfs4")],
)
def test_the_kind_of_a_file_system_is_that_of_its_nearest_mount(path: str, kind: str) -> None:
    assert delta.file_system(Path(path), MOUNTS) == kind
    assert delta.file_system(Path(path), "") is None


def test_nothing_is_merged_where_locks_may_not_hold_across_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        delta.append(tmp_path / "t", pa.table({"a": [i]}))
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 21 0:40 / {tmp_path} rw - fuse.something bucket rw\n")
    monkeypatch.setattr(delta, "MOUNTS", mounts)
    assert delta.compact(tmp_path / "t") == 0
    mounts.write_text(f"30 21 0:40 / {tmp_path} rw - ext4 /dev/sda1 rw\n")
    assert delta.compact(tmp_path / "t") == 3
    assert sorted(delta.read(tmp_path / "t")["a"].to_pylist()) == [0, 1, 2]
