"""What people look up: counts of the fleet, and searched, sorted and paged lists of hosts, ports and events."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Integer,
    Select,
    Table,
    Text,
    and_,
    case,
    cast,
    collate,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    type_coerce,
)

from portmon.matching import WILDCARDS, bind_scopes
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.numbers import BEYOND, TCP, TCP_ALONE, UDP, port_of
from portmon.model.observation import Outcome
from portmon.model.state import HostStatus, PortStatus
from portmon.storage import conditions
from portmon.storage.events import columns, event_from, of_row
from portmon.storage.hosts import OWNER_GONE
from portmon.storage.tables import events, hosts, journal, observations, ports, runs

FLAPPING, LOST, WITHOUT_OWNER, HIDDEN = "flapping", "lost", "owner_gone", "hidden"
FAILING, QUARANTINED = "failing", "quarantined"
"""What people call a state besides the stored ones."""
OF_CONDITIONS = {QUARANTINED: conditions.HOST_KEY, "foreign": conditions.FOREIGN, "unscanned": conditions.UNSCANNED}
"""What people call the state of a host with an open condition, and the name of that."""
REACHES = ("loopback", "addresses", "everywhere")
"""From where a port is reached: its host alone, some of its addresses, all of them."""
_WILDCARDS = (*WILDCARDS, "::ffff:0.0.0.0")
_LOOPBACKS = ('"127.', '"::1"', '"::ffff:127.')
MOST_COUNTED = 10_000
"""A list is counted up to so many: counting 300,000 ports takes longer than showing a hundred of them."""
_IN_CMDB = hosts.c.removed_at.is_(None)
_LISTED = ports.join(hosts, hosts.c.host_id == ports.c.host_id)


@dataclass(frozen=True, slots=True)
class HostFilter:
    """Which hosts.

    :param text: part of the name, the address or the id
    :param labels: name to value, all of which must be equal
    :param state: a :class:`~portmon.model.state.HostStatus`, ``failing``, ``flapping`` or one of
        :data:`OF_CONDITIONS`
    """

    text: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    state: str = ""


@dataclass(frozen=True, slots=True)
class PortFilter:
    """Which ports; host and labels as of :class:`HostFilter`.

    :param host_id: of this host only
    :param numbers: ranges of ports, see :func:`portmon.matching.in_ranges`
    :param program: part of the name of a program, and ``unit`` of a unit
    :param reach: one of :data:`REACHES`
    :param state: a :class:`~portmon.model.state.PortStatus`, ``flapping``, ``lost`` or ``owner_gone``, of those
        that are watched, or ``hidden``: no rule watches it any more
    """

    host: str = ""
    host_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[tuple[int, int], ...] = ()
    program: str = ""
    unit: str = ""
    reach: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events.

    :param row: name of the row of the catalogue that events of the kind must have; empty: any
    :param host_id: of this host only
    :param numbers: ranges of ports, see :func:`portmon.matching.in_ranges`
    :param since: from then on
    :param until: before then
    """

    kind: EventKind | None = None
    row: str = ""
    host_id: str = ""
    numbers: tuple[tuple[int, int], ...] = ()
    since: datetime | None = None
    until: datetime | None = None


def last_step(conn: Connection) -> int:
    """Number of the newest step of the journal: as long as it is the same, so are all states."""
    return conn.execute(select(func.max(journal.c.seq))).scalar() or 0


def newest_event(conn: Connection) -> int:
    """Number of the newest event, 0 without any."""
    return conn.execute(select(func.max(events.c.seq))).scalar() or 0


def count_since(conn: Connection, seq: int, most: int = 1000) -> int:
    """How many events are newer than one, counted up to ``most``."""
    newer = select(events.c.seq).where(events.c.seq > seq, events.c.retracted_by.is_(None)).limit(most).subquery()
    return int(conn.execute(select(func.count()).select_from(newer)).scalar() or 0)


def host_counts(conn: Connection) -> dict[str, int]:
    """State: number of hosts of the CMDB; ``failing`` ones are counted besides their state."""
    query = select(hosts.c.status, func.count(), func.sum(_as_int(hosts.c.failures > 0))).where(_IN_CMDB)
    found = conn.execute(query.group_by(hosts.c.status)).all()
    counts = {status.value: 0 for status in HostStatus} | {row[0]: row[1] for row in found}
    quarantined = conditions.hosts_with(conn, conditions.HOST_KEY)
    return counts | {FAILING: sum(row[2] for row in found), QUARANTINED: len(quarantined)}


