"""Request and response bodies -> prompt, output, tokens, features (pure).

Shapes of requests: Databricks Model Serving's formats (chat, completions, embeddings, dataframe_split, dataframe_records,
instances, inputs) and the prompt contract. Shapes of responses: see `responses`. A streamed response may be logged as a list of chunks or
as server-sent events.
"""

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from lastgood.collectors.responses import NOTHING, answer, as_text, content, mapping, streamed
from lastgood.record.vocabulary import STREAM_BROKEN

MAX_FEATURES = 1_000
MAX_BODY = 4 * 1024 * 1024
NOT_FINITE = "numbers in the body are not finite: null, or inf"


class Body(NamedTuple):
    """What a pair of bodies says; None where it says nothing. `features`: tabular inputs of one record, as text; NaN is "" (unknown).

    Of a batch of `records` one stands for all (features and prediction), picked by the body's checksum: the first would not do,
    for clients send batches in an order. `tool_calls`: JSON list of {name, arguments}. `refusal`: refused in the field made for it.
    """

    input: str | None
    output: str | None
    tokens_in: int | None
    tokens_out: int | None
    finish_reason: str | None
    error_code: str | None
    streaming: bool | None
    client_request_id: str | None
    team: str | None
    env: str | None
    features: Mapping[str, str]
    records: int | None
    problem: str | None
    response_format: str | None
    tool_calls: str | None
    refusal: str | None
    tokens_cached: int | None = None
    tokens_cache_write: int | None = None
    tokens_reasoning: int | None = None
    tokens_audio_in: int | None = None
    tokens_audio_out: int | None = None


ARROW: Mapping[str, pa.DataType] = {
    **{name: pa.int64() for name in Body._fields if name.startswith("tokens_")}, "streaming": pa.bool_(), "records": pa.int64(),
    "features": pa.map_(pa.string(), pa.string()),
}  # fmt: skip
"""Types of Body's fields that are no text."""


def _count(value: Any) -> int | None:
    if type(value) is int:
        return value if 0 <= value < 2**53 else None
    return int(value) if isinstance(value, float) and 0 <= value < 2**53 else None


def _not_finite(body: str | bytes, error: Exception) -> tuple[Any, str]:
    """(JSON value, problem) where NaN and Infinity, which JSON does not have, are all that is wrong. Errors: ValueError."""
    text = body.decode() if isinstance(body, bytes) else body
    if "NaN" not in text and "Infinity" not in text and "infinity" not in str(error):
        raise error
    value = json.loads(text)
    try:
        orjson.dumps(value)  # nothing that could not have come from orjson: lone surrogates, endless numbers
    except TypeError as unfit:
        raise ValueError(str(unfit)) from unfit
    return value, NOT_FINITE


def _nested(value: Any) -> Any:
    """The value in a JSON text of JSON, as a double encoder writes, or in a list of a stream's chunks or lines as texts."""
    if type(value) is str and value[:1] in ("{", "["):
        return orjson.loads(value)
    if type(value) is list and value and all(type(entry) is str for entry in value):
        if all(entry[:1] == "{" for entry in value):
            return [orjson.loads(entry) for entry in value]
        return _events("\n".join(value)) if EVENTS.match(value[0]) else value
    return value


def _parse(body: str | bytes | None) -> tuple[Any, str | None]:
    if body is None:
        return None, None
    if len(body) > MAX_BODY:
        return None, "body above 4 MiB"
    try:
        return _nested(orjson.loads(body)), None
    except (ValueError, RecursionError) as error:
        try:
            text = body.decode(errors="replace") if isinstance(body, bytes) else body
            if EVENTS.match(text[:64]):
                return _events(text), None
            if text[:1] == "{" and LINES_END.search(text):
                return [orjson.loads(line) for line in text.split("\n") if line.strip()], None
            return _not_finite(body, error)
        except (ValueError, RecursionError) as last:
            return None, f"body is not JSON: {last}"[:200]


EVENTS = re.compile(r"\ufeff?\s*(:|(data|event|id|retry):)")
"""How server-sent events begin: a comment or a field (the HTML standard, 9.2)."""
LINES_END = re.compile(r"\}\s*\n\{")
"""Between two JSON lines."""


def _events(text: str) -> list[Any]:
    """The data of server-sent events, as a streamed response may be logged; a last one that is cut is left out. Data of an event named
    `error` need be no JSON."""
    lines = re.split(r"\r\n|\n|\r", text.lstrip("\ufeff"))  # not splitlines: JSON texts may hold U+2028
    values: list[Any] = []
    event, last = "", max((i for i, line in enumerate(lines) if line.startswith("data:")), default=0)
    for i, line in enumerate(lines):
        event = line[6:].strip() if line.startswith("event:") else event
        payload = line[5:].strip() if line.startswith("data:") else ""
        if payload == "[DONE]" and values:
            values.append({"type": "message_stop"})
            continue
        if not payload or payload == "[DONE]":
            continue
        try:
            values.append(orjson.loads(payload))
        except orjson.JSONDecodeError:
            if event == "error":
                values.append({"type": "error"})
            elif i < last or not values:
                raise
    return values


def _records(request: dict[str, Any]) -> tuple[int, Callable[[int], dict[str, Any]]]:
    """(how many records a tabular request holds, the record of an index)."""
    split = mapping(request.get("dataframe_split"))
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


def _of_tools(parts: Any) -> bool:
    """Results of tools, which some families send as the user."""
    return isinstance(parts, list) and bool(parts) and all(mapping(part).get("type") == "tool_result" for part in parts)


