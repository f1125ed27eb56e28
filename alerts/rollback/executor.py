"""An approved rollback -> the endpoint changed: the only code that changes one.

Intent is journaled before each effect. After a crash the workspace is read again and the journal says what was
already asked for; asking again for the same configuration changes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from lastgood.alerts.records import Rollback
from lastgood.alerts.rollback.machine import Effect, Event, Seen, Status, Tick, View, step
from lastgood.alerts.rollback.plan import Kind, Plan, Route, Target, besides
from lastgood.alerts.rollback.verify import Recovery, Telemetry
from lastgood.alerts.store import Store
from lastgood.alerts.tx import Tx
from lastgood.errors import ConfigError, LastgoodError, RefusedError, TransientError
from lastgood.record.words import counted
from lastgood.settings import Settings
from lastgood.workspace import Endpoint, ServedEntity, Update, WorkspaceControl
from lastgood.workspace.identity import model_of, version_of

MAX_REFUSALS = 3
STALE = timedelta(seconds=30)
"""A process that looked at the endpoint longer ago does not send: it stood still, or the answer took so long, and others may have acted."""
CHANGES = (Effect.RESTORE, Effect.SHIFT)
ANSWERED = (200, 400, 422)
WAKE = "wake"
"""The journal's name for a request to a served entity that may have scaled to zero."""
Journal = Sequence[tuple[str, str, str]]


