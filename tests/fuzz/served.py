"""What is served, without a network: a request as bytes to the pages, a call as JSON to the assistant's tools."""

import asyncio
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from alerts_support import House, MemoryWorkspace, endpoint, settings
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from starlette.types import ASGIApp

from lastgood.alerts.web.app import create_app
from lastgood.service.assistant import server
from lastgood.settings import Mode, Settings, Web

CLOSED = "http://127.0.0.1:9"
"""Where no login provider answers."""


@cache
def _runner() -> asyncio.Runner:
    return asyncio.Runner()


@cache
def _pages() -> tuple[ASGIApp, str]:
    """Pages with sessions and a proposal, and its link."""
    web = Web(oidc={"issuer": CLOSED, "client_id": "lastgood"}, posts_per_minute=1_000_000_000, login_to_read=False)
    house = House(Path(tempfile.mkdtemp()), MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE, web))
    house.verdict()
    house.tick()
    return create_app(house.controller), house.token()


def link() -> str:
    """The path of a link that is good."""
    return f"/r/{_pages()[1]}"


def page(data: bytes) -> None:
    """`METHOD target`, headers and a body, as HTTP/1.1 has them. No answer is an error of the server."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    method, _, target = first.partition(b" ")
    path, _, query = target.partition(b"?")
    headers = [
        (name.strip().lower(), value.strip())
        for name, colon, value in (line.partition(b":") for line in lines)
        if colon
    ]
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method.decode("latin-1") or "GET", "scheme": "http",
        "path": path.decode("utf-8", "replace"), "raw_path": path, "query_string": query, "root_path": "", "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8484), "headers": [(b"host", b"127.0.0.1:8484"), *headers],
    }  # fmt: skip
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    _runner().run(_pages()[0](scope, receive, send))
    assert len(statuses) == 1 and (statuses[0] < 500 or path.startswith(b"/login")), statuses


@cache
def _assistant() -> Any:
    return server(Settings(storage=tempfile.mkdtemp()))


def tool(data: bytes) -> None:
    """A call of a tool. Errors: ToolError, as the assistant gets it."""
    try:
        call = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(call, dict) and isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict):
        try:
            _runner().run(_assistant().call_tool(call["name"], call["arguments"]))
        except UnexpectedToolError as error:
            raise error.__cause__ or error from None
        except ToolError:
            return