_FLAPPING_SINCE = func.coalesce(ports.c.flapping_since, ports.c.bind_flapping_since)
_IS_WATCHED = ports.c.hidden_since.is_(None)


def port_counts(conn: Connection) -> dict[str, int]:
    """State: number of watched ports of hosts of the CMDB; flapping ones are counted besides their state."""
    query = select(ports.c.status, func.count(), func.count(_FLAPPING_SINCE)).select_from(_LISTED)
    found = conn.execute(query.where(_IN_CMDB, _IS_WATCHED).group_by(ports.c.status)).all()
    counts = {status.value: 0 for status in PortStatus} | {row[0]: row[1] for row in found}
    return counts | {FLAPPING: sum(row[2] for row in found)}


def host_series(conn: Connection, most: int) -> list[tuple[str, str, str]]:
    """Id, name and state of the first hosts of the CMDB in the order of their ids."""
    query = select(hosts.c.host_id, hosts.c.name, hosts.c.status).where(_IN_CMDB).order_by(hosts.c.host_id)
    return [tuple(row) for row in conn.execute(query.limit(most))]


def port_series(conn: Connection, most: int) -> list[tuple[str, str, str, int, str]]:
    """Host's id and name, protocol, number and state of the first watched ports in the order of their hosts' ids."""
    names = (ports.c.host_id, hosts.c.name, ports.c.protocol, ports.c.port, ports.c.status)
    query = select(*names).select_from(_LISTED).where(_IN_CMDB, _IS_WATCHED)
    query = query.order_by(ports.c.host_id, ports.c.protocol, ports.c.port)
    return [tuple(row) for row in conn.execute(query.limit(most))]


def count_events(conn: Connection, since: datetime) -> dict[tuple[str, datetime], int]:
    """(kind, hour): number of events from a moment on."""
    if conn.dialect.name == "postgresql":
        hour: Any = func.date_trunc("hour", events.c.at, "UTC", type_=events.c.at.type)
    else:
        hour = func.strftime("%Y-%m-%d %H:00:00.000000", events.c.at, type_=events.c.at.type)
    query = select(events.c.kind, hour, func.count()).where(events.c.at >= since, events.c.retracted_by.is_(None))
    return {(kind, at): count for kind, at, count in conn.execute(query.group_by(events.c.kind, hour))}


# ── hosts ───────────────────────────────────────────────────────────────────────────────────────

_HOST_SORTS = {
    "name": (hosts.c.name, hosts.c.host_id),
    "state": (hosts.c.status.desc(), hosts.c.failures.desc(), hosts.c.name),
    "evidence": (hosts.c.last_ok_at, hosts.c.name),
}


def find_hosts(
    conn: Connection, wanted: HostFilter, *, sort: str = "name", limit: int, offset: int = 0
) -> tuple[list[Mapping[str, Any]], int]:
    """Rows of ``hosts``, and how many there are in all, see :data:`MOST_COUNTED`."""
    where = and_(_IN_CMDB, *_host_terms(conn, wanted))
    found = conn.execute(select(hosts).where(where).order_by(*_HOST_SORTS[sort]).limit(limit).offset(offset))
    rows: list[Mapping[str, Any]] = [dict(row._mapping) for row in found]
    return rows, _total(conn, select(hosts.c.host_id).where(where), rows, limit, offset)


def each_host(conn: Connection, wanted: HostFilter) -> Iterator[Mapping[str, Any]]:
    """The same rows, all of them by name; they are read as they are asked for."""
    query = select(hosts).where(_IN_CMDB, *_host_terms(conn, wanted)).order_by(*_HOST_SORTS["name"])
    return (dict(row._mapping) for row in _stream(conn, query))


def neighbours(conn: Connection, wanted: HostFilter, name: str, host_id: str) -> tuple[str | None, str | None]:
    """Ids of the hosts before and after one, by name, among those of a filter."""
    where = and_(_IN_CMDB, *_host_terms(conn, wanted))
    before = or_(hosts.c.name < name, and_(hosts.c.name == name, hosts.c.host_id < host_id))
    after = or_(hosts.c.name > name, and_(hosts.c.name == name, hosts.c.host_id > host_id))
    own = select(hosts.c.host_id).where(where)
    previous = own.where(before).order_by(hosts.c.name.desc(), hosts.c.host_id.desc()).limit(1)
    following = own.where(after).order_by(hosts.c.name, hosts.c.host_id).limit(1)
    return conn.execute(previous).scalar(), conn.execute(following).scalar()


