"""Verdict -> incident -> message and rollback; `tick` moves everything that is under way one step on."""

import hashlib
import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from lastgood.alerts import messages
from lastgood.alerts.notify import Notifier
from lastgood.alerts.notify.pagerduty import event as pagerduty_event
from lastgood.alerts.outbox import send_due
from lastgood.alerts.records import Incident, KillSwitch, Rollback
from lastgood.alerts.rollback.executor import Executor, lease_name
from lastgood.alerts.rollback.links import Action, Claims, LinkError, Problem, Signer, check
from lastgood.alerts.rollback.machine import Approve, Effect, Hold, Progress, Reject, Status, Tick, Withdraw
from lastgood.alerts.rollback.plan import Plan, Snapshot, make_plan
from lastgood.alerts.rollback.verify import Telemetry
from lastgood.alerts.store import Store, Tx
from lastgood.config import Mode, Settings
from lastgood.errors import LastgoodError, RefusedError, TransientError
from lastgood.judge.verdict import State, Verdict
from lastgood.workspace import Endpoint, Update, WorkspaceControl

AUTO = "lastgood (auto)"
TICK_LEASE = timedelta(seconds=120)
log = logging.getLogger("lastgood.alerts")


class Controller:
    """One per process; several processes may share one store: a lease lets only one tick at a time."""

    def __init__(
        self,
        store: Store,
        workspace: WorkspaceControl,
        settings: Settings,
        notifier: Notifier,
        telemetry: Telemetry,
        signer: Signer,
        clock: Callable[[], datetime],
        new_nonce: Callable[[], str] = lambda: secrets.token_urlsafe(16),
    ) -> None:
        self.store = store
        self.settings = settings
        self.signer = signer
        self.clock = clock
        self._workspace = workspace
        self._notifier = notifier
        self._new_nonce = new_nonce
        self._holder = new_nonce()
        self._executor = Executor(store, workspace, telemetry, settings, clock, new_nonce, self._announce)

    # verdicts

    def handle(self, verdict: Verdict) -> None:
        """Open, renew or resolve the incident of this endpoint and candidate. Handling a verdict twice changes nothing.

        Errors: TransientError when the state cannot be written; handle it again then.
        """
        now, bad = self.clock(), verdict.state in (State.PAGE, State.ROLL_BACK)
        endpoint, problem = self._read(verdict.endpoint) if bad else (None, "")
        with self.store.begin() as tx:
            if not tx.save_verdict(verdict.endpoint, verdict.judged_at, messages.plain(verdict)):
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
            if verdict.state is State.PAGE:
                self._tell(tx, incident, "page", "a person must look")
            else:
                self._roll_back(tx, incident, verdict, endpoint, problem)

    def _read(self, name: str) -> tuple[Endpoint | None, str]:
        try:
            return self._workspace.endpoint(name), ""
        except LastgoodError as error:
            log.warning("endpoint %s cannot be read: %s", name, error)
            return None, "the workspace cannot be read"

    def _open(self, tx: Tx, verdict: Verdict, now: datetime) -> Incident:
        seed = f"{verdict.endpoint}\n{verdict.candidate}\n{now.isoformat()}"
        identity = hashlib.sha256(seed.encode()).hexdigest()[:16]
        document = messages.plain(verdict)
        incident = Incident(
            identity, verdict.endpoint, verdict.candidate, verdict.prior, document, "", now, now, None, ""
        )
        if not tx.open_incident(incident):
            raise TransientError(f"an incident of {verdict.endpoint} was opened at the same moment")
        tx.record(now, "judge", "opened", incident=identity, endpoint=verdict.endpoint, reason=verdict.reason)
        return incident

    def _healthy(self, tx: Tx, verdict: Verdict, now: datetime) -> None:
        for incident in tx.incidents(verdict.endpoint, open_only=True):
            last = tx.last_rollback(incident.id)
            if last and last.state.under_way:
                continue
            if last and not last.state.ended:
                self._executor.apply(tx, last, Withdraw("the endpoint is healthy again"))
            self._resolve(tx, incident, f"version {verdict.candidate} is healthy: {verdict.reason}")

    def _roll_back(self, tx: Tx, incident: Incident, verdict: Verdict, endpoint: Endpoint | None, problem: str) -> None:
        """A plan and, by mode, a message, a proposal or an approved rollback; at most one per incident at a time."""
        last, mode = tx.last_rollback(incident.id), self.settings.endpoint(incident.endpoint).mode
        if last and last.state is not Status.EXPIRED:
            return
        try:
            if endpoint is None:
                raise RefusedError(problem)
            plan = self._plan(tx, verdict, endpoint)
        except RefusedError as error:
            tx.update_incident(incident.id, self.clock(), note=f"no rollback: {error}")
            self._tell(tx, incident, f"no rollback: {error}", f"no rollback is possible: {error}")
            return
        if mode is Mode.OBSERVE:
            said = messages.would(plan)
            if self._tell(tx, incident, f"would:{plan.config_version}", said, plan=plan):
                tx.update_incident(incident.id, self.clock(), note=said)
                tx.record(self.clock(), "lastgood", "observed", incident=incident.id, diff=plan.diff())
            return
        self._propose(tx, incident, plan, mode, verdict)

    def _plan(self, tx: Tx, verdict: Verdict, endpoint: Endpoint) -> Plan:
        return make_plan(
            endpoint,
            verdict.candidate,
            verdict.prior,
            refused=tx.rolled_back(endpoint.name),
            snapshot=tx.snapshot(endpoint.name, verdict.prior) if verdict.prior else None,
            reasons=(verdict.reason,),
            now=self.clock(),
        )

    def _propose(self, tx: Tx, incident: Incident, plan: Plan, mode: Mode, verdict: Verdict) -> None:
        now, finding = self.clock(), messages.worst(verdict)
        hold = self._hold_reason(tx, plan.endpoint, now) if mode is Mode.AUTO else "waiting for a person"
        until = now + timedelta(seconds=self.settings.endpoint(plan.endpoint).policy.proposal_ttl_s)
        progress = Progress(Status.PROPOSED, now, until, hold)
        metric = finding.metric if finding else ""
        rollback = Rollback(plan.id, incident.id, mode, metric, plan, self._new_nonce(), progress, 0, now)
        if not tx.add_rollback(rollback):
            return
        tx.record(now, "lastgood", Status.PROPOSED, endpoint=plan.endpoint, rollback=plan.id, reason=hold)
        if mode is Mode.AUTO and not hold:
            self._executor.apply(tx, rollback, Approve(AUTO))
            self._tell(tx, incident, plan.id, f"rolling back to version {plan.prior_version} by itself", plan=plan)
        else:
            self._ask(tx, incident, rollback)

    def _hold_reason(self, tx: Tx, endpoint: str, now: datetime) -> str:
        """Why no rollback may start by itself now; empty when it may."""
        policy, switch = self.settings.endpoint(endpoint).policy, tx.kill_switch()
        if switch.on:
            return f"the kill switch is on ({switch.who}: {switch.why})"
        if tx.shifts_since(endpoint, now - timedelta(seconds=policy.cooldown_s)):
            return f"a rollback of this endpoint happened less than {policy.cooldown_s:g} s ago"
        if tx.shifts_since(endpoint, now - timedelta(days=1)) >= policy.max_rollbacks_per_day:
            return f"{policy.max_rollbacks_per_day} rollbacks a day are allowed"
        if tx.leased(lease_name(endpoint), now):
            return "another rollback of this endpoint is under way"
        return ""

    # people

    def verify_link(self, token: str) -> tuple[Claims, Incident, Rollback | None]:
        """What a link shows; changes nothing. Errors: LinkError."""
        claims = self.signer.verify(token, self.clock())
        with self.store.read() as tx:
            return claims, *self._linked(tx, claims)

    def _linked(self, tx: Tx, claims: Claims) -> tuple[Incident, Rollback | None]:
        incident, rollback = tx.incident(claims.incident), tx.rollback(claims.plan_id)
        if incident is None or incident.endpoint != claims.endpoint:
            raise LinkError(Problem.OTHER_PLAN, "this link is for an incident that is not here")
        if claims.action is Action.VIEW:
            return incident, None
        if rollback is None or rollback.incident_id != incident.id:
            raise LinkError(Problem.OTHER_PLAN, "this link is for a plan that is not here")
        check(claims, rollback.id, rollback.plan.endpoint, rollback.plan.config_version)
        return incident, rollback

    def decide(self, token: str, decision: Approve | Hold | Reject) -> Rollback:
        """What an authenticated person decided through a link; works once.

        Errors: LinkError, RefusedError (the decision is not possible any more, the kill switch).
        """
        now = self.clock()
        claims = self.signer.verify(token, now)
        with self.store.begin() as tx:
            _, rollback = self._linked(tx, claims)
            if rollback is None:
                raise LinkError(Problem.OTHER_PLAN, "this link shows evidence and decides nothing")
            if claims.nonce != rollback.nonce:
                raise LinkError(Problem.USED, "this link was replaced by a newer one")
            kind = type(decision).__name__.lower()
            switch = tx.kill_switch()
            if switch.on and isinstance(decision, Approve):
                raise RefusedError(f"the kill switch is on ({switch.who}: {switch.why})")
            if not tx.use_nonce(claims.nonce, rollback.id, kind, decision.who, now):
                raise LinkError(Problem.USED, "this link was used before")
            return self._executor.apply(tx, rollback, decision)[0]

    def set_kill_switch(self, on: bool, who: str, why: str) -> None:
        """While on, nothing is sent to the workspace: no rollback starts and none under way takes its next step."""
        with self.store.begin() as tx:
            tx.set_kill_switch(KillSwitch(on, who, why))
            tx.record(self.clock(), who, "kill switch on" if on else "kill switch off", why=why)

    # the loop

    def tick(self) -> None:
        """Move every rollback one step on, end what expired, then send what is due. Never raises for one of them."""
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
            send_due(self.store, self._notifier, self.clock)
        finally:
            with self.store.begin() as tx:
                tx.release("tick", self._holder)

    def observe_endpoints(self) -> None:
        """Keep a snapshot of every ready version that takes traffic: what the slow path puts back.

        Errors: ConfigError, TransientError of the workspace.
        """
        for endpoint in self._workspace.endpoints():
            if not endpoint.ready or endpoint.update is Update.IN_PROGRESS:
                continue
            with self.store.begin() as tx:
                for e in endpoint.entities:
                    if e.ready and endpoint.traffic.get(e.name, 0):
                        settings = {**e.settings, "name": e.name}
                        snapshot = Snapshot(endpoint.name, endpoint.config_version, e.entity_version, settings)
                        tx.add_snapshot(snapshot, self.clock())

    def _advance(self, rollback_id: str) -> None:
        with self.store.begin() as tx:
            rollback = tx.rollback(rollback_id)
            if rollback and not rollback.state.under_way and not rollback.state.ended:
                self._executor.apply(tx, rollback, Tick())
        self._executor.advance(rollback_id)

    # messages

    def _announce(self, tx: Tx, rollback: Rollback, effect: Effect) -> None:
        incident, reason = tx.incident(rollback.incident_id), rollback.progress.reason
        if incident is None:
            return
        if effect is Effect.ASK:
            self._ask(tx, incident, rollback)
        elif effect is Effect.TOLD and rollback.progress.who != AUTO:
            tx.say(f"{rollback.id}:told", incident.id, pagerduty_event("acknowledge", incident.id), self.clock())
        elif effect is Effect.RESOLVE:
            self._resolve(tx, incident, f"rolled back to version {rollback.plan.prior_version}: {reason}")
        elif effect is Effect.PAGE:
            tx.update_incident(incident.id, self.clock(), note=f"the rollback failed: {reason}")
            self._tell(tx, incident, f"{rollback.id}:failed", f"the rollback failed: {reason}", plan=rollback.plan)

    def _resolve(self, tx: Tx, incident: Incident, why: str) -> None:
        now = self.clock()
        tx.update_incident(incident.id, now, resolved_at=now, resolution=why)
        tx.record(now, "lastgood", "resolved", incident=incident.id, reason=why)
        last = tx.last_rollback(incident.id)
        failed = last is not None and last.state is Status.FAILED
        for key in (incident.id, messages.failed_key(incident.id))[: 1 + failed]:
            tx.say(f"{key}:resolve", incident.id, pagerduty_event("resolve", key), now)

    def _ask(self, tx: Tx, incident: Incident, rollback: Rollback) -> None:
        plan, said = rollback.plan, f"roll back to version {rollback.plan.prior_version}?"
        if rollback.progress.reason:
            said += f" ({rollback.progress.reason})"
        self._tell(tx, incident, f"ask:{rollback.nonce}", said, plan=plan, rollback=rollback)

    def _tell(
        self,
        tx: Tx,
        incident: Incident,
        once: str,
        said: str,
        plan: Plan | None = None,
        rollback: Rollback | None = None,
    ) -> bool:
        """Queue the incident's alert; False when `once` was said before. With a rollback its link decides."""
        now, pagerduty = self.clock(), self.settings.pagerduty
        severity = pagerduty.severity_rollback if plan else pagerduty.severity_page
        name = "Evidence and rollback" if rollback else "Evidence"
        link = f"{self.settings.web.base_url.rstrip('/')}/r/{self.link(incident, rollback)}"
        more = {"plan": plan.diff(), "plan id": plan.id} if plan else {}
        document = messages.trigger(incident, self.settings, now, said, severity=severity, links={name: link}, **more)
        if once.endswith(":failed"):
            document = messages.failed(document)
        key = hashlib.sha256(once.encode()).hexdigest()[:32]
        return tx.say(f"{incident.id}:{key}", incident.id, document, now)

    def link(self, incident: Incident, rollback: Rollback | None) -> str:
        """A signed token: to decide on the rollback, or (None) only to look at the incident's evidence."""
        expires = self.clock() + timedelta(seconds=self.settings.web.link_ttl_s)
        if rollback is None:
            claims = Claims(incident.endpoint, incident.id, Action.VIEW, "", 0, self._new_nonce(), expires)
        else:
            ends = rollback.progress.until if rollback.state is Status.PROPOSED else None
            plan, ends = rollback.plan, min(expires, ends or expires)
            claims = Claims(
                plan.endpoint, incident.id, Action.DECIDE, plan.id, plan.config_version, rollback.nonce, ends
            )
        return self.signer.sign(claims)
