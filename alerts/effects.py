"""Effects of a decision -> what they change: incidents, rollbacks, messages, audit. The only place that carries them out."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from lastgood.alerts import messages
from lastgood.alerts.decide import (
    ApproveAlone,
    Close,
    Effect,
    Note,
    Observe,
    Open,
    Propose,
    Register,
    Renew,
    Say,
    ServedWell,
    WithdrawRollback,
)
from lastgood.alerts.records import Incident, Rollback
from lastgood.alerts.rollback.executor import Executor
from lastgood.alerts.rollback.machine import Approve, Progress, Status, Withdraw
from lastgood.alerts.teller import AUTO, Teller
from lastgood.alerts.tx import Tx
from lastgood.errors import TransientError
from lastgood.settings import Settings


class Effects:
    """Carries effects out inside the caller's transaction: all of them, or none."""

    def __init__(
        self,
        settings: Settings,
        executor: Executor,
        teller: Teller,
        clock: Callable[[], datetime],
        new_nonce: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._executor = executor
        self._teller = teller
        self._clock = clock
        self._new_nonce = new_nonce

    def carry_out(self, tx: Tx, effects: Iterable[Effect]) -> None:
        """Errors: TransientError when somebody else did the same at the same moment; decide again then."""
        for effect in effects:
            self._carry(tx, effect)

    def _carry(self, tx: Tx, effect: Effect) -> None:
        now = self._clock()
        match effect:
            case Open(incident):
                if not tx.open_incident(incident):
                    raise TransientError(f"an incident of {incident.endpoint} was opened at the same moment")
                facts = {"incident": incident.id, "endpoint": incident.endpoint, "reason": incident.verdict["reason"]}
                tx.record(now, "judge", "opened", **facts)
            case Renew(incident):
                tx.update_incident(
                    incident.id, now, verdict=incident.verdict, prior=incident.prior, harm_at=incident.harm_at
                )
            case Close(incident, why):
                self._teller.resolve(tx, incident, why)
            case Note(incident, text, what):
                self._note(tx, incident, text, what)
            case Say(incident, once, sentence, plan, again):
                self._teller.tell(tx, incident, once, sentence, plan=plan, again=again)
            case Observe(incident, plan):
                sentence = messages.would(plan)
                if self._teller.tell(tx, incident, f"would:{plan.config_version}", sentence, plan=plan):
                    tx.update_incident(incident.id, now, note=sentence)
                    tx.record(now, "lastgood", "observed", incident=incident.id, diff=plan.diff())
            case Propose():
                self._propose(tx, effect, now)
            case ApproveAlone(incident, rollback):
                self._alone(tx, incident, rollback)
            case WithdrawRollback(rollback, why):
                self._executor.apply(tx, rollback, Withdraw(why))
            case Register(endpoint, mark, once, why):
                self._teller.register(tx, mark, once, endpoint=endpoint, why=why)
            case ServedWell(endpoint, version, at):
                tx.add_served_well(endpoint, version, at)

    def _note(self, tx: Tx, incident: Incident, text: str, what: str) -> None:
        current = tx.incident(incident.id)
        if current and current.note != text:
            tx.update_incident(incident.id, self._clock(), note=text)
            tx.record(self._clock(), "lastgood", what, incident=incident.id, endpoint=incident.endpoint, text=text)

    def _propose(self, tx: Tx, effect: Propose, now: datetime) -> None:
        incident, plan, mode = effect.incident, effect.plan, self._settings.endpoint(effect.plan.endpoint).mode
        until = now + timedelta(seconds=self._settings.endpoint(plan.endpoint).policy.proposal_ttl_s)
        progress = Progress(Status.PROPOSED, now, until, "; ".join(filter(None, (effect.anew, effect.hold))))
        rollback = Rollback(
            plan.id, incident.id, mode, str(effect.evidence["metric"]), plan, self._new_nonce(), progress, 0, now,
            evidence=effect.evidence,
        )  # fmt: skip
        if not tx.add_rollback(rollback):
            return
        facts = {"endpoint": plan.endpoint, "rollback": plan.id, "incident": incident.id}
        reason = incident.verdict["reason"]
        tx.record(now, "lastgood", Status.PROPOSED, reason=effect.hold, evidence=reason, why=plan.reasons, **facts)
        if effect.alone:
            self._alone(tx, incident, rollback, effect.again, effect.anew)
        else:
            self._teller.ask(tx, incident, rollback, effect.again)

    def _alone(self, tx: Tx, incident: Incident, rollback: Rollback, again: str = "", anew: str = "") -> None:
        self._executor.apply(tx, rollback, Approve(AUTO, alone=True))
        sentence = f"rolling back to version {rollback.plan.prior_version} by itself{f' ({anew})' if anew else ''}"
        self._teller.tell(tx, incident, rollback.id, sentence, plan=rollback.plan, again=again)
