"""Events, and which channel has which of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, func, or_, select, tuple_, update

from portmon.alerting.queue import Queued
from portmon.model.event import AlertGroup, AlertRole, Event, EventKind, Severity
from portmon.storage.sql import chunks, insert_rows, update_rows
from portmon.storage.tables import UNFINISHED, alerts, deliveries, events

PENDING = "pending"
SENDING = "sending"
"""Under way; or nobody knows, because who sent it is gone."""
DELIVERED = "delivered"
WITHHELD = "withheld"
"""Silenced or acknowledged: sent if that ends while what it tells of goes on."""
SILENCED = "silenced"
"""Withheld for good."""
CANCELLED = "cancelled"
EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A delivery that may still be sent."""

    queued: Queued
    channel: str
    state: str
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """What a channel knows of an alert.

    :param route: that it came by
    :param at: when it last heard of it; None if it never did as far as is known
    :param unsure: a message was sent at least once: it may have come through
    :param states: of its deliveries
    :param event_id: the newest event of it that the channel was told, or that was given up
    """

    channel: str
    route: str
    at: datetime | None
    unsure: bool = False
    states: frozenset[str] = frozenset()
    event_id: str = ""

    @property
    def hears_the_end(self) -> bool:
        """Whether it is to be told that it is over."""
        return self.heard or bool(self.states & {PENDING, SENDING})

    @property
    def heard(self) -> bool:
        """Whether it was told, or may have been."""
        return self.at is not None or self.unsure


# ── events ──────────────────────────────────────────────────────────────────────────────────────


def add(conn: Connection, new: Iterable[Event], *, step: int | None = None) -> None:
    """Store events; those that are there stay as they are.

    :param step: of the journal that they follow from: evaluating again what was seen makes them again. None of what is
        of its moment
    """
    insert_rows(conn, events, [row_of(event, step) for event in new])


def undispatched(conn: Connection) -> list[Event]:
    """Events that are not in the outbox yet, in the order in which they were derived."""
    query = _valid().where(~events.c.dispatched).order_by(events.c.seq)
    return [event_of(row) for row in conn.execute(query)]


def dispatched(conn: Connection, alert_ids: Mapping[str, str]) -> None:
    """Note that events are in the outbox.

    :param alert_ids: event id: the alert that it tells of
    """
    rows = [{"id": event_id, "alert_id": alert_id, "dispatched": True} for event_id, alert_id in alert_ids.items()]
    update_rows(conn, events, rows, key=["id"])


def by_ids(conn: Connection, event_ids: Iterable[str]) -> dict[str, Event]:
    """Event id: event."""
    found: dict[str, Event] = {}
    for part in chunks(sorted(set(event_ids))):
        found |= {row.id: event_of(row) for row in conn.execute(select(events).where(events.c.id.in_(part)))}
    return found


def recent(conn: Connection, *, run_id: str | None = None, limit: int = 1000) -> list[Event]:
    """Events in the order in which they were derived, the newest ``limit`` of them.

    :param run_id: of this run only
    """
    query = _valid().order_by(events.c.seq.desc()).limit(limit)
    if run_id is not None:
        query = query.where(events.c.run_id == run_id)
    return [event_of(row) for row in conn.execute(query)][::-1]


def between(conn: Connection, since: datetime, until: datetime) -> list[Event]:
    """Events from a moment on and before another, in the order in which they happened."""
    query = _valid().where(events.c.at >= since, events.c.at < until).order_by(events.c.at, events.c.seq)
    return [event_of(row) for row in conn.execute(query)]


def derived(conn: Connection, since: datetime, until: datetime, *, after: int, last: int) -> Iterator[Event]:
    """Those of them that follow from steps of the journal.

    :param after: from steps after this one
    :param last: up to this one
    """
    query = _valid().where(events.c.at >= since, events.c.at < until, events.c.step > after, events.c.step <= last)
    return (event_of(row) for row in conn.execute(query.order_by(events.c.at, events.c.seq)))


def of_port(conn: Connection, host_id: str, port: int, *, kinds: Collection[EventKind]) -> list[Event]:
    """The events of one port in order, with the moves to it, and those of some kinds of its host and of the monitor.

    :param kinds: of events without a port
    """
    own = and_(events.c.host_id == host_id, or_(events.c.port == port, events.c.kind == EventKind.MOVED.value))
    wide = and_(
        events.c.port.is_(None),
        or_(events.c.host_id == host_id, events.c.host_id.is_(None)),
        events.c.kind.in_([kind.value for kind in kinds]),
    )
    rows = conn.execute(_valid().where(or_(own, wide)).order_by(events.c.at, events.c.seq))
    found = [event_of(row) for row in rows]
    return [event for event in found if event.port in (None, port) or event.details.get("to") == port]


