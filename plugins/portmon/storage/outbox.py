"""Events, and which channel has which of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, or_, select, update

from portmon.models import AlertGroup, Event, EventKind, Severity, alert_group
from portmon.storage.sql import chunks, insert_new
from portmon.storage.tables import deliveries, events

PENDING = "pending"
DELIVERED = "delivered"
CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """An event that a channel does not have yet.

    :param targets_done: targets of the channel that do have it
    """

    event: Event
    targets_done: tuple[str, ...]
    attempts: int


def add(conn: Connection, new: Iterable[Event]) -> None:
    """Store events; those that are there stay as they are."""
    rows = [_row(event) for event in new]
    if rows:
        conn.execute(insert_new(conn, events), rows)


def open_deliveries(conn: Connection, channels: Sequence[str], now: datetime) -> int:
    """Make the deliveries of events that have none yet: a channel gets what happens from when it exists.

    :returns: number of events
    """
    ids = list(conn.execute(select(events.c.id).where(~events.c.dispatched)).scalars())
    rows = [
        {
            "event_id": event_id,
            "channel": channel,
            "state": PENDING,
            "attempts": 0,
            "targets_done": [],
            "created_at": now,
            "updated_at": now,
        }
        for event_id in ids
        for channel in channels
    ]
    if rows:
        conn.execute(insert_new(conn, deliveries), rows)
    for part in chunks(ids):
        conn.execute(update(events).where(events.c.id.in_(part)).values(dispatched=True))
    return len(ids)


def pending_groups(conn: Connection, channels: Collection[str]) -> set[AlertGroup]:
    """Alert groups with something that one of these channels does not have."""
    query = (
        select(events.c.alert_group)
        .join(deliveries, deliveries.c.event_id == events.c.id)
        .where(deliveries.c.state == PENDING, deliveries.c.channel.in_(list(channels)))
        .distinct()
    )
    return {AlertGroup(group) for group in conn.execute(query).scalars() if group}


def pending(conn: Connection, group: AlertGroup, channel: str) -> list[PendingDelivery]:
    """What a channel does not have of a group, oldest first."""
    query = (
        select(events, deliveries.c.targets_done, deliveries.c.attempts)
        .join(deliveries, deliveries.c.event_id == events.c.id)
        .where(deliveries.c.state == PENDING, deliveries.c.channel == channel, events.c.alert_group == group.value)
        .order_by(events.c.seq)
    )
    return [PendingDelivery(_event(row), tuple(row.targets_done), row.attempts) for row in conn.execute(query)]


def delivered(conn: Connection, channel: str, event_ids: Sequence[str], now: datetime) -> None:
    """Note that a channel has events."""
    for part in chunks(event_ids):
        conn.execute(
            update(deliveries)
            .where(deliveries.c.channel == channel, deliveries.c.event_id.in_(part), deliveries.c.state == PENDING)
            .values(state=DELIVERED, attempts=deliveries.c.attempts + 1, updated_at=now, last_error=None)
        )


def failed(
    conn: Connection, channel: str, event_ids: Sequence[str], error: str, targets_done: Sequence[str], now: datetime
) -> None:
    """Note that a channel did not take events, and which of its targets did."""
    for part in chunks(event_ids):
        conn.execute(
            update(deliveries)
            .where(deliveries.c.channel == channel, deliveries.c.event_id.in_(part), deliveries.c.state == PENDING)
            .values(
                attempts=deliveries.c.attempts + 1, updated_at=now, last_error=error, targets_done=list(targets_done)
            )
        )


def cancel_ports(conn: Connection, keys: Iterable[tuple[str, str, int]], *, reason: str, now: datetime) -> None:
    """Do not send any more what was not sent yet of ports that are not watched any more."""
    for host_id, protocol, port in keys:
        _cancel(conn, (events.c.host_id == host_id, events.c.protocol == protocol, events.c.port == port), reason, now)


def cancel_hosts(
    conn: Connection, host_ids: Sequence[str], *, reason: str, keep: Collection[EventKind], now: datetime
) -> None:
    """The same for everything about hosts.

    :param keep: kinds that are sent nevertheless
    """
    kinds = [kind.value for kind in keep]
    _cancel(conn, (events.c.host_id.in_(host_ids), events.c.kind.not_in(kinds)), reason, now)


def recent(conn: Connection, *, run_id: str | None = None, limit: int = 1000) -> list[Event]:
    """Events in the order in which they were derived, the newest ``limit`` of them.

    :param run_id: of this run only
    """
    query = select(events).order_by(events.c.seq.desc()).limit(limit)
    if run_id is not None:
        query = query.where(events.c.run_id == run_id)
    return [_event(row) for row in conn.execute(query)][::-1]


def of_port(conn: Connection, host_id: str, port: int, *, kinds: Collection[EventKind]) -> list[Event]:
    """The events of one port in order, with the moves to it, and those of some kinds of its host and of the monitor.

    :param kinds: of events without a port
    """
    own = and_(events.c.host_id == host_id, or_(events.c.port == port, events.c.kind == EventKind.MOVED.value))
    wide = and_(
        events.c.port.is_(None),
        or_(events.c.host_id == host_id, events.c.host_id.is_(None)),
        events.c.kind.in_([kind.value for kind in kinds]),
    )
    rows = conn.execute(select(events).where(or_(own, wide)).order_by(events.c.at, events.c.seq))
    found = [_event(row) for row in rows]
    return [event for event in found if event.port in (None, port) or event.details.get("to") == port]


def states(conn: Connection, event_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """(event id, channel): state of its delivery."""
    found: dict[tuple[str, str], str] = {}
    for part in chunks(event_ids):
        query = select(deliveries.c.event_id, deliveries.c.channel, deliveries.c.state)
        for event_id, channel, state in conn.execute(query.where(deliveries.c.event_id.in_(part))):
            found[event_id, channel] = state
    return found


def expire(conn: Connection, before: datetime) -> int:
    """Delete events from before a moment, but none that somebody is still to get.

    :returns: how many
    """
    waiting = select(deliveries.c.event_id).where(deliveries.c.state == PENDING)
    gone = delete(events).where(events.c.at < before, events.c.dispatched, events.c.id.not_in(waiting))
    return int(conn.execute(gone).rowcount)


def _cancel(conn: Connection, conditions: Iterable[Any], reason: str, now: datetime) -> None:
    matching = select(events.c.id).where(*conditions)
    conn.execute(
        update(deliveries)
        .where(deliveries.c.event_id.in_(matching), deliveries.c.state == PENDING)
        .values(state=CANCELLED, last_error=reason, updated_at=now)
    )
    conn.execute(update(events).where(~events.c.dispatched, events.c.id.in_(matching)).values(dispatched=True))


def _row(event: Event) -> dict[str, Any]:
    group = alert_group(event.kind, event.details)
    row = asdict(event)
    return row | {
        "kind": event.kind.value,
        "severity": event.severity.value,
        "alert_group": group.value if group else None,
        "dispatched": group is None,
    }


def _event(row: Any) -> Event:
    return Event(
        id=row.id,
        kind=EventKind(row.kind),
        at=row.at,
        run_id=row.run_id,
        host_id=row.host_id,
        host_name=row.host_name,
        protocol=row.protocol,
        port=row.port,
        severity=Severity(row.severity),
        reason=row.reason,
        program=row.program,
        unit=row.unit,
        since=row.since,
        last_seen=row.last_seen,
        labels=row.labels,
        details=row.details,
    )
