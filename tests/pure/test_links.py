"""A link is good for one plan, until its expiry, and only as it was signed."""

from dataclasses import replace
from datetime import timedelta

import pytest
from alerts_support import START
from hypothesis import given
from hypothesis import strategies as st

from lastgood.alerts.rollback.links import Action, Claims, LinkError, Problem, Signer, check
from lastgood.errors import ConfigError

CLAIMS = Claims("chat", "inc1", Action.DECIDE, "plan1", 7, "nonce1", START + timedelta(hours=1))
OLD, NEW = "the-old-key-of-16-or-more", "the-new-key-of-16-or-more"


def problem(call: object, *args: object) -> Problem:
    with pytest.raises(LinkError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.problem


def test_a_signed_link_gives_its_claims_back() -> None:
    signer = Signer([NEW])
    assert signer.verify(signer.sign(CLAIMS), START) == CLAIMS


def test_it_expires() -> None:
    signer = Signer([NEW])
    assert problem(signer.verify, signer.sign(CLAIMS), CLAIMS.expires_at) is Problem.EXPIRED


def test_keys_rotate() -> None:
    token = Signer([OLD]).sign(CLAIMS)
    assert Signer([NEW, OLD]).verify(token, START) == CLAIMS
    assert problem(Signer([NEW]).verify, token, START) is Problem.FORGED
    assert Signer([NEW]).verify(Signer([NEW, OLD]).sign(CLAIMS), START) == CLAIMS


@given(st.data())
def test_an_altered_link_is_refused(data: st.DataObject) -> None:
    token = Signer([NEW]).sign(CLAIMS)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("abcXYZ019-_.").filter(lambda c: c != token[at]))
    altered = token[:at] + other + token[at + 1 :]
    try:
        claims = Signer([NEW]).verify(altered, START)
    except LinkError as error:
        assert error.problem is Problem.FORGED
    else:
        assert claims == CLAIMS, "only the unused bits of the last base64 character may differ"


@given(st.text(max_size=200))
def test_anything_else_is_refused(text: str) -> None:
    assert problem(Signer([NEW]).verify, text, START) is Problem.FORGED


def test_a_form_value_is_no_link_and_a_link_no_form_value() -> None:
    signer = Signer([NEW])
    token = signer.sign(CLAIMS)
    form = signer.sign_form(token, "approve", "cookie")
    signer.verify_form(form, token, "approve", "cookie")
    assert problem(signer.verify, form, START) is Problem.FORGED
    for args in (
        (token, token, "approve", "cookie"),
        (form, token, "reject", "cookie"),
        (form, token, "approve", "other"),
        (form, token, "approve", ""),
        (form, signer.sign(replace(CLAIMS, nonce="n2")), "approve", "cookie"),
        ("", token, "approve", "cookie"),
    ):
        assert problem(signer.verify_form, *args) is Problem.FORGED


def test_claims_are_of_one_plan() -> None:
    check(CLAIMS, "plan1", "chat", 7)
    for other in (("plan2", "chat", 7), ("plan1", "search", 7), ("plan1", "chat", 8)):
        assert problem(check, CLAIMS, *other) is Problem.OTHER_PLAN


@pytest.mark.parametrize("keys", [[], [""], ["short"], [NEW, "short"]])
def test_weak_keys_are_refused(keys: list[str]) -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        Signer(keys)
