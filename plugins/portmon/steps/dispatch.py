"""Make deliveries of new events: find their alert and their channels, and withhold what is silenced."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from portmon import timeouts
from portmon.alerting.queue import rests, superseded
from portmon.alerting.routes import Routes
from portmon.alerting.silences import SilencesInForce
from portmon.config import Config
from portmon.engine.events import closing_event
from portmon.fields import format_duration
from portmon.model.alert import Alert, Delivery, DeliveryState, Receipt, begun_by
from portmon.model.event import Event, port_alert_key
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind
from portmon.steps.reminders import Book, remind
from portmon.storage import alerts, deliveries, events, hosts, journal, lease, silences
from portmon.storage.database import Database
from portmon.text import REASON_LIMIT, plain

log = logging.getLogger(__name__)

DISPATCHER = "dispatch"
"""Name of the lease that the task holds which makes deliveries."""
DISPATCH_TTL = timeouts.SEND
"""After a crash the next run waits no longer than this. A task that is slower than that is refused, not doubled: the
lease is checked in the transaction that writes, which holds it until its end."""
SHOWN = 20
"""Events that one line of the log names."""

Settled = Sequence[tuple[Delivery, str]]
"""Deliveries that leave the queue, and why, for people."""


def groups_to_alert(
    database: Database,
    config: Config,
    *,
    run_id: str,
    now: datetime,
    interval: timedelta,
    holder: str = "route_alerts",
    try_number: int = 0,
) -> set[AlertGroup]:
    """Dispatch what is new, and say which alert tasks have something to send, whichever run made it.

    :param run_id: of the run that dispatches
    :param interval: between scheduled runs
    :param holder: of the lease, for people
    :param try_number: of the task: it replaces an earlier one
    """
    ttl, wait = DISPATCH_TTL, 2 * DISPATCH_TTL
    held = lease.hold(database, DISPATCHER, holder, ttl=ttl, wait=wait, take_over=True, try_number=try_number)
    with held as own, database.begin() as conn:
        own.check(conn)
        return dispatch(conn, config, run_id, now, interval)


def dispatch(conn: Connection, config: Config, run_id: str, now: datetime, interval: timedelta) -> set[AlertGroup]:
    """The same in the caller's transaction."""
    in_force, unjudged = silences.in_force(conn, now), journal.hidden_unjudged(conn)
    book = Book.read(conn, config, now=now, interval=interval)
    entries = _Entries(config, book, in_force)
    # The run that hid these hosts was not evaluated: whether another host took their alerts over is not known yet.
    entries.add(
        one for one in events.undispatched(conn) if one.kind is not EventKind.RETIRED or one.host_id not in unjudged
    )
    entries.add(_ends_of_orphans(conn, book, in_force, unjudged))
    entries.add_lacking()
    entries.save(conn)
    remind(conn, config, book, in_force)
    queue = entries.silence_ended(conn, deliveries.unfinished(conn))
    queue = entries.over_in_silence(conn, queue)
    queue = _cancel_unknown_channels(conn, queue, config, now)
    queue = _cancel_taken_over(conn, queue, config, now)
    queue = _cancel_superseded(conn, queue, now)
    queue = _apply_silences(conn, queue, in_force, _over(conn, queue, in_force, book.opened))
    queue = _give_up(conn, queue, config, now, lambda: journal.jumped(conn, run_id, now, interval))
    groups = {one.group for one in queue if not rests(one, now)}
    for channel in config.alerts.channels:
        groups |= {group for *_, one in book.acknowledged(conn, channel, None, now) if (group := one.event.group)}
    return groups | {group for channel in config.alerts.channels for group in AlertGroup if book.due(channel, group)}


# ── new events ──────────────────────────────────────────────────────────────────────────────────


