"""A request -> the person behind it: Databricks App headers, an OpenID login, or a local token."""

import hmac
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from lastgood.alerts.identity import MAX_NAME, identity
from lastgood.errors import ConfigError
from lastgood.settings import Web, secret


class Auth:
    """`session_key` signs the cookie of an OpenID login; `ended` and `end` ask for and note the sessions that were signed out."""

    def __init__(
        self,
        web: Web,
        session_key: str,
        ended: Callable[[str], bool] = lambda number: False,
        end: Callable[[str], None] = lambda number: None,
    ) -> None:
        self._ended, self._end = ended, end
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

    @property
    def reading_needs_login(self) -> bool:
        """Whether pages are shown to known people only."""
        wanted = self._web.login_to_read
        return bool(self._web.oidc or self._web.trust_forwarded_user) if wanted is None else wanted

    def known(self, request: Request) -> str:
        """Who the request says it is without a form: a trusted header or a login; empty when nobody."""
        names = ("x-forwarded-email", "x-forwarded-preferred-username")
        forwarded = next((v for name in names if (v := request.headers.get(name, "").strip())), "")
        if self._web.trust_forwarded_user and forwarded:
            return self._name(forwarded)
        if self._web.oidc and (person := request.session.get("person")):
            age = datetime.now(UTC).timestamp() - float(request.session.get("at", 0))
            ended = self._ended(str(request.session.get("id", "")))
            return self._name(str(person)) if age < self._web.oidc.session_s and not ended else ""
        return self._name(self._by_token(request, {})) if request.headers.get("authorization") else ""

    def _principal(self, request: Request) -> str:
        """Who may read and never decide: a service principal (a scraper) has no address, and the Apps proxy takes its token away and passes an id."""
        identity = request.headers.get("x-forwarded-user", "").strip()
        return self._name(identity) if self._web.trust_forwarded_user and identity else ""

    def person(self, request: Request, form: Mapping[str, str], role: str = "approvers") -> str:
        """Who acts. Errors: HTTPException 429 (too many tries), 403 (nobody we know, or without the role)."""
        who = self.known(request) or self._name(self._by_token(request, form))
        self.limited(request, who)
        if not who:
            raise HTTPException(403, "Only an authenticated person can decide. The person token is missing or wrong.")
        if not self.may(who, role):
            raise HTTPException(403, f"{who} is not among those who may do this ({role}).")
        return who

    def may(self, who: str, role: str) -> bool:
        """Whether `who` has the role: approvers decide on rollbacks, operators acknowledge, close, silence and stop, viewers read.
        Each role includes those after it. A role without patterns is everybody's who is known."""
        order = ("approvers", "operators", "viewers")
        patterns = [getattr(self._web, name) for name in order[: order.index(role) + 1]]
        if not patterns[-1]:
            return True
        return any(fnmatchcase(who, pattern.casefold()) for group in patterns for pattern in group)

    def reader(self, request: Request) -> None:
        """Errors: HTTPException 401 where reading needs a login and nobody is signed in, 403 without the role."""
        if not self.reading_needs_login:
            return
        who = self.known(request) or self._principal(request)
        if not who:
            raise HTTPException(401, "Sign in to read this.")
        if not self.may(who, "viewers"):
            raise HTTPException(403, f"{who} is not among those who may read this.")

    def scraper(self, request: Request) -> None:
        """/metrics: the scrapers' token, or whoever may read. Errors: HTTPException 401, 403."""
        token = secret(self._web.metrics_token_env)
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and hmac.compare_digest(given.encode(), token.encode()):
            return
        if token and not (self.known(request) or self._principal(request)):
            raise HTTPException(401, "The bearer token of /metrics is missing or wrong.")
        self.reader(request)

    def hook(self, request: Request, token: str | None) -> None:
        """A system with a bearer token. Errors: HTTPException 429, 403."""
        self.limited(request, "")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not token or not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(403, "The bearer token is missing or wrong.")

    def limited(self, request: Request, who: str) -> None:
        """Errors: HTTPException 429 when this person, or (nobody known) this client on this page, sends too much.

        People behind one proxy share an address: what strangers do from there does not lock a known person out.
        """
        client = request.client.host if request.client else "?"
        if not self._limiter.hit(self._limit, *((who,) if who else (client, request.scope["path"]))):
            raise HTTPException(429, "Too many requests. Wait a minute.", {"Retry-After": "60"})

    def _name(self, raw: str) -> str:
        return identity(raw, self._web.identities)

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
        self.limited(request, "")
        request.session.clear()
        request.session["next"] = _local(request.query_params.get("next", "/"))
        try:
            callback = f"{self._web.base_url.rstrip('/')}/login/callback"
            answer: Response = await self._provider.authorize_redirect(request, callback)
        except _provider_errors(ValueError, KeyError) as error:
            raise HTTPException(503, "The login provider cannot be reached.") from error
        return answer

    async def callback(self, request: Request) -> Response:
        """Errors: HTTPException 403 when the provider's answer is not good (state, code, signature, nonce)."""
        from authlib.integrations.starlette_client import OAuthError
        from joserfc.errors import JoseError

        self.limited(request, "")
        try:
            token = await self._provider.authorize_access_token(request)
        except _provider_errors() as error:
            raise HTTPException(503, "The login provider cannot be reached.") from error
        except (OAuthError, JoseError, ValueError, KeyError) as error:
            raise HTTPException(403, "The login was not accepted: sign in again.") from error
        claims = token.get("userinfo") or {}
        claim = self._web.oidc.claim if self._web.oidc else "email"
        person = str(claims.get(claim) or "")[:MAX_NAME]
        if not person or (claim == "email" and claims.get("email_verified") is not True):
            raise HTTPException(
                403, f"The login has no verified {claim}: the provider must send email_verified, or set web.oidc.claim."
            )
        target = _local(request.session.get("next", "/"))
        request.session.clear()
        request.session.update(person=person, at=datetime.now(UTC).timestamp(), id=secrets.token_urlsafe(16))
        return RedirectResponse(target, 303)

    async def logout(self, request: Request) -> Response:
        """Ends the session here too: a copy of its cookie is worth nothing afterwards."""
        if number := str(request.session.get("id", "")):
            await run_in_threadpool(self._end, number)
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


def _provider_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """`others`, and what authlib raises when the provider cannot be reached: it uses httpx2 where that is installed, else httpx."""
    names = ("httpx", "httpx2")
    return (*others, *(import_module(name).HTTPError for name in names if find_spec(name) is not None))
