"""A batch at work: threads that carry out what :class:`portmon.scan.schedule.Schedule` says."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from portmon.errors import OverrunError
from portmon.scan.schedule import Schedule, Turn
from portmon.timeouts import within

HANG_UP = timedelta(seconds=10)
"""How long hanging up on all hosts may take; what is left then ends with the process."""


class Visit(Protocol):
    """One host on its way through a sweep. An exception ends it."""

    @property
    def lane(self) -> str | None:
        """The proxy command that leads to the host, None without."""

    def dial(self) -> None:
        """Connect, and wait until the host says something. Not called of a host behind a proxy command."""

    def ask(self) -> float | None:
        """Log in and ask.

        :returns: None if that is all; else after how many seconds to ask once more
        """

    def ask_again(self) -> None:
        """Ask once more, over the same connection."""

    def close(self) -> None:
        """Hang up; from any thread, at any time, more than once."""


Own = TypeVar("Own", bound=Visit)


class LoginPool(Generic[Own]):
    """Threads that make visits. Those that are over come out of :meth:`take`.

    The threads of logins are as many as there are slots and stay. Every dial has one as well, since some take until
    their time-out; one that is over takes the next: to start a thread costs more than most dials. A thread that does
    not come back is left alone, and another one takes its place: none is ever waited for, all are daemons.

    :param visits: in the order in which they shall begin
    :param slots: logins at the same time
    :param lanes: proxy command: logins through it at the same time
    :param seconds: after these nothing begins any more
    :param failed_last_time: how many of the visits, the last ones, are to hosts that failed last time
    :param patience: seconds that a step of a visit may take, and that all may take after ``seconds``: more than any
        step that keeps to its own deadlines. A visit that takes longer ends with :class:`OverrunError`
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
        # One thread may take it twice: a signal that ends the task may come at any time.
        lock = threading.RLock()
        # Several conditions, so that each change wakes the threads that it concerns: waking all of them for every host
        # would cost more than the logins.
        self._changed = threading.Condition(lock)
        self._ended = threading.Condition(lock)
        self._wanted = threading.Condition(lock)
        self._to_dial: deque[Own] = deque()
        self._dialers = 0
        self._done: list[tuple[Own, BaseException | None]] = []
        self._awaited = 1
        self.stopped = False
        """Whether it was stopped before it was over."""
        self._threads = [self._worker() for _ in range(min(slots, len(visits)))]

    def __enter__(self) -> LoginPool[Own]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Begin nothing any more, and hang up on all hosts. Threads end by themselves."""
        with self._changed:
            self.stopped = True
            self._notify_all()
        with contextlib.suppress(OverrunError):
            within(HANG_UP, self._close_all)

    def take(self, *, most: int, seconds: float) -> list[tuple[Own, BaseException | None]] | None:
        """Visits that ended since the last call, each with what ended it; None if there will be no more.

        :param most: return as soon as there are so many
        :param seconds: return after this, with what there is
        """
        until = self._clock() + seconds
        with self._ended:
            self._awaited = most
            while True:
                self._give_up()
                left = until - self._clock()
                if len(self._done) >= most or self._is_over() or left <= 0:
                    break
                # The batch may also be over because its time is: no thread notifies then.
                self._ended.wait(min(left, 1.0))
            # A visit that fails since it was hung up on here says nothing of its host.
            if self.stopped or (not self._done and self._is_over()):
                return None
            taken, self._done = self._done[:most], self._done[most:]
            return taken

    def untried(self) -> list[Own]:
        """Visits that have not begun."""
        with self._changed:
            return self._schedule.untried()

    def parked(self) -> int:
        """How many hosts wait to be asked once more."""
        with self._changed:
            return self._schedule.parked()

    def _notify_all(self) -> None:
        for condition in (self._changed, self._ended, self._wanted):
            condition.notify_all()

    def _is_over(self) -> bool:
        return self.stopped or self._schedule.is_over(self._clock())

    def _give_up(self) -> None:
        # The caller holds the lock.
        dialling, asking = self._schedule.dialling(), self._schedule.asking()
        overdue = self._schedule.give_up(self._clock())
        if not overdue:
            return
        for visit in overdue:
            self._done.append((visit, OverrunError("not over in time, and given up")))
            # Closing may take as long as what is closed.
            threading.Thread(target=_close, args=(visit,), name="hang-up", daemon=True).start()
        # Threads that are lost, unless they come back: then they end.
        self._dialers -= dialling - self._schedule.dialling()
        self._to_dial = deque(visit for visit in self._to_dial if self._schedule.is_under_way(visit))
        for _ in range(asking - self._schedule.asking()):
            self._worker().start()
        self._notify_all()

    def _close_all(self) -> None:
        for visit in self._visits:
            _close(visit)

    # ── threads ─────────────────────────────────────────────────────────────────────────────────

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
                # After that: what is taken from the hosts that are ready makes room.
                self._have_dialled(self._schedule.dials(now))
                if job is not None:
                    return job
                wake_at = self._schedule.wake_at(now)
                self._changed.wait(None if wake_at is None else max(0.0, wake_at - now))
            self._notify_all()
            return None

    def _have_dialled(self, visits: Sequence[Own]) -> None:
        # The caller holds the lock.
        self._to_dial += visits
        self._wanted.notify(len(visits))
        while self._dialers < self._schedule.dialling():
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
        # Hanging up talks to the host once more: not while other threads wait for the lock.
        _close(visit)

        def end(visit: Own) -> None:
            self._schedule.done(visit)
            self._done.append((visit, error))
            if len(self._done) >= self._awaited:
                self._ended.notify()

        return self._move(visit, end)

    def _move(self, visit: Own, change: Callable[[Own], None]) -> bool:
        """Note how far a visit is.

        :returns: whether it was under way: one that was given up is told already, and another thread is in our place
        """
        with self._changed:
            if not self._schedule.is_under_way(visit):
                return False
            change(visit)
            self._changed.notify()
            return True


def _close(visit: Visit) -> None:
    with contextlib.suppress(Exception):
        visit.close()
