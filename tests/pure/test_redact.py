"""What capture settings let through."""

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.errors import ConfigError
from lastgood.record.redact import MAX_REPEAT, PATTERNS, Redactor
from lastgood.settings import Capture, EndpointSettings
from lastgood.settings.redaction import redactor

HIDDEN = {
    "write to ann.o'neil+x@mail.example.com now": "mail.example.com",
    "card 4111 1111 1111 1111 thanks": "1111",
    "call +49 (30) 123 456-78 today": "123 456",
    "key sk-abcdefghij0123456789XYZ": "abcdefghij",
    "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-DEF_1": "eyJhbGci",
    "from 10.20.30.40": "10.20.30.40",
    "to DE89 3704 0044 0532 0130 00": "3704",
}


@pytest.mark.parametrize("text", HIDDEN)
def test_patterns_are_blotted_out_and_the_rest_stays(text: str) -> None:
    found = Redactor(Capture.REDACTED).text(text)
    assert found is not None
    assert HIDDEN[text] not in found
    assert text.split(maxsplit=1)[0] in found
    assert "[" in found


def shout(text: str) -> str:
    return text.replace("secret", "[HOOK]")


def test_own_patterns_and_a_hook_come_after(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = redactor(
        EndpointSettings(capture=Capture.REDACTED, redact={"CASE": r"case-\d+"}, redact_hook=f"{__name__}:shout")
    )
    assert rule.text("secret of case-77") == "[HOOK] of [CASE]"


def test_presidio_is_a_hook_that_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has a pattern is found without a language model, and no connection is made."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    rule = redactor(EndpointSettings(capture=Capture.REDACTED, redact_hook="lastgood.record.presidio:blot"))
    assert (
        rule.text("see 0xde0B295669a9FD93d5F28D9Ec85E40f4cb697BAe or https://example.com/ann thanks")
        == "see 0xde0B295669a9FD93d5F28D9Ec85E40f4cb697BAe or <URL> thanks"
    )
    assert rule.text("my passport is fine") == "my passport is fine"
    assert rule.text("ann@mail.example.com, 4111 1111 1111 1111") == "[EMAIL], [CARD]"


def test_modes() -> None:
    assert [Redactor(mode).text("a@b.ch") for mode in Capture] == [None, None, "[EMAIL]", "a@b.ch"]
    assert [Redactor(mode).feature("a@b.ch") for mode in Capture] == [None, "a@b.ch", "[EMAIL]", "a@b.ch"]


def test_of_features_numbers_vectors_and_categories_are_kept_not_prompts() -> None:
    rule = Redactor(Capture.FEATURES)
    kept = {
        "age": "31.5",
        "annual income in EUR": "",
        "city": "New York",
        "vector": "[0.1, -2e3]",
        "none": None,
        "0": "inf",
    }
    assert rule.features(kept) == kept
    prompt = "where does the lady of the house live?"
    left = {"question": prompt, "messages": '[{"role":"user"}]', prompt: "1", "lines": "a\nb"}
    assert rule.features(left) == dict.fromkeys(("question", "messages", "lines"))
    assert Redactor(Capture.NONE).features(kept) is None


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(ConfigError, match=r"redact: '\(' is not a pattern"):
        redactor(EndpointSettings(redact={"X": "("}))
    with pytest.raises(ConfigError, match=r"redact_hook nowhere:at_all: expected package\.module:function"):
        redactor(EndpointSettings(redact_hook="nowhere:at_all"))


@given(st.text(max_size=60), st.sampled_from(["x@y.org", "4111111111111111", "192.168.17.3"]), st.text(max_size=60))
def test_a_secret_between_spaces_never_survives(before: str, secret: str, after: str) -> None:
    assert secret not in (Redactor(Capture.REDACTED).text(f"{before} {secret} {after}") or "")


def repeats(parsed: Any) -> Iterator[int]:
    """How often each repetition of a parsed pattern may go on."""
    for kind, value in parsed:
        if str(kind).endswith("REPEAT"):
            yield int(value[1])
        for part in value if isinstance(value, list | tuple) else ():
            if isinstance(part, type(parsed)):
                yield from repeats(part)
            elif isinstance(part, list):
                yield from (count for branch in part if isinstance(branch, type(parsed)) for count in repeats(branch))


@pytest.mark.parametrize("name", PATTERNS)
def test_shipped_patterns_take_a_bounded_number_of_steps_a_character(name: str) -> None:
    found = list(repeats(re._parser.parse(PATTERNS[name])))  # type: ignore[attr-defined]
    assert found
    assert max(found) <= MAX_REPEAT


def test_a_persons_own_pattern_is_matched_in_linear_time() -> None:
    """By an engine without backtracking: a pattern that it cannot match so is a mistake in the settings."""
    rule = Redactor(Capture.REDACTED, {"ODD": "(a+)+$", "CASE": "(?i)case-[0-9]+"})
    assert rule.text("a" * 5_000 + "b") == "a" * 5_000 + "b"
    assert rule.text("see CASE-17") == "see [CASE]"
    with pytest.raises(ConfigError, match=r"redact: .* is not a pattern"):
        Redactor(Capture.REDACTED, {"BACK": r"(a)\1"}).check()


def test_card_numbers_and_ibans_only_with_their_checksum() -> None:
    rule = Redactor(Capture.REDACTED)
    assert "[CARD]" in str(rule.text("pay with 4111 1111 1111 1111 please"))
    assert "[CARD]" not in str(rule.text("order 4111 1111 1111 1112 please"))
    assert rule.text("to DE89 3704 0044 0532 0130 00 now") == "to [IBAN] now"
    assert "[IBAN]" not in str(rule.text("part DE89 3704 0044 0532 0130 01 now"))
