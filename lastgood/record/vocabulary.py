"""One vocabulary for what providers say in words of their own (pure): why generation stopped, and errors of a stream."""

import re
from typing import Any

import orjson

from lastgood.record.finish_reasons import OURS, SILENT

STREAM_BROKEN = "stream_broken"
"""Error code of an answer that began with status 200 and then broke off: an error event, or no end."""
MAX_REASON = 40
MISSING = frozenset({"", "-", "null", "none", "nan", "nat", "na", "n/a", "<na>", "\\n"})
"""Text, in lower case, that stands for "unknown" in files without nulls."""


def finish_reason(value: Any) -> str | None:
    """A finish reason in our words: from a word in any case, a list (its first), or JSON text of either. An unknown word stays, lower case,
    cut to MAX_REASON characters; None for nothing."""
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
    return None if word in SILENT else OURS.get(word, word[:MAX_REASON])