def host_row(conn: Connection, host_id: str) -> Mapping[str, Any] | None:
    """The row of one host, whether the CMDB has it still or not."""
    row = conn.execute(select(hosts).where(hosts.c.host_id == host_id)).first()
    return None if row is None else dict(row._mapping)


def label_values(conn: Connection, most: int = 50) -> dict[str, list[str]]:
    """Label: its values in the CMDB, in order; without labels of more than ``most`` values, which group nothing."""
    found: dict[str, set[str]] = {}
    for labels in conn.execute(select(hosts.c.labels).where(_IN_CMDB).distinct()).scalars():
        for name, value in labels.items():
            found.setdefault(name, set()).add(value)
    return {name: sorted(found[name]) for name in sorted(found) if len(found[name]) <= most}


# ── ports ───────────────────────────────────────────────────────────────────────────────────────

_PORT_SORTS = {
    "host": (hosts.c.name, ports.c.host_id, ports.c.port),
    "port": (ports.c.port, hosts.c.name, ports.c.host_id),
    "state": (ports.c.status_since.desc(), hosts.c.name, ports.c.port),
}
_OF_PORT = select(
    ports, hosts.c.name.label("host_name"), hosts.c.status.label("host_status"), hosts.c.labels.label("labels")
).select_from(_LISTED)


def find_ports(
    conn: Connection, wanted: PortFilter, *, sort: str = "host", limit: int, offset: int = 0
) -> tuple[list[Mapping[str, Any]], int]:
    """Rows of ``ports`` with ``host_name``, ``host_status`` and ``labels``; and how many there are in all, see
    :data:`MOST_COUNTED`.
    """
    where = and_(_IN_CMDB, *_port_terms(conn, wanted))
    found = conn.execute(_OF_PORT.where(where).order_by(*_PORT_SORTS[sort]).limit(limit).offset(offset))
    rows: list[Mapping[str, Any]] = [dict(row._mapping) for row in found]
    return rows, _total(conn, select(ports.c.port).select_from(_LISTED).where(where), rows, limit, offset)


def each_port(conn: Connection, wanted: PortFilter) -> Iterator[Mapping[str, Any]]:
    """The same rows, all of them by host; they are read as they are asked for."""
    query = _OF_PORT.where(_IN_CMDB, *_port_terms(conn, wanted)).order_by(*_PORT_SORTS["host"])
    return (dict(row._mapping) for row in _stream(conn, query))


def group_ports(
    conn: Connection, wanted: PortFilter, by: str, *, limit: int, offset: int = 0
) -> tuple[list[tuple[Any, int, int, int]], int]:
    """Units (lists of names) or numbers of ports (:mod:`portmon.model.numbers`), each with how many hosts and ports,
    and ports that are down, it has; and how many there are in all.
    """
    number = ports.c.port + case((ports.c.protocol == UDP, BEYOND), else_=0)
    column = ports.c.units if by == "unit" else number
    where = and_(_IN_CMDB, *_port_terms(conn, wanted))
    of_host = (
        select(
            column.label("of"),
            ports.c.host_id,
            func.count().label("ports"),
            func.sum(_as_int(and_(ports.c.status == PortStatus.DOWN, _IS_WATCHED))).label("down"),
        )
        .select_from(_LISTED)
        .where(where)
        .group_by(column, ports.c.host_id)
        .subquery()
    )
    # In two steps: counting distinct hosts sorts all ports.
    whole = func.sum(of_host.c.ports)
    counted = select(
        of_host.c.of, func.count(), cast(whole, Integer), cast(func.sum(of_host.c.down), Integer)
    ).group_by(of_host.c.of)
    found = conn.execute(counted.order_by(whole.desc(), of_host.c.of).limit(limit).offset(offset)).all()
    return [tuple(row) for row in found], _total(conn, counted, found, limit, offset)


# ── events, runs, evidence ──────────────────────────────────────────────────────────────────────


