"""OTLP receiver (gRPC and HTTP): exports in, checked and written to the spool on disk, and only then acknowledged.

Statuses by the OTLP specification 1.9: what can be sent again is UNAVAILABLE / 503, or RESOURCE_EXHAUSTED with RetryInfo / 429 with
Retry-After (the spool is full); what can not is INVALID_ARGUMENT / 400, UNAUTHENTICATED / 401, 413, 415.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lastgood.collectors.otlp import feedback, rows
from lastgood.collectors.otlp.asgi import bind
from lastgood.collectors.otlp.capture import Rules, redact
from lastgood.collectors.otlp.signals import JSON, PROTOBUF, SIGNALS, Signal, answer, refusal, retry_info, unpack
from lastgood.collectors.otlp.spool import FEEDBACK, Record
from lastgood.collectors.otlp.writer import DrainProcess, GroupCommit, Sink, Tally, open_spool
from lastgood.errors import ConfigError, TransientError
from lastgood.record.redact import Redactor
from lastgood.settings import Receiver, secret

log = logging.getLogger(__name__)
BODIES = 4
"""How many bodies of the largest size may be half here over HTTP: slow senders must not fill the memory."""


class Senders:
    """Who may send: bearer tokens by sender. Nobody is asked where none are configured."""

    def __init__(self, settings: Receiver) -> None:
        self._tokens: dict[str, str] = {}
        for name, variable in settings.senders.items():
            token = secret(variable)
            if not token:
                raise ConfigError(f"receiver.senders.{name}: the variable {variable} is not set")
            self._tokens[name] = token

    def knows(self, authorization: str | None) -> bool:
        """Whether an `authorization` header holds a sender's token; every token is compared, in constant time."""
        if not self._tokens:
            return True
        given = (authorization or "").removeprefix("Bearer ").encode()
        return sum(hmac.compare_digest(given, token.encode()) for token in self._tokens.values()) > 0


