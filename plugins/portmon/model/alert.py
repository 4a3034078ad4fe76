"""What a message tells of: something that goes on, or one event that stands for itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from portmon.model.event import AlertRole, Event


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that goes on, or an event that stands for itself, as a message tells it.

    :param id: of what goes on, from its first event to its last; of a notice, the event's
    :param role: what is told of it
    :param event: the newest that is told
    :param first: the event that began it: what identifies it elsewhere is taken from there, and so never changes
    :param starts_at: since when it goes on
    :param ends_at: None while it goes on
    :param untold: it ends, and its beginning had not been told
    """

    id: str
    role: AlertRole
    event: Event
    first: Event
    starts_at: datetime
    ends_at: datetime | None = None
    untold: bool = False
