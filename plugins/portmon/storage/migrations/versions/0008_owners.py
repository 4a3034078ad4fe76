"""Keep who holds a port, whether it is young, and how long it takes after a boot."""

from __future__ import annotations

from datetime import UTC, datetime

from alembic import op
from sqlalchemy import Column, Float, Integer

from portmon.storage.tables import SafeJson, UtcDateTime
from portmon.storage.upgrade import upgrade_youth

revision = "r0008"
down_revision = "r0007"


def upgrade() -> None:
    """Apply. No known owner of a port ever joined; what was not seen for a month yet may be young."""
    for column in (
        Column("booted_at", UtcDateTime),
        Column("many", SafeJson, nullable=False, server_default="[]"),
        Column("unnamed", Integer),
        Column("young", SafeJson, nullable=False, server_default="[]"),
    ):
        op.add_column("hosts", column)
    for column in (
        Column("owners", SafeJson, nullable=False, server_default="[]"),
        Column("holders", SafeJson, nullable=False, server_default="[]"),
        Column("young_since", Float),
        Column("restarts", SafeJson, nullable=False, server_default="[]"),
        Column("boots", SafeJson, nullable=False, server_default="[]"),
    ):
        op.add_column("ports", column)
    upgrade_youth(op.get_bind(), datetime.now(UTC))