@dataclass
class OtlpReceiver:
    """Exports in over gRPC and HTTP; `running()` serves until its block ends, then drains.

    `redaction` gives the rule of an endpoint (None: all texts are kept); `sink` gets the requests of each commit as a table of inbox
    columns without texts, in a thread of its own. `reach`: settings `tables` and `workspace` as JSON, where the tables are in no folder.
    """

    inbox_path: str
    settings: Receiver
    scores_path: str = ""
    sink: Sink | None = None
    redaction: Callable[[str | None], Redactor] | None = None
    reach: str = ""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    grpc_port: int = 0
    http_port: int = 0
    tally: Tally = field(default_factory=Tally)
    _arriving: int = 0

    def __post_init__(self) -> None:
        self.senders = Senders(self.settings)
        self.scores_path = self.scores_path or f"{self.inbox_path.rstrip('/').rpartition('/')[0]}/scores"

    async def accept(self, signal: Signal, body: bytes, message: Message | None = None) -> Message:
        """Check and keep one export. Errors: DecodeError (no such message), TransientError (send it again)."""
        message = message or signal.request.FromString(body)
        if self.redaction:
            redact(message, Rules(self.redaction, self.settings.endpoint_attributes))
            body = b""
        now = self.clock()
        taken, left = signal.count(message, now)
        if taken:
            record = Record(signal.kind, int(now.timestamp() * 1e6), body or message.SerializeToString())
            try:
                await self.writer.put(record)
            except TransientError:
                self.tally.refused += taken
                raise
            self.tally.accepted += taken
        return signal.answer(taken, left)

    @property
    def spool_bytes(self) -> int:
        """Bytes acknowledged and not yet in Delta."""
        return self.writer.spool.pending_bytes

    # HTTP

    async def _body(self, request: Request) -> bytes:
        limit, body = self.settings.max_body_bytes, bytearray()
        try:
            async with asyncio.timeout(self.settings.read_timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    self._arriving += len(chunk)
                    if len(body) > limit:
                        raise OverflowError(f"body is above {limit} bytes")
                    if self._arriving > BODIES * limit:
                        raise TransientError(f"more than {BODIES * limit} bytes of bodies arrive at once", 1.0)
        finally:
            self._arriving -= len(body)
        return bytes(body)

    def _http(self, signal: Signal) -> Callable[[Request], Awaitable[Response]]:
        async def export(request: Request) -> Response:
            kind = request.headers.get("content-type", "").split(";")[0].strip()
            try:
                if not self.senders.knows(request.headers.get("authorization")):
                    return refusal(kind, 401, "no sender's token", {"www-authenticate": "Bearer"})
                if kind not in (PROTOBUF, JSON):
                    return refusal(kind, 415, f"content type {kind!r}; expected {PROTOBUF} or {JSON}")
                encoding = request.headers.get("content-encoding", "").strip().lower()
                plain = unpack(await self._body(request), encoding, self.settings.max_body_bytes)
                message = rows.parse_json(plain, signal.request()) if kind == JSON else None
                result = await self.accept(signal, b"" if message else plain, message)
            except TimeoutError:
                return refusal(kind, 408, f"the body did not arrive within {self.settings.read_timeout_s:.0f} s")
            except OverflowError as error:
                return refusal(kind, 413, str(error))
            except TransientError as error:
                wait = {"retry-after": str(max(1, round(error.retry_after_s or 1)))}
                return refusal(kind, 429 if "spool" in str(error) else 503, str(error), wait)
            except (ValueError, DecodeError, RecursionError, TypeError, AttributeError) as error:
                return refusal(kind, 400, f"not an OTLP export: {error}"[:300])
            return answer(kind, 200, result)

        return export

    async def http_feedback(self, request: Request) -> Response:
        """`POST /v1/feedback`: see `feedback`."""
        try:
            if not self.senders.knows(request.headers.get("authorization")):
                return refusal(JSON, 401, "no sender's token", {"www-authenticate": "Bearer"})
            body = await self._body(request)
            reports = feedback.parse(body)
            if self.redaction:
                body = feedback.redacted(reports, self.redaction)
            await self.writer.put(Record(FEEDBACK, int(self.clock().timestamp() * 1e6), body))
        except TimeoutError:
            return refusal(JSON, 408, f"the body did not arrive within {self.settings.read_timeout_s:.0f} s")
        except OverflowError as error:
            return refusal(JSON, 413, str(error))
        except TransientError as error:
            return refusal(JSON, 429, str(error), {"retry-after": str(max(1, round(error.retry_after_s or 1)))})
        except ValueError as error:
            return refusal(JSON, 400, str(error)[:300])
        return JSONResponse({"accepted": len(reports)})

    def routes(self) -> list[Route]:
        signals = [Route(signal.path, self._http(signal), methods=["POST"]) for signal in SIGNALS]
        return [*signals, Route("/v1/feedback", self.http_feedback, methods=["POST"])]

    # gRPC

    def _grpc(self, signal: Signal) -> grpc.GenericRpcHandler:
        async def export(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            given = dict(context.invocation_metadata() or ())
            if not self.senders.knows(str(given.get("authorization", ""))):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no sender's token")
            try:
                return bytes((await self.accept(signal, body)).SerializeToString())
            except TransientError as error:
                full = "spool" in str(error)
                code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNAVAILABLE
                await context.abort(code, str(error), retry_info(error, full))
            except DecodeError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"not an OTLP export: {error}")
            raise AssertionError("abort raises")

        method = grpc.unary_unary_rpc_method_handler(export)
        return grpc.method_handlers_generic_handler(f"opentelemetry.proto.collector.{signal.name}", {"Export": method})

    def _grpc_server(self) -> grpc.aio.Server:
        options = [
            ("grpc.max_receive_message_length", self.settings.max_body_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        # gRPC's own bound answers without RetryInfo, so that senders drop: `put` refuses long before it.
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=4 * self.settings.max_concurrent)
        server.add_generic_rpc_handlers([self._grpc(signal) for signal in SIGNALS])
        where, tls = f"{self.settings.host}:{self.settings.grpc_port}", self._tls()
        if tls is None:
            self.grpc_port = server.add_insecure_port(where)
        else:
            key, cert, authority = tls
            credentials = grpc.ssl_server_credentials(
                [(key, cert)], authority, require_client_auth=authority is not None
            )
            self.grpc_port = server.add_secure_port(where, credentials)
        return server

    def _tls(self) -> tuple[bytes, bytes, bytes | None] | None:
        limits = self.settings
        if limits.tls_cert is None or limits.tls_key is None:
            if limits.tls_cert or limits.tls_key or limits.tls_client_ca:
                raise ConfigError("receiver: tls_cert and tls_key go together, and tls_client_ca needs both")
            return None
        try:
            authority = limits.tls_client_ca.read_bytes() if limits.tls_client_ca else None
            return limits.tls_key.read_bytes(), limits.tls_cert.read_bytes(), authority
        except OSError as error:
            raise ConfigError(f"receiver: {error}") from error

    @asynccontextmanager
    async def running(self) -> AsyncIterator["OtlpReceiver"]:
        spool = open_spool(self.settings)
        self.writer = GroupCommit(spool, self.settings, self.tally)
        drain = DrainProcess(self.inbox_path, self.scores_path, self.settings, self.tally, self.sink, self.reach)
        server = self._grpc_server()
        web, sockets, self.http_port = bind(
            Starlette(routes=self.routes()), self.settings.host, self.settings.http_port, **_https(self.settings)
        )
        writing = asyncio.create_task(self.writer.run())
        drain.start()
        await server.start()
        serving = asyncio.create_task(web.serve(sockets=sockets))
        while not web.started and not serving.done():
            await asyncio.sleep(0.01)
        try:
            yield self
        finally:
            stopping = asyncio.create_task(server.stop(grace=5))
            web.should_exit = True
            await asyncio.gather(stopping, serving)
            self.writer.close()
            await writing
            spool.close()
            await asyncio.to_thread(drain.stop)


def _https(settings: Receiver) -> dict[str, Any]:
    if settings.tls_cert is None:
        return {}
    import ssl

    options = {"ssl_certfile": str(settings.tls_cert), "ssl_keyfile": str(settings.tls_key)}
    if settings.tls_client_ca is None:
        return options
    return options | {"ssl_ca_certs": str(settings.tls_client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
