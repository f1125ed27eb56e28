"""OTLP in, durable: Lastgood's receiver beside the OTel Collector and a plain Python receiver, same spans, same two cores.

`python -m benchmarks.ingest [--quick] [--spans N] [--collector PATH]`. The Collector (otlp receiver, file storage as persistent queue,
file exporter) is built by `make collector` with its own builder; without its binary its rows are left out.
Spans: GenAI client spans of 20 attributes and about 1 KB. "acked" counts spans whose export was answered with success; "stored" are rows in
Delta (or lines in the Collector's file) after a graceful stop; the rate is acked spans over the time until the last answer, and "sustained" until
the last one is stored.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.ingest_peers import PLAIN, collector_config
from benchmarks.measured import Meter, free_port, machine
from benchmarks.spans import EXPORT, bodies
from lastgood.tables import delta


@dataclass(frozen=True)
class Case:
    name: str
    protocol: str
    batch: int


@dataclass
class Result:
    """What one run gave. Times in seconds, sizes in bytes."""

    acked: int = 0
    stored: int = 0
    distinct: int = 0
    wall_s: float = 0.0
    sustained_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_mb: float = 0.0
    written: int = 0
    waits: list[float] | None = None

    def row(self) -> dict[str, Any]:
        waits = sorted(self.waits or [0.0])
        cut = statistics.quantiles(waits, n=100) if len(waits) > 1 else waits * 99
        return {
            "spans_per_s": round(self.acked / self.wall_s),
            "sustained_per_s": round(self.acked / self.sustained_s),
            "cpu_s_per_million": round(self.cpu_s / self.acked * 1e6, 1),
            "p50_ack_ms": round(cut[49] * 1000, 1),
            "p99_ack_ms": round(cut[98] * 1000, 1),
            "peak_rss_mb": round(self.peak_rss_mb),
            "written_mb": round(self.written / 2**20, 1),
            "acked": self.acked,
            "stored": self.stored,
            "lost": self.acked - self.distinct,
            "doubled": self.stored - self.distinct,
        }


async def _send(
    case: Case, sent: list[bytes], port: int, http: int, meter: Meter, flows: int
) -> tuple[float, list[float]]:
    """Send all bodies over `flows` concurrent senders; retryable answers are sent again. (seconds, seconds per answer)."""
    waits: list[float] = []
    queue = iter(sent)

    async def flow(export: Any) -> None:
        for body in queue:
            began = time.perf_counter()
            while not await export(body):
                await asyncio.sleep(0.05)
            waits.append(time.perf_counter() - began)

    async def sample() -> None:
        while True:
            meter.sample()
            await asyncio.sleep(0.1)

    sampling = asyncio.create_task(sample())
    began = time.perf_counter()
    if case.protocol == "grpc":
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(EXPORT)

            async def over_grpc(body: bytes) -> bool:
                try:
                    await call(body, timeout=60)
                except grpc.aio.AioRpcError:
                    return False
                return True

            await asyncio.gather(*(flow(over_grpc) for _ in range(flows)))
    else:
        limits = httpx.Limits(max_connections=flows)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http}", limits=limits, timeout=60) as client:
            headers = {"content-type": "application/x-protobuf"}

            async def over_http(body: bytes) -> bool:
                return (await client.post("/v1/traces", content=body, headers=headers)).status_code == 200

            await asyncio.gather(*(flow(over_http) for _ in range(flows)))
    took = time.perf_counter() - began
    sampling.cancel()
    meter.sample()
    return took, waits


SERVER = """
import asyncio, signal, sys
from pathlib import Path
from lastgood.collectors.otlp.receiver import OtlpReceiver
from lastgood.settings import Receiver
async def main():
    folder = Path(sys.argv[1])
    settings = Receiver(grpc_port=0, http_port=0, spool=folder / "spool")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with OtlpReceiver(str(folder / "inbox"), settings).running() as receiver:
        print(receiver.grpc_port, receiver.http_port, flush=True)
        await stop.wait()
