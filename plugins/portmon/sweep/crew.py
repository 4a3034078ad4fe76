"""A batch at work: threads that carry out what :class:`portmon.sweep.schedule.Schedule` says."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from portmon.sweep.schedule import Schedule, Step


class Visit(Protocol):
    """One host on its way through a sweep. Whatever raises, ends it."""

    @property
    def lane(self) -> str | None:
        """The proxy command that leads to the host, None without."""

    def dial(self) -> None:
        """Connect, and wait until the server says something. Not called of a host behind a proxy command."""

    def look(self) -> float | None:
        """Log in and ask.

        :returns: None if that is all; else after how many seconds to ask once more
        """

    def look_again(self) -> None:
        """Ask once more, over the same connection."""

    def close(self) -> None:
        """Hang up; from any thread, at any time, more than once."""


Own = TypeVar("Own", bound=Visit)


class Crew(Generic[Own]):
    """Threads that make visits. What is done comes out of :meth:`take`, in the thread of whoever calls that.

    The threads of logins are as many as there are slots and stay. Every dial has one as well, since some take until
    their time-out; one that is over takes the next: to start a thread costs more than most dials.

    :param visits: in the order in which they shall begin
    :param slots: logins at the same time
    :param lanes: proxy command: logins through it at the same time
    :param seconds: after these nothing begins any more
    :param suspects: how many of the visits, the last ones, are to hosts that failed last time
    """

    def __init__(
        self,
        visits: Sequence[Own],
        *,
        slots: int,
        lanes: Mapping[str, int] | None = None,
        seconds: float = float("inf"),
        suspects: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._schedule = Schedule(
            [(visit, visit.lane) for visit in visits],
            slots=slots,
            lanes=lanes or {},
            closes_at=clock() + seconds,
            suspects=suspects,
        )
        self._visits = visits
        lock = threading.Lock()
        # Several conditions, so that each change wakes whom it concerns: waking everybody for every host would cost
        # more than the logins.
        self._changed = threading.Condition(lock)
        self._ended = threading.Condition(lock)
        self._wanted = threading.Condition(lock)
        self._to_dial: deque[Own] = deque()
        self._dialers = 0
        self._done: list[tuple[Own, BaseException | None]] = []
        self._awaited = 1
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"login-{number}", daemon=True)
            for number in range(min(slots, len(visits)))
        ]

    def __enter__(self) -> Crew[Own]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Begin nothing any more, and hang up on everybody. Threads end by themselves."""
        with self._changed:
            self._stopped = True
            self._notify_all()
        for visit in self._visits:
            # Whatever state it is in: nobody waits for it any more.
            with contextlib.suppress(Exception):
                visit.close()

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped it before it was over."""
        return self._stopped

    def take(self, *, most: int, seconds: float) -> list[tuple[Own, BaseException | None]] | None:
        """Visits that ended since the last call, each with what ended it; None if there will be no more.

        :param most: return as soon as there are so many
        :param seconds: return after this, with what there is
        """
        until = self._clock() + seconds
        with self._ended:
            self._awaited = most
            while len(self._done) < most and not self._is_over():
                left = until - self._clock()
                if left <= 0:
                    break
                # The batch may also be over because its time is: nobody says that.
                self._ended.wait(min(left, 1.0))
            # Whoever is hung up on fails: that is our doing, and nothing to take.
            if self._stopped or (not self._done and self._is_over()):
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
            return len(self._schedule.parked())

    def _notify_all(self) -> None:
        for condition in (self._changed, self._ended, self._wanted):
            condition.notify_all()

    def _is_over(self) -> bool:
        return self._stopped or self._schedule.is_over(self._clock())

    # ── threads ─────────────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        while (job := self._wait_for_job()) is not None:
            step, visit = job
            pause: float | None = None
            try:
                if step is Step.LOOK:
                    pause = visit.look()
                else:
                    visit.look_again()
            except BaseException as error:
                self._end(visit, error)
                continue
            if pause is None:
                self._end(visit, None)
            else:
                with self._changed:
                    self._schedule.park(visit, self._clock() + pause)
                    self._changed.notify()

    def _wait_for_job(self) -> tuple[Step, Own] | None:
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
        # Whoever calls holds the lock.
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
                self._end(visit, error)
            else:
                with self._changed:
                    self._schedule.dialled(visit)
                    self._changed.notify()

    def _wait_for_dial(self) -> Own | None:
        with self._wanted:
            while not self._is_over():
                if self._to_dial:
                    return self._to_dial.popleft()
                self._wanted.wait()
            return None

    def _end(self, visit: Own, error: BaseException | None) -> None:
        # Hanging up talks to the host once more: not while others wait for us.
        with contextlib.suppress(Exception):
            visit.close()
        with self._changed:
            self._schedule.done(visit)
            self._done.append((visit, error))
            self._changed.notify()
            if len(self._done) >= self._awaited:
                self._ended.notify()