def expire(conn: Connection, before: datetime, *, most: int | None = None) -> int:
    """Delete events from before a moment, but none that somebody is still to get, or whose alert was not over then.

    :param most: so many; None: all of them
    :returns: how many
    """
    waiting = select(deliveries.c.event_id).where(deliveries.c.state.in_(UNFINISHED))
    going_on = select(alerts.c.id).where(or_(alerts.c.ends_at.is_(None), alerts.c.ends_at >= before))
    unfinished = select(events.c.alert_id).where(events.c.id.in_(waiting), events.c.alert_id.is_not(None))
    old = and_(
        events.c.at < before,
        events.c.dispatched,
        events.c.id.not_in(waiting),
        or_(
            events.c.alert_id.is_(None),
            and_(events.c.alert_id.not_in(going_on), events.c.alert_id.not_in(unfinished)),
        ),
    )
    if most is not None:
        old = events.c.seq.in_(select(events.c.seq).where(old).order_by(events.c.at).limit(most))
    return int(conn.execute(delete(events).where(old)).rowcount)


# ── the queue ───────────────────────────────────────────────────────────────────────────────────


def enqueue(conn: Connection, rows: Sequence[tuple[str, str, str]], now: datetime) -> None:
    """Make deliveries; those that are there stay as they are.

    :param rows: event id, channel, route
    """
    if rows:
        made = [
            {
                "event_id": event_id,
                "channel": channel,
                "route": route,
                "state": PENDING,
                "tries": 0,
                "targets_done": [],
                "created_at": now,
                "updated_at": now,
            }
            for event_id, channel, route in rows
        ]
        insert_rows(conn, deliveries, made)


def waiting(conn: Connection, channels: Collection[str] | None = None) -> list[Waiting]:
    """Deliveries that may still be sent, in the order of their events.

    :param channels: to these only
    """
    query = (
        select(events, deliveries)
        .join(deliveries, deliveries.c.event_id == events.c.id)
        .where(deliveries.c.state.in_(UNFINISHED))
        .order_by(events.c.seq)
    )
    if channels is not None:
        query = query.where(deliveries.c.channel.in_(list(channels)))
    found = []
    for row in conn.execute(query):
        event = event_of(row)
        role = event.meaning.role
        if role is None or row.alert_group is None:
            continue
        queued = Queued(
            event=event,
            seq=row.seq,
            alert_id=row.alert_id or event.id,
            role=role,
            group=AlertGroup(row.alert_group),
            route=row.route,
            tries=row.tries,
            targets_done=tuple(row.targets_done),
            message_id=row.message_id,
            reminder=row.reminder,
            since=row.created_at,
            tried_at=row.updated_at if row.tries else None,
            crashed=row.state == SENDING,
        )
        found.append(Waiting(queued, row.channel, row.state, row.last_error))
    return found


def queue(conn: Connection, channel: str) -> list[Queued]:
    """What a channel is to get, in the order of events, whatever is withheld left out."""
    return [one.queued for one in waiting(conn, [channel]) if one.state != WITHHELD]


def begin_sending(conn: Connection, channel: str, event_ids: Sequence[str], message_id: str, now: datetime) -> set[str]:
    """Note that a message is about to go: if this is the last that is known of it, it may have come through.

    :returns: those that are still to be sent; the others were withheld or cancelled meanwhile
    """
    taken: set[str] = set()
    for part in chunks(event_ids):
        statement = _unsent(channel, part).values(
            state=SENDING, message_id=message_id, tries=deliveries.c.tries + 1, updated_at=now
        )
        taken |= set(conn.execute(statement.returning(deliveries.c.event_id)).scalars())
    return taken


def delivered(conn: Connection, channel: str, event_ids: Sequence[str], now: datetime) -> None:
    """Note that a channel has events."""
    for part in chunks(event_ids):
        conn.execute(_unsent(channel, part).values(state=DELIVERED, notified_at=now, updated_at=now, last_error=None))


def failed(
    conn: Connection,
    channel: str,
    event_ids: Sequence[str],
    error: str,
    targets_done: Sequence[str],
    now: datetime,
    *,
    unsure: bool = False,
) -> None:
    """Note that a channel did not take events, and which of its targets did.

    :param unsure: they may have come through none the less
    """
    values: dict[str, Any] = {"state": PENDING, "updated_at": now, "last_error": error}
    values["targets_done"] = list(targets_done)
    if targets_done:
        values["notified_at"] = now
    if not unsure:
        values["message_id"] = None
    for part in chunks(event_ids):
        conn.execute(_unsent(channel, part).values(values))


