"""OTLP's services as the receiver sees them (pure): messages, how many items of an export are taken, the answers, the refusals."""

import io
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc
import pyarrow as pa
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from starlette.responses import Response

from lastgood.collectors.otlp import rows
from lastgood.collectors.otlp.admission import BusyError
from lastgood.collectors.otlp.spool import LOGS, METRICS, TRACES
from lastgood.errors import TransientError
from lastgood.record.words import counted

log = logging.getLogger(__name__)
PROTOBUF, JSON = "application/x-protobuf", "application/json"


@dataclass(frozen=True)
class Signal:
    """One of OTLP's services: its messages, how many items an export has, and how many of them Lastgood does not take."""

    kind: int
    name: str
    path: str
    request: type[Message]
    answer: Callable[[int, int], Message]
    count: Callable[[Any, datetime], tuple[int, int]]


def _spans(request: Any, _: datetime) -> tuple[int, int]:
    return sum(len(scope.spans) for group in request.resource_spans for scope in group.scope_spans), 0


def _scored(decode: Callable[[Any, datetime], rows.Decoded]) -> Callable[[Any, datetime], tuple[int, int]]:
    def count(request: Any, now: datetime) -> tuple[int, int]:
        decoded = decode(request, now)
        return len(decoded.scores), decoded.others

    return count


_ONLY = "only evaluation scores (gen_ai.evaluation...) are taken"


def _logs_answer(taken: int, left: int) -> Message:
    part = logs_pb.ExportLogsPartialSuccess(rejected_log_records=left, error_message=_ONLY)
    return logs_pb.ExportLogsServiceResponse(partial_success=part if left else None)


def _metrics_answer(taken: int, left: int) -> Message:
    part = metrics_pb.ExportMetricsPartialSuccess(rejected_data_points=left, error_message=_ONLY)
    return metrics_pb.ExportMetricsServiceResponse(partial_success=part if left else None)


SIGNALS = (
    Signal(TRACES, "trace.v1.TraceService", "/v1/traces", trace_pb.ExportTraceServiceRequest,
           lambda taken, left: trace_pb.ExportTraceServiceResponse(), _spans),
    Signal(LOGS, "logs.v1.LogsService", "/v1/logs", logs_pb.ExportLogsServiceRequest, _logs_answer, _scored(rows.logs)),
    Signal(METRICS, "metrics.v1.MetricsService", "/v1/metrics", metrics_pb.ExportMetricsServiceRequest, _metrics_answer,
           _scored(rows.metrics)),
)  # fmt: skip


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its content encoding. Errors: ValueError (unknown, broken or cut short), OverflowError (larger than `limit` bytes)."""
    if encoding in ("", "identity"):
        return body
    if encoding == "zstd":
        try:
            plain: bytes = pa.input_stream(io.BytesIO(body), compression="zstd").read(limit + 1)
        except OSError as error:
            raise ValueError(f"broken zstd body: {error}") from error
        whole = True
    elif encoding in ("gzip", "deflate"):
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            plain = inflate.decompress(body, limit + 1)
        except zlib.error as error:
            raise ValueError(f"broken {encoding} body: {error}") from error
        whole = inflate.eof
    else:
        raise ValueError(f"content encoding {encoding!r} is not supported; send gzip or zstd")
    if len(plain) > limit:
        raise OverflowError(f"{encoding} body is above {counted(limit, 'byte')}")
    if not whole:
        raise ValueError(f"{encoding} body is cut short")
    return plain


class MediaError(ValueError):
    """A content type that the receiver does not read."""


@dataclass(frozen=True)
class Refusal:
    """Why an export was not taken: `reason` of admission.REASONS, the status over HTTP and gRPC, and the wait where it is to be sent again."""

    reason: str
    status: int
    code: grpc.StatusCode
    text: str
    retry_after_s: float | None = None


def refusal_of(error: Exception) -> Refusal:
    """An error as the OTLP specification 1.9 answers it. What may be sent again is 429 / RESOURCE_EXHAUSTED (too much at once) or 503 /
    UNAVAILABLE (the disk, a slow body); everything else is not sent again."""
    code, text = grpc.StatusCode, str(error)
    if isinstance(error, BusyError):
        return Refusal(error.reason, 429, code.RESOURCE_EXHAUSTED, text, error.retry_after_s)
    if isinstance(error, TransientError):
        return Refusal("disk", 503, code.UNAVAILABLE, text, error.retry_after_s or 1.0)
    if isinstance(error, TimeoutError):
        return Refusal("slow", 503, code.UNAVAILABLE, text, 1.0)
    if isinstance(error, PermissionError):
        return Refusal("token", 401, code.UNAUTHENTICATED, text)
    if isinstance(error, MediaError):
        return Refusal("type", 415, code.INVALID_ARGUMENT, text)
    if isinstance(error, OverflowError):
        return Refusal("size", 413, code.INVALID_ARGUMENT, text)
    if isinstance(error, ValueError | DecodeError):
        return Refusal("invalid", 400, code.INVALID_ARGUMENT, f"not an OTLP export: {text}"[:300])
    log.error("an export was refused for an error that nobody foresaw", exc_info=error)
    return Refusal("unforeseen", 500, code.INTERNAL, type(error).__name__)


def details(refusal: Refusal) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata: OTLP senders retry RESOURCE_EXHAUSTED only where RetryInfo says when."""
    wait = refusal.retry_after_s
    if wait is None:
        return ()
    told = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=int(wait), nanos=int(wait % 1 * 1e9)))
    status = status_pb2.Status(code=refusal.code.value[0], message=refusal.text)
    status.details.add().Pack(told)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def answer(kind: str, status: int, message: Message, headers: Mapping[str, str] | None = None) -> Response:
    if kind == JSON:
        return Response(MessageToJson(message, indent=None), status, headers, JSON)
    return Response(message.SerializeToString(), status, headers, PROTOBUF)


def refused(kind: str, refusal: Refusal) -> Response:
    """A refusal as OTLP/HTTP wants it: a google.rpc.Status in the sender's own encoding."""
    wait = refusal.retry_after_s
    headers = (
        {"www-authenticate": "Bearer"}
        if refusal.status == 401
        else {"retry-after": str(max(1, round(wait)))}
        if wait
        else {}
    )
    if kind not in (PROTOBUF, JSON):
        return Response(refusal.text, refusal.status, headers)
    return answer(kind, refusal.status, status_pb2.Status(message=refusal.text), headers)
