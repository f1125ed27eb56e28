"""OTLP receiver (gRPC and HTTP): exports in, checked and written to the spool on disk, and only then acknowledged.

Overload is refused before a body is read, where its size is known, and by sender: see `admission`. The statuses: see `signals.refusal_of`.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lastgood.collectors.otlp import feedback, rows
from lastgood.collectors.otlp.admission import Admission, Held, address
from lastgood.collectors.otlp.asgi import bind, connections
from lastgood.collectors.otlp.capture import Rules, redact
from lastgood.collectors.otlp.signals import (
    JSON,
    PROTOBUF,
    SIGNALS,
    MediaError,
    Signal,
    answer,
    details,
    refusal_of,
    refused,
    unpack,
)
from lastgood.collectors.otlp.spool import FEEDBACK, Record
from lastgood.collectors.otlp.writer import DrainProcess, GroupCommit, Sink, Tally, open_spool
from lastgood.errors import ConfigError
from lastgood.record.redact import Redactor
from lastgood.record.words import counted
from lastgood.settings import Receiver, secret

log = logging.getLogger(__name__)
BODIES = 4
"""How many bodies of the largest size may be under way: senders must not fill the memory."""
LARGE_BYTES = 1 << 20
"""A larger body is parsed beside the event loop: it must not keep the others waiting."""


class Senders:
    """Who may send: bearer tokens by sender. Nobody is asked where none are configured."""

    def __init__(self, settings: Receiver) -> None:
        self._tokens: dict[str, str] = {}
        for name, variable in settings.senders.items():
            token = secret(variable)
            if not token:
                raise ConfigError(f"receiver.senders.{name}: the variable {variable} is not set")
            self._tokens[name] = token

    def name(self, authorization: str | None, peer: str) -> str:
        """Who sends: whose token an `authorization` header holds; `peer` where nobody is asked. Every token is compared, in constant time.
        Errors: PermissionError for no sender's token."""
        if not self._tokens:
            return peer
        given = (authorization or "").removeprefix("Bearer ").encode()
        known = [name for name, token in self._tokens.items() if hmac.compare_digest(given, token.encode())]
        if not known:
            raise PermissionError("no sender's token")
        return known[0]


def _peer(context: Any) -> str:
    """The certificate's name, where senders must show one; else the address (`ipv4:127.0.0.1:4711`, `ipv6:%5B::1%5D:4711`)."""
    if identities := context.peer_identities():
        return str(identities[0].decode(errors="replace"))
    return address(unquote(context.peer()).partition(":")[2].rpartition(":")[0].strip("[]"))


