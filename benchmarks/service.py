"""The service under load: spans in at a given rate while pages and /metrics are fetched: `python -m benchmarks.service [--quick]`.

`lastgood serve` against the local workspace; spans come over gRPC, every one with ids of its own, while the page of all
endpoints, the incidents and /metrics are fetched four times a second. Load and service share the two cores. `--seconds 3600` is the soak:
a line every five minutes, and files that compaction has replaced are removed as they come (`lastgood job maintain` keeps them a week).

`--overload`: of two senders one sends ten times its usual rate for a minute, in an open loop. `lost` counts what was acknowledged and is not in the
table; `p99_ms_well_behaved_sender` is over the whole run, the burst included.
"""

import argparse
import asyncio
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import grpc
import httpx
import numpy as np
import yaml
from deltalake import DeltaTable

from benchmarks.measured import Meter, machine
from benchmarks.spans import EXPORT, bodies, span
from lastgood.workspace import local

PATHS = ("/", "/metrics", "/api/incidents", "/healthz")


BATCH = 512
EVERY_S = 300
"""How often a line is printed."""
PARTS = 4
"""Ids are compared in so many parts: the soak's do not fit into memory at once."""


class Stamped:
    """An export whose spans get ids and times of their own each time it is sent."""

    def __init__(self, body: bytes, first: int) -> None:
        spans = [span(i) for i in range(first, first + BATCH)]
        self._bytes = np.frombuffer(body, np.uint8).copy()
        self._start, self._end = (
            np.array([body.index(struct.pack("<Q", at)) for at in times])[:, None] + np.arange(8)
            for times in ([one.start_time_unix_nano for one in spans], [one.end_time_unix_nano for one in spans])
        )
        self._took = np.array([one.end_time_unix_nano - one.start_time_unix_nano for one in spans], "<u8")
        ids = [body.index(f"chatcmpl-{i:024x}".encode()) + len("chatcmpl-") for i in range(first, first + BATCH)]
        self._ids = np.array(ids)[:, None] + np.arange(8)

    def at(self, now_ns: int, turn: int) -> bytes:
        """The export as of now; `turn` becomes part of its spans' response ids."""
        start = now_ns - self._took - np.arange(BATCH, dtype="<u8") * np.uint64(1_000)
        self._bytes[self._start] = start.view(np.uint8).reshape(-1, 8)
        self._bytes[self._end] = (start + self._took).view(np.uint8).reshape(-1, 8)
        self._bytes[self._ids] = np.frombuffer(f"{turn:08x}".encode(), np.uint8)
        return self._bytes.tobytes()


