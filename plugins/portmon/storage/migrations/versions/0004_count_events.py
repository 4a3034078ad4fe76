"""Count events by kind."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, String

revision = "r0004"
down_revision = "r0003"


def upgrade() -> None:
    """Apply. The counts begin with what is stored."""
    op.create_table(
        "event_counts",
        Column("kind", String(32), primary_key=True),
        Column("count", BigInteger, nullable=False),
        comment="how many events of each kind there ever were; it never falls, whatever expires or is retracted",
    )
    op.execute("INSERT INTO event_counts (kind, count) SELECT kind, count(*) FROM events GROUP BY kind")
