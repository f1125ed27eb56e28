"""The service: OTLP in, evidence pages out, verdicts -> incidents -> rollbacks. One process, one event loop."""

import asyncio
import contextlib
import ctypes
import json
import logging
import secrets
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from starlette.applications import Starlette

from lastgood import tables
from lastgood.alerts.anchor import Anchors
from lastgood.alerts.calendar import Calendar
from lastgood.alerts.controller import Controller
from lastgood.alerts.notify import configured
from lastgood.alerts.records import Incident
from lastgood.alerts.rollback.links import Signer
from lastgood.alerts.rollback.telemetry import WindowTelemetry
from lastgood.alerts.store import open_state
from lastgood.alerts.web.app import create_app
from lastgood.collectors.endpoint_metrics import scrape as scrape_endpoints
from lastgood.collectors.otlp.asgi import bind
from lastgood.collectors.otlp.receiver import OtlpReceiver
from lastgood.dashboards.exemplars import Exemplars
from lastgood.errors import LastgoodError, RefusedError, TransientError
from lastgood.judge import History, Verdict
from lastgood.judge.ledger import ledger, stints
from lastgood.service import scrape
from lastgood.service.histories import Histories
from lastgood.service.live import Live
from lastgood.service.protection import Facts, problems
from lastgood.service.tracing import spanned
from lastgood.settings import Settings, secret
from lastgood.settings.redaction import rules
from lastgood.tables import measures
from lastgood.tables.fleet import Fleet
from lastgood.workspace import Platform, WorkspaceControl, deployments
from lastgood.workspace.databricks import connect
from lastgood.workspace.stores import reach, tables_of

log = logging.getLogger("lastgood.service.serve")
Task = tuple[str, float, Callable[[], None]]
"""Name, seconds between two turns, what is done."""
HOUSEKEEP_S = 3600.0
OBSERVE_EVERY = 12
FLEET_S = 30.0
SCRAPE_S = 60.0
"""The endpoints' own metrics are gauges of a minute."""


def now() -> datetime:
    return datetime.now(UTC)


def controller(
    settings: Settings,
    delta_store: tables.Store,
    calendar: Calendar | None = None,
    workspace: WorkspaceControl | None = None,
) -> Controller:
    """The alerting layer put together from settings; `workspace`: another than they name. Without a link key one is made up: links die with the
    process."""
    key = secret(settings.web.link_key_env)
    if key is None:
        log.warning(
            "%s is not set: links are good until this process ends",
            settings.web.link_key_env,
        )
    keys = [part for part in (key or secrets.token_urlsafe(32)).split(",") if part]
    return Controller(
        open_state(settings),
        workspace or connect(settings.workspace),
        settings,
        configured(settings),
        WindowTelemetry(delta_store, settings),
        Signer(keys),
        now,
        calendar=calendar or Calendar(settings.calendar),
        history=lambda endpoint: ledger(deployments.read(delta_store, endpoint)).get(endpoint, ()),
    )


async def every(name: str, seconds: float, what: Callable[[], None], stop: asyncio.Event, failed: Counter[str]) -> None:
    """Do `what` again and again until `stop`. One task's fault must not end the others, least of all the receiver: it is logged and counted."""

    def work() -> None:
        with spanned(name):
            what()

    while not stop.is_set():
        try:
            await asyncio.to_thread(work)
        except LastgoodError as error:
            log.warning("%s", error)
        except Exception:
            failed[name] += 1
            log.exception("%s failed; it is tried again", name)
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            continue


class _Verdicts:
    """Hands each new verdict to the controller. One that cannot be stored stops no other: it is counted; one that cannot be stored now is
    handed over again."""

    def __init__(self, store: tables.Store, target: Controller, live: Live) -> None:
        self._store, self._target, self._live = store, target, live
        self._after = now() - timedelta(seconds=target.settings.default.policy.max_evidence_age_s)
        self._version: int | None = None
        self._again: list[Verdict] = []

    def __call__(self) -> None:
        version = self._store.home(tables.VERDICTS).version()
        new = [] if version == self._version else measures.verdicts(self._store, self._after)
        waiting, self._again = self._again, []
        for verdict in (*waiting, *new):
            try:
                self._target.handle(verdict)
            except TransientError as error:
                log.warning("the verdict on %s is handed over again: %s", verdict.endpoint, error)
                self._again.append(verdict)
            except LastgoodError as error:
                log.error(
                    "the verdict on %s version %.60s cannot be taken: %s", verdict.endpoint, verdict.candidate, error
                )
                self._target.faults["verdict"] += 1
            self._live.knows(verdict)
        self._after = max((verdict.judged_at for verdict in new), default=self._after)
        self._version = version


