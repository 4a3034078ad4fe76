"""Add indexes for the page."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "r0002"
down_revision = "r0001"


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_hosts_name_host_id", "hosts", ["name", "host_id"])
    op.create_index("ix_ports_port_host_id", "ports", ["port", "host_id"])
    op.create_index("ix_events_kind_at", "events", ["kind", "at"])
    failed = text("outcome != 'ok'")
    op.create_index("ix_observations_failed", "observations", ["run_id"], postgresql_where=failed, sqlite_where=failed)