def cancel(conn: Connection, channel: str, reasons: Mapping[str, str], now: datetime, *, also_sending: bool) -> None:
    """Do not send events to a channel any more.

    :param reasons: event id: why
    :param also_sending: whoever had them under way is known to be gone
    """
    states = (PENDING, SENDING) if also_sending else (PENDING,)
    by_reason: dict[str, list[str]] = defaultdict(list)
    for event_id, reason in reasons.items():
        by_reason[reason].append(event_id)
    for reason, event_ids in by_reason.items():
        _set(conn, channel, event_ids, states, state=CANCELLED, last_error=reason, updated_at=now)


def cancel_channel(conn: Connection, channel: str, event_ids: Sequence[str], reason: str, now: datetime) -> None:
    """Do not send events to a channel that is no more, whatever state they are in."""
    _set(conn, channel, event_ids, UNFINISHED, state=CANCELLED, last_error=reason, updated_at=now)


def withhold(
    conn: Connection, channel: str, event_ids: Sequence[str], reason: str, now: datetime, *, for_good: bool
) -> None:
    """Do not send events to a channel for now.

    :param for_good: what they tell of does not go on: they will not be told later either
    """
    state = SILENCED if for_good else WITHHELD
    _set(conn, channel, event_ids, (PENDING, WITHHELD), state=state, last_error=reason, updated_at=now)


def release(conn: Connection, channel: str, event_ids: Sequence[str], now: datetime) -> None:
    """Send after all what was withheld; the time after which it is given up begins now."""
    _set(conn, channel, event_ids, (WITHHELD,), state=PENDING, last_error=None, created_at=now, updated_at=now)


def give_up(conn: Connection, channel: str, event_ids: Sequence[str], reason: str, now: datetime) -> None:
    """Do not try to send events to a channel any more."""
    _set(conn, channel, event_ids, (PENDING, SENDING), state=EXPIRED, last_error=reason, updated_at=now)


def remind(conn: Connection, channel: str, event_ids: Sequence[str], now: datetime) -> None:
    """Tell a channel again of what it was told, or what was given up: from the beginning, to each of its targets."""
    _set(
        conn,
        channel,
        event_ids,
        (DELIVERED, EXPIRED),
        state=PENDING,
        reminder=True,
        tries=0,
        targets_done=[],
        message_id=None,
        last_error=None,
        created_at=now,
        updated_at=now,
    )


def settle_withheld(conn: Connection, alert_ids: Collection[str], now: datetime) -> None:
    """Nobody is told of what was withheld of alerts that are over."""
    for part in chunks(sorted(alert_ids)):
        matching = select(events.c.id).where(events.c.alert_id.in_(part))
        conn.execute(
            update(deliveries)
            .where(deliveries.c.event_id.in_(matching), deliveries.c.state == WITHHELD)
            .values(state=SILENCED, updated_at=now)
        )


def cancel_ports(conn: Connection, keys: Iterable[tuple[str, str, int]], *, reason: str, now: datetime) -> None:
    """Do not send any more what was not sent yet of ports that are not watched any more, but for ends."""
    for host_id, protocol, port in keys:
        _cancel(conn, (events.c.host_id == host_id, events.c.protocol == protocol, events.c.port == port), reason, now)


def cancel_hosts(conn: Connection, host_ids: Sequence[str], *, reason: str, now: datetime) -> None:
    """The same for everything about hosts."""
    _cancel(conn, (events.c.host_id.in_(host_ids),), reason, now)


# ── who knows what ──────────────────────────────────────────────────────────────────────────────


def told(conn: Connection, alert_ids: Collection[str]) -> dict[str, list[Told]]:
    """Alert id: what each channel knows of it, those that are still to hear of it or were given up included."""
    query = (
        select(
            events.c.alert_id,
            *(deliveries.c[name] for name in ("event_id", "channel", "route", "state", "notified_at", "message_id")),
        )
        .join(deliveries, deliveries.c.event_id == events.c.id)
        .order_by(events.c.seq)
    )
    found: dict[str, dict[str, Told]] = defaultdict(dict)
    for part in chunks(sorted(alert_ids)):
        for row in conn.execute(query.where(events.c.alert_id.in_(part))):
            known = found[row.alert_id]
            before = known.get(row.channel) or Told(row.channel, row.route, None)
            sent = row.state in (DELIVERED, EXPIRED) or not before.event_id
            known[row.channel] = Told(
                row.channel,
                before.route,
                max(filter(None, (before.at, row.notified_at)), default=None),
                unsure=before.unsure or row.message_id is not None,
                states=before.states | {row.state},
                event_id=row.event_id if sent else before.event_id,
            )
    return {alert_id: list(known.values()) for alert_id, known in found.items()}


