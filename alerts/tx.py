"""The operations of one transaction on the operational state: records in, records out, guards that let one through."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from lastgood.alerts import schema as t
from lastgood.alerts.audit import entry_hash, plain, problems
from lastgood.alerts.records import Check, Incident, KillSwitch, Message, Pause, PauseKind, Rollback
from lastgood.alerts.rollback.machine import Progress, Status
from lastgood.alerts.rollback.plan import Kind, Plan, Snapshot
from lastgood.errors import TransientError
from lastgood.record.verdict import Verdict


class Tx:
    """The operations of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def _insert(self, table: Any, values: Mapping[str, Any]) -> bool:
        """False when a row with the same key is there already."""
        try:
            with self._db.begin_nested():
                self._db.execute(insert(table).values(**values))
        except IntegrityError:
            return False
        return True

    # verdicts and incidents

    def save_verdict(self, verdict: Verdict) -> bool:
        """False when a newer verdict of this judge on this version is already known."""
        values = {"judged_at": verdict.judged_at, "document": verdict.as_json()}
        key = {"endpoint": verdict.endpoint, "candidate": verdict.candidate, "judge": verdict.judge}
        if self._insert(t.verdicts, {**key, **values}):
            return True
        v = t.verdicts.c
        same = (v.endpoint == verdict.endpoint) & (v.candidate == verdict.candidate) & (v.judge == verdict.judge)
        where = same & (v.judged_at <= verdict.judged_at)
        return self._db.execute(update(t.verdicts).where(where).values(**values)).rowcount == 1

    def verdicts(self, endpoint: str | None = None) -> list[Verdict]:
        """The newest of each judge on each version, by endpoint and time."""
        v = t.verdicts.c
        query = select(v.document).order_by(v.endpoint, v.judged_at)
        if endpoint is not None:
            query = query.where(v.endpoint == endpoint)
        return [Verdict.from_json(document) for document in self._db.scalars(query)]

    def newest_verdict(self) -> datetime | None:
        """When a judge last spoke, of any endpoint."""
        moment = self._db.execute(
            select(t.verdicts.c.judged_at).order_by(t.verdicts.c.judged_at.desc()).limit(1)
        ).first()
        return moment.judged_at if moment else None

    def forget_verdicts(self, before: datetime) -> int:
        """Take away verdicts older than `before`, of versions without an open incident; how many."""
        v, i = t.verdicts.c, t.incidents.c
        held = exists().where(i.open_key.is_not(None), i.endpoint == v.endpoint, i.candidate == v.candidate)
        return self._db.execute(t.verdicts.delete().where(v.judged_at < before, ~held)).rowcount

    def add_served_well(self, endpoint: str, version: str, at: datetime) -> None:
        """The judge called this version healthy."""
        if not self._insert(t.served_well, {"endpoint": endpoint, "version": version, "last_at": at, "times": 1}):
            where = (t.served_well.c.endpoint == endpoint) & (t.served_well.c.version == version)
            values = {"last_at": at, "times": t.served_well.c.times + 1}
            self._db.execute(update(t.served_well).where(where).values(**values))

    def served_well(self, endpoint: str) -> list[tuple[str, datetime, int]]:
        """(version, last judged healthy, how often), newest first."""
        w = t.served_well.c
        query = select(w.version, w.last_at, w.times).where(w.endpoint == endpoint).order_by(w.last_at.desc())
        return [(row.version, row.last_at, row.times) for row in self._db.execute(query)]

    def open_incident(self, incident: Incident) -> bool:
        """False when one is open for the same endpoint and candidate."""
        return self._insert(
            t.incidents, {**vars(incident), "open_key": _open_key(incident.endpoint, incident.candidate)}
        )

    def find_incident(self, endpoint: str, candidate: str) -> Incident | None:
        """The open incident of this endpoint and candidate."""
        where = t.incidents.c.open_key == _open_key(endpoint, candidate)
        return _incident(self._db.execute(select(t.incidents).where(where)).first())

    def incident(self, incident_id: str) -> Incident | None:
        return _incident(self._db.execute(select(t.incidents).where(t.incidents.c.id == incident_id)).first())

    def incidents(self, endpoint: str | None = None, open_only: bool = False, limit: int = 100) -> list[Incident]:
        """Newest first."""
        query = select(t.incidents).order_by(t.incidents.c.opened_at.desc()).limit(limit)
        if endpoint is not None:
            query = query.where(t.incidents.c.endpoint == endpoint)
        if open_only:
            query = query.where(t.incidents.c.open_key.is_not(None))
        return [i for row in self._db.execute(query) if (i := _incident(row))]

    def ended_incidents(self, endpoint: str) -> dict[str, Incident]:
        """Version -> its newest incident that has ended."""
        i = t.incidents.c
        query = select(t.incidents).where(i.endpoint == endpoint, i.open_key.is_(None)).order_by(i.resolved_at)
        return {row.candidate: incident for row in self._db.execute(query) if (incident := _incident(row))}

    def update_incident(self, incident_id: str, now: datetime, **values: Any) -> None:
        if "resolved_at" in values:
            values["open_key"] = None
        where = t.incidents.c.id == incident_id
        self._db.execute(update(t.incidents).where(where).values(updated_at=now, **values))

    # rollbacks and their journal

    def add_rollback(self, rollback: Rollback) -> bool:
        """False when the plan has a rollback, or the incident one that has not ended."""
        values = {k: v for k, v in vars(rollback).items() if k not in ("plan", "progress")}
        values |= vars(rollback.progress) | {"plan": rollback.plan.as_dict(), "live_key": rollback.incident_id}
        values |= {"endpoint": rollback.plan.endpoint, "bad_version": rollback.plan.bad_version}
        values |= {"kind": rollback.plan.kind}
        return self._insert(t.rollbacks, values)

    def save_rollback(self, rollback: Rollback) -> Rollback:
        """Errors: TransientError when somebody else changed it since it was read."""
        values: dict[str, Any] = {**vars(rollback.progress), "nonce": rollback.nonce, "revision": rollback.revision + 1}
        values |= {"shifted_at": rollback.shifted_at, "ended_at": rollback.ended_at, "moved_at": rollback.moved_at}
        if rollback.state.ended:
            values["live_key"] = None
        where = (t.rollbacks.c.id == rollback.id) & (t.rollbacks.c.revision == rollback.revision)
        if self._db.execute(update(t.rollbacks).where(where).values(**values)).rowcount != 1:
            raise TransientError(f"rollback {rollback.id} was changed by somebody else at the same moment")
        return replace(rollback, revision=rollback.revision + 1)

    def rollback(self, rollback_id: str) -> Rollback | None:
        return _rollback(self._db.execute(select(t.rollbacks).where(t.rollbacks.c.id == rollback_id)).first())

    def last_rollback(self, incident_id: str) -> Rollback | None:
        r = t.rollbacks.c
        query = select(t.rollbacks).where(r.incident_id == incident_id).order_by(r.created_at.desc())
        return _rollback(self._db.execute(query).first())

    def rollbacks(self, endpoint: str, limit: int = 20) -> list[Rollback]:
        """Newest first; promotions and drills too."""
        query = select(t.rollbacks).where(t.rollbacks.c.endpoint == endpoint)
        query = query.order_by(t.rollbacks.c.created_at.desc()).limit(limit)
        return [r for row in self._db.execute(query) if (r := _rollback(row))]

    def live_rollbacks(self) -> list[str]:
        """Ids of the rollbacks that have not ended, oldest first."""
        query = select(t.rollbacks.c.id).where(t.rollbacks.c.live_key.is_not(None)).order_by(t.rollbacks.c.created_at)
        return list(self._db.scalars(query))

    def shifts(self) -> dict[str, dict[str, list[datetime]]]:
        """Endpoint -> version -> when rollbacks moved traffic away from it, oldest first."""
        r = t.rollbacks.c
        moved = (r.kind == Kind.ROLLBACK) & r.moved_at.is_not(None)
        times: dict[str, dict[str, list[datetime]]] = {}
        for row in self._db.execute(select(t.rollbacks).where(moved).order_by(r.moved_at)):
            times.setdefault(row.endpoint, {}).setdefault(row.bad_version, []).append(row.moved_at)
        return times

    def rolled_back(self, endpoint: str) -> set[str]:
        """The versions of the endpoint that traffic was ever moved away from."""
        return set(self.shifts().get(endpoint, ()))

    def moved(self, endpoint: str, since: datetime) -> list[datetime]:
        """When rollbacks of the endpoint moved traffic, or ended after it, since `since`. An attempt that moved nothing does not count."""
        r = t.rollbacks.c
        recent = r.moved_at.is_not(None) & ((r.moved_at >= since) | (r.ended_at >= since))
        rows = self._db.execute(select(r.moved_at, r.ended_at).where(_rolled_back(endpoint) & recent))
        return [row.ended_at or row.moved_at for row in rows]

    def write_journal(self, rollback_id: str, at: datetime, effect: str, kind: str, detail: str = "") -> None:
        values = {"rollback_id": rollback_id, "at": at, "effect": effect, "kind": kind, "detail": detail}
        self._db.execute(insert(t.journal).values(**values))

    def journal(self, rollback_id: str) -> list[tuple[str, str, str]]:
        """(effect, kind, detail), oldest first."""
        query = select(t.journal).where(t.journal.c.rollback_id == rollback_id).order_by(t.journal.c.seq)
        return [(row.effect, row.kind, row.detail) for row in self._db.execute(query)]

    # guards

    def use_nonce(self, nonce: str, rollback_id: str, action: str, who: str, now: datetime) -> bool:
        """True exactly once per nonce."""
        values = {"nonce": nonce, "rollback_id": rollback_id, "action": action, "who": who, "used_at": now}
        return self._insert(t.nonces, values)

    def nonce_used(self, nonce: str) -> bool:
        return self._db.execute(select(t.nonces.c.nonce).where(t.nonces.c.nonce == nonce)).first() is not None

    def lease(self, name: str, holder: str, now: datetime, until: datetime) -> bool:
        """True when `holder` has the lease until `until`: it was free, had run out, or was already theirs."""
        if self._insert(t.leases, {"name": name, "holder": holder, "until": until}):
            return True
        free = (t.leases.c.holder == holder) | (t.leases.c.until <= now)
        values = {"holder": holder, "until": until}
        return self._db.execute(update(t.leases).where((t.leases.c.name == name) & free).values(**values)).rowcount == 1

    def leased(self, name: str, now: datetime) -> bool:
        where = (t.leases.c.name == name) & (t.leases.c.until > now)
        return self._db.execute(select(t.leases.c.name).where(where)).first() is not None

    def release(self, name: str, holder: str) -> None:
        self._db.execute(t.leases.delete().where((t.leases.c.name == name) & (t.leases.c.holder == holder)))

    def set_flag_once(self, name: str, value: Any) -> None:
        self._insert(t.flags, {"name": name, "value": value})

    def has_flag(self, name: str) -> bool:
        """Whether a flag was ever set. Locks nothing."""
        return self._db.scalar(select(t.flags.c.name).where(t.flags.c.name == name)) is not None

    def flag(self, name: str) -> Any:
        """The value of a flag, locked until the transaction ends; None when it was never set."""
        return self._db.scalar(select(t.flags.c.value).where(t.flags.c.name == name).with_for_update())

    def set_flag(self, name: str, value: Any) -> None:
        self._db.execute(update(t.flags).where(t.flags.c.name == name).values(value=value))

    def set_kill_switch(self, switch: KillSwitch) -> None:
        if not self._insert(t.flags, {"name": "kill_switch", "value": vars(switch)}):
            self._db.execute(update(t.flags).where(t.flags.c.name == "kill_switch").values(value=vars(switch)))

    def kill_switch(self) -> KillSwitch:
        value = self._db.scalar(select(t.flags.c.value).where(t.flags.c.name == "kill_switch"))
        return KillSwitch(**value) if value else KillSwitch()

    # silences and freezes

    def add_pause(self, pause: Pause) -> None:
        self._db.execute(insert(t.pauses).values(**vars(pause)))

    def pauses(self, now: datetime) -> list[Pause]:
        """Those that have not ended, the next to end first."""
        query = select(t.pauses).where(t.pauses.c.ends > now).order_by(t.pauses.c.ends)
        return [Pause(**{**row._mapping, "kind": PauseKind(row.kind)}) for row in self._db.execute(query)]

    def end_pause(self, pause_id: str, now: datetime) -> bool:
        """False when there is none that goes on."""
        where = (t.pauses.c.id == pause_id) & (t.pauses.c.ends > now)
        return self._db.execute(update(t.pauses).where(where).values(ends=now)).rowcount == 1

    # snapshots

    def add_snapshot(self, snapshot: Snapshot, now: datetime) -> None:
        """Kept when it differs from the newest one of the same version."""
        last = self.snapshot(snapshot.endpoint, snapshot.version)
        if last is None or last.settings != snapshot.settings:
            self._insert(t.snapshots, {**vars(snapshot), "seen_at": now})

    def snapshots(self, endpoint: str) -> list[Snapshot]:
        """Every one kept of the endpoint, those of the newest configurations first."""
        rows = (
            select(t.snapshots).where(t.snapshots.c.endpoint == endpoint).order_by(t.snapshots.c.config_version.desc())
        )
        return [Snapshot(row.endpoint, row.config_version, row.version, row.settings) for row in self._db.execute(rows)]

    def snapshot(self, endpoint: str, version: str) -> Snapshot | None:
        """The newest one of this version."""
        where = (t.snapshots.c.endpoint == endpoint) & (t.snapshots.c.version == version)
        row = self._db.execute(select(t.snapshots).where(where).order_by(t.snapshots.c.config_version.desc())).first()
        return Snapshot(row.endpoint, row.config_version, row.version, row.settings) if row else None

    # outbox

    def say(
        self, once: str, subject: str, event: Mapping[str, Any], now: datetime, channels: Iterable[str] = ("pagerduty",)
    ) -> bool:
        """Queue a message, once for every channel; False when the same thing was said before."""
        values = {"subject": subject, "event": event, "created_at": now, "attempts": 0, "next_at": now}
        values |= {"finished": False, "refused": False, "error": ""}
        lines = [
            self._insert(t.outbox, {**values, "once": f"{once}@{channel}", "channel": channel}) for channel in channels
        ]
        return any(lines)

    def due(self, now: datetime) -> list[Message]:
        """Messages to send now: of each channel and subject only the oldest: a resolve never overtakes its trigger."""
        o = t.outbox.c
        heads = select(func.min(o.id)).where(~o.finished).group_by(o.channel, o.subject)
        query = select(t.outbox).where(o.id.in_(heads), o.next_at <= now).order_by(o.next_at, o.id)
        return [
            Message(row.id, row.channel, row.event, row.attempts, row.created_at) for row in self._db.execute(query)
        ]

    def was_said(self, once: str) -> bool:
        """Whether a message was queued under this key, for any channel."""
        o = t.outbox.c
        return (
            self._db.execute(select(o.id).where(o.once.startswith(f"{once}@", autoescape=True)).limit(1)).first()
            is not None
        )

    def superseded(self, message: Message) -> bool:
        """Whether a message that is still to be sent ends the alert that this one triggers: it is over, or somebody has taken it on."""
        o = t.outbox.c
        ending = ("resolve",) if message.channel == "alertmanager" else ("resolve", "acknowledge")
        subject = select(o.subject).where(o.id == message.id).scalar_subquery()
        later = (o.channel == message.channel) & (o.subject == subject) & (o.id > message.id) & ~o.finished
        ends = (
            event["event_action"] in ending and event["dedup_key"] == message.event["dedup_key"]
            for event in self._db.scalars(select(o.event).where(later))
        )
        return message.event["event_action"] == "trigger" and any(ends)

    def unsent(self) -> dict[str, tuple[int, str]]:
        """channel -> (messages not delivered yet, the newest error)."""
        o = t.outbox.c
        candidates: dict[str, tuple[int, str]] = {}
        for row in self._db.execute(select(o.channel, o.error).where(~o.finished).order_by(o.id)):
            candidates[row.channel] = (candidates.get(row.channel, (0, ""))[0] + 1, row.error)
        return candidates

    def oldest_unsent(self) -> datetime | None:
        """When the oldest message that is not delivered was queued."""
        o = t.outbox.c
        row = self._db.execute(select(o.created_at).where(~o.finished).order_by(o.id).limit(1)).first()
        return row.created_at if row else None

    def sent(self, message_id: int, error: str = "", again_at: datetime | None = None, refused: bool = False) -> None:
        """Finished (with `error`: given up), or, with `again_at`, to be tried again then. `refused`: the receiver said no."""
        values: dict[str, Any] = {"finished": again_at is None, "error": error, "refused": refused}
        if again_at:
            values["next_at"] = again_at
        values["attempts"] = t.outbox.c.attempts + 1
        self._db.execute(update(t.outbox).where(t.outbox.c.id == message_id).values(**values))

    def retry_refused(self, now: datetime) -> int:
        """Messages that a receiver refused are due now: it may have been configured anew. How many."""
        where = ~t.outbox.c.finished & t.outbox.c.refused
        return self._db.execute(update(t.outbox).where(where).values(next_at=now)).rowcount

    def refused(self) -> dict[str, tuple[int, str]]:
        """channel -> (messages its receiver refused and that are kept, the newest error)."""
        o = t.outbox.c
        counts: dict[str, tuple[int, str]] = {}
        for row in self._db.execute(select(o.channel, o.error).where(~o.finished & o.refused).order_by(o.id)):
            counts[row.channel] = (counts.get(row.channel, (0, ""))[0] + 1, row.error)
        return counts

    def alert_keys(self, subject: str) -> list[str]:
        """The keys under which alerts about `subject` were triggered."""
        o = t.outbox.c
        events = self._db.scalars(select(o.event).where(o.subject == subject).order_by(o.id))
        return list(dict.fromkeys(str(event["dedup_key"]) for event in events if event["event_action"] == "trigger"))

    def channels(self, subject: str) -> list[str]:
        """The channels that were told of `subject`."""
        o = t.outbox.c
        return sorted(self._db.scalars(select(o.channel).where(o.subject == subject).distinct()))

    def standing(self, channel: str) -> list[Mapping[str, Any]]:
        """The newest delivered trigger under each key of the incidents that are open: what a receiver that forgets must be told again."""
        o, i = t.outbox.c, t.incidents.c
        query = (
            select(o.event)
            .join(t.incidents, i.id == o.subject)
            .where(o.channel == channel, o.finished, o.error == "", i.open_key.is_not(None))
            .order_by(o.id)
        )
        states = (event for event in self._db.scalars(query) if event["event_action"] in ("trigger", "resolve"))
        newest = {str(event["dedup_key"]): event for event in states}
        return [event for event in newest.values() if event["event_action"] == "trigger"]

    # housekeeping

    def prune(self, before: datetime) -> dict[str, int]:
        """Take away what nobody needs any more and is older than `before`: used nonces, delivered messages of ended incidents, leases
        and pauses that ran out. Incidents, rollbacks, journal and audit stay. Table -> rows taken away."""
        open_ids = select(t.incidents.c.id).where(t.incidents.c.open_key.is_not(None))
        gone = {
            t.nonces: t.nonces.c.used_at < before,
            t.outbox: t.outbox.c.finished & (t.outbox.c.created_at < before) & t.outbox.c.subject.not_in(open_ids),
            t.leases: t.leases.c.until < before,
            t.pauses: t.pauses.c.ends < before,
        }
        return {table.name: self._db.execute(table.delete().where(where)).rowcount for table, where in gone.items()}

    # release checks

    def add_check(self, check: Check) -> None:
        self._db.execute(insert(t.checks).values(**vars(check)))

    def last_check(self, endpoint: str, version: str) -> Check | None:
        c = t.checks.c
        query = select(t.checks).where(c.endpoint == endpoint, c.version == version).order_by(c.id.desc())
        row = self._db.execute(query).first()
        return Check(**{k: v for k, v in row._mapping.items() if k != "id"}) if row else None

    # audit

    def record(self, at: datetime, who: str, what: str, **detail: Any) -> None:
        """Append to the audit log: each entry's hash covers the one before it."""
        query = select(t.flags.c.value).where(t.flags.c.name == "audit_head").with_for_update()
        head = self._db.execute(query).scalar_one()
        entry = {
            "seq": head["seq"] + 1,
            "at": at.astimezone(UTC),
            "who": who,
            "what": what,
            "detail": plain(detail),
        }
        digest = entry_hash(head["hash"], entry)
        self._db.execute(insert(t.audit).values(**entry, hash=digest))
        value = {"seq": entry["seq"], "hash": digest}
        self._db.execute(update(t.flags).where(t.flags.c.name == "audit_head").values(value=value))

    def audit(self, incident: str | None = None, what: str | None = None) -> list[Mapping[str, Any]]:
        """The entries in order; only those that concern `incident`, or whose `what` begins so, where given."""
        query = select(t.audit).order_by(t.audit.c.seq)
        if incident is not None:
            query = query.where(t.audit.c.detail["incident"].as_string() == incident)
        if what is not None:
            query = query.where(t.audit.c.what.startswith(what, autoescape=True))
        return [dict(row._mapping) for row in self._db.execute(query)]

    def audit_head(self) -> dict[str, Any]:
        """`seq` and `hash` of the entry that was written last."""
        query = select(t.flags.c.value).where(t.flags.c.name == "audit_head")
        return dict(self._db.execute(query).scalar_one())

    def verify(self) -> list[str]:
        """What is wrong with the audit log, in sentences; empty when every entry is as it was written."""
        return problems(self.audit(), self.audit_head())


def _rolled_back(endpoint: str) -> Any:
    """Real rollbacks of the endpoint: neither promotions nor drills."""
    return (t.rollbacks.c.endpoint == endpoint) & (t.rollbacks.c.kind == Kind.ROLLBACK)


def _open_key(endpoint: str, candidate: str) -> str:
    return f"{endpoint}\n{candidate}"


def _incident(row: Row[Any] | None) -> Incident | None:
    return Incident(**{k: v for k, v in row._mapping.items() if k != "open_key"}) if row else None


def _rollback(row: Row[Any] | None) -> Rollback | None:
    if row is None:
        return None
    progress = Progress(Status(row.state), row.since, row.until, row.reason, row.who, tuple(row.approvals))
    return Rollback(
        row.id, row.incident_id, row.mode, row.metric, Plan.from_dict(row.plan), row.nonce, progress,
        row.revision, row.created_at, row.shifted_at, row.ended_at, row.moved_at, row.evidence or {},
    )  # fmt: skip
