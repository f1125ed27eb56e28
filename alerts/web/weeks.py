"""The pages of the weeks between: what the tables hold of endpoints, drift, requests, agents and of Lastgood itself. Nothing here changes anything."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lastgood import tables
from lastgood.alerts.controller import Controller
from lastgood.alerts.web import endpoint as one_endpoint
from lastgood.alerts.web.chart import Mark
from lastgood.alerts.web.pages import Pages, as_csv, leading
from lastgood.alerts.web.ranges import USUAL, Range
from lastgood.judge import outcomes
from lastgood.judge.ledger import ledger
from lastgood.record.definitions import DEFINITIONS
from lastgood.record.verdict import State, Verdict
from lastgood.record.windows import Counts
from lastgood.settings.prices import known_prices
from lastgood.tables import history
from lastgood.workspace import deployments

Tables = Mapping[str, Callable[[], tuple[list[str], list[list[Any]]]]]
"""Name in the address -> headings and rows of a page's table as CSV."""

STATES: Mapping[State, str] = {
    State.HEALTHY: "the new version is as good as the prior one, to within the policy's tolerance",
    State.INCONCLUSIVE: "the evidence is missing, late or too little: nothing is judged",
    State.WATCH: "something looks worse, not surely enough to wake anybody",
    State.PAGE: "something is surely wrong, and a rollback would not surely help: a person must look",
    State.ROLL_BACK: "the new version is surely worse, and the prior one is better: put it back",
}


class Weeks:
    """The handlers. Errors of all: HTTPException 400 that names a parameter; those of the tables' homes."""

    def __init__(self, pages: Pages, controller: Controller, store: tables.Store) -> None:
        self._page, self._clock = pages.page, controller.clock
        self._state, self._settings, self._tables = controller.store, controller.settings, store

    @property
    def _currency(self) -> str:
        return known_prices(self._settings.prices).currency

    def definitions(self, request: Request) -> Response:
        """Every figure by its formula, and every column of every table."""
        return self._page("definitions.html", definitions=DEFINITIONS, catalogue=tables.ALL, states=STATES)

    # one endpoint

    def endpoint(self, request: Request) -> Response:
        """An endpoint over a time range, version beside version."""
        name, now = request.path_params["name"].replace("\0", "")[:300], self._clock()
        asked = Range.of(request.query_params, now)
        span = history.Span.around(asked.since, asked.until, timedelta(seconds=self._settings.window_s))
        costs, daily = history.costs(self._tables, name, span)
        past = one_endpoint.Past(
            span, history.counts(self._tables, name, span), costs, daily, history.delays(self._tables, name, span)
        )
        verdict, events = self._known(name, now)
        if not past.steps and verdict is None and not events and name not in self._settings.endpoints:
            raise HTTPException(404, f"Nothing is known of an endpoint {name}.")
        inside = [mark for mark in events if mark.at < span.until and (mark.until or mark.at) >= span.since]
        report = self._outcomes(past, verdict, history.by_stratum(self._tables, name, span))
        currency = self._currency
        sheets: Tables = {
            "versions": lambda: one_endpoint.versions_csv(past), "series": lambda: one_endpoint.series_csv(past),
            "errors": lambda: one_endpoint.errors_table(past), "flags": lambda: one_endpoint.flags_table(past),
            "outcomes": lambda: one_endpoint.outcomes_csv(report), "delays": lambda: one_endpoint.delays_csv(past),
            "cost": lambda: one_endpoint.costs_csv(past, currency), "events": lambda: one_endpoint.events_csv(inside),
        }  # fmt: skip
        if answer := as_csv(request, f"{name}", sheets):
            return answer
        policy = self._settings.endpoint(name).policy
        limits = {"error_rate": policy.error_slo, "p95_ms": policy.latency_target_s and policy.latency_target_s * 1000}
        return self._page(
            "endpoint.html", name=name, asked=asked, ranges=USUAL, past=past, shown=past.versions[: one_endpoint.SHOWN_VERSIONS], verdict=verdict,
            drawn=one_endpoint.charts(past, inside, currency, {k: v for k, v in limits.items() if v}),
            figures=one_endpoint.versions_table(past), errors=sheets["errors"]()[1], flags=sheets["flags"]()[1], outcomes=report, currency=currency,
            events=inside, incident=self._open_incident(name), agent=self._is_agent(name), dashboard=self._settings.dashboard_url,
            hour=timedelta(hours=1),
        )  # fmt: skip

    def _known(self, name: str, now: datetime) -> tuple[Verdict | None, list[Mark]]:
        """The leading verdict on an endpoint, and everything that ever happened to it."""
        with self._state.read() as tx:
            verdicts = leading(tx.verdicts(name))
            rollbacks, incidents = tx.rollbacks(name, 200), tx.incidents(name, limit=200)
        configurations = ledger(deployments.read(self._tables, name)).get(name, [])
        return next(iter(verdicts), None), one_endpoint.marks(configurations, rollbacks, incidents, now)

    def _open_incident(self, name: str) -> str | None:
        with self._state.read() as tx:
            return next((incident.id for incident in tx.incidents(name, open_only=True)), None)

    def _is_agent(self, name: str) -> bool:
        wanted: Any = [("endpoint", "=", name), ("window_start", ">=", self._clock() - timedelta(days=35))]
        return bool(self._tables.home(tables.AGENT_WINDOWS).read(["endpoint", "window_start"], wanted).num_rows)

    @staticmethod
    def _outcomes(past: one_endpoint.Past, verdict: Verdict | None, counts: list[Counts]) -> Mapping[str, Any]:
        """What labels say of the judged version beside its prior one; without a verdict of the two that served last."""
        versions = [*past.versions, "", ""]
        new, prior = (verdict.candidate, verdict.prior) if verdict else (versions[0], versions[1] or None)
        return outcomes.report(counts, new, prior)
