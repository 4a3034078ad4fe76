"""Whether runs take longer than the time between two of them."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from portmon.config import format_duration
from portmon.events import monitor_event
from portmon.models import Event, EventKind
from portmon.pipeline.run import Run
from portmon.storage import conditions, outbox, runs
from portmon.storage.database import Database

log = logging.getLogger(__name__)

OVERDUE = "run_overdue"


def report_overdue(database: Database, run: Run, *, interval: timedelta, now: datetime) -> bool:
    """One event when a scheduled run takes longer than its interval, one when a later one does not.

    A run that never comes so far can't tell: that is what the dead-man's switch is for.

    :param interval: between scheduled runs; 0 if there is no rhythm
    :returns: whether this run is overdue
    """
    if run.run_type != "scheduled" or not interval:
        return False
    with database.begin() as conn:
        # An old run that was cleared is not late, but looked at again.
        started = runs.newest_started_at(conn, run.run_id)
        if started is None:
            return False
        took = now - started
        if took <= interval:
            since = conditions.since(conn, OVERDUE)
            if conditions.end(conn, OVERDUE):
                reason = f"A run took {_shown(took)} again, which is within its interval of {format_duration(interval)}"
                outbox.add(conn, [_event(EventKind.RUN_IN_TIME, run, reason, now, since)])
            return False
        reason = (
            f"A run took {_shown(took)}, its interval is {format_duration(interval)}: what it tells comes late. Raise "
            "ssh.max_logins, give Airflow more workers, or set a longer [portmon] schedule"
        )
        log.warning("%s", reason)
        event = _event(EventKind.RUN_OVERDUE, run, reason, now, started)
        if conditions.begin(conn, OVERDUE, since=started, event_id=event.id):
            outbox.add(conn, [event])
        return True


def _event(kind: EventKind, run: Run, reason: str, now: datetime, since: datetime | None) -> Event:
    return monitor_event(kind, at=now, run_id=run.run_id, reason=reason, evidence=run.run_id, since=since)


def _shown(took: timedelta) -> str:
    return format_duration(timedelta(seconds=int(took.total_seconds())))
