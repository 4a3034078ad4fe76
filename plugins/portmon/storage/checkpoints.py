"""The state as it was each day, so that the archive need not be evaluated again from its beginning."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select

from portmon.errors import StorageError
from portmon.storage import contents, journal
from portmon.storage.sql import chunks, insert_rows
from portmon.storage.tables import UtcDateTime, checkpoints, conditions, hosts, ports
from portmon.storage.upgrade import upgrade_state, upgrade_youth, with_parts


def keep(conn: Connection, now: datetime) -> None:
    """Keep the state as it is, once a day (UTC), in the transaction that is about to change it."""
    newest = conn.execute(select(func.max(checkpoints.c.at))).scalar()
    if newest is None or newest.date() < now.date():
        take(conn, journal.last_seq(conn), now)


def take(conn: Connection, seq: int, now: datetime) -> None:
    """Keep the state as it is after a step of the journal; replaces the checkpoint of that step."""
    # One part after the other: the whole state would take gigabytes.
    digests = [contents.put(conn, contents.canonical(part), now=now) for part in _parts(conn)]
    _replace(conn, seq, now, digests)


def taken(conn: Connection, *, after: int) -> dict[int, datetime]:
    """Step: when the state after it was kept, of later steps than one."""
    query = select(checkpoints.c.seq, checkpoints.c.at).where(checkpoints.c.seq > after, checkpoints.c.part == 0)
    return {row.seq: row.at for row in conn.execute(query)}


def copy(source: Connection, conn: Connection) -> None:
    """Take over all checkpoints of another database, each in place of that of the same step."""
    found: dict[tuple[int, datetime], list[str]] = defaultdict(list)
    for row in source.execute(select(checkpoints).order_by(checkpoints.c.seq, checkpoints.c.part)).all():
        contents.put(conn, contents.get(source, row.content), now=row.at)
        found[row.seq, row.at].append(row.content)
    for (seq, at), digests in found.items():
        _replace(conn, seq, at, digests)


def before(conn: Connection, moment: datetime) -> tuple[int, datetime] | None:
    """The newest checkpoint from before a moment, or the oldest one if there is none; None without any.

    :returns: the step of the journal after which it was taken, and when that was
    """
    kept = select(checkpoints.c.seq, checkpoints.c.at).where(checkpoints.c.part == 0)
    row = conn.execute(kept.where(checkpoints.c.at <= moment).order_by(checkpoints.c.seq.desc()).limit(1)).first()
    row = row or conn.execute(kept.order_by(checkpoints.c.seq).limit(1)).first()
    return None if row is None else (row.seq, row.at)


def oldest(conn: Connection) -> datetime | None:
    """When the oldest checkpoint was taken; None without any."""
    found: datetime | None = conn.execute(select(func.min(checkpoints.c.at))).scalar()
    return found


def restore(source: Connection, seq: int, conn: Connection) -> None:
    """Bring the state of a checkpoint back.

    :param conn: of a state database without state
    :raises StorageError: if a part of it is gone or damaged
    """
    query = select(checkpoints.c.content, checkpoints.c.at).where(checkpoints.c.seq == seq)
    without_evidence: datetime | None = None
    without_youth: datetime | None = None
    for digest, at in source.execute(query.order_by(checkpoints.c.part)).all():
        for name, rows in json.loads(contents.get(source, digest)).items():
            table = _TABLES.get(name)
            if table is None:
                raise StorageError(f"checkpoint {seq} has a table {name!r}: a newer portmon made it")
            if table is hosts and rows and "evidence" not in rows[0]:
                without_evidence = at
            if table is ports and rows and "young_since" not in rows[0]:
                without_youth = at
            own = map(with_parts, rows) if table is ports else rows
            insert_rows(conn, table, [_row(table, row) for row in own])
    if without_evidence is not None:
        upgrade_state(conn, without_evidence)
    if without_youth is not None:
        upgrade_youth(conn, without_youth)


def expire(conn: Connection, before: datetime) -> None:
    """Forget checkpoints from before a moment: steps that followed them are gone."""
    conn.execute(delete(checkpoints).where(checkpoints.c.at < before))


def _replace(conn: Connection, seq: int, at: datetime, digests: Sequence[str]) -> None:
    conn.execute(delete(checkpoints).where(checkpoints.c.seq == seq))
    rows = [{"seq": seq, "part": part, "at": at, "content": digest} for part, digest in enumerate(digests)]
    conn.execute(insert(checkpoints), rows)


_TABLES = {table.name: table for table in (hosts, ports, conditions)}


def _parts(conn: Connection) -> Iterator[dict[str, list[dict[str, Any]]]]:
    yield {"conditions": _rows(conn, select(conditions).order_by(conditions.c.name))}
    for part in chunks(conn.execute(select(hosts.c.host_id).order_by(hosts.c.host_id)).scalars().all()):
        queries = {table: select(table).order_by(*table.primary_key.columns) for table in (hosts, ports)}
        yield {table.name: _rows(conn, query.where(table.c.host_id.in_(part))) for table, query in queries.items()}


def _rows(conn: Connection, query: Any) -> list[dict[str, Any]]:
    return [
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row._mapping.items()}
        for row in conn.execute(query)
    ]


def _row(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    # Columns that a later version added stay empty.
    row = {column.name: values[column.name] for column in table.c if column.name in values}
    times = {name for name, value in row.items() if value is not None and isinstance(table.c[name].type, UtcDateTime)}
    return row | {name: datetime.fromisoformat(row[name]) for name in times}
