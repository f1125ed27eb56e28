"""A loopback receiver that answers as the Events API v2 does: for the demo and the tests."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lastgood.alerts.notify.pagerduty import MAX_BYTES

ACTIONS = ("trigger", "acknowledge", "resolve")
SEVERITIES = ("critical", "error", "warning", "info")


class FakePagerDuty:
    """`answers`: status codes to give to the next events instead of a normal answer."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.url = ""
        self._events: list[dict[str, Any]] = []
        routes = [Route("/v2/enqueue", self._enqueue, methods=["POST"]), Route("/events", self._list)]
        self.app = Starlette(routes=routes)

    def events(self) -> list[dict[str, Any]]:
        """The accepted events, oldest first, as `GET /events` lists them."""
        listed: list[dict[str, Any]] = httpx.get(self.url.removesuffix("/v2/enqueue") + "/events").json()
        return listed

    def clear(self) -> None:
        self._events.clear()

    async def _list(self, request: Request) -> Response:
        return JSONResponse(self._events)

    async def _enqueue(self, request: Request) -> Response:
        if self.answers:
            return JSONResponse({"status": "throttled or failing"}, self.answers.pop(0))
        body = await request.body()
        if errors := problems(body):
            message = {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
            return JSONResponse(message, 400)
        event = json.loads(body)
        key = event.setdefault("dedup_key", f"made-{len(self._events)}")
        self._events.append(event)
        return JSONResponse({"status": "success", "message": "Event processed", "dedup_key": key}, 202)


def problems(body: bytes) -> list[str]:
    """Why the Events API would refuse this body; empty when it would not."""
    if len(body) > MAX_BYTES:
        return ["Event object is larger than 512 KB"]
    try:
        event = json.loads(body)
    except ValueError:
        return ["Event object is not valid JSON"]
    if not isinstance(event, dict):
        return ["Event object is not a JSON object"]
    errors = [f"'{name}' is missing or blank" for name in ("routing_key", "event_action") if not event.get(name)]
    if event.get("event_action") and event["event_action"] not in ACTIONS:
        errors.append(f"'event_action' is not one of {', '.join(ACTIONS)}")
    if len(event.get("dedup_key") or "") > 255:
        errors.append("'dedup_key' is longer than 255 characters")
    if event.get("event_action") in ("acknowledge", "resolve"):
        return errors if event.get("dedup_key") else [*errors, "'dedup_key' is missing or blank"]
    payload = event.get("payload") or {}
    errors += [f"'payload.{n}' is missing or blank" for n in ("summary", "source", "severity") if not payload.get(n)]
    if payload.get("severity") and payload["severity"] not in SEVERITIES:
        errors.append(f"'payload.severity' is not one of {', '.join(SEVERITIES)}")
    if len(payload.get("summary") or "") > 1024:
        errors.append("'payload.summary' is longer than 1024 characters")
    return errors


@contextmanager
def serve_fake(port: int = 0) -> Iterator[FakePagerDuty]:
    """A receiver on loopback; `url` is where events go."""
    fake = FakePagerDuty()
    with serving(fake.app, port) as base_url:
        fake.url = f"{base_url}/v2/enqueue"
        yield fake


@contextmanager
def serving(app: Starlette, port: int = 0) -> Iterator[str]:
    """`app` on loopback, in a thread; gives its base URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")
    server, socket = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        socket.close()
