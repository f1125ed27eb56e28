"""Composition: what the service's `/metrics` shows, from the tables, the alerting layer and the receiver."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lastgood import tables
from lastgood.alerts.controller import Controller
from lastgood.alerts.records import PauseKind
from lastgood.alerts.rollback.machine import Status
from lastgood.collectors.otlp.receiver import OtlpReceiver
from lastgood.collectors.otlp.writer import figures
from lastgood.dashboards.exemplars import Exemplars
from lastgood.dashboards.exporter import RECENT, Exporter, Operations
from lastgood.dashboards.protobuf import choose
from lastgood.service.protection import REASONS
from lastgood.settings import Settings
from lastgood.settings.prices import known_prices


def operations(acts: Controller, broken: Mapping[str, str]) -> Operations:
    """Incidents, rollbacks and messages as they stand now. `broken`: see protection.problems."""
    since = datetime.now(UTC) - RECENT
    with acts.store.read() as tx:
        incidents = tx.incidents(limit=10_000)
        endpoints = sorted({incident.endpoint for incident in incidents})
        moved = {
            name: [rollback for rollback in tx.rollbacks(name, 1000) if rollback.created_at >= since]
            for name in endpoints
        }
        kill, waiting = tx.kill_switch().on, sum(number for number, _ in tx.unsent().values())
        refused = {channel: number for channel, (number, _) in tx.refused().items()}
        pauses = Counter(str(pause.kind) for pause in acts.in_force(tx))
    detect, restore = {}, {}
    by_id = {incident.id: incident for incident in incidents}
    for name, rollbacks in moved.items():
        for rollback in reversed(rollbacks):
            incident = by_id.get(rollback.incident_id)
            if incident and incident.verdict.get("since"):
                onset = datetime.fromisoformat(str(incident.verdict["since"]))
                detect[name] = max(0.0, (rollback.created_at - onset).total_seconds())
            if rollback.state is Status.DONE and rollback.ended_at:
                restore[name] = (rollback.ended_at - rollback.created_at).total_seconds()
    states = Counter((name, str(rollback.state)) for name, own_rollbacks in moved.items() for rollback in own_rollbacks)
    return Operations(
        dict(Counter(incident.endpoint for incident in incidents if incident.resolved_at is None)), dict(states), detect, restore, kill, waiting,
        refused, {reason: reason in broken for reason in REASONS}, dict(acts.faults), {kind: pauses[kind] for kind in PauseKind},
    )  # fmt: skip


def exporter(
    settings: Settings,
    store: tables.Store,
    acts: Controller,
    receiver: OtlpReceiver,
    own: Callable[[], Mapping[str, float]],
    exemplars: Exemplars,
    broken: Callable[[], Mapping[str, str]] = dict,
) -> Exporter:
    """The service's exporter; its ledger stands beside the spool. `own`: what the service says of itself; `broken`: why it cannot
    protect."""

    def tally() -> Mapping[str, float]:
        return {**figures(receiver.tally, receiver.writer.spool), **own()}

    ledger = Path(settings.receiver.spool) / "exporter.json"
    return Exporter(
        store,
        ledger,
        lambda: operations(acts, broken()),
        tally,
        settings.web.max_exported_versions,
        exemplars,
        known_prices(settings.prices).currency,
        settings=settings,
    )


def route(shown: Exporter, allowed: Callable[[Request], None] = lambda request: None) -> Route:
    """`/metrics`, for whom `allowed` lets through, in the format that the scraper likes best: protobuf (with native histograms), OpenMetrics, plain text."""

    def scrape(request: Request) -> Response:
        allowed(request)
        encode, kind = choose(request.headers.get("accept", ""))
        return Response(shown.text(encode, kind), media_type=None, headers={"content-type": kind})

    return Route("/metrics", scrape)


__all__: list[str] = ["exporter", "operations", "route"]
