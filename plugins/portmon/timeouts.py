"""How long each thing may take, in one place, and how to stop waiting for what takes longer.

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
"""Any task that has no limit of its own. Generous: whoever writes the state may wait 5 minutes for
another one, and holds it for 10 at most."""


LOOK = timedelta(seconds=90)
"""One try of a ``netstat`` task; ``ssh`` and ``scan`` are checked to fit into it."""


SWEEP = timedelta(minutes=10)
"""One try of a ``sweep`` task, whose hosts are looked at until the last look may take its whole time."""


HOST_LIST = timedelta(minutes=5)
"""Every page of the host list together. Shorter than the task's limit, so that there is time to go on with
the last good list."""


REPLAY = timedelta(hours=6)
"""Evaluating again what was seen, instead of the limit of the task that does it; and how long to wait for another run
that does."""


RUN = 2 * REPLAY
"""A whole run, by its start. Longer than any that works: a replay may take its whole time, and once more after a crash.
It is for runs that Airflow starts and gives no task to, such as one whose logical date is in the future; without it
they would hold back all later ones until then."""


SEND = timedelta(minutes=1)
"""One message over one channel."""


ALERT = timedelta(minutes=5)
"""One alert task: several channels that hang one after the other."""


def within(limit: timedelta, work: Callable[[], Result]) -> Result:
    """What ``work`` returns or raises, unless that takes too long.

    Work that overran can't be stopped: it goes on in a daemon thread that nobody waits for any more.

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
