"""A parsed response body, whole or as the chunks of a stream -> what the model answered (pure).

Families: OpenAI chat, completions and embeddings; the Responses API and its events (Databricks' ResponsesAgent); ChatAgent and
ChatModel; Anthropic messages and their events; Google's candidates; predictions; `generated_text`.
"""

from typing import Any, NamedTuple

import orjson

from lastgood.record.vocabulary import ANSWER_FAILED, STREAM_BROKEN, finish_reason

END_EVENTS = ("response.completed", "response.incomplete", "message_stop")
FAILED_EVENTS = ("error", "response.failed")


class Answer(NamedTuple):
    """`text`: what people read, None where there is none. `tool_calls`: JSON list of {name, arguments}. `reason`: why generation
    stopped, in the words of `vocabulary`. `refusal`: the model refused in the field made for it. `broken`: why a stream is not whole,
    or an answer is none."""

    text: str | None = None
    reason: str | None = None
    tool_calls: str | None = None
    refusal: bool = False
    broken: str | None = None

    @property
    def code(self) -> str | None:
        """The error code of an answer that failed behind a status of 200."""
        return self.broken and (ANSWER_FAILED if self.broken in FAILURES else STREAM_BROKEN)


FAILURES = ("an error object", "it says that it failed")
NOTHING = Answer()


def as_text(value: Any) -> str | None:
    """A text for any JSON value; None for null."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def content(value: Any) -> str | None:
    """The text of a message's content: text parts joined; of other parts (images, audio, files) their kind in brackets."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        return as_text(value)
    pieces, kinds = [], []
    for part in value:
        if isinstance(part, str):
            pieces.append(part)
            continue
        fields = mapping(part)
        piece = fields.get("text", fields.get("refusal", fields.get("transcript")))
        if isinstance(piece, str):
            pieces.append(piece)
        elif fields.get("type") not in (None, "reasoning", "thinking", "tool_use", "tool_call", "function_call"):
            kinds.append(f"[{fields['type']}]")
    return "".join(pieces) or " ".join(kinds) or None