@dataclass
class OtlpReceiver:
    """Exports in over gRPC and HTTP; `running()` serves until its block ends, then drains.

    `redaction` gives the rule of an endpoint (None: all texts are kept); `sink` gets the requests of each commit as a table of inbox
    columns without texts, in a thread of its own. `reach`: settings `tables` and `workspace` as JSON, where the tables are in no folder.
    `contents`: spans are asked for what else makes a version (see record.contents).
    """

    inbox_path: str
    settings: Receiver
    scores_path: str = ""
    sink: Sink | None = None
    redaction: Callable[[str | None], Redactor] | None = None
    reach: str = ""
    contents: bool = False
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    grpc_port: int = 0
    http_port: int = 0
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.senders = Senders(self.settings)
        self.admission = Admission(self.settings.max_concurrent, BODIES * self.settings.max_body_bytes)
        self._parser = ThreadPoolExecutor(1, "large bodies")
        self.scores_path = self.scores_path or f"{self.inbox_path.rstrip('/').rpartition('/')[0]}/scores"

    async def accept(self, signal: Signal, body: bytes, sender: str = "", as_json: bool = False) -> Message:
        """Check and keep one export. Errors: see signals.refusal_of."""
        if len(body) > LARGE_BYTES:
            loop = asyncio.get_running_loop()
            taken, left, record = await loop.run_in_executor(self._parser, self._read, signal, body, sender, as_json)
        else:
            taken, left, record = self._read(signal, body, sender, as_json)
        if taken:
            await self.writer.put(record)
            self.tally.accepted += taken
        return signal.answer(taken, left)

    def _read(self, signal: Signal, body: bytes, sender: str, as_json: bool) -> tuple[int, int, Record]:
        """(items taken, items left, what is kept of the export)."""
        message = rows.parse_json(body, signal.request()) if as_json else signal.request.FromString(body)
        if self.redaction:
            redact(message, Rules(self.redaction, self.settings.endpoint_attributes, self.contents))
        now = self.clock()
        taken, left = signal.count(message, now)
        kept = message.SerializeToString() if as_json or self.redaction else body
        return taken, left, Record(signal.kind, int(now.timestamp() * 1e6), kept, sender)

    @property
    def spool_bytes(self) -> int:
        """Bytes acknowledged and not yet in Delta."""
        return self.writer.spool.pending_bytes

    # HTTP

    async def _body(self, request: Request, held: Held) -> bytes:
        limit, body = self.settings.max_body_bytes, bytearray()
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit():
            if int(length[:20]) > limit:
                raise OverflowError(f"body is above {counted(limit, 'byte')}")
            held.fits(int(length))
        try:
            async with asyncio.timeout(self.settings.read_timeout_s):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > limit:
                        raise OverflowError(f"body is above {counted(limit, 'byte')}")
                    held.grow(len(chunk))
                    body += chunk
        except (TimeoutError, ClientDisconnect) as error:
            raise TimeoutError(f"the body did not arrive within {self.settings.read_timeout_s:g} s") from error
        encoding = request.headers.get("content-encoding", "").strip().lower()
        plain = unpack(bytes(body), encoding, limit)
        held.grow(max(0, len(plain) - len(body)))
        return plain

    def _http(
        self, take: Callable[[str, bytes, str], Awaitable[Response]], *kinds: str
    ) -> Callable[[Request], Awaitable[Response]]:
        """A handler. `take`: (sender, body, content type) -> answer."""

        async def export(request: Request) -> Response:
            kind = request.headers.get("content-type", "").split(";")[0].strip() if kinds else JSON
            peer = address(request.client.host) if request.client else ""
            try:
                sender = self.senders.name(request.headers.get("authorization"), peer)
                if kinds and kind not in kinds:
                    raise MediaError(f"content type {kind!r}; expected {' or '.join(kinds)}")
                with self.admission.enter(sender) as held:
                    return await take(sender, await self._body(request, held), kind)
            except Exception as error:
                refusal = refusal_of(error)
                self.tally.refused[refusal.reason] += 1
                return refused(kind, refusal)

        return export

    def _exported(self, signal: Signal) -> Callable[[str, bytes, str], Awaitable[Response]]:
        async def take(sender: str, body: bytes, kind: str) -> Response:
            return answer(kind, 200, await self.accept(signal, body, sender, kind == JSON))

        return take

    async def _reported(self, sender: str, body: bytes, kind: str) -> Response:
        """`POST /v1/feedback`: see `feedback`."""
        reports = feedback.parse(body)
        if self.redaction:
            body = feedback.redacted(reports, self.redaction)
        await self.writer.put(Record(FEEDBACK, int(self.clock().timestamp() * 1e6), body, sender))
        return JSONResponse({"accepted": len(reports)})

    def routes(self) -> list[Route]:
        signals = [
            Route(signal.path, self._http(self._exported(signal), PROTOBUF, JSON), methods=["POST"])
            for signal in SIGNALS
        ]
        return [*signals, Route("/v1/feedback", self._http(self._reported), methods=["POST"])]

    def closed(self, reason: str) -> None:
        """A connection was closed that brought no request, or not the whole of it."""
        self.tally.refused[reason] += 1

    # gRPC

    def _grpc(self, signal: Signal) -> grpc.GenericRpcHandler:
        async def export(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            given = dict(context.invocation_metadata() or ())
            try:
                sender = self.senders.name(str(given.get("authorization", "")), _peer(context))
                with self.admission.enter(sender) as held:
                    body = await self._message(context)
                    held.grow(len(body))
                    return bytes((await self.accept(signal, body, sender)).SerializeToString())
            except Exception as error:
                refusal = refusal_of(error)
                self.tally.refused[refusal.reason] += 1
            await context.abort(refusal.code, refusal.text, details(refusal))
            raise AssertionError("abort raises")

        # On the wire a unary call is a stream of one message: so it is refused before its body is read, and a body has a time to arrive.
        method = grpc.stream_unary_rpc_method_handler(export)
        return grpc.method_handlers_generic_handler(f"opentelemetry.proto.collector.{signal.name}", {"Export": method})

    async def _message(self, context: Any) -> bytes:
        """The call's body. Errors: TimeoutError, ValueError where there is none."""
        try:
            async with asyncio.timeout(self.settings.read_timeout_s):
                body = await context.read()
                more = await context.read()
        except TimeoutError as error:
            raise TimeoutError(f"the body did not arrive within {self.settings.read_timeout_s:g} s") from error
        except asyncio.CancelledError:  # gRPC has answered, or has nobody to answer to, and does not tell which
            self.tally.refused["cut"] += 1
            raise
        if not isinstance(body, bytes):
            raise ValueError("the call ended without a body")
        if more is not grpc.aio.EOF:  # what is not kept must not be acknowledged
            raise ValueError("the call has more than one body")
        return body

    def _grpc_server(self) -> grpc.aio.Server:
        options = [
            ("grpc.max_receive_message_length", self.settings.max_body_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.server_handshake_timeout_ms", round(self.settings.read_timeout_s * 1000)),
            ("grpc.max_connection_idle_ms", 600_000),
            ("grpc.max_allowed_incoming_connections", connections()),
        ]
        server = grpc.aio.server(options=options)
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
        drain = DrainProcess(
            self.inbox_path, self.scores_path, self.settings, self.tally, self.sink, self.reach, self.contents
        )
        server = self._grpc_server()
        web, sockets, self.http_port = bind(
            Starlette(routes=self.routes()), self.settings.host, self.settings.http_port, self.settings.read_timeout_s,
            self.closed, proxy_headers=False, **_https(self.settings),
        )  # fmt: skip
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
            self._parser.shutdown()
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
