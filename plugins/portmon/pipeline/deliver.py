"""Send what the outbox holds, then mark it sent."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from portmon import limits
from portmon.config import Channel, Config
from portmon.errors import DeliveryError, OverrunError, PortmonError, StorageError
from portmon.models import AlertGroup, Event
from portmon.render import Message, plain, render
from portmon.storage import lease, outbox
from portmon.storage.database import Database
from portmon.storage.outbox import PendingDelivery

log = logging.getLogger(__name__)

LEASE_TTL = 2 * limits.SEND
"""Renewed before every message, each of which may take ``limits.SEND``: so it outlives what it protects,
and after a crash the retry waits no longer than this."""

Send = Callable[[Channel, Message, tuple[str, ...]], None]
"""Delivers to every target of a channel that is not named as done; raises DeliveryError."""


def groups_to_alert(database: Database, config: Config, *, now: datetime) -> set[AlertGroup]:
    """Which alert tasks have something to send, whichever run made it."""
    with database.begin() as conn:
        channels = [channel.name for channel in config.alerts.channels]
        outbox.open_deliveries(conn, channels, now)
        return outbox.pending_groups(conn, channels)


def deliver_group(
    database: Database,
    config: Config,
    group: AlertGroup,
    *,
    send: Send,
    link: Callable[[Event], str | None],
    holder: str,
    clock: Callable[[], datetime],
) -> int:
    """Send the undelivered events of a group through every channel, one message each.

    What a channel took is marked at once, so that a crash repeats at most the message that was
    under way. A channel that fails, hangs, or is served by another copy of this task just now, does not keep
    the others from theirs: a message has ``limits.SEND``, and who failed before comes last.

    :param holder: who, for people that wonder about a lease
    :returns: number of events delivered, channels counted apart
    :raises DeliveryError: after all channels were tried, if any failed
    :raises StorageError: the same for a lease that somebody else kept
    """
    sent = 0
    failures: list[PortmonError] = []
    # After this no message is begun, so that the last one ends within the task's limit.
    last_start = time.monotonic() + (limits.ALERT - 1.5 * limits.SEND).total_seconds()
    waiting = _least_tried_first(database, config, group)
    for patience in (timedelta(0), LEASE_TTL):
        busy: list[Channel] = []
        for channel in waiting:
            left = timedelta(seconds=last_start - time.monotonic())
            if left < timedelta(0):
                failures.append(DeliveryError("not asked, the others took too long", channel=channel.name))
                continue
            delivery = _Delivery(database, config, group, channel, send, link, clock)
            name = f"alert/{group}/{channel.name}"
            try:
                # Two copies of one alert task, a cleared one and its zombie, must not both send.
                with lease.hold(database, name, holder, ttl=LEASE_TTL, wait=min(patience, left)) as held:
                    delivery.run(held)
            except StorageError as error:
                log.warning("%s", error)
                busy.append(channel)
                if patience:
                    failures.append(error)
            sent += delivery.sent
            failures += delivery.failures
        waiting = busy
    if failures:
        raise failures[0]
    return sent


def _least_tried_first(database: Database, config: Config, group: AlertGroup) -> list[Channel]:
    """The channels that lack something, in their order but for those that failed before."""
    tried: dict[str, int] = {}
    with database.begin() as conn:
        for channel in config.alerts.channels:
            attempts = [one.attempts for one in outbox.pending(conn, group, channel.name)]
            if attempts:
                tried[channel.name] = max(attempts)
    lacking = [channel for channel in config.alerts.channels if channel.name in tried]
    return sorted(lacking, key=lambda channel: tried[channel.name])


class _Delivery:
    """The undelivered events of a group through one channel."""

    def __init__(
        self,
        database: Database,
        config: Config,
        group: AlertGroup,
        channel: Channel,
        send: Send,
        link: Callable[[Event], str | None],
        clock: Callable[[], datetime],
    ) -> None:
        self.database = database
        self.config = config
        self.group = group
        self.channel = channel
        self.send = send
        self.link = link
        self.clock = clock
        self.sent = 0
        self.failures: list[DeliveryError] = []

    def run(self, held: lease.Lease) -> None:
        """Send one message for the events of which the same targets are done.

        :raises LeaseLostError: if somebody took over; nothing is sent or marked from then on
        """
        with self.database.begin() as conn:
            pending = outbox.pending(conn, self.group, self.channel.name)
        by_done: dict[tuple[str, ...], list[PendingDelivery]] = defaultdict(list)
        for delivery in pending:
            by_done[delivery.targets_done].append(delivery)
        for done, deliveries in sorted(by_done.items(), key=lambda item: max(one.attempts for one in item[1])):
            events = [one.event for one in deliveries]
            try:
                self._send(held, events, done)
                self.sent += len(events)
            except DeliveryError as error:
                log.error("%s; %d events stay in the outbox", error, len(events))
                self.failures.append(error)
                if isinstance(error.__cause__, OverrunError):
                    # It may still be under way: no second one beside it.
                    return

    def _send(self, held: lease.Lease, events: Sequence[Event], done: tuple[str, ...]) -> None:
        channel, alerts = self.channel, self.config.alerts
        ids = [event.id for event in events]
        with self.database.begin() as conn:
            held.renew(conn, ttl=LEASE_TTL, now=self.clock())
        message = render(events, self.group, language=alerts.language, max_lines=alerts.max_lines, link=self.link)
        try:
            self._within_limit(message, done)
        except DeliveryError as error:
            taken = tuple(dict.fromkeys((*done, *error.delivered)))
            with self.database.begin() as conn:
                held.check(conn)
                outbox.failed(conn, channel.name, ids, str(error), taken, self.clock())
            raise
        with self.database.begin() as conn:
            held.check(conn)
            outbox.delivered(conn, channel.name, ids, self.clock())
        log.info("%s: delivered %r (%d events)", channel.name, message.title, len(ids))

    def _within_limit(self, message: Message, done: tuple[str, ...]) -> None:
        """Send, whatever the channel's code does: hang, or raise what it should not.

        :raises DeliveryError: it did not succeed in time. If it does later, the message comes twice
        """
        name = self.channel.name
        try:
            limits.within(limits.SEND, lambda: self.send(self.channel, message, done))
        except DeliveryError:
            raise
        except OverrunError as error:
            raise DeliveryError(f"no answer within {limits.SEND.total_seconds():g} s", channel=name) from error
        except Exception as error:
            log.exception("Channel %r failed in an unexpected way", name)
            raise DeliveryError(f"{type(error).__name__}: {plain(str(error), 300)}", channel=name) from error
