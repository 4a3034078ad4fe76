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
from itertools import takewhile

from portmon.models import AlertGroup, AlertRole, Event


@dataclass(frozen=True, slots=True)
class Queued:
    """An event that a channel does not have yet.

    :param seq: its place among all events
    :param alert_id: the alert that it tells of; of a notice, its own id
    :param route: that it came by
    :param attempts: how often it was tried
    :param targets_done: targets of the channel that have it
    :param message_id: of a message that may have come through, or not: nobody knows
    """

    event: Event
    seq: int
    alert_id: str
    role: AlertRole
    group: AlertGroup
    route: str
    attempts: int = 0
    targets_done: tuple[str, ...] = ()
    message_id: str | None = None


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
) -> list[Batch]:
    """The messages that come next for a group of events, and those of other groups that must come before.

    :param queue: whatever the channel does not have, superseded events left out
    :param group_by: route: the label of hosts that makes messages of their own
    :param held: alert keys that wait, because something of theirs failed just now
    """
    by_key: dict[str, list[Queued]] = defaultdict(list)
    for one in sorted(queue, key=lambda one: one.seq):
        by_key[one.event.alert_key].append(one)
    heads = {key: _head(own) for key, own in by_key.items() if key not in held}
    wanted = {key for key in heads if any(one.group is group for one in by_key[key])}
    # If something of another group comes first, then everything of it that can, so that it is one message.
    groups = {heads[key][0].group for key in wanted}
    sendable = [one for head in heads.values() if head[0].group in groups for one in head]
    return _batches(sendable, group_by)


def _head(own: Sequence[Queued]) -> list[Queued]:
    """What comes first of one key, as far as it goes into one message: two would have no order."""

    def message(one: Queued) -> tuple[object, ...]:
        return one.group, one.route, one.targets_done, one.message_id, one.event.labels

    return list(takewhile(lambda one: message(one) == message(own[0]), own))


def _batches(sendable: Sequence[Queued], group_by: Mapping[str, str | None]) -> list[Batch]:
    batches: dict[tuple[object, ...], list[Queued]] = defaultdict(list)
    for one in sorted(sendable, key=lambda one: one.seq):
        label = group_by.get(one.route)
        subject = one.event.labels.get(label, "") if label else ""
        batches[one.group, one.route, subject, one.targets_done, one.message_id].append(one)
    made = [
        Batch(
            tuple(own),
            own[0].group,
            own[0].route,
            str(key[2]),
            own[0].targets_done,
            own[0].message_id,
        )
        for key, own in batches.items()
    ]
    # What was tried often comes last: it may be what the channel does not take.
    return sorted(made, key=lambda batch: max(one.attempts for one in batch.queued))


def message_id(channel: str, event_ids: Iterable[str], *, salt: str = "") -> str:
    """The same for the same events to the same channel, so that a receiver knows a message that comes again.

    :param salt: what else makes it another message
    """
    text = "\x00".join((channel, salt, *sorted(event_ids)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
