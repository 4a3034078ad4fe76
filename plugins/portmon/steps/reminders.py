"""What goes on and is told again: reminders for people, and what Alertmanager would forget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection

from portmon.alerting.channels import Channel
from portmon.alerting.silences import Silence
from portmon.config import Config
from portmon.model.alert import Alert
from portmon.model.event import AlertGroup, AlertRole, Event
from portmon.storage import alerts, outbox
from portmon.storage.alerts import StoredAlert
from portmon.storage.outbox import Told

RESOLVED_FOR = timedelta(minutes=5)
"""How long it is repeated that something is over, for a receiver that missed it."""


# ── reminders ───────────────────────────────────────────────────────────────────────────────────


def remind(
    conn: Connection, config: Config, withholds: Callable[[Event, str], Silence | None], *, now: datetime
) -> None:
    """Put into the queue again what goes on and was told long ago, or given up; not what is withheld.

    If one reminder is due, then also those that would be soon: one message instead of many.
    """
    every = config.alerts.repeat_every
    channels = [channel.name for channel in config.alerts.channels if not channel.repeats_firing]
    if not every or not channels:
        return
    opened = list(alerts.opened(conn).values())
    told = outbox.told(conn, [alert.id for alert in opened])
    known: dict[tuple[str, AlertGroup], list[tuple[timedelta, str]]] = defaultdict(list)
    events = outbox.by_ids(conn, [one.event_id for own in told.values() for one in own])
    for alert in opened:
        for one in told.get(alert.id, ()):
            event = events.get(one.event_id)
            if event is None or one.channel not in channels or one.states & {outbox.PENDING, outbox.SENDING}:
                continue
            at = one.at or (event.at if outbox.EXPIRED in one.states else None)
            group = event.meaning.group
            if at is None or group is None or withholds(event, alert.id):
                continue
            known[one.channel, group].append((now - at, event.id))
    for (channel, _), own in known.items():
        if any(age >= every for age, _ in own):
            outbox.remind(conn, channel, [event_id for age, event_id in own if age >= every / 2], now)


# ── Alertmanager ────────────────────────────────────────────────────────────────────────────────


def groups(conn: Connection, config: Config, *, now: datetime, interval: timedelta) -> set[AlertGroup]:
    """The alert tasks that have something to repeat."""
    channels = [channel for channel in config.alerts.channels if channel.repeats_firing]
    if not channels:
        return set()
    book = Book.of(conn, now=now, interval=interval)
    return {group for channel in channels for group in AlertGroup if book.due(channel, group)}


class Book:
    """Alerts that go on, or have just ended, and who knows of them.

    :param going_on: with their newest event
    :param ended: with the event that ended them
    :param told: alert id: who knows
    """

    def __init__(
        self,
        going_on: list[tuple[StoredAlert, Alert]],
        ended: list[tuple[StoredAlert, Alert]],
        told: Mapping[str, list[Told]],
    ) -> None:
        self._going_on = going_on
        self._ended = ended
        self._told = told

    @classmethod
    def of(cls, conn: Connection, *, now: datetime, interval: timedelta) -> Book:
        """Read what is known now."""
        opened = alerts.opened(conn)
        # Half an interval more, so that it is repeated at least once, whatever the interval. But not the end of what
        # goes on again: the labels are the same.
        since = now - max(RESOLVED_FOR, 1.5 * interval)
        ended = [alert for alert in alerts.closed_since(conn, since) if alert.key not in opened]
        both = [*opened.values(), *ended]
        wanted = {event_id for alert in both for event_id in (alert.id, alert.last_event_id)}
        events = outbox.by_ids(conn, wanted | {alert.closed_by for alert in ended if alert.closed_by})
        return cls(
            [(alert, made) for alert in opened.values() if (made := going_on(alert, events))],
            [(alert, made) for alert in ended if (made := over(alert, events))],
            outbox.told(conn, [alert.id for alert in both]),
        )

    def due(self, channel: Channel, group: AlertGroup) -> list[tuple[str, Alert]]:
        """What an Alertmanager is to be told again now, of what it was told once.

        :returns: route that it came by, and the alert
        """
        if not channel.repeats_firing:
            return []
        repeated = [*self._going_on, *(self._ended if channel.send_resolved else ())]
        return [
            (told.route, alert)
            for stored, alert in repeated
            if alert.event.meaning.group is group
            for told in self._told.get(stored.id, ())
            if told.channel == channel.name and told.at is not None
        ]


def going_on(stored: StoredAlert, events: Mapping[str, Event]) -> Alert | None:
    """An alert that goes on; None if its events are gone."""
    first, last = events.get(stored.id), events.get(stored.last_event_id)
    if first is None or last is None:
        return None
    return Alert(stored.id, AlertRole.FIRING, last, first, stored.starts_at)


def over(stored: StoredAlert, events: Mapping[str, Event]) -> Alert | None:
    """An alert that ended; None if its events are gone."""
    first, last = events.get(stored.id), events.get(stored.closed_by or "")
    if first is None or last is None:
        return None
    return Alert(stored.id, AlertRole.RESOLVED, last, first, stored.starts_at, stored.ends_at)
