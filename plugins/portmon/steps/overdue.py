"""Whether runs take longer than the time between two of them, and whether they end at all."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Connection

from portmon.fields import format_duration, format_seconds
from portmon.model.event_kinds import EventKind
from portmon.steps.report import report
from portmon.steps.run import Run
from portmon.storage import conditions, runs
from portmon.storage.database import Database

log = logging.getLogger(__name__)

OVERDUE = "run_overdue"


def report_overdue(database: Database, run: Run, *, interval: timedelta, now: datetime) -> bool:
    """One event when a scheduled run takes longer than its interval, one when a later one does not.

    A run that never comes so far can't tell: :func:`report_hanging` does.

    :param interval: between scheduled runs; 0 if there is no rhythm
    :returns: whether this run is overdue
    """
    if interval and run.run_type != "scheduled":
        return False
    with database.begin() as conn:
        if not interval:
            _end(conn, run, "Runs have no rhythm any more, so none is late", now)
            return False
        # An old run that was cleared is not late, but looked at again.
        started = runs.newest_started_at(conn, run.run_id)
        if started is None:
            return False
        took = format_seconds(now - started)
        if now - started <= interval:
            _end(conn, run, f"A run took {took}, within its interval of {format_duration(interval)}", now)
            return False
        reason = (
            f"A run took {took}, its interval is {format_duration(interval)}: what it tells comes late. Raise "
            "ssh.max_logins, give Airflow more workers, or set a longer [portmon] schedule"
        )
        _begin(conn, run, reason, now, since=started)
        return True


def report_hanging(
    database: Database, run: Run, *, since: datetime, interval: timedelta, unfinished: Collection[str], now: datetime
) -> None:
    """One event when a run has not ended long after it began; :func:`report_overdue` of a later run tells the end.

    While it goes on no other run begins, whatever kind of run it is.

    :param since: when it was queued
    :param unfinished: its tasks that were begun and did not end, for people
    """
    waits = f"It waits for {', '.join(unfinished)}" if unfinished else "None of its tasks runs"
    reason = (
        f"A run has not ended after {format_seconds(now - since)}, its interval is {format_duration(interval)}: no "
        f"other run begins before it ends. {waits}"
    )
    with database.begin() as conn:
        _begin(conn, run, reason, now, since=since)


def _begin(conn: Connection, run: Run, reason: str, now: datetime, *, since: datetime) -> None:
    log.warning("%s", reason)
    if conditions.begin(conn, OVERDUE, since=since):
        report(conn, EventKind.RUN_OVERDUE, run.run_id, reason, now, evidence=run.run_id, since=since)


def _end(conn: Connection, run: Run, reason: str, now: datetime) -> None:
    since = conditions.since(conn, OVERDUE)
    if conditions.end(conn, OVERDUE):
        report(conn, EventKind.RUN_IN_TIME, run.run_id, reason, now, evidence=run.run_id, since=since)
