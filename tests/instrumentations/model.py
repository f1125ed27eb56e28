"""A small server with OpenAI's API: what it answers, the name of the model says. Runs in a thread; counts the calls it got."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS_IN, TOKENS_OUT, CACHED = 11, 5, 4
PIECES, PAUSE_S = ("Hello", " there", ", it", " is", " warm"), 0.05
SLOW_S = 3.0
USAGE = {
    "prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT, "total_tokens": TOKENS_IN + TOKENS_OUT,
    "prompt_tokens_details": {"cached_tokens": CACHED}, "completion_tokens_details": {"reasoning_tokens": 0},
}  # fmt: skip


class Model(ThreadingHTTPServer):
    """`ok` answers; `m-429` and `m-500` refuse; `slow` takes SLOW_S; `flaky` fails the first of two calls; `tool` asks for the tool `weather`
    until it has its result. Any of them streams where it is asked to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: Counter[str] = Counter()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Model
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        model = asked.get("model", "").rpartition("/")[2]
        with self.server.lock:
            self.server.calls[model] += 1
            number = self.server.calls.total()
            nth = self.server.calls[model]
        if model == "m-429":
            self._json(
                429,
                {
                    "error": {
                        "message": f"Rate limit reached, request req_{number:06}",
                        "type": "rate_limit_error",
                        "code": "rate_limit_exceeded",
                    }
                },
            )
        elif model == "m-500" or (model == "flaky" and nth % 2):
            self._json(500, {"error": {"message": f"internal failure number {number}", "type": "server_error"}})
        else:
            if model == "slow":
                time.sleep(SLOW_S)
            self._answer(asked, model, number)

    def _answer(self, asked: dict[str, Any], model: str, number: int) -> None:
        messages = asked.get("messages", [])
        calling = model == "tool" and not any(message.get("role") == "tool" for message in messages)
        base = {"id": f"chatcmpl-{number:08}", "created": int(time.time()), "model": model}
        if asked.get("stream"):
            self._stream(base, bool((asked.get("stream_options") or {}).get("include_usage")))
            return
        tool = {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
        }
        message = (
            {"role": "assistant", "content": None, "tool_calls": [tool]}
            if calling
            else {"role": "assistant", "content": "".join(PIECES)}
        )
        choice = {
            "index": 0,
            "finish_reason": "tool_calls" if calling else "stop",
            "message": message,
            "logprobs": None,
        }
        self._json(200, base | {"object": "chat.completion", "choices": [choice], "usage": USAGE})

    def _stream(self, base: dict[str, Any], usage: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        base |= {"object": "chat.completion.chunk"}
        for i, piece in enumerate(PIECES):
            time.sleep(PAUSE_S)
            delta = {"content": piece} | ({"role": "assistant"} if not i else {})
            self._event(base | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        time.sleep(PAUSE_S)
        self._event(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if usage:
            self._event(base | {"choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, body: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")
        self.wfile.flush()

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client gave up
            self.close_connection = True
