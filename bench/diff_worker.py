"""One step of the measure of the diff, in a process of its own: its peak memory is this step's.

``python -m bench.diff_worker '{"step": "evaluate", …}'`` prints what it came to as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from bench.fleet import START, Fleet
from portmon.storage.database import Database


def build(fleet: Fleet) -> dict[str, float]:
    """Make the database, and let one evaluation make the baseline."""
    fleet.build()
    return evaluate(fleet, 0)


def look(fleet: Fleet, number: int, changes: int, changed_now: bool) -> dict[str, float]:
    """Note what the hosts show."""
    fleet.look(number, changes=changes, changed_now=changed_now)
    return {}


def evaluate(fleet: Fleet, number: int) -> dict[str, float]:
    """One evaluation, with the rows and statements that it came to."""
    database = fleet.open()
    planned = fleet.plan(database, number)
    started = time.monotonic()
    with _counted(database) as counts:
        summary = fleet.evaluate(database, number, planned)
    seconds = time.monotonic() - started
    database.dispose()
    if summary["scanned"] != fleet.hosts:
        raise RuntimeError(f"not all hosts were evaluated: {summary}")
    events = sum(count for name, count in summary.items() if name not in ("scanned", "not_scanned", "evaluated"))
    return {"seconds": seconds, "events": events, **counts}


def merge(fleet: Fleet, changes: int) -> dict[str, float]:
    """The limit: read the keys of the known ports, and merge them with those that were seen."""
    import pandas as pd

    seen = pd.DataFrame(
        [
            (f"id-{host}", "tcp", listener.port)
            for host in range(fleet.hosts)
            for listener in fleet.listeners(host, changes)
        ],
        columns=["host_id", "protocol", "port"],
    )
    database = fleet.open()
    # The first connection is not counted in an evaluation either.
    database.engine.connect().close()
    started = time.monotonic()
    with database.engine.connect() as conn:
        known = pd.read_sql("SELECT host_id, protocol, port, status FROM ports", conn)
    both = known.merge(seen, on=["host_id", "protocol", "port"], how="outer", indicator="found")
    events = int((both["found"] != "both").sum())
    seconds = time.monotonic() - started
    database.dispose()
    return {"seconds": seconds, "events": events}


def history(fleet: Fleet, runs: int, change_every: int) -> dict[str, float]:
    """Note what the hosts show in many runs, as if these had evaluated it."""
    database = fleet.open()
    planned = fleet.plan(database, 0)
    for number in range(1, runs + 1):
        # Ports change and change back by turns: one that stays down is compared in every run.
        fleet.look(number, changes=number // change_every % 2, changed_now=number % change_every == 0)
        fleet.note(database, number, planned)
    database.dispose()
    return {}


def replay(fleet: Fleet, runs: int) -> dict[str, float]:
    """Evaluate all of it again, and put in place what that gives."""
    database = fleet.open()
    started = time.monotonic()
    counts = fleet.replay(database, runs)
    seconds = time.monotonic() - started
    database.dispose()
    return {"seconds": seconds, "evaluations": counts["replayed"], "events": counts["gained"]}


@contextmanager
def _counted(database: Database) -> Iterator[dict[str, float]]:
    """Count statements sent to the database, rows that these write, and the seconds until it answered."""
    from sqlalchemy import event

    counts = {"statements": 0.0, "rows_written": 0.0, "database_seconds": 0.0}

    def timed(do: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*arguments: Any, **named: Any) -> Any:
            started = time.monotonic()
            try:
                return do(*arguments, **named)
            finally:
                counts["database_seconds"] += time.monotonic() - started

        return timing

    # No event follows a commit.
    dialect = database.engine.dialect
    for name in ("do_execute", "do_execute_no_params", "do_executemany", "do_commit"):
        setattr(dialect, name, timed(getattr(dialect, name)))

    @event.listens_for(database.engine, "after_cursor_execute")
    def count(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        counts["statements"] += 1
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA", "BEGIN", "WITH")):
            counts["rows_written"] += max(cursor.rowcount, 0)

    yield counts


def main(order: dict[str, Any]) -> dict[str, float]:
    """Do what is asked."""
    known = (build, look, evaluate, merge, history, replay)
    steps: dict[str, Callable[..., dict[str, float]]] = {step.__name__: step for step in known}
    step = steps[order.pop("step")]
    start = datetime.fromisoformat(order.pop("start", START.isoformat()))
    fleet = Fleet(order.pop("url"), order.pop("hosts"), order.pop("ports"), start)
    found = step(fleet, **order)
    return {**found, "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
