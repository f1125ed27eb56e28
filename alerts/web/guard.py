"""What every request passes: security headers out, bounded bodies in, no request another site made."""

import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_FORM_BYTES = 8 * 1024
MAX_HOOK_BYTES = 1024 * 1024


class Headers:
    """Security headers on every answer; one that an answer has of its own stays."""

    def __init__(self, app: ASGIApp, csp: str, https: bool) -> None:
        self._app = app
        values = {
            "Content-Security-Policy": csp,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
            "X-Robots-Tag": "noindex, nofollow",
        }
        if https:
            values["Strict-Transport-Security"] = "max-age=31536000"
        self._headers = [(name.lower().encode(), value.encode()) for name, value in values.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in self._headers if header[0] not in own),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class Hosts:
    """Refuses requests for host names that are not ours (DNS rebinding); health checks and scrapes come by address."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in (*hosts, "localhost", "127.0.0.1", "[::1]"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in ("/healthz", "/metrics"):
            host = Request(scope).headers.get("host", "").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in self._hosts:
                answer = PlainTextResponse("This service does not answer to that host name.", 400)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def same_site(request: Request, base_url: str) -> None:
    """Errors: HTTPException 403 for a request another site made a browser send.

    This site sends no referrer, so its own forms carry `Origin: null`; then only Sec-Fetch-Site tells them apart.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = {urlsplit(base_url).netloc, request.headers.get("host", "")}
    if site is not None and site not in ("same-origin", "none"):
        raise HTTPException(403, "This request came from another site.")
    if origin is not None and not (origin == "null" and site == "same-origin") and _netloc(origin) not in own:
        raise HTTPException(403, "This request came from another site (or from a page not served over https).")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


async def body(request: Request, kind: str, limit: int) -> bytes:
    """The body. Errors: HTTPException 413, 415."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != kind:
        raise HTTPException(415, f"Expected {kind}.")
    read = b""
    async for chunk in request.stream():
        read += chunk
        if len(read) > limit:
            raise HTTPException(413, "The body is too large.")
    return read


async def form(request: Request) -> dict[str, str]:
    """The form's fields, the first of each. Errors: HTTPException 413, 415, 400."""
    raw = await body(request, "application/x-www-form-urlencoded", MAX_FORM_BYTES)
    try:
        return {name: values[0] for name, values in parse_qs(raw.decode(), max_num_fields=20).items()}
    except ValueError as error:
        raise HTTPException(400, "The form cannot be read.") from error


async def document(request: Request) -> Mapping[str, Any]:
    """The body as a JSON object. Errors: HTTPException 413, 415, 400."""
    return parsed(await body(request, "application/json", MAX_HOOK_BYTES))


def parsed(raw: bytes) -> Mapping[str, Any]:
    """A body as a JSON object. Errors: HTTPException 400."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body is not JSON.") from error
    if not isinstance(document, dict):
        raise HTTPException(400, "The body is not a JSON object.")
    return document
