"""A network without sockets or real time: requests and httpx reach an ASGI application in this process, and a call that hangs costs no second.

The application runs on an event loop whose time is simulated: where nothing is ready, time goes to what is due next.
"""

import asyncio
import io
import selectors
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from simulation.chance import instead

Answer = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers, body as far as it came."""


class _Now(selectors.DefaultSelector):
    """Waits no time: what the loop would wait is added to its clock."""

    seconds = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("the application waits for what never comes")
        self.seconds += 0.0 if ready else timeout or 0.0
        return ready


class _Loop(asyncio.SelectorEventLoop):
    """What is meant for a thread runs at once."""

    def __init__(self) -> None:
        self.waited = _Now()
        super().__init__(self.waited)

    def time(self) -> float:
        return self.waited.seconds

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass
class Network:
    """Hosts by name, each an ASGI application. `between`: who acts before a call is sent, as another process would."""

    hosts: Mapping[str, Any]
    between: Callable[[], None] = lambda: None
    _lock: Any = field(default_factory=threading.RLock)

    def call(self, method: str, url: str, headers: list[tuple[str, str]], body: bytes, timeout_s: float) -> Answer:
        """Errors: TimeoutError after `timeout_s` of simulated time."""
        self.between()
        with self._lock:
            loop = _Loop()
            try:
                asked = _asked(self.hosts[urlsplit(url).netloc], method, url, headers, body)
                return loop.run_until_complete(asyncio.wait_for(asked, timeout_s))
            finally:
                loop.close()

    def client(self, host: str, **options: Any) -> httpx.Client:
        """An httpx client of a host here."""

        def answered(request: httpx.Request) -> httpx.Response:
            headers = [(key.decode(), value.decode()) for key, value in request.headers.raw]
            status, told, body = self.call(request.method, str(request.url), headers, request.content, 30.0)
            return httpx.Response(status, headers=told, content=body)

        return httpx.Client(base_url=f"http://{host}", transport=httpx.MockTransport(answered), **options)

    @contextmanager
    def instead_of_sockets(self) -> Iterator[None]:
        """Every client that is built on requests (databricks-sdk) asks here."""

        def send(adapter: HTTPAdapter, request: requests.PreparedRequest, timeout: Any = None, **rest: Any) -> Any:
            body = request.body or b""
            content = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else body.read()
            seconds = timeout[1] if isinstance(timeout, tuple) else timeout
            try:
                status, told, came = self.call(
                    str(request.method), str(request.url), [*request.headers.items()], content, seconds or 300.0
                )
            except TimeoutError as error:
                raise requests.ReadTimeout(str(error), request=request) from error
            raw = HTTPResponse(
                io.BytesIO(came), told, status, preload_content=False, request_method=request.method,
                enforce_content_length=True,
            )  # fmt: skip
            return adapter.build_response(request, raw)

        with instead(HTTPAdapter, send=send):
            yield


async def _asked(application: Any, method: str, url: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
    """One request to an ASGI application, without what a server adds."""
    parts = urlsplit(url)
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": parts.scheme,
        "path": parts.path, "raw_path": parts.path.encode(), "query_string": parts.query.encode(), "root_path": "",
        "headers": [(key.lower().encode(), value.encode()) for key, value in [*headers, ("host", parts.netloc)]],
        "client": ("127.0.0.1", 1), "server": (parts.netloc, 80),
    }  # fmt: skip
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    start, *rest = sent
    told = [(key.decode(), value.decode()) for key, value in start["headers"]]
    return int(start["status"]), told, b"".join(message.get("body", b"") for message in rest)
