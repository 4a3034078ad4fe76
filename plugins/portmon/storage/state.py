"""State of hosts and ports, as :mod:`portmon.engine.evaluate` takes it. Loads pandas."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import repeat
from types import NoneType
from typing import Any, get_args, get_type_hints

import pandas as pd
from sqlalchemy import Column, Connection, Dialect, Table, Text, TypeDecorator, or_, select, type_coerce, update
from sqlalchemy.types import NULLTYPE

from portmon.engine import clocks
from portmon.engine.evaluate import Verdict
from portmon.engine.frames import PARTS, PORT_COLUMNS, PRESENCE, frame, ports_of, row_of
from portmon.engine.leaving import Left
from portmon.engine.lifecycle import NONE, Changes
from portmon.engine.machines import Kept
from portmon.engine.owners import PortOwner
from portmon.engine.state import HostState, Port, YoungOwner
from portmon.model.event_kinds import EventKind
from portmon.model.observation import PortKey
from portmon.storage import conditions, deliveries, events, silences
from portmon.storage.hosts import owner_of, tuple_of
from portmon.storage.sql import ROWS, change_in, chunks, delete_rows, rows_in, update_rows, upsert_rows
from portmon.storage.tables import UtcDateTime, hosts, observations, ports

LISTENING = "listening"
TICKING = ("host_id", "last_evaluated_at", "last_ok_at", "evidence", "tried", "tried_at")
"""Columns of a host that change in a quiet run."""


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def load(conn: Connection, host_ids: Collection[str] | None = None) -> tuple[dict[str, HostState], pd.DataFrame]:
    """Stored state of hosts and ports, by host id and as a frame with PORT_COLUMNS."""
    return load_hosts(conn, host_ids), load_ports(conn, host_ids)


def load_ports(conn: Connection, host_ids: Collection[str] | None = None) -> pd.DataFrame:
    """Stored state of ports, of all hosts or some."""
    return frame(_read(conn, ports, list(PORT_COLUMNS), host_ids), PORT_COLUMNS)


def load_hosts(
    conn: Connection, host_ids: Collection[str] | None = None, *, light: bool = False
) -> dict[str, HostState]:
    """Stored state of all hosts or some; ``light`` leaves out their listeners, see :func:`listening`."""
    data = _read(conn, hosts, [name for name in _HOST_COLUMNS if not light or name != LISTENING], host_ids)
    data["presence"] = [Changes(*parts) if parts[0] else NONE for parts in zip(*map(data.get, PRESENCE), strict=True)]
    # By place, since a fleet has many hosts. Columns that are left out are None in every row.
    fields = (data.get(name, repeat(None)) for name in _HOST_FIELDS)
    return {host.host_id: host for host in map(HostState, *fields)}


def listening(conn: Connection, host_ids: Collection[str]) -> dict[str, tuple[str, ...] | None]:
    """Host id: its listeners in its last ok observation."""
    data = _read(conn, hosts, ["host_id", LISTENING], host_ids)
    return dict(zip(data["host_id"], data[LISTENING], strict=True))


def _read(
    conn: Connection, table: Table, names: Sequence[str], host_ids: Collection[str] | None
) -> dict[str, Sequence[Any]]:
    # Values come as the database has them: most are among a few of their column, each of which is read once.
    columns = [table.c[name] for name in names]
    readers = [_reader(column, conn.dialect) for column in columns]
    wanted = (type_coerce(column, NULLTYPE) if read else column for column, read in zip(columns, readers, strict=True))
    rows = list(rows_in(conn, select(*wanted), table.c.host_id, host_ids))
    stored = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {name: _made(values, read) for name, values, read in zip(names, stored, readers, strict=True)}


def _reader(column: Column[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """What makes a value of the state from what the database has; None if that is the same."""
    if column.name in _LISTS:
        return _LISTS[column.name]
    if not isinstance(column.type, TypeDecorator):
        return None
    return column.type.dialect_impl(dialect).result_processor(dialect, None)


def _made(stored: Sequence[Any], read: Callable[[Any], Any] | None) -> Sequence[Any]:
    return list(map({value: read(value) for value in set(stored)}.__getitem__, stored)) if read else stored


def _listening(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(json.loads(text))


def _times(text: str) -> tuple[datetime, ...]:
    return tuple(map(datetime.fromisoformat, json.loads(text)))


def _unwatched(text: str) -> tuple[tuple[str, datetime], ...]:
    return tuple((address, datetime.fromisoformat(since)) for address, since in json.loads(text))


def _notices(text: str) -> tuple[tuple[str, float], ...]:
    return tuple((kind, clock) for kind, clock in json.loads(text))


def _parts(text: str) -> tuple[tuple[str, Changes], ...]:
    return tuple((name, _revived(Changes, changes)) for name, changes in json.loads(text))


def _owners(text: str) -> tuple[PortOwner, ...]:
    return tuple(map(owner_of, json.loads(text)))


def _young(text: str) -> tuple[YoungOwner, ...]:
    return tuple(_revived(YoungOwner, owner) for owner in json.loads(text))


def _kept(text: str | None) -> Kept | None:
    if text is None:
        return None
    value = json.loads(text)
    own = tuple(_revived(Port, port) for port in value["ports"])
    return Kept(_revived(HostState, value["host"]), own, value["clock"])


_SETS = (
    *("addresses", "programs", "pids", "uids", "units", "comms", "inodes", "lost", "late", "changes"),
    *("many", "restarts", "boots"),
)
_LISTS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_SETS, tuple_of),
    LISTENING: _listening,
    "told": _times,
    "unwatched": _unwatched,
    "notices": _notices,
    PARTS[0]: _parts,
    "owners": _owners,
    "holders": _owners,
    "young": _young,
    "kept": _kept,
}
_TIMED = ("told", "unwatched", "owners", "holders", PARTS[0])
"""Lists of a port that hold times, not only plain values."""
_HOST_FIELDS = [field.name for field in dataclasses.fields(HostState)]
_HOST_COLUMNS = [column for name in _HOST_FIELDS for column in (PRESENCE if name == "presence" else (name,))]


def _row_of_host(host: HostState) -> dict[str, Any]:
    parts = (host.presence.recent, host.presence.flapping_since, host.presence.at)
    row = {name: getattr(host, name) for name in _HOST_FIELDS if name != "presence"}
    row |= dict(zip(PRESENCE, parts, strict=True))
    return row | {name: plain(row[name]) for name in ("told", "young", "kept")}


# ── state from before a reboot ────────────────────────────────────────────────────────────────────


_PARTS = (Changes, PortOwner, YoungOwner)
"""Dataclasses within those of the state."""


def plain(value: Any) -> Any:
    """A dataclass of the state as JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, tuple) else value


