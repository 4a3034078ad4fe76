"""Calls that are made unless they are called off in time."""

from __future__ import annotations

import threading
import weakref

import pytest

from portmon.ssh.watchdog import Watchdog
from tests.worlds.waiting import until

PATIENCE = 30.0
NEVER = 3600.0


def test_calls_when_the_time_is_over() -> None:
    called = threading.Event()
    with Watchdog().alarm(0.01, called.set) as alarm:
        assert called.wait(PATIENCE)
        assert alarm.rang


def test_what_is_called_off_is_not_called() -> None:
    """Another alarm, which is due later, says that the time of the first one is over."""
    dog, late = Watchdog(), threading.Event()
    calls: list[str] = []
    with dog.alarm(0.05, lambda: calls.append("called off")) as alarm:
        pass
    with dog.alarm(0.1, late.set):
        assert late.wait(PATIENCE)
    assert (calls, alarm.rang) == ([], False)


def test_the_first_to_be_due_need_not_be_the_first_to_be_set() -> None:
    dog = Watchdog()
    # From the second time on it waits for the others, unless it is told.
    for _ in range(10):
        called = threading.Event()
        with dog.alarm(NEVER, lambda: None), dog.alarm(0.01, called.set):
            assert called.wait(PATIENCE)


def test_a_call_that_hangs_holds_up_no_other() -> None:
    dog, called, over = Watchdog(), threading.Event(), threading.Event()
    with dog.alarm(0.01, lambda: over.wait(PATIENCE)), dog.alarm(0.02, called.set):
        assert called.wait(PATIENCE)
    over.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_that_fails_ends_nothing() -> None:
    dog, called = Watchdog(), threading.Event()

    def fail() -> None:
        raise OSError("nothing to hang up on")

    with dog.alarm(0.01, fail), dog.alarm(0.02, called.set):
        assert called.wait(PATIENCE)


def test_holds_nothing_of_what_is_over() -> None:
    """Else a sweep would keep the connections of all hosts until the time of their commands is over."""

    class Connection:
        def close(self) -> None:
            pass

    dog, connection = Watchdog(), Connection()
    gone = weakref.ref(connection)
    with dog.alarm(NEVER, connection.close):
        pass
    del connection
    # Its thread may just be looking at the alarm that was set.
    until(lambda: gone() is None, "the watchdog lets go of the connection", seconds=PATIENCE)


def test_one_thread_for_all() -> None:
    before = threading.active_count()
    dog = Watchdog()
    for _ in range(100):
        with dog.alarm(NEVER, lambda: None):
            assert threading.active_count() == before + 1
