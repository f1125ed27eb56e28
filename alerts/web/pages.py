"""What the store holds -> the pages and JSON people and programs read. Nothing here changes anything."""

import base64
import hashlib
import logging
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from lastgood import tables
from lastgood.alerts import brief
from lastgood.alerts.controller import Controller
from lastgood.alerts.messages import sureness, worst_metric
from lastgood.alerts.records import Incident, Rollback
from lastgood.alerts.rollback.git import patch_of
from lastgood.alerts.rollback.links import Action
from lastgood.alerts.rollback.machine import Status
from lastgood.alerts.web import incidents
from lastgood.alerts.web.auth import Auth
from lastgood.alerts.web.fleet import PAGE_ROWS, SORTS, STATES, UNJUDGED, Asked, Line, chosen, table, written
from lastgood.alerts.web.remembered import Remembered
from lastgood.alerts.web.view import (
    age,
    beside,
    clock,
    dots,
    field,
    framed,
    lead,
    seconds,
    short,
    span,
    sparkline,
    story,
    then_and_now,
    trace,
    when,
)
from lastgood.errors import LastgoodError, RefusedError
from lastgood.judge.slices import Slice
from lastgood.record.contents import hash_of
from lastgood.record.verdict import State, Verdict
from lastgood.record.words import counted, percent
from lastgood.settings.prices import known_prices
from lastgood.tables import measures
from lastgood.tables.causes import Moved, moved
from lastgood.tables.edits import Shown, changes, shown
from lastgood.tables.fleet import Row
from lastgood.tables.hurt import hurt

Evidence = Callable[[Incident], Sequence[Mapping[str, Any]]]
"""What the page draws: {"name": str, "unit": str, "new": [float | None, ...], "prior": [float | None, ...]} for each metric."""
Report = Callable[[str, str], Path | None]
"""(endpoint, version) -> its drift report, where there is one."""
Failing = Callable[[Incident], Sequence[Mapping[str, Any]]]
"""The newest failed requests of an incident's version: requested_at, error_code, latency_ms, request_id, trace_id."""
Tools = Callable[[Incident], Sequence[Mapping[str, Any]]]
"""The tools of an agent's two versions: tool, and for `new` and `prior` {calls, error_rate, p95_ms} or None."""
FleetRows = Callable[[], tuple[Mapping[str, Row], datetime | None]]
"""Endpoint -> its figures, and when the tables were read; None: not yet."""
COOKIE = "lastgood_form"
REPORT_CSP = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
ACTIONS = ("approve", "hold", "reject")
INCIDENT_ACTIONS = ("acknowledge", "note", "close")
CURRENT = timedelta(hours=1)
WRONG = (str(State.ROLL_BACK), str(State.PAGE))
FAILURES = ("errors", "error_rate", "client")
"""Metrics that count failed requests."""
HURT_WITHIN, MOST_SLICES = timedelta(hours=6), 6
"""How far back requests are looked at for those that are hurt, and how many slices the page names."""
Part = TypeVar("Part")
FRESH = timedelta(minutes=1)
"""So long what the requests of a verdict say is not looked for again: late ones may come."""
MOST_INCIDENTS = 200
MOST_WRONG = 30
"""So many endpoints of each kind the first page shows; the fleet has all."""
log = logging.getLogger("lastgood.web")


