"""Open conditions of the monitoring itself, so that one episode makes one event."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, select

from portmon.storage.sql import insert_new
from portmon.storage.tables import conditions

FLEET = "fleet_unreachable"
"""Every host that is asked fails."""
HOST_KEY = "host_key"
"""Begins the name of the condition that a host shows another key; its alert is named alike."""


def begin(conn: Connection, name: str, *, since: datetime) -> bool:
    """Note that something is wrong.

    :returns: False if that was noted before
    """
    return bool(conn.execute(insert_new(conn, conditions), {"name": name, "since": since}).rowcount)


def end(conn: Connection, name: str) -> bool:
    """Note that it is right again.

    :returns: False if nothing was wrong
    """
    return bool(conn.execute(delete(conditions).where(conditions.c.name == name)).rowcount)


def going_on(conn: Connection, prefix: str) -> set[str]:
    """Names of what is wrong that begin alike."""
    named = conditions.c.name.startswith(prefix, autoescape=True)
    return set(conn.execute(select(conditions.c.name).where(named)).scalars())


def since(conn: Connection, name: str) -> datetime | None:
    """Since when something is wrong, None if it is not."""
    value: datetime | None = conn.execute(select(conditions.c.since).where(conditions.c.name == name)).scalar()
    return value
