"""The service under load: spans in at a given rate while pages and /metrics are fetched: `python -m benchmarks.service [--quick]`.

`lastgood serve` against the local workspace; spans come over gRPC, every one with ids of its own, while the page of all
endpoints, the incidents and /metrics are fetched four times a second. Load and service share the two cores. `--seconds 3600` is the soak:
a line every five minutes, and files that compaction has replaced are removed as they come (`lastgood job maintain` keeps them a week).
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=35_000, help="spans a second: half of what is sustained")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--quick", action="store_true", help="30 seconds")
    given = parser.parse_args()
    seconds = 30.0 if given.quick else given.seconds
    with tempfile.TemporaryDirectory() as folder, local.serve(local.LocalConfig()) as space:
        config = Path(folder) / "lastgood.yaml"
        document = {
            "storage": f"{folder}/data", "workspace": {"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
            "receiver": {"grpc_port": 0, "http_port": 0, "spool": f"{folder}/spool"}, "web": {"port": 0},
        }  # fmt: skip
        config.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "lastgood", "serve", "--config", str(config)]
        environment = {**os.environ, "LASTGOOD_LOCAL_TOKEN": space.token}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert process.stdout
        ports = json.loads(process.stdout.readline())
        meter = Meter(process.pid)
        url = f"http://127.0.0.1:{ports['web']}"
        inbox = Path(f"{folder}/data/inbox")
        acked, figures = asyncio.run(load(url, ports["grpc"], given.rate, seconds, meter, inbox))
        process.terminate()
        process.wait(300)
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