class _Entries:
    """Enters new events into the book, and collects the rows to be written."""

    def __init__(self, config: Config, book: Book, in_force: SilencesInForce) -> None:
        self._channels = config.alerts.channels
        self._routes = Routes(config.alerts, where=config.where)
        self._book = book
        self._in_force = in_force
        self._changed: dict[str, Alert] = {}
        self._alert_ids: dict[str, str] = {}
        self._rows: list[tuple[str, str, str]] = []
        self._untold: dict[tuple[str, str], str] = {}
        self._silent: set[str] = set()

    def add(self, new: Iterable[Event]) -> None:
        """Begin, go on with and end alerts, and route what is not an end."""
        for event in new:
            alert, alert_id = self._book.opened.get(event.alert_key), event.id
            if event.role is AlertRole.RESOLVED:
                if alert is not None:
                    alert_id = alert.id
                    self._end(alert, event)
            else:
                if event.role is AlertRole.FIRING:
                    alert = replace(alert, event=event) if alert else begun_by(event)
                    self._changed[alert.id] = self._book.opened[alert.key] = alert
                    alert_id = alert.id
                self._route(event, alert_id)
            self._alert_ids[event.id] = alert_id

    def add_lacking(self) -> None:
        """Alertmanager is told what is wrong, not what happened: a channel that is new, or has a new name, gets all."""
        repeating = {channel.name for channel in self._channels if channel.repeats_firing}
        for alert in self._book.opened.values():
            lacking = repeating - self._book.receipts[alert.id].keys()
            if lacking:
                self._route(alert.event, alert.id, lacking)

    def save(self, conn: Connection) -> None:
        """Write alerts and deliveries."""
        now = self._in_force.now
        alerts.save(conn, list(self._changed.values()))
        deliveries.enqueue(conn, self._rows, now)
        events.dispatched(conn, self._alert_ids)
        silences.end_acknowledgements(conn, self._ended, now)

    def silence_ended(self, conn: Connection, queue: Sequence[Delivery]) -> list[Delivery]:
        """Withhold for good what was withheld of alerts that ended just now, or ended silenced before a channel got it.

        :returns: the others
        """
        silenced, ended = [], self._ended
        for one in queue:
            reason = self._untold.get((one.alert.id, one.channel))
            if reason is None and one.state is DeliveryState.WITHHELD and one.alert.id in ended:
                reason = one.reason
            if reason is not None:
                silenced.append((one, reason))
        return settle(conn, queue, silenced, DeliveryState.SILENCED, self._in_force.now)

    def over_in_silence(self, conn: Connection, queue: Sequence[Delivery]) -> list[Delivery]:
        """Cancel what no channel got yet of alerts that a note ended just now: no end would follow it.

        :returns: the others
        """
        over = [
            (one, "over before it was delivered")
            for one in queue
            if one.alert.id in self._silent and one.state is DeliveryState.PENDING
        ]
        return settle(conn, queue, over, DeliveryState.CANCELLED, self._in_force.now)

    @property
    def _ended(self) -> set[str]:
        return {alert.id for alert in self._changed.values() if alert.ends_at is not None}

    def _end(self, alert: Alert, event: Event) -> None:
        """End an alert, and notify the channels that were notified of it, or are just about to be.

        A note ends it in silence; Alertmanager forgets what is not repeated.
        """
        if event.group is None:
            self._silent.add(alert.id)
        else:
            self._tell_end(alert, event)
        del self._book.opened[alert.key]
        over = replace(alert, role=AlertRole.RESOLVED, event=event, ends_at=event.at)
        self._book.ended.append(over)
        self._changed[alert.id] = over

    def _tell_end(self, alert: Alert, event: Event) -> None:
        withheld = self._in_force.withholds(event, alert.id)
        resolving = {channel.name for channel in self._channels if channel.send_resolved}
        for receipt in list(self._book.receipts[alert.id].values()):
            if not receipt.notified and not receipt.under_way:
                continue
            if withheld is not None and not receipt.notified:
                self._untold[alert.id, receipt.channel] = withheld.told()
            elif receipt.channel in resolving:
                self._send(event, alert.id, receipt.channel, receipt.route)

    def _route(self, event: Event, alert_id: str, among: Collection[str] | None = None) -> None:
        for routing in self._routes.of(event):
            for channel in routing.channels:
                if among is None or channel in among:
                    self._send(event, alert_id, channel, routing.route)

    def _send(self, event: Event, alert_id: str, channel: str, route: str) -> None:
        self._rows.append((event.id, channel, route))
        own = self._book.receipts[alert_id]
        known = own.get(channel) or Receipt(channel, route)
        own[channel] = replace(known, states=known.states | {DeliveryState.PENDING})


