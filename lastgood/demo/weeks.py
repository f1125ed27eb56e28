"""`lastgood demo --history DAYS`: the service's pages over made-up weeks, until Ctrl-C. No Spark, no workspace, nothing judged."""

import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from lastgood import tables
from lastgood.alerts.controller import Controller
from lastgood.alerts.records import Incident, Rollback
from lastgood.alerts.rollback.machine import Progress, Status
from lastgood.alerts.rollback.plan import Plan, Route
from lastgood.collectors.otlp.asgi import bind
from lastgood.demo.history import History, plain_version
from lastgood.errors import ConfigError, TransientError
from lastgood.record.verdict import Finding, State, Verdict
from lastgood.record.words import counted
from lastgood.service.serve import controller, pages
from lastgood.settings import load
from lastgood.tables.fleet import Fleet

MOST_DAYS, MOST_ENDPOINTS = 400, 20_000
NOWHERE = "this history is made up: there is no workspace behind it"


class Nowhere:
    """A workspace of which nothing can be asked. Errors of every call: TransientError."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def refused(*_: object, **__: object) -> Any:
            raise TransientError(NOWHERE)

        return refused


@dataclass(frozen=True)
class Weeks:
    """What is asked for: days of history, endpoints in all, seed, and the folder (None: a new one that goes when it ends)."""

    days: int = 42
    endpoints: int = 6
    seed: int = 7
    out: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.days <= MOST_DAYS:
            raise ConfigError(f"--history {self.days}: expected 1 to {MOST_DAYS} days")
        if not 6 <= self.endpoints <= MOST_ENDPOINTS:
            raise ConfigError(f"--endpoints {self.endpoints}: expected 6 to {MOST_ENDPOINTS}")

    @contextmanager
    def made(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[Starlette]:
        """The tables and the state are written; the application that shows them. Errors: ConfigError where the folder holds something already."""
        with ExitStack() as stack:
            if self.out is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lastgood-history-")))
            else:
                folder = self.out.absolute()
                if folder.exists() and any(folder.iterdir()):
                    raise ConfigError(f"{folder} is not empty: name another folder with --out")
                folder.mkdir(parents=True, exist_ok=True)
            config = folder / "lastgood.yaml"
            scoring = {
                "scorers": [
                    {"name": "faithful", "kind": "model", "model": "judge-1", "base_url": "http://127.0.0.1:9/v1"}
                ]
            }
            config.write_text(json.dumps({
                "storage": f"{folder}/tables", "state_url": f"sqlite:///{folder}/state.db", "endpoints": {"translate": {"scoring": scoring}},
            }))  # fmt: skip
            settings, store, at = load(config), tables.Store(f"{folder}/tables"), now()
            History(store, at, self.days, self.seed, self.endpoints - 6).write()
            workspace: Any = Nowhere()
            acts = controller(settings, store, workspace=workspace)
            acts.clock = now
            stack.callback(acts.close)
            state(acts, at, self.endpoints - 6)
            fleet = Fleet(store, now)
            fleet.refresh()
            yield pages(acts, store, fleet, dict)

    def serve(self, port: int, say: Callable[[str], None]) -> None:
        """Show the pages on loopback until a signal; `say` gets their address."""
        say(f"Making {counted(self.days, 'day')} of {counted(self.endpoints, 'endpoint')} ...")
        with self.made() as app:
            server, sockets, number = bind(app, "127.0.0.1", port)
            say(f"Made-up history: http://127.0.0.1:{number}/ (Ctrl-C ends it)")
            with _until_signals(server):
                server.run(sockets=sockets)


@contextmanager
def _until_signals(server: Any) -> Iterator[None]:
    """SIGINT and SIGTERM end the server."""

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def state(acts: Controller, now: datetime, plain: int) -> None:
    """Verdicts on every endpoint, an incident that ended in a rollback weeks ago, and one that is open."""
    hour = timedelta(hours=1)
    finding = Finding(
        "errors", "6.1% of requests of version 8 fail, 0.4% of version 7", 240_000.0, 15.2, 12.1, 19.0, 0.061, 0.004
    )
    figures = {
        "new": {"p95_ms": 602.0, "error_rate": 0.061, "bad_answers": 0.011, "tokens_out": 166.0, "requests": 2110.0},
        "prior": {"p95_ms": 590.0, "error_rate": 0.004, "bad_answers": 0.010, "tokens_out": 165.0, "requests": 6340.0},
        "trail": {"faults": {"new": {"model": 98, "limit": 31}}, "requesters_hit": 61},
    }  # fmt: skip
    bad = Verdict("support-chat", "8", "7", State.ROLL_BACK, "version 8 fails more often than 7: 6.1% against 0.4%", now - hour / 5, now - 2 * hour, 24e4,
                  (finding,), (), figures)  # fmt: skip
    slow = Finding("latency", "p95 is 2.1 times as slow", 9000.0, 2.1, 1.9, 2.4, 0.31, 0.05)
    old = Verdict("support-chat", "6", "5", State.ROLL_BACK, "version 6 is slower than 5: p95 1,260 ms against 590 ms", now - 29 * 24 * hour,
                  now - 29.5 * 24 * hour, 9000.0, (slow,), (), {"new": {"p95_ms": 1260.0}, "prior": {"p95_ms": 590.0}})  # fmt: skip
    told = [
        bad,
        Verdict(
            "fraud-score",
            "12",
            "11",
            State.WATCH,
            "2 of 5 columns drift, and labels say that version 12 is right less often",
            now,
        ),
        Verdict("travel-agent", "4", "3", State.HEALTHY, "as good as version 3, to within 5%", now),
        Verdict("search-rank", "23", "22", State.HEALTHY, "as good as version 22, to within 5%", now),
        Verdict("translate", "3", "2", State.PAGE, "5.5% of answers of version 3 are bad, 1.0% of version 2", now),
        Verdict("summarize", "1", None, State.INCONCLUSIVE, "no request for three days", now),
    ]
    usual = (State.HEALTHY, State.HEALTHY, State.HEALTHY, State.HEALTHY, State.INCONCLUSIVE, State.WATCH)
    words = {
        State.HEALTHY: "as good as before",
        State.WATCH: "slower, not surely enough",
        State.INCONCLUSIVE: "too few requests",
    }
    for n in range(plain):
        spoken = usual[n % len(usual)] if n % 97 else State.WATCH
        told.append(
            Verdict(f"endpoint-{n:04}", str(plain_version(n)), str(plain_version(n) - 1), spoken, words[spoken], now)
        )
    with acts.store.begin() as tx:
        for verdict in told:
            tx.save_verdict(verdict)
        for verdict, ended in ((old, now - 28.6 * 24 * hour), (bad, None)):
            _incident(tx, verdict, ended)


def _incident(tx: Any, verdict: Verdict, ended: datetime | None) -> None:
    """An incident of a verdict with its rollback: done where the incident has ended, else proposed."""
    at, e = verdict.judged_at, verdict.endpoint
    number = f"{e[:4].encode().hex()}{int(verdict.candidate):08}"
    open_ = Incident(number, e, verdict.candidate, verdict.prior, verdict.as_json(), "", at, at, None, "", at)
    prior = str(verdict.prior)
    names = {version: f"{e}-{version}" for version in (verdict.candidate, prior)}
    before, after = ({names[verdict.candidate]: part, names[prior]: 100 - part} for part in (25, 0))
    why = (f"version {prior} carried most traffic before",)
    plan = Plan(e, verdict.candidate, prior, names[prior], Route.FAST, 4, before, after, (), {}, why, at.isoformat())
    tx.open_incident(open_)
    progress = (
        Progress(Status.DONE, ended, reason="p95 is back at 596 ms", who="ann")
        if ended
        else Progress(Status.PROPOSED, at, at + timedelta(hours=1))
    )
    tx.add_rollback(
        Rollback(plan.id, number, "approve", verdict.findings[0].metric, plan, f"nonce-{number}", progress, 1, at, shifted_at=ended, ended_at=ended,
                 moved_at=ended)
    )  # fmt: skip
    tx.record(at, "lastgood", "opened", incident=number, reason=verdict.reason)
    if ended:
        tx.record(ended, "ann", "approved the rollback", incident=number)
        tx.update_incident(number, ended, resolved_at=ended, resolution="rolled back: p95 is back at 596 ms")
