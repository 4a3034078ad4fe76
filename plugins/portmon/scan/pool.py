"""Threads that carry out the steps of :class:`portmon.scan.schedule.Schedule`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

from portmon.errors import OverrunError
from portmon.scan.schedule import Schedule, Turn
from portmon.timeouts import within

HANG_UP = timedelta(seconds=10)
"""How long hanging up on all hosts may take; the rest ends with the process."""


class Visit(Protocol):
    """One host on its way through a sweep. An exception ends it."""

    @property
    def lane(self) -> str | None:
        """The proxy command that leads to the host, if there is one."""

    def dial(self) -> None:
        """Connect, and wait for the host's first bytes. Not called for a host behind a proxy command."""

    def ask(self) -> float | None:
        """Log in and ask.

        :returns: seconds after which to ask once more; None if the visit is complete
        """

    def ask_again(self) -> None:
        """Ask once more, over the same connection."""

    def close(self) -> None:
        """Hang up; from any thread, at any time, more than once."""


Own = TypeVar("Own", bound=Visit)


class LoginPool(Generic[Own]):
    """Threads that make visits; :meth:`take` returns those that are over.

    There is a login thread for each slot, and a thread for each dial, since some take until their time-out. A dial
    thread goes on with the next dial: starting a thread costs more than most dials. Another thread takes the place of
    one that hangs. All are daemons, and the pool waits for none.

    :param visits: in the order in which they shall begin
    :param slots: logins at the same time
    :param lanes: proxy command: logins through it at the same time
    :param seconds: after these no visit begins
    :param failed_last_time: number of the visits, the last ones, to hosts that failed last time
    :param patience: seconds that a step of a visit may take, and that all may take after ``seconds``: more than the
        deadlines of any step. A visit that takes longer ends with :class:`OverrunError`
    """

    def __init__(
        self,
        visits: Sequence[Own],
        *,
        slots: int,
        lanes: Mapping[str, int] | None = None,
        seconds: float = float("inf"),
        failed_last_time: int = 0,
        patience: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._schedule = Schedule(
            [(visit, visit.lane) for visit in visits],
            slots=slots,
            lanes=lanes or {},
            closes_at=clock() + seconds,
            failed_last_time=failed_last_time,
            patience=patience,
        )
        self._visits = visits
        # Reentrant: the signal that ends the task may come while its thread holds the lock.
        lock = threading.RLock()
        # Several conditions, so that each change wakes only the threads that it concerns: waking all of them for every
        # host would cost more than the logins.
        self._changed = threading.Condition(lock)
        self._ended = threading.Condition(lock)
        self._wanted = threading.Condition(lock)
        self._to_dial: deque[Own] = deque()
        self._dialers = 0
        self._done: list[tuple[Own, BaseException | None]] = []
        self._awaited = 1
        self.stopped = False
        self._threads = [self._worker() for _ in range(min(slots, len(visits)))]

    def __enter__(self) -> LoginPool[Own]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Begin no more visits, and hang up on all hosts. Threads end by themselves."""
        with self._changed:
            self.stopped = True
            self._notify_all()
        with contextlib.suppress(OverrunError):
            within(HANG_UP, lambda: _close(*self._visits))

    def take(self, *, most: int, seconds: float) -> list[tuple[Own, BaseException | None]] | None:
        """Visits that ended since the last call, each with the error that ended it; None if there will be no more.

        :param most: return as soon as there are so many
        :param seconds: return after these, with fewer
        """
        until = self._clock() + seconds
        with self._ended:
            self._awaited = most
            while True:
                self._give_up()
                left = until - self._clock()
                if len(self._done) >= most or self._is_over() or left <= 0:
                    break
                # No thread notifies when the time of the batch is over.
                self._ended.wait(min(left, 1.0))
            # A visit that failed because of stop() says nothing about its host.
            if self.stopped or (not self._done and self._is_over()):
                return None
            taken, self._done = self._done[:most], self._done[most:]
            return taken

    def untried(self) -> list[Own]:
        """Visits that have not begun."""
        with self._changed:
            return self._schedule.untried()

    def parked(self) -> int:
        """The number of hosts that wait to be asked once more."""
        with self._changed:
            return len(self._schedule.parked)

    def _notify_all(self) -> None:
        for condition in (self._changed, self._ended, self._wanted):
            condition.notify_all()

    def _is_over(self) -> bool:
        return self.stopped or self._schedule.is_over(self._clock())

    def _give_up(self) -> None:
        # The caller holds the lock.
        dialling, asking = len(self._schedule.dialling), len(self._schedule.asking)
        overdue = self._schedule.give_up(self._clock())
        if not overdue:
            return
        for visit in overdue:
            self._done.append((visit, OverrunError("not over in time, and given up")))
            # Closing may hang too.
            threading.Thread(target=_close, args=(visit,), name="hang-up", daemon=True).start()
        # Threads that hang; one that returns ends.
        self._dialers -= dialling - len(self._schedule.dialling)
        self._to_dial = deque(visit for visit in self._to_dial if self._schedule.is_under_way(visit))
        for _ in range(asking - len(self._schedule.asking)):
            self._worker().start()
        self._notify_all()

    def _worker(self) -> threading.Thread:
        return threading.Thread(target=self._work, name="login", daemon=True)

    def _work(self) -> None:
        while (job := self._wait_for_job()) is not None:
            turn, visit = job
            pause: float | None = None
            try:
                if turn is Turn.ASK:
                    pause = visit.ask()
                else:
                    visit.ask_again()
            except BaseException as error:
                is_ours = self._end(visit, error)
            else:
                is_ours = self._end(visit, None) if pause is None else self._park(visit, pause)
            if not is_ours:
                return

    def _wait_for_job(self) -> tuple[Turn, Own] | None:
        with self._changed:
            while not self._is_over():
                now = self._clock()
                job = self._schedule.next(now)
                # After next(): a host that is no longer ready makes room for a dial.
                self._begin_dials(self._schedule.dials(now))
                if job is not None:
                    return job
                wake_at = self._schedule.wake_at(now)
                self._changed.wait(None if wake_at is None else max(0.0, wake_at - now))
            self._notify_all()
            return None

    def _begin_dials(self, visits: Sequence[Own]) -> None:
        # The caller holds the lock.
        self._to_dial += visits
        self._wanted.notify(len(visits))
        while self._dialers < len(self._schedule.dialling):
            self._dialers += 1
            threading.Thread(target=self._dial_all, name="dial", daemon=True).start()

    def _dial_all(self) -> None:
        while (visit := self._wait_for_dial()) is not None:
            try:
                visit.dial()
            except BaseException as error:
                is_ours = self._end(visit, error)
            else:
                is_ours = self._move(visit, self._schedule.dialled)
            if not is_ours:
                return

    def _wait_for_dial(self) -> Own | None:
        with self._wanted:
            while not self._is_over():
                if self._to_dial:
                    return self._to_dial.popleft()
                self._wanted.wait()
            return None

    def _park(self, visit: Own, pause: float) -> bool:
        return self._move(visit, lambda visit: self._schedule.park(visit, self._clock() + pause))

    def _end(self, visit: Own, error: BaseException | None) -> bool:
        # Before the lock is taken: hanging up talks to the host once more.
        _close(visit)

        def end(visit: Own) -> None:
            self._schedule.done(visit)
            self._done.append((visit, error))
            if len(self._done) >= self._awaited:
                self._ended.notify()

        return self._move(visit, end)

    def _move(self, visit: Own, change: Callable[[Own], None]) -> bool:
        """Record a step of a visit.

        :returns: whether it was under way; if it was given up, another thread has taken the place of this one
        """
        with self._changed:
            if not self._schedule.is_under_way(visit):
                return False
            change(visit)
            self._changed.notify()
            return True


def _close(*visits: Visit) -> None:
    for visit in visits:
        with contextlib.suppress(Exception):
            visit.close()
