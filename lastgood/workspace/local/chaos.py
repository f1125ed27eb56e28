"""Things that go wrong between a client and the serving API, switched on over HTTP: what a rule says happens to the next calls."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from lastgood.workspace.local.state import ApiError

ANSWERS = {
    "429": (429, "REQUEST_LIMIT_EXCEEDED", "Too many requests."),
    "403": (403, "PERMISSION_DENIED", "User does not have permission CAN_MANAGE on the endpoint."),
    "401": (401, "UNAUTHENTICATED", "The access token has expired."),
    "500": (500, "INTERNAL_ERROR", "Internal error."),
    "503": (503, "TEMPORARILY_UNAVAILABLE", "The service is temporarily unavailable."),
}
KINDS = (*ANSWERS, "lost", "timeout")


@dataclass
class Rule:
    """`kind`: a status to answer without acting; `lost`: act, then cut the connection; `timeout`: act never, answer never.

    `op`: update (PUT .../config), get (GET of an endpoint), catalog (tables and their
    credentials), statement (SQL), any. `times`: how many calls it meets.
    """

    kind: str
    op: str = "any"
    times: int = 1
    hang_s: float = 30.0


class Chaos:
    """The rules in force, oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self.calls: dict[str, int] = {"update": 0, "get": 0}

    def put(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the rules by `body["rules"]`. Errors: ApiError."""
        known = {field.name for field in fields(Rule)}
        rules = body.get("rules")
        if not isinstance(rules, list) or any(not isinstance(r, dict) or set(r) - known for r in rules):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"rules: expected a list of objects with {sorted(known)}")
        if any(r.get("kind") not in KINDS for r in rules):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"kind: expected one of {', '.join(KINDS)}")
        with self._lock:
            self._rules = [Rule(**r) for r in rules]
        return self.state()

    def state(self) -> dict[str, Any]:
        with self._lock:
            return {"rules": [asdict(r) for r in self._rules], "calls": dict(self.calls)}

    async def meet(self, request: Request, act: Callable[[Request], Awaitable[Response]]) -> Response:
        """The answer to a call, with the first rule that concerns it applied."""
        op = _operation(request)
        rule = self._take(op)
        if rule is None:
            return await act(request)
        if rule.kind == "timeout":
            await asyncio.sleep(rule.hang_s)
            return Cut()
        if rule.kind == "lost":
            await act(request)
            return Cut()
        status, code, message = ANSWERS[rule.kind]
        return JSONResponse({"error_code": code, "message": message}, status)

    def _take(self, op: str) -> Rule | None:
        with self._lock:
            if op in self.calls:
                self.calls[op] += 1
            rule = next((r for r in self._rules if r.times > 0 and op and r.op in (op, "any")), None)
            if rule:
                rule.times -= 1
            return rule


def _operation(request: Request) -> str:
    path = request.url.path
    if path.startswith("/api/2.0/sql/statements"):
        return "statement"
    if "/unity-catalog/tables/" in path or path.endswith("/temporary-table-credentials"):
        return "catalog"
    if not path.startswith("/api/2.0/serving-endpoints/"):
        return ""
    if request.method == "PUT" and path.endswith("/config"):
        return "update"
    return "get" if request.method == "GET" else ""


class Cut(Response):
    """No answer: the connection ends in the middle of the headers' promise."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": False})
