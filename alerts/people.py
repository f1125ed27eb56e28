"""What people decide, through a signed link or at the command line -> the rollback it moves. Everything is audited."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

from lastgood.alerts import messages
from lastgood.alerts.decide import CLOSED_BY
from lastgood.alerts.identity import identity
from lastgood.alerts.records import Incident, KillSwitch, Pause, Rollback
from lastgood.alerts.rollback.executor import Executor
from lastgood.alerts.rollback.links import Action, Claims, LinkError, Problem, Signer, check
from lastgood.alerts.rollback.machine import Approve, Hold, Progress, Reject, Status, Withdraw
from lastgood.alerts.rollback.plan import Kind, Plan
from lastgood.alerts.store import Store
from lastgood.alerts.teller import Teller
from lastgood.alerts.tx import Tx
from lastgood.errors import RefusedError
from lastgood.settings import Settings


class People:
    """Errors of every method: TransientError when the state cannot be reached."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        teller: Teller,
        signer: Signer,
        clock: Callable[[], datetime],
        new_nonce: Callable[[], str],
    ) -> None:
        self.signer = signer
        self._store = store
        self._executor = executor
        self._teller = teller
        self._clock = clock
        self._new_nonce = new_nonce

    def name(self, who: str) -> str:
        """The one name of a person."""
        return identity(who, self._teller.settings.web.identities)

    # through a link

    def verify_link(self, token: str) -> tuple[Claims, Incident, Rollback | None]:
        """What a link shows; changes nothing. Errors: LinkError."""
        claims = self.signer.verify(token, self._clock())
        with self._store.read() as tx:
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
        now = self._clock()
        decision = replace(decision, who=self.name(decision.who))
        claims = self.signer.verify(token, now)
        with self._store.begin() as tx:
            _, rollback = self._linked(tx, claims)
            if rollback is None:
                raise LinkError(Problem.OTHER_PLAN, "this link shows evidence and decides nothing")
            if claims.nonce != rollback.nonce:
                raise LinkError(Problem.USED, "this link was replaced by a newer one")
            kind = type(decision).__name__.lower()
            if isinstance(decision, Approve):
                refuse_when_killed(tx)
            if not tx.use_nonce(claims.nonce, rollback.id, kind, decision.who, now):
                raise LinkError(Problem.USED, "this link was used before")
            return self._executor.apply(tx, rollback, decision)[0]

    # at the command line

    def start(self, plan: Plan, who: str, why: str) -> Rollback:
        """Take a plan a person made and approved; `Proposed` afterwards when a second person must approve.

        A proposal for the same incident that waits for a person is replaced.
        Errors: RefusedError (the kill switch, one is under way).
        """
        now, who = self._clock(), self.name(who)
        with self._store.begin() as tx:
            refuse_when_killed(tx)
            incident = self._incident(tx, plan, who, why) if plan.kind is Kind.ROLLBACK else None
            key = incident.id if incident else task_key(plan.kind, plan.endpoint)
            last = tx.last_rollback(key)
            if last and last.state in (Status.PROPOSED, Status.HELD):
                self._executor.apply(tx, last, Withdraw(f"replaced by a plan of {who}"))
            until = now + timedelta(seconds=self._teller.settings.endpoint(plan.endpoint).policy.proposal_ttl_s)
            metric = messages.worst_metric(incident.verdict) if incident else ""
            progress = Progress(Status.PROPOSED, now, until)
            rollback = Rollback(plan.id, key, "manual", metric, plan, self._new_nonce(), progress, 0, now)
            if not tx.add_rollback(rollback):
                raise RefusedError(f"a {plan.kind} of {plan.endpoint} is under way: wait for its end")
            tx.record(now, who, Status.PROPOSED, endpoint=plan.endpoint, rollback=plan.id, incident=key, reason=why)
            if incident:
                sentence = f"{who} rolls back to version {plan.prior_version}"
                self._teller.tell(tx, incident, plan.id, sentence, plan=plan, severity="warning")
            alone = plan.kind is not Kind.ROLLBACK
            return self._executor.apply(tx, rollback, Approve(who, alone))[0]

    def _incident(self, tx: Tx, plan: Plan, who: str, why: str) -> Incident:
        """The open incident of the version that is rolled back, else one that says who wanted it."""
        now = self._clock()
        if incident := tx.find_incident(plan.endpoint, plan.bad_version):
            return incident
        made = messages.by_hand(plan.endpoint, plan.bad_version, plan.prior_version, f"{who}: {why}", now)
        tx.open_incident(made)
        tx.record(now, who, "opened", incident=made.id, endpoint=plan.endpoint, reason=why)
        return made

    # incidents

    def acknowledge(self, incident_id: str, who: str) -> None:
        """Somebody is looking. Errors: RefusedError when there is no such open incident."""
        with self._store.begin() as tx:
            incident, who = self._open(tx, incident_id), self.name(who)
            if not incident.acked_by:
                tx.update_incident(incident.id, self._clock(), acked_at=self._clock(), acked_by=who)
                tx.record(self._clock(), who, "acknowledged", incident=incident.id, endpoint=incident.endpoint)
                self._teller.acknowledge(tx, incident)

    def note(self, incident_id: str, who: str, text: str) -> None:
        """Keep a sentence with the incident, open or not. Errors: RefusedError."""
        with self._store.begin() as tx:
            incident = tx.incident(incident_id)
            if incident is None:
                raise RefusedError(f"there is no incident {incident_id}")
            tx.record(
                self._clock(), self.name(who), "note", incident=incident.id, endpoint=incident.endpoint, reason=text
            )

    def close(self, incident_id: str, who: str, why: str) -> None:
        """End it; what waits for a decision on it is withdrawn. Errors: RefusedError when a rollback of it is under way."""
        with self._store.begin() as tx:
            incident, who = self._open(tx, incident_id), self.name(who)
            last = tx.last_rollback(incident.id)
            if last and last.state.under_way:
                raise RefusedError(f"a rollback is {last.state}: it ends first (`lastgood kill on` stops it)")
            if last and not last.state.ended:
                self._executor.apply(tx, last, Withdraw(f"{who} closed the incident: {why}"))
            self._teller.resolve(tx, incident, f"{CLOSED_BY}{who}: {why}", who)

    def _open(self, tx: Tx, incident_id: str) -> Incident:
        incident = tx.incident(incident_id)
        if incident is None:
            raise RefusedError(f"there is no incident {incident_id}")
        if incident.resolved_at is not None:
            raise RefusedError(f"incident {incident_id} has ended: {incident.resolution}")
        return incident

    # silences, freezes and the switch

    def pause(self, pause: Pause) -> None:
        """Errors: RefusedError when it ends before it starts or has no reason."""
        if pause.ends <= pause.starts or not pause.why.strip():
            raise RefusedError("a silence or freeze needs an end after its start, and a reason")
        with self._store.begin() as tx:
            pause = replace(pause, who=self.name(pause.who))
            tx.add_pause(pause)
            facts = {
                "pause": pause.id,
                "endpoint": pause.endpoint,
                "until": pause.ends.isoformat(),
                "reason": pause.why,
            }
            tx.record(self._clock(), pause.who, pause.kind, **facts)

    def end_pause(self, pause_id: str, who: str) -> None:
        """Errors: RefusedError when there is none that goes on."""
        with self._store.begin() as tx:
            if not tx.end_pause(pause_id, self._clock()):
                raise RefusedError(f"there is no silence or freeze {pause_id} that goes on")
            tx.record(self._clock(), self.name(who), "pause ended", pause=pause_id)

    def set_kill_switch(self, on: bool, who: str, why: str) -> None:
        """While on, nothing is sent to the workspace: no rollback starts and none under way takes its next step."""
        switch(self._store, on, self.name(who), why, self._clock())


