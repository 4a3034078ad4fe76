"""Open conditions of hosts and of the monitor, so that one episode makes one event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, or_, select

from portmon.engine.conditions import EVALUATED, MONITORED, RUNS, Condition, Open
from portmon.storage.sql import chunks, insert_new, upsert_rows
from portmon.storage.tables import conditions

FLEET = Condition.FLEET.key()
"""Most hosts fail at once."""
CLOCK_BACK = Condition.CLOCK.key()
"""The monitor's clock went back: what hosts are seen like now is older than what was evaluated."""
HOST_KEY = Condition.HOST_KEY.key()
"""Begins the name of the condition that a host shows another key, and that of its alert."""
FOREIGN = Condition.FOREIGN.key()
"""Begins the name of the condition that another machine answers at a host's address."""
UNSCANNED = Condition.UNSCANNED.key()
"""Begins the name of the condition that no run tries a host."""
UNREACHABLE = Condition.UNREACHABLE.key()
"""Begins the name of the condition that a host is unreachable, and a channel is to know it."""


def begin(conn: Connection, name: str, *, since: datetime) -> bool:
    """Open a condition; False if it was open before."""
    return bool(conn.execute(insert_new(conn, conditions), {"name": name, "since": since}).rowcount)


def end(conn: Connection, name: str) -> bool:
    """Close a condition; False if it was not open."""
    return bool(conn.execute(delete(conditions).where(conditions.c.name == name)).rowcount)


def of_host(name: str, host_id: str) -> str:
    """The name of a condition that each host has for itself."""
    return f"{name}/{host_id}"


def hosts_with(conn: Connection, name: str) -> set[str]:
    """Ids of the hosts that have an open condition, see :func:`of_host`."""
    prefix = of_host(name, "")
    query = select(conditions.c.name).where(conditions.c.name.startswith(prefix, autoescape=True))
    return {found[len(prefix) :] for found in conn.execute(query).scalars()}


def since(conn: Connection, name: str) -> datetime | None:
    """Since when a condition is open, None if it is not."""
    value: datetime | None = conn.execute(select(conditions.c.since).where(conditions.c.name == name)).scalar()
    return value


def evaluated() -> ColumnElement[bool]:
    """Conditions that only an evaluation changes: a replay brings them to what it comes to."""
    own = conditions.c.name.in_([RUNS, *(condition.key() for condition in MONITORED)])
    return or_(own, *(conditions.c.name.startswith(one.key(""), autoescape=True) for one in EVALUATED))


def load(conn: Connection) -> dict[str, Open]:
    """The open conditions that evaluations change, by their names."""
    rows = conn.execute(select(conditions).where(evaluated()))
    return {row.name: Open(row.since, row.details) for row in rows}


def save(conn: Connection, before: Mapping[str, Open], after: Mapping[str, Open]) -> None:
    """Write what an evaluation changed of the conditions that :func:`load` gave."""
    for part in chunks(sorted(before.keys() - after.keys())):
        conn.execute(delete(conditions).where(conditions.c.name.in_(part)))
    changed = {name: one for name, one in after.items() if before.get(name) != one}
    rows = [{"name": name, "since": one.since, "details": dict(one.details)} for name, one in changed.items()]
    upsert_rows(conn, conditions, rows)
