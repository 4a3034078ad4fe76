"""Receivers that asked to be left alone for some time: an HTTP 429, "too many messages".

Kept as leases on them, which nobody holds and all respect: of a target of a channel, or of the whole channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, update

from portmon.storage.sql import insert_new
from portmon.storage.tables import leases


def leave_alone(conn: Connection, channel: str, waits: Mapping[str, float], now: datetime) -> None:
    """Note that targets are to be left alone.

    :param waits: target: for how many seconds from now; the target "" is the whole channel
    """
    for target, seconds in waits.items():
        name, moment = f"{_prefix(channel)}{target}", now + timedelta(seconds=seconds)
        conn.execute(insert_new(conn, leases), {"name": name, "token": 0, "expires_at": moment})
        conn.execute(update(leases).where(leases.c.name == name).values(expires_at=moment))


def until(conn: Connection, channel: str, now: datetime) -> dict[str, datetime]:
    """Targets of a channel that are to be left alone now, and until when."""
    own = leases.c.name.startswith(_prefix(channel), autoescape=True)
    conn.execute(delete(leases).where(own, leases.c.expires_at <= now))
    found = conn.execute(select(leases.c.name, leases.c.expires_at).where(own))
    return {name.removeprefix(_prefix(channel)): moment for name, moment in found}


def _prefix(channel: str) -> str:
    return f"rest/{channel}/"
