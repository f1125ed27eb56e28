"""One endpoint over a time range -> what its page shows: charts, tables beside each other, what happened (pure)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from lastgood.alerts.records import Incident, Rollback
from lastgood.alerts.web.chart import Chart, Mark, chart, lines
from lastgood.judge.ledger import Configuration
from lastgood.record.answer_flags import FLAGS
from lastgood.record.fault import fault
from lastgood.record.metrics import BY_NAME
from lastgood.record.windows import Counts
from lastgood.record.words import percent
from lastgood.tables.edits import Shown
from lastgood.tables.history import Cost, Delay, Span, Steps, merged, newest_first

SHOWN_VERSIONS = 4
ANCHORS: Mapping[str, str] = {
    "requests": "requests", "error_rate": "error-rate", "p50_ms": "latency", "p95_ms": "latency", "p99_ms": "latency",
    "ttft_p50_ms": "first-token", "ttft_p95_ms": "first-token", "tokens_in": "tokens-per-request", "tokens_out": "tokens-per-request",
    "bad_answers": "bad-answers", "feature_age_p95_ms": "feature-age",
}  # fmt: skip
"""Figures of the catalogue that the page shows of each version, and where each is defined."""
CHARTS = (
    "error_rate",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "ttft_p95_ms",
    "tokens_in",
    "tokens_out",
    "bad_answers",
    "feature_age_p95_ms",
)
TITLES: Mapping[str, str] = {
    "error_rate": "Error rate", "p50_ms": "Latency p50", "p95_ms": "Latency p95", "p99_ms": "Latency p99", "ttft_p95_ms": "Time to first token p95",
    "tokens_in": "Prompt tokens per request", "tokens_out": "Generated tokens per request", "bad_answers": "Bad answers",
    "feature_age_p95_ms": "Feature age p95", "requests": "Requests", "ttft_p50_ms": "Time to first token p50",
}  # fmt: skip
Heads = list[str]
Cells = list[list[Any]]
Table = tuple[Heads, Cells]


@dataclass(frozen=True)
class Past:
    """What the tables hold of an endpoint in a span."""

    span: Span
    steps: Steps
    costs: Sequence[Cost] = ()
    daily: Mapping[str, Mapping[datetime, float | None]] | None = None
    delays: Sequence[Delay] = ()

    @cached_property
    def whole(self) -> Mapping[str, Counts]:
        """Version -> its counts over the span."""
        return merged(self.steps)

    @property
    def young(self) -> tuple[str, datetime] | None:
        """The newest version and the start of its first step, where it served a tenth of the span at most beside an older one: its lines are short."""
        if len(self.versions) < 2:
            return None
        served = {version: [n for v, n in self.steps if v == version] for version in self.versions}
        version = max(served, key=lambda name: min(served[name]))
        starts = self.span.starts
        return (
            (version, starts[min(served[version])]) if len(starts) - min(served[version]) <= len(starts) / 10 else None
        )

    @cached_property
    def versions(self) -> list[str]:
        """The versions that served, those that served last first, of these the newest."""
        return newest_first(self.steps)


def marks(
    configurations: Sequence[Configuration],
    rollbacks: Iterable[Rollback],
    incidents: Iterable[Incident],
    now: datetime,
    edits: Iterable[Shown] = (),
) -> list[Mark]:
    """Deploys, edits of what versions are asked with, rollbacks and incidents in the order of time."""
    made = []
    before: Mapping[str, float] = {}
    for configuration in configurations:
        shares = ", ".join(
            f"version {v} {percent(share / 100)}" for v, share in sorted(configuration.traffic.items()) if share > 0
        )
        new = [v for v, share in configuration.traffic.items() if share > 0 and not before.get(v)]
        what = (
            f"deployed {', '.join(f'version {v}' for v in sorted(new))}: "
            if new and before
            else "traffic: "
            if before
            else "first seen: "
        )
        made.append(Mark(configuration.since, "deploy", what + (shares or "no traffic")))
        before = configuration.traffic
    made += [Mark(edit.change.since, "deploy", f"{edit.sentence}: version {edit.version}") for edit in edits]
    for rollback in rollbacks:
        if rollback.moved_at or rollback.shifted_at:
            at = rollback.moved_at or rollback.shifted_at or rollback.created_at
            plan = rollback.plan
            text = f"{plan.kind}: version {plan.bad_version} to {plan.prior_version} ({rollback.state})"
            made.append(Mark(at, "rollback", text, f"/incidents/{rollback.incident_id}"))
    for incident in incidents:
        text = f"incident on version {incident.candidate}: {incident.verdict['reason']}"
        made.append(
            Mark(incident.opened_at, "incident", text, f"/incidents/{incident.id}", incident.resolved_at or now)
        )
    return sorted(made, key=lambda mark: mark.at)


def charts(past: Past, events: Sequence[Mark], currency: str, limits: Mapping[str, float]) -> list[Chart]:
    """The charts that have something to show. `limits`: metric -> the value that the policy does not want crossed."""
    versions = past.versions[:SHOWN_VERSIONS]
    span, minutes = past.span, past.span.step / timedelta(minutes=1)
    starts = span.starts

    def drawn_of(of: Callable[[Counts], float | None]) -> list[tuple[str, list[float | None]]]:
        return lines(past.steps, versions, len(starts), of)

    made = [
        chart(
            "Requests per minute",
            "requests",
            starts,
            span.step,
            drawn_of(lambda c: c.requests / minutes),
            amount,
            events,
        )
    ]
    for name in CHARTS:
        metric = BY_NAME[name]
        made.append(
            chart(
                TITLES[name],
                ANCHORS[name],
                starts,
                span.step,
                drawn_of(metric.of),
                metric.show,
                events,
                limits.get(name),
            )
        )
    daily = past.daily or {}
    days = sorted({day for by_day in daily.values() for day in by_day})
    if len(days) > 1:
        every = [days[0] + n * timedelta(days=1) for n in range((days[-1] - days[0]).days + 1)]
        money = [(version, [daily.get(version, {}).get(day) for day in every]) for version in versions]
        made.append(
            chart(f"Cost per day ({currency})", "cost-by-token", every, timedelta(days=1), money, money_text, events)
        )
    return [drawn for drawn in made if not drawn.empty]


def amount(value: float | None) -> str:
    """A number of anything, short."""
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def money_text(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def versions_table(past: Past) -> list[tuple[str, str, list[str]]]:
    """(figure, its definition, its value for each shown version) of those that any version has."""
    whole = past.whole
    rows = []
    for name, anchor in ANCHORS.items():
        metric = BY_NAME[name]
        values = [metric.of(whole[version]) for version in past.versions[:SHOWN_VERSIONS]]
        if any(value is not None for value in values):
            rows.append((TITLES[name], anchor, [metric.show(value) for value in values]))
    total = sum(counts.requests for counts in whole.values())
    shares = [percent(whole[version].requests / total if total else None) for version in past.versions[:SHOWN_VERSIONS]]
    return [rows[0], ("Share of requests", "requests", shares), *rows[1:]] if rows else []


def versions_csv(past: Past) -> Table:
    """Every figure of every version, in base units; unknown is empty."""
    whole = past.whole
    return ["model_version", *ANCHORS], [[v, *(BY_NAME[name].of(whole[v]) for name in ANCHORS)] for v in past.versions]


def series_csv(past: Past) -> Table:
    """Every figure of every version in every step in which it served."""
    starts = past.span.starts
    rows = [
        [starts[step].isoformat(), version, *(BY_NAME[name].of(counts) for name in ANCHORS)]
        for (version, step), counts in sorted(past.steps.items(), key=lambda item: (item[0][1], item[0][0]))
    ]
    return ["start", "model_version", *ANCHORS], rows


def errors_table(past: Past) -> Table:
    """(code, whose fault, requests and their share for each version), the most frequent first."""
    whole, versions = past.whole, past.versions
    codes: dict[str, float] = {}
    for counts in whole.values():
        for code, weight in counts.errors.items():
            codes[code] = codes.get(code, 0.0) + weight
    rows: Cells = []
    for code in sorted(codes, key=lambda name: (-codes[name], name)):
        cells: list[Any] = [code, str(fault(code))]
        for version in versions:
            failed, requests = whole[version].errors.get(code, 0.0), whole[version].requests
            cells += [failed, failed / requests if requests else None]
        rows.append(cells)
    return ["error_code", "fault", *(f"{kind}_{v}" for v in versions for kind in ("requests", "share"))], rows


def flags_table(past: Past) -> Table:
    """(flag, answers with it and their share of the answers looked at for each version)."""
    whole, versions = past.whole, past.versions
    rows: Cells = []
    for flag in ("bad", *FLAGS):
        numbers = [(whole[v].quality.get(flag, 0.0), whole[v].quality.get("answers", 0.0)) for v in versions]
        if any(number for number, _ in numbers):
            rows.append(
                [flag, *(cell for number, looked in numbers for cell in (number, number / looked if looked else None))]
            )
    return ["flag", *(f"{kind}_{v}" for v in versions for kind in ("answers", "share"))], rows


def outcomes_csv(report: Mapping[str, Any]) -> Table:
    """Outcomes of the newest version beside the prior one's, with their 95% intervals."""
    heads = ["outcome", "side", "model_version", "n", "mean", "low", "high"]
    rows = [
        [row["outcome"], side, report[side], *(row[side][name] for name in ("n", "mean", "low", "high"))]
        for row in report["outcomes"]
        for side in ("new", "prior")
        if row[side]
    ]
    return heads, rows


def costs_csv(past: Past, currency: str) -> Table:
    heads = [
        "model_version",
        "team",
        "requests",
        "requests_with_tokens",
        "tokens_in",
        "tokens_out",
        "money",
        "currency",
    ]
    rows = [
        [
            c.version,
            c.team,
            c.requests,
            c.requests_with_tokens,
            c.tokens_in,
            c.tokens_out,
            c.money,
            currency if c.money is not None else None,
        ]
        for c in past.costs
    ]
    return heads, rows


def delays_csv(past: Past) -> Table:
    rows: Cells = [[d.name, d.n, d.median.total_seconds(), d.p90.total_seconds()] for d in past.delays]
    return ["name", "requests", "median_s", "p90_s"], rows


def events_csv(events: Sequence[Mark]) -> Table:
    return ["at", "until", "kind", "what"], [
        [m.at.isoformat(), m.until.isoformat() if m.until else None, m.kind, m.text] for m in events
    ]
