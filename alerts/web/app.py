"""Signed link -> evidence page -> a person's decision. GET and HEAD change nothing; only a POST by a person does."""

from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from lastgood.alerts import reports
from lastgood.alerts.controller import Controller
from lastgood.alerts.notify.alertmanager import reported
from lastgood.alerts.rollback.links import LinkError, Problem
from lastgood.alerts.rollback.machine import Approve, Hold, Reject
from lastgood.alerts.web import guard
from lastgood.alerts.web.auth import Auth
from lastgood.alerts.web.openapi import DOCUMENT
from lastgood.alerts.web.pages import ACTIONS, COOKIE, NOTHING, Evidence, Overview, Pages, Report
from lastgood.errors import ConfigError, LastgoodError, RefusedError, TransientError
from lastgood.settings import secret

LINK_STATUS = {Problem.FORGED: 403, Problem.EXPIRED: 410, Problem.OTHER_PLAN: 409, Problem.USED: 409}


def create_app(
    controller: Controller,
    evidence: Evidence = lambda incident: (),
    overview: Overview = lambda endpoint, new, prior: NOTHING,
    report: Report = lambda endpoint, version: None,
) -> Starlette:
    """The web application. What the pages show besides verdicts and incidents comes from the three functions (see pages)."""
    web = controller.settings.web
    auth = Auth(web, controller.people.signer.derived("session"))
    pages = Pages(controller, evidence, auth, overview, report)
    acts = Acts(controller, auth, pages)
    routes = [
        Route("/", pages.index),
        Route("/r/{token}", pages.link),
        Route("/r/{token}", acts.decide, methods=["POST"]),
        Route("/r/{token}/drift", pages.drift),
        Route("/incidents/{id}", pages.incident),
        Route("/kill", pages.kill),
        Route("/kill", acts.kill, methods=["POST"]),
        Route("/hooks/alertmanager", acts.alertmanager, methods=["POST"]),
        Route("/api/incidents", pages.api_incidents),
        Route("/api/rollbacks/{id}", pages.api_rollback),
        Route("/healthz", pages.healthz),
        Route("/openapi.json", lambda request: JSONResponse(DOCUMENT)),
        *auth.routes(),
    ]
    https = web.base_url.startswith("https:")
    layers = [Middleware(guard.Headers, csp=pages.csp, https=https), *auth.middleware()]
    handlers: Any = {LastgoodError: acts.problem, HTTPException: acts.problem}
    return Starlette(routes=routes, middleware=layers, exception_handlers=handlers)


class Acts:
    """The handlers that change something, each by an authenticated person or system."""

    def __init__(self, controller: Controller, auth: Auth, pages: Pages) -> None:
        self._controller = controller
        self._auth = auth
        self._pages = pages
        self._web = controller.settings.web
        self._hook_token = secret(controller.settings.alertmanager.hook_token_env)

    async def decide(self, request: Request) -> Response:
        token = request.path_params["token"]
        form, who = await self._form(request)
        action = form.get("action", "")
        if action not in ACTIONS:
            raise HTTPException(400, f"The action must be one of {', '.join(ACTIONS)}.")
        self._ours(request, form, token, action)
        decision: Approve | Hold | Reject = Approve(who)
        if action == "hold":
            minutes = form.get("minutes", "")
            decision = Hold(who, int(minutes) if minutes.isascii() and minutes.isdigit() and len(minutes) < 6 else 0)
        elif action == "reject":
            decision = Reject(who, form.get("reason", "")[:500])
        rollback = await run_in_threadpool(self._controller.people.decide, token, decision)
        return RedirectResponse(f"/incidents/{rollback.incident_id}", 303)

    async def kill(self, request: Request) -> Response:
        form, who = await self._form(request)
        action, why = form.get("action", ""), form.get("why", "").strip()[:500]
        if action not in ("on", "off") or not why:
            raise HTTPException(400, "Say on or off, and why.")
        self._ours(request, form, "kill", action)
        await run_in_threadpool(self._controller.people.set_kill_switch, action == "on", who, why)
        return RedirectResponse("/kill", 303)

    async def alertmanager(self, request: Request) -> Response:
        """Groups of Alertmanager's webhook; 503 makes it send the group again."""
        self._auth.hook(request, self._hook_token)
        group = await guard.document(request)
        try:
            alerts = reported(group)
        except ConfigError as error:
            raise HTTPException(422, str(error)) from error
        return JSONResponse(await run_in_threadpool(reports.take, self._controller, alerts))

    async def _form(self, request: Request) -> tuple[dict[str, str], str]:
        guard.same_site(request, self._web.base_url)
        form = await guard.form(request)
        return form, self._auth.person(request, form)

    def _ours(self, request: Request, form: dict[str, str], subject: str, action: str) -> None:
        """Errors: LinkError when this page did not make the form for this browser, subject and action."""
        cookie = request.cookies.get(COOKIE, "")
        self._controller.people.signer.verify_form(form.get("form", ""), subject, action, cookie)

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
        if request.url.path.startswith(("/api/", "/hooks/")):
            return JSONResponse({"error": text}, status, headers)
        try:
            response = self._pages.page("problem.html", status, text=text, code=status)
        except TransientError:
            return JSONResponse({"error": text}, status)
        response.headers.update(headers or {})
        return response
