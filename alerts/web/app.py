"""Signed link -> evidence page -> a person's decision. GET and HEAD change nothing; only a POST by a person does."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from lastgood import tables
from lastgood.alerts import reports
from lastgood.alerts.controller import Controller
from lastgood.alerts.notify import pagerduty_hook
from lastgood.alerts.notify.alertmanager import reported
from lastgood.alerts.rollback.links import LinkError, Problem
from lastgood.alerts.rollback.machine import Approve, Hold, Reject
from lastgood.alerts.web import guard
from lastgood.alerts.web.auth import Auth
from lastgood.alerts.web.labels import Labels
from lastgood.alerts.web.openapi import DOCUMENT
from lastgood.alerts.web.pages import (
    ACTIONS,
    COOKIE,
    INCIDENT_ACTIONS,
    Evidence,
    Failing,
    FleetRows,
    Pages,
    Report,
    Tools,
)
from lastgood.alerts.web.weeks import Flagged, Weeks
from lastgood.errors import ConfigError, LastgoodError, RefusedError, TransientError
from lastgood.settings import secret

Page = Callable[[Request], Response]
LINK_STATUS = {Problem.FORGED: 403, Problem.EXPIRED: 410, Problem.OTHER_PLAN: 409, Problem.USED: 409}


def create_app(
    controller: Controller,
    evidence: Evidence = lambda incident: (),
    report: Report = lambda endpoint, version: None,
    broken: Callable[[], Mapping[str, str]] = dict,
    failing: Failing = lambda incident: (),
    tools: Tools = lambda incident: (),
    fleet: FleetRows = lambda: ({}, None),
    data: tables.Store | None = None,
    flags: Flagged = lambda rows: {},
) -> Starlette:
    """The web application. What the pages show besides verdicts and incidents comes from the functions (see pages); `broken`: why
    Lastgood cannot protect the endpoints now, by reason. `data`: the tables that the pages of the weeks between read; without it these are not there."""
    web, store = controller.settings.web, controller.store

    def ended(number: str) -> bool:
        with store.read() as tx:
            return tx.nonce_used(f"session:{number}")

    def end(number: str) -> None:
        with store.begin() as tx:
            tx.use_nonce(f"session:{number}", "", "logout", "", controller.clock())

    auth = Auth(web, controller.people.signer.derived("session"), ended, end)
    pages = Pages(controller, evidence, auth, report, broken, failing, tools, fleet, data)
    acts = Acts(controller, auth, pages)
    weeks = Weeks(pages, controller, data, flags) if data else None

    def reading(page: Page) -> Page:
        def shown(request: Request) -> Response:
            auth.reader(request)
            return page(request)

        return shown

    routes = [*_routes(pages, acts, auth, reading), *(_weeks(weeks, reading) if weeks else ())]
    if data:
        labels = Labels(pages, controller, auth, data)
        routes += [Route("/labels", reading(labels.page)), Route("/labels", labels.label, methods=["POST"])]
    https = web.base_url.startswith("https:")
    hosts = {urlsplit(web.base_url).hostname or "", *web.allowed_hosts}
    layers = [
        Middleware(guard.Headers, csp=pages.csp, https=https),
        Middleware(guard.Hosts, hosts=hosts),
        *auth.middleware(),
    ]
    handlers: Any = {LastgoodError: acts.problem, HTTPException: acts.problem}
    app = Starlette(routes=routes, middleware=layers, exception_handlers=handlers)
    app.state.auth = auth
    return app


def _routes(pages: Pages, acts: "Acts", auth: Auth, reading: Callable[[Page], Page]) -> list[Route]:
    """What is answered where. `reading`: the page for those who may read."""
    return [
        Route("/", reading(pages.index)),
        Route("/fleet", reading(pages.fleet)),
        Route("/r/{token}", pages.link),
        Route("/r/{token}", acts.decide, methods=["POST"]),
        Route("/r/{token}/drift", pages.drift),
        Route("/incidents", reading(pages.incidents)),
        Route("/incidents/{id}", reading(pages.incident)),
        Route("/incidents/{id}", acts.incident, methods=["POST"]),
        Route("/runbooks", reading(pages.runbooks)),
        Route("/kill", reading(pages.kill)),
        Route("/kill", acts.kill, methods=["POST"]),
        Route("/hooks/pagerduty", acts.pagerduty, methods=["POST"]),
        Route("/hooks/alertmanager", acts.alertmanager, methods=["POST"]),
        Route("/api/incidents", reading(pages.api_incidents)),
        Route("/api/rollbacks/{id}", reading(pages.api_rollback)),
        Route("/healthz", pages.healthz),
        Route("/openapi.json", lambda request: JSONResponse(DOCUMENT)),
        *auth.routes(),
    ]


def _weeks(weeks: Weeks, reading: Callable[[Page], Page]) -> list[Route]:
    return [
        Route("/endpoints/{name:path}", reading(weeks.endpoint)),
        Route("/definitions", reading(weeks.definitions)),
        Route("/drift", reading(weeks.drift)),
        Route("/drift/report", reading(weeks.report)),
        Route("/requests", reading(weeks.requests)),
        Route("/agents", reading(weeks.agents)),
        Route("/health", reading(weeks.health)),
    ]


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
        form, who = await self._form(request, "operators")
        action, why = form.get("action", ""), form.get("why", "").strip()[:500]
        if action not in ("on", "off") or not why:
            raise HTTPException(400, "Say on or off, and why.")
        self._ours(request, form, "kill", action)
        await run_in_threadpool(self._controller.people.set_kill_switch, action == "on", who, why)
        return RedirectResponse("/kill", 303)

    async def incident(self, request: Request) -> Response:
        """Acknowledge, note or close an incident from its page."""
        form, who = await self._form(request, "operators")
        number, action, text = request.path_params["id"], form.get("action", ""), form.get("text", "").strip()[:500]
        if action not in INCIDENT_ACTIONS or (action != "acknowledge" and not text):
            raise HTTPException(
                400, f"The action must be one of {', '.join(INCIDENT_ACTIONS)}; a note and a close need words."
            )
        self._ours(request, form, f"incident {number}", action)
        await run_in_threadpool(self._on_incident, action, number, who, text)
        return RedirectResponse(f"/incidents/{number}", 303)

    def _on_incident(self, action: str, number: str, who: str, text: str) -> None:
        people = self._controller.people
        if action == "acknowledge":
            people.acknowledge(number, who)
        elif action == "note":
            people.note(number, who, text)
        else:
            people.close(number, who, text)

    async def pagerduty(self, request: Request) -> Response:
        """What people did with our incidents in PagerDuty. Anything else that is signed is answered 200 and changes nothing."""
        key = secret(self._controller.settings.pagerduty.hook_secret_env)
        raw = await guard.body(request, "application/json", guard.MAX_HOOK_BYTES)
        if not key or not pagerduty_hook.signed(raw, request.headers.get("x-pagerduty-signature", ""), key):
            self._auth.limited(request, "")
            raise HTTPException(403, "The signature is missing or wrong.")
        act = pagerduty_hook.done(guard.parsed(raw))
        taken = act is not None and await run_in_threadpool(self._by_pagerduty, act)
        return JSONResponse({"taken": taken})

    def _by_pagerduty(self, act: pagerduty_hook.Done) -> bool:
        number = act.key.partition("-")[0]
        with self._controller.store.begin() as tx:
            incident = tx.incident(number)
            known = incident is not None and incident.resolved_at is None
            if not known or (
                act.id and not tx.use_nonce(f"pagerduty:{act.id}"[:64], "", act.action, "", self._controller.clock())
            ):
                return False
        try:
            self._on_incident(act.action, number, f"{act.who} (PagerDuty)", act.text or "resolved in PagerDuty")
        except RefusedError as error:
            self._controller.people.note(number, act.who, f"PagerDuty: {act.action} was refused: {error}")
        return True

    async def alertmanager(self, request: Request) -> Response:
        """Groups of Alertmanager's webhook; 503 makes it send the group again."""
        self._auth.hook(request, self._hook_token)
        group = await guard.document(request)
        try:
            alerts = reported(group)
        except ConfigError as error:
            raise HTTPException(422, str(error)) from error
        return JSONResponse(await run_in_threadpool(reports.take, self._controller, alerts))

    async def _form(self, request: Request, role: str = "approvers") -> tuple[dict[str, str], str]:
        guard.same_site(request, self._web.base_url)
        form = await guard.form(request)
        return form, self._auth.person(request, form, role)

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
        if status == 401 and self._auth.can_sign_in and request.method == "GET" and not _for_programs(request):
            return RedirectResponse(f"/login?next={quote(request.scope['path'])}", 303)
        if _for_programs(request):
            return JSONResponse({"error": text}, status, headers)
        try:
            response = self._pages.page("problem.html", status, text=text, code=status)
        except TransientError:
            return JSONResponse({"error": text}, status)
        response.headers.update(headers or {})
        return response


def _for_programs(request: Request) -> bool:
    return str(request.scope["path"]).startswith(("/api/", "/hooks/", "/metrics"))
