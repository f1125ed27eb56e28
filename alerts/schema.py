"""The tables of the operational state, in types that SQLite and PostgreSQL share."""

from datetime import UTC, datetime

from sqlalchemy import JSON, Boolean, Column, DateTime, Dialect, Integer, MetaData, String, Table, Text
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite keeps no zone and PostgreSQL the session's, so UTC is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

verdicts = Table(
    "verdicts",
    metadata,
    Column("endpoint", String(255), primary_key=True),
    Column("candidate", String(255), primary_key=True),
    Column("judge", String(16), primary_key=True),
    Column("judged_at", UtcTime, nullable=False, index=True),
    Column("document", JSON, nullable=False),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("open_key", String(600), unique=True),  # endpoint and candidate while open, null afterwards
    Column("endpoint", String(255), nullable=False, index=True),
    Column("candidate", String(255), nullable=False),
    Column("prior", String(255)),
    Column("verdict", JSON, nullable=False),
    Column("note", Text, nullable=False, default=""),  # why there is no rollback, or what it would do
    Column("opened_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("resolved_at", UtcTime),
    Column("resolution", Text, nullable=False, default=""),
    Column("harm_at", UtcTime),  # when a judge last saw the harm
    Column("acked_at", UtcTime),
    Column("acked_by", String(255), nullable=False, default=""),
)

rollbacks = Table(
    "rollbacks",
    metadata,
    Column("id", String(32), primary_key=True),  # the plan's id: one rollback per plan
    Column("incident_id", String(32), nullable=False, index=True),
    Column("live_key", String(32), unique=True),  # the incident while not ended, null afterwards
    Column("kind", String(16), nullable=False),  # rollback | promote | drill
    Column("endpoint", String(255), nullable=False, index=True),
    Column("bad_version", String(255), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("metric", String(64), nullable=False),
    Column("plan", JSON, nullable=False),
    Column("nonce", String(64), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("since", UtcTime, nullable=False),
    Column("until", UtcTime),
    Column("reason", Text, nullable=False),
    Column("who", String(255), nullable=False),
    Column("approvals", JSON, nullable=False),  # who has approved so far
    Column("revision", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("shifted_at", UtcTime),  # when the first change was about to be sent
    Column("ended_at", UtcTime),
    Column("moved_at", UtcTime),  # when the workspace showed that the traffic had moved
    Column("evidence", JSON, nullable=False),  # what it was proposed on
)

journal = Table(
    "journal",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("rollback_id", String(32), nullable=False, index=True),
    Column("at", UtcTime, nullable=False),
    Column("effect", String(16), nullable=False),
    Column("kind", String(16), nullable=False),  # intent | accepted | refused | unknown
    Column("detail", Text, nullable=False),
)

nonces = Table(
    "nonces",
    metadata,
    Column("nonce", String(64), primary_key=True),
    Column("rollback_id", String(32), nullable=False),
    Column("action", String(16), nullable=False),
    Column("who", String(255), nullable=False),
    Column("used_at", UtcTime, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(300), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", UtcTime, nullable=False),
)

pauses = Table(
    "pauses",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),  # silence | freeze
    Column("endpoint", String(255), nullable=False),  # a pattern
    Column("starts", UtcTime, nullable=False),
    Column("ends", UtcTime, nullable=False, index=True),
    Column("who", String(255), nullable=False),
    Column("why", Text, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("once", String(700), unique=True, nullable=False),  # the same thing is never said twice
    Column("channel", String(32), nullable=False),
    Column("subject", String(64), nullable=False, index=True),  # sent in order within a channel and subject
    Column("event", JSON, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", UtcTime, nullable=False),
    Column("finished", Boolean, nullable=False, index=True),
    Column("refused", Boolean, nullable=False, default=False),  # the receiver said no: tried seldom, and at every start
    Column("error", Text, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("who", String(255), nullable=False),
    Column("what", String(64), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("hash", String(64), nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("endpoint", String(255), primary_key=True),
    Column("version", String(255), primary_key=True),
    Column("config_version", Integer, primary_key=True),
    Column("settings", JSON, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
)

served_well = Table(
    "served_well",
    metadata,
    Column("endpoint", String(255), primary_key=True),
    Column("version", String(255), primary_key=True),
    Column("last_at", UtcTime, nullable=False),  # when the judge last called it healthy
    Column("times", Integer, nullable=False),
)

checks = Table(
    "checks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("endpoint", String(255), nullable=False, index=True),
    Column("version", String(255), nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("document", JSON, nullable=False),
)

flags = Table(
    "flags",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", JSON, nullable=False),
)
