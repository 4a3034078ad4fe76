"""Add indexes for the page."""

from __future__ import annotations

from alembic import op

revision = "r0002"
down_revision = "r0001"


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_hosts_name_host_id", "hosts", ["name", "host_id"])
    op.create_index("ix_ports_port_host_id", "ports", ["port", "host_id"])
    op.create_index("ix_events_kind_at", "events", ["kind", "at"])
