"""Whether runs come as far as evaluating what they saw."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime

from portmon.model.event_kinds import EventKind
from portmon.steps.report import report
from portmon.steps.run import Run
from portmon.storage import conditions, runs
from portmon.storage.database import Database

log = logging.getLogger(__name__)

FAILED = "run_failed"


def is_past(database: Database, run: Run) -> bool:
    """Whether another run was evaluated since a run began, as of an old run that was cleared: no alarm then."""
    with database.begin() as conn:
        return runs.superseded(conn, run.run_id)


def report_failed(
    database: Database, run: Run, *, failed: Collection[str], why: str | None = None, now: datetime
) -> bool:
    """One event when a run ended and evaluated nothing. Of a message that could not be sent its channel's task tells.

    :param failed: its tasks that failed, for people
    :param why: if that is known
    :returns: whether this run is one
    """
    with database.begin() as conn:
        times = runs.times(conn, run.run_id)
        if times is not None and times[1] is not None:
            return False
        what = f"{', '.join(failed)} failed" if failed else "it was ended from outside"
        reason = f"A run evaluated nothing, so what hosts show now is not known: {what}. {why or 'Its log says why'}"
        log.warning("%s", reason)
        if conditions.begin(conn, FAILED, since=now):
            report(conn, EventKind.RUN_FAILED, run.run_id, reason, now, evidence=run.run_id, since=now)
        return True


def report_evaluated(database: Database, run: Run, *, now: datetime) -> None:
    """The end of :func:`report_failed`: a later run was evaluated."""
    with database.begin() as conn:
        since = conditions.since(conn, FAILED)
        if conditions.end(conn, FAILED):
            reason = "A run evaluated what hosts show again"
            report(conn, EventKind.RUN_EVALUATED, run.run_id, reason, now, evidence=run.run_id, since=since)
