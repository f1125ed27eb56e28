"""An ASGI server inside a running event loop, beside others: its owner handles the signals."""

from collections.abc import Generator
from contextlib import contextmanager
from socket import socket as Socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def bind(app: ASGIApp, host: str, port: int, **options: Any) -> tuple[Server, list[Socket], int]:
    """(server, its listening sockets, the port): `await server.serve(sockets=...)` until `server.should_exit`."""
    config = uvicorn.Config(app, host, port, log_level="warning", lifespan="off", **options)
    socket = config.bind_socket()
    return Server(config), [socket], int(socket.getsockname()[1])
