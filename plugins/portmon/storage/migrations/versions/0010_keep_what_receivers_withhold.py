"""Keep which channels were told of an acknowledgement, and what receivers withhold."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, ForeignKey, Integer, String

from portmon.storage.tables import SafeText, UtcDateTime

revision = "r0010"
down_revision = "r0009"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "told_acknowledgements",
        Column("silence_id", Integer, ForeignKey("silences.id", ondelete="CASCADE"), primary_key=True),
        Column("channel", SafeText, primary_key=True),
        Column("told_at", UtcDateTime, nullable=False),
        comment="acknowledgements that a channel was told of",
    )
    op.create_table(
        "silenced_elsewhere",
        Column("alert_id", String(32), ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True),
        Column("channel", SafeText, primary_key=True),
        Column("told", SafeText, nullable=False),
        Column("ends_at", UtcDateTime, nullable=False),
        comment="alerts that a receiver such as Alertmanager withholds, as it said when it was last asked",
    )
