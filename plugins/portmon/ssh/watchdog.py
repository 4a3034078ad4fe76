"""Calls that are made after a time-out, unless they are cancelled before."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(order=True, slots=True)
class Alarm:
    """One such call at a time of :func:`time.monotonic`; ``call`` is None once it is cancelled, ``rang`` once made."""

    at: float
    number: int
    call: Callable[[], object] | None = field(compare=False)
    rang: bool = field(default=False, compare=False)


class Watchdog:
    """One thread that waits for all alarms: a timer each, which is a thread, would cost more than most of a login."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._alarms: list[Alarm] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def alarm(self, seconds: float, call: Callable[[], object]) -> Iterator[Alarm]:
        """Make a call in a thread of its own after so many seconds, unless the block is over by then."""
        alarm = Alarm(time.monotonic() + seconds, next(self._numbers), call)
        with self._changed:
            heapq.heappush(self._alarms, alarm)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            elif self._alarms[0] is alarm:
                self._changed.notify()
        try:
            yield alarm
        finally:
            # It stays in the queue until its time, but holds nothing: taking it out would cost more.
            with self._changed:
                alarm.call = None

    def _watch(self) -> None:
        while True:
            threading.Thread(target=self._next_call(), name="alarm", daemon=True).start()

    def _next_call(self) -> Callable[[], object]:
        with self._changed:
            while True:
                left = self._alarms[0].at - time.monotonic() if self._alarms else None
                if left is None or left > 0:
                    self._changed.wait(left)
                    continue
                alarm = heapq.heappop(self._alarms)
                if alarm.call is not None:
                    alarm.rang = True
                    return alarm.call


WATCHDOG = Watchdog()
