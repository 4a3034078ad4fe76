"""State of hosts and ports, as the frames of :mod:`portmon.diff`. Loads pandas."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Table, select

from portmon.diff import Verdict
from portmon.frames import HOST_COLUMNS, PORT_COLUMNS, frame
from portmon.storage import outbox
from portmon.storage.sql import delete_rows, upsert
from portmon.storage.tables import hosts, ports

_TUPLES = frozenset({"listening", "addresses", "programs", "pids", "uids", "units", "lost"})
_TIMES = "changes"


def load(conn: Connection, host_ids: Collection[str] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Stored state of hosts and ports.

    :param host_ids: of these only
    :returns: frames with the columns of :data:`portmon.diff.HOST_COLUMNS` and :data:`portmon.diff.PORT_COLUMNS`
    """
    return _load(conn, hosts, HOST_COLUMNS, host_ids), _load(conn, ports, PORT_COLUMNS, host_ids)


def _load(conn: Connection, table: Table, columns: Mapping[str, str], host_ids: Collection[str] | None) -> pd.DataFrame:
    rows = conn.execute(select(*(table.c[name] for name in columns))).all()
    if host_ids is not None:
        wanted = set(host_ids)
        rows = [row for row in rows if row.host_id in wanted]
    records = zip(*rows, strict=True) if rows else ([] for _ in columns)
    data = {name: [_read(name, value) for value in values] for name, values in zip(columns, records, strict=True)}
    return frame(data, columns)


def _read(name: str, value: Any) -> Any:
    if name == _TIMES:
        return tuple(datetime.fromisoformat(text) for text in value)
    return tuple(value) if name in _TUPLES and value is not None else value


def save(conn: Connection, verdict: Verdict, *, now: datetime) -> None:
    """Write what a judgement changed, in the caller's transaction.

    What was not sent yet of a dropped port is cancelled.
    """
    _save(conn, hosts, verdict.hosts)
    _save(conn, ports, verdict.ports)
    delete_rows(conn, ports, verdict.dropped)
    outbox.cancel_ports(conn, verdict.unwatched, reason="the port is not watched any more", now=now)
    outbox.add(conn, verdict.events)


def _save(conn: Connection, table: Table, changed: pd.DataFrame) -> None:
    if changed.empty:
        return
    names = list(changed.columns)
    rows = [
        {name: _plain(value) for name, value in zip(names, row, strict=True)}
        for row in changed.itertuples(index=False, name=None)
    ]
    primary = {column.name for column in table.primary_key.columns}
    conn.execute(upsert(conn, table, [name for name in names if name not in primary]), rows)


def _plain(value: Any) -> Any:
    """A value of a frame as the database driver knows it."""
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    if isinstance(value, tuple | list):
        return [item.isoformat() if isinstance(item, datetime) else item for item in value]
    if isinstance(value, dict):
        return value
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return None
    return value.item() if hasattr(value, "item") else value