class _NoWorkspace:
    def __getattr__(self, name: str) -> Any:
        raise RefusedError(f"this command asks no workspace ({name})")


def state_only(settings: Settings, store: Store, clock: Callable[[], datetime]) -> People:
    """What people can do with the state store alone: incidents, silences, the switch. No workspace is asked, no secret is needed;
    the service sends what is to be said."""
    signer, absent = Signer([secrets.token_urlsafe(32)]), cast(Any, _NoWorkspace())
    teller = Teller(settings, signer, (), clock, secrets.token_urlsafe)
    executor = Executor(store, absent, {}, settings, clock, secrets.token_urlsafe, teller.announce)
    return People(store, executor, teller, signer, clock, secrets.token_urlsafe)


def switch(store: Store, on: bool, who: str, why: str, now: datetime) -> None:
    """Turn the kill switch with nothing but the state. Errors: TransientError."""
    with store.begin() as tx:
        tx.set_kill_switch(KillSwitch(on, who, why))
        tx.record(now, who, "kill switch on" if on else "kill switch off", why=why)


def refuse_when_killed(tx: Tx) -> None:
    """Errors: RefusedError while the kill switch is on."""
    if (switch := tx.kill_switch()).on:
        raise RefusedError(f"the kill switch is on ({switch.who}: {switch.why}); `lastgood kill off` ends it")


def task_key(kind: Kind, endpoint: str) -> str:
    """What stands for the incident of a promotion or a drill: one of each per endpoint at a time."""
    return hashlib.sha256(f"{kind}\n{endpoint}".encode()).hexdigest()[:16]
