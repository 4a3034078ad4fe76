"""Send to each channel the events that it lacks, then mark them delivered."""

from __future__ import annotations

import contextvars
import logging
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from portmon import timeouts
from portmon.alerting import runbooks
from portmon.alerting.channels import Channel
from portmon.alerting.channels.mail import MAX_REFERENCES
from portmon.alerting.message.render import Layout, Message, render
from portmon.alerting.outages import find_outages
from portmon.alerting.queue import Notification, message_id, next_notifications, rests_until, superseded
from portmon.alerting.routes import Routes
from portmon.alerting.silences import SilencedElsewhere
from portmon.config import Config
from portmon.errors import DeliveryError, LeaseLostError, OverrunError, PortmonError, StorageError
from portmon.model.alert import Alert, DeliveryState
from portmon.model.event import Event, units_of
from portmon.model.event_kinds import AlertGroup, AlertRole
from portmon.steps.dispatch import settle
from portmon.steps.reminders import Book
from portmon.storage import deliveries, hosts, lease, notes, quiet, silences
from portmon.storage.database import Database
from portmon.storage.notes import Notes

log = logging.getLogger(__name__)

LEASE_TTL = 2 * timeouts.SEND
"""Renewed before every message, each of which may take ``timeouts.SEND``: so it outlives what it protects,
and after a crash another run waits no longer than this. A retry of the same task waits for nothing."""
CHANNELS_AT_ONCE = 8
"""One that hangs must not keep the others waiting."""


@dataclass(kw_only=True)
class AlertTask:
    """Sends the undelivered events of a group through every channel, and repeats what is due to be repeated.

    The channels are served side by side. What a channel took is marked at once, so that a crash repeats at most
    the message that was under way. A channel that fails, hangs, or is served by another copy of this task just now,
    does not hold up the others: a message has ``timeouts.SEND``, and channels that failed before come last.

    :param send: delivers to every target of a channel that is not named as done; raises DeliveryError
    :param silenced: what withholds alerts at the receiver of a channel, by their ids; raises DeliveryError
    :param link: an event to the address of its host's task log
    :param page: address of the page that has what does not fit into a message
    :param page_of: an event to the address of the page of its port or host
    :param interval: between scheduled runs
    :param holder: of the leases, for people
    :param try_number: of the task: it takes over at once what an earlier try of the same holder had in hand
    :param hold_until: until when what goes on holds unless a later run repeats it
    """

    database: Database
    config: Config
    group: AlertGroup
    send: Callable[[Channel, Message, tuple[str, ...]], None]
    silenced: Callable[[Channel, Sequence[Alert]], Mapping[str, SilencedElsewhere]]
    link: Callable[[Event], str | None]
    page: str | None
    page_of: Callable[[Event], str | None]
    interval: timedelta
    holder: str
    clock: Callable[[], datetime]
    hold_until: datetime
    try_number: int = 0

    def __post_init__(self) -> None:
        self.routes = Routes(self.config.alerts, where=self.config.where)
        self.last_start = time.monotonic() + (timeouts.ALERT - 1.5 * timeouts.SEND).total_seconds()

    def run(self) -> int:
        """Serve every channel.

        :returns: number of events delivered, channels counted apart
        :raises DeliveryError: after all channels were tried, if any failed
        :raises StorageError: the same for a lease that another task kept
        """
        senders = [_Sender(self, channel) for channel in self.channels()]
        if not senders:
            return 0
        with ThreadPoolExecutor(CHANNELS_AT_ONCE, thread_name_prefix="channel") as workers:
            # Each in a copy of this context, which Airflow's logging needs.
            futures = [workers.submit(contextvars.copy_context().run, sender.serve) for sender in senders]
        for future in futures:
            future.result()
        for sender in senders:
            for failure in sender.failures:
                raise failure
        return sum(sender.sent for sender in senders)

    def channels(self) -> list[Channel]:
        """Those that lack events or are to be repeated to, in their order; those that failed before come last."""
        channels = self.config.alerts.channels
        with self.database.begin() as conn:
            tries = deliveries.tries(conn, self.group)
            others = [one for one in channels if one.repeats_firing or one.takes_acknowledgements]
            others = [one for one in others if one.name not in tries]
            if others:
                book, now = self.book(conn), self.clock()
                tries |= {one.name: 0 for one in others if book.due(one, self.group)}
                tries |= {one.name: 0 for one in others if book.acknowledged(conn, one, self.group, now)}
        return sorted((one for one in channels if one.name in tries), key=lambda channel: tries[channel.name])

    def book(self, conn: Connection) -> Book:
        """The open alerts as they are now."""
        return Book.read(conn, self.config, now=self.clock(), interval=self.interval)

    @property
    def seconds_left(self) -> float:
        """Seconds for which a message may still begin: the last one shall end in time."""
        return self.last_start - time.monotonic()

    @cached_property
    def sites(self) -> tuple[Mapping[str, Mapping[str, str]], Collection[str]]:
        """For the share of a site that is unreachable: see :func:`portmon.storage.hosts.sites`."""
        with self.database.begin() as conn:
            return hosts.sites(conn)

    @cached_property
    def notes(self) -> Notes:
        """What people wrote about ports and units."""
        with self.database.begin() as conn:
            return notes.all_(conn)

    def note(self, event: Event) -> str:
        """What people wrote about the port of an event."""
        found = self.notes.of(event.host_id or "", event.protocol, event.port, units_of(event), event.labels)
        return "; ".join(f"{note.text} ({note.author})" for note in found)

    def message(
        self, found: Sequence[Alert], group: AlertGroup, route: str, subject: str = "", *, reminder: bool, **more: Any
    ) -> Message:
        """The message of one route.

        :param more: other fields of it
        """
        settings, style, outages = self.config.alerts, self.routes.style(route), None
        layout = Layout(style.language, style.max_lines, self.config.templates)
        if group is AlertGroup.UNREACHABLE and len(found) > 1 and not reminder:
            outages = find_outages(found, *self.sites, ratio=settings.outage_ratio, label=settings.outage_label)
        message = render(
            found,
            group,
            layout=layout,
            link=self.link,
            page=self.page,
            page_of=self.page_of,
            runbook_of=lambda name: runbooks.address(name, pattern=settings.runbook_url, page=self.page),
            note_of=self.note,
            subject=subject,
            reminder=reminder,
            outages=outages,
        )
        return replace(message, route=route, expires_at=self.hold_until, **more)


