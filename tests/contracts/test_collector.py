"""A real OpenTelemetry Collector as a sender; collected where OTELCOL names its binary (`make collector` builds one)."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from otlp_support import batch, inbox, receiving
from servers import free_port
from waiting import HANG_S


@contextmanager
def collector(folder: Path, to: int) -> Iterator[int]:
    """otlp in -> a queue on disk -> otlp to the port `to`, compressed; the port it listens at."""
    port = free_port()
    (folder / "queue").mkdir()
    config = {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{port}"}}}},
        "extensions": {"file_storage": {"directory": str(folder / "queue")}},
        "exporters": {"otlp_grpc": {
            "endpoint": f"127.0.0.1:{to}", "tls": {"insecure": True}, "compression": "gzip", "sending_queue": {"storage": "file_storage"},
            "retry_on_failure": {"initial_interval": "200ms", "max_interval": "1s"},
        }},
        "service": {
            "extensions": ["file_storage"], "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["otlp_grpc"]}},
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
        },
    }  # fmt: skip
    path = folder / "collector.yaml"
    path.write_text(json.dumps(config))
    with subprocess.Popen([os.environ["OTELCOL"], "--config", str(path)]) as process:
        try:
            yield port
        finally:
            process.terminate()


def until_stored(folder: Path, count: int, seconds: float = 60) -> list[str]:
    end = time.monotonic() + seconds
    while len(found := [str(row["request_id"]) for row in inbox(folder)]) < count and time.monotonic() < end:
        time.sleep(0.2)
    return sorted(found)


@pytest.mark.parametrize("full", [False, True], ids=["down at first and again", "full at first"])
def test_what_a_collector_sends_is_stored_once(tmp_path: Path, full: bool) -> None:
    """The receiver is down, or its spool full, when the Collector begins; it goes away in between: the Collector keeps on as it is told."""
    ids, port = [f"r{i:03}" for i in range(300)], free_port()
    bound = {"max_spool_bytes": 1 << 20, "commit_interval_s": 5.0} if full else {}
    with collector(tmp_path, port) as entry, grpc.insecure_channel(f"127.0.0.1:{entry}") as channel:
        grpc.channel_ready_future(channel).result(20)
        send = TraceServiceStub(channel).Export
        if not full:
            send(batch(*ids[:100]), timeout=HANG_S)
            time.sleep(1)  # in which the Collector finds nobody
        with receiving(tmp_path, grpc_port=port, **bound) as receiver:
            for at in range(0 if full else 100, 200, 20):
                sent = batch(*ids[at : at + 20])
                sent.resource_spans[0].resource.attributes.add(key="pad").value.string_value = token_hex(100_000)
                send(sent, timeout=HANG_S)
            assert until_stored(tmp_path, 200) == ids[:200]
            assert (receiver.tally.refused.total() > 0) is full
        send(batch(*ids[200:]), timeout=HANG_S)
        with receiving(tmp_path, grpc_port=port):
            assert until_stored(tmp_path, 300) == ids
