"""What capture settings let through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.errors import ConfigError
from lastgood.record.redact import Redactor
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


def test_modes() -> None:
    assert [Redactor(mode).text("a@b.ch") for mode in Capture] == [None, None, "[EMAIL]", "a@b.ch"]
    assert [Redactor(mode).feature("a@b.ch") for mode in Capture] == [None, "a@b.ch", "[EMAIL]", "a@b.ch"]


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(ConfigError, match=r"redact: '\(' is not a pattern"):
        redactor(EndpointSettings(redact={"X": "("}))
    with pytest.raises(ConfigError, match=r"redact_hook nowhere:at_all: expected package\.module:function"):
        redactor(EndpointSettings(redact_hook="nowhere:at_all"))


@given(st.text(max_size=60), st.sampled_from(["x@y.org", "4111111111111111", "192.168.17.3"]), st.text(max_size=60))
def test_a_secret_between_spaces_never_survives(before: str, secret: str, after: str) -> None:
    assert secret not in (Redactor(Capture.REDACTED).text(f"{before} {secret} {after}") or "")
