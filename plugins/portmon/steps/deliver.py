"""Send what the outbox holds, then mark it sent."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path

from sqlalchemy import Connection

from portmon import timeouts
from portmon.alerting.channels import Channel
from portmon.alerting.channels.mail import MAX_REFERENCES
from portmon.alerting.message.render import Layout, Message, render
from portmon.alerting.outages import find_outages
from portmon.alerting.queue import Batch, Queued, message_id, next_batches, rests, superseded
from portmon.alerting.routes import Routes
from portmon.config import Config
from portmon.errors import DeliveryError, LeaseLostError, OverrunError, PortmonError, StorageError
from portmon.model.alert import Alert
from portmon.model.event import AlertGroup, AlertRole, Event
from portmon.model.state import HostStatus
from portmon.steps.reminders import Book
from portmon.storage import alerts, hosts, lease, outbox, quiet
from portmon.storage.database import Database

log = logging.getLogger(__name__)

LEASE_TTL = 2 * timeouts.SEND
"""Renewed before every message, each of which may take ``timeouts.SEND``: so it outlives what it protects,
and after a crash another run waits no longer than this. A retry of the same task waits for nothing."""
CHANNELS_AT_ONCE = 8
"""One that hangs must not keep the others waiting."""

Send = Callable[[Channel, Message, tuple[str, ...]], None]
"""Delivers to every target of a channel that is not named as done; raises DeliveryError."""


def deliver_group(
    database: Database,
    config: Config,
    group: AlertGroup,
    *,
    send: Send,
    link: Callable[[Event], str | None],
    page: str | None,
    interval: timedelta,
    holder: str,
    clock: Callable[[], datetime],
    hold_until: datetime,
    try_number: int = 0,
) -> int:
    """Send the undelivered events of a group through every channel, and repeat what is due to be repeated.

    The channels are served side by side. What a channel took is marked at once, so that a crash repeats at most
    the message that was under way. A channel that fails, hangs, or is served by another copy of this task just now,
    does not keep the others from theirs: a message has ``timeouts.SEND``, and who failed before comes last.

    :param link: an event to the address of its host's task log
    :param page: address of the page that has what does not fit into a message
    :param interval: between scheduled runs
    :param holder: who, for people that wonder about a lease
    :param try_number: of the task: it takes over at once what an earlier try of the same holder had in hand
    :param hold_until: until when what goes on holds unless a later run repeats it
    :returns: number of events delivered, channels counted apart
    :raises DeliveryError: after all channels were tried, if any failed
    :raises StorageError: the same for a lease that somebody else kept
    """
    task = _Task(database, config, group, send, link, page, interval, holder, clock, hold_until, try_number)
    channels = task.channels()
    if not channels:
        return 0
    with ThreadPoolExecutor(CHANNELS_AT_ONCE, thread_name_prefix="channel") as workers:
        # Each in a copy of this context, which Airflow's logging needs.
        futures = [workers.submit(contextvars.copy_context().run, task.serve, channel) for channel in channels]
    served = [future.result() for future in futures]
    failures = [failure for _, found in served for failure in found]
    if failures:
        raise failures[0]
    return sum(sent for sent, _ in served)


@dataclass
class _Task:
    """One alert task: what its channels have in common.

    :param last_start: after this no message is begun, so that the last one ends within the task's limit
    """

    database: Database
    config: Config
    group: AlertGroup
    send: Send
    link: Callable[[Event], str | None]
    page: str | None
    interval: timedelta
    holder: str
    clock: Callable[[], datetime]
    hold_until: datetime
    try_number: int = 0
    last_start: float = field(
        default_factory=lambda: time.monotonic() + (timeouts.ALERT - 1.5 * timeouts.SEND).total_seconds()
    )

    def __post_init__(self) -> None:
        self.routes = Routes(self.config.alerts, where=self.config.where)

    def channels(self) -> list[Channel]:
        """Those that lack something or are to be reminded, in their order but for those that failed before."""
        tried: dict[str, int] = {}
        with self.database.begin() as conn:
            for one in outbox.waiting(conn):
                if one.queued.group is self.group and one.state != outbox.WITHHELD:
                    tried[one.channel] = max(tried.get(one.channel, 0), one.queued.tries)
            book = self.book(conn)
        due = [
            channel for channel in self.config.alerts.channels if channel.name in tried or book.due(channel, self.group)
        ]
        return sorted(due, key=lambda channel: tried.get(channel.name, 0))

    def book(self, conn: Connection) -> Book:
        """What goes on now."""
        return Book.of(conn, now=self.clock(), interval=self.interval)

    @property
    def seconds_left(self) -> float:
        """Until when a message may begin."""
        return self.last_start - time.monotonic()

    def serve(self, channel: Channel) -> tuple[int, list[PortmonError]]:
        """One channel: number of events that it took, and what went wrong."""
        delivery = _Delivery(self, channel)
        try:
            try:
                self._serve(delivery)
            except LeaseLostError as error:
                # Somebody thought that this one was dead. Whatever they left is still to be sent.
                log.warning("%s", error)
                self._serve(delivery)
        except PortmonError as error:
            log.warning("%s", error)
            return delivery.sent, [*delivery.failures, error]
        except Exception as error:
            # Not with its text, which may hold an address with a token: nobody knows whose it is.
            log.error("Serving channel %r failed in an unexpected way: %s", channel.name, _place_of(error))
            wrapped = DeliveryError(f"failed in an unexpected way: {_place_of(error)}", channel=channel.name)
            return delivery.sent, [*delivery.failures, wrapped]
        return delivery.sent, list(delivery.failures)

    def _serve(self, delivery: _Delivery) -> None:
        """One lease per channel, not per group: what is told of one port comes in order. And two copies of one alert
        task, a cleared one and its zombie, must not both send: a later try takes over, and the earlier one is refused
        before its next message.
        """
        name = delivery.channel.name
        left = timedelta(seconds=self.seconds_left)
        if left < timedelta(0):
            raise DeliveryError("not asked, the others took too long", channel=name)
        wait = min(LEASE_TTL, left)
        with lease.hold(
            self.database, f"alert/{name}", self.holder, ttl=LEASE_TTL, wait=wait, try_number=self.try_number
        ) as held:
            delivery.run(held)

    @cached_property
    def fleet(self) -> dict[str, hosts.Watched]:
        """Every host that is watched, for the share of a site that is unreachable."""
        with self.database.begin() as conn:
            return hosts.watched(conn)

    def message(
        self, found: Sequence[Alert], group: AlertGroup, route: str, subject: str, *, reminder: bool
    ) -> Message:
        """The message of one route."""
        settings = self.config.alerts
        style = self.routes.style(route)
        outages = None
        if group is AlertGroup.UNREACHABLE and len(found) > 1 and not reminder:
            outages = find_outages(
                found,
                {host_id: host.labels for host_id, host in self.fleet.items()},
                {host_id for host_id, host in self.fleet.items() if host.status == HostStatus.UNREACHABLE},
                ratio=settings.outage_ratio,
                label=settings.outage_label,
            )
        message = render(
            found,
            group,
            layout=Layout(style.language, style.max_lines, templates_folder(self.config)),
            link=self.link,
            page=self.page,
            subject=subject,
            reminder=reminder,
            outages=outages,
        )
        return dataclasses.replace(message, route=route, expires_at=self.hold_until)


class _Delivery:
    """The undelivered events of a group through one channel."""

    def __init__(self, task: _Task, channel: Channel) -> None:
        self.task = task
        self.channel = channel
        self.sent = 0
        self.failures: list[DeliveryError] = []
        self._held: set[str] = set()

    def run(self, held: lease.Lease) -> None:
        """Send message by message until nothing is left, then what Alertmanager is to be told again.

        :raises LeaseLostError: if somebody took over; nothing is sent or marked from then on
        """
        told: set[str] = set()
        while batches := self._next(held):
            for batch in batches:
                if not self._send_batch(held, batch):
                    return
                told |= {one.alert_id for one in batch.queued}
        if self.channel.repeats_firing:
            self._repeat(held, told)

    def _next(self, held: lease.Lease) -> list[Batch]:
        name, routes, now = self.channel.name, self.task.routes, self.task.clock()
        with self.task.database.begin() as conn:
            held.check(conn)
            queue = outbox.queue(conn, name)
            # Whoever had them under way is gone: this is the only one who may send now.
            reasons = superseded(queue)
            outbox.cancel(conn, name, reasons, now, also_sending=True)
        queue = [one for one in queue if one.event.id not in reasons]
        self._tell_of_rest(queue, now)
        group_by = {one.route: routes.style(one.route).group_by for one in queue}
        return next_batches(
            queue,
            self.task.group,
            group_by=group_by,
            held=self._held,
            now=now,
            ids_are_seen=self.channel.knows_ids,
        )

    def _tell_of_rest(self, queue: Sequence[Queued], now: datetime) -> None:
        """What waits because it was not answered is undelivered all the same: the task is red."""
        resting = [one for one in queue if one.group is self.task.group and rests(one, now)]
        untold = [one for one in resting if one.event.alert_key not in self._held]
        if untold:
            until = min(one.rests_until for one in untold if one.rests_until)
            message = f"was not answered, and may have come through; it is tried again after {until:%H:%M} UTC"
            self.failures.append(DeliveryError(message, channel=self.channel.name))
            self._held |= {one.event.alert_key for one in untold}

    def _send_batch(self, held: lease.Lease, batch: Batch) -> bool:
        """Send one message.

        :returns: False if no other may be sent over this channel now
        """
        if self.task.seconds_left < 0:
            self.failures.append(DeliveryError("not all is sent, it took too long", channel=self.channel.name))
            return False
        name = self.channel.name
        identity = batch.message_id or message_id(name, batch)
        with self.task.database.begin() as conn:
            held.renew(conn, ttl=LEASE_TTL)
            resting = quiet.until(conn, name, self.task.clock())
            if self._is_left_alone(resting):
                return False
            found = _alerts(conn, name, batch.queued)
            crowded = frozenset[str]()
            if self.channel.threads_mails:
                runs = {alert.first.run_id for alert in found}
                crowded = outbox.crowded(conn, name, runs, above=MAX_REFERENCES)
            ids = outbox.begin_sending(conn, name, batch.event_ids, identity, self.task.clock())
        # Without what was withheld or cancelled since the queue was read.
        queued = [one for one in batch.queued if one.event.id in ids]
        found = [alert for alert in found if alert.event.id in ids]
        if not queued:
            return True
        message = self.task.message(found, batch.group, batch.route, batch.subject, reminder=batch.reminder)
        try:
            message = dataclasses.replace(message, id=identity, resting=resting, crowded=crowded)
            self._within_limit(message, batch.targets_done)
        except DeliveryError as error:
            taken = tuple(dict.fromkeys((*batch.targets_done, *error.delivered)))
            under_way = isinstance(error.__cause__, OverrunError)
            # An earlier try may have come through, whatever became of this one: it stays the same message.
            unsure = under_way or error.unsure or any(one.message_id for one in queued)
            now, reason = self.task.clock(), str(error)
            waits = error.waits

            def note(conn: Connection) -> None:
                outbox.failed(conn, name, sorted(ids), reason, taken, now, unsure=unsure)
                quiet.leave_alone(conn, name, waits, now)

            self._mark(held, note)
            log.error("%s; what stays in the outbox: %d", error, len(ids))
            self.failures.append(error)
            self._held |= {one.event.alert_key for one in queued}
            # If it may still be under way: no second one beside it.
            return not under_way
        self._mark(held, lambda conn: outbox.delivered(conn, name, sorted(ids), self.task.clock()))
        self.sent += len(ids)
        log.info("%s: delivered %r (events: %d)", name, message.title, len(ids))
        return True

    def _is_left_alone(self, resting: Mapping[str, datetime]) -> bool:
        """Whether the channel asked to be: nothing is sent then, and the task is red."""
        until = resting.get("")
        if until is None:
            return False
        message = f"asked to be left alone; it is tried again after {until:%H:%M:%S} UTC"
        self.failures.append(DeliveryError(message, channel=self.channel.name))
        return True

    def _mark(self, held: lease.Lease, write: Callable[[Connection], None]) -> None:
        """Note what became of a message. A database that is away for a moment must not make it come twice."""
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

    def _repeat(self, held: lease.Lease, told: Iterable[str]) -> None:
        """Tell Alertmanager again of what goes on. What fails here is due again in the next try, or in the next run."""
        task, name = self.task, self.channel.name
        with task.database.begin() as conn:
            held.renew(conn, ttl=LEASE_TTL)
            if self._is_left_alone(quiet.until(conn, name, task.clock())):
                return
            due = task.book(conn).due(self.channel, task.group)
        known = set(told)
        by_route: dict[str, list[Alert]] = defaultdict(list)
        for route, alert in due:
            if alert.id not in known:
                by_route[route].append(alert)
        for route, found in by_route.items():
            if task.seconds_left < 0:
                return
            message = task.message(found, task.group, route, "", reminder=True)
            try:
                self._within_limit(message, ())
            except DeliveryError as error:
                log.error("%s; not repeated: %d", error, len(found))
                self.failures.append(error)
                self._mark(held, partial(quiet.leave_alone, channel=name, waits=error.waits, now=task.clock()))
                return
            log.info("%s: repeated what it knows (alerts: %d)", name, len(found))

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


def templates_folder(config: Config) -> Path | None:
    """Where the user's own templates are."""
    folder = config.alerts.templates
    if folder is None:
        return None
    return (config.path.parent if config.path else Path()) / folder


def _alerts(conn: Connection, channel: str, queued: Sequence[Queued]) -> list[Alert]:
    """What a message tells, as data."""
    ids = {one.alert_id for one in queued}
    stored = alerts.of_ids(conn, ids)
    first = outbox.by_ids(conn, ids)
    told = {
        alert_id
        for alert_id, known in outbox.told(conn, ids).items()
        for one in known
        if one.channel == channel and (one.at is not None or one.unsure)
    }
    found = []
    for one in queued:
        alert, event = stored.get(one.alert_id), one.event
        over = one.role is AlertRole.RESOLVED
        found.append(
            Alert(
                one.alert_id,
                one.role,
                event,
                first.get(one.alert_id, event),
                alert.starts_at if alert else event.at,
                (alert.ends_at if alert else None) or event.at if over else None,
                untold=over and one.alert_id not in told,
            )
        )
    return found
