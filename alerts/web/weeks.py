"""The pages of the weeks between: what the tables hold of endpoints, drift, requests, agents and of Lastgood itself. Nothing here changes anything."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from lastgood import tables
from lastgood.alerts.controller import Controller
from lastgood.alerts.web import agents as agents_page
from lastgood.alerts.web import drift, performance
from lastgood.alerts.web import endpoint as one_endpoint
from lastgood.alerts.web.chart import Mark
from lastgood.alerts.web.pages import REPORT_CSP, Pages, as_csv, leading, word
from lastgood.alerts.web.ranges import DEFAULT, USUAL, Range, moment
from lastgood.alerts.web.remembered import Remembered
from lastgood.judge import outcomes
from lastgood.judge.days import Day
from lastgood.judge.ledger import judged, ledger
from lastgood.record.answer_flags import FLAGS
from lastgood.record.definitions import DEFINITIONS
from lastgood.record.verdict import State, Verdict
from lastgood.record.windows import Counts
from lastgood.tables import agents, drifted, estimated, health, history, kept
from lastgood.tables.edits import Shown, changes, every
from lastgood.tables.measures import drift_report
from lastgood.workspace import deployments

Tables = Mapping[str, Callable[[], tuple[list[str], list[list[Any]]]]]
"""Name in the address -> headings and rows of a page's table as CSV."""

DAY, WEEK, MONTH = timedelta(days=1), timedelta(days=7), timedelta(days=35)
MOST_REQUESTS, MOST_FLAGGED, MOST_COMPLETE, MOST_EDITS = 100, 5000, 40, 10
SEPARATE = ("input", "output", "provenance")
"""Columns of a request that its page shows apart, or not."""
Flagged = Callable[[pa.Table], Mapping[str, Sequence[bool]]]
"""Requests with their texts -> flag -> which answers have it."""
STATES: Mapping[State, str] = {
    State.HEALTHY: "the new version is as good as the prior one, to within the policy's tolerance",
    State.INCONCLUSIVE: "the evidence is missing, late or too little: nothing is judged",
    State.WATCH: "something looks worse, not surely enough to wake anybody",
    State.PAGE: "something is surely wrong, and a rollback would not surely help: a person must look",
    State.ROLL_BACK: "the new version is surely worse, and the prior one is better: put it back",
}


