"""Alerts, from the event that began one to the event that ended it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select

from portmon.model.alert import Alert, begun_by
from portmon.model.event_kinds import AlertRole
from portmon.storage.events import columns, pair_from, undispatched
from portmon.storage.sql import rows_in, upsert_rows
from portmon.storage.tables import alerts, events

_FIRST = events.alias("first")
_ALERTS = (
    select(alerts.c.starts_at, alerts.c.ends_at, *columns(_FIRST), *columns())
    .join_from(alerts, _FIRST, _FIRST.c.id == alerts.c.id)
    .join(events, events.c.id == alerts.c.last_event_id)
    .order_by(alerts.c.starts_at, events.c.seq)
)


def standing(conn: Connection, *, host_id: str | None = None) -> list[tuple[Alert, bool]]:
    """Open alerts, each with whether it is dispatched: a run that dies before that must hide no death.

    :param host_id: of this host only
    """
    found = opened(conn, host_id=host_id)
    waiting = {}
    for event in undispatched(conn):
        if host_id is None or event.host_id == host_id:
            if event.role is AlertRole.FIRING and event.alert_key not in found:
                waiting[event.alert_key] = begun_by(event)
            elif event.role is AlertRole.RESOLVED:
                found.pop(event.alert_key, None)
                waiting.pop(event.alert_key, None)
    return [(alert, True) for alert in found.values()] + [(alert, False) for alert in waiting.values()]


def opened(conn: Connection, keys: Collection[str] | None = None, *, host_id: str | None = None) -> dict[str, Alert]:
    """Alert key: open alert, oldest first; of some keys, of one host."""
    query = _ALERTS.where(alerts.c.ends_at.is_(None))
    if host_id is not None:
        query = query.where(alerts.c.host_id == host_id)
    return {alert.key: alert for alert in map(_alert, rows_in(conn, query, alerts.c.key, keys))}


def ended_since(conn: Connection, moment: datetime) -> list[Alert]:
    """Alerts that ended then or later."""
    return [_alert(row) for row in conn.execute(_ALERTS.where(alerts.c.ends_at >= moment))]


def save(conn: Connection, changed: Sequence[Alert]) -> None:
    """Store new and changed alerts; resolved ones first, since one key has one open alert."""
    for over in (True, False):
        rows = [
            {
                "id": alert.id,
                "key": alert.key,
                "host_id": alert.first.host_id,
                "last_event_id": alert.event.id,
                "starts_at": alert.starts_at,
                "ends_at": alert.ends_at,
            }
            for alert in changed
            if (alert.ends_at is not None) == over
        ]
        upsert_rows(conn, alerts, rows, columns=["last_event_id", "ends_at"])


def expire(conn: Connection, before: datetime) -> None:
    """Delete alerts that ended before a moment."""
    conn.execute(delete(alerts).where(alerts.c.ends_at < before))


def _alert(row: Sequence[Any]) -> Alert:
    starts_at, ends_at, *values = row
    began, newest = pair_from(values)
    role = AlertRole.FIRING if ends_at is None else AlertRole.RESOLVED
    return Alert(began.id, role, newest, began, starts_at, ends_at)
