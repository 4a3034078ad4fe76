"""Events as they are derived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    Text,
    and_,
    delete,
    func,
    or_,
    select,
    type_coerce,
)

from portmon.model.alert import UNFINISHED
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind, Severity
from portmon.model.numbers import port_of, protocol_of
from portmon.storage.sql import insert_rows, rows_in, update_rows, upsert_rows
from portmon.storage.tables import alerts, as_json, deliveries, event_counts, events

FIELDS = tuple(field.name for field in fields(Event))
"""Columns that are fields of an event as well."""


def add(conn: Connection, new: Iterable[Event], *, step: int | None = None) -> None:
    """Store events and count them; those that are stored already stay as they are.

    :param step: of the journal that they follow from: a replay derives them again. None: no replay does
    """
    found = Counter(insert_rows(conn, events, [row_of(event, step) for event in new], returning=events.c.kind))
    upsert_rows(conn, event_counts, [{"kind": kind, "count": found[kind]} for kind in sorted(found)], add=["count"])


def counts(conn: Connection) -> dict[str, int]:
    """Kind: how many events of it runs ever made, for a counter that never falls.

    One that a replay took back stays counted. One that a replay found is not counted: it happened when no run saw it,
    and a rate would show it as of now.
    """
    return dict(map(tuple, conn.execute(select(event_counts))))


def kinds_of_run(conn: Connection, run_id: str) -> dict[str, int]:
    """Kind: how many events of it a run made."""
    query = select(events.c.kind, func.count()).where(events.c.run_id == run_id).group_by(events.c.kind)
    return dict(map(tuple, conn.execute(query)))


def undispatched(conn: Connection) -> list[Event]:
    """Events that have no deliveries yet, in the order in which they were derived."""
    return _found(conn, _valid().where(~events.c.dispatched).order_by(events.c.seq))


def dispatched(conn: Connection, alert_ids: Mapping[str, str]) -> None:
    """Note that events (event id: alert id) have their deliveries."""
    rows = [{"id": event_id, "alert_id": alert_id, "dispatched": True} for event_id, alert_id in alert_ids.items()]
    update_rows(conn, events, rows, key=["id"])


def by_ids(conn: Connection, event_ids: Iterable[str]) -> dict[str, Event]:
    """Event id: event."""
    return {row.id: event_of(row) for row in rows_in(conn, select(events), events.c.id, event_ids)}


def recent(conn: Connection, *, run_id: str | None = None, limit: int = 1000) -> list[Event]:
    """The newest events, of all runs or one, in the order in which they were derived."""
    query = _valid().order_by(events.c.seq.desc()).limit(limit)
    return _found(conn, query if run_id is None else query.where(events.c.run_id == run_id))[::-1]


def derived(conn: Connection, since: datetime, until: datetime, *, after: int, last: int) -> Iterator[Event]:
    """Events from ``since`` on and before ``until`` that follow from steps of the journal, after one, up to another."""
    query = _valid().where(events.c.at >= since, events.c.at < until, events.c.step > after, events.c.step <= last)
    return map(event_of, conn.execute(query.order_by(events.c.at, events.c.seq)))


def of_port(conn: Connection, host_id: str, number: int, *, kinds: Collection[EventKind]) -> list[Event]:
    """The events of one port in order, with the moves to it, and those of some kinds of its host and of the monitor.

    :param kinds: of events without a port
    """
    is_own = and_(events.c.protocol == protocol_of(number), events.c.port == port_of(number))
    own = and_(events.c.host_id == host_id, or_(is_own, events.c.kind == EventKind.MOVED))
    wide = and_(
        events.c.port.is_(None), or_(events.c.host_id == host_id, events.c.host_id.is_(None)), events.c.kind.in_(kinds)
    )
    found = _found(conn, _valid().where(or_(own, wide)).order_by(events.c.at, events.c.seq))
    return [event for event in found if event.number in (None, number) or event.details.get("to") == number]


def takeovers(conn: Connection, after: int) -> dict[str, tuple[int, str]]:
    """Host id: the newest note that another host took it over, by its place among all events, and that host's name.

    :param after: place of an event: of newer notes only
    """
    query = _valid().where(events.c.kind == EventKind.TAKEN_OVER, events.c.seq > after).order_by(events.c.seq)
    return {str(row.details.get("from")): (row.seq, row.host_name or "") for row in conn.execute(query)}


def of_host(conn: Connection, host_id: str, kinds: Collection[EventKind]) -> list[Event]:
    """The events of some kinds of a host itself, without those of its ports, in order."""
    own = _valid().where(events.c.host_id == host_id, events.c.port.is_(None), events.c.kind.in_(kinds))
    return _found(conn, own.order_by(events.c.at, events.c.seq))


def changes_of(conn: Connection, host_id: str, since: datetime, *, number: int | None = None) -> list[Event]:
    """The events of the ports of one host from a moment on, in order.

    :param number: of this port only
    """
    own = _valid().where(events.c.host_id == host_id, events.c.port.is_not(None), events.c.at >= since)
    if number is not None:
        own = own.where(events.c.protocol == protocol_of(number), events.c.port == port_of(number))
    return _found(conn, own.order_by(events.c.at, events.c.seq))


def expire(conn: Connection, before: datetime, *, most: int | None = None) -> int:
    """Delete events from before a moment, except those that wait for a channel, or whose alert was open then.

    :param most: so many; None: all of them
    :returns: how many
    """
    waiting = select(deliveries.c.event_id).where(deliveries.c.state.in_(UNFINISHED))
    kept = (
        select(alerts.c.id).where(or_(alerts.c.ends_at.is_(None), alerts.c.ends_at >= before)),
        select(events.c.alert_id).where(events.c.id.in_(waiting), events.c.alert_id.is_not(None)),
    )
    old = and_(
        events.c.at < before,
        events.c.dispatched,
        events.c.id.not_in(waiting),
        or_(events.c.alert_id.is_(None), and_(*(events.c.alert_id.not_in(ids) for ids in kept))),
    )
    if most is not None:
        old = events.c.seq.in_(select(events.c.seq).where(old).order_by(events.c.at).limit(most))
    return int(conn.execute(delete(events).where(old)).rowcount)


def of_row(kind: EventKind, name: str) -> ColumnElement[bool]:
    """Whether an event is of one row of a kind, as :meth:`EventKind.meaning` finds it."""
    terms: list[ColumnElement[bool]] = [events.c.kind == kind]
    for row in kind.usual.variants:
        # As the column has it: quotes within a text are escaped there.
        has = type_coerce(events.c.details, Text).contains(as_json(dict([row.when]))[1:-1], autoescape=True)
        if row.name == name:
            return and_(*terms, has)
        terms.append(~has)
    return and_(*terms)


def columns(table: FromClause = events) -> list[ColumnElement[Any]]:
    """The columns of an event, of the table or of an alias of it."""
    return [table.c[name] for name in FIELDS]


def event_from(values: Sequence[Any]) -> Event:
    """An event from the values of :func:`columns`."""
    given = dict(zip(FIELDS, values, strict=True))
    return Event(**given | {"kind": EventKind.stored(given["kind"]), "severity": Severity(given["severity"])})


def pair_from(values: Sequence[Any]) -> tuple[Event, Event]:
    """Two events from the values of both's :func:`columns`; without a second one, twice the first."""
    one, other = event_from(values[: len(FIELDS)]), values[len(FIELDS) :]
    return one, one if other[0] in (None, one.id) else event_from(other)


def event_of(row: Row[Any]) -> Event:
    """An event from a row of the table."""
    return event_from([getattr(row, name) for name in FIELDS])


def row_of(event: Event, step: int | None = None) -> dict[str, Any]:
    """A row of the table. A note ends no alert and is sent to no channel, so it counts as dispatched."""
    row = {name: getattr(event, name) for name in FIELDS}
    return row | {"alert_group": event.group, "dispatched": event.role is None, "step": step}


def _valid() -> Select[Any]:
    """Events without those that a replay retracted."""
    return select(events).where(events.c.retracted_by.is_(None))


def _found(conn: Connection, query: Select[Any]) -> list[Event]:
    return list(map(event_of, conn.execute(query)))