class Weeks:
    """The handlers. Errors of all: HTTPException 400 that names a parameter; those of the tables' homes."""

    def __init__(self, pages: Pages, controller: Controller, store: tables.Store, flags: Flagged) -> None:
        self._pages, self._page, self._clock = pages, pages.page, controller.clock
        self._state, self._settings, self._tables, self._flags = controller.store, controller.settings, store, flags
        self._begins: Remembered[datetime | None] = Remembered(self._clock, timedelta(hours=1), 2000)

    def _asked(self, query: Mapping[str, str], name: str, default: str = DEFAULT) -> Range:
        """The range that an address asks for, of an endpoint or (no name) of all."""
        begin = self._begins(name, lambda: history.begin(self._tables, name))
        return Range.of(query, self._clock(), default, begin)

    def definitions(self, request: Request) -> Response:
        """Every figure by its formula, and every column of every table."""
        return self._page("definitions.html", definitions=DEFINITIONS, catalogue=tables.ALL, states=STATES)

    # one endpoint

    def endpoint(self, request: Request) -> Response:
        """An endpoint over a time range, version beside version."""
        name, now = request.path_params["name"].replace("\0", "")[:300], self._clock()
        asked = self._asked(request.query_params, name)
        span = history.Span.around(asked.since, asked.until, timedelta(seconds=self._settings.window_s))
        costs, daily = history.costs(self._tables, name, span)
        windows = history.windows(self._tables, name, span)
        past = one_endpoint.Past(span, history.counts(windows), costs, daily, history.delays(self._tables, name, span))
        verdict, events, edits = self._known(name, now)
        days = self._estimated(name, asked)
        known = past.steps or verdict or events or days or name in self._settings.endpoints or self._pages.serves(name)
        if not known:
            raise HTTPException(404, f"Nothing is known of an endpoint {name}.")
        inside = [mark for mark in events if mark.at < span.until and (mark.until or mark.at) >= span.since]
        report = self._outcomes(past, verdict, history.by_stratum(windows))
        currency = self._pages.currency
        sheets: Tables = {
            "versions": lambda: one_endpoint.versions_csv(past), "series": lambda: one_endpoint.series_csv(past),
            "errors": lambda: one_endpoint.errors_table(past), "flags": lambda: one_endpoint.flags_table(past),
            "outcomes": lambda: one_endpoint.outcomes_csv(report), "delays": lambda: one_endpoint.delays_csv(past),
            "cost": lambda: one_endpoint.costs_csv(past, currency), "events": lambda: one_endpoint.events_csv(inside),
            "performance": lambda: performance.table(days),
        }  # fmt: skip
        if answer := as_csv(request, f"{name}", sheets):
            return answer
        policy = self._settings.endpoint(name).policy
        limits = {"error_rate": policy.error_slo, "p95_ms": policy.latency_target_s and policy.latency_target_s * 1000}
        return self._page(
            "endpoint.html", name=name, asked=asked, ranges=USUAL, past=past, shown=past.versions[: one_endpoint.SHOWN_VERSIONS], verdict=verdict,
            drawn=one_endpoint.charts(past, inside, currency, {k: v for k, v in limits.items() if v}),
            figures=one_endpoint.versions_table(past), errors=sheets["errors"]()[1], flags=sheets["flags"]()[1], outcomes=report, currency=currency,
            events=inside, incident=self._open_incident(name), agent=agents.newest(self._tables, name, now - MONTH), dashboard=self._settings.dashboard_url,
            hour=timedelta(hours=1), edits=edits[::-1][:MOST_EDITS], estimated=performance.section(days, past.versions, inside),
        )  # fmt: skip

    def _estimated(self, name: str, asked: Range) -> list[Day]:
        """Days of the range; of a short one the newest week, as a day is the least that is estimated."""
        since = min(asked.since, asked.until - WEEK)
        days = estimated.by_day(self._tables, since, name).get(name, [])
        return [day for day in days if day.day <= asked.until.date()]

    def _known(self, name: str, now: datetime) -> tuple[Verdict | None, list[Mark], list[Shown]]:
        """The leading verdict on an endpoint, everything that ever happened to it, and of that what changed beside the served version."""
        with self._state.read() as tx:
            verdicts = leading(tx.verdicts(name))
            rollbacks, incidents = tx.rollbacks(name, 200), tx.incidents(name, limit=200)
        configurations = ledger(deployments.read(self._tables, name)).get(name, [])
        edits = self._edits(name)
        marks = one_endpoint.marks(configurations, rollbacks, incidents, now, edits)
        return next(iter(verdicts), None), marks, edits

    def _edits(self, name: str) -> list[Shown]:
        """What changed beside the served version, the oldest first; nothing for endpoints that do not tell it apart."""
        if not self._settings.endpoint(name).versions_by:
            return []
        return every(changes(self._tables, name))

    def _open_incident(self, name: str) -> str | None:
        with self._state.read() as tx:
            return next((incident.id for incident in tx.incidents(name, open_only=True)), None)

    @staticmethod
    def _outcomes(past: one_endpoint.Past, verdict: Verdict | None, counts: list[Counts]) -> Mapping[str, Any]:
        """What labels say of the judged version beside its prior one; without a verdict of the two that served last."""
        versions = [*past.versions, "", ""]
        new, prior = (verdict.candidate, verdict.prior) if verdict else (versions[0], versions[1] or None)
        return outcomes.report(counts, new, prior)

    # drift

    def drift(self, request: Request) -> Response:
        """How far columns moved over weeks; with a column, two distributions."""
        name, column = self._pages.endpoint_of(request), word(request, "column", exact=True)
        against = word(request, "against") or ("reference" if column else "")
        asked = self._asked({**request.query_params, "at": "", "page": ""}, name, "42d")
        rows = drifted.compared(self._tables, asked.since, asked.until, name, column, against)
        if name and column:
            return self._column(request, asked, rows)
        columns = drifted.columns(rows, asked.since, asked.until)
        if answer := as_csv(
            request, "drift", {"columns": lambda: drift.columns_csv(columns), "all": lambda: drift.compared_csv(rows)}
        ):
            return answer
        return self._page(
            "drift.html", endpoint=name, asked=asked, ranges=USUAL, columns=columns[: drift.LISTED], total=len(columns),
            moved=sum(column.newest.drifted for column in columns), report=self._reported(name, rows), now=self._clock(),
        )  # fmt: skip

    def _column(self, request: Request, asked: Range, rows: Sequence[drifted.Compared]) -> Response:
        """One column of one endpoint against one reference."""
        name = self._pages.endpoint_of(request)
        row = drift.chosen(rows, moment(request.query_params, "at"))
        if row is None:
            raise HTTPException(404, f"Column {word(request, 'column')} of {name} was not compared in this time.")
        configurations = [c for c in ledger(deployments.read(self._tables, name)).get(name, []) if c.since <= row.at]
        pair = next((pair for pair in judged(configurations) if pair.candidate == row.version), None)
        sides = drifted.distributions(self._tables, row, pair.since if pair else None, pair.prior if pair else None)
        sheets: Tables = {"comparisons": lambda: drift.compared_csv(rows), "bins": lambda: drift.bins_csv(sides)}
        if answer := as_csv(request, f"drift-{name}-{row.column}", sheets):
            return answer
        span = history.Span.around(asked.since, asked.until, timedelta(hours=6))
        events = self._known(name, self._clock())[1]
        limit = self._settings.endpoint(name).policy.drift_limit
        return self._page(
            "column.html", row=row, asked=asked, ranges=USUAL, chart=drift.over_time(rows, span, limit, events), sides=sides,
            bars=drift.bars(sides) if sides else [], limit=limit, report=self._reported(name, [row]), first=rows[0].at,
        )  # fmt: skip

    def _reported(self, name: str, rows: Sequence[drifted.Compared]) -> str:
        """The version of which Evidently's report is kept; empty where there is none."""
        versions = dict.fromkeys(row.version for row in reversed(rows) if row.endpoint == name)
        return next((v for v in versions if drift_report(self._tables, name, v)), "")

    def report(self, request: Request) -> Response:
        """Evidently's report as it is: its scripts run in an origin of their own, without this site's cookies."""
        name, version = self._pages.endpoint_of(request), word(request, "version")
        path = drift_report(self._tables, name, version)
        if path is None:
            raise HTTPException(404, f"There is no drift report; make one: lastgood drift {name}")
        return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_CSP})

    # requests

    def requests(self, request: Request) -> Response:
        """Requests by id, trace, error and flag, as far as capture kept them."""
        wanted = kept.Wanted(
            self._pages.endpoint_of(request), *(word(request, name) for name in ("id", "trace", "code"))
        )
        asked = self._asked(request.query_params, wanted.endpoint, "1d")
        flag = word(request, "flag")
        if flag and flag not in FLAGS:
            raise HTTPException(400, f"flag must be one of {', '.join(FLAGS)}.")
        shown: list[dict[str, Any]] = []
        total, looked = 0, 0
        if wanted.bounded:
            rows = kept.search(self._tables, wanted, asked.since, asked.until, kept.TEXTS if flag else ())
            looked = rows.num_rows
            rows = self._with_flag(rows, flag) if flag and looked else rows
            total = rows.num_rows
            shown = rows.slice(0, MOST_REQUESTS).to_pylist() if total else []
        if answer := as_csv(request, "requests", {"requests": lambda: _cells(shown)}):
            return answer
        single = kept.whole(self._tables, wanted, 3) if wanted.id or (wanted.trace and total <= 3) else []
        steps = [kept.steps(self._tables, row["endpoint"], row["request_id"]) for row in single]
        capture = str(self._settings.endpoint(wanted.endpoint).capture) if wanted.endpoint else ""
        return self._page(
            "requests.html", asked=asked, ranges=USUAL, wanted=wanted, flag=flag, flags=FLAGS, rows=shown, total=total, looked=looked,
            scanned=MOST_FLAGGED, single=[(row, {k: v for k, v in row.items() if k not in SEPARATE and v is not None}, parts)
                                          for row, parts in zip(single, steps, strict=True)],
            capture=capture, trace_url=self._settings.web.trace_url,
        )  # fmt: skip

    def _with_flag(self, rows: pa.Table, flag: str) -> pa.Table:
        """Of the newest MOST_FLAGGED answers those with the flag."""
        newest = rows.slice(0, MOST_FLAGGED)
        return newest.filter(pa.array(self._flags(newest).get(flag, [False] * newest.num_rows)))

    # agents

    def agents(self, request: Request) -> Response:
        """Agents of all endpoints; with an endpoint, its versions beside each other, their tools and conversations."""
        name, now = self._pages.endpoint_of(request), self._clock()
        asked = self._asked(request.query_params, name)
        span = history.Span.around(asked.since, asked.until, timedelta(seconds=self._settings.window_s))
        rows = agents.runs(self._tables, name, span)
        by_agent = agents.grouped(rows, ("endpoint", "model_version", "agent"))
        sheets: dict[str, Any] = {"runs": lambda: agents_page.runs_csv(by_agent)}
        values: dict[str, Any] = {}
        if name:
            steps, whole = agents.grouped(rows, ("model_version", "step")), agents.grouped(rows, ("model_version",))
            shown = history.newest_first(steps)[: one_endpoint.SHOWN_VERSIONS]
            tools, talks = (read(self._tables, name, span) for read in (agents.tools, agents.conversations))
            sheets |= {
                "tools": lambda: agents_page.tools_csv(tools),
                "conversations": lambda: agents_page.talks_csv(talks),
            }
            values = {
                "shown": shown, "figures": agents_page.beside(whole, shown, self._pages.currency), "tools": tools, "talks": talks,
                "drawn": agents_page.charts(steps, span, shown, self._known(name, now)[1], self._pages.currency),
            }  # fmt: skip
        if answer := as_csv(request, f"agents-{name}".rstrip("-"), sheets):
            return answer
        return self._page(
            "agents.html", endpoint=name, asked=asked, ranges=USUAL, by_agent=by_agent, span=span, **values
        )

    # Lastgood itself

    def health(self, request: Request) -> Response:
        """How Lastgood is: what is broken, jobs, tables, messages, what was set aside, how complete telemetry is."""
        now = self._clock()
        told = health.health(self._tables, now)
        aside, complete = health.quarantined(self._tables, now - WEEK), health.completeness(self._tables, now - DAY)
        with self._state.read() as tx:
            unsent = [(channel, count, error) for channel, (count, error) in sorted(tx.unsent().items())]
            newest = tx.newest_verdict()
        sheets: Tables = {
            "jobs": lambda: _sheet(told["jobs"]), "tables": lambda: _sheet(told["tables"]), "quarantine": lambda: _sheet(aside),
            "completeness": lambda: _sheet(complete), "messages": lambda: (["channel", "waiting", "error"], [list(row) for row in unsent]),
        }  # fmt: skip
        if answer := as_csv(request, "health", sheets):
            return answer
        return self._page(
            "health.html",
            told=told,
            unsent=unsent,
            aside=aside,
            complete=complete[:MOST_COMPLETE],
            total=len(complete),
            newest=newest,
            now=now,
        )


def _sheet(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Rows of one shape as headings and cells."""
    return [*rows[0]] if rows else [], [[*row.values()] for row in rows]


def _cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Requests without their texts."""
    at = "requested_at"
    return [*kept.LISTED], [
        [row[name].isoformat() if name == at and row[at] else row[name] for name in kept.LISTED] for row in rows
    ]