def _prompt(request: dict[str, Any]) -> str | None:
    messages = request.get("messages")
    if messages is None:
        messages = request.get("input")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        for message in reversed(messages):
            if isinstance(message, dict) and message.get("role") == "user" and not _of_tools(message.get("content")):
                return content(message.get("content"))
        return content(messages[-1].get("content"))
    return content(request.get("prompt", request.get("input")))


def _prediction(response: dict[str, Any], records: int, index: int) -> str | None:
    """What was predicted for one record; None where the response does not answer record by record."""
    predictions = response.get("predictions", response.get("outputs"))
    return as_text(predictions[index]) if isinstance(predictions, list) and len(predictions) == records else None


def _format(request: dict[str, Any]) -> str | None:
    """`json` where the request asked for JSON, with the keys its schema requires: `json:a,b`."""
    asked = mapping(request.get("response_format")) or mapping(mapping(request.get("text")).get("format"))
    kind = asked.get("type")
    if kind not in ("json_object", "json_schema"):
        return None
    outer = mapping(asked.get("json_schema")) or asked  # the Responses API has no level between
    required = mapping(outer.get("schema")).get("required")
    keys = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
    return f"json:{','.join(keys)}" if keys else "json"


def _feature(value: Any) -> str:
    """A feature as text: "" for null and NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return "" if math.isnan(value) else str(value)
    return as_text(value) or ""


def _features(record: dict[str, Any]) -> dict[str, str]:
    """At most MAX_FEATURES; a body that has more says so in `problem`."""
    return {str(name): _feature(value) for name, value in list(record.items())[:MAX_FEATURES]}


_NONE: Mapping[str, str] = {}


def extract(request: str | bytes | None, response: str | bytes | None) -> Body:
    """What the bodies say. Never raises: a body that is not JSON gives `problem`."""
    asked, problem = _parse(request)
    parsed, bad_response = _parse(response)
    problem = problem or bad_response
    req, res, chunks = asked, parsed, False
    if type(req) is not dict:
        if asked is not None:
            problem = problem or "request body is not a JSON object"
        req = {}
    if isinstance(parsed, list) and len(parsed) == 1 and "generated_text" in mapping(parsed[0]):
        parsed = res = parsed[0]  # a pipeline's batch of one, no stream
    if type(parsed) is dict:
        answered = answer(parsed)
    elif chunks := isinstance(parsed, list):
        answered, res = streamed(parsed)
    else:
        answered, res = NOTHING, {}
    output, features, records, code = answered.text, _NONE, 0, res.get("error_code")
    if req and "messages" not in req:
        records, record = _records(req)
        if records:
            picked = zlib.crc32(request.encode() if isinstance(request, str) else request or b"") % records
            inputs = record(picked)
            features, output = _features(inputs), _prediction(res, records, picked) or output
            if len(inputs) > MAX_FEATURES:
                problem = problem or f"{len(inputs)} features: those after the first {MAX_FEATURES} are left out"
    if bad_response and type(response) is str and response.startswith("[{") and parsed is None:
        answered = answered._replace(broken="its list of chunks is cut")
    if answered.broken:
        code = answered.code if chunks or code is None else code
        problem = problem or (f"stream broken: {answered.broken}" if code == STREAM_BROKEN else None)
    usage, metadata = res.get("usage") or res.get("usageMetadata"), req.get("metadata")
    spent = _spent(usage) if type(usage) is dict else (None, None)
    team = env = None
    if type(metadata) is dict:
        team, env = as_text(metadata.get("team")), as_text(metadata.get("env"))
    streaming = req.get("stream")
    return Body(
        _prompt(req) if req else None,
        output,
        spent[0],
        spent[1],
        answered.reason,
        code if code is None else as_text(code),
        True if chunks else streaming if isinstance(streaming, bool) else None,
        as_text(req.get("client_request_id")) or None,
        team,
        env,
        features,
        records or None,
        problem,
        _format(req) if "response_format" in req or "text" in req else None,
        answered.tool_calls,
        "1" if answered.refusal else None,
        *spent[2:],
    )


def _spent(usage: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Tokens of an answer: prompt, generated, and those that may have prices of their own."""
    into = _count(usage.get("prompt_tokens", usage.get("input_tokens", usage.get("promptTokenCount"))))
    out = _count(usage.get("completion_tokens", usage.get("output_tokens", usage.get("candidatesTokenCount"))))
    apart = _priced_apart(usage)
    if into is not None and "cache_read_input_tokens" in usage and "input_tokens" in usage:
        into += (apart[0] or 0) + (apart[1] or 0)  # Anthropic counts them beside the others
    return (into, out, *apart)


def _priced_apart(usage: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Tokens of an answer that may have prices of their own: cached, written to the cache, reasoning, audio in and out."""
    asked = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    answered = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    into, out = (part if type(part) is dict else {} for part in (asked, answered))
    return (
        _count(into.get("cached_tokens", usage.get("cache_read_input_tokens", usage.get("cachedContentTokenCount")))),
        _count(usage.get("cache_creation_input_tokens")),
        _count(out.get("reasoning_tokens", usage.get("thoughtsTokenCount"))),
        _count(into.get("audio_tokens")),
        _count(out.get("audio_tokens")),
    )


def columns(requests: list[str | None], responses: list[str | None]) -> dict[str, pa.Array]:
    """Body's fields of every pair as Arrow columns."""
    many = len(requests)
    fields = zip(*map(extract, requests, responses), strict=True) if many else ([] for _ in Body._fields)
    made = {}
    for name, values in zip(Body._fields, fields, strict=True):
        kind = ARROW.get(name, pa.string())
        if name == "features":
            values = [list(pairs.items()) if pairs else None for pairs in values] if any(values) else (None,) * many
        made[name] = pa.nulls(many, kind) if values.count(None) == many else pa.array(values, kind)
    return made
