"""The operational state: what is written together is written in one transaction, or not at all."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, create_engine, event, func, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError

from lastgood.alerts import schema as t
from lastgood.alerts.audit import GENESIS, entry_hash, plain, problems
from lastgood.alerts.records import Incident, KillSwitch, Message, Rollback
from lastgood.alerts.rollback.machine import Progress, Status
from lastgood.alerts.rollback.plan import Plan, Snapshot
from lastgood.errors import ConfigError, TransientError


class Store:
    """SQLite (embedded) or PostgreSQL behind one SQLAlchemy URL. Safe to share between threads and processes."""

    def __init__(self, url: str) -> None:
        try:
            address = make_url(url)
            if address.drivername.startswith("sqlite") and address.database:
                Path(address.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(address)
        except (ArgumentError, ImportError, OSError) as error:
            raise ConfigError(f"state_url: cannot be used: {error}") from error
        if self._engine.dialect.name == "sqlite":
            _tune_sqlite(self._engine)
        with _storage_errors():
            t.metadata.create_all(self._engine)
        with self.begin() as tx:
            tx.set_flag_once("audit_head", {"seq": 0, "hash": GENESIS})

    @contextmanager
    def begin(self) -> "Iterator[Tx]":
        """Read and write: everything inside happens, or nothing. Errors: TransientError when the database is busy."""
        with _storage_errors(), self._engine.connect() as plain_connection:
            connection = plain_connection.execution_options(lastgood_write=True)
            with connection.begin():
                yield Tx(connection)

    @contextmanager
    def read(self) -> "Iterator[Tx]":
        """Read only: whatever is inside, nothing is kept."""
        with _storage_errors(), self._engine.connect() as connection:
            yield Tx(connection)

    def close(self) -> None:
        self._engine.dispose()


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

    def save_verdict(self, endpoint: str, judged_at: datetime, document: Mapping[str, Any]) -> bool:
        """False when a newer verdict is already known."""
        values = {"judged_at": judged_at, "document": document}
        if self._insert(t.verdicts, {"endpoint": endpoint, **values}):
            return True
        where = (t.verdicts.c.endpoint == endpoint) & (t.verdicts.c.judged_at <= judged_at)
        return self._db.execute(update(t.verdicts).where(where).values(**values)).rowcount == 1

    def verdicts(self) -> list[Mapping[str, Any]]:
        return list(self._db.scalars(select(t.verdicts.c.document).order_by(t.verdicts.c.endpoint)))

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
        return self._insert(t.rollbacks, values)

    def save_rollback(self, rollback: Rollback) -> Rollback:
        """Errors: TransientError when somebody else changed it since it was read."""
        values: dict[str, Any] = {**vars(rollback.progress), "nonce": rollback.nonce, "revision": rollback.revision + 1}
        values |= {"shifted_at": rollback.shifted_at, "ended_at": rollback.ended_at}
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

    def live_rollbacks(self) -> list[str]:
        """Ids of the rollbacks that have not ended, oldest first."""
        query = select(t.rollbacks.c.id).where(t.rollbacks.c.live_key.is_not(None)).order_by(t.rollbacks.c.created_at)
        return list(self._db.scalars(query))

    def rolled_back(self, endpoint: str) -> set[str]:
        """The versions of the endpoint that traffic was ever moved away from."""
        where = (t.rollbacks.c.endpoint == endpoint) & t.rollbacks.c.shifted_at.is_not(None)
        return set(self._db.scalars(select(t.rollbacks.c.bad_version).where(where)))

    def last_shift(self, endpoint: str) -> datetime | None:
        """When traffic of the endpoint was last moved by a rollback."""
        r = t.rollbacks.c
        last: datetime | None = self._db.scalar(select(func.max(r.shifted_at)).where(r.endpoint == endpoint))
        return last

    def shifts_since(self, endpoint: str, moment: datetime) -> int:
        """How many rollbacks of the endpoint began to shift, or ended after shifting, since `moment`."""
        r = t.rollbacks.c
        recent = (r.shifted_at >= moment) | (r.shifted_at.is_not(None) & (r.ended_at >= moment))
        return self._db.scalar(select(func.count()).where((r.endpoint == endpoint) & recent)) or 0

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

    def set_kill_switch(self, switch: KillSwitch) -> None:
        if not self._insert(t.flags, {"name": "kill_switch", "value": vars(switch)}):
            self._db.execute(update(t.flags).where(t.flags.c.name == "kill_switch").values(value=vars(switch)))

    def kill_switch(self) -> KillSwitch:
        value = self._db.scalar(select(t.flags.c.value).where(t.flags.c.name == "kill_switch"))
        return KillSwitch(**value) if value else KillSwitch()

    # snapshots

    def add_snapshot(self, snapshot: Snapshot, now: datetime) -> None:
        """Kept when it differs from the newest one of the same version."""
        last = self.snapshot(snapshot.endpoint, snapshot.version)
        if last is None or last.settings != snapshot.settings:
            self._insert(t.snapshots, {**vars(snapshot), "seen_at": now})

    def snapshot(self, endpoint: str, version: str) -> Snapshot | None:
        """The newest one of this version."""
        where = (t.snapshots.c.endpoint == endpoint) & (t.snapshots.c.version == version)
        row = self._db.execute(select(t.snapshots).where(where).order_by(t.snapshots.c.config_version.desc())).first()
        return Snapshot(row.endpoint, row.config_version, row.version, row.settings) if row else None

    # outbox

    def say(self, once: str, subject: str, event: Mapping[str, Any], now: datetime) -> bool:
        """Queue a message; False when the same thing was said before."""
        values = {"once": once, "subject": subject, "event": event, "created_at": now, "attempts": 0, "next_at": now}
        return self._insert(t.outbox, {**values, "finished": False, "error": ""})

    def due(self, now: datetime) -> list[Message]:
        """Messages to send now: of each subject only the oldest, so that a resolve never overtakes its trigger."""
        o = t.outbox.c
        heads = select(func.min(o.id)).where(~o.finished).group_by(o.subject)
        query = select(t.outbox).where(o.id.in_(heads), o.next_at <= now).order_by(o.next_at, o.id)
        return [Message(row.id, row.event, row.attempts) for row in self._db.execute(query)]

    def sent(self, message_id: int, error: str = "", again_at: datetime | None = None) -> None:
        """Finished (with `error`: given up), or, with `again_at`, to be tried again then."""
        values: dict[str, Any] = {"finished": again_at is None, "error": error, "attempts": t.outbox.c.attempts + 1}
        if again_at:
            values["next_at"] = again_at
        self._db.execute(update(t.outbox).where(t.outbox.c.id == message_id).values(**values))

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

    def audit(self) -> list[Mapping[str, Any]]:
        return [dict(row._mapping) for row in self._db.execute(select(t.audit).order_by(t.audit.c.seq))]

    def verify(self) -> list[str]:
        """What is wrong with the audit log, in sentences; empty when every entry is as it was written."""
        head = self._db.execute(select(t.flags.c.value).where(t.flags.c.name == "audit_head")).scalar_one()
        return problems(self.audit(), head)


def _open_key(endpoint: str, candidate: str) -> str:
    return f"{endpoint}\n{candidate}"


def _incident(row: Row[Any] | None) -> Incident | None:
    return Incident(**{k: v for k, v in row._mapping.items() if k != "open_key"}) if row else None


def _rollback(row: Row[Any] | None) -> Rollback | None:
    if row is None:
        return None
    progress = Progress(Status(row.state), row.since, row.until, row.reason, row.who)
    return Rollback(
        row.id, row.incident_id, row.mode, row.metric, Plan.from_dict(row.plan), row.nonce, progress,
        row.revision, row.created_at, row.shifted_at, row.ended_at,
    )  # fmt: skip


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise TransientError(f"the operational state cannot be reached or is busy: {error.orig}") from error


def _tune_sqlite(engine: Engine) -> None:
    """WAL, and transactions that take the write lock at their start: none fails half way because of another."""

    @event.listens_for(engine, "connect")
    def connect(dbapi: Any, _: Any) -> None:
        dbapi.isolation_level = None
        for pragma in ("busy_timeout = 15000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            dbapi.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("lastgood_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
