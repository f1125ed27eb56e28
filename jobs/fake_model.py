"""A model that judges answers, for tests and for trying `score`: OpenAI's chat completions over HTTP, by a rule and with mistakes on purpose.

An answer that contains GOOD is worth 10, any other 0; of each kind a share is judged the other way round, drawn by a hash of the answer.
"""

import json
import re
from hashlib import sha256

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

GOOD = "helpful"
ANSWER = re.compile(r"Answer to judge\n(-----\w+)\n(.{0,100000})\n\1$", re.DOTALL)


def app(wrong_of_good: float = 0.0, wrong_of_bad: float = 0.0, broken: float = 0.0) -> Starlette:
    """broken: share of the answers that it gives no score for (an error, or words without one)."""
    calls: list[dict[str, object]] = []

    async def completions(request: Request) -> Response:
        body = await request.json()
        calls.append(body)
        if not body.get("model") or not isinstance(body.get("messages"), list):
            error = {
                "message": "you must provide a model and messages",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
            return JSONResponse({"error": error}, 400)
        asked = str(body["messages"][-1]["content"])
        match = ANSWER.search(asked)
        answer = match[2] if match else asked
        good, lot = GOOD in answer, int(sha256(answer.encode()).hexdigest()[:8], 16) / 16**8
        if lot > 1 - broken:
            if lot > 1 - broken / 2:
                return JSONResponse(
                    {"error": {"message": "overloaded", "type": "server_error", "param": None, "code": None}}, 503
                )
            text = "I would rather not say."
        else:
            right = lot >= (wrong_of_good if good else wrong_of_bad)
            text = (
                f"```json\n{json.dumps({'score': 10 if good is right else 0, 'reason': f'it is {answer[:20]!r}'})}\n```"
            )
        tokens = {
            "prompt_tokens": len(asked) // 4,
            "completion_tokens": len(text) // 4,
            "total_tokens": (len(asked) + len(text)) // 4,
        }
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        return JSONResponse({
            "id": f"chatcmpl-{len(calls)}", "object": "chat.completion", "created": 1_772_366_400, "model": body["model"], "choices": [choice], "usage": tokens,
        })  # fmt: skip

    made = Starlette(routes=[Route("/v1/chat/completions", completions, methods=["POST"])])
    made.state.calls = calls
    return made


def short(_: str | None, output: str | None) -> tuple[float, str]:
    """A scorer that is a function: whether an answer has at most a hundred characters."""
    return float(len(output or "") <= 100), f"{len(output or '')} characters"
