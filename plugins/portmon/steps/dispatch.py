"""Put new events into the outbox: which alert they belong to, which channels get them, what is withheld."""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import Connection

from portmon import timeouts
from portmon.alerting.queue import rests, superseded
from portmon.alerting.routes import Routes
from portmon.alerting.silences import Silence, silenced
from portmon.config import Config
from portmon.engine.events import closing_event
from portmon.fields import format_duration
from portmon.model.event import AlertGroup, AlertRole, Event, EventKind, port_alert_key
from portmon.model.host import Host
from portmon.steps import reminders as repeats
from portmon.storage import alerts, hosts, lease, outbox, silences
from portmon.storage.alerts import StoredAlert
from portmon.storage.database import Database
from portmon.storage.outbox import Told, Waiting
from portmon.text import plain

log = logging.getLogger(__name__)

DISPATCHER = "dispatch"
"""Name of the lease that whoever fills the outbox holds."""
DISPATCH_TTL = timeouts.SEND
"""After a crash the next run waits no longer than this. Who is slower than that is refused, not doubled: the lease is
checked in the transaction that writes, which holds it until its end."""
SHOWN = 20
"""Events that one line of the log names."""

Key = TypeVar("Key", bound=Hashable)


def groups_to_alert(
    database: Database,
    config: Config,
    *,
    now: datetime,
    interval: timedelta,
    holder: str = "route_alerts",
    try_number: int = 0,
) -> set[AlertGroup]:
    """Dispatch what is new, and say which alert tasks have something to send, whichever run made it.

    :param interval: between scheduled runs
    :param holder: who, for people that wonder about a lease
    :param try_number: of the task: it replaces an earlier one
    """
    wait = 2 * DISPATCH_TTL
    with (
        lease.hold(
            database, DISPATCHER, holder, ttl=DISPATCH_TTL, wait=wait, take_over=True, try_number=try_number
        ) as held,
        database.begin() as conn,
    ):
        held.check(conn)
        return dispatch(conn, config, now=now, interval=interval)


def dispatch(conn: Connection, config: Config, *, now: datetime, interval: timedelta) -> set[AlertGroup]:
    """The same in the caller's transaction."""
    in_force = _InForce(silences.current(conn, now), hosts.listed(conn), now)
    _enqueue(conn, config, in_force)
    if _close_orphans(conn, in_force.listed, now):
        _enqueue(conn, config, in_force)
    _tell_alertmanagers(conn, config, now)
    repeats.remind(conn, config, in_force.withholds, now=now)
    waiting = _cancel_unknown_channels(conn, outbox.waiting(conn), config, now)
    waiting = _cancel_superseded(conn, waiting, now)
    _apply_silences(conn, waiting, in_force)
    left = _give_up(conn, outbox.waiting(conn), config, now)
    groups = {one.queued.group for one in left if one.state != outbox.WITHHELD and not rests(one.queued, now)}
    return groups | repeats.groups(conn, config, now=now, interval=interval)


class _InForce:
    """Silences and acknowledgements, and the hosts as the CMDB has them now."""

    def __init__(self, in_force: Sequence[Silence], listed: Mapping[str, Host], now: datetime) -> None:
        self._silences = in_force
        self.listed = listed
        self.now = now

    def withholds(self, event: Event, alert_id: str) -> Silence | None:
        """What withholds an event, None if nothing does."""
        return silenced(self._silences, event, alert_id, self.now, self.listed.get(event.host_id or ""))


# ── new events ──────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Book:
    """Alerts while new events are entered.

    :param opened: alert key: the alert that goes on
    :param told: alert id: channel: what it knows, or will
    :param changed: alert id: alert, to be stored
    :param rows: event id, channel, route: deliveries to be made
    :param unheard: (channel, reason): events whose end comes while they are silenced, and nobody heard of them
    """

    opened: dict[str, StoredAlert]
    told: dict[str, dict[str, Told]]
    changed: dict[str, StoredAlert] = field(default_factory=dict)
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    alert_ids: dict[str, str] = field(default_factory=dict)
    unheard: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def put(self, alert: StoredAlert) -> StoredAlert:
        """An alert as it is now."""
        self.changed[alert.id] = alert
        if alert.ends_at is None:
            self.opened[alert.key] = alert
        else:
            del self.opened[alert.key]
        return alert

    def send(self, event: Event, alert_id: str, channel: str, route: str) -> None:
        """One event to one channel."""
        self.rows.append((event.id, channel, route))
        known = self.told[alert_id]
        known.setdefault(channel, Told(channel, route, None, states=frozenset({outbox.PENDING})))


