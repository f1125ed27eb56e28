"""Verdict -> decision -> effects; `tick` moves everything that is under way one step on and decides again on what is open."""

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from lastgood.alerts import registry
from lastgood.alerts.decide import Decision, Situation, decide, plan_for
from lastgood.alerts.effects import Effects
from lastgood.alerts.notify import Notifier
from lastgood.alerts.outbox import remind, send_due
from lastgood.alerts.people import People
from lastgood.alerts.records import Pause
from lastgood.alerts.rollback import git
from lastgood.alerts.rollback.executor import Executor, lease_name
from lastgood.alerts.rollback.leave import Leaving, choose_leaving
from lastgood.alerts.rollback.links import Signer
from lastgood.alerts.rollback.machine import Tick
from lastgood.alerts.rollback.plan import Kind, Plan, Snapshot
from lastgood.alerts.rollback.verify import Telemetry
from lastgood.alerts.rollback.watch import Judged, Probed
from lastgood.alerts.store import Store
from lastgood.alerts.teller import Teller
from lastgood.alerts.tx import Tx
from lastgood.errors import GoneError, LastgoodError, RefusedError
from lastgood.judge.ledger import Configuration
from lastgood.record.contents import base
from lastgood.record.verdict import State, Verdict
from lastgood.settings import Settings
from lastgood.workspace import Endpoint, Update, WorkspaceControl

TICK_LEASE = timedelta(seconds=120)
SEEN_FOR = timedelta(minutes=3)
"""How long an endpoint's configuration, once read, is good enough to decide on again; a plan names the configuration it was made for."""
DAY, KEPT = timedelta(days=1), timedelta(days=30)
MAX_OPEN = 10_000
log = logging.getLogger("lastgood.alerts")


