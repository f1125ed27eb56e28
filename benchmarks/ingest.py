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
import psutil
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from benchmarks.measured import machine
from lastgood import delta

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
START = time.time_ns()


def _pair(key: str, value: Any) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    if isinstance(value, float):
        return KeyValue(key=key, value=AnyValue(double_value=value))
    if isinstance(value, list):
        return KeyValue(
            key=key, value=AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=v) for v in value]))
        )
    return KeyValue(key=key, value=AnyValue(string_value=value))


def span(i: int) -> Span:
    """One GenAI client span, 20 attributes, about 1 KB."""
    marks: dict[str, Any] = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "databricks", "gen_ai.request.model": "support-chat",
        "gen_ai.response.id": f"chatcmpl-{i:024x}", "lastgood.endpoint": "support-chat", "model_version": str(2 + i % 2),
        "gen_ai.usage.input_tokens": 40 + i % 900, "gen_ai.usage.output_tokens": 30 + i % 400,
        "gen_ai.response.finish_reasons": ["stop"], "gen_ai.request.max_tokens": 512, "gen_ai.request.temperature": 0.2,
        "gen_ai.response.time_to_first_chunk": 0.05 + (i % 50) / 1000, "feature.age_ms": float(i % 60_000),
        "http.response.status_code": 200, "server.address": "workspace.example.com", "server.port": 443, "enduser.id": f"user-{i % 500}",
        "team": ("search", "billing", "docs")[i % 3],
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": f"question {i} " + "about it " * 12}]}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "an answer " * 14}]}]),
    }  # fmt: skip
    at = START + i * 1_000
    return Span(
        trace_id=i.to_bytes(16, "big"), span_id=(i + 1).to_bytes(8, "big"), name="chat support-chat", kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=at, end_time_unix_nano=at + 80_000_000 + i % 1000, attributes=[_pair(k, v) for k, v in marks.items()],
    )  # fmt: skip


def bodies(spans: int, size: int) -> list[bytes]:
    """Export bodies of `size` spans each."""
    return [
        ExportTraceServiceRequest(
            resource_spans=[
                ResourceSpans(scope_spans=[ScopeSpans(spans=[span(i) for i in range(first, min(first + size, spans))])])
            ]
        ).SerializeToString()
        for first in range(0, spans, size)
    ]


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


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Meter:
    """CPU seconds and peak memory of a process and its children, sampled."""

    def __init__(self, pid: int) -> None:
        self._root, self._cpu, self.peak = psutil.Process(pid), dict[int, float](), 0.0

    def sample(self) -> None:
        total = 0
        with contextlib.suppress(psutil.Error):
            for one in (self._root, *self._root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = one.cpu_times()
                    self._cpu[one.pid] = times.user + times.system
                    total += one.memory_info().rss
        self.peak = max(self.peak, total / 2**20)

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu.values())


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
from lastgood.config import Receiver
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
PLAIN = """
import asyncio, signal, sys
import grpc, pyarrow as pa
from datetime import UTC, datetime
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from lastgood import delta
from lastgood.collectors.otlp.columns import SCHEMA
from lastgood.collectors.otlp.rows import SpanDecoder
rows, waiting = [], []
async def export(body, context):
    found = SpanDecoder().traces(ExportTraceServiceRequest.FromString(body), datetime.now(UTC))
    rows.extend(found.rows)
    done = asyncio.get_running_loop().create_future()
    waiting.append(done)
    await done
    return b""
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    method = grpc.unary_unary_rpc_method_handler(export)
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, 0, flush=True)
    while not stop.is_set() or waiting:
        await asyncio.sleep(0.2)
        taken, done = rows[:], waiting[:]
        rows.clear(); waiting.clear()
        if taken:
            await asyncio.to_thread(delta.append, sys.argv[1] + "/inbox", pa.Table.from_pylist(taken, SCHEMA))
        for one in done:
            one.set_result(None)
    await server.stop(1)
asyncio.run(main())
"""


def collector_config(folder: Path, grpc_port: int, http_port: int, queue: str) -> Path:
    """`queue`: none (otlp -> file), disk, or fsync (otlp -> otlp exporter with a persistent queue -> otlp -> file, in one process).

    The file exporter has no queue of its own, so a second receiver of the same process stands behind the queue.
    """
    inner = _free_port()
    config: dict[str, Any] = {
        "receivers": {"otlp": {"protocols": {
            "grpc": {"endpoint": f"127.0.0.1:{grpc_port}", "max_recv_msg_size_mib": 64}, "http": {"endpoint": f"127.0.0.1:{http_port}"},
        }}},
        "exporters": {"file": {"path": str(folder / "out.pb"), "format": "proto"}},
        "service": {
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
        },
    }  # fmt: skip
    if queue != "none":
        store = {
            "enabled": True,
            "queue_size": 1_000_000,
            "num_consumers": 4,
            "storage": "file_storage",
            "block_on_overflow": True,
        }
        config["receivers"]["otlp/inner"] = {
            "protocols": {"grpc": {"endpoint": f"127.0.0.1:{inner}", "max_recv_msg_size_mib": 64}}
        }
        config["exporters"]["otlp_grpc"] = {
            "endpoint": f"127.0.0.1:{inner}", "tls": {"insecure": True}, "compression": "none", "sending_queue": store,
        }  # fmt: skip
        (folder / "queue").mkdir()
        config["extensions"] = {"file_storage": {"directory": str(folder / "queue"), "fsync": queue == "fsync"}}
        config["service"]["extensions"] = ["file_storage"]
        config["service"]["pipelines"] = {
            "traces": {"receivers": ["otlp"], "exporters": ["otlp_grpc"]},
            "traces/inner": {"receivers": ["otlp/inner"], "exporters": ["file"]},
        }
    path = folder / "collector.yaml"
    path.write_text(json.dumps(config))
    return path


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
            port, http = _free_port(), _free_port()
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