@dataclass
class _Sender:
    """Sends what one channel lacks.

    :param sent: number of events that it took
    """

    task: AlertTask
    channel: Channel
    sent: int = 0
    failures: list[PortmonError] = field(default_factory=list)
    _held: set[str] = field(default_factory=set)

    def serve(self) -> None:
        """Send; what goes wrong is logged and kept."""
        try:
            try:
                self._serve()
            except LeaseLostError as error:
                # Another task thought that this one was dead. What it left is still to be sent.
                log.warning("%s", error)
                self._serve()
        except PortmonError as error:
            log.warning("%s", error)
            self.failures.append(error)
        except Exception as error:
            reason = f"failed in an unexpected way: {_place_of(error)}"
            log.error("Serving channel %r %s", self.channel.name, reason)
            self._fail(reason)

    def _serve(self) -> None:
        # One lease per channel, not per group: what is told of one port comes in order. And two copies of one alert
        # task, a cleared one and its zombie, must not both send: a later try takes over, and the earlier one is refused
        # before its next message.
        task, name = self.task, self.channel.name
        left = timedelta(seconds=task.seconds_left)
        if left < timedelta(0):
            raise DeliveryError("not asked, the others took too long", channel=name)
        wait = min(LEASE_TTL, left)
        with lease.hold(
            task.database, f"alert/{name}", task.holder, ttl=LEASE_TTL, wait=wait, try_number=task.try_number
        ) as held:
            self._send_all(held)

    def _send_all(self, held: lease.Lease) -> None:
        """Send message by message until nothing is left, then what Alertmanager is to be told again.

        :raises LeaseLostError: if another task took over; nothing is sent or marked from then on
        """
        told: set[str] = set()
        while notifications := self._next(held):
            for notification in notifications:
                if not self._send(held, notification):
                    return
                told |= {one.alert.id for one in notification.deliveries}
        if self.channel.takes_acknowledgements:
            self._acknowledge(held)
        if self.channel.repeats_firing:
            self._repeat(held, told)

    def _next(self, held: lease.Lease) -> list[Notification]:
        now, group = self.task.clock(), self.task.group
        with self.task.database.begin() as conn:
            held.check(conn)
            waiting = deliveries.unfinished(conn, self.channel.name)
            queue = [one for one in waiting if one.state is not DeliveryState.WITHHELD]
            # Also those under way: the task that sent them is gone, since this one has the lease.
            queue = settle(conn, queue, superseded(queue), DeliveryState.CANCELLED, now)
        own = [one for one in queue if one.group is group and one.event.alert_key not in self._held]
        resting = {one.event.alert_key: until for one in own if (until := rests_until(one)) and now < until}
        if resting:
            # Messages that rest because they were not answered are undelivered all the same.
            until = min(resting.values())
            self._fail(f"was not answered, and may have come through; it is tried again after {until:%H:%M} UTC")
            self._held |= resting.keys()
        group_by = {one.route: self.task.routes.style(one.route).group_by for one in queue}
        seen = self.channel.knows_ids
        return next_notifications(queue, group, group_by=group_by, held=self._held, now=now, ids_are_seen=seen)

    def _send(self, held: lease.Lease, notification: Notification) -> bool:
        """Send one message.

        :returns: False if no other may be sent over this channel now
        """
        task, name, first = self.task, self.channel.name, notification.first
        if task.seconds_left < 0:
            self._fail("not all is sent, it took too long")
            return False
        identity = notification.message_id or message_id(notification)
        with task.database.begin() as conn:
            held.renew(conn, ttl=LEASE_TTL)
            resting = quiet.until(conn, name, task.clock())
            if self._is_left_alone(resting):
                return False
            found = _alerts(conn, notification)
            crowded = frozenset[str]()
            if self.channel.threads_mails:
                runs = {alert.first.run_id for alert in found}
                crowded = deliveries.crowded(conn, name, runs, above=MAX_REFERENCES)
            ids = deliveries.begin_sending(conn, name, notification.event_ids, identity, task.clock())
        # Without what was withheld or cancelled since the queue was read.
        found = [alert for alert in found if alert.event.id in ids]
        if not found:
            return True
        more: dict[str, Any] = {"id": identity, "resting": resting, "crowded": crowded}
        subject, reminder = notification.subject, first.reminder
        message = task.message(found, first.group, first.route, subject, reminder=reminder, **more)
        try:
            self._within_limit(message, first.targets_done)
        except DeliveryError as error:
            done = tuple(dict.fromkeys((*first.targets_done, *error.delivered)))
            left = sorted(ids - {*error.taken, *error.refused})
            under_way = isinstance(error.__cause__, OverrunError)
            # An earlier try may have come through, whatever became of this one: it stays the same message.
            unsure = under_way or error.unsure or any(one.message_id for one in notification.deliveries)
            now, reason, waits = task.clock(), str(error), error.waits
            has, never = error.taken, error.refused

            def note(conn: Connection) -> None:
                deliveries.delivered(conn, name, has, now)
                deliveries.refused(conn, name, never, reason, now)
                deliveries.failed(conn, name, left, reason, done, now, unsure=unsure)
                quiet.leave_alone(conn, name, waits, now)

            self._mark(held, note)
            log.error("%s; events that stay in the queue: %d", error, len(left))
            self.failures.append(error)
            self.sent += len(error.taken)
            self._held |= {alert.event.alert_key for alert in found}
            # If it may still be under way: no second one beside it.
            return not under_way
        self._mark(held, lambda conn: deliveries.delivered(conn, name, sorted(ids), task.clock()))
        self.sent += len(ids)
        log.info("%s: delivered %r (events: %d)", name, message.title, len(ids))
        return True

    def _fail(self, reason: str) -> None:
        self.failures.append(DeliveryError(reason, channel=self.channel.name))

    def _is_left_alone(self, resting: Mapping[str, datetime]) -> bool:
        """Whether the channel asked for it: nothing is sent then, and the task is red."""
        until = resting.get("")
        if until is not None:
            self._fail(f"asked to be left alone; it is tried again after {until:%H:%M:%S} UTC")
        return until is not None

    def _mark(self, held: lease.Lease, write: Callable[[Connection], None]) -> None:
        """Note the result of a message. A database that is away for a moment must not make it come twice."""
        for patience in (1, 5, None):
            try:
                with self.task.database.begin() as conn:
                    held.check(conn)
                    write(conn)
            except LeaseLostError:
                raise
            except StorageError as error:
                if patience is None:
                    raise
                log.warning("%s; trying again to note what became of a message", error)
                time.sleep(patience)
            else:
                return

    def _acknowledge(self, held: lease.Lease) -> None:
        """Tell a channel which alerts a person takes care of. What fails is due again in the next try or run."""
        task, name = self.task, self.channel.name
        with task.database.begin() as conn:
            held.renew(conn, ttl=LEASE_TTL)
            due = task.book(conn).acknowledged(conn, self.channel, task.group, task.clock())
            if not due or self._is_left_alone(quiet.until(conn, name, task.clock())):
                return
        for route in dict.fromkeys(route for _, route, _ in due):
            own = {alert.event.id: (number, alert) for number, of, alert in due if of == route}
            if not self._tell_acknowledged(held, route, own):
                return

    def _tell_acknowledged(self, held: lease.Lease, route: str, own: Mapping[str, tuple[int, Alert]]) -> bool:
        """Tell a channel of acknowledgements, by the ids of the alerts' events; False if it did not take all."""
        task, name, failure = self.task, self.channel.name, None
        found = [alert for _, alert in own.values()]
        try:
            self._within_limit(task.message(found, task.group, route, reminder=False, acknowledged=True), ())
        except DeliveryError as error:
            log.error("%s; not acknowledged there: %d", error, len(own) - len(error.taken))
            self.failures.append(error)
            failure = error
        taken = failure.taken if failure else tuple(own)

        def note(conn: Connection) -> None:
            silences.told(conn, name, [own[event_id][0] for event_id in taken], task.clock())
            quiet.leave_alone(conn, name, failure.waits if failure else {}, task.clock())

        self._mark(held, note)
        return failure is None

    def _note_silences(
        self, held: lease.Lease, firing: Sequence[Alert], known: Mapping[str, SilencedElsewhere]
    ) -> None:
        """Keep what withholds alerts at the receiver, for people who look. A failure is no error.

        :param known: what is kept of the channel
        """
        task, name, asked = self.task, self.channel.name, {alert.id for alert in firing}
        try:
            found = timeouts.within(timeouts.SEND, lambda: task.silenced(self.channel, firing)) if firing else {}
        except Exception as error:
            log.info("%s: what is silenced there is not known: %s", name, _place_of(error))
            return
        if found != {alert_id: one for alert_id, one in known.items() if alert_id in asked}:
            self._mark(held, lambda conn: silences.note_elsewhere(conn, name, asked, found))

    def _repeat(self, held: lease.Lease, told: Collection[str]) -> None:
        """Tell Alertmanager again of open alerts. If that fails, they are due again in the next try or run.

        :param told: ids of alerts that it was told of just now
        """
        task, name = self.task, self.channel.name
        with task.database.begin() as conn:
            held.renew(conn, ttl=LEASE_TTL)
            if self._is_left_alone(quiet.until(conn, name, task.clock())):
                return
            due, known = task.book(conn).due(self.channel, task.group), silences.noted_elsewhere(conn, name)
        by_route: dict[str, list[Alert]] = defaultdict(list)
        for route, alert in due:
            if alert.id not in told:
                by_route[route].append(alert)
        for route, found in by_route.items():
            if task.seconds_left < 0:
                return
            try:
                self._within_limit(task.message(found, task.group, route, reminder=True), ())
            except DeliveryError as error:
                log.error("%s; not repeated: %d", error, len(found))
                self.failures.append(error)
                self._mark(held, partial(quiet.leave_alone, channel=name, waits=error.waits, now=task.clock()))
                return
            log.info("%s: repeated what it knows (alerts: %d)", name, len(found))
        self._note_silences(held, [alert for _, alert in due if alert.ends_at is None], known)

    def _within_limit(self, message: Message, done: tuple[str, ...]) -> None:
        """Send, whatever the channel's code does: hang, or raise what it should not.

        :raises DeliveryError: it did not succeed in time. If it does later, the message comes twice
        """
        name = self.channel.name
        try:
            timeouts.within(timeouts.SEND, lambda: self.task.send(self.channel, message, done))
        except DeliveryError:
            raise
        except OverrunError as error:
            raise DeliveryError(f"no answer within {timeouts.SEND.total_seconds():g} s", channel=name) from error
        except Exception as error:
            raise DeliveryError(f"failed in an unexpected way: {_place_of(error)}", channel=name) from None


def _place_of(error: Exception) -> str:
    """Class and place of an error. Its text may hold an address with a token."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def _alerts(conn: Connection, notification: Notification) -> list[Alert]:
    """The alerts of a message; each end knows whether the channel was notified of the beginning."""
    found = [one.alert for one in notification.deliveries]
    receipts = deliveries.receipts(conn, {alert.id for alert in found if alert.role is AlertRole.RESOLVED})
    own = {alert_id: of.get(notification.first.channel) for alert_id, of in receipts.items()}
    told = {alert_id for alert_id, receipt in own.items() if receipt is not None and receipt.notified}
    return [replace(alert, untold=alert.role is AlertRole.RESOLVED and alert.id not in told) for alert in found]
