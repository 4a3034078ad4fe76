"""Deliveries of events to channels: one row per event and channel."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, false, func, or_, select, update

from portmon.model.alert import UNFINISHED, Alert, Delivery, DeliveryState, DeliveryStatus, Receipt
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind
from portmon.storage.events import columns, of_row, pair_from
from portmon.storage.sql import chunks, insert_rows, rows_in, update_rows
from portmon.storage.tables import alerts, deliveries, events

UNSENT = (DeliveryState.PENDING, DeliveryState.SENDING)


def enqueue(conn: Connection, rows: Iterable[tuple[str, str, str]], now: datetime) -> None:
    """Add deliveries, each an event id, a channel and a route; existing ones stay as they are."""
    common = {"state": DeliveryState.PENDING, "tries": 0, "targets_done": [], "created_at": now, "updated_at": now}
    made = [{"event_id": event_id, "channel": channel, "route": route, **common} for event_id, channel, route in rows]
    insert_rows(conn, deliveries, made)


def unfinished(conn: Connection, channel: str | None = None) -> list[Delivery]:
    """Deliveries that may still be sent, to one channel or to all, in the order of their events."""
    first = events.alias("first")
    query = (
        select(deliveries, alerts.c.starts_at, alerts.c.ends_at, events.c.alert_id, events.c.alert_group, events.c.seq)
        .add_columns(*columns(), *columns(first))
        .join(events, events.c.id == deliveries.c.event_id)
        .outerjoin(first, first.c.id == events.c.alert_id)
        .outerjoin(alerts, alerts.c.id == events.c.alert_id)
        .where(deliveries.c.state.in_(UNFINISHED), events.c.alert_group.is_not(None))
        .order_by(events.c.seq)
    )
    if channel is not None:
        query = query.where(deliveries.c.channel == channel)
    return [_delivery(row) for row in conn.execute(query)]


def waiting(conn: Connection) -> list[Delivery]:
    """Those that a channel does not have yet; what is silenced is withheld on purpose."""
    return [one for one in unfinished(conn) if one.state is not DeliveryState.WITHHELD]


def tries(conn: Connection, group: AlertGroup) -> dict[str, int]:
    """Channel: the most tries of an event of a group that waits for it; withheld events do not count."""
    query = (
        select(deliveries.c.channel, func.max(deliveries.c.tries).label("tries"))
        .join(events, events.c.id == deliveries.c.event_id)
        .where(deliveries.c.state.in_(UNSENT), events.c.alert_group == group)
        .group_by(deliveries.c.channel)
    )
    return {row.channel: row.tries for row in conn.execute(query)}


# ── changes ─────────────────────────────────────────────────────────────────────────────────────


def begin_sending(conn: Connection, channel: str, event_ids: Sequence[str], message_id: str, now: datetime) -> set[str]:
    """Note that a message is about to be sent: if nothing follows, it may have come through.

    :returns: ids of events that are still to be sent; the others were withheld or cancelled meanwhile
    """
    values = {"state": DeliveryState.SENDING, "message_id": message_id, "tries": deliveries.c.tries + 1}
    return _change(conn, channel, event_ids, UNSENT, now, values)


def delivered(conn: Connection, channel: str, event_ids: Sequence[str], now: datetime) -> None:
    """Note that a channel took events."""
    values = {"state": DeliveryState.DELIVERED, "notified_at": now, "last_error": None}
    _change(conn, channel, event_ids, UNSENT, now, values)


def failed(
    conn: Connection,
    channel: str,
    event_ids: Sequence[str],
    error: str,
    targets_done: Sequence[str],
    now: datetime,
    *,
    unsure: bool = False,
) -> None:
    """Note that a channel did not take events, and which of its targets did; if ``unsure``, it may have taken them."""
    values: dict[str, Any] = {"state": DeliveryState.PENDING, "last_error": error, "targets_done": list(targets_done)}
    if targets_done:
        values["notified_at"] = now
    if not unsure:
        values["message_id"] = None
    _change(conn, channel, event_ids, UNSENT, now, values)


def refused(conn: Connection, channel: str, event_ids: Sequence[str], error: str, now: datetime) -> None:
    """Give up events that a channel will never take; if their alert goes on, a reminder is sent all the same."""
    _change(conn, channel, event_ids, UNSENT, now, {"state": DeliveryState.EXPIRED, "last_error": error})


def settle(
    conn: Connection, found: Sequence[tuple[Delivery, str | None]], state: DeliveryState, now: datetime, **more: Any
) -> None:
    """Cancel, withhold, release or give up deliveries, unless another task moved them on since they were read.

    :param found: each with the reason
    :param more: other columns
    """
    common = {"state": state, "updated_at": now, **more}
    rows = [{"event_id": one.event.id, "channel": one.channel, "last_error": why, **common} for one, why in found]
    as_read = or_(false(), *(deliveries.c.state == was for was in {one.state for one, _ in found}))
    update_rows(conn, deliveries, rows, where=as_read)


def remind(conn: Connection, channel: str, event_ids: Sequence[str], now: datetime) -> None:
    """Send delivered or expired events again, to each target of a channel."""
    values = {"state": DeliveryState.PENDING, "reminder": True, "tries": 0, "targets_done": [], "message_id": None}
    states = (DeliveryState.DELIVERED, DeliveryState.EXPIRED)
    _change(conn, channel, event_ids, states, now, {**values, "last_error": None, "created_at": now})


def cancel(conn: Connection, event_ids: Any, *, reason: str, now: datetime) -> None:
    """Cancel deliveries that were not sent yet, of event ids or a query for them."""
    unsent = deliveries.c.state.in_((DeliveryState.PENDING, DeliveryState.WITHHELD))
    query = update(deliveries).where(deliveries.c.event_id.in_(event_ids), unsent)
    conn.execute(query.values(state=DeliveryState.CANCELLED, last_error=reason, updated_at=now))


def cancel_ports(conn: Connection, keys: Iterable[tuple[str, str, int]], *, reason: str, now: datetime) -> None:
    """Cancel what was not sent yet of ports that are not watched any more, except resolved events."""
    for host_id, protocol, port in keys:
        _cancel(conn, (events.c.host_id == host_id, events.c.protocol == protocol, events.c.port == port), reason, now)


def cancel_hosts(conn: Connection, host_ids: Collection[str], *, reason: str, now: datetime) -> None:
    """Cancel what was not sent yet of hosts, except resolved events."""
    for part in chunks(sorted(host_ids)):
        _cancel(conn, (events.c.host_id.in_(part),), reason, now)


# ── receipts ────────────────────────────────────────────────────────────────────────────────────


def receipts(conn: Connection, alert_ids: Collection[str]) -> dict[str, dict[str, Receipt]]:
    """Alert id: channel: its receipt; channels that wait for the alert, or for which it expired, have one too."""
    found: dict[str, dict[str, Receipt]] = defaultdict(dict)
    for row in _of_alerts(conn, alert_ids):
        before = found[row.alert_id].get(row.channel) or Receipt(row.channel, row.route)
        sent = row.state in (DeliveryState.DELIVERED, DeliveryState.EXPIRED) or not before.event_id
        found[row.alert_id][row.channel] = replace(
            before,
            at=max(filter(None, (before.at, row.notified_at)), default=None),
            message_id=row.message_id or before.message_id,
            states=before.states | {DeliveryState(row.state)},
            event_id=row.event_id if sent else before.event_id,
        )
    return found


def notified_elsewhere(conn: Connection, channels: Collection[str]) -> dict[str, int]:
    """Channel, other than these: the number of open alerts that it was or may have been notified of."""
    opened = conn.execute(select(alerts.c.id).where(alerts.c.ends_at.is_(None))).scalars().all()
    known = (one for own in receipts(conn, opened).values() for one in own.values())
    return dict(sorted(Counter(one.channel for one in known if one.notified and one.channel not in channels).items()))


def of_alerts(conn: Connection, alert_ids: Collection[str]) -> dict[str, list[DeliveryStatus]]:
    """Alert id: the status of its newest event for each channel, in the order of their names."""
    found: dict[str, dict[str, DeliveryStatus]] = defaultdict(dict)
    for row in _of_alerts(conn, alert_ids):
        found[row.alert_id][row.channel] = _status(row)
    return {alert_id: [own[channel] for channel in sorted(own)] for alert_id, own in found.items()}


def of_events(conn: Connection, event_ids: Sequence[str]) -> dict[tuple[str, str], DeliveryStatus]:
    """(event id, channel): the status of the event."""
    rows = rows_in(conn, select(deliveries), deliveries.c.event_id, event_ids)
    return {(row.event_id, row.channel): _status(row) for row in rows}


def crowded(conn: Connection, channel: str, run_ids: Collection[str], *, above: int) -> frozenset[str]:
    """Runs of which a channel gets more events than ``above``."""
    query = (
        select(events.c.run_id)
        .join(deliveries, deliveries.c.event_id == events.c.id)
        .where(deliveries.c.channel == channel)
        .group_by(events.c.run_id)
        .having(func.count() > above)
    )
    return frozenset(row.run_id for row in rows_in(conn, query, events.c.run_id, run_ids))


def _delivery(row: Row[Any]) -> Delivery:
    event, first = pair_from(row[-2 * len(columns()) :])
    # Notes have no deliveries.
    role = event.role or AlertRole.NOTICE
    ends_at = (row.ends_at or event.at) if role is AlertRole.RESOLVED else None
    return Delivery(
        alert=Alert(row.alert_id or event.id, role, event, first, row.starts_at or event.at, ends_at),
        group=AlertGroup(row.alert_group),
        seq=row.seq,
        channel=row.channel,
        route=row.route,
        state=DeliveryState(row.state),
        tries=row.tries,
        targets_done=tuple(row.targets_done),
        message_id=row.message_id,
        reminder=row.reminder,
        since=row.created_at,
        tried_at=row.updated_at if row.tries else None,
        reason=row.last_error,
    )


def _status(row: Row[Any]) -> DeliveryStatus:
    return DeliveryStatus(row.channel, row.route, DeliveryState(row.state), row.last_error)


def _of_alerts(conn: Connection, alert_ids: Collection[str]) -> Iterator[Row[Any]]:
    # In the order of their events.
    query = select(deliveries, events.c.alert_id).join(events, events.c.id == deliveries.c.event_id)
    return rows_in(conn, query.order_by(events.c.seq), events.c.alert_id, alert_ids)


def _change(
    conn: Connection, channel: str, event_ids: Sequence[str], states: Any, now: datetime, values: Mapping[str, Any]
) -> set[str]:
    """Change deliveries that are in some states; returns the ids of their events."""
    changed: set[str] = set()
    statement = update(deliveries).where(deliveries.c.channel == channel, deliveries.c.state.in_(states))
    statement = statement.values(**values, updated_at=now)
    for part in chunks(event_ids):
        mine = statement.where(deliveries.c.event_id.in_(part)).returning(deliveries.c.event_id)
        changed |= set(conn.execute(mine).scalars())
    return changed


def _cancel(conn: Connection, conditions: Iterable[Any], reason: str, now: datetime) -> None:
    # A channel that was notified of an alert is also notified that it is resolved.
    over = or_(*(of_row(kind, row.name) for kind in EventKind for row in kind.rows if row.role is AlertRole.RESOLVED))
    matching = select(events.c.id).where(*conditions, ~over)
    cancel(conn, matching, reason=reason, now=now)
    conn.execute(update(events).where(~events.c.dispatched, events.c.id.in_(matching)).values(dispatched=True))