class Pages:
    """The read-only handlers, and the page every answer is made with."""

    def __init__(
        self,
        controller: Controller,
        evidence: Evidence,
        auth: Auth,
        report: Report,
        broken: Callable[[], Mapping[str, str]],
        failing: Failing,
        tools: Tools,
        fleet: FleetRows,
        data: tables.Store | None,
    ) -> None:
        self._people = controller.people
        self._store = controller.store
        self._web = controller.settings.web
        self._settings = controller.settings
        self._evidence, self._report, self._broken = evidence, report, broken
        self._failing, self._tools, self._fleet, self._data = failing, tools, fleet, data
        self._clock = controller.clock
        self._in_force = controller.in_force
        self._auth = auth
        self._slices: Remembered[Sequence[Slice]] = Remembered(self._clock, FRESH)
        self._causes: Remembered[Sequence[Moved]] = Remembered(self._clock, FRESH)
        self._failures: Remembered[Sequence[Mapping[str, Any]]] = Remembered(self._clock, FRESH)
        loader = PackageLoader("lastgood.alerts.web")
        self._templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
        in_zone = partial(when, zone=self._settings.web.zone)
        self._templates.filters |= {
            "percent": percent,
            "counted": counted,
            "sparkline": sparkline,
            "sureness": sureness,
            "when": in_zone,
        }
        self._templates.filters |= {
            "age": age,
            "trace": trace,
            "top": max,
            "clock": clock,
            "dots": dots,
            "seconds": seconds,
            "field": field,
            "short": short,
            "span": span,
        }
        css = self._templates.get_template("style.html").render()
        digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
        style = f"style-src 'sha256-{digest}'"
        self.csp = f"default-src 'none'; {style}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        self._css = css

    @cached_property
    def currency(self) -> str:
        """Of the prices as they were when it was first asked for. Errors: ConfigError where they cannot be read."""
        return known_prices(self._settings.prices).currency

    def index(self, request: Request) -> Response:
        """What is wrong now, the worst first; what is not is in the fleet."""
        rows, read_at = self._fleet()
        lines = chosen(self._lines(rows), Asked())
        with self._store.read() as tx:
            unsent = {channel: told for channel, told in tx.unsent().items() if told[1]}
        now = self._clock()
        silent = {
            line.row.endpoint
            for line in lines
            if line.row.newest and now - line.row.newest > self._oldest(line.row.endpoint)
        }
        states = Counter(line.state for line in lines)
        unjudged = states[UNJUDGED] + states[State.INCONCLUSIVE]
        reasons = {line.row.endpoint: line.verdict.reason for line in lines if line.verdict}
        links = {"Dashboard": self._settings.dashboard_url, "Runbooks": self._settings.runbook_base_url or "/runbooks"}
        return self.page(
            "index.html", wrong=[line for line in lines if line.incident or line.state in WRONG],
            watched=[line for line in lines if line.state == State.WATCH and not line.incident],
            silent=[line for line in lines if line.row.endpoint in silent], drifted=[line for line in lines if line.row.drifted],
            unknown=[line for line in lines if line.row.sources_unknown], states=[(state, states[state]) for state in STATES if states[state]],
            total=len(lines), unjudged=unjudged, unsent=unsent, links=links, reasons=reasons, read_at=read_at, now=now, most=MOST_WRONG,
        )  # fmt: skip

    def _oldest(self, endpoint: str) -> timedelta:
        """How old an endpoint's newest telemetry may be."""
        return timedelta(seconds=self._settings.endpoint(endpoint).policy.max_evidence_age_s)

    def fleet(self, request: Request) -> Response:
        """Every endpoint with its figures: searched, filtered and sorted as the address says."""
        asked = Asked.of(request.query_params)
        rows, read_at = self._fleet()
        lines = self._lines(rows)
        states = Counter(line.state for line in lines)
        kept = chosen(lines, asked)
        if answer := as_csv(request, "fleet", {"endpoints": lambda: table(kept)}):
            return answer
        pages = max(1, -(-len(kept) // PAGE_ROWS))
        asked = replace(asked, page=min(asked.page, pages))  # the fleet may have shrunk since the address was kept
        first = (asked.page - 1) * PAGE_ROWS
        return self.page(
            "fleet.html", asked=asked, lines=kept[first : first + PAGE_ROWS], total=len(lines), kept=len(kept), pages=pages, sorts=SORTS,
            states=[(state, states[state]) for state in STATES], read_at=read_at, now=self._clock(),
            currency=self.currency,
        )  # fmt: skip

    def _lines(self, rows: Mapping[str, Row]) -> list[Line]:
        """Every endpoint that the tables, the judge, an incident or the settings know."""
        with self._store.read() as tx:
            verdicts, incidents = leading(tx.verdicts()), tx.incidents(open_only=True, limit=10_000)
        spoken = {verdict.endpoint: verdict for verdict in verdicts}
        open_ones = {incident.endpoint: incident.id for incident in reversed(incidents)}
        names = rows.keys() | spoken.keys() | open_ones.keys() | self._settings.endpoints.keys()
        return [
            Line(
                rows.get(name) or Row(name),
                spoken.get(name),
                open_ones.get(name),
                str(self._settings.endpoint(name).mode),
            )
            for name in names
        ]

    def endpoint_of(self, request: Request) -> str:
        """The endpoint that an address names: as it stands where there is such a one, else without the blanks that a person typed around it."""
        exact = word(request, "endpoint", exact=True)
        return exact if self.serves(exact) else exact.strip()

    def serves(self, name: str) -> bool:
        """Whether the tables have figures of the endpoint."""
        return name in self._fleet()[0]

    def incidents(self, request: Request) -> Response:
        """The newest incidents, of all endpoints or one, open or all."""
        name, open_only = self.endpoint_of(request), request.query_params.get("state", "") == "open"
        with self._store.read() as tx:
            kept = tx.incidents(name or None, open_only=open_only, limit=MOST_INCIDENTS)
            made = incidents.rows([(incident, tx.last_rollback(incident.id)) for incident in kept], self._clock())
        if answer := as_csv(request, "incidents", {"incidents": lambda: incidents.table(made)}):
            return answer
        return self.page(
            "incidents.html", rows=made, endpoint=name, open_only=open_only, most=MOST_INCIDENTS, width=incidents.WIDTH
        )

    def incident(self, request: Request) -> Response:
        if not request.path_params["id"].isalnum():
            raise HTTPException(404, "There is no such incident.")
        with self._store.read() as tx:
            incident = tx.incident(request.path_params["id"])
            rollback = tx.last_rollback(incident.id) if incident else None
            journal = tx.journal(rollback.id) if rollback else []
            entries = tx.audit(incident.id) if incident else []
        if incident is None:
            raise HTTPException(404, "There is no such incident.")
        refresh = rollback is not None and rollback.state.under_way
        patch = self._patch(incident, rollback) if rollback else ""
        values: dict[str, Any] = {
            "journal": journal,
            "story": story(entries, self._web.zone),
            "compared": self._compared(incident),
        }
        since = datetime.fromisoformat(incident.verdict["since"] or incident.opened_at.isoformat())
        values |= {"series": framed(self._evidence(incident), since, self._clock()), "day": timedelta(days=1)}
        actions = INCIDENT_ACTIONS if incident.resolved_at is None else ("note",)
        return self.with_forms(
            request, f"incident {incident.id}", actions, "incident.html",
            incident=incident, rollback=rollback, refresh=refresh, patch=patch, **values,
        )  # fmt: skip

    def _compared(self, incident: Incident) -> list[tuple[str, str, str, str, str]]:
        """What the verdict was given on, beside the last hour."""
        since = self._clock() - CURRENT
        sides = self._data and measures.sides(self._data, incident.endpoint, incident.candidate, incident.prior, since)
        return then_and_now(incident.verdict, {"figures": sides or {}})

    def _hurt(self, incident: Incident) -> Sequence[Slice]:
        """Which of the requests are hurt, where failures are what is wrong."""
        data, prior = self._data, incident.prior
        if data is None or prior is None or worst_metric(incident.verdict) not in FAILURES:
            return ()
        since = datetime.fromisoformat(incident.verdict["judged_at"]) - HURT_WITHIN
        faults = self._settings.endpoint(incident.endpoint).policy.rollback_faults
        return self._if_read(
            f"which requests of {incident.endpoint} are hurt",
            lambda: self._slices(
                (incident.id, since),
                lambda: hurt(data, incident.endpoint, incident.candidate, prior, since, faults)[:MOST_SLICES],
            ),
        )

    def _moved(self, incident: Incident, since: datetime) -> Sequence[Moved]:
        """What moved with the harm."""
        data, now = self._data, self._clock()
        if data is None:
            return ()
        return self._if_read(
            f"what moved with the harm of {incident.endpoint}",
            lambda: self._causes(
                (incident.id, since),
                lambda: moved(data, incident.endpoint, incident.candidate, incident.prior, since, now),
            ),
        )

    def _edited(self, incident: Incident) -> Shown | None:
        """What the version is asked with, where that makes it a version."""
        data = self._data
        if data is None or not hash_of(incident.candidate):
            return None
        what = f"what version {incident.candidate} of {incident.endpoint} is asked with"
        told = self._if_read(what, lambda: [shown(changes(data, incident.endpoint), incident.candidate)])
        return told[0] if told else None

    @staticmethod
    def _if_read(what: str, read: Callable[[], Sequence[Part]]) -> Sequence[Part]:
        """Nothing where the tables cannot be read now: the page opens without it. pyarrow says ValueError of a broken file."""
        try:
            return read()
        except (LastgoodError, OSError, ValueError) as error:
            log.warning("%s is not known: %s", what, error)
            return ()

    def _patch(self, incident: Incident, rollback: Rollback) -> str:
        """The patch of the file that declares the endpoint, or why there is none; empty where no file is known."""
        if self._settings.endpoint(incident.endpoint).source_file is None:
            return ""
        try:
            return str(patch_of(self._settings, incident, rollback.plan))
        except RefusedError as error:
            return str(error)

    def link(self, request: Request) -> Response:
        token = request.path_params["token"]
        claims, incident, rollback = self._people.verify_link(token)
        decidable = (
            claims.action is Action.DECIDE
            and rollback is not None
            and rollback.state in (Status.PROPOSED, Status.HELD)
            and rollback.nonce == claims.nonce
        )
        with self._store.read() as tx:
            entries = tx.audit(incident.id)
            elsewhere = [other for other in tx.incidents(open_only=True) if other.id != incident.id]
            known = brief.read(tx, incident, self._clock())
        series = framed(self._evidence(incident), datetime.fromisoformat(known.since), self._clock())
        main = lead(series, worst_metric(incident.verdict))
        return self.with_forms(
            request,
            token,
            ACTIONS if decidable else (),
            "evidence.html",
            brief=known,
            main=main,
            elsewhere=elsewhere,
            failed=self._failures((incident.id, incident.verdict["judged_at"]), lambda: self._failing(incident)),
            hurt=self._hurt(incident),
            tools=self._tools(incident),
            moved=self._moved(incident, datetime.fromisoformat(known.since)),
            edited=self._edited(incident),
            trace_url=self._web.trace_url,
            incident=incident,
            rollback=rollback,
            decidable=decidable,
            needed=self._settings.endpoint(incident.endpoint).policy.approvals,
            series=series,
            report=f"/r/{token}/drift" if self._report(incident.endpoint, incident.candidate) else None,
            figures=beside(incident.verdict),
            story=story(entries, self._web.zone),
        )

    def drift(self, request: Request) -> Response:
        """Evidently's report as it is: its scripts run in an origin of their own, without this site's cookies."""
        _, incident, _ = self._people.verify_link(request.path_params["token"])
        report = self._report(incident.endpoint, incident.candidate)
        if report is None:
            raise HTTPException(404, f"There is no drift report; make one: lastgood drift {incident.endpoint}")
        return FileResponse(report, media_type="text/html", headers={"Content-Security-Policy": REPORT_CSP})

    def runbooks(self, request: Request) -> Response:
        """What each alert means and what to do: docs/runbooks.md, section by section."""
        source = self._templates.get_template("runbooks.md").render()
        title, *sections = source.split("\n## ")
        parts = [(name, text.split("\n\n")) for name, _, text in (section.partition("\n") for section in sections)]
        return self.page("runbooks.html", intro=title.partition("\n")[2], sections=parts)

    def kill(self, request: Request) -> Response:
        with self._store.read() as tx:
            entries = tx.audit(what="kill switch")
        return self.with_forms(request, "kill", ("on", "off"), "kill.html", story=story(entries[-10:], self._web.zone))

    def with_forms(
        self, request: Request, subject: str, actions: tuple[str, ...], template: str, **values: Any
    ) -> Response:
        """A page with a form for each action, good in this browser only."""
        cookie = request.cookies.get(COOKIE) or secrets.token_urlsafe(24)
        forms = {action: self._people.signer.sign_form(subject, action, cookie) for action in actions}
        asks, known = self._auth.asks_for_token, self._auth.known(request)
        login: dict[str, Any] = {"known": known, "asks_for_token": asks and not known, "path": request.scope["path"]}
        response = self.page(template, forms=forms, can_sign_in=self._auth.can_sign_in, **login, **values)
        if actions:
            secure = self._web.base_url.startswith("https:")
            response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=secure)
        return response

    def _nav(self) -> list[tuple[str, str]]:
        """(address, name) of the pages that every page links to."""
        if self._data is None:
            return [("/fleet", "Fleet"), ("/incidents", "Incidents")]
        agents = [("/agents", "Agents")] if any(row.agent for row in self._fleet()[0].values()) else []
        scored = any(own.scoring.scorers for own in self._settings.endpoints.values())
        labels = [("/labels", "Labels")] if scored else []
        return [
            ("/fleet", "Fleet"), ("/incidents", "Incidents"), ("/drift", "Drift"), ("/requests", "Requests"), *agents, *labels, ("/health", "Health"),
            ("/definitions", "Definitions"),
        ]  # fmt: skip

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        with self._store.read() as tx:
            switch = tx.kill_switch()
            pauses = self._in_force(tx)
        values = {"pauses": pauses, "broken": list(self._broken().values()), **values}
        values = {"refresh": False, "css": self._css, "kill_switch": switch, "nav": self._nav(), **values}
        return HTMLResponse(self._templates.get_template(template).render(**values), status)

    # JSON

    def api_incidents(self, request: Request) -> Response:
        with self._store.read() as tx:
            pairs = [(incident, tx.last_rollback(incident.id)) for incident in tx.incidents()]
        return JSONResponse([_incident(*pair) for pair in pairs])

    def api_rollback(self, request: Request) -> Response:
        name = request.path_params["id"]
        with self._store.read() as tx:
            rollback = tx.rollback(name) if name.isalnum() else None
        if rollback is None:
            return JSONResponse({"error": "there is no such rollback"}, 404)
        return JSONResponse(_rollback(rollback))

    def healthz(self, request: Request) -> Response:
        """Alive: 200. `degraded` where something that protects an endpoint does not work, with the reasons."""
        with self._store.read() as tx:
            switch = tx.kill_switch()
            unsent = {channel: count for channel, (count, _) in tx.unsent().items()}
            pauses = [f"{pause.endpoint}: {pause}" for pause in self._in_force(tx)]
        broken = dict(self._broken())
        status = "degraded" if broken else "ok"
        document = {"status": status, "reasons": broken, "kill_switch": switch.on, "pauses": pauses, "unsent": unsent}
        return JSONResponse(document)


def word(request: Request, name: str, exact: bool = False) -> str:
    """A parameter's text, bounded, without what no name has; `exact`: with the blanks around it."""
    text = request.query_params.get(name, "").replace("\0", "")[:300]
    return text if exact else text.strip()


Sheets = Mapping[str, Callable[[], tuple[Sequence[str], Sequence[Sequence[Any]]]]]
"""Name in the address -> headings and rows of a page's table."""


def as_csv(request: Request, page: str, sheets: Sheets) -> Response | None:
    """The table that `csv=` asks for; None where the address asks for the page. Errors: HTTPException 400 where the page has no such table."""
    name = request.query_params.get("csv", "")
    if not name:
        return None
    if name not in sheets:
        raise HTTPException(400, f"csv must be one of {', '.join(sheets)}.")
    file = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"lastgood-{page}-{name}")
    attached = {"Content-Disposition": f'attachment; filename="{file}.csv"'}
    return Response(written(*sheets[name]()), media_type="text/csv", headers=attached)


