"""Silences and acknowledgements, in one table: the row of an acknowledgement has an alert."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from glob import escape
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from portmon.alerting.silences import (
    Acknowledgement,
    Silence,
    SilencedElsewhere,
    SilencesInForce,
    Withholding,
    parse_weekly,
    zone,
)
from portmon.matching import is_named
from portmon.storage import hosts as stored_hosts
from portmon.storage.sql import change_in, chunks, insert_rows, inserted_id, rows_in
from portmon.storage.tables import alerts, silenced_elsewhere, silences, told_acknowledgements


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
    """Add a silence; for its fields see :class:`portmon.alerting.silences.Silence`.

    :param starts_at: default: now
    :returns: its id
    :raises ValueError: if it matches nothing, never ends, ends before it begins, or has a wrong schedule
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
        "hosts": hosts,
        "labels": labels or {},
        "ports": ports,
        "programs": programs,
        "starts_at": begins,
        "ends_at": ends_at,
        "weekly": weekly,
        "timezone": timezone,
    }
    return _insert(conn, row, author, reason, now)


def acknowledge(
    conn: Connection, alert_id: str, *, author: str, now: datetime, reason: str = "", ends_at: datetime | None = None
) -> int:
    """Acknowledge an alert, in place of an earlier acknowledgement.

    :param ends_at: default: with the alert, see :func:`end_acknowledgements`
    :returns: the id of the acknowledgement
    """
    earlier = update(silences).where(silences.c.alert_id == alert_id, _in_force(now))
    conn.execute(earlier.values(lifted_at=now, lifted_by=author))
    return _insert(conn, {**_EMPTY, "alert_id": alert_id, "starts_at": now, "ends_at": ends_at}, author, reason, now)


def end_acknowledgements(conn: Connection, alert_ids: Collection[str], now: datetime) -> None:
    """End the acknowledgements of resolved alerts."""
    change_in(conn, update(silences).where(_in_force(now)).values(ends_at=now), silences.c.alert_id, alert_ids)


def lift(conn: Connection, silence_id: int, *, by: str, now: datetime) -> bool:
    """End a silence or an acknowledgement early; False if there is none of that id, or it is over."""
    lifted = update(silences).where(silences.c.id == silence_id, _in_force(now)).values(lifted_at=now, lifted_by=by)
    return bool(conn.execute(lifted).rowcount)


def take_over(conn: Connection, old: Collection[str], new_name: str, now: datetime) -> list[int]:
    """Let silences that name a host count for the host that took it over as well; silences by glob stay as they are.

    :param old: name and id of the host that was taken over
    :param new_name: of the other host
    :returns: ids of the silences
    """
    names, changed = {name.lower() for name in old}, []
    for one in current(conn, now):
        if not isinstance(one, Silence) or is_named(new_name, one.hosts):
            continue
        if any(glob.lower() in names for glob in one.hosts):
            hosts = [*one.hosts, escape(new_name)]
            conn.execute(update(silences).where(silences.c.id == one.id).values(hosts=hosts))
            changed.append(one.id)
    return changed


def current(conn: Connection, now: datetime) -> list[Withholding]:
    """Those that are not over, future ones included, oldest first."""
    return [_read(row) for row in conn.execute(select(silences).where(_in_force(now)).order_by(silences.c.id))]


def in_force(conn: Connection, now: datetime, host_ids: Collection[str] | None = None) -> SilencesInForce:
    """Silences and acknowledgements now, with the hosts that they are matched with: all of the CMDB, or some."""
    return SilencesInForce(current(conn, now), stored_hosts.listed(conn, host_ids), now)


def all_(conn: Connection) -> list[Withholding]:
    """Every one that is stored, oldest first."""
    return [_read(row) for row in conn.execute(select(silences).order_by(silences.c.id))]


def by_id(conn: Connection, silence_id: int) -> Withholding | None:
    """A silence or an acknowledgement, over or not; None if there is none of that id."""
    row = conn.execute(select(silences).where(silences.c.id == silence_id)).first()
    return None if row is None else _read(row)


def expire(conn: Connection, before: datetime) -> int:
    """Delete those that were over before a moment, and return how many."""
    over = or_(silences.c.ends_at < before, silences.c.lifted_at < before)
    return int(conn.execute(delete(silences).where(over)).rowcount)


