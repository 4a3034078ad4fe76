"""Alerts, as messages tell them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from portmon.model.event import AlertRole, Event


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that goes on from a first event to a last one, or a notice of one event.

    :param id: the same for as long as it lives; of a notice, the event's
    :param event: the newest one that is told
    :param first: the event that began it. Alertmanager's labels and the threads of mails are made of it: they never
        change
    :param ends_at: None while it goes on
    :param untold: it is over, and its beginning was not told
    """

    id: str
    role: AlertRole
    event: Event
    first: Event
    starts_at: datetime
    ends_at: datetime | None = None
    untold: bool = False