class Executor:
    """`announce` is told of every other effect, in the transaction that saves the new state."""

    def __init__(
        self,
        store: Store,
        workspace: WorkspaceControl,
        telemetry: Mapping[Kind, Telemetry],
        settings: Settings,
        clock: Callable[[], datetime],
        new_nonce: Callable[[], str],
        announce: Callable[[Tx, Rollback, Effect], None],
    ) -> None:
        self._store = store
        self._workspace = workspace
        self._telemetry = telemetry
        self._settings = settings
        self._clock = clock
        self._new_nonce = new_nonce
        self._announce = announce

    def advance(self, rollback_id: str) -> None:
        """Look at the workspace (or the telemetry) once and do one step.

        Errors: TransientError when somebody else moved the rollback meanwhile; the next call looks again.
        """
        with self._store.read() as tx:
            rollback = tx.rollback(rollback_id)
            journal, switch = tx.journal(rollback_id), tx.kill_switch()
        if rollback is None or not rollback.state.under_way:
            return
        looked_at = self._clock()
        event = (
            self._recovery(rollback) if rollback.state is Status.VERIFYING else self._look(rollback, journal, switch.on)
        )
        with self._store.begin() as tx:
            switch = tx.kill_switch()
            if switch.on and isinstance(event, Seen) and event.view in (View.BASE, View.RESTORED):
                event = Seen(View.BUSY, f"the kill switch is on ({switch.who}: {switch.why})")
            rollback, effects = self.apply(tx, rollback, event)
        for effect in effects:
            if effect in CHANGES:
                self._change(rollback, effect, looked_at)

    def apply(self, tx: Tx, rollback: Rollback, event: Event) -> tuple[Rollback, tuple[Effect, ...]]:
        """Save the state `event` leads to, with its journal, audit entry, lease and messages.

        Errors: RefusedError when the event is not possible or another rollback owns the endpoint.
        """
        now, before, plan = self._clock(), rollback.progress, rollback.plan
        policy = self._settings.endpoint(plan.endpoint).policy
        if plan.kind is Kind.PROMOTE:
            timeouts = dict.fromkeys(("verify_timeout_s", "telemetry_timeout_s"), policy.promote_timeout_s)
            policy = policy.model_copy(update=timeouts)
        progress, effects = step(before, event, now, policy, plan.path is Route.SLOW)
        if progress == before and not effects:
            return rollback, ()
        lease = lease_name(plan.endpoint)
        if progress.state is Status.APPROVED and before.state is not Status.APPROVED:
            verifying = max(policy.verify_timeout_s, policy.telemetry_timeout_s)
            longest = timedelta(seconds=2 * policy.ready_timeout_s + verifying, hours=1)
            if not tx.lease(lease, rollback.id, now, now + longest):
                raise RefusedError(f"another rollback of {plan.endpoint} is under way")
        changed = replace(rollback, progress=progress)
        if rollback.shifted_at is None and any(effect in CHANGES for effect in effects):
            changed = replace(changed, shifted_at=now)
        if progress.state is Status.VERIFYING and rollback.moved_at is None:
            changed = replace(changed, moved_at=now)
        if Effect.ASK in effects:
            changed = replace(changed, nonce=self._new_nonce())
        if progress.state.ended:
            changed = replace(changed, ended_at=now)
            tx.release(lease, rollback.id)
        saved = tx.save_rollback(changed)
        if (progress.state, progress.approvals) != (before.state, before.approvals):
            who = progress.who or "lastgood"
            facts = {"rollback": rollback.id, "incident": rollback.incident_id, "reason": progress.reason}
            what = progress.state if progress.state is not before.state else "approved, one of two"
            tx.record(now, who, what, endpoint=plan.endpoint, **facts)
        for effect in effects:
            if effect in CHANGES:
                tx.write_journal(rollback.id, now, effect, "intent")
            else:
                self._announce(tx, saved, effect)
        return saved, effects

    def _look(self, rollback: Rollback, journal: Journal, killed: bool) -> Seen:
        plan = rollback.plan
        try:
            endpoint = self._workspace.endpoint(plan.endpoint)
        except TransientError as error:
            return Seen(View.BUSY, f"the workspace cannot be read: {error}")
        except ConfigError as error:
            return Seen(View.BROKEN, str(error))
        seen = view_of(plan, endpoint, journal)
        if seen.view is View.SHIFTED:
            return replace(
                seen, besides=besides(plan, endpoint, self._settings.endpoint(plan.endpoint).write_only.keys())
            )
        next_is_shift = seen.view is (View.BASE if plan.path is Route.FAST else View.RESTORED)
        awake = any((name, kind) == (WAKE, "answered") for name, kind, _ in journal)
        return self._wake(rollback) if plan.wake and next_is_shift and not awake and not killed else seen

    def _wake(self, rollback: Rollback) -> Seen:
        """Ask the served entity that is to take the traffic, past the split, until the model answers. That it does not like the request is an
        answer; a refusal on the way to it (401, 403, 404, 429) is none."""
        plan = rollback.plan
        probe = self._settings.endpoint(plan.endpoint).release.probe
        try:
            reply = self._workspace.invoke(plan.endpoint, probe, entity=plan.prior_entity)
        except LastgoodError as error:
            return Seen(View.SENT, f"waiting for {plan.prior_entity} to wake: {error}")
        if reply.status not in ANSWERED:
            return Seen(View.SENT, f"waiting for {plan.prior_entity} to wake: it answers {reply.status}")
        with self._store.begin() as tx:
            tx.write_journal(
                rollback.id, self._clock(), WAKE, "answered", f"{reply.status} after {reply.seconds:.1f} s"
            )
        return Seen(View.SENT, f"{plan.prior_entity} is awake")

    def _recovery(self, rollback: Rollback) -> Event:
        plan = rollback.plan
        try:
            recovery = self._telemetry[plan.kind].recovery(
                plan.endpoint, plan.bad_version, plan.prior_version, rollback.progress.since, rollback.metric
            )
        except (TransientError, ConfigError) as error:
            return Tick(f"the telemetry cannot be read: {error}")
        decides = recovery.traffic_moved is None or (recovery.traffic_moved and recovery.recovered)
        return self._by_configuration(plan, recovery) if decides and not recovery.hopeless else recovery

    def _by_configuration(self, plan: Plan, recovery: Recovery) -> Recovery:
        """What the configuration says while telemetry does not, and before a rollback is done: traffic that somebody moved back needs no wait."""
        try:
            endpoint = self._workspace.endpoint(plan.endpoint)
        except LastgoodError as error:
            return replace(recovery, sentence=f"{recovery.sentence}; the workspace cannot be read: {error}")
        planned = sum(
            plan.traffic_after.get(e.name, 0) for e in endpoint.entities if e.entity_version == plan.bad_version
        )
        share = endpoint.share(plan.bad_version)
        if share <= planned:
            return recovery
        sentence = f"configuration {endpoint.config_version} sends {share}% to version {plan.bad_version} again"
        return replace(recovery, traffic_moved=False, sentence=sentence, hopeless=True)

    def _change(self, rollback: Rollback, effect: Effect, looked_at: datetime) -> None:
        plan = rollback.plan
        target = plan.targets[0 if effect is Effect.RESTORE else -1]
        kind, detail = "accepted", ""
        try:
            if self._clock() - looked_at > STALE:
                raise TransientError(
                    f"not sent: this process looked at the endpoint more than {STALE.seconds} s ago; the next step looks again"
                )
            self._workspace.update_config(plan.endpoint, target.entities, target.traffic, plan.passthrough)
        except (RefusedError, ConfigError) as error:
            kind, detail = "refused", str(error)
        except TransientError as error:
            kind, detail = "unknown", str(error)
        with self._store.begin() as tx:
            tx.write_journal(rollback.id, self._clock(), effect, kind, detail)


