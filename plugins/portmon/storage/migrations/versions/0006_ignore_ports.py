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
    if op.get_bind().dialect.supports_comments:
        op.create_table_comment(
            "decisions", "what people decided about ports: accepted as gone, promoted to declared, ignored until a time"
        )
