"""The OTLP receiver under unmodified exporters, hostile senders, and kill -9."""

import asyncio
import gzip
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import httpx
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.json_format import MessageToDict, MessageToJson
from google.rpc import error_details_pb2, status_pb2
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from otlp_support import AT, batch, inbox, receiving
from waiting import HANG_S, until

from lastgood import instrument
from lastgood.collectors.otlp import spool
from lastgood.collectors.otlp.receiver import OtlpReceiver
from lastgood.collectors.otlp.writer import GroupCommit, Tally
from lastgood.errors import ConfigError, TransientError
from lastgood.record.redact import Redactor
from lastgood.settings import Capture, Receiver
from lastgood.tables import delta

JSON = {"content-type": "application/json"}


def post(receiver: OtlpReceiver, content: bytes, **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(
        f"http://127.0.0.1:{receiver.http_port}/v1/traces", content=content, headers=given, timeout=HANG_S
    )


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
        assert provider.force_flush(int(HANG_S * 1000))
        found = {row["request_id"]: row["tokens_in"] for row in inbox(tmp_path, receiver)}
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
        assert {row["request_id"] for row in inbox(tmp_path, receiver)} == {"a", "b"}
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
        {"content_type": "application/x-protobuf", "content_encoding": "gzip"}, {413},
    ),
    "a small bomb": (
        zlib.compress(b"\x00" * 10_000_000), {"content_type": "application/x-protobuf", "content_encoding": "deflate"}, {413},
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
    assert (answer.status_code, answer.content) == (200, b"")
    assert {row["request_id"]: row["reject_reason"] for row in inbox(tmp_path)} == {
        "a": None,
        "b": None,
        "backwards": "span ends before it starts",
    }
    assert (receiver.tally.accepted, receiver.tally.rows, receiver.tally.set_aside) == (3, 2, 1)


def test_a_full_spool_asks_the_sender_to_come_back_and_says_when(tmp_path: Path) -> None:
    big = batch("a")
    big.resource_spans[0].scope_spans[0].spans[0].attributes.append(
        KeyValue(key="pad", value=AnyValue(string_value="x" * (1 << 20)))
    )
    with receiving(tmp_path, max_spool_bytes=1 << 20) as receiver:
        answer = post(receiver, big.SerializeToString(), content_type="application/x-protobuf")
        with grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel:
            with pytest.raises(grpc.RpcError) as caught:
                TraceServiceStub(channel).Export(big, timeout=HANG_S)
            TraceServiceStub(channel).Export(batch(*"xy"), timeout=HANG_S)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    told = error_details_pb2.RetryInfo()
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    assert status_pb2.Status.FromString(details).details[0].Unpack(told)
    assert told.retry_delay.seconds >= 1
    assert {row["request_id"] for row in inbox(tmp_path)} == {"x", "y"}
    assert receiver.tally.refused == {"spool": 2}


def test_malformed_protobuf_over_grpc_is_an_invalid_argument(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver, grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        for body in (b"\xff\xff\xff", b"\x0a\x05abc", batch("a").SerializeToString()[:-3]):
            with pytest.raises(grpc.RpcError) as caught:
                export(body, timeout=HANG_S)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert export(batch("b").SerializeToString(), timeout=HANG_S) == b""
    assert [row["request_id"] for row in inbox(tmp_path)] == ["b"]


def test_a_call_with_more_than_one_body_is_not_acknowledged(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver, grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel:
        export = channel.stream_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        for bodies in ([], [batch("a").SerializeToString(), batch("b").SerializeToString()]):
            with pytest.raises(grpc.RpcError) as caught:
                export(iter(bodies), timeout=HANG_S)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        export(iter([batch("c").SerializeToString()]), timeout=HANG_S)
    assert [row["request_id"] for row in inbox(tmp_path)] == ["c"]
    assert receiver.tally.refused == {"invalid": 2}


def test_a_body_that_grpc_itself_refuses_or_whose_sender_leaves_is_counted(tmp_path: Path) -> None:
    """gRPC compares a body's size, also unpacked, before a handler has it."""
    method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    settings: dict[str, Any] = {"max_body_bytes": 1024}
    with (
        receiving(tmp_path, **settings) as receiver,
        grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel,
    ):
        for packed in (None, grpc.Compression.Gzip):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(bytes(100_000), timeout=HANG_S, compression=packed)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        until(lambda: receiver.tally.refused == {"cut": 2}, "both are counted")
        sending = threading.Event()
        call = channel.stream_unary(method).future(_after(sending))
        until(lambda: receiver.admission.held == 1, "the call is under way")
        call.cancel()
        sending.set()
        until(lambda: receiver.tally.refused == {"cut": 3}, "the call that its sender left is counted")
        assert channel.unary_unary(method)(batch("b").SerializeToString(), timeout=HANG_S) == b""
    assert [row["request_id"] for row in inbox(tmp_path)] == ["b"]
    assert receiver.admission.held == 0


def _after(event: threading.Event) -> Iterator[bytes]:
    """No body before the event."""
    event.wait(HANG_S)
    yield b""


def test_an_export_without_spans_is_acknowledged(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        assert post(receiver, b"", content_type="application/x-protobuf").status_code == 200
        assert post(receiver, b"{}", content_type="application/json").status_code == 200
    assert inbox(tmp_path) == []


def test_zstd_is_read(tmp_path: Path) -> None:
    body = pa.compress(batch("z").SerializeToString(), codec="zstd", asbytes=True)
    bomb = pa.compress(b"\x00" * 200_000_000, codec="zstd", asbytes=True)
    with receiving(tmp_path, max_body_bytes=LIMIT) as receiver:
        sent = [
            post(receiver, one, content_type="application/x-protobuf", content_encoding="zstd").status_code
            for one in (body, bomb, b"plain", body[:-4])
        ]
    assert sent == [200, 413, 400, 400]
    assert [row["request_id"] for row in inbox(tmp_path)] == ["z"]


def evaluation(**marks: object) -> list[KeyValue]:
    given = {"gen_ai.evaluation.name": "relevance", "lastgood.request_id": "r1", "lastgood.endpoint": "chat"}
    texts = [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in given.items()]
    return [*texts, KeyValue(key="gen_ai.evaluation.score.value", value=AnyValue(double_value=0.75))]


def test_evaluation_scores_in_logs_and_metrics_are_kept_and_other_items_refused_by_number(tmp_path: Path) -> None:
    records = [
        LogRecord(event_name="gen_ai.evaluation.result", time_unix_nano=AT, attributes=evaluation()),
        LogRecord(body=AnyValue(string_value="something else"), time_unix_nano=AT),
    ]
    logs = ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=records)])])
    points = Gauge(data_points=[NumberDataPoint(time_unix_nano=AT, as_double=0.5)])
    named = [Metric(name="gen_ai.evaluation.score", gauge=points), Metric(name="cpu", gauge=points)]
    sent = ExportMetricsServiceRequest(resource_metrics=[ResourceMetrics(scope_metrics=[ScopeMetrics(metrics=named)])])
    with receiving(tmp_path) as receiver, grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel:
        first = LogsServiceStub(channel).Export(logs, timeout=HANG_S).partial_success
        second = MetricsServiceStub(channel).Export(sent, timeout=HANG_S).partial_success
        url = f"http://127.0.0.1:{receiver.http_port}/v1/logs"
        document = httpx.post(url, content=MessageToJson(logs), headers=JSON, timeout=HANG_S)
    assert (first.rejected_log_records, second.rejected_data_points) == (1, 1)
    assert "only evaluation scores" in first.error_message
    assert document.json()["partialSuccess"]["rejectedLogRecords"] == "1"
    found = sorted(
        (row["name"], row["request_id"], row["value"]) for row in delta.read(tmp_path / "scores").to_pylist()
    )
    assert found == [("gen_ai.evaluation.score", None, 0.5), ("relevance", "r1", 0.75), ("relevance", "r1", 0.75)]


