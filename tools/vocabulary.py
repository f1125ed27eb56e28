"""The providers' own packages -> `lastgood/record/finish_reasons.py`: every word they have for why generation stopped, in our words.

`python -m tools.vocabulary [FILE]`. A word that MEANS does not know stops it: a new or renamed one must be given a meaning here.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

MEANS = {
    "stop": (
        "stop", "end_turn", "stop_sequence", "completed", "complete", "eos", "eos_token", "end", "done",
    ),
    "length": (
        "length", "max_tokens", "max_output_tokens", "max_messages", "model_context_window_exceeded", "incomplete", "model_length", "token_limit",
    ),
    "tool_calls": (
        "tool_calls", "tool_call", "tool_use", "function_call", "pause_turn", "malformed_function_call", "unexpected_tool_call",
        "too_many_tool_calls",
    ),
    "content_filter": (
        "content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii", "refusal", "language",
        "image_safety", "image_prohibited_content", "image_recitation", "model_armor", "guardrail_intervened", "error_toxic",
    ),
    "error": (
        "error", "failed", "cancelled", "canceled", "other", "image_other", "no_image", "missing_thought_signature", "malformed_response",
        "timeout", "error_limit",
    ),
    "": (
        "in_progress", "queued", "finish_reason_unspecified", "steered", "escalation", "pup_limited_disabled", "continuation",
    ),
}  # fmt: skip
"""Our word -> theirs, lower case; "" for those that say nothing about an end. What no package below defines is of servers without one
(vLLM, TGI, Bedrock), of Google, whose package asks for an older tenacity than ours, and of Cohere, whose package brings tokenizers."""


def literals(kind: Any) -> list[str]:
    """The texts of a Literal, however it is wrapped."""
    return [word for part in get_args(kind) for word in ([part] if isinstance(part, str) else literals(part))]


def words() -> dict[str, list[str]]:
    """Package -> its words, lower case."""
    from anthropic.types import StopReason
    from openai.types.chat.chat_completion import Choice
    from openai.types.responses import Response
    from openai.types.responses.response import IncompleteDetails

    chat = Choice.model_fields["finish_reason"].annotation
    ended = [Response.model_fields["status"].annotation, IncompleteDetails.model_fields["reason"].annotation]
    given = {
        "openai": [*literals(chat), *(word for kind in ended for word in literals(kind))],
        "anthropic": literals(StopReason),
    }
    return {package: list(dict.fromkeys(word.lower() for word in names)) for package, names in given.items()}


def source() -> str:
    """The module. Errors: SystemExit for a word without a meaning."""
    ours = {word: name for name, theirs in MEANS.items() for word in theirs}
    packages = words()
    if unknown := sorted({word for names in packages.values() for word in names} - ours.keys()):
        raise SystemExit(f"no meaning for {', '.join(unknown)}: add them to MEANS in tools/vocabulary.py")
    of = {word: [package for package, names in packages.items() if word in names] for word in ours}
    lines = [f'    "{word}": "{name}",  # {", ".join(of[word]) or "servers"}' for word, name in ours.items() if name]
    silent = [f'        "{word}",' for word in MEANS[""]]
    from_ = ", ".join(f"{package} {version(package)}" for package in packages)
    return "\n".join([
        f'"""Why generation stopped: the words of providers in ours. Made by `python -m tools.vocabulary` from {from_}."""', "",
        "OURS = {", *lines, "}", "SILENT = frozenset(", "    {", *silent, "    }", ")", '"""Words that say nothing about an end."""', "",
    ])  # fmt: skip


if __name__ == "__main__":
    Path(sys.argv[1] if sys.argv[1:] else "lastgood/record/finish_reasons.py").write_text(source())
