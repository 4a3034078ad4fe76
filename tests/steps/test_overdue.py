"""Whether runs take longer than the time between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from portmon.config import Config
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.steps.overdue import OVERDUE, report_overdue
from portmon.steps.run import Run
from portmon.storage import alerts, conditions, events
from portmon.storage.database import Database
from tests.worlds.databases import migrated, start_run
from tests.worlds.fleet import Fleet

NOW = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
FIVE = timedelta(minutes=5)
SECOND = timedelta(seconds=1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = migrated(tmp_path / "state.db")
    yield made
    made.dispose()


class Clock:
    """Runs that begin, and come to their alerts after a while."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = NOW
        self.number = 0

    def begin(self, run_type: str = "scheduled") -> Run:
        self.number += 1
        run = Run(f"run{self.number}", run_type=run_type)
        with self.database.begin() as conn:
            start_run(conn, run.run_id, self.now, run_type=run_type)
        return run

    def report(self, run: Run, *, interval: timedelta = FIVE) -> bool:
        return report_overdue(self.database, run, interval=interval, now=self.now)

    def run(self, took: timedelta, *, run_type: str = "scheduled", interval: timedelta = FIVE) -> bool:
        """A whole run; the next one begins when it is over."""
        run = self.begin(run_type)
        self.now += took
        return self.report(run, interval=interval)

    def events(self) -> list[Event]:
        with self.database.begin() as conn:
            return events.recent(conn)

    def told(self) -> list[tuple[str, str]]:
        return [(event.kind.value, event.run_id) for event in self.events()]


@pytest.fixture
def clock(database: Database) -> Clock:
    return Clock(database)


def test_it_is_told_once_and_its_end_once(clock: Clock) -> None:
    assert not clock.run(2 * SECOND)
    assert clock.told() == []
    for took in (FIVE + SECOND, 3 * FIVE):
        assert clock.run(took)
        assert clock.told() == [("run_overdue", "run2")]
    for _ in range(2):
        assert not clock.run(FIVE - SECOND)
        assert clock.told() == [("run_overdue", "run2"), ("run_in_time", "run4")]
    assert clock.run(2 * FIVE)
    assert clock.told()[2:] == [("run_overdue", "run6")]


def test_the_events_say_how_long_and_since_when(clock: Clock) -> None:
    clock.run(FIVE + 61 * SECOND)
    clock.run(59 * SECOND)
    begun, over = clock.events()
    assert (begun.kind, over.kind) == (EventKind.RUN_OVERDUE, EventKind.RUN_IN_TIME)
    assert begun.since == over.since == NOW
    assert begun.at == NOW + FIVE + 61 * SECOND
    assert begun.alert_key == over.alert_key
    assert "took 6m 1s, its interval is 5m" in begun.reason
    assert "took 59s," in over.reason
    assert "ssh.max_logins" in begun.reason


def test_a_run_that_takes_just_its_interval_is_in_time(clock: Clock) -> None:
    assert not clock.run(FIVE)
    assert clock.told() == []


def test_the_task_may_be_tried_again(clock: Clock) -> None:
    run = clock.begin()
    clock.now += 2 * FIVE
    assert clock.report(run)
    clock.now += SECOND
    assert clock.report(run)
    assert clock.told() == [("run_overdue", "run1")]


@pytest.mark.parametrize("run_type", ["manual", "backfill", "asset_triggered"])
def test_a_run_without_a_schedule_is_neither_late_nor_in_time(clock: Clock, run_type: str) -> None:
    assert not clock.run(2 * FIVE, run_type=run_type)
    assert clock.told() == []
    assert clock.run(2 * FIVE)
    assert not clock.run(SECOND, run_type=run_type)
    assert clock.told() == [("run_overdue", "run2")]


def test_without_a_rhythm_nothing_is_late(clock: Clock) -> None:
    assert not clock.run(100 * FIVE, interval=timedelta(0))
    assert clock.told() == []


def test_an_old_run_that_is_cleared_says_nothing(clock: Clock) -> None:
    old = clock.begin()
    clock.now += SECOND
    clock.report(old)
    clock.run(SECOND)
    clock.now += 10 * FIVE
    assert not clock.report(old)
    assert clock.told() == []
    clock.run(2 * FIVE)
    clock.now -= 9 * FIVE
    assert not clock.report(old)
    assert clock.told() == [("run_overdue", "run3")]


def test_a_run_that_is_not_known_says_nothing(clock: Clock) -> None:
    assert not clock.report(Run("unknown", run_type="scheduled"))


def test_the_episode_and_its_event_are_one_transaction(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    run = clock.begin()
    clock.now += 2 * FIVE
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk"):

        def fail(*_: object) -> None:
            raise OSError("disk full")

        patch.setattr(events, "add", fail)
        clock.report(run)
    with clock.database.begin() as conn:
        assert conditions.since(conn, OVERDUE) is None
    assert clock.report(run)
    assert clock.told() == [("run_overdue", "run1")]


def test_people_hear_of_it_once_and_of_its_end_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(database, Config())
    fleet.add("web01", {80: "nginx"})
    for took in (SECOND, FIVE + SECOND, 2 * FIVE, SECOND, SECOND):

        def late(database: Database, run: Run, *, interval: timedelta, now: datetime, took: timedelta = took) -> bool:
            return report_overdue(database, run, interval=interval, now=now + took)

        monkeypatch.setattr("tests.worlds.fleet.report_overdue", late)
        fleet.run()
    assert [got.message.severity.value for got in fleet.got] == ["warning", "info"]
    assert [alert.role.value for got in fleet.got for alert in got.message.alerts] == ["firing", "resolved"]
    assert len({alert.id for got in fleet.got for alert in got.message.alerts}) == 1


@pytest.mark.parametrize("run_type", ["manual", "scheduled"])
def test_it_ends_when_there_is_no_rhythm_any_more(clock: Clock, run_type: str) -> None:
    clock.run(2 * FIVE)
    for _ in range(2):
        assert not clock.run(10 * FIVE, run_type=run_type, interval=timedelta(0))
        assert clock.told() == [("run_overdue", "run1"), ("run_in_time", "run2")]
    begun, over = clock.events()
    assert begun.alert_key == over.alert_key
    assert over.since == begun.since
    assert "no rhythm any more" in over.reason


def test_no_alert_stays_open_when_runs_are_started_by_hand_from_now_on(database: Database) -> None:
    fleet = Fleet(database, Config())
    fleet.add("web01", {80: "nginx"})
    fleet.run()
    run = Run(f"run{fleet.number - 1:05}", run_type="scheduled")
    assert report_overdue(database, run, interval=FIVE, now=fleet.now + timedelta(hours=1))
    fleet.run_type = "manual"
    fleet.run()
    with database.begin() as conn:
        assert alerts.opened(conn)
    report_overdue(database, Run("run", run_type="manual"), interval=timedelta(0), now=fleet.now)
    fleet.route()
    with database.begin() as conn:
        assert alerts.opened(conn) == {}
