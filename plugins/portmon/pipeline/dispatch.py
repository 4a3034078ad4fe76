"""Put new events into the outbox: which alert they belong to, which channels get them, what is withheld."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection

from portmon import limits
from portmon.config import Config, format_duration
from portmon.delivery import superseded
from portmon.models import AlertGroup, AlertRole, Event, alert_role
from portmon.mutes import Mute, muted
from portmon.pipeline import repeats
from portmon.render import plain
from portmon.routes import Routes
from portmon.storage import alerts, lease, mutes, outbox
from portmon.storage.alerts import StoredAlert
from portmon.storage.database import Database
from portmon.storage.outbox import Told, Waiting

log = logging.getLogger(__name__)

DISPATCHER = "dispatch"
"""Name of the lease that whoever fills the outbox holds."""
DISPATCH_TTL = limits.SEND
"""After a crash the next run waits no longer than this. Who is slower than that is refused, not doubled: the lease is
checked in the transaction that writes, which holds it until its end."""


def groups_to_alert(
    database: Database, config: Config, *, now: datetime, interval: timedelta, holder: str = "route_alerts"
) -> set[AlertGroup]:
    """Dispatch what is new, and say which alert tasks have something to send, whichever run made it.

    :param interval: between scheduled runs
    :param holder: who, for people that wonder about a lease
    """
    with (
        lease.hold(database, DISPATCHER, holder, ttl=DISPATCH_TTL, wait=2 * DISPATCH_TTL, take_over=True) as held,
        database.begin() as conn,
    ):
        held.check(conn)
        return dispatch(conn, config, now=now, interval=interval)


def dispatch(conn: Connection, config: Config, *, now: datetime, interval: timedelta) -> set[AlertGroup]:
    """The same in the caller's transaction."""
    in_force = mutes.current(conn, now)
    _enqueue(conn, config, now)
    channels = {channel.name for channel in config.alerts.channels}
    waiting = outbox.waiting(conn)
    waiting = _cancel_superseded(conn, waiting, now)
    _apply_mutes(conn, waiting, in_force, now)
    _give_up(conn, outbox.waiting(conn), config, now)
    groups = {one.queued.group for one in outbox.waiting(conn, channels) if one.state != outbox.WITHHELD}
    return groups | repeats.groups(conn, config, in_force, now=now, interval=interval)


# ── new events ──────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Book:
    """Alerts while new events are entered.

    :param opened: alert key: the alert that goes on
    :param told: alert id: channel: what it knows, or will
    """

    opened: dict[str, StoredAlert]
    told: dict[str, dict[str, Told]]
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    alert_ids: dict[str, str] = field(default_factory=dict)

    def send(self, event: Event, alert_id: str, channel: str, route: str) -> None:
        """One event to one channel."""
        self.rows.append((event.id, channel, route))
        known = self.told[alert_id]
        known.setdefault(channel, Told(channel, route, None, states=frozenset({outbox.PENDING})))


def _enqueue(conn: Connection, config: Config, now: datetime) -> None:
    new = outbox.undispatched(conn)
    if not new:
        return
    routes = Routes(config.alerts, where=config.where)
    resolving = {channel.name for channel in config.alerts.channels if channel.send_resolved}
    opened = alerts.opened(conn)
    concerned = [opened[event.alert_key].id for event in new if event.alert_key in opened]
    told: dict[str, dict[str, Told]] = defaultdict(dict)
    for alert_id, known in outbox.told(conn, concerned).items():
        told[alert_id] = {one.channel: one for one in known}
    book = _Book(opened, told)
    closed = []
    for event in new:
        role = alert_role(event.kind, event.details)
        alert = book.opened.get(event.alert_key)
        alert_id = event.id
        if role is AlertRole.RESOLVED:
            if alert is not None:
                alert_id = alert.id
                alerts.close(conn, alert.id, event)
                closed.append(alert.id)
                del book.opened[event.alert_key]
                for one in list(book.told[alert.id].values()):
                    if one.hears_the_end and one.channel in resolving:
                        book.send(event, alert.id, one.channel, one.route)
        elif role is not None:
            if role is AlertRole.FIRING:
                if alert is None:
                    alert = book.opened[event.alert_key] = alerts.open_(conn, event)
                else:
                    alerts.update_(conn, alert.id, event)
                alert_id = alert.id
            for routing in routes.of(event):
                for channel in routing.channels:
                    book.send(event, alert_id, channel, routing.route)
        book.alert_ids[event.id] = alert_id
    outbox.enqueue(conn, book.rows, now)
    outbox.dispatched(conn, book.alert_ids)
    outbox.settle_withheld(conn, closed, now)
    for alert_id in closed:
        mutes.end_acknowledgements(conn, alert_id, now)


# ── what is not sent ────────────────────────────────────────────────────────────────────────────


def _cancel_superseded(conn: Connection, waiting: Iterable[Waiting], now: datetime) -> list[Waiting]:
    """Cancel what is not worth telling any more, unless it is under way: that is for whoever sends next."""
    left = []
    for channel, own in _by_channel(waiting).items():
        reasons = superseded(one.queued for one in own if one.state != outbox.WITHHELD)
        outbox.cancel(conn, channel, reasons, now, also_sending=False)
        left += [one for one in own if one.queued.event.id not in reasons]
    return left


def _apply_mutes(conn: Connection, waiting: Iterable[Waiting], in_force: list[Mute], now: datetime) -> None:
    """Withhold what is muted or acknowledged, release what is so no longer.

    The end of something is never withheld: whoever got its beginning would wait for it.
    """
    for one in waiting:
        queued = one.queued
        if queued.role is AlertRole.RESOLVED or one.state == outbox.SENDING:
            continue
        mute = muted(in_force, queued.event, queued.alert_id, now)
        if mute is not None:
            for_good = queued.role is AlertRole.NOTICE
            if for_good or one.state == outbox.PENDING or one.last_error != mute.told():
                outbox.withhold(conn, one, mute.told(), now, for_good=for_good)
        elif one.state == outbox.WITHHELD:
            outbox.release(conn, one, now)


def _give_up(conn: Connection, waiting: Iterable[Waiting], config: Config, now: datetime) -> None:
    """What a channel did not take for so long is old news; the task log is told of it, once."""
    limit = config.alerts.give_up_after
    late = [one for one in waiting if one.state == outbox.PENDING and now - one.since >= limit]
    for channel, own in _by_channel(late).items():
        for one in own:
            outbox.give_up(
                conn, one, f"given up after {format_duration(limit)}: {one.last_error or 'never tried'}", now
            )
        about = ", ".join(sorted({_shown(one.queued.event) for one in own})[:20])
        log.error(
            "Channel %r did not take %d events for %s; they are given up: %s. The last error: %s",
            channel,
            len(own),
            format_duration(limit),
            about,
            plain(own[-1].last_error or "none, it was never asked", 300),
        )


def _shown(event: Event) -> str:
    port = f" {event.protocol}/{event.port}" if event.port is not None else ""
    return f"{event.kind} {plain(event.host_name or 'portmon')}{port}"


def _by_channel(waiting: Iterable[Waiting]) -> Mapping[str, list[Waiting]]:
    found: dict[str, list[Waiting]] = defaultdict(list)
    for one in waiting:
        found[one.channel].append(one)
    return found