def test_where_senders_are_configured_only_their_tokens_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_TOKEN", "s3cret")
    body = batch("a").SerializeToString()
    with receiving(tmp_path, senders={"app": "APP_TOKEN"}) as receiver:
        kind = {"content_type": "application/x-protobuf"}
        tries = [
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "s3cre"},
            {"authorization": "Bearer s3cret"},
        ]
        assert [post(receiver, body, **kind, **one).status_code for one in tries] == [401, 401, 401, 200]
        with grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel:
            stub = TraceServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Export(batch("b"), timeout=HANG_S)
            stub.Export(batch("c"), timeout=HANG_S, metadata=(("authorization", "Bearer s3cret"),))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert {row["request_id"] for row in inbox(tmp_path)} == {"a", "c"}
    with pytest.raises(ConfigError, match=r"receiver\.senders\.other: the variable NOT_SET is not set"):
        OtlpReceiver("x/inbox", Receiver(senders={"other": "NOT_SET"}))


def certificate(folder: Path, name: str, authority: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
    """A key and a certificate for 127.0.0.1 as NAME.key and NAME.pem, self-signed or by an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(authority[1].subject if authority else subject)
        .public_key(key.public_key()).serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1)).add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .sign(authority[0] if authority else key, hashes.SHA256())
    )  # fmt: skip
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(*plain))
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return key, made


def test_mutual_tls_on_both_ports(tmp_path: Path) -> None:
    authority = certificate(tmp_path, "ca")
    for name in ("server", "client"):
        certificate(tmp_path, name, authority)
    files = {name: tmp_path / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")}
    tls = {"tls_cert": files["server.pem"], "tls_key": files["server.key"], "tls_client_ca": files["ca.pem"]}
    read = {name: path.read_bytes() for name, path in files.items()}
    with receiving(tmp_path, **tls) as receiver:
        where = f"127.0.0.1:{receiver.grpc_port}"
        anonymous = grpc.ssl_channel_credentials(read["ca.pem"])
        known = grpc.ssl_channel_credentials(read["ca.pem"], read["client.key"], read["client.pem"])
        with grpc.secure_channel(where, anonymous) as channel, pytest.raises(grpc.RpcError) as caught:
            TraceServiceStub(channel).Export(batch("no"), timeout=HANG_S)
        with grpc.secure_channel(where, known) as channel:
            TraceServiceStub(channel).Export(batch("grpc"), timeout=HANG_S)
        url, kind = f"https://127.0.0.1:{receiver.http_port}/v1/traces", {"content-type": "application/x-protobuf"}
        context = ssl.create_default_context(cafile=str(files["ca.pem"]))
        with pytest.raises(httpx.TransportError):
            httpx.post(url, content=batch("no").SerializeToString(), headers=kind, verify=context)
        context.load_cert_chain(files["client.pem"], files["client.key"])
        assert (
            httpx.post(url, content=batch("http").SerializeToString(), headers=kind, verify=context).status_code == 200
        )
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert {row["request_id"] for row in inbox(tmp_path)} == {"grpc", "http"}


def test_half_open_clients_are_let_go_and_chunked_bodies_read(tmp_path: Path) -> None:
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
    with receiving(tmp_path, read_timeout_s=0.3) as receiver:
        with socket.create_connection(("127.0.0.1", receiver.http_port), timeout=HANG_S) as half_open:
            half_open.sendall(head + b"Content-Length: 100\r\n\r\nabc")
            assert b" 503 " in half_open.recv(1000)
        body = batch("chunked").SerializeToString()
        pieces = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (body[:10], body[10:])) + b"0\r\n\r\n"
        with socket.create_connection(("127.0.0.1", receiver.http_port), timeout=HANG_S) as chunked:
            chunked.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + pieces)
            assert b" 200 " in chunked.recv(1000)
    assert [row["request_id"] for row in inbox(tmp_path)] == ["chunked"]


def test_slow_senders_do_not_fill_the_memory(tmp_path: Path) -> None:
    head = (
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 99999\r\n\r\n"
    )
    body = batch("after").SerializeToString()
    with receiving(tmp_path, max_body_bytes=LIMIT) as receiver, ExitStack() as slow:
        for _ in range(5):
            one = slow.enter_context(socket.create_connection(("127.0.0.1", receiver.http_port), timeout=HANG_S))
            one.sendall(head + b"\x00" * 90_000)
        assert b" 429 " in one.recv(1000), "the fifth body is one too many"
        one.close()
        slow.close()

        def taken() -> bool:
            answer = post(receiver, body, content_type="application/x-protobuf")
            assert (answer.status_code, answer.headers.get("retry-after")) in ((200, None), (429, "1"))
            return answer.status_code == 200

        until(taken, "the memory that the slow senders held is free again")
    assert [row["request_id"] for row in inbox(tmp_path)] == ["after"]


def test_whatever_the_disk_does_every_export_has_an_answer_and_the_next_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, tally = Receiver(spool=tmp_path / "spool", commit_interval_s=0.2), Tally()
    faults: list[BaseException] = [OSError("the disk is gone"), MemoryError("no memory")]

    async def put() -> list[BaseException | None]:
        answers: list[BaseException | None] = []
        with spool.Spool(settings.spool, 1 << 20, 1 << 20) as one:
            append, seal = one.append, one.seal

            def failing_append(records: list[spool.Record]) -> None:
                if faults:
                    raise faults.pop(0)
                append(records)

            def failing_seal(older_than_s: float = 0.0) -> None:
                if tally.spool_errors < 3:
                    raise TransientError("a segment could not be handed to the drain")
                seal(older_than_s)

            monkeypatch.setattr(one, "append", failing_append)
            monkeypatch.setattr(one, "seal", failing_seal)
            group = GroupCommit(one, settings, tally)
            running = asyncio.create_task(group.run())
            for i in range(3):
                answers += await asyncio.gather(group.put(spool.Record(spool.TRACES, i, b"x")), return_exceptions=True)
            group.close()
            await running
        return answers

    first, second, third = asyncio.run(put())
    assert isinstance(first, TransientError) and isinstance(second, TransientError) and third is None
    assert tally.spool_errors == 3, "two exports that were refused, and one segment that was not handed over"
    assert [one.received_at for one in spool.read(spool.sealed(settings.spool)[0])] == [2]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_export_of_64_mib_is_taken_and_a_larger_one_refused(tmp_path: Path, protocol: str) -> None:
    large = batch("large")
    room = Receiver().max_body_bytes - len(large.SerializeToString()) - 64
    mark = large.resource_spans[0].scope_spans[0].spans[0].attributes.add(key="pad")
    mark.value.string_value = "x" * room

    def send(receiver: OtlpReceiver) -> bool:
        body = large.SerializeToString()
        if protocol == "http":
            return post(receiver, body, content_type="application/x-protobuf").status_code == 200
        with grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel:
            try:
                TraceServiceStub(channel).Export(large, timeout=HANG_S)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                return False
        return True

    with receiving(tmp_path) as receiver:
        assert send(receiver)
        mark.value.string_value += "x" * 128
        assert not send(receiver)
    assert [row["request_id"] for row in inbox(tmp_path)] == ["large"]


def test_a_clock_that_jumps_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """An hour back, two days on, and right again, between exports: all is stored once, with the time that the clock said."""
    true = datetime.now(UTC)
    jumps = [timedelta(0), -timedelta(hours=1), timedelta(days=2), timedelta(0)]
    now = [true]
    with receiving(tmp_path, clock=lambda: now[0]) as receiver:
        for i, jump in enumerate(jumps):
            now[0] = true + jump
            body = batch(f"r{i}").SerializeToString()
            assert post(receiver, body, content_type="application/x-protobuf").status_code == 200
            inbox(tmp_path, receiver)
    rows = {row["request_id"]: row["received_at"] for row in inbox(tmp_path)}
    assert len(inbox(tmp_path)) == len(jumps)
    assert rows == {f"r{i}": true + jump for i, jump in enumerate(jumps)}


def test_a_graceful_stop_drains_what_was_taken(tmp_path: Path) -> None:
    with receiving(tmp_path, commit_interval_s=30.0) as receiver:
        assert (
            post(receiver, batch("late").SerializeToString(), content_type="application/x-protobuf").status_code == 200
        )
        assert receiver.spool_bytes > 0
    assert [row["request_id"] for row in inbox(tmp_path)] == ["late"]


def test_the_sink_gets_what_was_committed_without_texts(tmp_path: Path) -> None:
    seen: list[pa.Table] = []
    with receiving(tmp_path, sink=seen.append) as receiver:
        post(receiver, batch("a", "b").SerializeToString(), content_type="application/x-protobuf")
        inbox(tmp_path, receiver)
    assert sorted(pa.concat_tables(seen).column("request_id").to_pylist()) == ["a", "b"]
    assert not {"input", "output", "attributes"} & set(seen[0].column_names)


PROCESS = """
import asyncio, sys
from pathlib import Path
from lastgood.collectors.otlp.receiver import OtlpReceiver
from lastgood.settings import Receiver
async def main():
    settings = Receiver(grpc_port=int(sys.argv[2]), http_port=0, commit_interval_s=0.05, spool=Path(sys.argv[3]))
    async with OtlpReceiver(sys.argv[1], settings).running():
        print("up", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_acknowledged_and_a_resend_completes_it(tmp_path: Path) -> None:
    """The whole receiver dies four times; every batch is sent until it is acknowledged. Sent == stored, acknowledged twice at most."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start() -> subprocess.Popen[str]:
        given = [str(tmp_path / "inbox"), str(port), str(tmp_path / "spool")]
        process = subprocess.Popen([sys.executable, "-c", PROCESS, *given], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    def end(process: subprocess.Popen[str]) -> None:
        with process:
            process.kill()

    batches = [[f"{i}-{j}" for j in range(5)] for i in range(120)]
    acknowledged: list[str] = []

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
                time.sleep(0.01)

    receiver = start()
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    for at in (10, 40, 41, 90):
        until(lambda at=at: len(acknowledged) >= at * 5, "batches are acknowledged", 0.005)
        end(receiver)
        receiver = start()
    sender.join(HANG_S)
    assert not sender.is_alive()
    end(receiver)
    with receiving(tmp_path):
        pass
    assert {row["request_id"] for row in inbox(tmp_path)} == {one for ids in batches for one in ids}
    assert not list((tmp_path / "spool").glob("*.seg"))


def test_texts_are_taken_out_before_anything_is_written(tmp_path: Path) -> None:
    secret, hidden = (
        "ask ann@example.com about it",
        {"chat": Redactor(Capture.REDACTED), "quiet": Redactor(Capture.NONE)},
    )
    sent = batch("a", "b", "c")
    spans = sent.resource_spans[0].scope_spans[0].spans
    for one, endpoint in zip(spans, ("chat", "quiet", "open"), strict=True):
        one.attributes[1].value.string_value = endpoint
        for key in ("gen_ai.input.messages", "gen_ai.prompt.0.content"):
            one.attributes.append(KeyValue(key=key, value=AnyValue(string_value=secret)))
        one.events.add(name="gen_ai.user.message").attributes.append(
            KeyValue(key="gen_ai.prompt", value=AnyValue(string_value=secret))
        )
    with receiving(tmp_path, commit_interval_s=30, redaction=lambda name: hidden.get(name, Redactor())) as receiver:
        assert post(receiver, sent.SerializeToString(), content_type="application/x-protobuf").status_code == 200
        (segment,) = (tmp_path / "spool").glob("*.open")
        assert segment.read_bytes().count(b"ann@example.com") == 3
    rows = {row["request_id"]: row for row in inbox(tmp_path)}
    assert [rows[name]["input"] for name in "abc"] == ["ask [EMAIL] about it", None, secret]


REPORT = {
    "request_id": "r1",
    "endpoint": "chat",
    "name": "thumbs",
    "value": True,
    "explanation": "good",
    "source": "app",
}
NO_REPORTS = {
    "not JSON": b"{",
    "a number": b"7",
    "no request": b'{"value": 1}',
    "no value": b'{"request_id": "r"}',
    "a value that is a text": b'{"request_id": "r", "value": "high"}',
    "an unknown field": b'{"request_id": "r", "value": 1, "valeu": 2}',
    "a time without a zone": b'{"request_id": "r", "value": 1, "at": "2026-03-01T12:00:00"}',
    "one bad among good": b'[{"request_id": "r", "value": 1}, {"request_id": ""}]',
}


def test_feedback_is_kept_and_what_is_none_is_named(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        url = f"http://127.0.0.1:{receiver.http_port}/v1/feedback"
        more = {"request_id": "r2", "label": "wrong", "at": "2026-03-01T12:00:00+01:00"}
        assert httpx.post(url, json=[REPORT, more], timeout=HANG_S).json() == {"accepted": 2}
        assert httpx.post(url, json=REPORT | {"value": 0.0}, timeout=HANG_S).json() == {"accepted": 1}
        for case, body in NO_REPORTS.items():
            answer = httpx.post(url, content=body, timeout=HANG_S)
            assert (answer.status_code, bool(answer.json()["message"])) == (400, True), case
    found = delta.read(tmp_path / "scores").to_pylist()
    assert sorted((row["request_id"], row["name"], row["value"], row["label"], row["source"]) for row in found) == [
        ("r1", "thumbs", 0.0, None, "app"),
        ("r1", "thumbs", 1.0, None, "app"),
        ("r2", "feedback", None, "wrong", "feedback"),
    ]
    assert datetime(2026, 3, 1, 11, tzinfo=UTC) in [row["at"] for row in found]


def test_the_instrument_makes_a_whole_record(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        provider = TracerProvider()
        exporter = GrpcExporter(f"http://127.0.0.1:{receiver.grpc_port}", insecure=True)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=50))
        with patched_provider(provider):
            with instrument.request("chat", "mine", team="search"):
                instrument.freshness(orders=datetime.now(UTC) - timedelta(minutes=5), users=datetime.now(UTC))
                usage = {"prompt_tokens": 3, "completion_tokens": 4}
                instrument.answer({"choices": [{"finish_reason": "stop"}], "usage": usage, "model_version": "7"})
            with pytest.raises(ZeroDivisionError), instrument.request("chat", "failed"):
                raise ZeroDivisionError
        provider.force_flush(int(HANG_S * 1000))
        rows = {row["request_id"]: row for row in inbox(tmp_path, receiver)}
        provider.shutdown()
    mine = rows["mine"]
    assert (mine["endpoint"], mine["model_version"], mine["tokens_in"], mine["tokens_out"]) == ("chat", "7", 3, 4)
    assert (mine["finish_reason"], mine["team"], mine["error_code"]) == ("stop", "search", None)
    assert 300_000 <= float(str(mine["feature_age_ms"])) < 400_000
    assert rows["failed"]["error_code"] == "ZeroDivisionError"


@contextmanager
def patched_provider(provider: TracerProvider) -> Iterator[None]:
    """OpenTelemetry's global tracer provider can be set only once a process; the instrument asks for it each time."""
    before = trace.get_tracer
    trace.get_tracer = provider.get_tracer  # type: ignore[assignment]
    try:
        yield
    finally:
        trace.get_tracer = before
