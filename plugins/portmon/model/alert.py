"""Alerts, their deliveries to channels, and the receipts of the deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup, AlertRole


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that is firing or resolved, or a notice, which is an event by itself.

    :param id: of ``first``
    :param role: what ``event`` means for it
    :param event: the newest, or the one that a message tells
    :param first: the event that began it. Other systems know the alert by its fields, which never change
    :param ends_at: None while it is firing
    :param untold: it is resolved, and the channel was not notified that it was firing
    """

    id: str
    role: AlertRole
    event: Event
    first: Event
    starts_at: datetime
    ends_at: datetime | None = None
    untold: bool = False

    @property
    def key(self) -> str:
        """At most one alert is open for each key."""
        return self.first.alert_key


def begun_by(event: Event) -> Alert:
    """The alert that an event begins."""
    return Alert(event.id, AlertRole.FIRING, event, event, event.since or event.at)


class DeliveryState(StrEnum):
    """State of the delivery of one event to one channel."""

    PENDING = "pending"
    SENDING = "sending"  # if the task that sends it died, the channel may have it
    DELIVERED = "delivered"
    WITHHELD = "withheld"  # silenced or acknowledged: sent if that ends before the alert does
    SILENCED = "silenced"  # withheld for good
    CANCELLED = "cancelled"
    EXPIRED = "expired"


UNFINISHED = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.WITHHELD)
"""States of deliveries that may still be sent."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that a channel does not have yet.

    :param seq: place of the event among all events
    :param since: when it was put into the queue
    :param targets_done: targets of the channel that have it
    :param message_id: of a message that the channel may have
    :param reminder: the channel was notified before, and the alert is still firing
    :param tried_at: when it was last tried
    :param reason: the last error, or why it is withheld
    """

    alert: Alert
    group: AlertGroup
    seq: int
    channel: str
    route: str
    since: datetime
    state: DeliveryState = DeliveryState.PENDING
    tries: int = 0
    targets_done: tuple[str, ...] = ()
    message_id: str | None = None
    reminder: bool = False
    tried_at: datetime | None = None
    reason: str | None = None

    @property
    def event(self) -> Event:
        """The event that is to be sent."""
        return self.alert.event


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """State of the delivery of an alert's newest event to one channel, and why it is not delivered."""

    channel: str
    route: str
    state: DeliveryState
    reason: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The notifications of one alert that a channel got.

    :param at: time of the last one
    :param message_id: of a message that was sent at least once; the channel may have it
    :param states: of its deliveries
    :param event_id: the newest event that the channel was notified of, or that was given up
    """

    channel: str
    route: str
    at: datetime | None = None
    message_id: str | None = None
    states: frozenset[DeliveryState] = frozenset()
    event_id: str = ""

    @property
    def notified(self) -> bool:
        """Whether the channel was notified, or may have been."""
        return self.at is not None or self.message_id is not None

    @property
    def under_way(self) -> bool:
        """Whether a notification is still to be sent."""
        return not self.states.isdisjoint((DeliveryState.PENDING, DeliveryState.SENDING))
