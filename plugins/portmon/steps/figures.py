"""What a run comes to in numbers, for Airflow's metrics."""

from __future__ import annotations

import math

from sqlalchemy import Connection

from portmon.storage import alerts, archive, deliveries

SLOWEST = 0.95
"""This share of a run's visits was at most as long as ``login_seconds``: the few dead hosts take longest."""


def figures_of_looks(conn: Connection, run_id: str) -> dict[str, float]:
    """How many hosts a run asked, how many gave no evidence, and how long a visit took."""
    visits = archive.visits(conn, run_id)
    asked = {host_id for host_id, _, _ in visits}
    durations = sorted(duration for _, _, duration in visits)
    figures: dict[str, float] = {
        "hosts_asked": len(asked),
        "hosts_without_evidence": len(asked - {host_id for host_id, ok, _ in visits if ok}),
    }
    if durations:
        figures["login_seconds"] = durations[math.ceil(SLOWEST * len(durations)) - 1]
    return figures


def figures_of_alerts(conn: Connection) -> dict[str, float]:
    """How much is wrong, and how many events a channel does not have yet."""
    return {"open_alerts": len(alerts.standing(conn)), "undelivered": len(deliveries.waiting(conn))}