def _ends_of_orphans(conn: Connection, book: Book, in_force: SilencesInForce, unjudged: Collection[str]) -> list[Event]:
    """End the alerts that nothing else will end: of hosts that are gone, of ports that nothing is wrong with.

    A run that died in the wrong place leaves them; an alert that stays open reminds people for ever.

    :param unjudged: ids of hosts whose ends wait for an evaluation
    """
    wrong = {port_alert_key(*key) for key in hosts.open_ports(conn)} if book.opened else set()
    ends = []
    for alert in book.opened.values():
        first = alert.first
        if first.host_id in unjudged:
            continue
        if first.host_id is not None and first.host_id not in in_force.listed:
            reason = "Its host left the CMDB"
        elif alert.key.startswith("port/") and alert.key not in wrong:
            reason = "Nothing is wrong with it any more, as far as is known"
        else:
            continue
        log.warning("Closed the alert of %s: %s", _shown(first), reason)
        about = None if first.port is not None else {"ends": first.kind.value}
        run_id, at = first.run_id, in_force.now
        ends.append(closing_event(EventKind.RETIRED, first, at=at, run_id=run_id, reason=reason, details=about))
    events.add(conn, ends)
    return ends


# ── what is not sent ────────────────────────────────────────────────────────────────────────────


def _cancel_unknown_channels(
    conn: Connection, queue: Sequence[Delivery], config: Config, now: datetime
) -> list[Delivery]:
    known = {channel.name for channel in config.alerts.channels}
    found = [(one, "the channel is not configured any more") for one in queue if one.channel not in known]
    for channel, own in _by_channel(found).items():
        log.warning("Channel %r is not configured any more; cancelled what waited for it: %s", channel, _shown_all(own))
    return settle(conn, queue, found, DeliveryState.CANCELLED, now)


def _cancel_taken_over(conn: Connection, queue: Sequence[Delivery], config: Config, now: datetime) -> list[Delivery]:
    """Cancel the ends of what goes on under the name of another host; Alertmanager gets them, since labels differ."""
    by_state = {channel.name for channel in config.alerts.channels if channel.repeats_firing}
    ends = [one for one in queue if one.event.kind is EventKind.RETIRED and one.state is DeliveryState.PENDING]
    taken = events.takeovers(conn, after=ends[0].seq) if ends else {}
    found = []
    for one in ends:
        seq, name = taken.get(one.event.host_id or "", (0, ""))
        if one.seq < seq and one.channel not in by_state:
            found.append((one, f"it goes on as {plain(name)}, which took the host over"))
    if found:
        log.info("Not sent, since other hosts took them over: %s", _shown_all(one for one, _ in found))
    return settle(conn, queue, found, DeliveryState.CANCELLED, now)


def _cancel_superseded(conn: Connection, queue: Sequence[Delivery], now: datetime) -> list[Delivery]:
    """Cancel deliveries that are not worth sending any more; of those under way the task that sends next does so."""
    found = superseded(one for one in queue if one.state is not DeliveryState.WITHHELD)
    found = [(one, reason) for one, reason in found if one.state is DeliveryState.PENDING]
    return settle(conn, queue, found, DeliveryState.CANCELLED, now)


def _over(
    conn: Connection, queue: Sequence[Delivery], in_force: SilencesInForce, opened: Mapping[str, Alert]
) -> dict[str, str]:
    """Alerts of which nothing is told although their silence ended: their subject flapped, and did not change since.

    It is well; should it change again, it is told.

    :param opened: alert key: alert
    :returns: alert id: why, for people
    """
    flapping = {alert.id: alert for alert in opened.values() if alert.event.kind is EventKind.FLAPPING}
    waiting = {one.alert.id for one in queue if one.state is DeliveryState.WITHHELD} & flapping.keys()
    if not waiting:
        return {}
    known, now, found = silences.all_(conn), in_force.now, {}
    well = hosts.well_since(conn, {flapping[alert_id].event.host_id or "" for alert_id in waiting})
    for alert_id in waiting:
        event = flapping[alert_id].event
        host_id = event.host_id or ""
        since, host = well.get((host_id, event.protocol, event.port)), in_force.listed.get(host_id)
        for one in known:
            if since is not None and one.counted(since, now) and one.matches(event, alert_id, host):
                found[alert_id] = f"well and unchanged since before this ended: {one.told()}"
                break
    return found


