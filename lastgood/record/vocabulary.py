"""One vocabulary for what providers say in words of their own (pure): why generation stopped, and errors of a stream."""

import re
from typing import Any

import orjson

from lastgood.record.finish_reasons import OURS, SILENT

STREAM_BROKEN = "stream_broken"
"""Error code of an answer that began with status 200 and then broke off: an error event, or no end."""
ANSWER_FAILED = "answer_failed"
"""Error code of an answer with status 200 that is an error: an error object, or a response that says it failed."""
_REASON = re.compile(r"[^\W_]{1,20}(_[^\W_]{1,20}){0,4}")
"""At most five words: what else a server writes there may be the answer's text."""
ENDPOINT_ATTRIBUTES = (
    "lastgood.endpoint", "mlflow.databricks.modelServingEndpointName", "databricks.serving.endpoint.name", "service.name",
    "traceloop.workflow.name", "gen_ai.workflow.name", "gen_ai.agent.name", "ai.telemetry.functionId", "gen_ai.request.model",
    "llm.model_name", "ai.model.id", "server.address",
)  # fmt: skip
"""What names an endpoint, in the order in which it is asked, for every dialect alike. What comes before `service.name` names the endpoint; the
rest names what reports, and only stands in (see `trees`)."""
MISSING = frozenset({"", "-", "null", "none", "nan", "nat", "na", "n/a", "<na>", "\\n"})
"""Text, in lower case, that stands for "unknown" in files without nulls."""


def finish_reason(value: Any) -> str | None:
    """A finish reason in our words: from a word in any case, a list (its first), or JSON text of either. An unknown word stays, lower case;
    a text is `other`; None for nothing."""
    if isinstance(value, str) and value in OURS:
        return OURS[value]
    if isinstance(value, str) and value[:1] in ("[", '"'):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
    if isinstance(value, list):
        value = next((entry for entry in value if entry), None)
    if not isinstance(value, str) or not value.strip():
        return None
    word = re.sub(r"[\s-]+", "_", value.strip().lower())
    word = word if word in OURS else word.rsplit(".", 1)[-1].removeprefix("finish_reason_")
    if word in SILENT or word in MISSING:
        return None
    return OURS.get(word, word if _REASON.fullmatch(word) else "other")


MAX_CODE = 64
ERROR_TEXT = "error_text"
"""Attribute that keeps the beginning of a failure's text."""
MAX_TEXT = 200
_STATUS = re.compile(r"(?:HTTP[_ /-]?)?([1-5]\d\d)(?: [A-Za-z][A-Za-z' -]{1,40})?", re.IGNORECASE)
_STATUS_IN_TEXT = re.compile(r"\b(?:error[ _]code|status[ _]code|status|HTTP)[\W_]{0,3}([45]\d\d)\b", re.IGNORECASE)
_CLASS_IN_TEXT = re.compile(r"(?:^|[\s.(:])([A-Z]\w{2,60}(?:Error|Exception|Timeout|Failure|Interrupt|Exceeded))\b")
_WORDS_IN_TEXT = re.compile(
    r"^([A-Z]{2,20}(?:_[A-Z]{2,20}){1,4}|ABORTED|CANCELLED|FORBIDDEN|INTERNAL|THROTTLED|TIMEOUT|UNAUTHENTICATED|UNAUTHORIZED|UNAVAILABLE|UNIMPLEMENTED|UNKNOWN)\b"
)
"""A word of a protocol: words joined, or one of gRPC's and HTTP's. Any other word in capitals may be a person's."""
_SAID_IN_TEXT = {
    code: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for code, words in {
        "TIMEOUT": "timed[ -]?out|time[ -]?out|deadline exceeded", "RATE_LIMIT": "rate[ -]?limit(?:ed)?|too many requests|quota exceeded",
        "CONTENT_FILTER": "content (?:filter|policy|management)|guardrail",
        "UNAVAILABLE": "service unavailable|connection (?:refused|reset|aborted|error)|overloaded",
    }.items()
}  # fmt: skip
"""What a text says in words of its own, by the code that stands for it."""
_CODE = re.compile(r"[A-Za-z_]\w*")
_SERIAL = re.compile(r"\d{4,}|[0-9a-fA-F]{8}-|\b[0-9a-f]{12,}\b")


def stated_code(value: str | None) -> str | None:
    """An error code as its source states it, from a bounded vocabulary: an HTTP status (`500`, `500 Internal Server Error`) as HTTP_500, a class
    without its modules, a word of a protocol. None for nothing; texts, and words with serial numbers in them, are no codes: ERROR, or what
    `code_in` finds."""
    if value is None or not value.strip():
        return None
    word = value.strip()
    if status := _STATUS.fullmatch(word):
        return f"HTTP_{status[1]}"
    last = re.split(r"[.:/]", word)[-1].replace("-", "_") if re.fullmatch(r"[\w.:/-]+", word) else ""
    if len(last) <= MAX_CODE and _CODE.fullmatch(last) and not _SERIAL.search(last):
        return last
    return code_in(word)


def failure_code(thrown: str | None, message: str) -> str:
    """The error code of a failure that states none: the HTTP status in its text, else its exception's class, else what the text names. Wrappers
    throw one class for every status."""
    if status := _STATUS_IN_TEXT.search(message):
        return f"HTTP_{status[1]}"
    return stated_code(thrown) or code_in(message)


def code_in(message: str) -> str:
    """The error code that a message names (a status, an exception's class, a word of a protocol, or what it says in words); ERROR where it names none."""
    if status := _STATUS_IN_TEXT.search(message):
        return f"HTTP_{status[1]}"
    named = _CLASS_IN_TEXT.search(message) or _WORDS_IN_TEXT.search(message)
    if named and not _SERIAL.search(named[1]):
        return named[1]
    return next((code for code, words in _SAID_IN_TEXT.items() if words.search(message)), "ERROR")
