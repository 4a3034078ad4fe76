"""Alerts, mutes, and what deliveries have to remember."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from portmon.storage.tables import SafeJson, SafeText, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UNFINISHED = sa.text("state IN ('pending', 'sending', 'withheld')")
_PENDING = sa.text("state = 'pending'")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("key", SafeText(), nullable=False),
        sa.Column("host_id", SafeText(), nullable=True),
        sa.Column("last_event_id", sa.String(length=32), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=True),
        sa.Column("closed_by", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
        comment="what went wrong, from the event that began it (whose id it has) to the one that closed it",
    )
    with op.batch_alter_table("alerts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_alerts_key"), ["key"], unique=False)
        batch_op.create_index(
            "ix_alerts_open",
            ["key"],
            unique=True,
            postgresql_where=sa.text("ends_at IS NULL"),
            sqlite_where=sa.text("ends_at IS NULL"),
        )
    op.create_table(
        "mutes",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("alert_id", sa.String(length=32), nullable=True),
        sa.Column("hosts", SafeJson(), nullable=False),
        sa.Column("labels", SafeJson(), nullable=False),
        sa.Column("ports", SafeJson(), nullable=False),
        sa.Column("programs", SafeJson(), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=True),
        sa.Column("weekly", SafeJson(), nullable=False),
        sa.Column("timezone", SafeText(), nullable=False),
        sa.Column("author", SafeText(), nullable=False),
        sa.Column("reason", SafeText(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("lifted_at", UtcDateTime(), nullable=True),
        sa.Column("lifted_by", SafeText(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mutes")),
        comment="what nobody is to be told of, and until when; with alert_id an acknowledgement of that alert",
    )
    with op.batch_alter_table("mutes", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_mutes_alert_id"), ["alert_id"], unique=False)

    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.add_column(sa.Column("alert_id", sa.String(length=32), nullable=True))
        batch_op.create_index(batch_op.f("ix_events_alert_id"), ["alert_id"], unique=False)
    op.drop_index("ix_deliveries_pending", table_name="deliveries")
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.add_column(sa.Column("route", SafeText(), server_default="default", nullable=False))
        batch_op.add_column(sa.Column("message_id", sa.String(length=32), nullable=True))
        batch_op.add_column(sa.Column("reminder", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("told_at", UtcDateTime(), nullable=True))
    op.create_index(
        "ix_deliveries_unfinished",
        "deliveries",
        ["channel"],
        unique=False,
        postgresql_where=_UNFINISHED,
        sqlite_where=_UNFINISHED,
    )
    _find_alerts(op.get_bind())


_events = sa.table(
    "events",
    sa.column("seq", sa.Integer),
    sa.column("id", sa.String),
    sa.column("kind", sa.String),
    sa.column("at", UtcDateTime()),
    sa.column("host_id", SafeText()),
    sa.column("protocol", sa.String),
    sa.column("port", sa.Integer),
    sa.column("since", UtcDateTime()),
    sa.column("details", SafeJson()),
    sa.column("alert_group", sa.String),
    sa.column("dispatched", sa.Boolean),
    sa.column("alert_id", sa.String),
)
_alerts = sa.table(
    "alerts",
    sa.column("id", sa.String),
    sa.column("key", SafeText()),
    sa.column("host_id", SafeText()),
    sa.column("last_event_id", sa.String),
    sa.column("starts_at", UtcDateTime()),
    sa.column("ends_at", UtcDateTime()),
    sa.column("closed_by", sa.String),
)
_deliveries = sa.table(
    "deliveries",
    sa.column("state", sa.String),
    sa.column("updated_at", UtcDateTime()),
    sa.column("told_at", UtcDateTime()),
)

_OPENING = {
    "down": "port",
    "flapping": "port",
    "unreachable": "host",
    "fleet_unreachable": "fleet",
    "cmdb_stale": "cmdb",
    "prune_refused": "prune",
    "host_key_changed": "host_key",
}
_CLOSING = {
    "recovered": "port",
    "retired": "host",
    "stable": "port",
    "reachable": "host",
    "fleet_reachable": "fleet",
    "cmdb_fresh": "cmdb",
    "prune_resumed": "prune",
    "host_key_restored": "host_key",
}


def _find_alerts(conn: sa.Connection) -> None:
    """The alerts that the events so far make: who was told of a down is to be told of its end."""
    conn.execute(
        sa.update(_deliveries).where(_deliveries.c.state == "delivered").values(told_at=_deliveries.c.updated_at)
    )
    query = sa.select(_events).where(_events.c.dispatched, _events.c.alert_group.is_not(None)).order_by(_events.c.seq)
    found: list[dict[str, Any]] = []
    current: dict[str, dict[str, Any]] = {}
    for row in conn.execute(query).all():
        worse = (row.kind == "rebound" and row.details.get("severe")) or (
            row.kind == "stable" and row.details.get("state") == "down"
        )
        about = "port" if worse else _OPENING.get(row.kind)
        key = _key(row, about or _CLOSING.get(row.kind))
        alert_id = row.id
        if about:
            alert = current.get(key)
            if alert is None:
                alert = current[key] = {
                    "id": row.id,
                    "key": key,
                    "host_id": row.host_id,
                    "starts_at": row.since or row.at,
                    "ends_at": None,
                    "closed_by": None,
                }
                found.append(alert)
            alert["last_event_id"] = row.id
            alert_id = alert["id"]
        elif row.kind in _CLOSING and key in current:
            alert = current.pop(key)
            alert |= {"ends_at": row.at, "closed_by": row.id}
            alert_id = alert["id"]
        conn.execute(sa.update(_events).where(_events.c.id == row.id).values(alert_id=alert_id))
    if found:
        conn.execute(sa.insert(_alerts), found)


def _key(row: Any, about: str | None) -> str:
    if row.port is not None:
        return f"port/{row.host_id}/{row.protocol}/{row.port}"
    return about or "host" if row.host_id is None else f"{about or 'host'}/{row.host_id}"


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_deliveries_unfinished", table_name="deliveries")
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        for name in ("told_at", "reminder", "message_id", "route"):
            batch_op.drop_column(name)
    op.create_index(
        "ix_deliveries_pending",
        "deliveries",
        ["channel"],
        unique=False,
        postgresql_where=_PENDING,
        sqlite_where=_PENDING,
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_events_alert_id"))
        batch_op.drop_column("alert_id")
    op.drop_table("mutes")
    op.drop_table("alerts")
