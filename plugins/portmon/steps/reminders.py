"""Open alerts that are told again: reminders for people, and repetitions, without which Alertmanager forgets them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from portmon.alerting.channels import Channel
from portmon.alerting.silences import SilencesInForce
from portmon.config import Config
from portmon.model.alert import Alert, DeliveryState, Receipt
from portmon.model.event_kinds import AlertGroup
from portmon.storage import alerts, deliveries, events, silences

RESOLVED_FOR = timedelta(minutes=5)
"""How long an end is repeated, for a receiver that missed it."""


@dataclass(frozen=True, slots=True)
class Book:
    """Alerts that go on, those that ended just now, and what channels were notified of them.

    :param opened: alert key: alert
    :param receipts: alert id: channel: receipt
    """

    opened: dict[str, Alert]
    ended: list[Alert]
    receipts: dict[str, dict[str, Receipt]]

    @classmethod
    def read(cls, conn: Connection, config: Config, *, now: datetime, interval: timedelta) -> Book:
        """Read it once.

        :param interval: between scheduled runs
        """
        opened, ended = alerts.opened(conn), []
        if any(channel.repeats_firing for channel in config.alerts.channels):
            # Half an interval more, so that an end is repeated at least once, whatever the interval.
            ended = alerts.ended_since(conn, now - max(RESOLVED_FOR, 1.5 * interval))
        return cls(opened, ended, deliveries.receipts(conn, [alert.id for alert in (*opened.values(), *ended)]))

    def due(self, channel: Channel, group: AlertGroup) -> list[tuple[str, Alert]]:
        """Alerts that an Alertmanager was notified of once and is to be told again now.

        :returns: route that it came by, and the alert
        """
        if not channel.repeats_firing:
            return []
        # Not the end of what goes on again: the labels are the same.
        ended = [alert for alert in self.ended if alert.key not in self.opened] if channel.send_resolved else []
        return [
            (receipt.route, alert)
            for alert in (*self.opened.values(), *ended)
            if alert.event.group is group
            and (receipt := self.receipts[alert.id].get(channel.name)) is not None
            and receipt.at is not None
        ]

    def acknowledged(
        self, conn: Connection, channel: Channel, group: AlertGroup | None, now: datetime
    ) -> list[tuple[int, str, Alert]]:
        """Acknowledged alerts that a channel was notified of and is to be told that a person takes care of them.

        :param group: of their events; None: of each group
        :returns: id of the acknowledgement, route that the alert came by, and the alert
        """
        untold = silences.untold(conn, channel.name, now) if channel.takes_acknowledgements else {}
        return [
            (untold[alert.id], receipt.route, alert)
            for alert in self.opened.values()
            if alert.id in untold
            and (group is None or alert.event.group is group)
            and (receipt := self.receipts[alert.id].get(channel.name)) is not None
            and receipt.at is not None
        ]


def remind(conn: Connection, config: Config, book: Book, in_force: SilencesInForce) -> None:
    """Put into the queue again open alerts that a channel was notified of long ago, or that were given up.

    Not those that are withheld. If one reminder is due, so are those that would be soon: one message instead of many.
    """
    every, now = config.alerts.repeat_every, in_force.now
    channels = {channel.name for channel in config.alerts.channels if not channel.repeats_firing}
    if not every or not channels:
        return
    found = [
        (alert, receipt)
        for alert in book.opened.values()
        for receipt in book.receipts[alert.id].values()
        if receipt.channel in channels and not receipt.under_way
    ]
    known = {event.id: event for alert, _ in found for event in (alert.first, alert.event)}
    known |= events.by_ids(conn, {receipt.event_id for _, receipt in found} - set(known))
    due: dict[tuple[str, AlertGroup | None], list[tuple[timedelta, str]]] = defaultdict(list)
    for alert, receipt in found:
        event = known[receipt.event_id]
        at = receipt.at or (event.at if DeliveryState.EXPIRED in receipt.states else None)
        if at is not None and in_force.withholds(event, alert.id) is None:
            due[receipt.channel, event.group].append((now - at, event.id))
    for (channel, _), own in due.items():
        if any(age >= every for age, _ in own):
            deliveries.remind(conn, channel, [event_id for age, event_id in own if age >= every / 2], now)
