"""Send what the outbox holds, then mark it sent."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from portmon.config import Channel, Config
from portmon.errors import DeliveryError
from portmon.models import AlertGroup, Event
from portmon.render import Message, render
from portmon.storage import lease, outbox
from portmon.storage.database import Database

log = logging.getLogger(__name__)

LEASE_TTL = timedelta(minutes=2)

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
    under way. A channel that fails does not keep the others from theirs.

    :param holder: who, for people that wonder about a lease
    :returns: number of events delivered, channels counted apart
    :raises DeliveryError: after all channels were tried, if any failed
    """
    sent = 0
    failures: list[DeliveryError] = []
    for channel in config.alerts.channels:
        # Two copies of one alert task, a cleared one and its zombie, must not both send.
        with lease.hold(database, f"alert/{group}/{channel.name}", holder, ttl=LEASE_TTL, wait=LEASE_TTL) as held:
            with database.begin() as conn:
                held.check(conn)
                pending = outbox.pending(conn, group, channel.name)
            by_done: dict[tuple[str, ...], list[Event]] = defaultdict(list)
            for delivery in pending:
                by_done[delivery.targets_done].append(delivery.event)
            for done, events in by_done.items():
                try:
                    _send(database, config, channel, group, events, done, send=send, link=link, clock=clock)
                    sent += len(events)
                except DeliveryError as error:
                    log.error("%s; %d events stay in the outbox", error, len(events))
                    failures.append(error)
    if failures:
        raise failures[0]
    return sent


def _send(
    database: Database,
    config: Config,
    channel: Channel,
    group: AlertGroup,
    events: Sequence[Event],
    done: tuple[str, ...],
    *,
    send: Send,
    link: Callable[[Event], str | None],
    clock: Callable[[], datetime],
) -> None:
    message = render(events, group, language=config.alerts.language, max_lines=config.alerts.max_lines, link=link)
    ids = [event.id for event in events]
    try:
        send(channel, message, done)
    except DeliveryError as error:
        with database.begin() as conn:
            outbox.failed(conn, channel.name, ids, str(error), tuple(dict.fromkeys((*done, *error.delivered))), clock())
        raise
    with database.begin() as conn:
        outbox.delivered(conn, channel.name, ids, clock())
    log.info("%s: delivered %r (%d events)", channel.name, message.title, len(ids))
