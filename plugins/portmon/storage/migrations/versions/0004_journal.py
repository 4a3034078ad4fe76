"""What changed the state, step by step, and the state as it was each day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from portmon.storage.tables import SafeJson, SafeText, UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "journal",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run_id", SafeText(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("inventory", sa.String(length=64), nullable=False),
        sa.Column("what", sa.String(length=64), nullable=False),
        sa.Column("late", SafeJson(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_journal")),
        comment="what changed the state, step by step: prunes and judgements",
    )
    with op.batch_alter_table("journal", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_journal_at"), ["at"], unique=False)
        batch_op.create_index(batch_op.f("ix_journal_run_id"), ["run_id"], unique=False)
    op.create_table(
        "checkpoints",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("content", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", "part", name=op.f("pk_checkpoints")),
        comment="the state as it was after a step of the journal, in parts; 0 is before all of them",
    )
    with op.batch_alter_table("checkpoints", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_checkpoints_at"), ["at"], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_table("checkpoints")
    op.drop_table("journal")
