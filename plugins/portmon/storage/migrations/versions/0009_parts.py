"""Keep the changes of each owner and each address of a port, and which addresses are late after a boot."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column

from portmon.storage.tables import SafeJson
from portmon.storage.upgrade import upgrade_parts

revision = "r0009"
down_revision = "r0008"


def upgrade() -> None:
    """Apply. What flaps goes on until it holds still."""
    op.add_column("ports", Column("late", SafeJson, nullable=False, server_default="[]"))
    upgrade_parts(op.get_bind())
