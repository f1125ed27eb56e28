"""The OTLP receiver under unmodified exporters, hostile senders, and kill -9."""

import asyncio
import gzip
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

from lastgood import delta
from lastgood.collectors.otlp import OtlpReceiver
from lastgood.config import Receiver

AT = int(datetime.now(UTC).timestamp()) * 10**9
JSON = {"content-type": "application/json"}


def batch(*ids: str, good: bool = True) -> ExportTraceServiceRequest:
    spans = [
        Span(
            trace_id=b"\x01" * 16, span_id=i.to_bytes(8, "big"), kind=Span.SPAN_KIND_CLIENT, start_time_unix_nano=AT,
            end_time_unix_nano=AT + (1000 if good else -1000),
            attributes=[
                KeyValue(key=key, value=AnyValue(string_value=value))
                for key, value in (("lastgood.request_id", name), ("lastgood.endpoint", "chat"))
            ],
        )
        for i, name in enumerate(ids, 1)
    ]  # fmt: skip
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])


@contextmanager
def receiving(path: Path, **settings: object) -> Iterator[OtlpReceiver]:
    """A receiver in a thread, its event loop its own; leaving drains it."""
    options = {"grpc_port": 0, "http_port": 0, "commit_interval_s": 0.05} | settings
    receiver, up = OtlpReceiver(str(path / "inbox"), Receiver(**options)), threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        done, loop = asyncio.Event(), asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(done.set))
        async with receiver.running():
            up.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert up.wait(20)
    try:
        yield receiver
    finally:
        stop[0]()
        thread.join(30)
        assert not thread.is_alive()


def inbox(path: Path) -> list[dict[str, object]]:
    return delta.read(path / "inbox").to_pylist()


def post(receiver: OtlpReceiver, content: bytes, **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"http://127.0.0.1:{receiver.http_port}/v1/traces", content=content, headers=given, timeout=20)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_official_exporter_delivers_every_span(tmp_path: Path, protocol: str) -> None:
    with receiving(tmp_path) as receiver:
        exporter = (
            GrpcExporter(f"http://127.0.0.1:{receiver.grpc_port}", insecure=True)
            if protocol == "grpc"
            else HttpExporter(f"http://127.0.0.1:{receiver.http_port}/v1/traces")
        )
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=50))
        tracer = provider.get_tracer("test")
        for i in range(200):
            marks = {"lastgood.endpoint": "chat", "lastgood.request_id": f"r{i}", "gen_ai.usage.input_tokens": i}
            with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=marks):
                pass
        assert provider.force_flush(20_000)
        found = {row["request_id"]: row["tokens_in"] for row in inbox(tmp_path)}
        provider.shutdown()
    assert found == {f"r{i}": i for i in range(200)}


def test_json_with_gzip_is_read_and_durable_when_acknowledged(tmp_path: Path) -> None:
    document = MessageToDict(batch("a", "b"))
    for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        span |= {"traceId": "01" * 16, "spanId": "02" * 8, "kind": 3}
    with receiving(tmp_path) as receiver:
        answer = httpx.post(
            f"http://127.0.0.1:{receiver.http_port}/v1/traces",
            content=gzip.compress(httpx.Request("POST", "http://x", json=document).content),
            headers=JSON | {"content-encoding": "gzip"},
        )
        assert {row["request_id"] for row in inbox(tmp_path)} == {"a", "b"}
    assert (answer.status_code, answer.json()) == (200, {})


LIMIT = 100_000
REFUSED = {
    "malformed protobuf": (b"\xff\xff\xff", {"content_type": "application/x-protobuf"}, {400}),
    "JSON that is not an object": (b"[1]", {"content_type": "application/json"}, {400}),
    "JSON with a span that is a number": (
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [7]}]}]}', {"content_type": "application/json"}, {400},
    ),
    "not gzip": (b"plain", {"content_type": "application/x-protobuf", "content_encoding": "gzip"}, {400}),
    "gzip cut short": (
        gzip.compress(batch("a").SerializeToString())[:-9],
        {"content_type": "application/x-protobuf", "content_encoding": "gzip"}, {400},
    ),
    "an encoding nobody reads": (b"x", {"content_type": "application/x-protobuf", "content_encoding": "br"}, {400, 415}),
    "a compressed bomb": (
        gzip.compress(b"\x00" * 200_000_000, 9)[:LIMIT],
        {"content_type": "application/x-protobuf", "content_encoding": "gzip"}, {400, 413},
    ),
    "a small bomb": (
        zlib.compress(b"\x00" * 10_000_000), {"content_type": "application/x-protobuf", "content_encoding": "deflate"}, {400, 413},
    ),
    "a body above the limit": (b"\x00" * (LIMIT + 1), {"content_type": "application/x-protobuf"}, {413}),
    "an unsupported type": (b"a=b", {"content_type": "text/plain"}, {415}),
    "no type": (b"x", {}, {415}),
}  # fmt: skip


