"""A request -> the person behind it: Databricks App headers, an OpenID login, or a local token."""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import httpx
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from lastgood.errors import ConfigError
from lastgood.settings import Web, secret

MAX_NAME = 200


class Auth:
    """`session_key` signs the cookie of an OpenID login."""

    def __init__(self, web: Web, session_key: str) -> None:
        self._web = web
        self._session_key = session_key
        self._tokens = _tokens(secret(web.person_token_env) or "")
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._limit = RateLimitItemPerMinute(web.posts_per_minute)
        self._provider: Any = None
        if web.oidc:
            from authlib.integrations.starlette_client import OAuth  # only who signs people in pays for it

            oauth, oidc = OAuth(), web.oidc
            key = secret(oidc.client_secret_env)
            self._provider = oauth.register(
                "oidc",
                client_id=oidc.client_id,
                client_secret=key,
                server_metadata_url=f"{oidc.issuer.rstrip('/')}/.well-known/openid-configuration",
                client_kwargs={
                    "scope": "openid email profile",
                    "code_challenge_method": "S256",
                    "token_endpoint_auth_method": "client_secret_basic" if key else "none",
                },
            )

    @property
    def asks_for_token(self) -> bool:
        """Whether forms need a field for a local token: only where nothing else says who it is."""
        return bool(self._tokens) or not (self._web.trust_forwarded_user or self._provider)

    @property
    def can_sign_in(self) -> bool:
        return self._provider is not None

    def middleware(self) -> list[Middleware]:
        if self._web.oidc is None:
            return []
        https = self._web.base_url.startswith("https:")
        return [
            Middleware(
                SessionMiddleware,
                self._session_key,
                session_cookie="lastgood_session",
                max_age=self._web.oidc.session_s,
                same_site="lax",
                https_only=https,
            )
        ]

    def routes(self) -> list[Route]:
        if self._provider is None:
            return []
        return [
            Route("/login", self.login),
            Route("/login/callback", self.callback),
            Route("/logout", self.logout, methods=["POST"]),
        ]

    # who

    def known(self, request: Request) -> str:
        """Who the request says it is without a form: a trusted header or a login; empty when nobody."""
        names = ("x-forwarded-email", "x-forwarded-preferred-username")
        forwarded = next((v for name in names if (v := request.headers.get(name, "").strip())), "")
        if self._web.trust_forwarded_user and forwarded:
            return forwarded[:MAX_NAME]
        if self._web.oidc and (person := request.session.get("person")):
            age = datetime.now(UTC).timestamp() - float(request.session.get("at", 0))
            return str(person) if age < self._web.oidc.session_s else ""
        return ""

    def person(self, request: Request, form: Mapping[str, str]) -> str:
        """Who decides. Errors: HTTPException 429 (too many tries), 403 (nobody we know, or not an approver)."""
        self.limited(request)
        who = self.known(request) or self._by_token(request, form)
        if not who:
            raise HTTPException(403, "Only an authenticated person can decide. The person token is missing or wrong.")
        patterns = self._web.approvers
        if patterns and not any(fnmatchcase(who.lower(), pattern.lower()) for pattern in patterns):
            raise HTTPException(403, f"{who} is not among those who may decide.")
        return who

    def hook(self, request: Request, token: str | None) -> None:
        """A system with a bearer token. Errors: HTTPException 429, 403."""
        self.limited(request)
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not token or not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(403, "The bearer token is missing or wrong.")

    def limited(self, request: Request) -> None:
        """Errors: HTTPException 429 when this client sends too much."""
        client = self.known(request) or (request.client.host if request.client else "?")
        if not self._limiter.hit(self._limit, client):
            raise HTTPException(429, "Too many requests. Wait a minute.", {"Retry-After": "60"})

    def _by_token(self, request: Request, form: Mapping[str, str]) -> str:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else form.get("person_token", "")
        known_person = ""
        for name, token in self._tokens:  # all are compared: the time does not tell which was close
            if hmac.compare_digest(given.encode(), token.encode()):
                known_person = name
        return known_person

    # OpenID

    async def login(self, request: Request) -> Response:
        """To the provider, and back to the page the person came from."""
        self.limited(request)
        request.session.clear()
        request.session["next"] = _local(request.query_params.get("next", "/"))
        try:
            callback = f"{self._web.base_url.rstrip('/')}/login/callback"
            answer: Response = await self._provider.authorize_redirect(request, callback)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise HTTPException(503, "The login provider cannot be reached.") from error
        return answer

    async def callback(self, request: Request) -> Response:
        """Errors: HTTPException 403 when the provider's answer is not good (state, code, signature, nonce)."""
        from authlib.integrations.starlette_client import OAuthError
        from joserfc.errors import JoseError

        self.limited(request)
        try:
            token = await self._provider.authorize_access_token(request)
        except httpx.HTTPError as error:
            raise HTTPException(503, "The login provider cannot be reached.") from error
        except (OAuthError, JoseError, ValueError, KeyError) as error:
            raise HTTPException(403, "The login was not accepted: sign in again.") from error
        claims = token.get("userinfo") or {}
        person = str(claims.get("email") or claims.get("preferred_username") or claims.get("sub") or "")[:MAX_NAME]
        if not person or claims.get("email_verified") is False:
            raise HTTPException(403, "The login has no verified address.")
        target = _local(request.session.get("next", "/"))
        request.session.clear()
        request.session.update(person=person, at=datetime.now(UTC).timestamp())
        return RedirectResponse(target, 303)

    async def logout(self, request: Request) -> Response:
        request.session.clear()
        return RedirectResponse("/", 303)


def _tokens(value: str) -> list[tuple[str, str]]:
    """`token` or `name:token,name:token` as (name, token). Errors: ConfigError for an empty token."""
    entries = []
    for part in value.split(",") if value else ():
        name, colon, token = part.strip().partition(":")
        entries.append((name, token) if colon else ("local approver", name))
    if any(not name or not token for name, token in entries):
        raise ConfigError("the person token variable: expected `token` or `name:token,name:token`")
    return entries


def _local(target: str) -> str:
    """A path on this site; anything else becomes the start page (no open redirect)."""
    good = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isascii() and target.isprintable()
    return target if good else "/"
