"""Delete what is older than it is to be kept: after the evaluation, and apart from it.

It has transactions of its own, each of which deletes so many rows and no more: what fails here does not undo a verdict,
and nothing holds the tables for long. A part that fails does not hold up the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection

from portmon.config import Retention
from portmon.storage import actions, alerts, archive, decisions, events, replays, silences
from portmon.storage.database import Database

log = logging.getLogger(__name__)

MOST = 20_000
"""Rows that one transaction deletes. A run of 10,000 hosts adds about as many."""
TIMES = 20
"""Transactions of one part in one run; what is left is for the next one."""


def expire(database: Database, settings: Retention, now: datetime) -> None:
    """Delete what is too old; the next run tries again what fails.

    The lease of the state is not checked: two runs that delete the same do no harm.
    """
    looks, rest = now - settings.observations, now - settings.events
    parts: dict[str, Callable[[Connection], int | None]] = {
        "observations": lambda conn: archive.expire(conn, looks, most=MOST),
        "events": lambda conn: events.expire(conn, rest, most=MOST),
        "alerts": lambda conn: alerts.expire(conn, rest),
        "silences": lambda conn: silences.expire(conn, rest),
        "actions": lambda conn: actions.expire(conn, rest),
        "ignored ports": lambda conn: decisions.expire(conn, rest),
        "replays": lambda conn: replays.expire(conn, rest),
    }
    left = list(parts)
    for _ in range(TIMES):
        try:
            with database.begin() as conn:
                left = [name for name in left if (parts[name](conn) or 0) >= MOST]
        except Exception:
            break
        if not left:
            return
    for name in left:
        # Each by itself: one of them failed, or has more than a run may delete.
        try:
            with database.begin() as conn:
                parts[name](conn)
        except Exception as error:
            text = "Old %s could not be deleted, the next run tries again. What was evaluated is kept: %s: %s"
            log.warning(text, name, type(error).__name__, next(iter(str(error).splitlines()), ""))
