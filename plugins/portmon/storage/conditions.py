"""Open conditions of the monitoring itself, so that one episode makes one event."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, select

from portmon.storage.sql import insert_new
from portmon.storage.tables import conditions

FLEET = "fleet_unreachable"
"""Every host that is asked fails."""
HOST_KEY = "host_key"
"""Begins the name of the condition that a host shows another key, and that of its alert."""


def begin(conn: Connection, name: str, *, since: datetime) -> bool:
    """Open a condition; False if it was open before."""
    return bool(conn.execute(insert_new(conn, conditions), {"name": name, "since": since}).rowcount)


def end(conn: Connection, name: str) -> bool:
    """Close a condition; False if it was not open."""
    return bool(conn.execute(delete(conditions).where(conditions.c.name == name)).rowcount)


def of_host(name: str, host_id: str) -> str:
    """The name of a condition that each host has for itself."""
    return f"{name}/{host_id}"


def hosts_with(conn: Connection, name: str) -> set[str]:
    """Ids of the hosts that have an open condition, see :func:`of_host`."""
    prefix = of_host(name, "")
    query = select(conditions.c.name).where(conditions.c.name.startswith(prefix, autoescape=True))
    return {found[len(prefix) :] for found in conn.execute(query).scalars()}


def since(conn: Connection, name: str) -> datetime | None:
    """Since when a condition is open, None if it is not."""
    value: datetime | None = conn.execute(select(conditions.c.since).where(conditions.c.name == name)).scalar()
    return value
