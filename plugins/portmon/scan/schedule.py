"""The next step of a batch. Pure: no thread, no clock, no socket.

A visit to a host goes through these steps; *slots* are logins that may go on at the same time:

==========  =====================================================================  ====
dialling    TCP is connected, the host's first bytes are waited for                none
ready       it has said something: an SSH server is there                          none
asking      login, command                                                         one
parked      a port is missing: the connection stands, the host is asked once more  none
asking      the second command                                                     one
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
MAX_FAILED_LAST_TIME = 100
"""Those of them that failed last time, as long as there are others: hosts that are off now must not wait for these."""

AnyVisit = TypeVar("AnyVisit")


class Turn(Enum):
    """The use of a free slot."""

    ASK = "ask"
    ASK_AGAIN = "ask again"


@dataclass(slots=True)
class Schedule(Generic[AnyVisit]):
    """Visits of one batch, from the first dial to the last answer. Times are seconds of one clock.

    :param visits: in the order in which they shall begin, each with its lane: None for a host that is dialled
        directly, else the proxy command
    :param slots: logins at the same time
    :param lanes: proxy command: logins through it at the same time
    :param closes_at: after this nothing begins; what is under way ends
    :param failed_last_time: how many of the visits, the last ones, are to hosts that failed last time
    :param patience: seconds after which a step is overdue; and everything, so long after ``closes_at``
    """

    visits: Sequence[tuple[AnyVisit, str | None]]
    slots: int
    lanes: Mapping[str, int] = field(default_factory=dict)
    closes_at: float = float("inf")
    failed_last_time: int = 0
    patience: float = float("inf")
    # Visits go by their number, except to the caller.
    _direct: deque[int] = field(init=False, default_factory=deque)
    _failed: deque[int] = field(init=False, default_factory=deque)
    _by_lane: dict[str, deque[int]] = field(init=False, default_factory=dict)
    _dialling: dict[int, float] = field(init=False, default_factory=dict)
    _ready: deque[int] = field(init=False, default_factory=deque)
    _parked: list[tuple[float, int]] = field(init=False, default_factory=list)
    _asking: dict[int, tuple[str | None, float]] = field(init=False, default_factory=dict)
    _numbers: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self._numbers = {id(visit): number for number, (visit, _) in enumerate(self.visits)}
        for number, (_, lane) in enumerate(self.visits):
            queue = self._failed if self._has_failed(number) else self._direct
            if lane is not None:
                queue = self._by_lane.setdefault(lane, deque())
            queue.append(number)

    # ── what to do ──────────────────────────────────────────────────────────────────────────────

    def dials(self, now: float) -> list[AnyVisit]:
        """Visits whose host is dialled now. Each is :meth:`dialled` or :meth:`done` later.

        As many connections are opened ahead as there are slots: no healthy host waits long for a login, and none is
        waited for. A dial that takes long does not count, or dead hosts would stop it.
        """
        found: list[AnyVisit] = []
        while now < self.closes_at and len(self._dialling) < MAX_DIALS and (queue := self._to_dial(now)) is not None:
            number = queue.popleft()
            self._dialling[number] = now
            found.append(self.visits[number][0])
        return found

    def _to_dial(self, now: float) -> deque[int] | None:
        """The queue whose next host is dialled now."""
        if len(self._ready) >= self.slots:
            return None
        failed = sum(map(self._has_failed, self._dialling))
        if self._failed and (failed < MAX_FAILED_LAST_TIME or not self._direct):
            return self._failed
        is_room = len(self._fresh(now)) + len(self._ready) < self.slots
        return self._direct if self._direct and is_room else None

    def _fresh(self, now: float) -> list[float]:
        """When dials began that may be over any moment, as those to hosts that failed last time are not."""
        return [
            begun for number, begun in self._dialling.items() if now - begun < FRESH and not self._has_failed(number)
        ]

    def next(self, now: float) -> tuple[Turn, AnyVisit] | None:
        """The use of the next free slot, which is taken until the visit is parked or done.

        A host that waits for the second question comes first: its connection is open, and its time is what confirms a
        loss.
        """
        if len(self._asking) >= self.slots:
            return None
        if self._parked and self._parked[0][0] <= now:
            _, number = heapq.heappop(self._parked)
            self._asking[number] = None, now
            return Turn.ASK_AGAIN, self.visits[number][0]
        heads: list[tuple[int, str | None]] = [(self._ready[0], None)] if self._ready else []
        if now < self.closes_at:
            heads += [(queue[0], lane) for lane, queue in self._by_lane.items() if queue and self._has_room(lane)]
        if not heads:
            return None
        number, lane = min(heads, key=lambda head: head[0])
        (self._ready if lane is None else self._by_lane[lane]).popleft()
        self._asking[number] = lane, now
        return Turn.ASK, self.visits[number][0]

    def wake_at(self, now: float) -> float | None:
        """When there may be something to do without anything else happening; None if there is no such time."""
        times = [self._parked[0][0]] if self._parked and len(self._asking) < self.slots else []
        if self._direct and len(self._dialling) < MAX_DIALS:
            # Dials do not stay fresh.
            times += [begun + FRESH for begun in self._fresh(now)]
        if self._waiting() and now < self.closes_at < float("inf"):
            times.append(self.closes_at)
        return min(times, default=None)

    # ── what came of it ─────────────────────────────────────────────────────────────────────────

    def dialled(self, visit: AnyVisit) -> None:
        """The host has said something."""
        number = self._numbers[id(visit)]
        del self._dialling[number]
        self._ready.append(number)

    def park(self, visit: AnyVisit, until: float) -> None:
        """The host is to be asked once more then. The slot is free."""
        number = self._numbers[id(visit)]
        del self._asking[number]
        heapq.heappush(self._parked, (until, number))

    def done(self, visit: AnyVisit) -> None:
        """A visit is over, whatever came of it."""
        number = self._numbers[id(visit)]
        self._dialling.pop(number, None)
        self._asking.pop(number, None)

    def give_up(self, now: float) -> list[AnyVisit]:
        """End the visits that are overdue; what comes of them later is not to be told."""
        if now >= self.closes_at + self.patience:
            found = [*self._dialling, *self._asking, *self._ready, *(number for _, number in self._parked)]
            self._ready.clear()
            self._parked.clear()
        else:
            begun = self._dialling | {number: since for number, (_, since) in self._asking.items()}
            found = [number for number, since in begun.items() if now - since >= self.patience]
        given_up = [self.visits[number][0] for number in sorted(found)]
        for visit in given_up:
            self.done(visit)
        return given_up

    # ── how far it is ───────────────────────────────────────────────────────────────────────────

    def dialling(self) -> int:
        """How many hosts are dialled."""
        return len(self._dialling)

    def asking(self) -> int:
        """How many hosts are asked."""
        return len(self._asking)

    def parked(self) -> int:
        """How many hosts wait to be asked once more."""
        return len(self._parked)

    def is_under_way(self, visit: AnyVisit) -> bool:
        """Whether that host is dialled or asked just now."""
        number = self._numbers[id(visit)]
        return number in self._dialling or number in self._asking

    def is_over(self, now: float) -> bool:
        """Whether nothing is under way and nothing will begin."""
        under_way = self._dialling or self._ready or self._parked or self._asking
        return not under_way and (not self._waiting() or now >= self.closes_at)

    def untried(self) -> list[AnyVisit]:
        """Visits that have not begun."""
        waiting = [*self._direct, *self._failed, *(number for queue in self._by_lane.values() for number in queue)]
        return [self.visits[number][0] for number in sorted(waiting)]

    def _waiting(self) -> bool:
        return bool(self._direct or self._failed) or any(self._by_lane.values())

    def _has_failed(self, number: int) -> bool:
        return number >= len(self.visits) - self.failed_last_time

    def _has_room(self, lane: str) -> bool:
        return sum(1 for other, _ in self._asking.values() if other == lane) < self.lanes.get(lane, self.slots)
