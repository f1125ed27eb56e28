"""OTLP receiver (gRPC and HTTP): spans in, inbox rows committed to Delta, and only then acknowledged."""

import asyncio
import gzip
import logging
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc
import pyarrow as pa
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lastgood import delta, telemetry
from lastgood.asgi import bind
from lastgood.collectors.otlp_decode import Row, decode, parse_json
from lastgood.config import Receiver
from lastgood.errors import CorruptError, LastgoodError, TransientError

log = logging.getLogger(__name__)
SCHEMA = telemetry.arrow_schema(telemetry.INBOX)


@dataclass
class Tally:
    """What the receiver has seen since it started, in spans."""

    accepted: int = 0
    set_aside: int = 0
    refused: int = 0
    commits: int = 0


@dataclass
class GroupCommit:
    """Collects rows and commits them together; `put` returns once the rows are in the inbox table.

    Errors of put: TransientError when the queue is full or the commit failed (the sender keeps the spans and retries).
    """

    path: str
    settings: Receiver
    tally: Tally = field(default_factory=Tally)
    _rows: list[Row] = field(default_factory=list)
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _closing: bool = False

    async def put(self, rows: list[Row]) -> None:
        if self._closing:
            raise TransientError("the receiver is shutting down", 1.0)
        if len(self._rows) + len(rows) > self.settings.max_queued_spans:
            self.tally.refused += len(rows)
            raise TransientError("the queue is full", 2 * self.settings.commit_interval_s)
        self._rows.extend(rows)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._wake.set()
        await done
        set_aside = sum(1 for row in rows if row.get("reject_reason"))
        self.tally.set_aside += set_aside
        self.tally.accepted += len(rows) - set_aside

    async def run(self) -> None:
        """Commit until closed and empty."""
        app, sequence = uuid.uuid4().hex, 0
        while not (self._closing and not self._waiting):
            await self._wake.wait()
            if not self._closing:
                await asyncio.sleep(self.settings.commit_interval_s)
            self._wake.clear()
            rows, waiting = self._rows, self._waiting
            self._rows, self._waiting = [], []
            if not waiting:
                continue
            sequence += 1
            try:
                await asyncio.to_thread(self._commit, rows, (app, sequence))
                self.tally.commits += 1
                failure: LastgoodError | None = None
            except LastgoodError as error:
                log.error("commit of %d spans failed: %s", len(rows), error)
                failure = TransientError(str(error), 1.0)
            for one in waiting:
                if not one.done():
                    one.set_result(None) if failure is None else one.set_exception(failure)

    def _commit(self, rows: list[Row], app: tuple[str, int]) -> None:
        if not rows:
            return
        try:
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
        except (
            pa.ArrowInvalid,
            pa.ArrowTypeError,
            OverflowError,
            UnicodeEncodeError,
        ) as error:
            raise CorruptError(f"rows do not fit the inbox: {error}") from error
        delta.append(self.path, table, app=app)

    def close(self) -> None:
        """Take no more; `run` ends once what was taken is committed."""
        self._closing = True
        self._wake.set()


class _Grpc(TraceServiceServicer):  # type: ignore[misc]
    def __init__(
        self,
        accept: Callable[[ExportTraceServiceRequest], Awaitable[ExportTraceServiceResponse]],
    ) -> None:
        self._accept = accept

    async def Export(  # noqa: N802 (the generated servicer's name)
        self,
        request: ExportTraceServiceRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> ExportTraceServiceResponse:
        try:
            return await self._accept(request)
        except TransientError as error:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED if "queue" in str(error) else grpc.StatusCode.UNAVAILABLE,
                str(error),
            )
            raise


def _unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its content encoding. Errors: ValueError (unknown, broken, or larger than `limit` bytes)."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise ValueError(f"content encoding {encoding!r} is not supported; send gzip")
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = inflate.decompress(body, limit + 1)
    except (zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"broken {encoding} body: {error}") from error
    if len(plain) > limit or not inflate.eof:
        raise ValueError(f"{encoding} body is cut short or above {limit} bytes")
    return plain


@dataclass
class OtlpReceiver:
    """Spans in over gRPC and HTTP; `running()` serves until its block ends, then drains."""

    inbox_path: str
    settings: Receiver
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    grpc_port: int = 0
    http_port: int = 0

    def __post_init__(self) -> None:
        self.writer = GroupCommit(self.inbox_path, self.settings)

    async def accept(self, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse:
        rows = await asyncio.to_thread(lambda: list(decode(list(request.resource_spans), self.clock())))
        if rows:
            await self.writer.put(rows)
        aside = sum(1 for row in rows if row.get("reject_reason"))
        if not aside:
            return ExportTraceServiceResponse()
        note = f"{aside} of {len(rows)} spans are in quarantine, first reason: " + next(
            str(row["reject_reason"]) for row in rows if row.get("reject_reason")
        )
        return ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(error_message=note))

    async def http_traces(self, request: Request) -> Response:
        limit = self.settings.max_body_bytes
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                return Response(f"body is above {limit} bytes", status_code=413)
        kind = request.headers.get("content-type", "").split(";")[0].strip()
        try:
            plain = _unpack(
                bytes(body),
                request.headers.get("content-encoding", "").strip().lower(),
                limit,
            )
            if kind == "application/json":
                message = parse_json(plain)
            elif kind == "application/x-protobuf":
                message = ExportTraceServiceRequest.FromString(plain)
            else:
                return Response(
                    f"content type {kind!r}; expected application/x-protobuf or application/json",
                    status_code=415,
                )
        except (
            ValueError,
            DecodeError,
            RecursionError,
            TypeError,
            AttributeError,
        ) as error:
            return Response(f"not an OTLP trace export: {error}"[:300], status_code=400)
        try:
            answer = await self.accept(message)
        except TransientError as error:
            status = 429 if "queue" in str(error) else 503
            return Response(
                str(error),
                status_code=status,
                headers={"retry-after": str(max(1, round(error.retry_after_s or 1)))},
            )
        if kind == "application/json":
            note = answer.partial_success.error_message
            content = ('{"partialSuccess":{"errorMessage":"' + note.replace('"', "'") + '"}}') if note else "{}"
            return Response(content, media_type=kind)
        return Response(answer.SerializeToString(), media_type=kind)

    def routes(self) -> list[Route]:
        return [Route("/v1/traces", self.http_traces, methods=["POST"])]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["OtlpReceiver"]:
        limit = self.settings.max_body_bytes
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.so_reuseport", 0),
            ]
        )
        add_TraceServiceServicer_to_server(_Grpc(self.accept), server)
        self.grpc_port = server.add_insecure_port(f"{self.settings.host}:{self.settings.grpc_port}")
        app = Starlette(routes=self.routes())
        web, sockets, self.http_port = bind(app, self.settings.host, self.settings.http_port)
        committing = asyncio.create_task(self.writer.run())
        await server.start()
        serving = asyncio.create_task(web.serve(sockets=sockets))
        try:
            yield self
        finally:
            stopping = asyncio.create_task(server.stop(grace=2 * self.settings.commit_interval_s + 2))
            web.should_exit = True
            await asyncio.gather(stopping, serving)
            self.writer.close()
            await committing
