"""How much the state database holds, and since when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, func, select

from portmon.storage import contents as archive
from portmon.storage.checkpoints import oldest
from portmon.storage.tables import checkpoints, events, hosts, journal, observations, ports, replays, runs


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of rows, and times.

    :param hosts: in the CMDB
    :param hidden: that left it not long ago
    :param steps: of the journal
    :param checkpoints: states of the fleet that are kept
    :param contents: of the archive: ``bytes``, compressed ``stored_bytes``
    :param replayable_from: from when on the archive can be evaluated again
    :param last_run: start of the newest run
    """

    hosts: int
    hidden: int
    ports: int
    events: int
    looks: int
    runs: int
    steps: int
    checkpoints: int
    contents: int
    bytes: int
    stored_bytes: int
    oldest_look: datetime | None
    newest_look: datetime | None
    replayable_from: datetime | None
    last_replay: datetime | None
    waiting_replays: int
    last_run: datetime | None
    last_run_finished: datetime | None


def measure(conn: Connection) -> Sizes:
    """Count."""
    number, size, stored = archive.sizes(conn)
    looked = conn.execute(select(func.min(observations.c.observed_at), func.max(observations.c.observed_at))).one()
    last = conn.execute(select(runs.c.started_at, runs.c.finished_at).order_by(runs.c.started_at.desc()).limit(1))
    run = last.first()
    return Sizes(
        hosts=_count(conn, hosts, hosts.c.removed_at.is_(None)),
        hidden=_count(conn, hosts, hosts.c.removed_at.is_not(None)),
        **{name: _count(conn, table) for name, table in _WHOLE.items()},
        checkpoints=_count(conn, checkpoints, checkpoints.c.part == 0),
        contents=number,
        bytes=size,
        stored_bytes=stored,
        oldest_look=looked[0],
        newest_look=looked[1],
        replayable_from=oldest(conn),
        last_replay=conn.execute(select(func.max(replays.c.done_at))).scalar(),
        waiting_replays=_count(conn, replays, replays.c.done_at.is_(None)),
        last_run=run.started_at if run else None,
        last_run_finished=run.finished_at if run else None,
    )


_WHOLE = {"ports": ports, "events": events, "looks": observations, "runs": runs, "steps": journal}


def _count(conn: Connection, table: Table, *where: Any) -> int:
    return int(conn.execute(select(func.count()).select_from(table).where(*where)).scalar() or 0)