def test_what_is_no_export_is_refused_by_its_status_and_costs_nothing(tmp_path: Path) -> None:
    with receiving(tmp_path, max_body_bytes=LIMIT) as receiver:
        for case, (content, headers, statuses) in REFUSED.items():
            answer = post(receiver, content, **headers)
            assert answer.status_code in statuses, f"{case}: {answer.status_code} {answer.text}"
            assert answer.text, case
        assert httpx.get(f"http://127.0.0.1:{receiver.http_port}/v1/traces").status_code == 405
        assert (
            post(receiver, batch("after").SerializeToString(), content_type="application/x-protobuf").status_code == 200
        )
    assert [row["request_id"] for row in inbox(tmp_path)] == ["after"]


def test_one_bad_span_is_set_aside_and_the_rest_of_its_batch_kept(tmp_path: Path) -> None:
    mixed = batch("a", "b")
    mixed.MergeFrom(batch("backwards", good=False))
    with receiving(tmp_path) as receiver:
        answer = post(receiver, mixed.SerializeToString(), content_type="application/x-protobuf")
        tally = receiver.writer.tally
    said = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert said.rejected_spans == 0
    assert said.error_message == "1 of 3 spans are in quarantine, first reason: span ends before it starts"
    assert {row["request_id"]: row["reject_reason"] for row in inbox(tmp_path)} == {
        "a": None,
        "b": None,
        "backwards": "span ends before it starts",
    }
    assert (tally.accepted, tally.set_aside) == (2, 1)


def test_a_full_queue_asks_the_sender_to_come_back(tmp_path: Path) -> None:
    with receiving(tmp_path, max_queued_spans=3) as receiver:
        answer = post(receiver, batch(*"abcd").SerializeToString(), content_type="application/x-protobuf")
        with grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel:
            with pytest.raises(grpc.RpcError) as caught:
                TraceServiceStub(channel).Export(batch(*"abcd"), timeout=10)
            TraceServiceStub(channel).Export(batch(*"xy"), timeout=10)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert {row["request_id"] for row in inbox(tmp_path)} == {"x", "y"}


def test_a_graceful_stop_commits_what_was_taken(tmp_path: Path) -> None:
    answers: list[int] = []
    with receiving(tmp_path, commit_interval_s=0.5) as receiver:
        content = batch("late").SerializeToString()
        sender = threading.Thread(
            target=lambda: answers.append(post(receiver, content, content_type="application/x-protobuf").status_code)
        )
        sender.start()
        while not receiver.writer._rows:
            time.sleep(0.005)
    sender.join(20)
    assert answers == [200]
    assert [row["request_id"] for row in inbox(tmp_path)] == ["late"]


PROCESS = """
import asyncio, sys
from lastgood.collectors.otlp import OtlpReceiver
from lastgood.config import Receiver
async def main():
    settings = Receiver(grpc_port=int(sys.argv[2]), http_port=0, commit_interval_s=0.05)
    async with OtlpReceiver(sys.argv[1], settings).running():
        print("up", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_acknowledged_and_a_resend_completes_it(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path / "inbox"), str(port)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process.stdout as said:
            assert said.readline() == "up\n"
        return process

    batches = [[f"{i}-{j}" for j in range(5)] for i in range(80)]
    acknowledged: list[str] = []
    kills = {15, 40, 41}

    def send() -> None:
        options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            stub = TraceServiceStub(channel)
            for ids in batches:
                while True:
                    try:
                        stub.Export(batch(*ids), timeout=5, wait_for_ready=True)
                        break
                    except grpc.RpcError:
                        continue
                acknowledged.extend(ids)

    receiver = start()
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    survived: list[set[str]] = []
    for at in sorted(kills):
        while len(acknowledged) < at * 5:
            time.sleep(0.005)
        receiver.kill()
        receiver.wait()
        said = set(acknowledged)
        survived.append(said - {str(row["request_id"]) for row in inbox(tmp_path)})
        receiver = start()
    sender.join(60)
    assert not sender.is_alive()
    receiver.terminate()
    receiver.wait(20)
    assert survived == [set(), set(), set()]
    assert {row["request_id"] for row in inbox(tmp_path)} == {one for ids in batches for one in ids}
