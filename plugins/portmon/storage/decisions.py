"""Decisions of people: ports gone for good, promoted to declared, or ignored until a time; accepted machines; boots."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select

from portmon.model.numbers import number_of, port_of, protocol_of
from portmon.model.observation import PortKey
from portmon.storage.hosts import unsettle
from portmon.storage.sql import upsert_rows
from portmon.storage.tables import decisions


class DecisionKind(StrEnum):
    """Kinds of decisions."""

    ACCEPTED = "accepted"
    """A port that is down may stay so: it is not watched any more. The machine that answers for a host is its own."""
    PROMOTED = "promoted"
    """The port must listen from now on, as if the CMDB had declared it."""
    IGNORED = "ignored"
    """No listener of the port is watched until a time, whatever portmon.yaml says."""
    FORGOTTEN = "forgotten"
    """How long the port took after the boots of its host does not count any more, up to the boot of then."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A port that is ignored until a time."""

    host_id: str
    protocol: str
    port: int
    at: datetime
    author: str
    reason: str
    ends_at: datetime

    def __str__(self) -> str:
        who = f"{self.author}: {self.reason}" if self.reason else self.author
        return f"until {self.ends_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC by {who}"


def decide(
    conn: Connection,
    kind: DecisionKind,
    host_id: str,
    number: int,
    *,
    at: datetime,
    author: str,
    reason: str = "",
    ends_at: datetime | None = None,
    protocol: str | None = None,
) -> None:
    """Note a decision; a later one of the same kind replaces it.

    :param number: of a port, see :mod:`portmon.model.numbers`; with ``protocol`` as in
        :data:`portmon.engine.identities.ACCEPTED` for the machine of a host
    :param at: when; an acceptance counts for what was wrong by then
    :param ends_at: of :attr:`DecisionKind.IGNORED`
    """
    row = {"host_id": host_id, "protocol": protocol or protocol_of(number), "port": port_of(number), "kind": kind}
    upsert_rows(conn, decisions, [{**row, "at": at, "author": author, "reason": reason, "ends_at": ends_at}])
    unsettle(conn, [host_id])


def withdraw(conn: Connection, kind: DecisionKind, host_id: str, number: int) -> bool:
    """Take a decision about a port back; False if there was none."""
    where = (decisions.c.host_id == host_id, *_is(number), decisions.c.kind == kind)
    unsettle(conn, [host_id])
    return bool(conn.execute(delete(decisions).where(*where)).rowcount)


class Decided(NamedTuple):
    """The decisions in force.

    :param accepted: when ports were accepted as gone, and machines as those of their hosts
    :param promoted: who promoted ports, by host id and number of the port, and why
    :param ignored: until when ports are ignored, likewise, and by whom and why
    :param forgotten: when the boots of ports were forgotten
    """

    accepted: dict[PortKey, datetime]
    promoted: dict[tuple[str, int], str]
    ignored: dict[tuple[str, int], str]
    forgotten: dict[PortKey, datetime]


def in_force(conn: Connection, now: datetime, *, host_id: str | None = None) -> Decided:
    """The decisions that count at a time, about all hosts or one."""
    found = Decided({}, {}, {}, {})
    query = select(decisions).where(or_(decisions.c.ends_at.is_(None), decisions.c.ends_at > now))
    for row in conn.execute(query if host_id is None else query.where(decisions.c.host_id == host_id)):
        if row.kind == DecisionKind.ACCEPTED:
            found.accepted[row.host_id, row.protocol, row.port] = row.at
        elif row.kind == DecisionKind.PROMOTED:
            found.promoted[row.host_id, number_of(row.protocol, row.port)] = _who(row)
        elif row.kind == DecisionKind.FORGOTTEN:
            found.forgotten[row.host_id, row.protocol, row.port] = row.at
        else:
            found.ignored[row.host_id, number_of(row.protocol, row.port)] = str(_ignored(row))
    return found


def decision(conn: Connection, kind: DecisionKind, host_id: str, number: int) -> tuple[datetime, str] | None:
    """When it was decided of a port, or with number 0 of the machine of a host, and by whom and why."""
    where = (decisions.c.host_id == host_id, *_is(number), decisions.c.kind == kind)
    row = conn.execute(select(decisions.c.at, decisions.c.author, decisions.c.reason).where(*where)).first()
    return (row.at, _who(row)) if row else None


def newest_ignored(conn: Connection, now: datetime, *, limit: int, offset: int = 0) -> tuple[list[Ignored], int]:
    """Ports that are ignored, the latest decision first, and how many there are."""
    order = (decisions.c.at.desc(), decisions.c.host_id, decisions.c.port)
    where = (decisions.c.kind == DecisionKind.IGNORED, decisions.c.ends_at > now)
    rows = conn.execute(select(decisions).where(*where).order_by(*order).limit(limit).offset(offset))
    total = conn.execute(select(func.count()).select_from(decisions).where(*where)).scalar_one()
    return [_ignored(row) for row in rows], total


def expire(conn: Connection, before: datetime) -> int:
    """Delete what ended before a moment, and return how much that was."""
    return int(conn.execute(delete(decisions).where(decisions.c.ends_at < before)).rowcount)


def _is(number: int) -> tuple[ColumnElement[bool], ...]:
    if not number:
        return (decisions.c.port == 0,)
    return decisions.c.protocol == protocol_of(number), decisions.c.port == port_of(number)


def _ignored(row: Any) -> Ignored:
    return Ignored(row.host_id, row.protocol, row.port, row.at, row.author, row.reason, row.ends_at)


def _who(row: Any) -> str:
    return f"{row.author}: {row.reason}" if row.reason else str(row.author)
