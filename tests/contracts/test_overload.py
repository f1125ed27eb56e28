"""The receiver as a process of its own under senders that want more than there is: it refuses early and by sender, loses nothing that it
acknowledged, and recovers by itself."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import grpc
import httpx
import psutil
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from otlp_support import batch, pairs
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import HANG_S, until

from lastgood.collectors.otlp.asgi import bind
from lastgood.tables import delta

KIND = {"content-type": "application/x-protobuf"}
PROCESS = """
import asyncio, json, os, resource, sys
from pathlib import Path
from lastgood.collectors.otlp.receiver import OtlpReceiver
from lastgood.collectors.otlp.writer import figures
from lastgood.settings import Receiver
async def main():
    given = json.loads(sys.argv[2])
    if files := given.pop("files"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    hoard = [os.dup(0) for _ in range(given.pop("hoard", 0))]
    settings = Receiver(grpc_port=0, http_port=0, spool=Path(sys.argv[1]) / "spool", **given)
    receiver = OtlpReceiver(sys.argv[1] + "/inbox", settings)
    async with receiver.running():
        print(json.dumps([receiver.grpc_port, receiver.http_port]), flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line == "free\\n":
                for fd in hoard:
                    os.close(fd)
            print(json.dumps(figures(receiver.tally, receiver.writer.spool)), flush=True)
asyncio.run(main())
"""


class Process:
    """A receiver in a process of its own."""

    def __init__(self, folder: Path, files: int = 0, **settings: Any) -> None:
        given = json.dumps({"commit_interval_s": 0.05, "files": files} | settings)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder), given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "ONE": "token-one", "TWO": "token-two"},
        )  # fmt: skip
        assert self.process.stdout
        self.grpc, self.http = json.loads(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.http}/v1/traces"

    def figures(self, say: str = "figures") -> dict[str, float]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{say}\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def stored(self) -> Counter[str]:
        """Request ids in the table, once all that was acknowledged is there."""
        until(lambda: not self.figures()["spool_bytes"], "all of the spool in Delta")
        return Counter(delta.read(self.folder / "inbox")["request_id"].to_pylist())


@contextmanager
def running(folder: Path, files: int = 0, **settings: Any) -> Iterator[Process]:
    made = Process(folder, files, **settings)
    try:
        yield made
    finally:
        made.process.communicate(timeout=HANG_S)
        assert made.process.returncode == 0


def padded(size: int, *ids: str) -> bytes:
    export = batch(*ids)
    for span in export.resource_spans[0].scope_spans[0].spans:
        span.attributes.extend(pairs({"pad": "x" * size}))
    return export.SerializeToString()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer token-{token}"}


def connected(port: int, address: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=HANG_S, source_address=(address, 0))


def test_a_sender_that_floods_is_refused_and_the_other_is_not(tmp_path: Path) -> None:
    """One sends all it can over both protocols, from more threads than may be under way; the other one export after another."""
    acknowledged: list[str] = []
    refused: Counter[str] = Counter()
    over = threading.Event()
    with running(tmp_path, max_concurrent=8, senders={"one": "ONE", "two": "TWO"}) as receiver:

        def flood(worker: int) -> None:
            with httpx.Client(headers={**KIND, **bearer("one")}, timeout=HANG_S) as client:
                for turn in range(10_000):
                    if over.is_set():
                        return
                    answer = client.post(receiver.url, content=padded(50_000, name := f"one-{worker}-{turn}"))
                    if answer.status_code == 200:
                        acknowledged.append(name)
                    else:
                        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
                        refused["http"] += 1

        def flood_grpc(worker: int) -> None:
            with grpc.insecure_channel(f"127.0.0.1:{receiver.grpc}") as channel:
                stub = TraceServiceStub(channel)
                for turn in range(10_000):
                    if over.is_set():
                        return
                    name = f"grpc-{worker}-{turn}"
                    try:
                        stub.Export(batch(name), timeout=HANG_S, metadata=tuple(bearer("one").items()))
                        acknowledged.append(name)
                    except grpc.RpcError as error:
                        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                        told, trailing = error_details_pb2.RetryInfo(), dict(error.trailing_metadata())
                        assert status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).details[0].Unpack(told)
                        assert told.retry_delay.seconds == 1
                        refused["grpc"] += 1

        with ThreadPoolExecutor(24) as pool:
            floods = [pool.submit(flood, i) for i in range(12)] + [pool.submit(flood_grpc, i) for i in range(12)]
            until(lambda: refused["http"] > 20 and refused["grpc"] > 20, "the flood is refused")
            with httpx.Client(headers={**KIND, **bearer("two")}, timeout=HANG_S) as client:
                quiet = [client.post(receiver.url, content=padded(0, f"two-{i}")).status_code for i in range(100)]
            over.set()
            for each in floods:
                each.result()
        counted, stored = receiver.figures(), receiver.stored()
    assert quiet == [200] * 100
    assert stored == Counter([*acknowledged, *(f"two-{i}" for i in range(100))])
    assert counted["refused_share"] + counted["refused_exports"] == refused.total()


def test_official_exporters_deliver_everything_through_an_overload_that_ends(tmp_path: Path) -> None:
    with running(tmp_path, max_concurrent=1, senders={"one": "ONE", "two": "TWO"}) as receiver, ExitStack() as slow:
        head = f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND['content-type']}\r\nAuthorization: Bearer token-one\r\n"
        holder = slow.enter_context(connected(receiver.http))
        holder.sendall(f"{head}Content-Length: 99\r\n\r\nabc".encode())
        exporters: list[Any] = [
            GrpcExporter(f"http://127.0.0.1:{receiver.grpc}", insecure=True, headers=bearer("two")),
            HttpExporter(receiver.url, headers=bearer("two")),
        ]
        provider = TracerProvider()
        for exporter in exporters:
            provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=10))
        with provider.get_tracer("t").start_as_current_span(
            "chat", kind=SpanKind.CLIENT, attributes={"lastgood.request_id": "r", "lastgood.endpoint": "c"}
        ):
            pass
        until(lambda: receiver.figures()["refused_exports"] >= 2, "both exporters are refused")
        holder.close()
        assert provider.force_flush(int(HANG_S * 1000))
        stored = receiver.stored()
        provider.shutdown()
    assert stored == {"r": 2}, "once by each exporter"


def test_one_sender_cannot_fill_the_spool_for_all(tmp_path: Path) -> None:
    (tmp_path / "inbox").write_text("no folder: nothing can be committed")
    with running(tmp_path, max_spool_bytes=1 << 20, senders={"one": "ONE", "two": "TWO"}) as receiver:
        sent = [
            httpx.post(receiver.url, content=padded(60_000, f"one-{i}"), headers=KIND | bearer("one"), timeout=HANG_S)
            for i in range(20)
        ]
        assert [answer.status_code for answer in sent][-1] == 429
        kept = [f"one-{i}" for i, answer in enumerate(sent) if answer.status_code == 200]
        other = httpx.post(receiver.url, content=padded(60_000, "two"), headers=KIND | bearer("two"), timeout=HANG_S)
        assert other.status_code == 200
        assert receiver.figures()["refused_share"] == 20 - len(kept)
        (tmp_path / "inbox").unlink()
        stored = receiver.stored()
        again = httpx.post(receiver.url, content=padded(0, "one-again"), headers=KIND | bearer("one"), timeout=HANG_S)
        assert again.status_code == 200, "what the drain has taken is free again"
    assert stored == Counter([*kept, "two"])


def test_senders_that_stop_in_the_middle_are_let_go(tmp_path: Path) -> None:
    """No head, half a head, half a body, an answer that is never read, a gRPC call without a body: none keeps a connection or a place."""
    with running(tmp_path, read_timeout_s=0.5) as receiver, ExitStack() as stack:
        begun = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n"
        body = padded(0, "read-by-nobody")
        whole = begun + b"Content-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        silent = [stack.enter_context(connected(receiver.http)) for _ in range(4)]
        for held, given in zip(
            silent,
            (b"", begun, begun + b"Content-Length: 9\r\nContent-Type: application/json\r\n\r\n{", whole),
            strict=True,
        ):
            held.sendall(given)
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{receiver.grpc}"))
        call = channel.stream_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        with pytest.raises(grpc.RpcError) as caught:
            call(_never(), timeout=HANG_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        for held in silent:
            while held.recv(4096):
                pass
        assert receiver.figures()["refused_slow"] == 4, "the one that sent all and read nothing was only idle"
        assert httpx.post(receiver.url, content=padded(0, "after"), headers=KIND, timeout=HANG_S).status_code == 200
        assert set(receiver.stored()) == {"read-by-nobody", "after"}


def _never() -> Iterator[bytes]:
    time.sleep(2)
    yield b""


def test_a_sender_that_waits_for_no_answer_is_cut_off(tmp_path: Path) -> None:
    """Request after request on one connection, and no answer read: they are not queued without end."""
    wrong = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n7"
    with running(tmp_path) as receiver:
        with connected(receiver.http) as deaf, pytest.raises(OSError):
            for _ in range(100_000):
                deaf.sendall(wrong * 1000)
        until(lambda: receiver.figures()["refused_exports"] == 1, "the connection is cut off")
        assert httpx.post(receiver.url, content=padded(0, "after"), headers=KIND, timeout=HANG_S).status_code == 200


@pytest.mark.parametrize("parser", ["httptools", "h11"])
def test_an_answer_that_nobody_reads_ends_with_its_connection(parser: Literal["httptools", "h11"]) -> None:
    heard: list[str] = []
    taken: list[int] = []

    async def large(request: Request) -> Response:
        return Response(b"x" * 50_000_000)

    async def serve() -> None:
        server, sockets, port = bind(
            Starlette(routes=[Route("/", large)]), "127.0.0.1", 0, 0.2, heard.append, http=parser
        )
        serving = asyncio.create_task(server.serve(sockets=sockets))
        while not server.started:
            await asyncio.sleep(0.01)
        deaf = await asyncio.to_thread(connected, port)
        deaf.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(HANG_S):
            while not heard:
                await asyncio.sleep(0.05)
        with deaf, suppress(ConnectionResetError):
            while part := await asyncio.to_thread(deaf.recv, 1 << 20):
                taken.append(len(part))
        server.should_exit = True
        await serving

    asyncio.run(serve())
    assert heard == ["slow"]
    assert sum(taken) < 50_000_000


@pytest.mark.parametrize("parser", ["httptools", "h11"])
def test_a_connection_that_says_nothing_ends_and_one_that_asks_is_answered(parser: Literal["httptools", "h11"]) -> None:
    heard: list[str] = []

    async def serve() -> tuple[bytes, bytes]:
        app = Starlette(routes=[Route("/", lambda request: Response("here"))])
        server, sockets, port = bind(app, "127.0.0.1", 0, 0.3, heard.append, http=parser)
        serving = asyncio.create_task(server.serve(sockets=sockets))
        while not server.started:
            await asyncio.sleep(0.01)
        with await asyncio.to_thread(connected, port) as silent, await asyncio.to_thread(connected, port) as asks:
            asks.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            answered = b""
            while part := await asyncio.to_thread(asks.recv, 1 << 16):
                answered += part
            said = await asyncio.to_thread(silent.recv, 100)
        server.should_exit = True
        await serving
        return said, answered

    said, answered = asyncio.run(serve())
    assert said == b""
    assert answered.count(b"here") == 2
    assert heard == ["slow"]


def test_a_head_without_an_end_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as receiver, connected(receiver.http) as endless:
        said = b""
        try:
            endless.sendall(b"POST /v1/traces HTTP/1.1\r\nX: ")
            for _ in range(1000):
                endless.sendall(b"x" * 10_000)
        except OSError:
            pass
        try:
            said = endless.recv(100)
        except OSError:
            pass
        assert said == b"" or b" 431 " in said
        assert receiver.figures()["refused_size"] == 1


def test_more_connections_than_files_leave_room_for_another_sender_and_the_spool(tmp_path: Path) -> None:
    """One address opens more connections than the process may have files; another one sends all the same."""
    with running(tmp_path, files=400) as receiver, ExitStack() as stack:
        for port in (receiver.http, receiver.grpc):
            for _ in range(450):
                stack.enter_context(connected(port))
        until(lambda: receiver.figures()["refused_connections"] > 300, "connections are refused")
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), timeout=HANG_S) as other:
            assert other.post(receiver.url, content=padded(0, "other"), headers=KIND).status_code == 200
        stack.close()

        def taken() -> bool:
            return httpx.post(receiver.url, content=padded(0, "same"), headers=KIND, timeout=HANG_S).status_code == 200

        until(taken, "the address is served again once its connections are gone")
        with grpc.insecure_channel(f"127.0.0.1:{receiver.grpc}") as channel:
            TraceServiceStub(channel).Export(batch("grpc"), timeout=HANG_S, wait_for_ready=True)
        assert {"other", "same", "grpc"} <= set(receiver.stored())


def test_without_a_file_descriptor_it_waits_without_a_busy_loop_and_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, files=256, hoard=150) as receiver, ExitStack() as stack:
        waiting = [stack.enter_context(connected(receiver.http)) for _ in range(200)]
        process = psutil.Process(receiver.process.pid)
        until(lambda: process.num_fds() >= 250, "no descriptor is left")
        before = sum(process.cpu_times()[:2])
        time.sleep(3)
        assert sum(process.cpu_times()[:2]) - before < 1.5, "CPU seconds of 3"
        receiver.figures("free")
        for each in waiting:
            each.close()
        assert httpx.post(receiver.url, content=padded(0, "after"), headers=KIND, timeout=HANG_S).status_code == 200
        assert set(receiver.stored()) == {"after"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, where this user may mount one; else a disk that is full by RLIMIT_FSIZE's rules is not the same: none."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.fail("no right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_that_becomes_free_is_used_again(tmp_path: Path, small_disk: Path) -> None:
    spooled = tmp_path / "spool"
    spooled.symlink_to(small_disk)
    full = small_disk / "somebody-elses"
    acknowledged = ["before"]
    with running(tmp_path) as receiver:

        def send(name: str) -> httpx.Response:
            return httpx.post(receiver.url, content=padded(200_000, name), headers=KIND, timeout=HANG_S)

        assert send("before").status_code == 200
        receiver.stored()
        with full.open("wb", buffering=0) as other, pytest.raises(OSError, match="No space left"):
            while True:
                other.write(b"x" * 4096)
        refused = [send(f"full-{i}") for i in range(5)]
        assert {(answer.status_code, answer.headers.get("retry-after")) for answer in refused} == {(503, "5")}
        assert receiver.figures()["refused_disk"] == 5
        full.unlink()
        for i in range(5):
            assert send(f"after-{i}").status_code == 200
            acknowledged.append(f"after-{i}")
        stored = receiver.stored()
    assert stored == Counter(acknowledged)