asyncio.run(main())
"""


@contextlib.contextmanager
def _running(command: list[str], folder: Path) -> Iterator["subprocess.Popen[str]"]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def _stored(kind: str, folder: Path) -> tuple[int, int]:
    """(rows stored, distinct among them)."""
    if kind in ("lastgood", "plain"):
        ids = delta.read(folder / "inbox", ["request_id"]).column("request_id").to_pylist()
        return len(ids), len(set(ids))
    data, at, ids = (folder / "out.pb").read_bytes() if (folder / "out.pb").exists() else b"", 0, []
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        message = ExportTraceServiceRequest.FromString(data[at + 4 : at + 4 + size])
        ids += [one.span_id for group in message.resource_spans for scope in group.scope_spans for one in scope.spans]
        at += 4 + size
    return len(ids), len(set(ids))


def _written(folder: Path) -> int:
    kept = [one for one in folder.rglob("*") if one.is_file() and one.suffix in (".parquet", ".pb", ".json")]
    return sum(one.stat().st_size for one in kept)


def _caught_up(kind: str, folder: Path, expected: int, meter: Meter) -> None:
    """Wait until everything acknowledged has been handed on."""
    until, size = time.monotonic() + 300, -1
    while time.monotonic() < until:
        meter.sample()
        if kind == "lastgood":
            names = {
                one.name
                for one in (folder / "spool").iterdir()
                if one.suffix in (".seg", ".open") and one.stat().st_size
            }
            if not names:
                return
        elif kind == "plain":
            return
        else:
            now = (folder / "out.pb").stat().st_size if (folder / "out.pb").exists() else 0
            if now == size and now > 0:
                return
            size = now
            time.sleep(0.4)
        time.sleep(0.05)


def measure(kind: str, case: Case, sent: list[bytes], spans: int, collector: str, flows: int) -> Result:
    """One run of one receiver. `kind`: lastgood, plain, collector, collector-disk, collector-fsync."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if kind.startswith("collector"):
            port, http = free_port(), free_port()
            config = collector_config(folder, port, http, kind.partition("-")[2] or "none")
            command = [collector, "--config", str(config)]
        else:
            command, port, http = [sys.executable, "-c", SERVER if kind == "lastgood" else PLAIN, name], 0, 0
        with _running(command, folder) as process:
            if not port:
                assert process.stdout is not None
                port, http = map(int, process.stdout.readline().split())
            else:
                _listening(port)
            time.sleep(3)  # its start is not what is measured
            meter = Meter(process.pid)
            meter.sample()
            began, before = time.perf_counter(), meter.cpu_s
            wall, waits = asyncio.run(_send(case, sent, port, http, meter, flows))
            _caught_up(kind, folder, spans, meter)
            sustained = time.perf_counter() - began
            cpu = meter.cpu_s - before
            process.terminate()
            process.wait(120)
        stored, distinct = _stored(kind, folder)
        return Result(spans, stored, distinct, wall, sustained, cpu, meter.peak, _written(folder), waits)


def _listening(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit("the Collector did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="gRPC in batches of 512 only, once")
    parser.add_argument("--spans", type=int, default=400_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--flows", type=int, default=8, help="concurrent senders")
    parser.add_argument("--collector", default=os.environ.get("OTELCOL", ""))
    given = parser.parse_args()
    spans, runs = (100_000, 1) if given.quick else (given.spans, given.runs)
    cases = [Case("gRPC, 512 a batch", "grpc", 512)]
    if not given.quick:
        cases += [Case("HTTP, 512 a batch", "http", 512), Case("gRPC, 100 a batch", "grpc", 100), Case("HTTP, 100 a batch", "http", 100),
                  Case("gRPC, 1 a batch", "grpc", 1), Case("HTTP, 1 a batch", "http", 1)]  # fmt: skip
    kinds = ["lastgood", *(["collector-fsync", "collector-disk", "collector"] if given.collector else []), "plain"]
    medians: dict[tuple[str, str], dict[str, Any]] = {}
    print(
        "| case | receiver | acked/s | sustained/s | CPU s/M | p50 ms | p99 ms | peak MiB | MiB written | acked | stored | lost | doubled |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        number = max(2_000, spans // 40) if case.batch == 1 else spans // 2 if case.batch == 100 else spans
        sent = bodies(number, case.batch)
        for kind in kinds:
            if kind == "plain" and (case.protocol != "grpc" or case.batch == 1):
                continue  # one way in, and not a commit interval for each span
            rows = [measure(kind, case, sent, number, given.collector, given.flows).row() for _ in range(runs)]
            middle = {name: round(statistics.median(row[name] for row in rows), 1) for name in rows[0]}
            middle |= {name: max(row[name] for row in rows) for name in ("lost", "doubled", "peak_rss_mb")}
            medians[case.name, kind] = middle
            print(
                "|",
                case.name,
                "|",
                kind,
                "|",
                " | ".join(f"{value:,.0f}" if value >= 1000 else f"{value:g}" for value in middle.values()),
                "|",
                flush=True,
            )
    ours = medians[cases[0].name, "lastgood"]
    peer = medians.get((cases[0].name, "collector-fsync"))
    print(machine())
    figures = {
        "spans_per_s": ours["spans_per_s"],
        "collector_spans_per_s": peer["spans_per_s"] if peer else None,
        "ratio": round(ours["spans_per_s"] / peer["spans_per_s"], 2) if peer else None,
        "sustained_per_s": ours["sustained_per_s"],
        "ratio_sustained": round(ours["sustained_per_s"] / peer["sustained_per_s"], 2) if peer else None,
        "ratio_plain_python": round(ours["sustained_per_s"] / medians[cases[0].name, "plain"]["sustained_per_s"], 2),
        "acked": int(ours["acked"]), "stored": int(ours["stored"]), "lost": int(ours["lost"]), "doubled": int(ours["doubled"]),
        "p99_ack_ms": ours["p99_ack_ms"], "cpu_s_per_million": ours["cpu_s_per_million"], "peak_rss_mb": ours["peak_rss_mb"],
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
