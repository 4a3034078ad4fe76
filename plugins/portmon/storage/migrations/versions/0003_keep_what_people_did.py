"""Keep what people did."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, String

from portmon.storage.tables import SafeJson, SafeText, UtcDateTime

revision = "r0003"
down_revision = "r0002"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "actions",
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("at", UtcDateTime, nullable=False, index=True),
        Column("author", SafeText, nullable=False),
        Column("kind", String(32), nullable=False),
        Column("subject", SafeText, nullable=False),
        Column("reason", SafeText, nullable=False),
        Column("before", SafeJson),
        Column("after", SafeJson),
        comment="what people did: who, when, why, what was before and what is after",
    )