# ── acknowledgements that channels are told of ──────────────────────────────────────────────────


def untold(conn: Connection, channel: str, now: datetime) -> dict[str, int]:
    """Open alert that is acknowledged: the newest acknowledgement of it, if the channel was not told of that one."""
    told = told_acknowledgements
    query = (
        select(silences.c.alert_id, silences.c.id, told.c.told_at)
        .join(alerts, and_(alerts.c.id == silences.c.alert_id, alerts.c.ends_at.is_(None)))
        .outerjoin(told, and_(told.c.silence_id == silences.c.id, told.c.channel == channel))
        .where(_in_force(now), silences.c.starts_at <= now)
        .order_by(silences.c.id)
    )
    newest = {row.alert_id: row for row in conn.execute(query)}
    return {alert_id: row.id for alert_id, row in newest.items() if row.told_at is None}


def told(conn: Connection, channel: str, silence_ids: Collection[int], now: datetime) -> None:
    """Note that a channel was told of acknowledgements."""
    rows = [{"silence_id": one, "channel": channel, "told_at": now} for one in silence_ids]
    insert_rows(conn, told_acknowledgements, rows)


# ── what receivers withhold ─────────────────────────────────────────────────────────────────────


def note_elsewhere(
    conn: Connection, channel: str, asked: Collection[str], found: Mapping[str, SilencedElsewhere]
) -> None:
    """Note what a receiver withholds.

    :param asked: ids of the alerts that it was asked about
    :param found: id of an alert: what withholds it
    """
    for part in chunks(sorted(asked)):
        own = and_(silenced_elsewhere.c.channel == channel, silenced_elsewhere.c.alert_id.in_(part))
        conn.execute(delete(silenced_elsewhere).where(own))
    rows = [
        {"alert_id": alert_id, "channel": channel, "told": one.told, "ends_at": one.ends_at}
        for alert_id, one in found.items()
    ]
    insert_rows(conn, silenced_elsewhere, rows)


def noted_elsewhere(conn: Connection, channel: str) -> dict[str, SilencedElsewhere]:
    """Id of an alert: what withholds it at a receiver, as it was noted last."""
    query = select(silenced_elsewhere).where(silenced_elsewhere.c.channel == channel)
    return {row.alert_id: SilencedElsewhere(row.told, row.ends_at) for row in conn.execute(query)}


def elsewhere(conn: Connection, alert_ids: Collection[str], now: datetime) -> dict[str, str]:
    """Id of an alert: what withholds it at its receivers, in words."""
    query = select(silenced_elsewhere).where(silenced_elsewhere.c.ends_at > now).order_by(silenced_elsewhere.c.channel)
    return {row.alert_id: row.told for row in rows_in(conn, query, silenced_elsewhere.c.alert_id, alert_ids)}


def _in_force(now: datetime) -> ColumnElement[bool]:
    """Neither lifted nor over; it may begin later."""
    return and_(silences.c.lifted_at.is_(None), or_(silences.c.ends_at.is_(None), silences.c.ends_at > now))


_EMPTY: Mapping[str, Any] = {"hosts": [], "labels": {}, "ports": [], "programs": [], "weekly": [], "timezone": "UTC"}
"""Columns that an acknowledgement leaves empty."""


def _insert(conn: Connection, row: Mapping[str, Any], author: str, reason: str, now: datetime) -> int:
    return inserted_id(conn, silences, {**row, "author": author, "reason": reason, "created_at": now})


def _read(row: Any) -> Withholding:
    both = ("id", "starts_at", "ends_at", "author", "reason", "created_at", "lifted_at", "lifted_by")
    common = {name: getattr(row, name) for name in both}
    if row.alert_id is not None:
        return Acknowledgement(alert_id=row.alert_id, **common)
    return Silence(
        hosts=tuple(row.hosts),
        labels={name: tuple(globs) for name, globs in row.labels.items()},
        ports=tuple((low, high) for low, high in row.ports),
        programs=tuple(row.programs),
        weekly=tuple(row.weekly),
        timezone=row.timezone,
        **common,
    )
