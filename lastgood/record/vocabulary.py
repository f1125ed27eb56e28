"""One vocabulary for what providers say in words of their own (pure): why generation stopped, and errors of a stream."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

STREAM_BROKEN = "stream_broken"
"""Error code of an answer that began with status 200 and then broke off: an error event, or no end."""
MAX_REASON = 40
FINISH_REASONS: Mapping[str, tuple[str, ...]] = {
    "stop": (
        "stop", "end_turn", "stop_sequence", "eos", "eos_token", "completed", "complete", "end", "stop_token", "finish_reason_stop",
        "endoftext", "done",
    ),
    "length": (
        "length", "max_tokens", "max_output_tokens", "token_limit", "model_context_window_exceeded", "finish_reason_max_tokens",
        "model_length", "incomplete",
    ),
    "tool_calls": (
        "tool_calls", "tool_call", "tool_use", "function_call", "pause_turn", "tool", "malformed_function_call", "unexpected_tool_call",
    ),
    "content_filter": (
        "content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii", "refusal",
        "guardrail_intervened", "image_safety", "error_toxic", "language", "image_prohibited_content",
    ),
    "error": ("error", "failed", "cancelled", "canceled", "other", "finish_reason_unspecified", "error_limit"),
}  # fmt: skip
"""Our word -> what OpenAI (chat, responses), Anthropic, Google, Amazon, Cohere, Mistral and vLLM call it, lower case."""
_OURS = {word: name for name, words in FINISH_REASONS.items() for word in words}


def finish_reason(value: Any) -> str | None:
    """A finish reason in our words: from a word in any case, a list (its first), or JSON text of either. An unknown word stays, lower case,
    cut to MAX_REASON characters; None for nothing."""
    if isinstance(value, str) and value in _OURS:
        return _OURS[value]
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
    return _OURS.get(word, _OURS.get(word.rsplit(".", 1)[-1], word[:MAX_REASON]))
