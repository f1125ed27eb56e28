"""What the receiver is measured beside: a plain Python receiver, and the OpenTelemetry Collector with and without a persistent queue."""

import json
from pathlib import Path
from typing import Any

from benchmarks.measured import free_port

PLAIN = """
import asyncio, signal, sys
import grpc, pyarrow as pa
from datetime import UTC, datetime
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from lastgood.tables import delta
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
    inner = free_port()
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
