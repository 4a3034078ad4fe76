"""The messages that a channel gets next, of the events that it does not have yet. Pure.

A channel gets the events of one port, host or monitor condition in the order in which they happened: an unfinished
delivery holds the later events of the same alert key, and nothing else. An event that is not worth sending any more is
left out: a down that was over, or became another trouble, before the channel took it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from portmon.model.alert import Delivery, DeliveryState
from portmon.model.event_kinds import AlertGroup, AlertRole

FIRST_REST = timedelta(minutes=2)
"""After the first try that was not answered; twice as long after each further one."""
LONGEST_REST = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Notification:
    """Deliveries of one message: all have the same group, route, ``targets_done`` and ``reminder``.

    :param subject: value of the label that its route groups by; empty without
    :param message_id: of an earlier try of the same message, which may have come through
    """

    deliveries: tuple[Delivery, ...]
    subject: str
    message_id: str | None

    @property
    def first(self) -> Delivery:
        """The first delivery, which stands for all in what they have in common."""
        return self.deliveries[0]

    @property
    def event_ids(self) -> list[str]:
        """Ids of its events, in their order."""
        return [one.event.id for one in self.deliveries]


def superseded(queue: Iterable[Delivery]) -> list[tuple[Delivery, str]]:
    """Deliveries that are not worth sending any more, and why, for people."""
    newest: dict[tuple[str, str], Delivery] = {}
    found = []
    for one in sorted(queue, key=lambda one: one.seq):
        before = newest.get((one.channel, one.alert.id))
        if before is not None and before.alert.role is AlertRole.FIRING:
            over = one.alert.role is AlertRole.RESOLVED
            found.append((before, "over before it was delivered" if over else f"overtaken by {one.event.kind}"))
        newest[one.channel, one.alert.id] = one
    return found


def next_notifications(
    queue: Iterable[Delivery],
    group: AlertGroup,
    *,
    group_by: Mapping[str, str | None],
    held: Collection[str] = (),
    now: datetime | None = None,
    ids_are_seen: bool = True,
) -> list[Notification]:
    """The messages that come next for a group of events, and those of other groups that must come before.

    :param queue: what the channel lacks, superseded deliveries left out
    :param group_by: route: the label of hosts that makes messages of their own
    :param held: alert keys that wait, because a message about them failed just now
    :param now: a message that was not answered rests until its time; None: it does not
    :param ids_are_seen: the receiver knows a message that comes again by its id, so it must stay as it was
    """

    def message(one: Delivery, *more: object) -> tuple[object, ...]:
        """The same for deliveries that may go into one message."""
        return one.group, one.route, one.targets_done, one.message_id if ids_are_seen else None, one.reminder, *more

    by_key: dict[str, list[Delivery]] = defaultdict(list)
    for one in sorted(queue, key=lambda one: one.seq):
        by_key[one.event.alert_key].append(one)
    heads: list[Delivery] = []
    groups: set[AlertGroup] = set()
    for key, own in by_key.items():
        if key in held or (now and rests(own[0], now)):
            continue
        # The first of one key, as far as they go into one message: two messages of one key could arrive in any order.
        heads += next(groupby(own, lambda one: message(one, one.event.labels)))[1]
        if any(one.group is group for one in own):
            groups.add(own[0].group)
    messages: dict[tuple[object, ...], list[Delivery]] = defaultdict(list)
    # If an event of another group must come first, all of that group that can go with it: one message.
    for one in sorted((one for one in heads if one.group in groups), key=lambda one: one.seq):
        label = group_by.get(one.route)
        messages[message(one, one.event.labels.get(label, "") if label else "")].append(one)
    # A message that was tried often comes last: it may be the one that the channel does not take.
    return [
        Notification(tuple(own), str(key[-1]), own[0].message_id if ids_are_seen else None)
        for key, own in sorted(messages.items(), key=lambda message: max(one.tries for one in message[1]))
    ]


def rests_until(one: Delivery) -> datetime | None:
    """When to try again a message that was not answered: each time it may have come through once more.

    None if the task that sent it was killed: that says nothing about the receiver.
    """
    if one.message_id is None or one.state is DeliveryState.SENDING or one.tried_at is None:
        return None
    return one.tried_at + min(FIRST_REST * (1 << min(one.tries - 1, 10)), LONGEST_REST)


def rests(one: Delivery, now: datetime) -> bool:
    """Whether it is too early to try again."""
    until = rests_until(one)
    return until is not None and now < until


def message_id(notification: Notification) -> str:
    """The same for the same events to the same channel, so that a receiver knows a message that comes again.

    A reminder is another message than the one before it.
    """
    first = notification.first
    since = max(str(one.since) for one in notification.deliveries) if first.reminder else ""
    text = "\x00".join((first.channel, since, *sorted(notification.event_ids)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
