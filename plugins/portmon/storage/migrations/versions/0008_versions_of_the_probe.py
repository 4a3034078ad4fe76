"""What read each last answer and which tools hung there, and the names that the kernel has for programs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from portmon.storage.tables import SafeJson, UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

HOST_COLUMNS = ("probe", "reader", "hung", "hung_at")


def upgrade() -> None:
    """Apply."""
    op.add_column("hosts", sa.Column("probe", sa.Integer()))
    op.add_column("hosts", sa.Column("reader", sa.Integer()))
    op.add_column("hosts", sa.Column("hung", sa.String(32)))
    op.add_column("hosts", sa.Column("hung_at", UtcDateTime()))
    op.add_column("ports", sa.Column("comms", SafeJson(), nullable=False, server_default="[]"))


def downgrade() -> None:
    """Take back."""
    with op.batch_alter_table("ports") as ports:
        ports.drop_column("comms")
    with op.batch_alter_table("hosts") as hosts:
        for name in HOST_COLUMNS:
            hosts.drop_column(name)