def _enqueue(conn: Connection, config: Config, in_force: _InForce) -> None:
    new = outbox.undispatched(conn)
    if not new:
        return
    now = in_force.now
    routes = Routes(config.alerts, where=config.where)
    resolving = {channel.name for channel in config.alerts.channels if channel.send_resolved}
    opened = alerts.opened(conn)
    concerned = [opened[event.alert_key].id for event in new if event.alert_key in opened]
    told: dict[str, dict[str, Told]] = defaultdict(dict)
    for alert_id, known in outbox.told(conn, concerned).items():
        told[alert_id] = {one.channel: one for one in known}
    book = _Book(opened, told)
    for event in new:
        role = event.meaning.role
        alert = book.opened.get(event.alert_key)
        alert_id = event.id
        if role is AlertRole.RESOLVED:
            if alert is not None:
                alert_id = alert.id
                _end(book, event, alert, resolving, in_force)
        elif role is not None:
            if role is AlertRole.FIRING:
                started = alert or alerts.begun(event)
                alert_id = book.put(dataclasses.replace(started, last_event_id=event.id)).id
            for routing in routes.of(event):
                for channel in routing.channels:
                    book.send(event, alert_id, channel, routing.route)
        book.alert_ids[event.id] = alert_id
    closed = [alert.id for alert in book.changed.values() if alert.ends_at is not None]
    alerts.save(conn, list(book.changed.values()))
    outbox.enqueue(conn, book.rows, now)
    outbox.dispatched(conn, book.alert_ids)
    outbox.settle_withheld(conn, closed, now)
    _silence_unheard(conn, book, now)
    silences.end_acknowledgements(conn, closed, now)


def _end(book: _Book, event: Event, alert: StoredAlert, resolving: set[str], in_force: _InForce) -> None:
    """Close an alert, and tell whoever was told of it, or is just about to be."""
    silence = in_force.withholds(event, alert.id)
    for one in list(book.told[alert.id].values()):
        if not one.hears_the_end:
            continue
        if silence is not None and not one.heard:
            book.unheard[one.channel, silence.told()].append(alert.id)
        elif one.channel in resolving:
            book.send(event, alert.id, one.channel, one.route)
    book.put(dataclasses.replace(alert, ends_at=event.at, closed_by=event.id))


def _silence_unheard(conn: Connection, book: _Book, now: datetime) -> None:
    """It began and ended, a channel did not hear of it yet, and now it is silenced: then nobody needs to."""
    if not book.unheard:
        return
    of_alert: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in outbox.waiting(conn):
        of_alert[one.channel, one.queued.alert_id].append(one.queued.event.id)
    for (channel, reason), alert_ids in book.unheard.items():
        event_ids = [event_id for alert_id in alert_ids for event_id in of_alert[channel, alert_id]]
        outbox.withhold(conn, channel, event_ids, reason, now, for_good=True)


def _close_orphans(conn: Connection, watched: Mapping[str, Host], now: datetime) -> bool:
    """End the alerts that nothing will ever end: of hosts that are gone, and of ports that nothing is wrong with.

    It takes a run that died in the wrong place; but an alert that stays open reminds people for ever.

    :param watched: host id: every server that is in the CMDB
    :returns: whether there were any
    """
    opened = alerts.opened(conn)
    if not opened:
        return False
    wrong = {port_alert_key(*key) for key in hosts.open_ports(conn)}
    orphans: dict[str, str] = {}
    for alert in opened.values():
        if alert.host_id is not None and alert.host_id not in watched:
            orphans[alert.id] = "Its host left the CMDB"
        elif alert.key.startswith("port/") and alert.key not in wrong:
            orphans[alert.id] = "Nothing is wrong with it any more, as far as is known"
    if not orphans:
        return False
    ends = []
    for first in outbox.by_ids(conn, orphans).values():
        about = None if first.port is not None else {"ends": first.kind.value}
        reason = orphans[first.id]
        ends.append(closing_event(EventKind.RETIRED, first, at=now, run_id=first.run_id, reason=reason, details=about))
        log.warning("Closed the alert of %s: %s", _shown(first), reason)
    outbox.add(conn, ends)
    return bool(ends)


def _tell_alertmanagers(conn: Connection, config: Config, now: datetime) -> None:
    """Alertmanager is told what is wrong, not what happened: one that is new, or has a new name, hears all of it."""
    channels = [channel.name for channel in config.alerts.channels if channel.repeats_firing]
    opened = alerts.opened(conn) if channels else {}
    if not opened:
        return
    routes = Routes(config.alerts, where=config.where)
    told = outbox.told(conn, [alert.id for alert in opened.values()])
    lacking = [
        (alert, channel)
        for alert in opened.values()
        for channel in channels
        if channel not in {one.channel for one in told.get(alert.id, ())}
    ]
    events = outbox.by_ids(conn, [alert.last_event_id for alert, _ in lacking])
    rows = [
        (event.id, channel, routing.route)
        for alert, channel in lacking
        if (event := events.get(alert.last_event_id)) is not None
        for routing in routes.of(event)
        if channel in routing.channels
    ]
    outbox.enqueue(conn, rows, now)