class Reloading:
    """Takes over the policies of a settings file that has changed. A file that is wrong changes nothing and is said, and counted, until
    it is right."""

    def __init__(self, settings: Settings, load: Callable[[], Settings]) -> None:
        self._settings, self._load = settings, load
        self.problem = ""

    def __call__(self) -> None:
        try:
            newer = self._load()
        except LastgoodError as error:
            if str(error) != self.problem:
                log.error("the settings stay as they were: %s", error)
            self.problem = str(error)
            return
        self.problem = ""
        if self._settings.adopt(newer):
            log.warning("the policies of the settings file are in force now")


def judge_live(live: Live, target: Controller) -> None:
    """Judge the newest requests and hand over what is to be acted on."""

    def history(endpoint: str) -> History:
        with target.store.read() as tx:
            return History(tx.shifts().get(endpoint, {}))

    for verdict in live.verdicts(history):
        try:
            target.handle(verdict)
        except RefusedError as error:
            log.error("the verdict on %s version %.60s cannot be taken: %s", verdict.endpoint, verdict.candidate, error)
            target.faults["verdict"] += 1


def ask_endpoints(settings: Settings, platform: Platform, store: tables.Store, live: Live) -> None:
    """Note what the endpoints' own metrics say of the last minute, and tell the live judge of added replicas."""
    minutes, problems = scrape_endpoints(platform, settings.endpoints, store, now())
    live.scales(minutes)
    for problem in problems:
        log.warning("%s", problem)