async def _send(port: int, per_s: float, seconds: float, waits: list[float]) -> None:
    """Send exports at a rate; seconds of each that was acknowledged. Errors: AioRpcError (one that was not)."""
    sent = [Stamped(body, i * BATCH) for i, body in enumerate(bodies(BATCH * 64, BATCH))]
    began = time.perf_counter()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(EXPORT)

        async def one(i: int) -> None:
            body = sent[i % len(sent)].at(time.time_ns(), i // len(sent))
            asked = time.perf_counter()
            await call(body, timeout=60)
            waits.append(time.perf_counter() - asked)

        def done(task: asyncio.Task[None]) -> None:
            running.discard(task)
            task.result()

        running: set[asyncio.Task[None]] = set()
        i = 0
        while time.perf_counter() - began < seconds:
            task = asyncio.create_task(one(i))
            running.add(task)
            task.add_done_callback(done)
            i += 1
            await asyncio.sleep(max(0.0, began + i / per_s - time.perf_counter()))
        await asyncio.gather(*running)


async def _fetch(url: str, path: str, seconds: float, pause_s: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while time.perf_counter() < end:
            asked = time.perf_counter()
            (await client.get(path)).raise_for_status()
            times.append(time.perf_counter() - asked)
            await asyncio.sleep(pause_s)
    return times


def cut(times: list[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    found = statistics.quantiles(times, n=100)
    return round(found[49] * 1000, 1), round(found[98] * 1000, 1)


async def load(
    url: str, port: int, rate: float, seconds: float, meter: Meter, inbox: Path
) -> tuple[int, dict[str, tuple[float, float]]]:
    """(spans acknowledged, (p50, p99) in milliseconds of exports and of every path)."""
    waits: list[float] = []

    async def sample() -> None:
        while True:
            meter.sample()
            await asyncio.sleep(0.2)

    async def say() -> None:
        seen, minute = 0, 0.0
        while True:
            await asyncio.sleep(EVERY_S)
            minute += EVERY_S / 60
            (p50, p99), seen = cut(waits[seen:]), len(waits)
            files = await asyncio.to_thread(_tidy, inbox)
            print(
                f"{minute:>6.0f} {seen * BATCH:>12,} {p50:>8} {p99:>8} {' + '.join(f'{one:.0f}' for one in meter.now):>12} {files:>6}",
                flush=True,
            )

    print(f"{'minute':>6} {'acked':>12} {'p50 ms':>8} {'p99 ms':>8} {'MiB':>12} {'files':>6}", flush=True)
    beside = [asyncio.create_task(one()) for one in (sample, say)]
    fetched = [asyncio.create_task(_fetch(url, path, seconds, 0.25)) for path in PATHS]
    await _send(port, rate / BATCH, seconds, waits)
    figures = {path: cut(await one) for path, one in zip(PATHS, fetched, strict=True)}
    for one in beside:
        one.cancel()
    return len(waits) * BATCH, figures | {"export": cut(waits)}


def _tidy(inbox: Path) -> int:
    """Remove files that compaction has replaced; how many the table has."""
    table = DeltaTable(str(inbox))
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    return len(table.file_uris())


def stored(inbox: Path) -> tuple[int, int]:
    """(rows in the table, distinct request ids)."""
    files = DeltaTable(str(inbox)).file_uris()
    con, rows, distinct = duckdb.connect(), 0, 0
    for part in range(PARTS):
        query = f"SELECT md5_number_lower(request_id) AS id FROM read_parquet({files!r})"
        found = con.execute(
            f"SELECT count(*), count(DISTINCT id) FROM ({query}) WHERE id % {PARTS} = {part}"
        ).fetchone()
        assert found
        rows, distinct = rows + found[0], distinct + found[1]
    return rows, distinct


@contextmanager
def served(folder: str, **receiver: object) -> Iterator[tuple[dict[str, int], subprocess.Popen[str]]]:
    """`lastgood serve` beside a local workspace: its ports, and the process. Leaving ends it and waits for its drain."""
    with local.serve(local.LocalConfig()) as space:
        config = Path(folder) / "lastgood.yaml"
        document = {
            "storage": f"{folder}/data", "workspace": {"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
            "receiver": {"grpc_port": 0, "http_port": 0, "spool": f"{folder}/spool", **receiver}, "web": {"port": 0},
        }  # fmt: skip
        config.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "lastgood", "serve", "--config", str(config)]
        environment = {**os.environ, "LASTGOOD_LOCAL_TOKEN": space.token, **{name.upper(): name for name in SENDERS}}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert process.stdout
        yield json.loads(process.stdout.readline()), process
        process.terminate()
        process.wait(300)


# overload

SENDERS = ("noisy", "quiet")
USUAL, QUIET, BURST = 20.0, 10.0, 10.0
"""Exports of BATCH spans a second: of the noisy sender on a usual day, and of the other; and how much more the noisy one sends in its burst."""
OVERLOADED = {"max_spool_bytes": 256 * 2**20, "max_concurrent": 32, "senders": {name: name.upper() for name in SENDERS}}


@dataclass
class Answers:
    """What became of a sender's exports. `unanswered`: neither acknowledged nor refused in so many words."""

    offered: int = 0
    acked: int = 0
    refused: int = 0
    unanswered: int = 0
    waits: list[float] = field(default_factory=list)
    ended: float = 0.0
    """When the last was answered, in seconds since 1970."""


async def _offer(port: int, sender: str, phases: Sequence[tuple[float, float]], first: int) -> Answers:
    """Send exports in an open loop, whatever becomes of them: `phases` of (exports a second, seconds)."""
    sent = [Stamped(body, i * BATCH) for i, body in enumerate(bodies(BATCH * 16, BATCH))]
    said, running = Answers(), set[asyncio.Task[None]]()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_unary(EXPORT)

        async def export(number: int) -> None:
            body = sent[number % len(sent)].at(time.time_ns(), first + number // len(sent))
            asked = time.perf_counter()
            try:
                await call(body, timeout=60, metadata=(("authorization", f"Bearer {sender}"),))
                said.acked += 1
                said.waits.append(time.perf_counter() - asked)
            except grpc.aio.AioRpcError as error:
                retry = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "grpc-status-details-bin" in dict(
                    error.trailing_metadata()
                )
                said.refused += retry
                said.unanswered += not retry
            said.ended = time.time()

        for per_s, seconds in phases:
            began, i = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                task = asyncio.create_task(export(said.offered))
                said.offered += 1
                running.add(task)
                task.add_done_callback(running.discard)
                i += 1
                await asyncio.sleep(max(0.0, began + i / per_s - time.perf_counter()))
        await asyncio.gather(*running)
    return said


def offer(port: int, sender: str, phases: Sequence[tuple[float, float]], first: int) -> Answers:
    """`_offer` in a process of its own."""
    return asyncio.run(_offer(port, sender, phases, first))


def recovered(url: str, port: int, started: float) -> float:
    """Seconds from the burst's end until the spool is as empty as on a usual day and the noisy sender's export is taken at once."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, httpx.Client(base_url=url, timeout=60) as client:
        call = channel.unary_unary(EXPORT)
        while True:
            text = client.get("/metrics").text
            held = float(
                next(line.split()[-1] for line in text.splitlines() if line.startswith("lastgood_spool_bytes "))
            )
            if held < USUAL * BATCH * 2_000:
                try:
                    call(b"", timeout=60, metadata=(("authorization", "Bearer noisy"),))
                    return time.time() - started
                except grpc.RpcError:
                    pass
            time.sleep(0.1)


def overload(quick: bool) -> dict[str, object]:
    """A sender's usual day, ten times that for a minute, and what another one sees of it."""
    calm, burst = (5.0, 20.0) if quick else (15.0, 60.0)
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2) as pool:
        with served(folder, **OVERLOADED) as (ports, process):
            meter, url = Meter(process.pid), f"http://127.0.0.1:{ports['web']}"
            noisy = pool.submit(offer, ports["grpc"], "noisy", [(USUAL, calm), (USUAL * BURST, burst)], 0)
            quiet = pool.submit(offer, ports["grpc"], "quiet", [(QUIET, calm + burst)], 1 << 20)
            loud, other = noisy.result(), quiet.result()
            meter.sample()
            recovery = recovered(url, ports["grpc"], loud.ended)
            refused = {
                line.split('"')[1]: int(float(line.split()[-1]))
                for line in httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
                if line.startswith("lastgood_exports_refused_total") and not line.endswith(" 0.0")
            }
        rows, distinct = stored(Path(f"{folder}/data/inbox"))
    acked = (loud.acked + other.acked) * BATCH
    print(
        f"quiet: {other.offered} offered, {other.acked} accepted, {other.refused} refused, p50 and p99 ms {cut(other.waits)}"
    )
    print(
        f"noisy: {loud.offered} offered, {loud.acked} accepted, {loud.refused} refused, p50 and p99 ms {cut(loud.waits)}"
    )
    print(f"refused by reason: {refused}; {rows:,} rows, {distinct:,} distinct; peak {meter.peak:.0f} MiB\n{machine()}")
    return {
        "offered": (loud.offered + other.offered) * BATCH, "accepted": acked, "refused": (loud.refused + other.refused) * BATCH,
        "lost": acked - distinct, "doubled": rows - distinct, "unanswered": (loud.unanswered + other.unanswered) * BATCH,
        "refused_well_behaved_sender": other.refused, "p99_ms_well_behaved_sender": cut(other.waits)[1], "recovery_s": round(recovery, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=35_000, help="spans a second: half of what is sustained")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--quick", action="store_true", help="30 seconds")
    parser.add_argument("--overload", action="store_true", help="one sender's burst beside another sender")
    given = parser.parse_args()
    if given.overload:
        print(json.dumps(overload(given.quick)))
        return
    seconds = 30.0 if given.quick else given.seconds
    with tempfile.TemporaryDirectory() as folder:
        with served(folder) as (ports, process):
            meter = Meter(process.pid)
            url = f"http://127.0.0.1:{ports['web']}"
            inbox = Path(f"{folder}/data/inbox")
            acked, figures = asyncio.run(load(url, ports["grpc"], given.rate, seconds, meter, inbox))
        rows, distinct = stored(inbox)
    print(f"{'what':<16} {'p50 ms':>8} {'p99 ms':>8}")
    for name, (p50, p99) in figures.items():
        print(f"{name:<16} {p50:>8} {p99:>8}")
    print(
        f"\n{acked:,} spans acknowledged in {seconds:.0f} s, {rows:,} stored, {distinct:,} distinct; {meter.cpu_s:.0f} CPU s, peak {meter.peak:.0f} MiB"
    )
    print(machine())
    pages = {f"p99_{name.strip('/') or 'page'}_ms": p99 for name, (_, p99) in figures.items()}
    result = {
        "spans_per_s": round(acked / seconds),
        "lost": acked - distinct,
        "doubled": rows - distinct,
        "peak_rss_mb": round(meter.peak),
    }
    print(json.dumps(result | {name.replace("/", "_"): value for name, value in pages.items()}))


if __name__ == "__main__":
    main()
