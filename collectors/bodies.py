"""Request and response bodies -> prompt, output, tokens, features (pure).

Shapes: Databricks Model Serving request formats (chat, completions, embeddings, dataframe_split, dataframe_records,
instances, inputs), the prompt contract, agents' `output[]`, and streamed responses logged as a list of chunks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

MAX_FEATURES = 200
MAX_BODY = 4 * 1024 * 1024


@dataclass(frozen=True)
class Body:
    """What a pair of bodies says; None where it says nothing. `features`: tabular inputs of the first record, as text."""

    input: str | None = None
    output: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    streaming: bool | None = None
    client_request_id: str | None = None
    team: str | None = None
    env: str | None = None
    features: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None


def text(value: Any) -> str | None:
    """A text for any JSON value; None for null."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _parse(body: str | bytes | None) -> tuple[Any, str | None]:
    if body is None:
        return None, None
    if len(body) > MAX_BODY:
        return None, "body above 4 MiB"
    try:
        return orjson.loads(body), None
    except (orjson.JSONDecodeError, RecursionError) as error:
        return None, f"body is not JSON: {error}"[:200]


def _content(content: Any) -> str | None:
    if isinstance(content, list):
        parts = [str(_dict(one).get("text", "")) for one in content]
        return "".join(parts) or text(content)
    return text(content)


def _first_record(request: dict[str, Any]) -> dict[str, Any]:
    split = _dict(request.get("dataframe_split"))
    if split:
        columns, data = split.get("columns"), split.get("data")
        if isinstance(columns, list) and isinstance(data, list) and data and isinstance(data[0], list):
            return dict(zip(map(str, columns), data[0], strict=False))
        return {}
    for key in ("dataframe_records", "instances", "inputs"):
        rows = request.get(key)
        if isinstance(rows, dict):
            return {
                str(name): column[0] if isinstance(column, list) and column else column for name, column in rows.items()
            }
        if isinstance(rows, list) and rows:
            first = rows[0]
            if isinstance(first, dict):
                return first
            return {str(i): value for i, value in enumerate(first)} if isinstance(first, list) else {"0": first}
    return {}


def _prompt(request: dict[str, Any]) -> str | None:
    messages = request.get("messages", request.get("input"))
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        users = [one for one in messages if isinstance(one, dict) and one.get("role") == "user"]
        return _content((users or messages)[-1].get("content"))
    prompt = request.get("prompt", request.get("input"))
    return _content(prompt)


def _answer(response: dict[str, Any]) -> tuple[str | None, str | None]:
    """(output text, finish reason)."""
    choices = response.get("choices")
    if isinstance(choices, list) and choices:
        choice = _dict(choices[0])
        message = _dict(choice.get("message") or choice.get("delta"))
        return _content(message.get("content", choice.get("text"))), text(choice.get("finish_reason"))
    for key in ("generated_text", "predictions", "outputs"):
        if key in response:
            return text(response[key]), text(response.get("finish_reason"))
    output = response.get("output")
    if isinstance(output, list) and output:
        return _content(_dict(output[-1]).get("content")), text(response.get("status"))
    return None, None


def _joined(chunks: list[Any]) -> dict[str, Any]:
    """One response of a streamed one's chunks: contents joined, the last usage and finish reason kept."""
    said: list[str] = []
    whole: dict[str, Any] = {}
    reason = None
    for chunk in map(_dict, chunks):
        piece, why = _answer(chunk)
        said.append(piece or "")
        reason = why or reason
        whole |= {key: value for key, value in chunk.items() if value is not None}
    return whole | {"choices": [{"text": "".join(said), "finish_reason": reason}]}


def extract(request: str | bytes | None, response: str | bytes | None) -> Body:
    """What the bodies say. Never raises: a body that is not JSON gives `problem` and its text as input / output."""
    asked, bad_request = _parse(request)
    said, bad_response = _parse(response)
    streamed = isinstance(said, list)
    if isinstance(said, list):
        said = _joined(said)
    problem = bad_request or bad_response
    if request is not None and asked is not None and not isinstance(asked, dict):
        problem = problem or "request body is not a JSON object"
    req, res = _dict(asked), _dict(said)
    usage, metadata = _dict(res.get("usage")), _dict(req.get("metadata"))
    output, reason = _answer(res)
    streaming = req.get("stream")
    return Body(
        input=_prompt(req) if req else None,
        output=output,
        tokens_in=_count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        tokens_out=_count(usage.get("completion_tokens", usage.get("output_tokens"))),
        finish_reason=reason,
        error_code=text(res.get("error_code")),
        streaming=True if streamed else streaming if isinstance(streaming, bool) else None,
        client_request_id=text(req.get("client_request_id")) or None,
        team=text(metadata.get("team")),
        env=text(metadata.get("env")),
        features={str(k): text(v) or "" for k, v in list(_first_record(req).items())[:MAX_FEATURES]},
        problem=problem,
    )
