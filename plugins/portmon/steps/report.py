"""Events of the monitoring itself."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from portmon.engine.events import monitor_event
from portmon.model.event_kinds import EventKind
from portmon.storage import events


def report(
    conn: Connection,
    kind: EventKind,
    run_id: str,
    reason: str,
    now: datetime,
    *,
    evidence: str | None = None,
    since: datetime | None = None,
) -> None:
    """Write one event of the monitoring itself, see :func:`portmon.engine.events.monitor_event`.

    :param evidence: default: the time
    """
    evidence = evidence or now.isoformat()
    events.add(conn, [monitor_event(kind, at=now, run_id=run_id, reason=reason, evidence=evidence, since=since)])