class Controller:
    """One per process; several processes may share one store: leases let only one tick, and one send, at a time."""

    def __init__(
        self,
        store: Store,
        workspace: WorkspaceControl,
        settings: Settings,
        notifiers: Mapping[str, Notifier],
        telemetry: Telemetry,
        signer: Signer,
        clock: Callable[[], datetime],
        new_nonce: Callable[[], str] = lambda: secrets.token_urlsafe(16),
        calendar: Callable[[datetime], Sequence[Pause]] = lambda now: (),
        history: Callable[[str], Sequence[Configuration]] = lambda endpoint: (),
    ) -> None:
        self.store = store
        self.settings = settings
        self.workspace = workspace
        self.clock = clock
        self._notifiers = {**notifiers, registry.CHANNEL: registry.RegistryNotifier(workspace)}
        self._new_nonce = new_nonce
        self._holder = new_nonce()
        self.teller = Teller(settings, signer, tuple(notifiers), clock, new_nonce)
        watched = {Kind.ROLLBACK: telemetry, Kind.PROMOTE: Judged(store, settings, clock)}
        watched[Kind.DRILL] = Probed(workspace, settings)
        self._executor = Executor(store, workspace, watched, settings, clock, new_nonce, self.teller.announce)
        self._effects = Effects(settings, self._executor, self.teller, clock, new_nonce)
        self._calendar, self._history = calendar, history
        self._seen: dict[str, tuple[Endpoint, datetime]] = {}
        self._names: frozenset[str] = frozenset()
        self._gone: set[str] = set()
        """Endpoints of which the workspace itself said that they are not there. A list without them says nothing: it may be a lost grant."""
        self._aliases: dict[str, tuple[dict[str, str], datetime]] = {}
        self.observed_at: datetime | None = None
        self.faults: Counter[str] = Counter()
        self.unreadable: dict[str, str] = {}
        """Endpoint -> why the workspace did not show it when it was asked last."""
        self.unlisted: dict[str, str] = {}
        """Endpoint -> why the workspace's list cannot be right that it is gone."""
        self.undone: dict[str, str] = {}
        """Endpoint -> why the next deploy would undo a rollback of it."""
        with store.begin() as tx:
            tx.retry_refused(clock())
        self.people = People(store, self._executor, self.teller, signer, clock, new_nonce)

    def close(self) -> None:
        """Give the connections to channels and state store back."""
        for notifier in self._notifiers.values():
            notifier.close()
        self.store.close()

    # decisions

    def handle(self, verdict: Verdict) -> None:
        """Keep a judge's verdict and do what follows from it. Handling a verdict twice changes nothing, and one that is older than evidence
        may be (found after an outage, or beside a new state) is kept and not acted on.

        Errors: TransientError when the state cannot be written, RefusedError when the verdict cannot be stored; nobody else's is
        affected.
        """
        endpoint, problem = self._read(verdict.endpoint) if verdict.bad else self._last_seen(verdict.endpoint)
        aliases = self.aliases(endpoint) if endpoint and verdict.state in (State.ROLL_BACK, State.HEALTHY) else {}
        with self.store.begin() as tx:
            if tx.save_verdict(verdict):
                self._decide(tx, verdict.endpoint, endpoint, problem, aliases)

    def review(self, name: str) -> None:
        """Decide again on an endpoint with an open incident: time has passed, or its configuration has changed."""
        endpoint, problem = self._last_seen(name)
        if endpoint is None and not problem:
            endpoint, problem = self._read(name)
        aliases = self.aliases(endpoint) if endpoint else {}
        with self.store.begin() as tx:
            self._decide(tx, name, endpoint, problem, aliases)

    def explain(self, name: str) -> Decision:
        """What would be decided on the endpoint now, and why; changes nothing."""
        endpoint, problem = self._read(name)
        aliases = self.aliases(endpoint) if endpoint else {}
        with self.store.read() as tx:
            return decide(self._situation(tx, name, endpoint, problem, aliases))

    def _decide(
        self, tx: Tx, name: str, endpoint: Endpoint | None, problem: str, aliases: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._effects.carry_out(tx, decide(self._situation(tx, name, endpoint, problem, aliases)).effects)

    def _situation(
        self, tx: Tx, name: str, endpoint: Endpoint | None, problem: str, aliases: Mapping[str, Mapping[str, str]]
    ) -> Situation:
        """The facts of one endpoint, read in one transaction."""
        now = self.clock()
        return Situation(
            name=name,
            now=now,
            settings=self.settings.endpoint(name),
            verdicts=tx.verdicts(name),
            endpoint=endpoint,
            problem=problem,
            gone=name in self._gone,
            incidents=tx.incidents(name, open_only=True),
            ended=tx.ended_incidents(name),
            rollbacks=tx.rollbacks(name, 50),
            aliases=aliases,
            served_well=tx.served_well(name),
            snapshots=tx.snapshots(name),
            rolled_back=frozenset(tx.rolled_back(name)),
            moved=tx.moved(name, now - max(DAY, timedelta(seconds=self.settings.endpoint(name).policy.cooldown_s))),
            leased=tx.leased(lease_name(name), now),
            switch=tx.kill_switch(),
            pauses=self.pauses(tx, now),
        )

    def pauses(self, tx: Tx, now: datetime) -> tuple[Pause, ...]:
        """Silences and freezes that have not ended: people's, and the calendar's of the next day."""
        return (*tx.pauses(now), *self._calendar(now))

    def in_force(self, tx: Tx) -> list[Pause]:
        """Those that hold now: what every surface shows."""
        now = self.clock()
        return [pause for pause in self.pauses(tx, now) if pause.in_force(now)]

    def _read(self, name: str) -> tuple[Endpoint | None, str]:
        try:
            endpoint = self.workspace.endpoint(name)
        except LastgoodError as error:
            log.warning("endpoint %s cannot be read: %s", name, error)
            if isinstance(error, GoneError):
                self._gone.add(name)
            self.unreadable[name] = str(error)
            return None, f"the workspace cannot be read: {error}"
        self._gone.discard(name)
        self.unreadable.pop(name, None)
        self._seen[name] = (endpoint, self.clock())
        return endpoint, ""

    def _last_seen(self, name: str) -> tuple[Endpoint | None, str]:
        """The endpoint as it was seen within the last minutes; None where it was not."""
        endpoint, at = self._seen.get(name, (None, None))
        return (endpoint, "") if endpoint and at and self.clock() - at < SEEN_FOR else (None, "")

    def aliases(self, endpoint: Endpoint) -> dict[str, dict[str, str]]:
        """Model -> the registry aliases that name good versions of it, best first; none where the registry cannot be read."""
        own = self.settings.endpoint(endpoint.name)
        wanted = tuple(dict.fromkeys(filter(None, (*own.aliases, own.registry_alias))))
        models = sorted({e.entity_name for e in endpoint.entities if e.entity_name}) if wanted else ()
        known = {model: self._registry(model) for model in models}
        return {model: {alias: held[alias] for alias in wanted if alias in held} for model, held in known.items()}

    def _registry(self, model: str) -> dict[str, str]:
        known, at = self._aliases.get(model, ({}, None))
        if at and self.clock() - at < SEEN_FOR:
            return known
        try:
            known = dict(self.workspace.aliases(model))
        except LastgoodError as error:
            log.warning("aliases of %s cannot be read: %s", model, error)
        self._aliases[model] = (known, self.clock())
        return known

    def plan(
        self,
        tx: Tx,
        endpoint: Endpoint,
        bad: str,
        aliases: Mapping[str, Mapping[str, str]],
        *,
        why: str,
        judged: str | None = None,
        wanted: str | None = None,
    ) -> Plan:
        """The plan to leave version `bad`, with the reasons for the version it goes back to. Errors: RefusedError."""
        situation = self._situation(tx, endpoint.name, endpoint, "", aliases)
        return plan_for(situation, bad, why=why, judged=judged, wanted=wanted)

    def leaving(self, endpoint: Endpoint) -> Leaving:
        """The version that a rollback nobody named one for would leave, and why. Errors: RefusedError where that is unclear."""
        try:
            configurations = self._history(endpoint.name)
        except LastgoodError as error:
            log.warning("the deployment history of %s cannot be read: %s", endpoint.name, error)
            configurations = ()
        with self.store.read() as tx:
            accused = {base(incident.candidate) for incident in tx.incidents(endpoint.name, open_only=True)}
            away = tx.shifts().get(endpoint.name, {})
        return choose_leaving(endpoint, configurations, away, accused, self.clock())

    # the loops

    def tick(self) -> None:
        """Move every rollback one step on, end what expired. Never raises for one of them."""
        now = self.clock()
        with self.store.begin() as tx:
            if not tx.lease("tick", self._holder, now, now + TICK_LEASE):
                return
            live = tx.live_rollbacks()
            open_on = sorted({incident.endpoint for incident in tx.incidents(open_only=True, limit=MAX_OPEN)})
        try:
            for rollback_id in live:
                self._guarded(f"rollback {rollback_id}", partial(self._advance, rollback_id))
            for name in open_on:
                self._guarded(f"endpoint {name}", partial(self.review, name))
        finally:
            with self.store.begin() as tx:
                tx.release("tick", self._holder)

    def send(self) -> None:
        """Deliver what is due. Apart from `tick`, so that a receiver that hangs delays no rollback."""
        now = self.clock()
        with self.store.begin() as tx:
            if not tx.lease("send", self._holder, now, now + TICK_LEASE):
                return
        try:
            send_due(self.store, self._notifiers, self.clock)
            remind(self.store, self._notifiers, self.clock)
        finally:
            with self.store.begin() as tx:
                tx.release("send", self._holder)

    def try_notifiers(self, event: Mapping[str, Any]) -> dict[str, str]:
        """channel -> what was wrong with sending this now; empty when it was taken."""
        answers = {}
        for name, notifier in self._notifiers.items():
            if name == registry.CHANNEL:
                continue
            try:
                notifier.send(event)
                answers[name] = ""
            except LastgoodError as error:
                answers[name] = str(error)
        return answers

    def _guarded(self, what: str, step: Callable[[], None]) -> None:
        """Whatever is wrong with one endpoint stops nobody else: it is logged and counted."""
        try:
            step()
        except LastgoodError as error:
            log.warning("%s: %s", what, error)
            self.faults[type(error).__name__] += 1
        except Exception:
            log.exception("%s", what)
            self.faults["unforeseen"] += 1

    def _compare_source(self, endpoint: Endpoint) -> str:
        """Whether the next deploy would undo a rollback, or whether that cannot be known, in one sentence."""
        path = self.settings.endpoint(endpoint.name).source_file
        if path is None:
            return ""
        with self.store.read() as tx:
            bad = tx.rolled_back(endpoint.name)
        try:
            refused = {
                e.name: e.entity_version
                for e in endpoint.entities
                if e.entity_version in bad and not endpoint.share(e.entity_version)
            }
            return git.undone_by(*git.source(path, endpoint.name), endpoint.name, refused)
        except RefusedError as error:
            return str(error)

    def observe_endpoints(self) -> list[Endpoint]:
        """Keep a snapshot of every ready version that takes traffic: what the slow path puts back. The endpoints at rest.

        An endpoint that cannot be read is left out and stands in `unreadable`. Errors: ConfigError, TransientError of the workspace.
        """
        stable, unreadable, undone = [], {}, {}
        listed = frozenset(self.workspace.names())
        vanished = {name for name in self._names - listed if name not in self._gone}
        self._names = listed
        self.unlisted = {}
        for name in sorted(vanished):
            endpoint, problem = self._read(name)
            if endpoint is not None or name not in self._gone:
                self.unlisted[name] = (
                    problem or "the workspace does not list it any more, though it is there: a lost grant?"
                )
                self._names |= {name}
        for name in sorted(listed):
            endpoint, problem = self._read(name)
            if endpoint is None:
                unreadable[name] = problem
            elif endpoint.ready and endpoint.update is not Update.IN_PROGRESS:
                stable.append(endpoint)
                self._guarded(f"endpoint {name}", partial(self._keep, endpoint))
                if why := self._compare_source(endpoint):
                    undone[name] = why
        self.unreadable, self.undone = unreadable, undone
        if len(unreadable) < len(self._names) or not self._names:
            self.observed_at = self.clock()
        return stable

    def _keep(self, endpoint: Endpoint) -> None:
        with self.store.begin() as tx:
            for e in endpoint.entities:
                if e.ready and endpoint.traffic.get(e.name, 0):
                    settings = {**e.settings, "name": e.name}
                    snapshot = Snapshot(endpoint.name, endpoint.config_version, e.entity_version, settings)
                    tx.add_snapshot(snapshot, self.clock())

    def housekeep(self) -> None:
        """Take away what the state does not need any more."""
        now = self.clock()
        with self.store.begin() as tx:
            tx.prune(now - KEPT)
            tx.forget_verdicts(now - KEPT)

    def _advance(self, rollback_id: str) -> None:
        with self.store.begin() as tx:
            rollback = tx.rollback(rollback_id)
            if rollback:
                self._seen.pop(rollback.plan.endpoint, None)  # it is about to change
            if rollback and not rollback.state.under_way and not rollback.state.ended:
                self._executor.apply(tx, rollback, Tick())
        self._executor.advance(rollback_id)
