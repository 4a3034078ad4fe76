"""How long each thing may take, and how to stop waiting for work that takes longer.

Every task has a limit, since a run that never ends holds back all later ones (``max_active_runs=1``).
The DAG file imports this module at every parse.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import timedelta
from typing import TypeVar

from portmon.errors import OverrunError

Result = TypeVar("Result")

STEP = timedelta(minutes=15)
"""A try of any task without a limit of its own. A task that writes the state may wait 5 minutes for the lease,
and then hold it for 10."""
LOOK = timedelta(seconds=90)
"""One visit, and so one try of a ``netstat`` task. Settings of ``ssh`` and ``scan`` that do not fit are refused."""
SWEEP = timedelta(minutes=10)
"""One try of a ``sweep`` task. It begins no visit that could not take its whole time."""
HOST_LIST = timedelta(minutes=5)
"""All pages of the host list together. The rest of the task's limit is for going on with the last good list."""
REPLAY = timedelta(hours=6)
"""A replay, instead of the limit of its task; and how long a run waits for the replay of another run."""
RUN = 2 * REPLAY
"""A whole run, from its start: a replay may take its whole time, and once more after a crash. The limit ends runs that
Airflow starts without starting a task, such as one whose logical date is in the future."""
OVERDUE_AFTER = 2
"""After so many intervals a run that did not end is overdue: the fleet is not watched."""
SEND = timedelta(minutes=1)
"""One message over one channel."""
ALERT = timedelta(minutes=5)
"""One alert task: several channels that hang one after the other."""


def within(limit: timedelta, work: Callable[[], Result]) -> Result:
    """Return or raise what ``work`` does, unless it takes too long.

    Work that overran can't be stopped: it goes on in a daemon thread, and its result is dropped.

    :raises OverrunError: after ``limit``
    """
    future: Future[Result] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(work)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="within", daemon=True).start()
    wait([future], timeout=limit.total_seconds())
    if not future.done():
        raise OverrunError(f"not done within {limit.total_seconds():g} s")
    return future.result()
