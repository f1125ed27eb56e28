"""The words of providers and conventions, held to the packages that define them."""

import importlib
from pathlib import Path

import pytest

from lastgood.collectors.bodies import extract
from lastgood.collectors.otlp import dialects
from lastgood.record import finish_reasons
from lastgood.record.vocabulary import code_in, finish_reason
from tools.vocabulary import MEANS, source, words


def test_the_committed_words_are_those_of_the_packages() -> None:
    assert Path(finish_reasons.__file__).read_text() == source()


def test_every_word_of_every_provider_has_a_meaning() -> None:
    for names in words().values():
        for word in names:
            assert finish_reason(word) in (*MEANS, None)
            assert finish_reason(word.upper()) == finish_reason(word)


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ('["LENGTH"]', "length"), (["max_tokens"], "length"), ('"stop"', "stop"), ("FinishReason.STOP", "stop"), ("End Turn", "stop"),
        ("FINISH_REASON_MAX_TOKENS", "length"), ("in_progress", None), ("", None), (None, None), ([], None), ("[broken", None), (7, None),
        ("A Word Of Its Own", "a_word_of_its_own"), ("x" * 500, "other"), ("it ended where the answer had no more to say", "other"),
    ],
)  # fmt: skip
def test_any_form_of_a_reason(given: object, ours: str | None) -> None:
    assert finish_reason(given) == ours


def test_a_body_says_it_in_our_words() -> None:
    assert extract("{}", '{"choices": [{"text": "a", "finish_reason": "MAX_TOKENS"}]}').finish_reason == "length"


FORMER = {
    "gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token", "gen_ai.request.stream", "gen_ai.usage.prompt_tokens",
    "gen_ai.usage.completion_tokens", "gen_ai.prompt", "gen_ai.completion", "gen_ai.completion.0.finish_reason", "gen_ai.prompt.0.content",
    "gen_ai.completion.0.content", "gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation_input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
}  # fmt: skip
"""Names that the installed packages no longer have, or not yet, and that are still sent."""
PACKAGES = {
    "GENAI": ("opentelemetry.semconv._incubating.attributes.gen_ai_attributes", "opentelemetry.semconv.attributes.error_attributes",
              "opentelemetry.semconv.attributes.server_attributes"),
    "GENAI_FORMER": ("opentelemetry.semconv._incubating.attributes.gen_ai_attributes",),
    "OPENINFERENCE": ("openinference.semconv.trace",),
    "OPENLLMETRY": ("opentelemetry.semconv_ai",),
}  # fmt: skip


def defined(modules: tuple[str, ...]) -> set[str]:
    """All texts that stand in a package's modules and their classes."""
    names: set[str] = set()
    for module in map(importlib.import_module, modules):
        holders = [module, *(value for value in vars(module).values() if isinstance(value, type))]
        names |= {value for holder in holders for value in vars(holder).values() if isinstance(value, str)}
    return names


@pytest.mark.parametrize("dialect", PACKAGES)
def test_attributes_are_named_as_the_packages_name_them(dialect: str) -> None:
    ours = {name for sources in getattr(dialects, dialect).values() for name, _ in sources}
    ours = {
        "traceloop.association.properties" if name.startswith("traceloop.association.properties.") else name
        for name in ours
    }
    assert ours - defined(PACKAGES[dialect]) - FORMER <= {"traceloop.correlation.id"}


@pytest.mark.parametrize("text", ["JOHN SMITH has no account", "MUELLER: no account", "PLEASE help, my card is lost"])
def test_a_word_in_capitals_of_a_text_is_no_code(text: str) -> None:
    assert code_in(text) == "ERROR"


@pytest.mark.parametrize(
    "code", ["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED", "BAD_REQUEST", "TEMPORARILY_UNAVAILABLE"]
)
def test_a_word_of_a_protocol_is_one(code: str) -> None:
    assert code_in(f"{code}: try again") == code