def leading(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """One verdict per endpoint: the worst of those spoken within CURRENT of the endpoint's newest."""
    newest: dict[str, datetime] = {}
    for verdict in verdicts:
        newest[verdict.endpoint] = max(newest.get(verdict.endpoint, verdict.judged_at), verdict.judged_at)
    lead: dict[str, Verdict] = {}
    for verdict in verdicts:
        if verdict.judged_at >= newest[verdict.endpoint] - CURRENT:
            other = lead.get(verdict.endpoint, verdict)
            lead[verdict.endpoint] = max(other, verdict, key=lambda v: (v.state.severity, v.judged_at))
    return list(lead.values())


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
        "kind": plan.kind,
        "incident": rollback.incident_id,
        "endpoint": plan.endpoint,
        "bad_version": plan.bad_version,
        "prior_version": plan.prior_version,
        "path": plan.path,
        "config_version": plan.config_version,
        "diff": plan.diff(),
        "reasons": plan.reasons,
        "mode": rollback.mode,
        "state": progress.state,
        "since": progress.since.isoformat(),
        "reason": progress.reason,
        "who": progress.who,
        "approvals": progress.approvals,
        "created_at": rollback.created_at.isoformat(),
        "ended_at": rollback.ended_at.isoformat() if rollback.ended_at else None,
    }
