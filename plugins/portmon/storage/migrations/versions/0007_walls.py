"""Notices of late, bytes of a host's day, damaged contents, and which try of a task has a lease."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from portmon.storage.tables import SafeJson, SafeText

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("ports", sa.Column("notices", SafeJson(), nullable=False, server_default="[]"))
    op.add_column("leases", sa.Column("try_number", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("leases", sa.Column("ttl", sa.Float(), nullable=True))
    op.add_column("contents", sa.Column("damaged", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "stored",
        sa.Column("host_id", SafeText(), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("host_id", name=op.f("pk_stored")),
        comment="how much was stored of what a host said, on the last day on which it said something new",
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("stored")
    op.drop_column("contents", "damaged")
    op.drop_column("leases", "ttl")
    op.drop_column("leases", "try_number")
    op.drop_column("ports", "notices")
