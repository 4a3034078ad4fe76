"""Keep clocks of evidence, and what a condition needs to be told once."""

from __future__ import annotations

from datetime import UTC, datetime

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, false

from portmon.storage.tables import SafeJson, UtcDateTime
from portmon.storage.upgrade import upgrade_state

revision = "r0007"
down_revision = "r0006"


def upgrade() -> None:
    """Apply."""
    for column in (
        Column("evidence", Float, nullable=False, server_default="0"),
        Column("tried", Float, nullable=False, server_default="0"),
        Column("known_since", UtcDateTime),
        Column("tried_at", UtcDateTime),
        Column("pid1_start", BigInteger),
        Column("boot_looks", Integer),
        Column("shared", Boolean, nullable=False, server_default=false()),
        Column("kept", SafeJson),
        Column("changes", SafeJson, nullable=False, server_default="[]"),
        Column("flapping_since", UtcDateTime),
        Column("changed_at", UtcDateTime),
        Column("told", SafeJson, nullable=False, server_default="[]"),
    ):
        op.add_column("hosts", column)
    for column in (
        Column("seen_clock", Float),
        Column("lost_clock", Float),
        Column("inodes", SafeJson, nullable=False, server_default="[]"),
        Column("changed_at", UtcDateTime),
        Column("bind_changes", SafeJson, nullable=False, server_default="[]"),
        Column("bind_flapping_since", UtcDateTime),
        Column("bind_changed_at", UtcDateTime),
        Column("told", SafeJson, nullable=False, server_default="[]"),
        Column("unwatched", SafeJson, nullable=False, server_default="[]"),
        Column("hidden_since", UtcDateTime),
        Column("paused", Boolean, nullable=False, server_default=false()),
    ):
        op.add_column("ports", column)
    op.add_column("conditions", Column("details", SafeJson, nullable=False, server_default="{}"))
    if op.get_bind().dialect.name == "postgresql":
        what = "what is wrong with hosts and with the monitor just now: one event per episode"
        op.create_table_comment("conditions", what)
    upgrade_state(op.get_bind(), datetime.now(UTC))
