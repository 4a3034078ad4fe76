"""Keep the changes of each owner and each address of a port by themselves."""

from __future__ import annotations

from alembic import op

from portmon.storage.upgrade import upgrade_parts

revision = "r0009"
down_revision = "r0008"


def upgrade() -> None:
    """Apply. What flaps goes on until it holds still."""
    upgrade_parts(op.get_bind())
