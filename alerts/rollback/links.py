"""Claims <-> signed link tokens (pure: time and nonces are parameters).

A token names one plan, one action, one nonce and its expiry. What makes it work only once is the store.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from lastgood.errors import ConfigError, RefusedError

MIN_KEY_LENGTH = 16
MAX_TOKEN_LENGTH = 4096


class Problem(StrEnum):
    FORGED = "forged"
    EXPIRED = "expired"
    OTHER_PLAN = "other plan"
    USED = "used"


class LinkError(RefusedError):
    """The link is not accepted; `problem` says why."""

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


class Action(StrEnum):
    """What a link is for: `decide` shows the evidence and offers the buttons, `view` only shows it."""

    DECIDE = "decide"
    VIEW = "view"


@dataclass(frozen=True)
class Claims:
    """`plan_id` is empty and `config_version` 0 for a link that only shows evidence; `expires_at` to the second."""

    endpoint: str
    incident: str
    action: Action
    plan_id: str
    config_version: int
    nonce: str
    expires_at: datetime


class Signer:
    """Signs and verifies with HMAC-SHA256. `keys`: newest first; older keys still verify (rotation)."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys or any(len(key) < MIN_KEY_LENGTH for key in keys):
            raise ConfigError(f"link signing keys: expected one or more of at least {MIN_KEY_LENGTH} characters")
        self._keys = list(reversed(keys))

    def sign(self, claims: Claims) -> str:
        expiry = int(claims.expires_at.timestamp())
        return self._serializer("link").dumps({**asdict(claims), "expires_at": expiry})

    def verify(self, token: str, now: datetime) -> Claims:
        """Errors: LinkError forged (altered, other key, not a link) or expired."""
        values = self._loads("link", token)
        try:
            expiry = datetime.fromtimestamp(values["expires_at"], UTC)
            claims = Claims(**{**values, "action": Action(values["action"]), "expires_at": expiry})
        except (
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            OSError,
        ) as error:  # a time may be beyond every calendar
            raise LinkError(Problem.FORGED, "this link is not one of ours") from error
        if now >= claims.expires_at:
            raise LinkError(Problem.EXPIRED, f"this link expired at {claims.expires_at:%Y-%m-%d %H:%M} UTC")
        return claims

    def derived(self, purpose: str) -> str:
        """A key for another purpose, from the newest key."""
        return hmac.new(self._keys[-1].encode(), f"lastgood.{purpose}".encode(), hashlib.sha256).hexdigest()

    def sign_form(self, token: str, action: str, cookie: str) -> str:
        """A CSRF value that is good for one action on one link in one browser (double submit with `cookie`)."""
        return self._serializer("form").dumps(_form(token, action, cookie))

    def verify_form(self, value: str, token: str, action: str, cookie: str) -> None:
        """Errors: LinkError forged."""
        if not cookie or self._loads("form", value) != _form(token, action, cookie):
            raise LinkError(Problem.FORGED, "the form is not one this page made: open the link again")

    def _loads(self, purpose: str, value: str) -> Any:
        try:
            if len(value) > MAX_TOKEN_LENGTH:
                raise BadData("too long")
            return self._serializer(purpose).loads(value)
        except (BadData, UnicodeError) as error:
            raise LinkError(Problem.FORGED, "this link was altered or is not one of ours") from error

    def _serializer(self, purpose: str) -> URLSafeSerializer:
        options = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        return URLSafeSerializer(self._keys, salt=f"lastgood.{purpose}", signer_kwargs=options)


def check(claims: Claims, plan_id: str, endpoint: str, config_version: int) -> None:
    """Errors: LinkError when the claims are of another plan."""
    if (claims.plan_id, claims.endpoint, claims.config_version) != (plan_id, endpoint, config_version):
        raise LinkError(Problem.OTHER_PLAN, "this link is for another plan")


def _form(token: str, action: str, cookie: str) -> list[str]:
    return [hashlib.sha256(token.encode()).hexdigest(), action, hashlib.sha256(cookie.encode()).hexdigest()]
