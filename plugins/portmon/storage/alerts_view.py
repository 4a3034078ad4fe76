"""Alerts that are open, as people look at them: what goes on, who was told, who knows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, or_, select

from portmon.alerting.silences import Silence, silenced
from portmon.model.event import Event
from portmon.storage import alerts as stored
from portmon.storage import hosts, outbox, silences
from portmon.storage.sql import chunks
from portmon.storage.tables import alerts, deliveries, events


@dataclass(frozen=True, slots=True)
class Told:
    """What became of the newest event of an alert that one channel was to get.

    :param state: of the delivery: ``pending``, ``sending``, ``delivered``, ``cancelled``, ``withheld``, ``expired``
    :param reason: why it is not delivered, as far as there is a reason
    """

    channel: str
    route: str
    state: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class OpenAlert:
    """Something that goes on.

    :param event: the newest of it
    :param told: by channel, in order of their names
    :param silenced: what withholds its messages now
    """

    id: str
    key: str
    starts_at: datetime
    event: Event
    told: tuple[Told, ...]
    silenced: Silence | None


def open_alerts(conn: Connection, now: datetime, *, host_id: str | None = None) -> list[OpenAlert]:
    """What is open, oldest first.

    :param host_id: of this server only
    """
    query = (
        select(events, alerts.c.id.label("of"), alerts.c.key, alerts.c.starts_at)
        .join(events, events.c.id == alerts.c.last_event_id)
        .where(alerts.c.ends_at.is_(None))
        .order_by(alerts.c.starts_at, events.c.seq)
    )
    if host_id is not None:
        query = query.where(alerts.c.host_id == host_id)
    rows = list(conn.execute(query))
    told = _told(conn, [row.of for row in rows])
    current = silences.current(conn, now)
    listed = hosts.listed(conn)
    found = []
    for row in rows:
        event = outbox.event_of(row)
        found.append(
            OpenAlert(
                id=row.of,
                key=row.key,
                starts_at=row.starts_at,
                event=event,
                told=tuple(told[row.of][channel] for channel in sorted(told[row.of])),
                silenced=silenced(current, event, row.of, now, listed.get(event.host_id or "")),
            )
        )
    return found


def told_elsewhere(conn: Connection, channels: Collection[str]) -> dict[str, int]:
    """Channel that is none of these: how many alerts that go on it was told, or may have been."""
    known = outbox.told(conn, [alert.id for alert in stored.opened(conn).values()])
    found = Counter(one.channel for of in known.values() for one in of if one.heard and one.channel not in channels)
    return dict(sorted(found.items()))


def _told(conn: Connection, alert_ids: Sequence[str]) -> dict[str, dict[str, Told]]:
    """Alert id: channel: the newest delivery."""
    found: dict[str, dict[str, Told]] = defaultdict(dict)
    for part in chunks(alert_ids):
        query = (
            select(
                events.c.id,
                events.c.alert_id,
                deliveries.c.channel,
                deliveries.c.route,
                deliveries.c.state,
                deliveries.c.last_error,
            )
            .join(deliveries, deliveries.c.event_id == events.c.id)
            .where(or_(events.c.alert_id.in_(part), events.c.id.in_(part)))
            .order_by(events.c.seq)
        )
        for event_id, alert_id, channel, route, state, error in conn.execute(query):
            found[alert_id or event_id][channel] = Told(channel, route, state, error)
    return found