def crowded(conn: Connection, channel: str, run_ids: Collection[str], *, above: int) -> frozenset[str]:
    """Runs of which a channel gets more events than ``above``."""
    found: set[str] = set()
    for part in chunks(sorted(run_ids)):
        query = (
            select(events.c.run_id)
            .join(deliveries, deliveries.c.event_id == events.c.id)
            .where(events.c.run_id.in_(part), deliveries.c.channel == channel)
            .group_by(events.c.run_id)
            .having(func.count() > above)
        )
        found |= set(conn.execute(query).scalars())
    return frozenset(found)


def fates(conn: Connection, event_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """(event id, channel): what became of its delivery, and why if that is known, for people."""
    found: dict[tuple[str, str], str] = {}
    query = select(deliveries.c.event_id, deliveries.c.channel, deliveries.c.state, deliveries.c.last_error)
    for part in chunks(event_ids):
        for event_id, channel, state, why in conn.execute(query.where(deliveries.c.event_id.in_(part))):
            found[event_id, channel] = f"{state} ({why})" if why else state
    return found


def states(conn: Connection, event_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """(event id, channel): state of its delivery."""
    found: dict[tuple[str, str], str] = {}
    for part in chunks(event_ids):
        query = select(deliveries.c.event_id, deliveries.c.channel, deliveries.c.state)
        for event_id, channel, state in conn.execute(query.where(deliveries.c.event_id.in_(part))):
            found[event_id, channel] = state
    return found


# ── parts ───────────────────────────────────────────────────────────────────────────────────────


def _valid() -> Select[Any]:
    """Events without those that evaluating again took back."""
    return select(events).where(events.c.retracted_by.is_(None))


def _unsent(channel: str, event_ids: Sequence[str]) -> Any:
    return update(deliveries).where(
        deliveries.c.channel == channel,
        deliveries.c.event_id.in_(event_ids),
        deliveries.c.state.in_((PENDING, SENDING)),
    )


def _set(conn: Connection, channel: str, event_ids: Sequence[str], states: Sequence[str], **values: Any) -> None:
    for part in chunks(event_ids):
        conn.execute(
            update(deliveries)
            .where(deliveries.c.channel == channel, deliveries.c.event_id.in_(part), deliveries.c.state.in_(states))
            .values(values)
        )


def _cancel(conn: Connection, conditions: Iterable[Any], reason: str, now: datetime) -> None:
    # Whoever heard of something is to hear of its end.
    over = tuple_(events.c.kind, events.c.alert_group).in_(
        [(kind.value, str(kind.usual.group)) for kind in EventKind if kind.usual.role is AlertRole.RESOLVED]
    )
    matching = select(events.c.id).where(*conditions, ~over)
    conn.execute(
        update(deliveries)
        .where(deliveries.c.event_id.in_(matching), deliveries.c.state.in_((PENDING, WITHHELD)))
        .values(state=CANCELLED, last_error=reason, updated_at=now)
    )
    conn.execute(update(events).where(~events.c.dispatched, events.c.id.in_(matching)).values(dispatched=True))


def row_of(event: Event, step: int | None = None) -> dict[str, Any]:
    """A row of the table; what nobody is ever told of is dispatched."""
    group = event.meaning.group
    return {field.name: getattr(event, field.name) for field in fields(event)} | {
        "kind": event.kind.value,
        "severity": event.severity.value,
        "alert_group": group.value if group else None,
        "dispatched": group is None,
        "step": step,
    }


def event_of(row: Any) -> Event:
    """An event from a row that has the columns of the table."""
    return Event(
        id=row.id,
        kind=EventKind(row.kind),
        at=row.at,
        run_id=row.run_id,
        host_id=row.host_id,
        host_name=row.host_name,
        protocol=row.protocol,
        port=row.port,
        severity=Severity(row.severity),
        reason=row.reason,
        program=row.program,
        unit=row.unit,
        since=row.since,
        last_seen=row.last_seen,
        labels=row.labels,
        details=row.details,
        replayed_by=row.replayed_by,
    )
