"""incidents that end, verdicts by version and judge, silences and freezes, refused messages"""

import sqlalchemy as sa
from alembic import op

from lastgood.alerts.schema import UtcTime

revision = "0002"
down_revision = "0001"

OLD = sa.table("verdicts", sa.column("endpoint"), sa.column("judged_at", UtcTime()), sa.column("document", sa.JSON()))


def upgrade() -> None:
    db = op.get_bind()
    kept = [tuple(row) for row in db.execute(sa.select(OLD.c.endpoint, OLD.c.judged_at, OLD.c.document))]
    op.drop_table("verdicts")
    verdicts = op.create_table(
        "verdicts",
        sa.Column("endpoint", sa.String(length=255), nullable=False),
        sa.Column("candidate", sa.String(length=255), nullable=False),
        sa.Column("judge", sa.String(length=16), nullable=False),
        sa.Column("judged_at", UtcTime(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "candidate", "judge"),
    )
    op.create_index("ix_verdicts_judged_at", "verdicts", ["judged_at"])
    for endpoint, judged_at, document in kept:
        values = {"endpoint": endpoint, "candidate": document.get("candidate", "?"), "judge": "scheduled"}
        db.execute(verdicts.insert().values(**values, judged_at=judged_at, document=document))
    with op.batch_alter_table("incidents") as incidents:
        incidents.add_column(sa.Column("harm_at", UtcTime(), nullable=True))
        incidents.add_column(sa.Column("acked_at", UtcTime(), nullable=True))
        incidents.add_column(sa.Column("acked_by", sa.String(length=255), nullable=False, server_default=""))
    with op.batch_alter_table("rollbacks") as rollbacks:
        rollbacks.add_column(sa.Column("moved_at", UtcTime(), nullable=True))
        rollbacks.add_column(sa.Column("evidence", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("outbox") as outbox:
        outbox.add_column(sa.Column("refused", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "pauses",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("endpoint", sa.String(length=255), nullable=False),
        sa.Column("starts", UtcTime(), nullable=False),
        sa.Column("ends", UtcTime(), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_pauses_ends", "pauses", ["ends"])
    # Rollbacks of before: what was being verified, or had been, had moved.
    moved = "state IN ('Verifying', 'Done') OR (state = 'Failed' AND reason LIKE 'no recovery%')"
    op.execute(f"UPDATE rollbacks SET moved_at = shifted_at WHERE {moved}")


def downgrade() -> None:
    db = op.get_bind()
    new = sa.select(OLD.c.endpoint, OLD.c.judged_at, OLD.c.document).order_by(OLD.c.judged_at)
    kept = {row.endpoint: tuple(row) for row in db.execute(new)}
    op.drop_table("pauses")
    with op.batch_alter_table("outbox") as outbox:
        outbox.drop_column("refused")
    with op.batch_alter_table("rollbacks") as rollbacks:
        rollbacks.drop_column("moved_at")
        rollbacks.drop_column("evidence")
    with op.batch_alter_table("incidents") as incidents:
        for name in ("harm_at", "acked_at", "acked_by"):
            incidents.drop_column(name)
    op.drop_table("verdicts")
    old = op.create_table(
        "verdicts",
        sa.Column("endpoint", sa.String(length=255), nullable=False),
        sa.Column("judged_at", UtcTime(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint"),
    )
    for endpoint, judged_at, document in kept.values():
        db.execute(old.insert().values(endpoint=endpoint, judged_at=judged_at, document=document))
