"""Request and response bodies -> prompt, output, tokens, features (pure).

Shapes: Databricks Model Serving request formats (chat, completions, embeddings, dataframe_split, dataframe_records,
instances, inputs), the prompt contract, agents' `output[]`, and streamed responses logged as a list of chunks.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

MAX_FEATURES = 200
MAX_BODY = 4 * 1024 * 1024


@dataclass(frozen=True)
class Body:
    """What a pair of bodies says; None where it says nothing. `features`: tabular inputs of one record, as text.

    Of a batch of `records` one stands for all (features and prediction), picked by the body's checksum: the first would not do,
    for clients send batches in an order.
    """

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
    records: int | None = None
    problem: str | None = None
    response_format: str | None = None


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
        if body[:5] in ("data:", b"data:"):
            return _events(body), None
        return orjson.loads(body), None
    except (orjson.JSONDecodeError, RecursionError) as error:
        return None, f"body is not JSON: {error}"[:200]


def _content(content: Any) -> str | None:
    if isinstance(content, list):
        parts = [str(_dict(part).get("text", "")) for part in content]
        return "".join(parts) or text(content)
    return text(content)


def _records(request: dict[str, Any]) -> tuple[int, Callable[[int], dict[str, Any]]]:
    """(how many records a tabular request holds, the record of an index)."""
    split = _dict(request.get("dataframe_split"))
    columns, data = split.get("columns"), split.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        rows = [row for row in data if isinstance(row, list)]
        return len(rows), lambda i: dict(zip(map(str, columns), rows[i], strict=False))
    for key in ("dataframe_records", "instances", "inputs"):
        value = request.get(key)
        if isinstance(value, dict):
            sizes = [len(column) for column in value.values() if isinstance(column, list)]
            return min(sizes, default=1), lambda i, by=value: {str(name): _at(column, i) for name, column in by.items()}
        if isinstance(value, list) and value:
            return len(value), lambda i, rows=value: _record(rows[i])
    return 0, lambda _: {}


def _at(column: Any, index: int) -> Any:
    return column[index] if isinstance(column, list) and column else column


def _record(row: Any) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    return {str(i): value for i, value in enumerate(row)} if isinstance(row, list) else {"0": row}


def _prompt(request: dict[str, Any]) -> str | None:
    messages = request.get("messages", request.get("input"))
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        users = [message for message in messages if isinstance(message, dict) and message.get("role") == "user"]
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
    data = response.get("data")
    if isinstance(data, list) and data and "embedding" in _dict(data[0]):
        return text(data[0]["embedding"]), None
    output = response.get("output")
    if isinstance(output, list) and output:  # agents: tool calls and reasoning stand beside the messages
        items = [_dict(item) for item in output]
        last = ([item for item in items if item.get("type", "message") == "message"] or items)[-1]
        return _content(last.get("content")), text(response.get("status"))
    return None, None


def _prediction(response: dict[str, Any], records: int, index: int) -> str | None:
    """What was predicted for one record; None where the response does not answer record by record."""
    predictions = response.get("predictions", response.get("outputs"))
    return text(predictions[index]) if isinstance(predictions, list) and len(predictions) == records else None


def _events(body: str | bytes) -> list[Any]:
    """The data of server-sent events, as a streamed response may be logged."""
    lines = (body.decode(errors="replace") if isinstance(body, bytes) else body).splitlines()
    payloads = (line[5:].strip() for line in lines if line.startswith("data:"))
    return [orjson.loads(payload) for payload in payloads if payload and payload != "[DONE]"]


def _format(request: dict[str, Any]) -> str | None:
    """`json` where the request asked for JSON, with the keys its schema requires: `json:a,b`."""
    asked = _dict(request.get("response_format"))
    kind = asked.get("type")
    if kind not in ("json_object", "json_schema"):
        return None
    outer = _dict(asked.get("json_schema"))
    required = _dict(outer.get("schema")).get("required")
    keys = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
    return f"json:{','.join(keys)}" if keys else "json"


def _joined(chunks: list[Any]) -> dict[str, Any]:
    """One response of a streamed one's chunks: contents joined, the last usage and finish reason kept."""
    pieces: list[str] = []
    whole: dict[str, Any] = {}
    reason = None
    for chunk in map(_dict, chunks):
        if isinstance(chunk.get("response"), dict):  # an agent's stream ends with the whole response
            whole |= chunk["response"]
        piece, why = _answer(chunk)
        pieces.append(piece or (chunk["delta"] if isinstance(chunk.get("delta"), str) else ""))
        reason = why or reason
        whole |= {key: value for key, value in chunk.items() if value is not None}
    return whole | {"choices": [{"text": "".join(pieces), "finish_reason": reason}]}


def extract(request: str | bytes | None, response: str | bytes | None) -> Body:
    """What the bodies say. Never raises: a body that is not JSON gives `problem` and its text as input / output."""
    asked, bad_request = _parse(request)
    parsed, bad_response = _parse(response)
    streamed = isinstance(parsed, list)
    if isinstance(parsed, list):
        parsed = _joined(parsed)
    problem = bad_request or bad_response
    if request is not None and asked is not None and not isinstance(asked, dict):
        problem = problem or "request body is not a JSON object"
    req, res = _dict(asked), _dict(parsed)
    records, record = _records(req)
    picked = zlib.crc32(request.encode() if isinstance(request, str) else request or b"") % records if records else 0
    usage, metadata = _dict(res.get("usage")), _dict(req.get("metadata"))
    output, reason = _answer(res)
    streaming = req.get("stream")
    return Body(
        input=_prompt(req) if req else None,
        output=(_prediction(res, records, picked) if records else None) or output,
        tokens_in=_count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        tokens_out=_count(usage.get("completion_tokens", usage.get("output_tokens"))),
        finish_reason=reason,
        error_code=text(res.get("error_code")),
        streaming=True if streamed else streaming if isinstance(streaming, bool) else None,
        client_request_id=text(req.get("client_request_id")) or None,
        team=text(metadata.get("team")),
        env=text(metadata.get("env")),
        features={str(k): text(v) or "" for k, v in list(record(picked).items() if records else ())[:MAX_FEATURES]},
        records=records or None,
        problem=problem,
        response_format=_format(req),
    )
