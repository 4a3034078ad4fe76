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
from portmon.storage.hosts import tuple_of, unsettle
from portmon.storage.sql import ROWS, chunks, delete_rows, rows_in, update_rows, upsert_rows
from portmon.storage.tables import hosts, ports


def load(conn: Connection, host_ids: Collection[str] | None = None) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Stored state of hosts and ports.

    :returns: host id to row with the columns of :data:`portmon.engine.frames.HOST_COLUMNS`, and a frame with those of
        :data:`portmon.engine.frames.PORT_COLUMNS`
    """
    return load_hosts(conn, host_ids), load_ports(conn, host_ids)


def load_ports(conn: Connection, host_ids: Collection[str] | None = None) -> pd.DataFrame:
    """Stored state of ports, of all hosts or some."""
    return frame(_read(conn, ports, list(PORT_COLUMNS), host_ids), PORT_COLUMNS)


def load_hosts(
    conn: Connection, host_ids: Collection[str] | None = None, *, light: bool = False
) -> dict[str, dict[str, Any]]:
    """Stored state of all hosts or some; ``light`` leaves out their listeners, see :func:`listening`."""
    data = _read(conn, hosts, [name for name in HOST_COLUMNS if not light or name != LISTENING], host_ids)
    # Columns that are left out are None in every row.
    rows = zip(*(data.get(name, repeat(None)) for name in HOST_COLUMNS), strict=False)
    return {row[0]: dict(zip(HOST_COLUMNS, row, strict=True)) for row in rows}


def listening(conn: Connection, host_ids: Collection[str]) -> dict[str, tuple[str, ...] | None]:
    """Host id: its listeners in its last ok observation."""
    data = _read(conn, hosts, ["host_id", LISTENING], host_ids)
    return dict(zip(data["host_id"], data[LISTENING], strict=True))


def _read(
    conn: Connection, table: Table, names: Sequence[str], host_ids: Collection[str] | None
) -> dict[str, Sequence[Any]]:
    # Lists come as text: most are among a few, which are read once.
    query = select(*(type_coerce(table.c[name], Text) if name in _LISTS else table.c[name] for name in names))
    rows = list(rows_in(conn, query, table.c.host_id, host_ids))
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {
        name: list(map(_LISTS[name], values)) if name in _LISTS else values
        for name, values in zip(names, columns, strict=True)
    }


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
    **dict.fromkeys(("addresses", "programs", "pids", "uids", "units", "comms", "lost"), tuple_of),
    LISTENING: _listening,
    "changes": _times,
    "notices": _notices,
}


def save(conn: Connection, verdict: Verdict, *, now: datetime, step: int | None) -> None:
    """Write what an evaluation changed, in the caller's transaction.

    What was not sent yet of a dropped port is cancelled.

    :param step: of the journal
    """
    upsert_rows(conn, hosts, verdict.hosts, keep=[LISTENING])
    unchanged = verdict.unchanged.items()
    rows = [{"host_id": host_id, "last_evaluated_at": at, "last_ok_at": at} for host_id, at in unchanged]
    update_rows(conn, hosts, rows)
    save_ports(conn, verdict.ports, verdict.dropped)
    # A change of ports without one of their host lets the host's next observation be compared.
    touched = {*(port.host_id for port in verdict.ports), *(key[0] for key in verdict.dropped)}
    unsettle(conn, touched.difference(row["host_id"] for row in verdict.hosts))
    deliveries.cancel_ports(conn, verdict.unwatched, reason="the port is not watched any more", now=now)
    events.add(conn, verdict.events, step=step)


def save_ports(conn: Connection, changed: Iterable[Port], dropped: Sequence[PortKey]) -> None:
    """Write what an evaluation changed of ports."""
    # The number of ports has no bound: their rows are not all made at once.
    for part in chunks(list(changed), ROWS):
        rows = [
            {name: getattr(port, name) for name in PORT_COLUMNS}
            | {
                "changes": [at.isoformat() for at in port.changes],
                "notices": [[kind, at.isoformat()] for kind, at in port.notices],
            }
            for port in part
        ]
        upsert_rows(conn, ports, rows)
    delete_rows(conn, ports, dropped)