M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""mallopt(3)"""


def steady_memory() -> None:
    """Make allocators give back what bodies of exports and Arrow's buffers took: by their defaults (glibc: a heap for each thread; mimalloc:
    pages for each thread) the process grows by 20 MiB a minute under load, though nothing is kept."""
    pa.set_memory_pool(pa.system_memory_pool())
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 17)


class Observer:
    """Keeps the ledger of configurations, and tells the live judge of it: every OBSERVE_EVERY calls, and when requests of a version come
    that the ledger does not name (once for each name)."""

    def __init__(self, acts: Controller, store: tables.Store, live: Live) -> None:
        self._acts, self._store, self._live = acts, store, live
        self._calls, self._asked = 0, set[tuple[str, str]]()

    def __call__(self) -> None:
        new = self._live.unknown() - self._asked
        if self._calls % OBSERVE_EVERY == 0 or new:
            self._asked = (self._asked | new) & self._live.unknown()
            deployments.record(self._store, self._acts.observe_endpoints(), now())
            rows = deployments.read(self._store)
            self._live.learn(ledger(rows), stints(rows))
        self._calls += 1


def _facts(acts: Controller, calendar: Calendar, anchors: Anchors, started: datetime, ran_at: datetime | None) -> Facts:
    with acts.store.read() as tx:
        refused, verdicts, oldest = tx.refused(), tx.newest_verdict(), tx.oldest_unsent()
    age = timedelta(seconds=acts.settings.default.policy.max_evidence_age_s)
    errors = {channel: error for channel, (_, error) in refused.items()}
    return Facts(
        now(), started, acts.observed_at, acts.unreadable | acts.unlisted, verdicts, ran_at, age, oldest, errors, acts.faults, calendar.problem,
        anchors.problem, acts.undone,
    )  # fmt: skip


def flagged(rows: pa.Table) -> Mapping[str, Sequence[bool]]:
    """Requests with their texts -> flag -> which answers have it; one without a text has none."""
    from lastgood.jobs.flags import flags

    output, asked, reason, attributes = (
        rows[name].combine_chunks() for name in ("output", "input", "finish_reason", "attributes")
    )
    known = np.asarray(pc.is_valid(output).to_numpy(zero_copy_only=False))
    made = flags(pc.fill_null(output, ""), asked, reason, attributes)
    return {flag: (mask & known).tolist() for flag, mask in made.items()}


def pages(
    acts: Controller,
    store: tables.Store,
    fleet: Fleet,
    broken: Callable[[], Mapping[str, str]],
) -> Starlette:
    """The pages, with what they draw from the tables."""

    def drawn(incident: Incident) -> list[dict[str, Any]]:
        judged = datetime.fromisoformat(incident.verdict["judged_at"])
        width = acts.settings.window_s
        return measures.evidence_series(store, incident.endpoint, incident.candidate, incident.prior, judged, width)

    def failing(incident: Incident) -> list[dict[str, Any]]:
        since = incident.verdict["since"] or incident.opened_at.isoformat()
        return measures.failing(store, incident.endpoint, incident.candidate, datetime.fromisoformat(since))

    def tools(incident: Incident) -> list[dict[str, Any]]:
        since = incident.verdict["since"] or incident.opened_at.isoformat()
        return measures.tools(
            store, incident.endpoint, incident.candidate, incident.prior, datetime.fromisoformat(since)
        )

    return create_app(
        acts, drawn, lambda *version: measures.drift_report(store, *version), broken, failing, tools,
        lambda: (fleet.rows, fleet.read_at), store, flagged,
    )  # fmt: skip


def _stopped_by_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _receiver(settings: Settings, store: tables.Store, sink: Callable[[pa.Table], None]) -> OtlpReceiver:
    """The receiver, whose drain reaches the tables wherever they are."""
    inbox, scores = store.where(tables.INBOX), store.where(tables.SCORES)
    more = "" if store.in_folder else reach(settings)
    return OtlpReceiver(inbox, settings.receiver, scores, sink, rules(settings), more, settings.tells_contents)


async def serve(
    settings: Settings,
    say: Callable[[str], None],
    poll_s: float = 5.0,
    reload: Callable[[], Settings] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT; `say` gets one line of JSON with the addresses once everything listens.

    `reload` reads the settings again; their policies are taken over while it runs.
    """
    steady_memory()
    store = tables_of(settings)
    calendar = Calendar(settings.calendar)
    acts, platform = controller(settings, store, calendar), connect(settings.workspace)
    live = Live(settings, now, Histories(acts.store, uuid4().hex))
    exemplars = Exemplars()

    def sink(committed: pa.Table) -> None:
        exemplars.take(committed)
        if settings.live_every_s:
            live.take(committed)

    receiver = _receiver(settings, store, sink)
    anchors = Anchors(acts.store, settings, now)
    fleet = Fleet(store, now)
    started = now()

    def broken() -> dict[str, str]:
        return problems(_facts(acts, calendar, anchors, started, shown.ran_at("judge")))

    app = pages(acts, store, fleet, broken)
    reloading = Reloading(settings, reload or (lambda: settings))
    failed: Counter[str] = Counter()

    def own() -> Mapping[str, float]:
        return {
            "bad_settings": float(bool(reloading.problem)), "task_errors": float(failed.total()),
            "live_left_out": float(live.left_out), "live_held": float(live.held),
        }  # fmt: skip

    shown = scrape.exporter(settings, store, acts, receiver, own, exemplars, broken)
    app.router.routes.insert(0, scrape.route(shown, app.state.auth.scraper))
    tasks: list[Task] = [
        ("verdicts", poll_s, _Verdicts(store, acts, live)),
        ("rollbacks", min(2.0, poll_s), acts.tick),
        ("messages", min(2.0, poll_s), acts.send),
        ("endpoints", poll_s, Observer(acts, store, live)),
        ("metrics", poll_s, shown.refresh),
        ("settings", poll_s, reloading),
        ("fleet", FLEET_S, fleet.refresh),
        ("housekeeping", HOUSEKEEP_S, acts.housekeep),
        ("audit anchor", HOUSEKEEP_S, anchors),
        ("endpoint metrics", SCRAPE_S, lambda: ask_endpoints(settings, platform, store, live)),
    ]
    if settings.live_every_s:
        tasks.append(("judge", settings.live_every_s, lambda: judge_live(live, acts)))
    await _run(settings, app, receiver, tasks, failed, say)
    anchors.close()
    acts.close()


async def _run(
    settings: Settings,
    app: Starlette,
    receiver: OtlpReceiver,
    tasks: Sequence[Task],
    failed: Counter[str],
    say: Callable[[str], None],
) -> None:
    """Listen, say where, and do the tasks until a signal. `failed`: task -> how often it failed in a way that nobody foresaw."""
    web, sockets, port = bind(app, settings.web.host, settings.web.port, refused=receiver.closed)
    stop = _stopped_by_signals()
    async with receiver.running():
        answering = asyncio.create_task(web.serve(sockets=sockets))
        ports = {"web": port, "grpc": receiver.grpc_port, "http": receiver.http_port}
        say(json.dumps({"url": settings.web.base_url, **ports}))
        await asyncio.gather(*(every(*task, stop, failed) for task in tasks))
        web.should_exit = True
        await answering


__all__ = ["controller", "now", "pages", "serve"]
