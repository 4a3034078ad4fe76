"""Put the result of a replay in place: state, checkpoints, and the events that follow from observations.

All in the caller's transaction, a portion at a time: only what differs is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, exists, select, update

from portmon.storage import alerts, checkpoints
from portmon.storage.conditions import evaluated
from portmon.storage.deliveries import cancel
from portmon.storage.events import event_of, row_of
from portmon.storage.sql import change_in, chunks, delete_rows, insert_rows, rows_in, update_rows, upsert_rows
from portmon.storage.tables import conditions, deliveries, events, hosts, ports

PORTION = 1000
"""Events that are compared at a time."""


def replace(conn: Connection, scratch: Connection, *, after: int, run_id: str, now: datetime) -> dict[str, int]:
    """Take over the result of a replay.

    :param scratch: of the database of the replay
    :param after: the step of the journal that it began after
    :param run_id: of the run that replays
    :returns: number of events that are new (``gained``), retracted (``lost``) or different (``changed``), and of
        ``hosts`` and ``ports`` whose state differs
    """
    gained, changed = _add_events(conn, scratch, run_id)
    lost = _retract_events(conn, scratch, after, run_id, now)
    hosts, ports = _replace_state(conn, scratch)
    checkpoints.copy(scratch, conn)
    return {"gained": gained, "lost": lost, "changed": changed, "hosts": hosts, "ports": ports}


def tell(conn: Connection, *, since: datetime, until: datetime) -> int:
    """Let the next dispatch send the events that a replay derived of a time, if they have no deliveries yet.

    Events of an open alert are not sent: the alert goes on.

    :returns: number of events
    """
    untold = (
        select(events)
        .where(events.c.replayed_by.is_not(None), events.c.retracted_by.is_(None), events.c.alert_group.is_not(None))
        .where(events.c.at >= since, events.c.at < until, ~exists().where(deliveries.c.event_id == events.c.id))
    )
    opened = alerts.opened(conn)
    told = 0
    for rows in _portions(conn, untold):
        ids = [row.id for row in rows if event_of(row).alert_key not in opened]
        change_in(conn, update(events).values(dispatched=False), events.c.id, ids)
        told += len(ids)
    return told


# ── events ──────────────────────────────────────────────────────────────────────────────────────


def _add_events(conn: Connection, scratch: Connection, run_id: str) -> tuple[int, int]:
    """Insert and change events, in the order in which they happened; returns how many are new and how many differ."""
    gained = changed = 0
    for rows in _portions(scratch, select(events).order_by(events.c.at, events.c.seq)):
        ids = [row.id for row in rows]
        known = {row.id: row for row in rows_in(conn, select(events), events.c.id, ids)}
        new, again = [], []
        for row in rows:
            event, was = event_of(row), known.get(row.id)
            made = row_of(dataclasses.replace(event, replayed_by=run_id), row.step)
            if was is None:
                # Not sent unless tell() is called.
                new.append(made | {"dispatched": True})
            elif was.retracted_by is not None or dataclasses.replace(event_of(was), replayed_by=None) != event:
                gained += was.retracted_by is not None
                changed += was.retracted_by is None
                # Whether it was dispatched stays as it is.
                del made["dispatched"]
                again.append(made | {"retracted_by": None})
        insert_rows(conn, events, new)
        update_rows(conn, events, again, key=["id"])
        gained += len(new)
    return gained, changed


def _retract_events(conn: Connection, scratch: Connection, after: int, run_id: str, now: datetime) -> int:
    """Mark events that do not follow any more as retracted; alerts and deliveries may refer to them."""
    lost = 0
    valid = select(events.c.seq, events.c.id).where(events.c.step > after, events.c.retracted_by.is_(None))
    for rows in _portions(conn, valid.order_by(events.c.seq)):
        ids = {row.id for row in rows}
        gone = ids.difference(row.id for row in rows_in(scratch, select(events.c.id), events.c.id, ids))
        retracted = update(events).values(retracted_by=run_id, replayed_by=None, dispatched=True)
        change_in(conn, retracted, events.c.id, gone)
        for part in chunks(sorted(gone)):
            cancel(conn, part, reason="evaluating again took it back", now=now)
        lost += len(gone)
    return lost


def _portions(conn: Connection, query: Any) -> Iterator[Sequence[Row[Any]]]:
    # The keys are read first, since a cursor does not outlive writes of its connection.
    keys = conn.execute(query.with_only_columns(events.c.id, maintain_column_froms=True)).scalars().all()
    wanted = select(*query.selected_columns)
    for part in chunks(keys, PORTION):
        rows = {row.id: row for row in rows_in(conn, wanted, events.c.id, part)}
        yield [rows[key] for key in part if key in rows]


# ── state ───────────────────────────────────────────────────────────────────────────────────────


def _replace_state(conn: Connection, scratch: Connection) -> tuple[int, int]:
    """Replace hosts, ports and conditions; returns the number of hosts and of ports that differ."""
    ids = {row.host_id for one in (conn, scratch) for row in one.execute(select(hosts.c.host_id))}
    changed_hosts = changed_ports = 0
    for part in chunks(sorted(ids)):
        were, are = _rows(conn, hosts, part), _rows(scratch, hosts, part)
        for key, row in are.items():
            # A person decided something since the last step: the next observation is to be compared.
            if key in were and were[key]["fingerprint"] is None:
                row["fingerprint"] = None
        changed_hosts += _write(conn, hosts, were, are)
        changed_ports += _write(conn, ports, _rows(conn, ports, part), _rows(scratch, ports, part))
    follow = evaluated()
    conn.execute(delete(conditions).where(follow))
    insert_rows(conn, conditions, [dict(row._mapping) for row in scratch.execute(select(conditions).where(follow))])
    return changed_hosts, changed_ports


def _rows(conn: Connection, table: Table, host_ids: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = (dict(row._mapping) for row in rows_in(conn, select(table), table.c.host_id, host_ids))
    return {tuple(row[column.name] for column in table.primary_key.columns): row for row in rows}


def _write(conn: Connection, table: Table, were: Mapping[Any, Any], are: Mapping[Any, Any]) -> int:
    """Write rows that differ; returns how many, deleted ones included."""
    changed = [row for key, row in are.items() if were.get(key) != row]
    gone = [key for key in were if key not in are]
    upsert_rows(conn, table, changed)
    delete_rows(conn, table, gone)
    return len(changed) + len(gone)
