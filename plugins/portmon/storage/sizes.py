"""How much the state database holds, and since when."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, func, select

from portmon.storage import contents as archive
from portmon.storage.checkpoints import oldest
from portmon.storage.tables import checkpoints, events, hosts, journal, observations, ports, replays, runs


def measure(conn: Connection) -> dict[str, Any]:
    """Counts and times, by the fields of :class:`portmon.api.runs.StatusView`."""
    number, size, stored = archive.sizes(conn)
    oldest_at, newest_at = conn.execute(
        select(func.min(observations.c.observed_at), func.max(observations.c.observed_at))
    ).one()
    last = conn.execute(select(runs.c.started_at, runs.c.finished_at).order_by(runs.c.started_at.desc()).limit(1))
    run = last.first()
    return {
        "hosts": _count(conn, hosts, hosts.c.removed_at.is_(None)),
        "hidden": _count(conn, hosts, hosts.c.removed_at.is_not(None)),
        "ports": _count(conn, ports),
        "events": _count(conn, events),
        "looks": _count(conn, observations),
        "runs": _count(conn, runs),
        "steps": _count(conn, journal),
        "checkpoints": _count(conn, checkpoints, checkpoints.c.part == 0),
        "contents": {"number": number, "bytes": size, "stored_bytes": stored},
        "oldest_look": oldest_at,
        "newest_look": newest_at,
        "replayable_from": oldest(conn),
        "last_replay": conn.execute(select(func.max(replays.c.done_at))).scalar(),
        "waiting_replays": _count(conn, replays, replays.c.done_at.is_(None)),
        "last_run": run.started_at if run else None,
        "last_run_finished": run.finished_at if run else None,
    }


def _count(conn: Connection, table: Table, *where: Any) -> int:
    return int(conn.execute(select(func.count()).select_from(table).where(*where)).scalar() or 0)
