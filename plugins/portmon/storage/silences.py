"""What nobody is to be told of, and what somebody acknowledged. Texts of people are stored as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, or_, select, update

from portmon.alerting.silences import Silence, parse_weekly, zone
from portmon.storage.sql import chunks
from portmon.storage.tables import silences


def add(
    conn: Connection,
    *,
    author: str,
    reason: str,
    now: datetime,
    hosts: Sequence[str] = (),
    labels: Mapping[str, Sequence[str]] | None = None,
    ports: Sequence[tuple[int, int]] = (),
    programs: Sequence[str] = (),
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    weekly: Sequence[str] = (),
    timezone: str = "UTC",
) -> int:
    """Note a silence; for its fields see :class:`portmon.alerting.silences.Silence`.

    :param starts_at: default: now
    :returns: its id
    :raises ValueError: if it is about nothing, never ends, is over before it begins, or has a wrong schedule
    """
    if not (hosts or labels or ports or programs):
        raise ValueError("a silence needs a host, a label, a port or a program; host '*' is everything")
    begins = starts_at or now
    if ends_at is None and not weekly:
        raise ValueError("a silence needs an end or a weekly schedule")
    if ends_at is not None and ends_at <= begins:
        raise ValueError("a silence must end after it begins")
    zone(timezone)
    for text in weekly:
        parse_weekly(text)
    row = {
        "hosts": list(hosts),
        "labels": {name: list(globs) for name, globs in (labels or {}).items()},
        "ports": [list(pair) for pair in ports],
        "programs": list(programs),
        "starts_at": begins,
        "ends_at": ends_at,
        "weekly": list(weekly),
        "timezone": timezone,
    }
    return _insert(conn, row, author, reason, now)


def acknowledge(
    conn: Connection, alert_id: str, *, author: str, now: datetime, reason: str = "", ends_at: datetime | None = None
) -> int:
    """Note that somebody takes care of an alert; it replaces an earlier acknowledgement.

    :param ends_at: default: with the alert, see :func:`end_acknowledgements`
    :returns: its id
    """
    conn.execute(
        update(silences).where(silences.c.alert_id == alert_id, _in_force(now)).values(lifted_at=now, lifted_by=author)
    )
    row = {
        "alert_id": alert_id,
        "hosts": [],
        "labels": {},
        "ports": [],
        "programs": [],
        "starts_at": now,
        "ends_at": ends_at,
        "weekly": [],
        "timezone": "UTC",
    }
    return _insert(conn, row, author, reason, now)


def end_acknowledgements(conn: Connection, alert_ids: Collection[str], now: datetime) -> None:
    """Acknowledgements of alerts that are over are over."""
    for part in chunks(sorted(alert_ids)):
        conn.execute(update(silences).where(silences.c.alert_id.in_(part), _in_force(now)).values(ends_at=now))


def lift(conn: Connection, silence_id: int, *, by: str, now: datetime) -> bool:
    """End a silence or an acknowledgement before its time.

    :returns: False if there is none of that id, or it is over
    """
    lifted = update(silences).where(silences.c.id == silence_id, _in_force(now)).values(lifted_at=now, lifted_by=by)
    return bool(conn.execute(lifted).rowcount)


def current(conn: Connection, now: datetime) -> list[Silence]:
    """Those that are not over, future ones included, oldest first."""
    query = select(silences).where(_in_force(now)).order_by(silences.c.id)
    return [_silence(row) for row in conn.execute(query)]


def all_(conn: Connection) -> list[Silence]:
    """Every one that is stored, oldest first."""
    return [_silence(row) for row in conn.execute(select(silences).order_by(silences.c.id))]


def expire(conn: Connection, before: datetime) -> int:
    """Delete what was over before a moment.

    :returns: how many
    """
    gone = delete(silences).where(or_(silences.c.ends_at < before, silences.c.lifted_at < before))
    return int(conn.execute(gone).rowcount)


def _in_force(now: datetime) -> ColumnElement[bool]:
    """Neither lifted nor over; it may be yet to begin."""
    return and_(silences.c.lifted_at.is_(None), or_(silences.c.ends_at.is_(None), silences.c.ends_at > now))


def _insert(conn: Connection, row: Mapping[str, Any], author: str, reason: str, now: datetime) -> int:
    made = conn.execute(insert(silences).values(**row, author=author, reason=reason, created_at=now))
    (silence_id,) = made.inserted_primary_key or (0,)
    return int(silence_id)


def _silence(row: Any) -> Silence:
    return Silence(
        id=row.id,
        alert_id=row.alert_id,
        hosts=tuple(row.hosts),
        labels={name: tuple(globs) for name, globs in row.labels.items()},
        ports=tuple((low, high) for low, high in row.ports),
        programs=tuple(row.programs),
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        weekly=tuple(row.weekly),
        timezone=row.timezone,
        author=row.author,
        reason=row.reason,
        created_at=row.created_at,
        lifted_at=row.lifted_at,
        lifted_by=row.lifted_by,
    )
