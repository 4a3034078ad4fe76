"""What a channel is told next, of the events that it does not have yet. Pure.

A channel gets the events of one port, host or monitor condition in the order in which they happened: one that is
unfinished holds the later ones of its own, and nothing else. What is not worth telling any more is left out: a down
that was over, or became another trouble, before the channel took it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile

from portmon.model.event import AlertGroup, AlertRole, Event

FIRST_REST = timedelta(minutes=2)
"""After the first try that was not answered; twice as long after each further one."""
LONGEST_REST = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Queued:
    """An event that a channel does not have yet.

    :param seq: its place among all events
    :param alert_id: the alert that it tells of; of a notice, its own id
    :param route: that it came by
    :param tries: how often it was tried
    :param targets_done: targets of the channel that have it
    :param message_id: of a message that may have come through, or not: nobody knows
    :param reminder: it was told before, and goes on
    :param since: when it was put into the queue
    :param tried_at: when it was last tried, if it was
    :param crashed: who sent it is gone, and left no word
    """

    event: Event
    seq: int
    alert_id: str
    role: AlertRole
    group: AlertGroup
    route: str
    tries: int = 0
    targets_done: tuple[str, ...] = ()
    message_id: str | None = None
    reminder: bool = False
    since: datetime | None = None
    tried_at: datetime | None = None
    crashed: bool = False

    @property
    def rests_until(self) -> datetime | None:
        """When to try again a message that was not answered: each time it may have come through once more.

        Not if who sent it was killed: that says nothing about the receiver.
        """
        if self.message_id is None or self.crashed or self.tried_at is None:
            return None
        return self.tried_at + min(FIRST_REST * (1 << min(self.tries - 1, 10)), LONGEST_REST)


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that go into one message.

    :param subject: value of the label that its route groups by; empty without
    :param targets_done: targets of the channel that have all of them
    :param message_id: of an earlier try of the same message, of which nobody knows whether it came through
    """

    queued: tuple[Queued, ...]
    group: AlertGroup
    route: str
    subject: str
    targets_done: tuple[str, ...]
    message_id: str | None
    reminder: bool

    @property
    def event_ids(self) -> list[str]:
        """Of its events, in their order."""
        return [one.event.id for one in self.queued]


def superseded(queue: Iterable[Queued]) -> dict[str, str]:
    """Events that need not be told any more, and why.

    :returns: event id: reason, for people
    """
    newest: dict[str, Queued] = {}
    found: dict[str, str] = {}
    for one in sorted(queue, key=lambda one: one.seq):
        before = newest.get(one.alert_id)
        if before is not None and before.role is AlertRole.FIRING:
            over = one.role is AlertRole.RESOLVED
            found[before.event.id] = "over before it was delivered" if over else f"overtaken by {one.event.kind}"
        newest[one.alert_id] = one
    return found


def next_batches(
    queue: Iterable[Queued],
    group: AlertGroup,
    *,
    group_by: Mapping[str, str | None],
    held: Collection[str] = (),
    now: datetime | None = None,
    ids_are_seen: bool = True,
) -> list[Batch]:
    """The messages that come next for a group of events, and those of other groups that must come before.

    :param queue: whatever the channel does not have, superseded events left out
    :param group_by: route: the label of hosts that makes messages of their own
    :param held: alert keys that wait, because something of theirs failed just now
    :param now: what was not answered waits for its time; None: it does not
    :param ids_are_seen: a receiver knows a message that comes again by its id: then it must stay as it was
    """
    by_key: dict[str, list[Queued]] = defaultdict(list)
    for one in sorted(queue, key=lambda one: one.seq):
        by_key[one.event.alert_key].append(one)
    heads = {
        key: _head(own, ids_are_seen)
        for key, own in by_key.items()
        if key not in held and not (now and rests(own[0], now))
    }
    wanted = {key for key in heads if any(one.group is group for one in by_key[key])}
    # If something of another group comes first, then everything of it that can, so that it is one message.
    groups = {heads[key][0].group for key in wanted}
    sendable = [one for head in heads.values() if head[0].group in groups for one in head]
    return _batches(sendable, group_by, ids_are_seen)


def rests(one: Queued, now: datetime) -> bool:
    """Whether it is too early to try again."""
    until = one.rests_until
    return until is not None and now < until


def _head(own: Sequence[Queued], ids_are_seen: bool) -> list[Queued]:
    """What comes first of one key, as far as it goes into one message: two would have no order."""

    def message(one: Queued) -> tuple[object, ...]:
        known = one.message_id if ids_are_seen else None
        return one.group, one.route, one.targets_done, known, one.reminder, one.event.labels

    return list(takewhile(lambda one: message(one) == message(own[0]), own))


def _batches(sendable: Sequence[Queued], group_by: Mapping[str, str | None], ids_are_seen: bool) -> list[Batch]:
    batches: dict[tuple[object, ...], list[Queued]] = defaultdict(list)
    for one in sorted(sendable, key=lambda one: one.seq):
        label = group_by.get(one.route)
        subject = one.event.labels.get(label, "") if label else ""
        known = one.message_id if ids_are_seen else None
        batches[one.group, one.route, subject, one.targets_done, known, one.reminder].append(one)
    made = [
        Batch(
            tuple(own),
            own[0].group,
            own[0].route,
            str(key[2]),
            own[0].targets_done,
            own[0].message_id if ids_are_seen else None,
            own[0].reminder,
        )
        for key, own in batches.items()
    ]
    # What was tried often comes last: it may be what the channel does not take.
    return sorted(made, key=lambda batch: max(one.tries for one in batch.queued))


def message_id(channel: str, batch: Batch) -> str:
    """The same for the same events to the same channel, so that a receiver knows a message that comes again.

    A reminder is another message than the one before it.
    """
    since = max((str(one.since) for one in batch.queued), default="") if batch.reminder else ""
    text = "\x00".join((channel, since, *sorted(batch.event_ids)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
