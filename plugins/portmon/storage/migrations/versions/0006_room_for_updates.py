"""Room in the pages of hosts, each of which gets new times in each run."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    # A new version of a row that fits beside the old one concerns no index, and is logged by what is new of it:
    # https://www.postgresql.org/docs/current/storage-hot.html. What is there already moves as it is updated.
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE hosts SET (fillfactor = 50)")


def downgrade() -> None:
    """Take back."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE hosts RESET (fillfactor)")
