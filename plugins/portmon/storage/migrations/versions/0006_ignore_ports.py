"""Let people ignore ports for some time."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column

from portmon.storage.tables import UtcDateTime

revision = "r0006"
down_revision = "r0005"


def upgrade() -> None:
    """Apply."""
    op.add_column("decisions", Column("ends_at", UtcDateTime))
