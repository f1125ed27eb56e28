"""An ASGI server inside a running event loop, beside others: its owner handles the signals, and a sender gets no more of it than its share.

uvicorn waits for ever for the head of a first request, reads heads of any length, queues any number of requests behind one that is not answered, and
waits for ever for whoever reads nothing. Here a connection that began no request in `patience_s`, or whose answer was not taken in that time, is
closed, and so is one with a head above MAX_HEAD_BYTES or more than MOST_QUEUED requests. There are fewer connections than file descriptors: the spool
needs some too.
"""

import asyncio
import resource
from collections.abc import Callable, Generator, Sized
from contextlib import contextmanager
from socket import socket as Socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from lastgood.collectors.otlp.admission import BusyError, Shares, address

MAX_HEAD_BYTES = 64 * 1024
MOST_QUEUED = 64
"""Requests that a connection may send before the first of them is answered; a read may bring more."""
MOST_FILES, SERVERS, FEWEST_LEFT = 65_536, 3, 256
"""Descriptors asked for; servers that share them (gRPC, HTTP and the pages); how many are left for files, where there are twice as many."""
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def connections() -> int:
    """How many connections one server may have, with as many file descriptors as the system gives this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    most = MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, MOST_FILES)
    return max(1, (most - min(FEWEST_LEFT, most // 2)) // SERVERS)


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Impatient:
    """What is put before uvicorn's protocol class, whose `self.cycle` is the newest request of the connection."""

    shares: Shares
    patience_s: float
    refused: Callable[[str], None]
    client: tuple[str, int] | None
    cycle: Any
    flow: Any
    loop: asyncio.AbstractEventLoop
    pipeline: Sized = ()
    """Requests behind the one that is answered; h11 reads no further instead."""
    transport: asyncio.Transport
    _timer: asyncio.TimerHandle | None = None
    _peer = ""
    _counted = False
    _seen: Any = None
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._peer = address(self.client[0]) if self.client else ""
        try:
            self.shares.fits(self._peer, 1)
        except BusyError:
            self.refused("connections")
            transport.write(TOO_MANY)
            transport.close()
            return
        self.shares.take(self._peer, 1)
        self._counted = True
        self._timer = self.loop.call_later(self.patience_s, self._look, (None, False))

    def _waits(self) -> bool:
        """For a request, and none is under way."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _look(self, last: Any) -> None:
        """`last`: the newest request a whole patience ago, and whether the sender had not read what was written."""
        now = self.cycle, self.flow.write_paused
        if now != last or not (self._waits() or self.flow.write_paused):
            self._timer = self.loop.call_later(self.patience_s, self._look, now)
            return
        if self.cycle is None or self._head or self.flow.write_paused:
            self.refused("slow")
        if self.flow.write_paused:
            self.transport.abort()
            return
        self.transport.close()  # which waits for the rest of an answer to be taken
        self._timer = self.loop.call_later(self.patience_s, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)  # type: ignore[misc]
        self._head = self._head + len(data) if self.cycle is self._seen and self._waits() else 0
        self._seen = self.cycle
        if len(self.pipeline) > MOST_QUEUED:
            self.refused("exports")
            self.transport.abort()
        elif self._head > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.refused("size")
            self.transport.write(HEAD_TOO_LARGE)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        if self._counted:
            self._counted = False
            self.shares.give({self._peer: 1})
        super().connection_lost(exc)  # type: ignore[misc]


def bind(
    app: ASGIApp,
    host: str,
    port: int,
    patience_s: float = 60.0,
    refused: Callable[[str], None] = lambda reason: None,
    **options: Any,
) -> tuple[Server, list[Socket], int]:
    """(server, its listening sockets, the port): `await server.serve(sockets=...)` until `server.should_exit`. `refused` hears, by reason, of
    connections that were closed."""
    fixed: dict[str, Any] = {"log_level": "warning", "lifespan": "off", "ws": "none"}
    config = uvicorn.Config(app, host, port, timeout_keep_alive=max(1, round(patience_s)), **fixed, **options)
    config.load()
    shares = Shares(connections(), "connections", "connections")
    bounds = {"shares": shares, "patience_s": patience_s, "refused": staticmethod(refused)}
    config.http_protocol_class = type("Impatient", (_Impatient, config.http_protocol_class), bounds)
    socket = config.bind_socket()
    return Server(config), [socket], int(socket.getsockname()[1])
