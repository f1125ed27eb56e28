"""Incidents and rollbacks -> messages in the outbox, with signed links. Says each thing once."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from lastgood.alerts import brief, messages, registry
from lastgood.alerts.notify.pagerduty import event as pagerduty_event
from lastgood.alerts.records import Incident, Rollback
from lastgood.alerts.rollback.links import Action, Claims, Signer
from lastgood.alerts.rollback.machine import Effect, Status
from lastgood.alerts.rollback.plan import Kind, Plan
from lastgood.alerts.tx import Tx
from lastgood.settings import Settings
from lastgood.workspace import RegistryMark
from lastgood.workspace.identity import may_be_marked

AUTO = "lastgood (auto)"


class Teller:
    """`channels`: the names of the notifiers every message goes to."""

    def __init__(
        self,
        settings: Settings,
        signer: Signer,
        channels: Sequence[str],
        clock: Callable[[], datetime],
        new_nonce: Callable[[], str],
    ) -> None:
        self.settings = settings
        self.signer = signer
        self._channels = channels
        self._clock = clock
        self._new_nonce = new_nonce

    def announce(self, tx: Tx, rollback: Rollback, effect: Effect) -> None:
        """Say what a rollback's step means to people. Promotions and drills have no incident: their caller tells."""
        incident, reason = tx.incident(rollback.incident_id), rollback.progress.reason
        if effect is Effect.RESOLVE and rollback.plan.kind is Kind.ROLLBACK:
            self._left(tx, rollback, incident)
        if incident is None:
            return
        if effect is Effect.ASK:
            self.ask(tx, incident, rollback)
        elif effect is Effect.TOLD and rollback.progress.who != AUTO:
            self.acknowledge(tx, incident)
        elif effect is Effect.RESOLVE:
            self.resolve(tx, incident, f"rolled back to version {rollback.plan.prior_version}: {reason}")
        elif effect is Effect.WARN:
            tx.update_incident(incident.id, self._clock(), note=reason)
            self.tell(tx, incident, f"{rollback.id}:differs", reason, plan=rollback.plan, again="differs")
        elif effect is Effect.PAGE:
            tried = "; ".join(f"{effect} {kind}" for effect, kind, _ in tx.journal(rollback.id)) or "nothing was sent"
            sentence = f"the rollback failed: {reason} (asked of the workspace: {tried})"
            tx.update_incident(incident.id, self._clock(), note=sentence)
            self.tell(tx, incident, f"{rollback.id}:failed", sentence, plan=rollback.plan, again="failed", tried=tried)

    def register(self, tx: Tx, mark: RegistryMark, once: str, **why: str) -> None:
        """Queue a write to the model registry, once."""
        now = self._clock()
        if tx.say(once, f"registry:{mark.model}", registry.event(mark), now, (registry.CHANNEL,)):
            alias = f"alias {mark.alias} {'moves to it' if mark.holds else 'leaves it'}" if mark.alias else ""
            facts = {"model": mark.model, "version": mark.version, "tags": dict(mark.tags), "alias": alias}
            tx.record(now, "lastgood", "asked of the registry", **facts, **why)

    def _left(self, tx: Tx, rollback: Rollback, incident: Incident | None) -> None:
        plan = rollback.plan
        if plan.registry_alias and may_be_marked(plan.model):
            base, now = self.settings.web.base_url, self._clock()
            mark = registry.rolled_back(plan.model, rollback, incident, base, plan.registry_alias, now)
            self.register(tx, mark, f"left:{rollback.id}", endpoint=plan.endpoint, rollback=rollback.id)

    def acknowledge(self, tx: Tx, incident: Incident) -> None:
        for key in tx.alert_keys(incident.id):
            self._about(tx, incident, f"{key}:acknowledged", "acknowledge", key)

    def resolve(self, tx: Tx, incident: Incident, why: str, who: str = "lastgood") -> None:
        now = self._clock()
        tx.update_incident(incident.id, now, resolved_at=now, resolution=why)
        tx.record(now, who, "resolved", incident=incident.id, endpoint=incident.endpoint, reason=why)
        for key in tx.alert_keys(incident.id):
            self._about(tx, incident, f"{key}:resolve", "resolve", key)

    def ask(self, tx: Tx, incident: Incident, rollback: Rollback, again: str = "") -> None:
        plan, sentence = rollback.plan, f"roll back to version {rollback.plan.prior_version}?"
        if rollback.progress.reason:
            sentence += f" ({rollback.progress.reason})"
        self.tell(tx, incident, f"ask:{rollback.nonce}", sentence, plan=plan, rollback=rollback, again=again)

    def tell(
        self,
        tx: Tx,
        incident: Incident,
        once: str,
        sentence: str,
        *,
        plan: Plan | None = None,
        rollback: Rollback | None = None,
        again: str = "",
        severity: str | None = None,
        **more: object,
    ) -> bool:
        """Queue the incident's alert; False when `once` was said before. With a rollback its link decides. `again`: see messages.under."""
        now, pagerduty = self._clock(), self.settings.pagerduty
        severity = severity or (pagerduty.severity_rollback if plan else pagerduty.severity_page)
        name = "Evidence and rollback" if rollback else "Evidence"
        links = {name: f"{self.settings.web.base_url.rstrip('/')}/r/{self.link(incident, rollback)}"}
        runbook = self.settings.endpoint(incident.endpoint).runbook_url
        links |= {k: v for k, v in {"Dashboard": self.settings.dashboard_url, "Runbook": runbook}.items() if v}
        if plan and (source := self.settings.endpoint(incident.endpoint).source_file):
            command = f"lastgood incident patch {incident.id[:8]}"
            more["declared in"] = (
                f"{source}: its next deploy undoes a rollback until the patch of `{command}` is merged"
            )
        more |= {"plan": plan.diff(), "why this version": plan.reasons, "plan id": plan.id} if plan else {}
        if (switch := tx.kill_switch()).on:
            more["kill switch"] = f"on ({switch.who}: {switch.why}): no rollback starts or goes on"
        more["brief"] = str(brief.read(tx, incident, now))
        document = messages.trigger(incident, self.settings, now, sentence, severity=severity, links=links, **more)
        if again:
            document = messages.under(document, again)
        return tx.say(_key(incident, once), incident.id, document, now, self._channels)

    def told(self, tx: Tx, incident: Incident, once: str) -> bool:
        """Whether `once` was said of the incident."""
        return tx.was_said(_key(incident, once))

    def link(self, incident: Incident, rollback: Rollback | None) -> str:
        """A signed token: to decide on the rollback, or (None) only to look at the incident's evidence."""
        expires = self._clock() + timedelta(seconds=self.settings.web.link_ttl_s)
        if rollback is None:
            claims = Claims(incident.endpoint, incident.id, Action.VIEW, "", 0, self._new_nonce(), expires)
        else:
            ends = rollback.progress.until if rollback.state is Status.PROPOSED else None
            plan, ends = rollback.plan, min(expires, ends or expires)
            claims = Claims(
                plan.endpoint, incident.id, Action.DECIDE, plan.id, plan.config_version, rollback.nonce, ends
            )
        return self.signer.sign(claims)

    def _about(self, tx: Tx, incident: Incident, once: str, action: str, key: str) -> None:
        document = pagerduty_event(action, key, about=messages.about(incident))
        tx.say(once, incident.id, document, self._clock(), tx.channels(incident.id) or self._channels)


def _key(incident: Incident, once: str) -> str:
    return f"{incident.id}:{hashlib.sha256(once.encode()).hexdigest()[:32]}"
