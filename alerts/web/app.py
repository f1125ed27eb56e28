"""Signed link -> evidence page -> a person's decision. GET and HEAD change nothing; only a POST by a person does."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lastgood.alerts.controller import Controller
from lastgood.alerts.messages import sureness
from lastgood.alerts.records import Incident, Rollback
from lastgood.alerts.rollback.links import Action, LinkError, Problem
from lastgood.alerts.rollback.machine import Approve, Hold, Reject, Status
from lastgood.alerts.web.view import percent, sparkline
from lastgood.config import secret
from lastgood.errors import ConfigError, LastgoodError, RefusedError, TransientError

Evidence = Callable[[str], Mapping[str, Any] | None]
MAX_FORM_BYTES = 8 * 1024
COOKIE = "lastgood_form"
ACTIONS = ("approve", "hold", "reject")
LINK_STATUS = {Problem.FORGED: 403, Problem.EXPIRED: 410, Problem.OTHER_PLAN: 409, Problem.USED: 409}


def create_app(controller: Controller, evidence: Evidence = lambda endpoint: None) -> Starlette:
    """The web application.

    `evidence(endpoint)` gives what the page draws besides the verdict, or None:
    {"series": [{"name": str, "unit": str, "new": [float | None, ...], "prior": [float | None, ...]}, ...]}.
    """
    pages = Pages(controller, evidence)
    routes = [
        Route("/", pages.index),
        Route("/r/{token}", pages.link),
        Route("/r/{token}", pages.decide, methods=["POST"]),
        Route("/incidents/{id}", pages.incident),
        Route("/api/incidents", pages.api_incidents),
        Route("/api/rollbacks/{id}", pages.api_rollback),
        Route("/healthz", pages.healthz),
    ]
    handlers: Any = {LastgoodError: pages.problem, HTTPException: pages.problem}
    return Starlette(routes=routes, middleware=[Middleware(Headers, csp=pages.csp)], exception_handlers=handlers)


class Headers:
    """Security headers on every answer."""

    def __init__(self, app: ASGIApp, csp: str) -> None:
        self._app = app
        values = {
            "Content-Security-Policy": csp,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "X-Robots-Tag": "noindex, nofollow",
        }
        self._headers = [(name.lower().encode(), value.encode()) for name, value in values.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class Pages:
    """The handlers. What they show is read from the store; what they change goes through the controller."""

    def __init__(self, controller: Controller, evidence: Evidence) -> None:
        self._controller = controller
        self._store = controller.store
        self._web = controller.settings.web
        self._evidence = evidence
        self._person_token = secret(self._web.person_token_env)
        loader = PackageLoader("lastgood.alerts.web")
        self._templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
        self._templates.filters |= {"percent": percent, "sparkline": sparkline, "sureness": sureness}
        css = self._templates.get_template("style.html").render()
        digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
        style = f"style-src 'sha256-{digest}'"
        self.csp = f"default-src 'none'; {style}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        self._css = css

    # read only

    def index(self, request: Request) -> Response:
        with self._store.read() as tx:
            return self._page("index.html", verdicts=tx.verdicts(), incidents=tx.incidents())

    def incident(self, request: Request) -> Response:
        with self._store.read() as tx:
            incident = tx.incident(request.path_params["id"])
            rollback = tx.last_rollback(incident.id) if incident else None
            journal = tx.journal(rollback.id) if rollback else []
        if incident is None:
            raise HTTPException(404, "There is no such incident.")
        refresh = rollback is not None and rollback.state.under_way
        return self._page("incident.html", incident=incident, rollback=rollback, journal=journal, refresh=refresh)

    def link(self, request: Request) -> Response:
        token = request.path_params["token"]
        claims, incident, rollback = self._controller.people.verify_link(token)
        open_now = (
            claims.action is Action.DECIDE
            and rollback is not None
            and rollback.state in (Status.PROPOSED, Status.HELD)
            and rollback.nonce == claims.nonce
        )
        cookie = request.cookies.get(COOKIE) or secrets.token_urlsafe(24)
        forms = {action: self._controller.people.signer.sign_form(token, action, cookie) for action in ACTIONS}
        evidence = self._evidence(incident.endpoint) or {}
        response = self._page(
            "evidence.html",
            incident=incident,
            rollback=rollback,
            decidable=open_now,
            forms=forms,
            series=evidence.get("series", []),
            forwarded=self._web.trust_forwarded_user,
        )
        if open_now:
            secure = self._web.base_url.startswith("https:")
            response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=secure, path="/r/")
        return response

    def api_incidents(self, request: Request) -> Response:
        with self._store.read() as tx:
            found = [(incident, tx.last_rollback(incident.id)) for incident in tx.incidents()]
        return JSONResponse([_incident(*pair) for pair in found])

    def api_rollback(self, request: Request) -> Response:
        with self._store.read() as tx:
            rollback = tx.rollback(request.path_params["id"])
        if rollback is None:
            return JSONResponse({"error": "there is no such rollback"}, 404)
        return JSONResponse(_rollback(rollback))

    def healthz(self, request: Request) -> Response:
        with self._store.read() as tx:
            return JSONResponse({"status": "ok", "kill_switch": tx.kill_switch().on})

    # the one that changes something

    async def decide(self, request: Request) -> Response:
        token = request.path_params["token"]
        _same_site(request, self._web.base_url)
        form = await _form(request)
        who = self._person(request, form)
        action = form.get("action", "")
        if action not in ACTIONS:
            raise HTTPException(400, f"The action must be one of {', '.join(ACTIONS)}.")
        signer, cookie = self._controller.people.signer, request.cookies.get(COOKIE, "")
        signer.verify_form(form.get("form", ""), token, action, cookie)
        decision: Approve | Hold | Reject = Approve(who)
        if action == "hold":
            minutes = form.get("minutes", "")
            decision = Hold(who, int(minutes) if minutes.isascii() and minutes.isdigit() and len(minutes) < 6 else 0)
        elif action == "reject":
            decision = Reject(who, form.get("reason", "")[:500])
        rollback = await run_in_threadpool(self._controller.people.decide, token, decision)
        return RedirectResponse(f"/incidents/{rollback.incident_id}", 303)

    def _person(self, request: Request, form: Mapping[str, str]) -> str:
        """Who is asking. Errors: HTTPException 403 when it is nobody we know."""
        email = request.headers.get("x-forwarded-email", "").strip()
        if self._web.trust_forwarded_user and email:
            return email[:200]
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else form.get("person_token", "")
        if self._person_token and hmac.compare_digest(given.encode(), self._person_token.encode()):
            return "local approver"
        raise HTTPException(403, "Only an authenticated person can decide. The person token is missing or wrong.")

    # answers

    def _page(self, template: str, status: int = 200, **values: Any) -> Response:
        with self._store.read() as tx:
            switch = tx.kill_switch()
        values = {"refresh": False, "css": self._css, "kill_switch": switch, **values}
        return HTMLResponse(self._templates.get_template(template).render(**values), status)

    def problem(self, request: Request, error: Exception) -> Response:
        """Every refusal as one clear page; the evidence stays where it is."""
        status, text, headers = 500, str(error), None
        if isinstance(error, HTTPException):
            status, text, headers = error.status_code, error.detail, error.headers
        elif isinstance(error, LinkError):
            status = LINK_STATUS[error.problem]
        elif isinstance(error, RefusedError):
            status = 409
        elif isinstance(error, (TransientError, ConfigError)):
            status = 503
        try:
            response = self._page("problem.html", status, text=text, code=status)
        except TransientError:
            return JSONResponse({"error": text}, status)
        response.headers.update(headers or {})
        return response


def _same_site(request: Request, base_url: str) -> None:
    """Errors: HTTPException 403 for a request another site made a browser send.

    This site sends no referrer, so its own forms carry `Origin: null`; then only Sec-Fetch-Site tells them apart.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = {urlsplit(base_url).netloc, request.headers.get("host", "")}
    if site is not None and site not in ("same-origin", "none"):
        raise HTTPException(403, "This request came from another site.")
    if origin is not None and not (origin == "null" and site == "same-origin") and urlsplit(origin).netloc not in own:
        raise HTTPException(403, "This request came from another site (or from a page not served over https).")


