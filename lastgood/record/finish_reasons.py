"""Why generation stopped: the words of providers in ours. Made by `python -m tools.vocabulary` from openai 3.57.0, anthropic 2.14.0."""

OURS = {
    "stop": "stop",  # openai
    "end_turn": "stop",  # anthropic
    "stop_sequence": "stop",  # anthropic
    "completed": "stop",  # openai
    "complete": "stop",  # servers
    "eos": "stop",  # servers
    "eos_token": "stop",  # servers
    "end": "stop",  # servers
    "done": "stop",  # servers
    "length": "length",  # openai
    "max_tokens": "length",  # anthropic
    "max_output_tokens": "length",  # openai
    "max_messages": "length",  # openai
    "model_context_window_exceeded": "length",  # anthropic
    "incomplete": "length",  # openai
    "model_length": "length",  # servers
    "token_limit": "length",  # servers
    "tool_calls": "tool_calls",  # openai
    "tool_call": "tool_calls",  # servers
    "tool_use": "tool_calls",  # anthropic
    "function_call": "tool_calls",  # openai
    "pause_turn": "tool_calls",  # anthropic
    "malformed_function_call": "tool_calls",  # servers
    "unexpected_tool_call": "tool_calls",  # servers
    "too_many_tool_calls": "tool_calls",  # servers
    "content_filter": "content_filter",  # openai
    "content_filtered": "content_filter",  # servers
    "safety": "content_filter",  # servers
    "recitation": "content_filter",  # servers
    "blocklist": "content_filter",  # servers
    "prohibited_content": "content_filter",  # servers
    "spii": "content_filter",  # servers
    "refusal": "content_filter",  # anthropic
    "language": "content_filter",  # servers
    "image_safety": "content_filter",  # servers
    "image_prohibited_content": "content_filter",  # servers
    "image_recitation": "content_filter",  # servers
    "model_armor": "content_filter",  # servers
    "guardrail_intervened": "content_filter",  # servers
    "error_toxic": "content_filter",  # servers
    "error": "error",  # servers
    "failed": "error",  # openai
    "cancelled": "error",  # openai
    "canceled": "error",  # servers
    "other": "error",  # servers
    "image_other": "error",  # servers
    "no_image": "error",  # servers
    "missing_thought_signature": "error",  # servers
    "malformed_response": "error",  # servers
    "timeout": "error",  # servers
    "error_limit": "error",  # servers
}
SILENT = frozenset(
    {
        "in_progress",
        "queued",
        "finish_reason_unspecified",
        "steered",
        "escalation",
        "pup_limited_disabled",
        "continuation",
    }
)
"""Words that say nothing about an end."""
