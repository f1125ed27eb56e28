"""Verdict -> incident -> message and rollback; `tick` moves everything that is under way one step on."""

import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from lastgood.alerts import messages
from lastgood.alerts.notify import Notifier
from lastgood.alerts.outbox import send_due
from lastgood.alerts.people import People
from lastgood.alerts.records import Incident, Rollback
from lastgood.alerts.rollback.executor import Executor, lease_name
from lastgood.alerts.rollback.links import Signer
from lastgood.alerts.rollback.machine import Approve, Progress, Status, Tick, Withdraw
from lastgood.alerts.rollback.plan import Kind, Plan, Snapshot, make_plan
from lastgood.alerts.rollback.prior import Choice, Known, choose
from lastgood.alerts.rollback.verify import Telemetry
from lastgood.alerts.rollback.watch import Judged, Probed
from lastgood.alerts.store import Store
from lastgood.alerts.teller import AUTO, Teller
from lastgood.alerts.tx import Tx
from lastgood.errors import LastgoodError, RefusedError, TransientError
from lastgood.record.verdict import State, Verdict
from lastgood.settings import Mode, Settings
from lastgood.workspace import Endpoint, Update, WorkspaceControl

TICK_LEASE = timedelta(seconds=120)
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
    ) -> None:
        self.store = store
        self.settings = settings
        self.workspace = workspace
        self.clock = clock
        self._notifiers = notifiers
        self._new_nonce = new_nonce
        self._holder = new_nonce()
        self.teller = Teller(settings, signer, tuple(notifiers), clock, new_nonce)
        watched = {Kind.ROLLBACK: telemetry, Kind.PROMOTE: Judged(store, settings, clock)}
        watched[Kind.DRILL] = Probed(workspace, settings)
        self._executor = Executor(store, workspace, watched, settings, clock, new_nonce, self.teller.announce)
        self.people = People(store, self._executor, self.teller, signer, clock, new_nonce)

    # verdicts

    def handle(self, verdict: Verdict) -> None:
        """Open, renew or resolve the incident of this endpoint and candidate. Handling a verdict twice changes nothing, and one that is
        older than evidence may be (found after an outage, or beside a new state) is kept and not acted on.

        Errors: TransientError when the state cannot be written; handle it again then.
        """
        now, policy = self.clock(), self.settings.endpoint(verdict.endpoint).policy
        old = verdict.judged_at < now - timedelta(seconds=policy.max_evidence_age_s)
        bad = verdict.state in (State.PAGE, State.ROLL_BACK) and not old
        endpoint, problem = self._read(verdict.endpoint) if bad else (None, "")
        aliases = self.aliases(endpoint) if endpoint and verdict.state is State.ROLL_BACK else {}
        with self.store.begin() as tx:
            if not tx.save_verdict(verdict.endpoint, verdict.judged_at, messages.plain(verdict)) or old:
                return
            if verdict.state is State.HEALTHY:
                self._healthy(tx, verdict, now)
                return
            incident = tx.find_incident(verdict.endpoint, verdict.candidate)
            if incident is not None:
                incident = messages.renewed(incident, verdict)
                tx.update_incident(incident.id, now, verdict=incident.verdict, prior=incident.prior)
            elif bad and (endpoint is None or endpoint.share(verdict.candidate)):
                incident = self._open(tx, verdict, now)
            if incident is None or not bad:
                return
            self._stop_promotion(tx, verdict)
            if verdict.state is State.PAGE:
                self.teller.tell(tx, incident, "page", "a person must look")
            else:
                self._roll_back(tx, incident, verdict, endpoint, problem, aliases)

    def _read(self, name: str) -> tuple[Endpoint | None, str]:
        try:
            return self.workspace.endpoint(name), ""
        except LastgoodError as error:
            log.warning("endpoint %s cannot be read: %s", name, error)
            return None, f"the workspace cannot be read: {error}"

    def aliases(self, endpoint: Endpoint) -> dict[str, str]:
        """The registry aliases that name good versions, best first; none where the registry cannot be read."""
        wanted = self.settings.endpoint(endpoint.name).aliases
        roles: dict[str, str] = {}
        for model in {e.entity_name for e in endpoint.entities} if wanted else ():
            try:
                roles |= self.workspace.aliases(model)
            except LastgoodError as error:
                log.warning("aliases of %s cannot be read: %s", model, error)
        return {alias: roles[alias] for alias in wanted if alias in roles}

    def _open(self, tx: Tx, verdict: Verdict, now: datetime) -> Incident:
        incident = messages.opened(verdict, now)
        if not tx.open_incident(incident):
            raise TransientError(f"an incident of {verdict.endpoint} was opened at the same moment")
        tx.record(now, "judge", "opened", incident=incident.id, endpoint=verdict.endpoint, reason=verdict.reason)
        return incident

    def _healthy(self, tx: Tx, verdict: Verdict, now: datetime) -> None:
        tx.add_served_well(verdict.endpoint, verdict.candidate, verdict.judged_at)
        for incident in tx.incidents(verdict.endpoint, open_only=True):
            last = tx.last_rollback(incident.id)
            if last and last.state.under_way:
                continue
            if last and not last.state.ended:
                self._executor.apply(tx, last, Withdraw("the endpoint is healthy again"))
            self.teller.resolve(tx, incident, f"version {verdict.candidate} is healthy: {verdict.reason}")

    def _stop_promotion(self, tx: Tx, verdict: Verdict) -> None:
        for rollback in tx.rollbacks(verdict.endpoint):
            if (
                rollback.plan.kind is Kind.PROMOTE
                and rollback.state.under_way
                and rollback.plan.prior_version == verdict.candidate
            ):
                self._executor.apply(tx, rollback, Withdraw(f"the judge says {verdict.state}: {verdict.reason}"))

    def _roll_back(
        self,
        tx: Tx,
        incident: Incident,
        verdict: Verdict,
        endpoint: Endpoint | None,
        problem: str,
        aliases: Mapping[str, str],
    ) -> None:
        """A plan and, by mode, a message, a proposal or an approved rollback; at most one per incident at a time."""
        last, mode = tx.last_rollback(incident.id), self.settings.endpoint(incident.endpoint).mode
        if last and last.state is not Status.EXPIRED:
            return
        try:
            if endpoint is None:
                raise RefusedError(problem)
            plan = self.plan(tx, endpoint, verdict.candidate, aliases, judged=verdict.prior, why=verdict.reason)
        except RefusedError as error:
            tx.update_incident(incident.id, self.clock(), note=f"no rollback: {error}")
            once = f"no rollback: {str(error).split(':', maxsplit=1)[0] if endpoint is None else error}"
            self.teller.tell(tx, incident, once, f"no rollback is possible: {error}")
            return
        if mode is Mode.OBSERVE:
            sentence = messages.would(plan)
            if self.teller.tell(tx, incident, f"would:{plan.config_version}", sentence, plan=plan):
                tx.update_incident(incident.id, self.clock(), note=sentence)
                tx.record(self.clock(), "lastgood", "observed", incident=incident.id, diff=plan.diff())
            return
        self._propose(tx, incident, plan, mode, verdict)

    def plan(
        self,
        tx: Tx,
        endpoint: Endpoint,
        bad: str,
        aliases: Mapping[str, str],
        *,
        why: str,
        judged: str | None = None,
        wanted: str | None = None,
    ) -> Plan:
        """The plan to leave version `bad`, with the reasons for the version it goes back to. Errors: RefusedError."""
        rolled_back = tx.rolled_back(endpoint.name)
        known = Known(
            judged, aliases, tx.served_well(endpoint.name), tx.snapshots(endpoint.name), frozenset(rolled_back)
        )
        choice: Choice = choose(endpoint, bad, known, wanted)
        return make_plan(
            endpoint,
            bad,
            choice.version,
            refused=() if wanted else rolled_back,
            snapshot=tx.snapshot(endpoint.name, choice.version),
            reasons=(why, *choice.reasons),
            now=self.clock(),
            write_only=self.settings.endpoint(endpoint.name).write_only,
        )

    def _propose(self, tx: Tx, incident: Incident, plan: Plan, mode: Mode, verdict: Verdict) -> None:
        now, finding = self.clock(), messages.worst(verdict)
        hold = self._hold_reason(tx, plan, verdict.prior, now) if mode is Mode.AUTO else "waiting for a person"
        until = now + timedelta(seconds=self.settings.endpoint(plan.endpoint).policy.proposal_ttl_s)
        progress = Progress(Status.PROPOSED, now, until, hold)
        metric = finding.metric if finding else ""
        rollback = Rollback(plan.id, incident.id, mode, metric, plan, self._new_nonce(), progress, 0, now)
        if not tx.add_rollback(rollback):
            return
        facts = {"endpoint": plan.endpoint, "rollback": plan.id, "incident": incident.id}
        tx.record(now, "lastgood", Status.PROPOSED, reason=hold, evidence=verdict.reason, why=plan.reasons, **facts)
        if mode is Mode.AUTO and not hold:
            self._executor.apply(tx, rollback, Approve(AUTO, alone=True))
            sentence = f"rolling back to version {plan.prior_version} by itself"
            self.teller.tell(tx, incident, plan.id, sentence, plan=plan)
        else:
            self.teller.ask(tx, incident, rollback)

    def _hold_reason(self, tx: Tx, plan: Plan, judged: str | None, now: datetime) -> str:
        """Why no rollback may start by itself now; empty when it may."""
        endpoint, switch = plan.endpoint, tx.kill_switch()
        policy = self.settings.endpoint(endpoint).policy
        if switch.on:
            return f"the kill switch is on ({switch.who}: {switch.why})"
        if plan.prior_version != judged:
            return f"the judge compared with version {judged}, the plan goes back to version {plan.prior_version}"
        if tx.shifts_since(endpoint, now - timedelta(seconds=policy.cooldown_s)):
            return f"a rollback of this endpoint happened less than {policy.cooldown_s:g} s ago"
        if tx.shifts_since(endpoint, now - timedelta(days=1)) >= policy.max_rollbacks_per_day:
            return f"{policy.max_rollbacks_per_day} rollbacks a day are allowed"
        if tx.leased(lease_name(endpoint), now):
            return "another rollback of this endpoint is under way"
        return ""

    # the loops

    def tick(self) -> None:
        """Move every rollback one step on, end what expired. Never raises for one of them."""
        now = self.clock()
        with self.store.begin() as tx:
            if not tx.lease("tick", self._holder, now, now + TICK_LEASE):
                return
            live = tx.live_rollbacks()
        try:
            for rollback_id in live:
                try:
                    self._advance(rollback_id)
                except LastgoodError as error:
                    log.warning("rollback %s: %s", rollback_id, error)
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
        finally:
            with self.store.begin() as tx:
                tx.release("send", self._holder)

    def try_notifiers(self, event: Mapping[str, Any]) -> dict[str, str]:
        """channel -> what was wrong with sending this now; empty when it was taken."""
        answers = {}
        for name, notifier in self._notifiers.items():
            try:
                notifier.send(event)
                answers[name] = ""
            except LastgoodError as error:
                answers[name] = str(error)
        return answers

    def observe_endpoints(self) -> list[Endpoint]:
        """Keep a snapshot of every ready version that takes traffic: what the slow path puts back. The endpoints at rest.

        Errors: ConfigError, TransientError of the workspace.
        """
        stable = [
            endpoint
            for endpoint in self.workspace.endpoints()
            if endpoint.ready and endpoint.update is not Update.IN_PROGRESS
        ]
        for endpoint in stable:
            with self.store.begin() as tx:
                for e in endpoint.entities:
                    if e.ready and endpoint.traffic.get(e.name, 0):
                        settings = {**e.settings, "name": e.name}
                        snapshot = Snapshot(endpoint.name, endpoint.config_version, e.entity_version, settings)
                        tx.add_snapshot(snapshot, self.clock())
        return stable

    def _advance(self, rollback_id: str) -> None:
        with self.store.begin() as tx:
            rollback = tx.rollback(rollback_id)
            if rollback and not rollback.state.under_way and not rollback.state.ended:
                self._executor.apply(tx, rollback, Tick())
        self._executor.advance(rollback_id)
