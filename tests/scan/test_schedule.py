"""What a batch does next, in simulated time."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.scan.schedule import MAX_DIALS, MAX_FAILED_LAST_TIME, Schedule, Turn

CONNECT = 10.0
PAUSE = 15.0


@dataclass(eq=False, slots=True)
class Host:
    """A host, by how long things take there, in seconds.

    :param dial: until it says something; more than the time-out: never
    :param ask: login and command
    :param parks: something is missing in the first answer
    """

    name: str = ""
    dial: float = 0.01
    ask: float = 0.2
    parks: bool = False
    lane: str | None = None
    began: float | None = None
    ended: float | None = None
    steps: int = 0


class Simulation:
    """Carries a schedule out with a clock of its own, as threads do with the real one."""

    def __init__(
        self,
        hosts: Sequence[Host],
        *,
        slots: int,
        closes_at: float = float("inf"),
        failed_last_time: int = 0,
        **lanes: int,
    ) -> None:
        self.schedule = Schedule(
            [(one, one.lane) for one in hosts],
            slots=slots,
            lanes=lanes,
            closes_at=closes_at,
            failed_last_time=failed_last_time,
        )
        self.slots = slots
        self.now = 0.0
        self.events: list[tuple[float, int, str, Host]] = []
        self.count = itertools.count()
        self.asking: dict[str, Host] = {}
        self.most = Counter[str]()

    def run(self) -> float:
        """To the end.

        :returns: when that is
        """
        for _ in range(100_000):
            self.begin()
            if self.schedule.is_over(self.now):
                return self.now
            times = [self.events[0][0]] if self.events else []
            if (wake_at := self.schedule.wake_at(self.now)) is not None:
                times.append(wake_at)
            assert times, "nothing would ever happen again"
            self.now = max(self.now, min(times))
            while self.events and self.events[0][0] <= self.now:
                _, _, what, host = heapq.heappop(self.events)
                self.end(what, host)
        raise AssertionError("no end")

    def begin(self) -> None:
        for host in self.schedule.dials(self.now):
            assert host.lane is None
            host.began = self.now
            self.later(min(host.dial, CONNECT), "dialled" if host.dial <= CONNECT else "failed", host)
        while (job := self.schedule.next(self.now)) is not None:
            turn, host = job
            assert len(self.asking) < self.slots
            host.began = self.now if host.began is None else host.began
            host.steps += 1
            self.asking[host.name] = host
            self.most["asking"] = max(self.most["asking"], len(self.asking))
            # To ask once more needs no new login.
            for lane, count in Counter(one.lane for one in self.asking.values() if one.steps < 2).items():
                self.most[str(lane)] = max(self.most[str(lane)], count)
            assert turn is (Turn.ASK if host.steps == 1 else Turn.ASK_AGAIN)
            self.later(host.ask, "answered", host)

    def later(self, seconds: float, what: str, host: Host) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.count), what, host))

    def end(self, what: str, host: Host) -> None:
        if what == "dialled":
            self.schedule.dialled(host)
            return
        self.asking.pop(host.name, None)
        if what == "answered" and host.parks and host.steps == 1:
            self.schedule.park(host, self.now + PAUSE)
            return
        self.schedule.done(host)
        assert host.ended is None
        host.ended = self.now


def crowd(count: int, **values: object) -> list[Host]:
    return [Host(f"{count}-{values}-{number}", **values) for number in range(count)]  # type: ignore[arg-type]


@given(
    hosts=st.lists(
        st.builds(
            Host,
            dial=st.sampled_from([0.01, 0.5, 3.0, 11.0]),
            ask=st.sampled_from([0.1, 1.0, 20.0]),
            parks=st.booleans(),
            lane=st.sampled_from([None, None, "a", "b"]),
        ),
        max_size=60,
    ),
    slots=st.integers(1, 8),
    a=st.integers(1, 4),
    failed_last_time=st.integers(0, 60),
)
def test_every_host_is_visited_once_and_limits_hold(
    hosts: list[Host], slots: int, a: int, failed_last_time: int
) -> None:
    for number, host in enumerate(hosts):
        host.name = str(number)
    run = Simulation(hosts, slots=slots, a=a, failed_last_time=min(failed_last_time, len(hosts)))
    run.run()
    assert all(host.ended is not None for host in hosts)
    assert run.most["asking"] <= slots
    assert run.most["a"] <= a
    for host in hosts:
        if host.lane is None and host.dial > CONNECT:
            assert host.steps == 0
        else:
            assert host.steps == 1 + host.parks
    assert run.schedule.untried() == []


@pytest.mark.parametrize("dead", ["first", "last", "between"])
def test_a_tenth_of_dead_hosts_costs_their_time_out_and_little_more(dead: str) -> None:
    """Not the time-out times their number, by logins: a host that does not answer holds none."""
    alive = crowd(225)
    alone = Simulation(alive, slots=4).run()
    healthy, gone = crowd(225, ask=0.2), crowd(25, dial=99.0)
    order = {"first": gone + healthy, "last": healthy + gone, "between": []}[dead]
    for number in range(25 if dead == "between" else 0):
        order += [*healthy[9 * number : 9 * number + 9], gone[number]]
    together = Simulation(order, slots=4).run()
    assert together <= 1.2 * alone + CONNECT
    # Who is there does not wait for who is not.
    assert max(host.ended or 0 for host in healthy) <= 1.2 * alone + 1


def test_what_was_dead_last_time_costs_nothing_beside_the_others() -> None:
    """Their time-outs pass while the others are asked."""
    alone = Simulation(crowd(225), slots=4).run()
    assert alone > CONNECT
    healthy, gone = crowd(225), crowd(25, dial=99.0)
    assert Simulation([*healthy, *gone], slots=4, failed_last_time=25).run() <= alone + 0.5
    assert max(host.ended or 0 for host in healthy) <= alone + 0.5


@pytest.mark.parametrize("known", [MAX_FAILED_LAST_TIME, 3 * MAX_DIALS])
def test_however_many_were_dead_last_time_the_others_do_not_wait_for_them(known: int) -> None:
    alone = Simulation(crowd(100), slots=4).run()
    healthy, gone = crowd(100), crowd(known, dial=99.0)
    run = Simulation([*healthy, *gone], slots=4, failed_last_time=known)
    assert run.run() <= alone + CONNECT * -(-known // MAX_FAILED_LAST_TIME) + 1
    assert max(host.ended or 0 for host in healthy) <= alone + 0.5


def test_who_is_back_is_asked_as_others_are() -> None:
    hosts = crowd(3 * MAX_FAILED_LAST_TIME)
    run = Simulation(hosts, slots=4, failed_last_time=len(hosts))
    assert run.run() == pytest.approx(len(hosts) * 0.2 / 4, abs=1.0)


def test_a_dead_rack_and_more_than_can_be_dialled_at_once() -> None:
    gone, healthy = crowd(2 * MAX_DIALS, dial=99.0), crowd(100)
    assert Simulation(gone + healthy, slots=4).run() <= 4 * CONNECT + 100


def test_a_parked_host_holds_no_slot() -> None:
    """Ten times as many hosts wait for their second question as there are slots."""
    waiting, others = crowd(40, parks=True), crowd(40, ask=0.2)
    run = Simulation([*waiting, *others], slots=4)
    together = run.run()
    assert max(host.ended or 0 for host in others) < PAUSE
    assert together <= PAUSE + 40 * 0.2 / 4 * 2 + 1


def test_the_second_question_comes_before_the_next_host() -> None:
    first = Host("first", parks=True)
    run = Simulation([first, *crowd(1000)], slots=1)
    run.run()
    assert first.ended is not None
    assert first.ended <= 0.01 + 0.2 + PAUSE + 2 * 0.2 + 1


def test_few_connections_are_opened_ahead() -> None:
    """A connection that waits long for its login looks like an attack to the host."""
    hosts = crowd(100)
    schedule = Schedule([(one, None) for one in hosts], slots=4)
    dialled = schedule.dials(0.0)
    assert dialled == hosts[:4]
    for host in dialled:
        schedule.dialled(host)
    assert schedule.dials(0.1) == []
    assert schedule.next(0.1) == (Turn.ASK, hosts[0])
    assert schedule.dials(0.1) == [hosts[4]]


def test_nothing_begins_after_the_end_of_its_time() -> None:
    hosts = crowd(100, ask=1.0)
    hosts[0].parks = True
    run = Simulation(hosts, slots=2, closes_at=5.0)
    assert run.run() >= PAUSE
    assert hosts[0].ended is not None
    begun = [host for host in hosts if host.began is not None]
    assert all(host.ended is not None for host in begun)
    assert run.schedule.untried() == [host for host in hosts if host.began is None]
    assert 10 <= len(begun) <= 16


def test_a_lane_that_is_full_holds_up_no_other() -> None:
    behind, direct = crowd(20, lane="bastion", ask=1.0), crowd(20)
    run = Simulation([*behind, *direct], slots=8, bastion=2)
    assert run.run() == pytest.approx(10.0, abs=1.0)
    assert run.most["bastion"] == 2
    assert max(host.ended or 0 for host in direct) < 3


def test_a_wake_up_has_a_next_step() -> None:
    """However the times are rounded: a thread that wakes up for nothing would wait for no time, again and again."""
    for begun in (number / 100 for number in range(1000)):
        schedule = Schedule([(one, None) for one in crowd(2)], slots=1)
        schedule.dials(begun)
        wake_at = schedule.wake_at(begun)
        assert wake_at is not None
        assert len(schedule.dials(wake_at)) == 1