async def _form(request: Request) -> dict[str, str]:
    """The form's fields, the first of each. Errors: HTTPException 413, 415, 400."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Expected a form.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, "The form is too large.")
    try:
        return {name: values[0] for name, values in parse_qs(body.decode(), max_num_fields=20).items()}
    except ValueError as error:
        raise HTTPException(400, "The form cannot be read.") from error


def _incident(incident: Incident, rollback: Rollback | None) -> dict[str, Any]:
    return {
        "id": incident.id,
        "endpoint": incident.endpoint,
        "candidate": incident.candidate,
        "prior": incident.prior,
        "state": "resolved" if incident.resolved_at else "open",
        "verdict": incident.verdict,
        "note": incident.note,
        "opened_at": incident.opened_at.isoformat(),
        "resolved_at": incident.resolved_at.isoformat() if incident.resolved_at else None,
        "resolution": incident.resolution,
        "rollback": _rollback(rollback) if rollback else None,
    }


def _rollback(rollback: Rollback) -> dict[str, Any]:
    """Without the served entities' settings: they may hold secrets."""
    plan, progress = rollback.plan, rollback.progress
    return {
        "id": rollback.id,
        "incident": rollback.incident_id,
        "endpoint": plan.endpoint,
        "bad_version": plan.bad_version,
        "prior_version": plan.prior_version,
        "path": plan.path,
        "config_version": plan.config_version,
        "diff": plan.diff(),
        "mode": rollback.mode,
        "state": progress.state,
        "since": progress.since.isoformat(),
        "reason": progress.reason,
        "who": progress.who,
        "created_at": rollback.created_at.isoformat(),
        "ended_at": rollback.ended_at.isoformat() if rollback.ended_at else None,
    }
