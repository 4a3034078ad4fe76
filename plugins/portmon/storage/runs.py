"""What each run had to go by, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from portmon.storage.sql import upsert
from portmon.storage.tables import runs


def start(
    conn: Connection,
    run_id: str,
    *,
    run_type: str,
    logical_date: datetime | None,
    started_at: datetime,
    scope: Sequence[str] | None,
    inventory: str,
    inventory_fetched_at: datetime,
    inventory_stale: bool,
    settings: str,
) -> None:
    """Note what a run goes by; a run that is cleared and starts again goes by what is newer.

    :param scope: patterns of the hosts it is limited to, None for all
    :param inventory: digest of its host list
    :param settings: digest of the settings in force
    """
    row = {
        "run_id": run_id,
        "run_type": run_type,
        "logical_date": logical_date,
        "started_at": started_at,
        "scope": scope,
        "inventory": inventory,
        "inventory_fetched_at": inventory_fetched_at,
        "inventory_stale": inventory_stale,
        "settings": settings,
    }
    conn.execute(upsert(conn, runs, [name for name in row if name != "run_id"]), row)


def finish(conn: Connection, run_id: str, *, finished_at: datetime, summary: Mapping[str, Any]) -> None:
    """Note what it came to."""
    conn.execute(update(runs).where(runs.c.run_id == run_id).values(finished_at=finished_at, summary=summary))


def newest_started_at(conn: Connection, run_id: str) -> datetime | None:
    """When a run began; None if a later one began since, or it is not known."""
    row = conn.execute(select(runs.c.run_id, runs.c.started_at).order_by(runs.c.started_at.desc()).limit(1)).first()
    return row.started_at if row is not None and row.run_id == run_id else None


def last(conn: Connection, count: int) -> list[Mapping[str, Any]]:
    """The newest runs, newest first, as mappings of the table's columns."""
    rows = conn.execute(select(runs).order_by(runs.c.started_at.desc()).limit(count))
    return [dict(row._mapping) for row in rows]
