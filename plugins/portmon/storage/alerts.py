"""Alerts: what went wrong, from the event that began it to the one that closed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select

from portmon.model.event import Event
from portmon.storage.sql import chunks, upsert_rows
from portmon.storage.tables import alerts


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """One alert.

    :param id: of the event that began it
    :param last_event_id: the newest that says something is wrong
    :param closed_by: the event that ended it, None while it goes on
    """

    id: str
    key: str
    host_id: str | None
    last_event_id: str
    starts_at: datetime
    ends_at: datetime | None = None
    closed_by: str | None = None


def opened(conn: Connection, keys: Collection[str] | None = None) -> dict[str, StoredAlert]:
    """Alert key: the alert that goes on.

    :param keys: of these only
    """
    query = select(alerts).where(alerts.c.ends_at.is_(None))
    found = {row.key: _alert(row) for row in conn.execute(query)}
    return found if keys is None else {key: found[key] for key in keys if key in found}


def of_ids(conn: Connection, ids: Collection[str]) -> dict[str, StoredAlert]:
    """Alerts by their ids."""
    found: dict[str, StoredAlert] = {}
    for part in chunks(sorted(ids)):
        found |= {row.id: _alert(row) for row in conn.execute(select(alerts).where(alerts.c.id.in_(part)))}
    return found


def begun(event: Event) -> StoredAlert:
    """The alert that an event begins."""
    return StoredAlert(event.id, event.alert_key, event.host_id, event.id, event.since or event.at)


def save(conn: Connection, changed: Sequence[StoredAlert]) -> None:
    """Store alerts, new ones and changed ones; those that are over first, since one key has one open alert."""
    columns = ["last_event_id", "ends_at", "closed_by"]
    for over in (True, False):
        rows = [dataclasses.asdict(alert) for alert in changed if (alert.ends_at is not None) == over]
        upsert_rows(conn, alerts, columns, rows)


def closed_since(conn: Connection, moment: datetime) -> list[StoredAlert]:
    """Alerts that ended then or later."""
    return [_alert(row) for row in conn.execute(select(alerts).where(alerts.c.ends_at >= moment))]


def expire(conn: Connection, before: datetime) -> None:
    """Delete alerts that ended before a moment."""
    conn.execute(delete(alerts).where(alerts.c.ends_at < before))


def _alert(row: Any) -> StoredAlert:
    return StoredAlert(**{name: getattr(row, name) for name in StoredAlert.__dataclass_fields__})
