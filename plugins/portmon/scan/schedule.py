"""The next step of a batch. Pure: no thread, no clock, no socket.

A visit to a host goes through these steps; *slots* are logins that may go on at the same time:

==========  =====================================================================  ====
dialling    TCP connects, the host's first bytes are awaited                       none
ready       the first bytes came                                                   none
asking      login, command                                                         one
parked      a port is missing: the connection stands, the host is asked once more  none
asking      the second command                                                     one
done
==========  =====================================================================  ====

So a dead or silent host costs time, but no slot. Hosts that failed last time are dialled from the start, beside the
others: their time-outs pass while the others are asked. Hosts behind a proxy command are not dialled ahead, since that
command logs in by itself: they need a slot from the start, and one of their lane.

Each step has its own deadlines. A step that goes on long after these, since a call does not return, is *overdue*: the
visit is given up, and its slot is free for others.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

FRESH = 0.25
"""Seconds after which a dial is no longer expected to end soon, and other hosts are dialled beside it. Longer than the
way to the other side of the world; short beside a time-out, of which there may be many in a row."""
MAX_DIALS = 200
"""Hosts that are dialled at the same time. A process may open 1,024 files by default on Linux."""
MAX_FAILED_LAST_TIME = 100
"""Those of them that failed last time, as long as there are others, which must not wait for these."""

AnyVisit = TypeVar("AnyVisit")


class Turn(Enum):
    """The use of a free slot."""

    ASK = "ask"
    ASK_AGAIN = "ask again"


@dataclass(slots=True)
class Schedule(Generic[AnyVisit]):
    """Visits of one batch, from the first dial to the last answer. Times are seconds of one clock.

    :param visits: in the order in which they shall begin, each with its lane: the proxy command, None without
    :param slots: logins at the same time
    :param lanes: proxy command: logins through it at the same time
    :param closes_at: after this no visit begins; those under way end
    :param failed_last_time: number of the visits, the last ones, to hosts that failed last time
    :param patience: seconds after which a step is overdue; so long after ``closes_at`` every step is
    :ivar dialling: number of a visit: when its dial began
    :ivar asking: number of a visit: its lane, and when it got its slot
    :ivar parked: heap of when to ask again, and number of a visit
    """

    visits: Sequence[tuple[AnyVisit, str | None]]
    slots: int
    lanes: Mapping[str, int] = field(default_factory=dict)
    closes_at: float = float("inf")
    failed_last_time: int = 0
    patience: float = float("inf")
    dialling: dict[int, float] = field(init=False, default_factory=dict)
    asking: dict[int, tuple[str | None, float]] = field(init=False, default_factory=dict)
    parked: list[tuple[float, int]] = field(init=False, default_factory=list)
    _direct: deque[int] = field(init=False, default_factory=deque)
    _failed: deque[int] = field(init=False, default_factory=deque)
    _by_lane: dict[str, deque[int]] = field(init=False, default_factory=dict)
    _ready: deque[int] = field(init=False, default_factory=deque)
    _numbers: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self._numbers = {id(visit): number for number, (visit, _) in enumerate(self.visits)}
        for number, (_, lane) in enumerate(self.visits):
            queue = self._failed if self._has_failed(number) else self._direct
            if lane is not None:
                queue = self._by_lane.setdefault(lane, deque())
            queue.append(number)

    def dials(self, now: float) -> list[AnyVisit]:
        """Visits whose host is dialled now. Each is :meth:`dialled` or :meth:`done` later.

        As many connections are opened ahead as there are slots: no host waits long for a login, and no slot for a host.
        A dial that takes long does not count, or dead hosts would stop it.
        """
        found: list[AnyVisit] = []
        while now < self.closes_at and len(self.dialling) < MAX_DIALS and (queue := self._to_dial(now)) is not None:
            number = queue.popleft()
            self.dialling[number] = now
            found.append(self.visits[number][0])
        return found

    def _to_dial(self, now: float) -> deque[int] | None:
        if len(self._ready) >= self.slots:
            return None
        failed = sum(map(self._has_failed, self.dialling))
        if self._failed and (failed < MAX_FAILED_LAST_TIME or not self._direct):
            return self._failed
        is_room = len(self._fresh(now)) + len(self._ready) < self.slots
        return self._direct if self._direct and is_room else None

    def _fresh(self, now: float) -> list[float]:
        """When the dials began that may end any moment. Those to hosts that failed last time are not among them."""
        dials = self.dialling.items()
        return [begun for number, begun in dials if now < begun + FRESH and not self._has_failed(number)]

    def next(self, now: float) -> tuple[Turn, AnyVisit] | None:
        """The use of the next free slot, which is taken until the visit is parked or done.

        A host that waits for the second question comes first: its connection is open, and that question confirms a loss
        only if it comes in time.
        """
        if len(self.asking) >= self.slots:
            return None
        if self.parked and self.parked[0][0] <= now:
            _, number = heapq.heappop(self.parked)
            self.asking[number] = None, now
            return Turn.ASK_AGAIN, self.visits[number][0]
        heads: list[tuple[int, str | None]] = [(self._ready[0], None)] if self._ready else []
        if now < self.closes_at:
            heads += [(queue[0], lane) for lane, queue in self._by_lane.items() if queue and self._has_room(lane)]
        if not heads:
            return None
        number, lane = min(heads, key=lambda head: head[0])
        (self._ready if lane is None else self._by_lane[lane]).popleft()
        self.asking[number] = lane, now
        return Turn.ASK, self.visits[number][0]

    def wake_at(self, now: float) -> float | None:
        """When there may be a next step although no visit changes until then; None if there is no such time."""
        times = [self.parked[0][0]] if self.parked and len(self.asking) < self.slots else []
        if self._direct and len(self.dialling) < MAX_DIALS:
            times += [begun + FRESH for begun in self._fresh(now)]
        if self._waiting() and now < self.closes_at < float("inf"):
            times.append(self.closes_at)
        return min(times, default=None)

    def dialled(self, visit: AnyVisit) -> None:
        """The first bytes of the host came."""
        number = self._numbers[id(visit)]
        del self.dialling[number]
        self._ready.append(number)

    def park(self, visit: AnyVisit, until: float) -> None:
        """Free the slot until the host is asked once more."""
        number = self._numbers[id(visit)]
        del self.asking[number]
        heapq.heappush(self.parked, (until, number))

    def done(self, visit: AnyVisit) -> None:
        """A visit is over."""
        number = self._numbers[id(visit)]
        self.dialling.pop(number, None)
        self.asking.pop(number, None)

    def give_up(self, now: float) -> list[AnyVisit]:
        """End the visits that are overdue and return them; their later results do not count."""
        if now >= self.closes_at + self.patience:
            found = [*self.dialling, *self.asking, *self._ready, *(number for _, number in self.parked)]
            self._ready.clear()
            self.parked.clear()
        else:
            begun = self.dialling | {number: since for number, (_, since) in self.asking.items()}
            found = [number for number, since in begun.items() if now - since >= self.patience]
        given_up = [self.visits[number][0] for number in sorted(found)]
        for visit in given_up:
            self.done(visit)
        return given_up

    def is_under_way(self, visit: AnyVisit) -> bool:
        """Whether the host is dialled or asked just now."""
        number = self._numbers[id(visit)]
        return number in self.dialling or number in self.asking

    def is_over(self, now: float) -> bool:
        """Whether no visit is under way and none will begin."""
        under_way = self.dialling or self._ready or self.parked or self.asking
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
        return sum(1 for other, _ in self.asking.values() if other == lane) < self.lanes.get(lane, self.slots)
