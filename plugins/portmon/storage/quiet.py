"""Receivers that take no messages for some time, since they answered "too many messages" (HTTP 429).

Kept as leases without a holder: of a target of a channel, or of the whole channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, select

from portmon.storage.sql import upsert_rows
from portmon.storage.tables import leases


def leave_alone(conn: Connection, channel: str, waits: Mapping[str, float], now: datetime) -> None:
    """Note that targets get no messages for some time.

    :param waits: target: seconds from now; the target "" is the whole channel
    """
    if waits:
        conn.execute(delete(leases).where(_own(channel), leases.c.expires_at <= now))
    rows = [
        {"name": f"{_prefix(channel)}{target}", "token": 0, "expires_at": now + timedelta(seconds=seconds)}
        for target, seconds in waits.items()
    ]
    upsert_rows(conn, leases, rows, columns=["expires_at"])


def until(conn: Connection, channel: str, now: datetime) -> dict[str, datetime]:
    """Target of a channel: until when it gets no messages."""
    found = conn.execute(select(leases.c.name, leases.c.expires_at).where(_own(channel), leases.c.expires_at > now))
    return {name.removeprefix(_prefix(channel)): moment for name, moment in found}


def _own(channel: str) -> ColumnElement[bool]:
    return leases.c.name.startswith(_prefix(channel), autoescape=True)


def _prefix(channel: str) -> str:
    return f"rest/{channel}/"