def lease_name(endpoint: str) -> str:
    """The lease a rollback holds from its approval to its end: one rollback per endpoint at a time."""
    return f"rollback/{endpoint}"


def view_of(plan: Plan, endpoint: Endpoint, journal: Journal) -> Seen:
    """The endpoint as it is, read against the plan and what was already asked for (pure)."""
    if endpoint.update is Update.IN_PROGRESS:
        pending = endpoint.pending_entities or endpoint.entities
        if endpoint.pending_traffic is not None and any(
            _is(target, pending, endpoint.pending_traffic) for target in plan.targets
        ):
            return Seen(View.SENT, "the workspace is applying the update")
        return Seen(View.BUSY, "another update of the endpoint is in progress")
    prior = next((e for e in endpoint.entities if e.name == plan.prior_entity), None)
    if _is(plan.targets[-1], endpoint.entities, endpoint.traffic):
        return _ready(prior, View.SHIFTED)
    accepted = any(name == Effect.SHIFT and kind == "accepted" for name, kind, _ in journal)
    if accepted and _holds(plan.targets[-1], endpoint):
        return _ready(prior, View.SHIFTED)  # and somebody has added an entity since
    restored = plan.path is Route.SLOW and _is(plan.targets[0], endpoint.entities, endpoint.traffic)
    if restored and not _same_settings(plan, endpoint):
        return Seen(View.CHANGED, "the served entities were changed by somebody else during the rollback")
    if not restored and endpoint.config_version != plan.config_version:
        return Seen(View.CHANGED, f"the configuration is no longer version {plan.config_version}: the plan is void")
    effect = Effect.RESTORE if plan.path is Route.SLOW and not restored else Effect.SHIFT
    asked = [(kind, detail) for name, kind, detail in journal if name == effect]
    refusals = [detail for kind, detail in asked if kind == "refused"]
    if len(refusals) >= MAX_REFUSALS:
        return Seen(View.BROKEN, f"the workspace refused the update {counted(len(refusals), 'time')}: {refusals[-1]}")
    if asked and asked[-1][0] == "accepted":
        if endpoint.update in (Update.FAILED, Update.CANCELED):
            return Seen(View.BROKEN, f"the update ended as {endpoint.update}; the configuration before it still serves")
        return Seen(View.SENT, "the workspace accepted the update and does not show it yet")
    last = asked[-1][1] if asked and asked[-1][0] == "unknown" else ""
    if plan.path is Route.SLOW and not restored:
        return Seen(View.BASE, last)
    return _ready(prior, View.RESTORED if restored else View.BASE, last)


def _ready(prior: ServedEntity | None, view: View, detail: str = "") -> Seen:
    if prior is None or prior.ready:
        return Seen(view, detail)
    if prior.deployment in ("DEPLOYMENT_FAILED", "DEPLOYMENT_ABORTED"):
        return Seen(View.BROKEN, f"the prior version cannot be deployed: {prior.deployment}")
    return Seen(View.SENT, f"waiting for the prior version to become ready ({prior.deployment})")


def _is(target: Target, entities: Sequence[ServedEntity], traffic: Mapping[str, int]) -> bool:
    """Whether a configuration is the target: the same versions under the same names with the same traffic."""
    wanted = {(s.get("name"), model_of(s), version_of(s)) for s in target.entities}
    present = {(e.name, e.entity_name, e.entity_version) for e in entities}
    return wanted == present and _shares(traffic) == _shares(target.traffic)


def _holds(target: Target, endpoint: Endpoint) -> bool:
    """Whether a configuration has the target's entities and traffic, whatever else it has without traffic."""
    wanted = {str(settings.get("name")) for settings in target.entities}
    return wanted <= {e.name for e in endpoint.entities} and _shares(endpoint.traffic) == _shares(target.traffic)


def _shares(traffic: Mapping[str, int]) -> dict[str, int]:
    return {name: share for name, share in traffic.items() if share}


def _same_settings(plan: Plan, endpoint: Endpoint) -> bool:
    """Whether what both documents name is equal; the workspace may add defaults of its own."""
    current = {e.name: e.settings for e in endpoint.entities}
    return all(current[s["name"]].get(key, value) == value for s in plan.entities for key, value in s.items())
