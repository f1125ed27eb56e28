"""A real S3 server (moto's) in a process of its own, behind a gate: it counts requests, holds lent keys to what they are good for, and fails as told.

`python tests/s3_server.py` prints one line of JSON with its address. `PUT /_gate` with {"rules": [...]} sets the faults of the next
matching requests (see Rule); `GET /_gate` gives the requests since the last one.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from lastgood.workspace.local.catalog import lent_for

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
ANSWERS = {"expired": ("403 Forbidden", "ExpiredToken"), "denied": ("403 Forbidden", "AccessDenied"), "slow_down": ("503 Slow Down", "SlowDown"),
           "throttled": ("429 Too Many Requests", "TooManyRequests")}  # fmt: skip


@dataclass
class Rule:
    """The next `times` requests whose method and path hold `method` and `path` get an answer of ANSWERS, wait `delay_s` (delay), or act and
    then lose the answer (lost). The first `after` of them pass. `lent`: only those made with a lent key."""

    kind: str
    method: str = ""
    path: str = ""
    times: int = 1
    after: int = 0
    lent: bool = False
    delay_s: float = 0.0


class Gate:
    """A WSGI application before moto's."""

    def __init__(self, app: Any) -> None:
        self._app, self._lock = app, threading.Lock()
        self._rules: list[Rule] = []
        self._log: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == "/_gate":
            return self._control(method, environ, start)
        with self._lock:
            key = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
            lent = lent_for(key)
            request = {
                "method": method,
                "path": path,
                "query": environ.get("QUERY_STRING", ""),
                "lent": bool(lent),
                "key": key[:8],
                "bytes": 0,
            }
            self._log.append(request)
            rule = self._meet(method, path, bool(lent))
        if lent and (refusal := self._refused(method, path, *lent)):
            return _error(start, *ANSWERS[refusal])
        if rule and rule.kind in ANSWERS:
            return _error(start, *ANSWERS[rule.kind])
        if rule and rule.kind == "delay":
            time.sleep(rule.delay_s)
        if rule and rule.kind == "lost":
            list(self._app(environ, lambda *_: None))
            environ["werkzeug.socket"].close()
            return []
        answer = list(self._app(environ, start))
        request["bytes"] = sum(map(len, answer))
        return answer

    def _meet(self, method: str, path: str, lent: bool) -> Rule | None:
        for rule in self._rules:
            if rule.times > 0 and rule.method in method and rule.path in path and (lent or not rule.lent):
                if rule.after > 0:
                    rule.after -= 1
                    return None
                rule.times -= 1
                return rule
        return None

    @staticmethod
    def _refused(method: str, path: str, write: bool, until: float, address: str) -> str:
        """Why a lent key may not do this."""
        if time.time() >= until:
            return "expired"
        bucket_path = address.split("://")[1]
        listing = method == "GET" and path.strip("/") == bucket_path.split("/")[0]
        inside = path.lstrip("/").startswith(bucket_path) or listing
        return "" if inside and (write or method in ("GET", "HEAD")) else "denied"

    def _control(self, method: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            if method == "PUT":
                body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                self._rules = [Rule(**rule) for rule in body["rules"]]
            told, self._log = json.dumps(self._log).encode(), []
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(told)))])
        return [told]


def _error(start: Callable[..., Any], status: str, code: str) -> Iterable[bytes]:
    body = ERROR.format(code=code).encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, Gate(DomainDispatcherApplication(create_backend_app)), threaded=True)
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
    server.serve_forever()
