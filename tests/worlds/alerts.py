"""Hosts and open alerts, written straight into a database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, insert

from portmon.model.event import Event
from portmon.model.event_kinds import EventKind, Severity
from portmon.model.host import Host
from portmon.storage import events, hosts
from portmon.storage.tables import alerts, deliveries


def list_hosts(conn: Connection, nasty: str, *, left_at: datetime) -> None:
    """Three hosts that are listed, one of them with a nasty name, and one that left."""
    hosts.sync(
        conn,
        [
            Host("1", "web1", "10.0.0.1", labels={"role": "web"}),
            Host("2", nasty, "10.0.0.2", labels={"role": "web"}),
            Host("3", "db1", "10.0.0.3"),
            Host("4", "web4", "10.0.0.4"),
        ],
    )
    hosts.hide(conn, ["4"], left_at)


def open_alert(
    conn: Connection,
    number: int,
    at: datetime,
    *,
    host: str = "1",
    name: str = "web1",
    port: int | None = 80,
    kind: EventKind = EventKind.DOWN,
    program: str | None = None,
    labels: Mapping[str, str] | None = None,
    channels: Mapping[str, str] | None = None,
    error: str | None = None,
) -> str:
    """An alert that one event began.

    :param number: makes its id
    :param channels: what became of its message: name to state
    :param error: why it was not delivered
    :returns: its id
    """
    event = Event(
        f"{number:032x}",
        kind,
        at,
        "r1",
        host_id=host,
        host_name=name,
        protocol=None if port is None else "tcp",
        port=port,
        severity=Severity.CRITICAL,
        program=program,
        labels=labels or {},
    )
    events.add(conn, [event])
    conn.execute(
        insert(alerts).values(id=event.id, key=event.alert_key, host_id=host, last_event_id=event.id, starts_at=at)
    )
    events.dispatched(conn, {event.id: event.id})
    for channel, state in (channels or {}).items():
        told = {"last_error": error, "notified_at": at if state == "delivered" else None}
        row = {"event_id": event.id, "channel": channel, "state": state, "tries": 1, "targets_done": [], **told}
        conn.execute(insert(deliveries).values(created_at=at, updated_at=at, **row))
    return event.id