def _call(name: Any, arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": as_text(arguments)}


def _calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Tool calls of a chat message, in whichever form."""
    calls = []
    for entry in _entries(message.get("tool_calls")):
        function = mapping(entry.get("function")) or entry
        calls.append(_call(function.get("name"), function.get("arguments")))
    if isinstance(message.get("function_call"), dict):
        calls.append(_call(message["function_call"].get("name"), message["function_call"].get("arguments")))
    for part in _entries(message.get("content")):
        if part.get("type") in ("tool_use", "tool_call", "function_call"):
            calls.append(_call(part.get("name"), part.get("input", part.get("arguments"))))
    return calls


def _message(message: dict[str, Any], reason: Any) -> Answer:
    body = message.get("content")
    if type(body) is str and body and len(message) <= 2:  # by far the most frequent
        return Answer(body, finish_reason(reason))
    text, refusal = content(body), message.get("refusal")
    if not text and isinstance(refusal, str) and refusal:
        return Answer(refusal, finish_reason(reason), None, True)
    if not text and isinstance(message.get("audio"), dict):
        text = as_text(message["audio"].get("transcript"))
    calls = _calls(message)
    if calls:
        return Answer(text or None, finish_reason(reason), orjson.dumps(calls).decode(), False)
    refused = any(part.get("type") == "refusal" for part in _entries(body))
    return Answer(text, finish_reason(reason), None, refused)


def _items(items: list[dict[str, Any]], reason: Any) -> Answer:
    """Output items of the Responses API: messages, function calls, reasoning."""
    calls = [
        _call(i.get("name"), i.get("arguments", i.get("input")))
        for i in items
        if i.get("type") in ("function_call", "custom_tool_call", "mcp_call")
    ]
    messages = [item for item in items if item.get("type", "message") == "message"]
    text = content(messages[-1].get("content")) if messages else None
    refused = bool(messages) and any(part.get("type") == "refusal" for part in _entries(messages[-1].get("content")))
    why = finish_reason(reason)
    if why == "stop" and calls and not text:
        why = "tool_calls"
    return Answer(text, why, orjson.dumps(calls).decode() if calls else None, refused)


def _incomplete(response: dict[str, Any]) -> Any:
    """Why a response of the Responses API stopped."""
    return mapping(response.get("incomplete_details")).get("reason") or response.get("status")


def _google(candidate: dict[str, Any]) -> Answer:
    parts = _entries(mapping(candidate.get("content")).get("parts"))
    calls = [
        _call(p["functionCall"].get("name"), p["functionCall"].get("args"))
        for p in parts
        if mapping(p.get("functionCall"))
    ]
    text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str) and not part.get("thought"))
    reason = finish_reason(candidate.get("finishReason"))
    return Answer(text or None, reason, orjson.dumps(calls).decode() if calls else None)


def _failure(response: dict[str, Any], answered: Answer) -> str | None:
    """Why a whole response is no answer, where it is none."""
    if answered.reason == "error" or (response.get("status") == "failed" and "output" in response):
        return FAILURES[1]
    wrong = response.get("error")
    return (
        FAILURES[0] if isinstance(wrong, dict | str) and wrong and not (answered.text or answered.tool_calls) else None
    )


def answer(response: dict[str, Any]) -> Answer:
    """What a whole response says."""
    answered = _answer(response)
    broken = _failure(response, answered)
    return answered._replace(broken=broken) if broken else answered


def first(choices: list[Any]) -> dict[str, Any]:
    """The choice that the client sees first; several answers are never mixed."""
    return min(map(mapping, choices), key=lambda choice: index if isinstance(index := choice.get("index"), int) else 0)


def _answer(response: dict[str, Any]) -> Answer:
    choices = response.get("choices")
    if isinstance(choices, list) and choices:
        choice = first(choices)
        message = choice.get("message") or choice.get("delta")
        if isinstance(message, dict):
            return _message(message, choice.get("finish_reason"))
        return Answer(content(choice.get("text")), finish_reason(choice.get("finish_reason")))
    for key in ("generated_text", "predictions", "outputs"):
        if key in response:
            inner = response[key][0] if isinstance(response[key], list) and len(response[key]) == 1 else response[key]
            if isinstance(inner, dict) and any(
                isinstance(inner.get(name), list) for name in ("choices", "messages", "output")
            ):
                return _answer(inner)  # a chat model behind the tabular format
            details = mapping(response.get("details"))
            return Answer(
                as_text(response[key]), finish_reason(response.get("finish_reason", details.get("finish_reason")))
            )
    data = response.get("data")
    if isinstance(data, list) and data and "embedding" in mapping(data[0]):
        vector = data[0]["embedding"]
        return Answer(as_text(vector) if isinstance(vector, list) else None)
    if _entries(response.get("output")):
        return _items(_entries(response["output"]), _incomplete(response))
    messages = _entries(response.get("messages"))
    if messages:  # ChatAgent: the whole conversation's new messages, the last is the answer
        spoken = [message for message in messages if message.get("role", "assistant") == "assistant"] or messages
        return _message(spoken[-1], response.get("finish_reason"))
    if response.get("type") == "message" or "stop_reason" in response:
        return _message({"content": response.get("content")}, response.get("stop_reason"))
    if _entries(response.get("candidates")):
        return _google(_entries(response["candidates"])[0])
    if isinstance(response.get("message"), dict):
        return _message(response["message"], response.get("finish_reason", response.get("done_reason")))
    spoken_of = mapping(mapping(response.get("output")).get("message"))
    if spoken_of:
        return _message(spoken_of, response.get("stopReason"))
    return NOTHING._replace(reason=finish_reason(mapping(response.get("promptFeedback")).get("blockReason")))


class _Stream:
    """Chunks of one streamed answer, added up."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.calls: dict[Any, list[Any]] = {}
        self.messages: list[dict[str, Any]] = []
        self.items: list[dict[str, Any]] = []
        self.whole: dict[str, Any] = {}
        self.ids: dict[Any, Any] = {}
        self.reason: Any = None
        self.known = self.ended = self.refused = False
        self.failure: str | None = None

    def add(self, chunk: dict[str, Any]) -> None:
        kind = chunk.get("type")
        if kind in FAILED_EVENTS or (isinstance(chunk.get("error"), dict | str) and chunk["error"]):
            self.failure = "error event"
        if isinstance(kind, str) and (
            kind.startswith(("response.", "message_", "content_block")) or kind in FAILED_EVENTS
        ):
            self._event(kind, chunk)
        elif _entries(chunk.get("choices")):
            self._choice(first(chunk["choices"]))
        elif isinstance(chunk.get("delta"), dict):
            self._agent(chunk["delta"])
            self._stop(chunk.get("finish_reason"))
            self.ended = (
                True  # its chunks need no finish reason, and most agents send none: where it ends cannot be seen
            )
        elif isinstance(chunk.get("token"), dict):  # text-generation-inference: its last chunk has the whole text
            if chunk["token"].get("special") is not True:
                self.pieces.append(as_text(chunk["token"].get("text")) or "")
            self._stop(mapping(chunk.get("details")).get("finish_reason"))
            self.ended = self.ended or isinstance(chunk.get("generated_text"), str)
        elif _entries(chunk.get("candidates")):
            self._google(_google(_entries(chunk["candidates"])[0]))
        elif isinstance(chunk.get("generated_text"), str):
            self.pieces.append(chunk["generated_text"])
            self._stop(chunk.get("finish_reason"))

    def _stop(self, reason: Any) -> None:
        self.known = True
        if finish_reason(reason):
            self.reason, self.ended = reason, True

    def _agent(self, delta: dict[str, Any]) -> None:
        """A piece of a ChatAgent's messages: pieces of one message have one id; what tools say is no answer, and the last message is it."""
        last = self.messages[-1] if self.messages else None
        if (
            last is None
            or delta.get("id") != last.get("id")
            or (delta.get("role") or last.get("role")) != last.get("role")
        ):
            self.messages.append(delta)
            if delta.get("role", "assistant") == "assistant":
                self.pieces.clear()
        if self.messages[-1].get("role", "assistant") == "assistant":
            self._delta(delta)

    def _google(self, part: Answer) -> None:
        self.pieces.append(part.text or "")
        for i, call in enumerate(orjson.loads(part.tool_calls or "[]")):
            self.calls[len(self.calls), i] = [call["name"], call["arguments"] or ""]
        self._stop(part.reason)

    def _choice(self, choice: Any) -> None:
        fields = mapping(choice)
        if fields.get("index") not in (None, 0):
            return
        self._delta(mapping(fields.get("delta") or fields.get("message")) or {"content": fields.get("text")})
        self._stop(fields.get("finish_reason"))

    def _delta(self, delta: dict[str, Any]) -> None:
        self.known = True
        piece = content(delta.get("content")) or delta.get("refusal")
        self.refused = self.refused or bool(delta.get("refusal"))
        if isinstance(piece, str):
            self.pieces.append(piece)
        for entry in _entries(delta.get("tool_calls")):
            function = mapping(entry.get("function")) or entry
            self._argument(entry.get("index", 0), function.get("name"), function.get("arguments"), entry.get("id"))
        old = mapping(delta.get("function_call"))
        if old:
            self._argument(0, old.get("name"), old.get("arguments"))

    def _argument(self, index: Any, name: Any, arguments: Any, call_id: Any = None) -> None:
        """Some servers give every call the index 0 or none: a new id is a new call."""
        if call_id and self.ids.setdefault(index, call_id) != call_id:
            self.calls[index, self.ids[index]] = self.calls.pop(index)
            self.ids[index] = call_id
        call = self.calls.setdefault(index, [None, ""])
        call[0] = name or call[0]
        call[1] += as_text(arguments) or ""

    def _event(self, kind: str, chunk: dict[str, Any]) -> None:
        self.known = True
        delta = chunk.get("delta")
        if kind in ("response.output_text.delta", "response.refusal.delta") and isinstance(delta, str):
            self.pieces.append(delta)
            self.refused = self.refused or kind == "response.refusal.delta"
        elif kind == "response.output_item.done":
            self.items.append(mapping(chunk.get("item")))
        elif kind == "content_block_start" and mapping(chunk.get("content_block")).get("type") == "tool_use":
            self._argument(chunk.get("index"), chunk["content_block"].get("name"), None)
        elif kind == "content_block_delta" and isinstance(delta, dict):
            if isinstance(delta.get("text"), str):
                self.pieces.append(delta["text"])
            elif "partial_json" in delta:
                self._argument(chunk.get("index"), None, delta["partial_json"])
        elif kind == "message_delta":
            self.reason = mapping(delta).get("stop_reason") or self.reason
        if kind in END_EVENTS:
            self.ended = True
        if isinstance(chunk.get("response"), dict):
            self.whole = chunk["response"]
        elif kind == "message_start":
            self.whole = mapping(chunk.get("message"))

    def answer(self) -> Answer:
        items = _entries(self.whole.get("output")) or self.items
        text = "".join(self.pieces)
        if items:
            answered = _items(items, _incomplete(self.whole) if self.ended else "completed")
            if not text or answered.text:
                self.ended = self.ended or bool(self.items)
                return answered._replace(broken=self._broken())
        calls = [_call(*call) for call in self.calls.values()]
        encoded = orjson.dumps(calls).decode() if calls else None
        shown = text if text or not calls else None
        return Answer(shown if self.known else None, finish_reason(self.reason), encoded, self.refused, self._broken())

    def _broken(self) -> str | None:
        if self.failure:
            return self.failure
        return "no end" if self.known and not self.ended else None


def streamed(chunks: list[Any]) -> tuple[Answer, dict[str, Any]]:
    """(what a streamed answer says in all, the last value of each of its chunks' other fields: usage, error code)."""
    stream, last = _Stream(), dict[str, Any]()
    for chunk in map(mapping, chunks):
        stream.add(chunk)
        nested = chunk.get("response") if isinstance(chunk.get("response"), dict) else chunk.get("message")
        for fields in (mapping(nested), chunk):
            spent = mapping(last.get("usage")) | {
                key: value for key, value in mapping(fields.get("usage")).items() if value is not None
            }
            last |= {key: value for key, value in fields.items() if value is not None}
            last |= {"usage": spent} if spent else {}  # the first event has the prompt's tokens, the last the answer's
    return stream.answer(), last
