"""Runs: host list, settings and result of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select, update

from portmon.errors import PastRunError
from portmon.storage.journal import EVALUATE, last_seq
from portmon.storage.sql import rows_in, upsert_rows
from portmon.storage.tables import hosts, journal, runs

SECONDS = "seconds"
"""Key in the summary of a run, beside its counts: phase: how long it took."""
NEVER = datetime.min.replace(tzinfo=UTC)
"""Stands for the last try of a host that no run tried."""


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
    """Note the inputs of a run; a run that is cleared and starts again gets newer ones.

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
        "after_step": last_seq(conn),
    }
    upsert_rows(conn, runs, [row])


def superseded(conn: Connection, run_id: str) -> bool:
    """Whether another run was evaluated since a run began: then it replays its time instead of asking its hosts."""
    began = select(runs.c.after_step).where(runs.c.run_id == run_id).scalar_subquery()
    others = select(journal.c.seq).where(journal.c.kind == EVALUATE, journal.c.run_id != run_id, journal.c.seq > began)
    return conn.execute(others.limit(1)).first() is not None


def must_be_newest(conn: Connection, run_id: str) -> None:
    """:raises PastRunError: if the run is superseded"""
    if superseded(conn, run_id):
        raise PastRunError(run_id)


def times(conn: Connection, run_id: str) -> tuple[datetime, datetime | None] | None:
    """When a run began, and when it was evaluated; None if the run is unknown."""
    row = conn.execute(select(runs.c.started_at, runs.c.finished_at).where(runs.c.run_id == run_id)).first()
    return None if row is None else (row.started_at, row.finished_at)


def settings_after(conn: Connection, step: int) -> set[str | None]:
    """Digests of the settings by which later steps than one were evaluated; None for those of which nothing is
    known.
    """
    query = (
        select(runs.c.settings)
        .select_from(journal.outerjoin(runs, runs.c.run_id == journal.c.run_id))
        .where(journal.c.seq > step, journal.c.kind == EVALUATE)
    )
    return set(conn.execute(query.distinct()).scalars())


def finish(conn: Connection, run_id: str, *, finished_at: datetime, summary: Mapping[str, Any]) -> None:
    """Note the result of a run."""
    conn.execute(update(runs).where(runs.c.run_id == run_id).values(finished_at=finished_at, summary=summary))


def untried(conn: Connection, run_id: str, host_ids: Collection[str]) -> dict[str, datetime]:
    """Of some hosts those that the last evaluated run of all hosts did not try.

    :param run_id: of the present run, which may have been evaluated before
    :returns: host id: when it was last tried, :data:`NEVER` for those that no run tried
    """
    whole = (journal.c.kind == EVALUATE, journal.c.run_id != run_id, runs.c.scope.is_(None))
    began = select(runs.c.started_at).select_from(journal.join(runs, runs.c.run_id == journal.c.run_id)).where(*whole)
    last = conn.execute(began.order_by(journal.c.seq.desc()).limit(1)).scalar() or NEVER
    query = select(hosts.c.host_id, hosts.c.last_evaluated_at).where(hosts.c.last_evaluated_at.is_not(None))
    tried = {row.host_id: row.last_evaluated_at for row in rows_in(conn, query, hosts.c.host_id, host_ids)}
    return {one: tried.get(one, NEVER) for one in host_ids if one not in tried or tried[one] < last}


def newest_started_at(conn: Connection, run_id: str) -> datetime | None:
    """When a run began; None if a later one began since, or the run is unknown."""
    row = conn.execute(select(runs.c.run_id, runs.c.started_at).order_by(runs.c.started_at.desc()).limit(1)).first()
    return row.started_at if row is not None and row.run_id == run_id else None


def last_settings(conn: Connection) -> str | None:
    """Digest of the settings of the newest run; None without any."""
    query = select(runs.c.settings).where(runs.c.settings.is_not(None)).order_by(runs.c.started_at.desc())
    digest: str | None = conn.execute(query.limit(1)).scalar()
    return digest


def last(conn: Connection, count: int) -> list[Mapping[str, Any]]:
    """The newest runs, newest first, as mappings of the table's columns."""
    rows = conn.execute(select(runs).order_by(runs.c.started_at.desc()).limit(count))
    return [dict(row._mapping) for row in rows]