def find_events(
    conn: Connection, wanted: EventFilter, *, limit: int, before: int | None = None
) -> list[tuple[int, Event]]:
    """Events with their numbers, newest first.

    :param before: older ones than the event of this number
    """
    found = conn.execute(_events(wanted, before).limit(limit))
    return [(row[0], event_from(row[1:])) for row in found]


def each_event(conn: Connection, wanted: EventFilter) -> Iterator[Event]:
    """The same events, all of them; they are read as they are asked for."""
    return (event_from(row[1:]) for row in _stream(conn, _events(wanted, None)))


def _events(wanted: EventFilter, before: int | None) -> Select[Any]:
    terms: list[ColumnElement[bool]] = [events.c.retracted_by.is_(None)]
    if wanted.kind is not None:
        terms.append(of_row(wanted.kind, wanted.row) if wanted.row else events.c.kind == wanted.kind)
    if wanted.host_id:
        terms.append(events.c.host_id == wanted.host_id)
    if wanted.numbers:
        terms.append(_has_number(events, wanted.numbers))
    if wanted.since is not None:
        terms.append(events.c.at >= wanted.since)
    if wanted.until is not None:
        terms.append(events.c.at < wanted.until)
    if before is not None:
        edge = select(events.c.at).where(events.c.seq == before).scalar_subquery()
        terms.append(or_(events.c.at < edge, and_(events.c.at == edge, events.c.seq < before)))
    return select(events.c.seq, *columns()).where(*terms).order_by(events.c.at.desc(), events.c.seq.desc())


def visits(conn: Connection, host_id: str, since: datetime, until: datetime) -> list[tuple[datetime, bool]]:
    """When a host was visited, in order, and whether that gave evidence."""
    seen = observations.c
    query = (
        select(seen.observed_at, seen.outcome, seen.run_id, seen.provisional)
        .where(seen.host_id == host_id, seen.observed_at >= since, seen.observed_at < until, seen.live)
        .order_by(seen.observed_at)
    )
    rows = conn.execute(query).all()
    # A provisional visit counts only if no other one of its run follows.
    last = {row.run_id: row.observed_at for row in rows}
    return [
        (row.observed_at, row.outcome == Outcome.OK)
        for row in rows
        if not row.provisional or last[row.run_id] == row.observed_at
    ]


def find_runs(conn: Connection, *, limit: int, before: datetime | None = None) -> list[Mapping[str, Any]]:
    """Runs, newest first, as rows without their host list and settings."""
    names = ("run_id", "run_type", "logical_date", "started_at", "finished_at", "scope", "inventory_stale", "summary")
    query = select(*(runs.c[name] for name in names)).order_by(runs.c.started_at.desc()).limit(limit)
    if before is not None:
        query = query.where(runs.c.started_at < before)
    return [dict(row._mapping) for row in conn.execute(query)]


