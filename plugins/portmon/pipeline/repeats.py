"""What goes on and is told again: reminders for people, and what Alertmanager would forget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta

from sqlalchemy import Connection

from portmon.config import AlertmanagerChannel, Channel, Config
from portmon.models import Alert, AlertGroup, AlertRole, Event, alert_group
from portmon.mutes import Mute, muted
from portmon.storage import alerts, outbox
from portmon.storage.alerts import StoredAlert
from portmon.storage.outbox import Told

RESOLVED_FOR = timedelta(minutes=5)
"""How long it is repeated that something is over, for a receiver that missed it."""
HOLD_INTERVALS = 4
"""Intervals for which a firing alert holds without being repeated: that many runs may be skipped."""
HOLD_WITHOUT_RHYTHM = timedelta(days=1)
"""The same where runs are started by hand."""


def hold_until(now: datetime, interval: timedelta) -> datetime:
    """Until when what goes on holds, unless a later run repeats it.

    :param interval: between scheduled runs; 0 if there is no rhythm
    """
    return now + (HOLD_INTERVALS * interval or HOLD_WITHOUT_RHYTHM)


def groups(
    conn: Connection, config: Config, in_force: Iterable[Mute], *, now: datetime, interval: timedelta
) -> set[AlertGroup]:
    """The alert tasks that have something to repeat."""
    found: set[AlertGroup] = set()
    book = Book.of(conn, in_force, now=now, interval=interval)
    for channel in config.alerts.channels:
        for group in AlertGroup:
            if group not in found and book.due(channel, group, config.alerts.repeat_every):
                found.add(group)
    return found


class Book:
    """Alerts that go on, or have just ended, and who knows of them.

    :param going_on: with their newest event
    :param ended: with the event that ended them
    """

    def __init__(
        self,
        going_on: list[tuple[StoredAlert, Alert]],
        ended: list[tuple[StoredAlert, Alert]],
        told: Callable[[str], Collection[Told]],
        in_force: Iterable[Mute],
        now: datetime,
    ) -> None:
        self._going_on = going_on
        self._ended = ended
        self._told = told
        self._in_force = list(in_force)
        self._now = now

    @classmethod
    def of(cls, conn: Connection, in_force: Iterable[Mute], *, now: datetime, interval: timedelta) -> Book:
        """Read what is known now."""
        opened = list(alerts.opened(conn).values())
        # Half an interval more, so that it is repeated at least once, whatever the interval.
        ended = alerts.closed_since(conn, now - max(RESOLVED_FOR, 1.5 * interval))
        wanted = {event_id for alert in (*opened, *ended) for event_id in (alert.id, alert.last_event_id)}
        events = outbox.by_ids(conn, wanted | {alert.closed_by for alert in ended if alert.closed_by})
        told = outbox.told(conn, [alert.id for alert in (*opened, *ended)])
        return cls(
            [(alert, made) for alert in opened if (made := going_on(alert, events))],
            [(alert, made) for alert in ended if (made := over(alert, events))],
            lambda alert_id: told.get(alert_id, ()),
            in_force,
            now,
        )

    def due(self, channel: Channel, group: AlertGroup, every: timedelta) -> list[tuple[str, Alert]]:
        """What a channel is to be told again now.

        :param every: a reminder of what goes on; 0 is never
        :returns: route that it came by, and the alert
        """
        if isinstance(channel, AlertmanagerChannel):
            return [*self._known(channel.name, group, self._going_on), *self._known(channel.name, group, self._ended)]
        return self._reminders(channel.name, group, every)

    def _known(
        self, channel: str, group: AlertGroup, of: Iterable[tuple[StoredAlert, Alert]]
    ) -> Iterable[tuple[str, Alert]]:
        """Alerts of a group that a channel has been told of."""
        for stored, alert in of:
            if _group(alert.event) is group:
                for told in self._told(stored.id):
                    if told.channel == channel and told.at is not None:
                        yield told.route, alert

    def _reminders(self, channel: str, group: AlertGroup, every: timedelta) -> list[tuple[str, Alert]]:
        """If one is due, then also those that would be soon: one message instead of many."""
        if not every:
            return []
        known = []
        for stored, alert in self._going_on:
            if _group(alert.event) is not group or muted(self._in_force, alert.event, stored.id, self._now):
                continue
            for told in self._told(stored.id):
                if told.channel != channel or told.states & {outbox.PENDING, outbox.SENDING}:
                    continue
                at = told.at or (alert.event.at if outbox.EXPIRED in told.states else None)
                if at is not None:
                    known.append((self._now - at, told.route, alert))
        if not any(age >= every for age, _, _ in known):
            return []
        return [(route, alert) for age, route, alert in known if age >= every / 2]


def going_on(stored: StoredAlert, events: dict[str, Event]) -> Alert | None:
    """An alert that goes on; None if its events are gone."""
    first, last = events.get(stored.id), events.get(stored.last_event_id)
    if first is None or last is None:
        return None
    return Alert(stored.id, AlertRole.FIRING, last, first, stored.starts_at)


def over(stored: StoredAlert, events: dict[str, Event]) -> Alert | None:
    """An alert that ended; None if its events are gone."""
    first, last = events.get(stored.id), events.get(stored.closed_by or "")
    if first is None or last is None:
        return None
    return Alert(stored.id, AlertRole.RESOLVED, last, first, stored.starts_at, stored.ends_at)


def _group(event: Event) -> AlertGroup | None:
    return alert_group(event.kind, event.details)
