"""Keep notes of people."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, String

from portmon.storage.tables import SafeText, UtcDateTime

revision = "r0005"
down_revision = "r0004"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "notes",
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("host_id", SafeText, nullable=False),
        Column("protocol", String(8), nullable=False),
        Column("port", Integer, nullable=False),
        Column("unit", SafeText, nullable=False),
        Column("label", SafeText, nullable=False),
        Column("text", SafeText, nullable=False),
        Column("author", SafeText, nullable=False),
        Column("at", UtcDateTime, nullable=False),
        comment="what people wrote about a port of a host, or about a unit of the hosts with a label",
    )