def failure_counts(conn: Connection, run_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """Run id: error class: number of hosts that gave no evidence."""
    what = func.coalesce(observations.c.error_class, observations.c.outcome)
    # Written out as in its index, which has the few rows of failures: SQLite takes no parameter for a part of it.
    failed = observations.c.outcome != literal_column("'ok'")
    query = select(observations.c.run_id, what, func.count()).where(failed, observations.c.run_id.in_(run_ids))
    found: dict[str, dict[str, int]] = {}
    for run_id, name, count in conn.execute(query.group_by(observations.c.run_id, what)):
        found.setdefault(run_id, {})[name] = count
    return found


# ── terms ───────────────────────────────────────────────────────────────────────────────────────


def _host_terms(conn: Connection, wanted: HostFilter) -> list[ColumnElement[bool]]:
    terms = _label_terms(wanted.labels)
    if wanted.text:
        named = (hosts.c.name, hosts.c.address, hosts.c.host_id)
        terms.append(or_(*(column.icontains(wanted.text, autoescape=True) for column in named)))
    if wanted.state == FAILING:
        terms.append(hosts.c.failures > 0)
    elif wanted.state == FLAPPING:
        terms.append(hosts.c.flapping_since.is_not(None))
    elif wanted.state in OF_CONDITIONS:
        terms.append(hosts.c.host_id.in_(conditions.hosts_with(conn, OF_CONDITIONS[wanted.state])))
    elif wanted.state:
        terms.append(hosts.c.status == wanted.state)
    return terms


def _has_number(table: Table, ranges: Iterable[tuple[int, int]]) -> ColumnElement[bool]:
    """Whether the port of a row is in one of some ranges, see :func:`portmon.matching.in_ranges`."""
    terms = []
    for low, high in ranges:
        within = table.c.port.between(port_of(low), port_of(high))
        protocol = None if high < BEYOND else UDP if high < TCP_ALONE else TCP
        terms.append(within if protocol is None else and_(table.c.protocol == protocol, within))
    return or_(false(), *terms)


def _port_terms(conn: Connection, wanted: PortFilter) -> list[ColumnElement[bool]]:
    terms = _label_terms(wanted.labels)
    if wanted.host:
        terms.append(
            or_(*(column.icontains(wanted.host, autoescape=True) for column in (hosts.c.name, hosts.c.host_id)))
        )
    if wanted.host_id:
        terms.append(ports.c.host_id == wanted.host_id)
    if wanted.numbers:
        terms.append(_has_number(ports, wanted.numbers))
    for text, column in ((wanted.program, ports.c.programs), (wanted.unit, ports.c.units)):
        if text:
            # Stored as a list in ASCII JSON, which needs no locale: with one PostgreSQL takes twice as long.
            stored: ColumnElement[str] = type_coerce(column, Text)
            stored = collate(stored, "C") if conn.dialect.name == "postgresql" else stored
            terms.append(func.lower(stored).contains(json.dumps(text)[1:-1].lower(), autoescape=True))
    if wanted.reach:
        terms.append(_reach_term(wanted.reach))
    if wanted.state:
        terms.append(_IS_WATCHED if wanted.state != HIDDEN else not_(_IS_WATCHED))
    if wanted.state == FLAPPING:
        terms.append(_FLAPPING_SINCE.is_not(None))
    elif wanted.state == LOST:
        terms.append(type_coerce(ports.c.lost, Text) != "[]")
    elif wanted.state == WITHOUT_OWNER:
        terms.append(OWNER_GONE)
    elif wanted.state and wanted.state != HIDDEN:
        terms.append(ports.c.status == wanted.state)
    return terms


def _label_terms(labels: Mapping[str, str]) -> list[ColumnElement[bool]]:
    # Within JSON text the quotes of any value are escaped, so that only a pair itself matches.
    stored = type_coerce(hosts.c.labels, Text)
    return [
        stored.contains(f"{json.dumps(name)}:{json.dumps(value)}", autoescape=True) for name, value in labels.items()
    ]


def _reach_term(reach: str) -> ColumnElement[bool]:
    """What :func:`reach_of` says, of the list as it is stored."""
    stored = type_coerce(ports.c.addresses, Text)
    everywhere = or_(*(stored.contains(f'"{address}"', autoescape=True) for address in _WILDCARDS))
    left: ColumnElement[str] = stored
    for begin in _LOOPBACKS:
        left = func.replace(left, begin, "~")
    others = or_(left.contains('["'), left.contains(',"'))
    if reach == "everywhere":
        return everywhere
    if reach == "loopback":
        return and_(not_(everywhere), not_(others), stored != "[]")
    return and_(not_(everywhere), others)


def reach_of(addresses: Sequence[str]) -> str:
    """From where a port is reached, one of :data:`REACHES`; empty without any bind address."""
    kinds = {bind_scopes(address)[0] for address in addresses}
    if not kinds:
        return ""
    return "everywhere" if "wildcard" in kinds else "loopback" if kinds == {"loopback"} else "addresses"


def _as_int(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return case((condition, 1), else_=0)


def _stream(conn: Connection, query: Select[Any]) -> CursorResult[Any]:
    """Rows in the memory of a thousand of them: PostgreSQL's driver would otherwise take all of them at once."""
    return conn.execute(query, execution_options={"stream_results": True, "yield_per": 1000})


def _total(conn: Connection, query: Select[Any], rows: Sequence[Any], limit: int, offset: int) -> int:
    """How many rows a query has, counted up to :data:`MOST_COUNTED`; a page that is not full says so by itself."""
    if len(rows) < limit and (rows or not offset):
        return offset + len(rows)
    counted = select(func.count()).select_from(query.limit(MOST_COUNTED + 1).subquery())
    return max(int(conn.execute(counted).scalar() or 0), offset + len(rows))