def _revived(cls: Any, value: Mapping[str, Any]) -> Any:
    """The inverse of :func:`plain`. Fields of later versions have their defaults."""
    hints = _hints(cls)
    return cls(**{name: _field(hints[name], one) for name, one in value.items() if name in hints})


def _field(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if NoneType in get_args(hint):
        hint = get_args(hint)[0]
    if hint in _PARTS:
        return _revived(hint, value)
    if hint is datetime:
        return datetime.fromisoformat(value)
    if isinstance(value, list):
        hints = get_args(hint) or (Any, ...)
        # An ellipsis stands for any number of the same.
        each = repeat(hints[0]) if hints[-1] is ... else hints
        return tuple(map(_field, each, value))
    return value


@lru_cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, localns={"Kept": Kept})


# ── writing ─────────────────────────────────────────────────────────────────────────────────────


def save(conn: Connection, verdict: Verdict, *, before: Mapping[str, Any], now: datetime, step: int | None) -> None:
    """Write what an evaluation changed, in the caller's transaction; ports are written already.

    :param before: the conditions that were open before
    :param step: of the journal
    """
    _take_over(conn, verdict, now)
    upsert_rows(conn, hosts, list(map(_row_of_host, verdict.hosts)), keep=[LISTENING])
    update_rows(conn, hosts, [{name: getattr(host, name) for name in TICKING} for host in verdict.ticked])
    save_ports(conn, verdict.ports, verdict.dropped)
    conditions.save(conn, before, verdict.conditions)
    unwatched = [event for event in verdict.events if event.kind is EventKind.UNWATCHED]
    keys = [(event.host_id or "", event.protocol or "", event.port or 0) for event in unwatched]
    deliveries.cancel_ports(conn, keys, reason="the port is not watched any more", now=now)
    events.add(conn, verdict.events, step=step)


def save_left(conn: Connection, left: Left, *, before: Mapping[str, Any], step: int | None) -> None:
    """Write what changed when hosts left, in the caller's transaction."""
    upsert_rows(conn, hosts, list(map(_row_of_host, left.hosts)), keep=[LISTENING])
    save_ports(conn, left.ports, ())
    conditions.save(conn, before, left.conditions)
    events.add(conn, left.events, step=step)


def save_ports(conn: Connection, changed: Iterable[Port], dropped: Sequence[PortKey]) -> None:
    """Write what an evaluation changed of ports."""
    # The number of ports has no bound: their rows are not all made at once.
    for part in chunks(list(changed), ROWS):
        upsert_rows(conn, ports, [(row := row_of(port)) | plain({name: row[name] for name in _TIMED}) for port in part])
    delete_rows(conn, ports, dropped)


def mend(conn: Connection, at: datetime) -> None:
    """Put a moment in place of every later time of ports, and of hosts that left, which a wrong clock wrote.

    Hosts that are there are saved afterwards: ports are compared with their boots as these were stored.
    Later observations are never evaluated again.
    """
    conn.execute(update(hosts).where(hosts.c.removed_at > at).values(removed_at=at))
    conn.execute(update(observations).where(observations.c.observed_at > at).values(live=False))
    names = [column.name for column in ports.c if isinstance(column.type, UtcDateTime)]
    # A list of times may hold a later one; in most ports they are empty.
    listed = (type_coerce(ports.c[name], Text) != "[]" for name in _TIMED)
    wrong = or_(*(ports.c[name] > at for name in names), *listed)
    ids = conn.execute(select(ports.c.host_id).where(wrong).distinct()).scalars().all()
    booted = {row.host_id: row.booted_at for row in conn.execute(select(hosts.c.host_id, hosts.c.booted_at))}
    for part in chunks(ids):
        save_ports(conn, clocks.mended_ports(ports_of(load_ports(conn, part)), at, booted), ())


def _take_over(conn: Connection, verdict: Verdict, now: datetime) -> None:
    """Forget entries that left and whose state another entry goes on with; silences that name them count for it."""
    names = {host.host_id: host.name for host in verdict.hosts}
    for new, old in verdict.taken_over.items():
        name = conn.execute(select(hosts.c.name).where(hosts.c.host_id == old)).scalar()
        silences.take_over(conn, [old, *([name] if name else ())], names[new], now)
        change_in(conn, hosts.delete(), hosts.c.host_id, [old])
        change_in(conn, ports.delete(), ports.c.host_id, [old])
        change_in(conn, update(observations).values(live=False), observations.c.host_id, [old])
