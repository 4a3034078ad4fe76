"""Runs that judge the archive again, and which step each event follows from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from portmon.storage.tables import SafeJson, SafeText, UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.add_column(sa.Column("step", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("replayed_by", SafeText(), nullable=True))
        batch_op.add_column(sa.Column("retracted_by", SafeText(), nullable=True))
        batch_op.create_index(batch_op.f("ix_events_step"), ["step"], unique=False)
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("after_step", sa.Integer(), nullable=True))
    op.create_table(
        "replays",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run_id", SafeText(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.Column("notify", sa.Boolean(), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("done_at", UtcDateTime(), nullable=True),
        sa.Column("done_by", SafeText(), nullable=True),
        sa.Column("judged_from", UtcDateTime(), nullable=True),
        sa.Column("last_step", sa.Integer(), nullable=True),
        sa.Column("rules", sa.String(length=64), nullable=True),
        sa.Column("summary", SafeJson(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replays")),
        comment="times that are to be judged again, and what came of those that were",
    )
    with op.batch_alter_table("replays", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_replays_asked_at"), ["asked_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_replays_run_id"), ["run_id"], unique=False)
    # Events of before do not say which step they follow from: what was judged until now can't be judged again.
    op.execute("DELETE FROM checkpoints")
    op.execute("DELETE FROM journal")


def downgrade() -> None:
    """Take back."""
    op.drop_table("replays")
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_column("after_step")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_events_step"))
        batch_op.drop_column("retracted_by")
        batch_op.drop_column("replayed_by")
        batch_op.drop_column("step")
