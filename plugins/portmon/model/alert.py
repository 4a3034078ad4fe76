"""Alerts, their deliveries to channels, and the receipts of these."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from portmon.model.event import AlertGroup, AlertRole, Event


@dataclass(frozen=True, slots=True)
class Alert:
    """A trouble that goes on or is over, or a notice: an event that stands for itself.

    :param id: of the event that began it; of a notice, its own
    :param role: what ``event`` means for it
    :param event: the newest, or the one that a message tells
    :param first: the event that began it: what identifies it elsewhere is taken from there, and so never changes
    :param ends_at: None while it goes on
    :param untold: it ends, and the channel was not notified of its beginning
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
        """Names its subject; at most one alert is open for each key."""
        return self.first.alert_key


def begun_by(event: Event) -> Alert:
    """The alert that an event begins."""
    return Alert(event.id, AlertRole.FIRING, event, event, event.since or event.at)


class DeliveryState(StrEnum):
    """How far an event is on its way to one channel."""

    PENDING = "pending"
    SENDING = "sending"
    """Under way. If the task that sends it died, it may have come through."""
    DELIVERED = "delivered"
    WITHHELD = "withheld"
    """Silenced or acknowledged: sent if that ends before the alert does."""
    SILENCED = "silenced"
    """Withheld for good."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"


UNFINISHED = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.WITHHELD)
"""States of deliveries that may still be sent."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that a channel does not have yet.

    :param alert: of which the event tells
    :param seq: place of the event among all events
    :param targets_done: targets of the channel that have it
    :param message_id: of a message that may have come through
    :param reminder: the channel was notified before, and the alert goes on
    :param since: when it was put into the queue
    :param tried_at: when it was last tried; None before that
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
    """How far the newest event of an alert is on its way to one channel.

    :param reason: why it is not delivered, as far as there is a reason
    """

    channel: str
    route: str
    state: DeliveryState
    reason: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The notifications of one alert that a channel got.

    :param at: time of the last one; None if there is none as far as is known
    :param message_id: of a message that was sent at least once and may have come through
    :param states: of its deliveries
    :param event_id: the newest event that it was notified of, or that was given up
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
        """Whether one is still to be sent."""
        return not self.states.isdisjoint((DeliveryState.PENDING, DeliveryState.SENDING))