def _apply_silences(
    conn: Connection, queue: Sequence[Delivery], in_force: SilencesInForce, over: Mapping[str, str]
) -> list[Delivery]:
    """Withhold deliveries that are silenced or acknowledged, release those that are so no longer.

    An end is never withheld: the channels that were notified of the beginning would wait for it.

    :param over: alert id: why it stays withheld although nothing in force withholds it
    :returns: those that may be sent
    """
    now = in_force.now
    silenced, withheld, released, left = [], [], [], []
    for one in queue:
        is_settled = one.alert.role is AlertRole.RESOLVED or one.state is DeliveryState.SENDING
        withholding = None if is_settled else in_force.withholds(one.event, one.alert.id)
        why = over.get(one.alert.id) if one.state is DeliveryState.WITHHELD else None
        reason = why if withholding is None else withholding.told()
        if reason is None:
            if one.state is DeliveryState.WITHHELD:
                released.append((one, None))
                one = replace(one, state=DeliveryState.PENDING, since=now, tried_at=one.tried_at and now)
            left.append(one)
        elif one.alert.role is AlertRole.NOTICE:
            silenced.append((one, reason))
        elif one.state is DeliveryState.PENDING or one.reason != reason:
            withheld.append((one, reason))
    reasons: dict[str, list[Delivery]] = defaultdict(list)
    for one, reason in (*silenced, *withheld):
        reasons[reason].append(one)
    for reason, own in reasons.items():
        log.info("Withheld, %s: %s", plain(reason, REASON_LIMIT), _shown_all(own))
    deliveries.settle(conn, silenced, DeliveryState.SILENCED, now)
    deliveries.settle(conn, withheld, DeliveryState.WITHHELD, now)
    # The time after which it is given up begins now.
    deliveries.settle(conn, released, DeliveryState.PENDING, now, created_at=now)
    return left


def _give_up(
    conn: Connection, queue: Sequence[Delivery], config: Config, now: datetime, jumps: Callable[[], bool]
) -> list[Delivery]:
    """Give up deliveries that a channel did not take for too long; the task log says so, once.

    But an open alert is never old news to Alertmanager.

    :param jumps: whether this run came so late that it gives up nothing
    :returns: the others
    """
    limit = config.alerts.give_up_after
    repeating = {channel.name for channel in config.alerts.channels if channel.repeats_firing}
    shown, found = format_duration(limit), []
    for one in queue:
        goes_on = one.channel in repeating and one.alert.role is AlertRole.FIRING
        if now - one.since >= limit and not goes_on:
            found.append((one, f"given up after {shown}: {one.reason or 'never tried'}"))
    if found and jumps():
        return list(queue)
    for channel, own in _by_channel(found).items():
        text = "Channel %r did not take for %s what is given up now: %s. The last error: %s"
        last = plain(own[-1].reason or "none, it was never asked", 300)
        log.error(text, channel, shown, _shown_all(own), last)
    return settle(conn, queue, found, DeliveryState.EXPIRED, now)


def settle(
    conn: Connection, queue: Sequence[Delivery], found: Settled, state: DeliveryState, now: datetime
) -> list[Delivery]:
    """Settle some deliveries of the queue, and return the others."""
    deliveries.settle(conn, found, state, now)
    gone = {id(one) for one, _ in found}
    return [one for one in queue if id(one) not in gone]


def _shown_all(found: Iterable[Delivery]) -> str:
    names = sorted({_shown(one.event) for one in found})
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _shown(event: Event) -> str:
    port = f" {event.protocol}/{event.port}" if event.port is not None else ""
    return f"{event.kind} {plain(event.host_name or 'portmon')}{port}"


def _by_channel(found: Settled) -> dict[str, list[Delivery]]:
    of: dict[str, list[Delivery]] = defaultdict(list)
    for one, _ in found:
        of[one.channel].append(one)
    return of