# ── what is not sent ────────────────────────────────────────────────────────────────────────────


def _cancel_unknown_channels(
    conn: Connection, waiting: Sequence[Waiting], config: Config, now: datetime
) -> list[Waiting]:
    known = {channel.name for channel in config.alerts.channels}
    gone = [one for one in waiting if one.channel not in known]
    for channel, own in _by(gone, lambda one: one.channel).items():
        outbox.cancel_channel(conn, channel, _ids(own), "the channel is not configured any more", now)
        log.warning("Channel %r is not configured any more; cancelled what waited for it: %s", channel, _shown_all(own))
    return [one for one in waiting if one.channel in known]


def _cancel_superseded(conn: Connection, waiting: Iterable[Waiting], now: datetime) -> list[Waiting]:
    """Cancel what is not worth telling any more, unless it is under way: that is for whoever sends next."""
    left = []
    for channel, own in _by(waiting, lambda one: one.channel).items():
        reasons = superseded(one.queued for one in own if one.state != outbox.WITHHELD)
        outbox.cancel(conn, channel, reasons, now, also_sending=False)
        left += [one for one in own if one.queued.event.id not in reasons]
    return left


def _apply_silences(conn: Connection, waiting: Iterable[Waiting], in_force: _InForce) -> None:
    """Withhold what is silenced or acknowledged, release what is so no longer.

    The end of something is never withheld: whoever got its beginning would wait for it.
    """
    withheld: dict[tuple[str, str, bool], list[Waiting]] = defaultdict(list)
    released = []
    for one in waiting:
        queued = one.queued
        if queued.role is AlertRole.RESOLVED or one.state == outbox.SENDING:
            continue
        silence = in_force.withholds(queued.event, queued.alert_id)
        if silence is not None:
            for_good = queued.role is AlertRole.NOTICE
            if for_good or one.state == outbox.PENDING or one.last_error != silence.told():
                withheld[one.channel, silence.told(), for_good].append(one)
        elif one.state == outbox.WITHHELD:
            released.append(one)
    for (channel, reason, for_good), own in withheld.items():
        outbox.withhold(conn, channel, _ids(own), reason, in_force.now, for_good=for_good)
    for channel, own in _by(released, lambda one: one.channel).items():
        outbox.release(conn, channel, _ids(own), in_force.now)


def _give_up(conn: Connection, waiting: Sequence[Waiting], config: Config, now: datetime) -> list[Waiting]:
    """What a channel did not take for so long is old news; the task log is told of it, once.

    But what goes on is never old news to Alertmanager.

    :returns: what is not given up
    """
    limit = config.alerts.give_up_after
    states = {channel.name for channel in config.alerts.channels if channel.repeats_firing}
    late: list[Waiting] = []
    left: list[Waiting] = []
    for one in waiting:
        since = one.queued.since
        old = one.state != outbox.WITHHELD and since is not None and now - since >= limit
        goes_on = one.channel in states and one.queued.role is AlertRole.FIRING
        (late if old and not goes_on else left).append(one)
    shown = format_duration(limit)
    for channel, own in _by(late, lambda one: one.channel).items():
        for error, alike in _by(own, lambda one: one.last_error).items():
            reason = f"given up after {shown}: {error or 'never tried'}"
            outbox.give_up(conn, channel, _ids(alike), reason, now)
        log.error(
            "Channel %r did not take for %s what is given up now: %s. The last error: %s",
            channel,
            shown,
            _shown_all(own),
            plain(own[-1].last_error or "none, it was never asked", 300),
        )
    return left


def _shown_all(waiting: Sequence[Waiting]) -> str:
    names = sorted({_shown(one.queued.event) for one in waiting})
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _shown(event: Event) -> str:
    port = f" {event.protocol}/{event.port}" if event.port is not None else ""
    return f"{event.kind} {plain(event.host_name or 'portmon')}{port}"


def _ids(waiting: Iterable[Waiting]) -> list[str]:
    return [one.queued.event.id for one in waiting]


def _by(waiting: Iterable[Waiting], key: Callable[[Waiting], Key]) -> dict[Key, list[Waiting]]:
    found: dict[Key, list[Waiting]] = defaultdict(list)
    for one in waiting:
        found[key(one)].append(one)
    return found
