"""What a batch does next. Pure: no thread, no clock, no socket.

A visit to a host goes through these steps; *slots* are logins that may go on at the same time:

==========  =====================================================================  ====
dialling    TCP is connected, the server's first bytes are waited for              none
ready       it has said something: a server that is there
looking     login, command                                                         one
parked      a port is missing: the connection stands, the host is asked once more  none
again       the second command                                                     one
done
==========  =====================================================================  ====

So a dead or silent host costs time, but no slot: others go on. Hosts that failed last time are dialled from the start,
beside the others: their time-outs pass while the others are asked, instead of after that. Hosts behind a proxy command
are not dialled ahead, since that command logs in by itself: they need a slot from the start, and one of their lane.

Each step has its own deadlines. One that is not over long after these, since what it calls does not come back, is
*overdue*: the visit is given up, and its slot is free for others.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

FRESH = 0.25
"""Seconds after which a host that is dialled is not expected to be ready any moment, and others are dialled beside it.
Long beside a way to the other side of the world; short beside a time-out, of which there may be many in a row."""
MAX_DIALS = 200
"""Hosts that are dialled at the same time. A process may open 1,024 files, as Linux has it."""
MAX_SUSPECTS = 100
"""Those of them that failed last time, as long as there are others: hosts that are off now must not wait for these."""

Visit = TypeVar("Visit")


class Step(Enum):
    """What somebody who has a slot does."""

    LOOK = "look"
    LOOK_AGAIN = "look again"


@dataclass(slots=True)
class Schedule(Generic[Visit]):
    """Visits of one batch, from the first dial to the last answer. Times are seconds of one clock.

    :param visits: in the order in which they shall begin, each with its lane: None for a host that is dialled
        directly, else the proxy command
    :param slots: logins at the same time
    :param lanes: proxy command: logins through it at the same time
    :param closes_at: after this nothing begins; what is under way ends
    :param failed_last_time: how many of the visits, the last ones, are to hosts that failed last time
    :param patience: seconds after which a step is overdue; and everything, so long after ``closes_at``
    """

    visits: Sequence[tuple[Visit, str | None]]
    slots: int
    lanes: Mapping[str, int] = field(default_factory=dict)
    closes_at: float = float("inf")
    failed_last_time: int = 0
    patience: float = float("inf")
    _direct: deque[tuple[int, Visit]] = field(init=False)
    _suspects: deque[tuple[int, Visit]] = field(init=False)
    _by_lane: dict[str, deque[tuple[int, Visit]]] = field(init=False, default_factory=dict)
    _dialling: dict[int, float] = field(init=False, default_factory=dict)
    _ready: deque[tuple[int, Visit]] = field(init=False, default_factory=deque)
    _parked: list[tuple[float, int, Visit]] = field(init=False, default_factory=list)
    _looking: dict[int, tuple[str | None, float]] = field(init=False, default_factory=dict)
    _numbers: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._direct, self._suspects = deque(), deque()
        for number, (visit, lane) in enumerate(self.visits):
            self._numbers[id(visit)] = number
            queue = self._suspects if self._is_suspect(number) else self._direct
            if lane is not None:
                queue = self._by_lane.setdefault(lane, deque())
            queue.append((number, visit))

    # ── what to do ──────────────────────────────────────────────────────────────────────────────

    def dials(self, now: float) -> list[Visit]:
        """Visits whose host is dialled now. Each is :meth:`dialled` or :meth:`done` later.

        As many connections are opened ahead as there are slots: a healthy host waits for no login of ours for long,
        and is waited for by none. A dial that takes long does not count, or dead hosts would stop it.
        """
        found: list[Visit] = []
        while now < self.closes_at and len(self._dialling) < MAX_DIALS:
            queue = self._to_dial(now)
            if queue is None:
                break
            number, visit = queue.popleft()
            self._dialling[number] = now
            found.append(visit)
        return found

    def _to_dial(self, now: float) -> deque[tuple[int, Visit]] | None:
        """The queue whose next host is dialled now."""
        if len(self._ready) >= self.slots:
            return None
        known = sum(map(self._is_suspect, self._dialling))
        if self._suspects and (known < MAX_SUSPECTS or not self._direct):
            return self._suspects
        is_room = len(self._fresh(now)) + len(self._ready) < self.slots
        return self._direct if self._direct and is_room else None

    def _fresh(self, now: float) -> list[float]:
        """When dials began that may be over any moment: those to suspects are not expected to."""
        return [
            begun for number, begun in self._dialling.items() if now - begun < FRESH and not self._is_suspect(number)
        ]

    def next(self, now: float) -> tuple[Step, Visit] | None:
        """What the next free slot does; it is taken until the visit is :meth:`parked` or :meth:`done`.

        Who waits for the second question comes first: that connection is open, and its time is what confirms a loss.
        """
        if len(self._looking) >= self.slots:
            return None
        if self._parked and self._parked[0][0] <= now:
            _, number, visit = heapq.heappop(self._parked)
            self._looking[number] = None, now
            return Step.LOOK_AGAIN, visit
        heads: list[tuple[int, str | None]] = [(self._ready[0][0], None)] if self._ready else []
        if now < self.closes_at:
            heads += [(queue[0][0], lane) for lane, queue in self._by_lane.items() if queue and self._has_room(lane)]
        if not heads:
            return None
        _, lane = min(heads, key=lambda head: head[0])
        number, visit = (self._ready if lane is None else self._by_lane[lane]).popleft()
        self._looking[number] = lane, now
        return Step.LOOK, visit

    def wake_at(self, now: float) -> float | None:
        """When there may be something to do without anything else happening; None if there is no such time."""
        times = [self._parked[0][0]] if self._parked and len(self._looking) < self.slots else []
        if self._direct and len(self._dialling) < MAX_DIALS:
            # What is dialled now will not be fresh for ever.
            times += [begun + FRESH for begun in self._fresh(now)]
        if self._waiting() and now < self.closes_at < float("inf"):
            times.append(self.closes_at)
        return min(times, default=None)

    # ── what came of it ─────────────────────────────────────────────────────────────────────────

    def dialled(self, visit: Visit) -> None:
        """The host has said something."""
        number = self._numbers[id(visit)]
        del self._dialling[number]
        self._ready.append((number, visit))

    def park(self, visit: Visit, until: float) -> None:
        """A look is not over: the host is asked once more then. Its slot is free."""
        number = self._numbers[id(visit)]
        del self._looking[number]
        heapq.heappush(self._parked, (until, number, visit))

    def done(self, visit: Visit) -> None:
        """A visit is over, whatever came of it."""
        number = self._numbers[id(visit)]
        self._dialling.pop(number, None)
        self._looking.pop(number, None)

    def give_up(self, now: float) -> list[Visit]:
        """End the visits that are overdue; what comes of them later is not to be told."""
        if now >= self.closes_at + self.patience:
            found = [*self._dialling, *self._looking, *(number for number, _ in self._ready)]
            found += [number for _, number, _ in self._parked]
            self._ready.clear()
            self._parked.clear()
        else:
            begun = {**self._dialling, **{number: since for number, (_, since) in self._looking.items()}}
            found = [number for number, since in begun.items() if now - since >= self.patience]
        given_up = [self.visits[number][0] for number in sorted(found)]
        for visit in given_up:
            self.done(visit)
        return given_up

    # ── how far it is ───────────────────────────────────────────────────────────────────────────

    def dialling(self) -> int:
        """How many hosts are dialled."""
        return len(self._dialling)

    def looking(self) -> int:
        """How many hosts are looked at."""
        return len(self._looking)

    def is_under_way(self, visit: Visit) -> bool:
        """Whether that host is dialled or looked at just now."""
        number = self._numbers[id(visit)]
        return number in self._dialling or number in self._looking

    def is_over(self, now: float) -> bool:
        """Whether nothing is under way and nothing will begin."""
        under_way = self._dialling or self._ready or self._parked or self._looking
        return not under_way and (not self._waiting() or now >= self.closes_at)

    def untried(self) -> list[Visit]:
        """Visits that have not begun."""
        waiting = [*self._direct, *self._suspects, *(item for queue in self._by_lane.values() for item in queue)]
        return [visit for _, visit in sorted(waiting, key=lambda item: item[0])]

    def parked(self) -> list[Visit]:
        """Visits whose host is to be asked once more."""
        return [visit for _, _, visit in self._parked]

    def _waiting(self) -> bool:
        return bool(self._direct or self._suspects) or any(self._by_lane.values())

    def _is_suspect(self, number: int) -> bool:
        return number >= len(self.visits) - self.failed_last_time

    def _has_room(self, lane: str) -> bool:
        return sum(1 for other, _ in self._looking.values() if other == lane) < self.lanes.get(lane, self.slots)
