"""An HTTP server and 60 callers in processes of their own -> records of what really happened: latencies, refusals, time-outs."""

import http.client
import json
import random
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from lastgood.judge.records import Records

CALLERS, ROOM, TIMEOUT_S = 60, 12, 1.0
"""Callers; requests the server works on at once (more are refused with 503); how long a caller waits."""


class _Handler(BaseHTTPRequestHandler):
    room = threading.Semaphore(ROOM)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.room.acquire(blocking=False):
            return self._answer(503, {})
        try:
            data = bytes(body["tokens_in"] * 8)
            for _ in range(body["tokens_out"]):
                zlib.compress(data)  # work that grows with prompt and answer, and queues for the processor
        finally:
            self.room.release()
        return self._answer(200, {"tokens_out": body["tokens_out"]})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        raw = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def _call(port: int, who: int, until: float, rows: list[tuple[Any, ...]]) -> None:
    """One caller: bursts of requests with pauses between, habits of its own."""
    r = random.Random(who)
    size, length, pause = r.lognormvariate(5, 1), r.lognormvariate(3.5, 0.6), r.lognormvariate(-0.5, 0.8)
    while time.time() < until:
        for _ in range(1 + int(r.expovariate(0.3))):
            asked = {
                "tokens_in": int(size * r.lognormvariate(0, 0.4)) + 1,
                "tokens_out": min(300, int(length * r.lognormvariate(0, 0.4)) + 1),
            }
            at, code = time.time(), ""
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            try:
                link.request("POST", "/", json.dumps(asked))
                status = link.getresponse().status
                code = "" if status == 200 else f"HTTP_{status}"
            except OSError:
                code = "TIMEOUT"
            finally:
                link.close()
            rows.append(
                (
                    at,
                    (time.time() - at) * 1000,
                    code,
                    who,
                    asked["tokens_in"],
                    asked["tokens_out"] if not code else np.nan,
                )
            )
        time.sleep(r.expovariate(1 / pause))


def serve_and_ask(seconds: float) -> Records:
    """Requests of `seconds`. Everything runs on this machine, on loopback."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.judge.served"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port, rows = int(process.stdout.readline()), list[tuple[Any, ...]]()
        until = time.time() + seconds
        threads = [threading.Thread(target=_call, args=(port, who, until, rows)) for who in range(CALLERS)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    finally:
        process.terminate()
        process.wait()
    at, ms, code, who, tokens_in, tokens_out = (np.array(column) for column in zip(*sorted(rows), strict=True))
    names, index = np.unique(code, return_inverse=True)
    nan = np.full(len(at), np.nan)
    return Records(
        at, np.zeros(len(at), np.int64), np.where(code == "", -1, index), tuple(names.tolist()), who, ms, tokens_in.astype(float),
        tokens_out.astype(float), nan, nan, np.zeros(len(at), np.int64), ("client",),
    )  # fmt: skip


if __name__ == "__main__":
    serve()
