"""State of hosts and ports, as :mod:`portmon.engine.diff` takes it. Loads pandas."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import repeat
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Table, Text, select, type_coerce

from portmon.engine.diff import Verdict
from portmon.engine.frames import HOST_COLUMNS, PORT_COLUMNS, frame
from portmon.engine.states import Port
from portmon.model.observation import PortKey
from portmon.storage import deliveries, events
from portmon.storage.hosts import unsettle
from portmon.storage.sql import ROWS, chunks, delete_rows, rows_in, update_rows, upsert_rows
from portmon.storage.tables import hosts, ports


def load(conn: Connection, host_ids: Collection[str] | None = None) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Stored state of hosts and ports.

    :param host_ids: of these only
    :returns: host id to row with the columns of :data:`portmon.engine.frames.HOST_COLUMNS`, and a frame with those of
        :data:`portmon.engine.frames.PORT_COLUMNS`
    """
    return _rows(conn, HOST_COLUMNS, host_ids), load_ports(conn, host_ids)


def load_ports(conn: Connection, host_ids: Collection[str] | None = None) -> pd.DataFrame:
    """Stored state of ports.

    :param host_ids: of these hosts only
    """
    return frame(_read(conn, ports, list(PORT_COLUMNS), host_ids), PORT_COLUMNS)


def load_hosts(conn: Connection, *, light: bool = False) -> dict[str, dict[str, Any]]:
    """Stored state of all hosts.

    :param light: without what listened on them, which is seldom needed: see :func:`listening`
    """
    return _rows(conn, [name for name in HOST_COLUMNS if not light or name != LISTENING], None)


def listening(conn: Connection, host_ids: Collection[str]) -> dict[str, tuple[str, ...] | None]:
    """Host id: what listened there in its last ok look."""
    data = _read(conn, hosts, ["host_id", LISTENING], host_ids)
    return dict(zip(data["host_id"], data[LISTENING], strict=True))


def _rows(conn: Connection, names: Sequence[str], host_ids: Collection[str] | None) -> dict[str, dict[str, Any]]:
    data = _read(conn, hosts, names, host_ids)
    # What is not asked for is None, in every row.
    rows = zip(*(data.get(name, repeat(None)) for name in HOST_COLUMNS), strict=False)
    return {row[0]: dict(zip(HOST_COLUMNS, row, strict=True)) for row in rows}


def _read(
    conn: Connection, table: Table, names: Sequence[str], host_ids: Collection[str] | None
) -> dict[str, Sequence[Any]]:
    """Columns of a table as plain values."""
    # Lists come as the text they are stored as: most are among a few, which are kept once.
    query = select(*(type_coerce(table.c[name], Text) if name in _LISTS else table.c[name] for name in names))
    rows = list(rows_in(conn, query, table.c.host_id, host_ids))
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {
        name: list(map(_LISTS[name], values)) if name in _LISTS else values
        for name, values in zip(names, columns, strict=True)
    }


@lru_cache(maxsize=1 << 16)
def _tuple(text: str) -> tuple[Any, ...]:
    return tuple(json.loads(text))


def _listening(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(json.loads(text))


@lru_cache(maxsize=1 << 10)
def _times(text: str) -> tuple[datetime, ...]:
    return tuple(map(datetime.fromisoformat, json.loads(text)))


@lru_cache(maxsize=1 << 10)
def _notices(text: str) -> tuple[tuple[str, datetime], ...]:
    return tuple((kind, datetime.fromisoformat(at)) for kind, at in json.loads(text))


LISTENING = "listening"
_LISTS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("addresses", "programs", "pids", "uids", "units", "comms", "lost"), _tuple),
    LISTENING: _listening,
    "changes": _times,
    "notices": _notices,
}


def save(conn: Connection, verdict: Verdict, *, now: datetime, step: int | None) -> None:
    """Write what an evaluation changed, in the caller's transaction.

    What was not sent yet of a dropped port is cancelled.

    :param step: of the journal
    """
    _save(conn, hosts, verdict.hosts, keep=[LISTENING])
    unchanged = verdict.unchanged.items()
    update_rows(
        conn, hosts, [{"host_id": host_id, "last_evaluated_at": at, "last_ok_at": at} for host_id, at in unchanged]
    )
    save_ports(conn, verdict.ports, verdict.dropped)
    # A change of ports without one of their host lets the host's next look be compared.
    touched = {*(port.host_id for port in verdict.ports), *(key[0] for key in verdict.dropped)}
    unsettle(conn, touched.difference(row["host_id"] for row in verdict.hosts))
    deliveries.cancel_ports(conn, verdict.unwatched, reason="the port is not watched any more", now=now)
    events.add(conn, verdict.events, step=step)


def save_ports(conn: Connection, changed: Iterable[Port], dropped: Sequence[PortKey]) -> None:
    """Write what an evaluation made of some ports."""
    # A host may have as many as it likes: their rows are not all made at once.
    for part in chunks(list(changed), ROWS):
        rows = [
            {name: getattr(port, name) for name in PORT_COLUMNS}
            | {
                "changes": [at.isoformat() for at in port.changes],
                "notices": [[kind, at.isoformat()] for kind, at in port.notices],
            }
            for port in part
        ]
        _save(conn, ports, rows)
    delete_rows(conn, ports, dropped)


def _save(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, keep: Sequence[str] = ()) -> None:
    if rows:
        primary = {column.name for column in table.primary_key.columns}
        upsert_rows(conn, table, [name for name in rows[0] if name not in primary], rows, keep=keep)
