"""A batch at work, with real threads and hosts that are scripted."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from portmon.errors import OverrunError
from portmon.scan.pool import LoginPool

PATIENCE = 30.0


@dataclass(eq=False)
class Scripted:
    """A visit that does what the test says, and writes down what was asked of it."""

    name: str
    lane: str | None = None
    pause: float | None = None
    on_dial: Callable[[], None] = lambda: None
    on_ask: Callable[[], None] = lambda: None
    on_again: Callable[[], None] = lambda: None
    done: list[str] = field(default_factory=list)

    def dial(self) -> None:
        self.done.append("dial")
        self.on_dial()

    def ask(self) -> float | None:
        self.done.append("ask")
        self.on_ask()
        return self.pause

    def ask_again(self) -> None:
        self.done.append("again")
        self.on_again()

    def close(self) -> None:
        self.done.append("close")


def drain(pool: LoginPool[Scripted]) -> dict[str, BaseException | None]:
    found: dict[str, BaseException | None] = {}
    while (taken := pool.take(most=3, seconds=0.2)) is not None:
        assert len(taken) <= 3
        for visit, error in taken:
            assert visit.name not in found
            found[visit.name] = error
    return found


def fail(error: BaseException) -> Callable[[], None]:
    def raising() -> None:
        raise error

    return raising


def test_every_visit_ends_once_whatever_becomes_of_it() -> None:
    lost, refused, silence = OSError("lost"), KeyError("refused"), ValueError("silence")
    visits = [
        *(Scripted(f"fine{number}") for number in range(50)),
        Scripted("dead", on_dial=fail(lost)),
        Scripted("refusing", on_ask=fail(refused)),
        Scripted("missing", pause=0.05),
        Scripted("silence", pause=0.05, on_again=fail(silence)),
        Scripted("behind", lane="bastion"),
    ]
    with LoginPool(visits, slots=4, lanes={"bastion": 1}) as pool:
        found = drain(pool)
    assert {name: error for name, error in found.items() if error} == {
        "dead": lost,
        "refusing": refused,
        "silence": silence,
    }
    assert len(found) == len(visits)
    done = {visit.name: [what for what in visit.done if what != "close"] for visit in visits}
    assert done["fine7"] == ["dial", "ask"]
    assert done["dead"] == ["dial"]
    assert done["missing"] == done["silence"] == ["dial", "ask", "again"]
    assert done["behind"] == ["ask"]
    assert all(visit.done[-1] == "close" for visit in visits)


def test_none_is_fine() -> None:
    with LoginPool([], slots=4) as pool:
        assert drain(pool) == {}


def test_hosts_that_wait_for_the_second_question_hold_no_thread() -> None:
    """Five times as many as there are threads wait, while others are asked."""
    others = threading.Barrier(2)
    waiting = [Scripted(f"waiting{number}", pause=3600) for number in range(10)]
    last = Scripted("last", on_ask=lambda: others.wait(PATIENCE) and None)
    with LoginPool([*waiting, last], slots=2) as pool:
        others.wait(PATIENCE)
        ((ended, error),) = pool.take(most=1, seconds=PATIENCE) or []
        assert (ended, error) == (last, None)
        # Hosts are asked in the order in which they are ready: this one need not be the last.
        deadline = time.monotonic() + PATIENCE
        while pool.parked() < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pool.parked() == 10
        assert all(visit.done == ["dial", "ask"] for visit in waiting)
    assert all(visit.done[-1] == "close" for visit in waiting)


def test_dials_that_hang_hold_no_login() -> None:
    over = threading.Event()
    hanging = [Scripted(f"hanging{number}", on_dial=lambda: over.wait(PATIENCE) and None) for number in range(20)]
    healthy = [Scripted(f"healthy{number}") for number in range(20)]
    with LoginPool([*hanging, *healthy], slots=2) as pool:
        ended = []
        while len(ended) < 20:
            ended += pool.take(most=20, seconds=PATIENCE) or []
        assert {visit.name for visit, _ in ended} == {visit.name for visit in healthy}
        over.set()
        assert len(drain(pool)) == 20


def test_a_thread_dials_one_host_after_the_other() -> None:
    """To start a thread costs more than to dial a host that is there."""
    threads: set[int] = set()
    visits = [Scripted(str(number), on_dial=lambda: threads.add(threading.get_ident())) for number in range(300)]
    with LoginPool(visits, slots=2) as pool:
        before = {thread.ident for thread in threading.enumerate()}
        assert len(drain(pool)) == 300
    # Two are dialled ahead; one more may be started while another is about to wait.
    assert len(threads - before) <= 4


def test_hosts_that_are_to_be_dialled_when_it_stops_are_not() -> None:
    begun, over = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        assert over.wait(PATIENCE)

    visits = [Scripted(str(number), on_dial=hang) for number in range(50)]
    with LoginPool(visits, slots=1) as pool:
        assert begun.wait(PATIENCE)
        pool.stop()
        dialled = [visit for visit in visits if "dial" in visit.done]
        over.set()
        wait_for_threads(pool)
    assert [visit for visit in visits if "dial" in visit.done] == dialled


def test_hosts_that_wait_for_a_dial_when_it_stops_wait_in_vain() -> None:
    """The thread that would have dialled them next ends instead."""
    visits = [Scripted(str(number)) for number in range(3)]
    pool = LoginPool(visits, slots=1)
    pool._to_dial += visits
    assert pool._wait_for_dial() is visits[0]
    pool.stop()
    assert pool._wait_for_dial() is None


def test_comes_back_for_so_many_at_once() -> None:
    """Not for each: the sweep stores them together, and waking it up is part of what a host costs."""
    visits = [Scripted(str(number)) for number in range(30)]
    with LoginPool(visits, slots=4) as pool:
        taken = [len(pool.take(most=10, seconds=PATIENCE) or []) for _ in range(3)]
        assert taken == [10, 10, 10]
        assert pool.take(most=10, seconds=PATIENCE) is None


def test_no_more_logins_than_slots() -> None:
    lock, now, most = threading.Lock(), [0], [0]
    meet = threading.Barrier(3)

    def ask() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        # Only passed by three at a time.
        meet.wait(PATIENCE)
        with lock:
            now[0] -= 1

    visits = [Scripted(str(number), on_ask=ask) for number in range(30)]
    with LoginPool(visits, slots=3) as pool:
        assert not any(drain(pool).values())
    assert most[0] == 3


def test_stopping_hangs_up_on_everybody_and_begins_nothing() -> None:
    begun, hung_up, ended = threading.Event(), threading.Event(), threading.Event()

    def ask() -> None:
        begun.set()
        assert hung_up.wait(PATIENCE)
        ended.set()
        raise OSError("the peer hung up")

    class Busy(Scripted):
        def close(self) -> None:
            super().close()
            hung_up.set()

    busy = Busy("busy", lane="bastion", on_ask=ask)
    rest = [Scripted(str(number), lane="bastion") for number in range(5)]
    with LoginPool([busy, *rest], slots=1, lanes={"bastion": 1}) as pool:
        assert begun.wait(PATIENCE)
        pool.stop()
        assert ended.wait(PATIENCE)
        # Its failure is our doing, and nothing that is known of the host.
        wait_for_threads(pool)
        assert pool.take(most=1, seconds=PATIENCE) is None
    assert all("ask" not in visit.done for visit in rest)
    assert pool.untried() == rest


def wait_for_threads(pool: LoginPool[Scripted]) -> None:
    for thread in pool._threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_what_its_time_does_not_suffice_for_is_untried() -> None:
    now = [0.0]
    first = Scripted("first", on_ask=lambda: now.__setitem__(0, 100.0))
    rest = [Scripted(str(number)) for number in range(3)]
    with LoginPool([first, *rest], slots=1, seconds=60, clock=lambda: now[0]) as pool:
        found = drain(pool)
        # One was dialled while the first was asked, and so was under way.
        assert set(found) == {"first", "0"}
        assert pool.untried() == rest[1:]


@pytest.mark.parametrize("slots", [1, 16])
def test_many(slots: int) -> None:
    visits = [Scripted(str(number), pause=0.001 if number % 7 == 0 else None) for number in range(500)]
    with LoginPool(visits, slots=slots) as pool:
        assert len(drain(pool)) == 500


# ── visits that do not come back ────────────────────────────────────────────────────────────────


def stuck(over: threading.Event) -> Callable[[], None]:
    return lambda: over.wait(PATIENCE) and None


def take_all(pool: LoginPool[Scripted], move: Callable[[], None]) -> dict[str, BaseException | None]:
    """What comes out while time passes."""
    found: dict[str, BaseException | None] = {}
    deadline = time.monotonic() + PATIENCE
    while (taken := pool.take(most=1, seconds=0)) is not None:
        assert time.monotonic() < deadline
        found |= {visit.name: error for visit, error in taken}
        if not taken:
            time.sleep(0.001)
            move()
    return found


@pytest.mark.parametrize("step", ["dial", "ask", "again", "close"])
def test_a_visit_that_does_not_come_back_is_given_up(step: str) -> None:
    """Its slot is free for others, and the end does not wait for it."""
    over = threading.Event()
    now = [0.0]

    class Hanging(Scripted):
        def close(self) -> None:
            if step == "close":
                over.wait(PATIENCE)
            super().close()

    hang = {f"on_{step}": stuck(over)} if step != "close" else {}
    hanging = [Hanging(f"hanging{number}", pause=0.0 if step == "again" else None, **hang) for number in range(3)]
    healthy = [Scripted(f"healthy{number}") for number in range(20)]
    with LoginPool([*hanging, *healthy], slots=2, seconds=1000, patience=90, clock=lambda: now[0]) as pool:
        found = take_all(pool, lambda: now.__setitem__(0, now[0] + 1))
        # Long before the end: those that hang had two of two slots, and gave them back.
        assert now[0] < 500
        assert set(found) == {visit.name for visit in [*hanging, *healthy]}
        assert {name for name, error in found.items() if isinstance(error, OverrunError)} == {
            one.name for one in hanging
        }
        over.set()
    assert pool.take(most=1, seconds=0) is None


def test_the_end_waits_for_nothing_that_hangs() -> None:
    over = threading.Event()
    now = [0.0]
    parked = Scripted("parked", pause=10_000)
    hanging = [Scripted(f"hanging{number}", on_ask=stuck(over)) for number in range(2)]
    rest = [Scripted(f"rest{number}") for number in range(50)]
    with LoginPool([parked, *hanging, *rest], slots=2, seconds=50, patience=90, clock=lambda: now[0]) as pool:
        found = take_all(pool, lambda: now.__setitem__(0, now[0] + 1))
        assert now[0] <= 150
        over.set()
    assert isinstance(found["hanging0"], OverrunError)
    untried = {visit.name for visit in pool.untried()}
    # Whatever was under way is told, and what was not is named.
    assert set(found) | untried == {visit.name for visit in [parked, *hanging, *rest]}
    assert not set(found) & untried


def test_what_comes_of_a_visit_that_was_given_up_is_not_told() -> None:
    over = threading.Event()
    now = [0.0]
    threads: list[threading.Thread] = []

    def late() -> None:
        threads.append(threading.current_thread())
        assert over.wait(PATIENCE)

    visits = [Scripted("late", on_ask=late), Scripted("parked", pause=300)]
    with LoginPool(visits, slots=2, patience=90, clock=lambda: now[0]) as pool:
        deadline = time.monotonic() + PATIENCE
        while pool.parked() < 1 or not threads:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        now[0] = 100.0
        ((ended, error),) = pool.take(most=1, seconds=PATIENCE) or []
        assert ended is visits[0]
        assert isinstance(error, OverrunError)
        over.set()
        # Another one is in its place.
        threads[0].join(PATIENCE)
        assert not threads[0].is_alive()
        now[0] = 300.0
        with pool._changed:
            pool._changed.notify_all()
        assert drain(pool) == {"parked": None}


def test_a_process_ends_although_visits_hang() -> None:
    """Threads of ours and those of paramiko, which it joins at exit."""
    script = """
import socket, threading, time
import paramiko
from portmon.ssh.target import Options
from portmon.ssh.transport import Transport
from portmon.ssh.trust import KnownKeys
from portmon.scan.pool import LoginPool

class Hanging:
    lane = None
    def dial(self):
        self.ends = socket.socketpair()
    def ask(self):
        transport = Transport(self.ends[0], Options(), KnownKeys())
        transport._check_banner = lambda: threading.Event().wait()
        transport.start_client(timeout=3600)
    def ask_again(self):
        pass
    def close(self):
        threading.Event().wait()

import portmon.scan.pool as module
from datetime import timedelta
module.HANG_UP = timedelta(seconds=0.1)
with LoginPool([Hanging() for _ in range(5)], slots=2, seconds=0.5, patience=0.5) as pool:
    while (taken := pool.take(most=1, seconds=0.1)) is not None:
        for visit, error in taken:
            print(type(error).__name__)
print(len(pool.untried()), "untried")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=2 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split().count("OverrunError") >= 2
    assert "untried" in done.stdout
