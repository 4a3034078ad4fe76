"""The scheduler was off for a day: one run brings everything up to date."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from portmon.config import Config
from portmon.model.alert import DeliveryState
from portmon.model.event_kinds import EventKind
from portmon.storage import deliveries, tables
from portmon.storage.database import Database
from tests.worlds.fleet import MONDAY, TWO, Fleet, web_fleet

RUNS_OF_A_DAY = 288
LAST = "2026-03-02 00:05"
FIRST = "2026-03-03 00:10"


@pytest.fixture
def fleet(database: Database) -> Fleet:
    """Two runs, then none for a day."""
    made = Fleet(database, Config(states={"down_after": 1}))
    for number in range(40):
        made.add(f"web{number:02}", {22: "sshd", 80: "nginx", 443: "nginx"})
    made.run()
    made.run()
    made.number += RUNS_OF_A_DAY
    assert made.now - MONDAY == timedelta(days=1, minutes=10)
    return made


def test_what_changed_and_changed_back_is_not_told(fleet: Fleet) -> None:
    """It is as it was, with another pid: a note, which goes to no channel."""
    for machine in fleet.machines.values():
        machine.restart(80)
    events = fleet.run()
    assert {event.kind for event in events} == {EventKind.RESTARTED}
    assert fleet.got == []


def test_what_changed_meanwhile_says_between_which_looks(fleet: Fleet) -> None:
    fleet.machines["web00"].kill(80)
    fleet.machines["web01"].start(8080, "java")
    fleet.machines["web02"].services[80] = ("caddy", 7)
    told = {event.kind: event for event in fleet.run()}
    assert set(told) == {EventKind.DOWN, EventKind.NEW, EventKind.REPLACED}
    for event in told.values():
        assert f"; it happened between {LAST} and {FIRST} UTC, while nobody looked" in event.reason
        assert event.details["between"] == ["2026-03-02T00:05:00+00:00", "2026-03-03T00:10:00+00:00"]
    # The next run is one like others.
    fleet.machines["web00"].start(80, "nginx")
    (recovered,) = fleet.run()
    assert recovered.kind is EventKind.RECOVERED
    assert "nobody looked" not in recovered.reason
    assert "between" not in recovered.details


def test_what_went_on_is_not_said_to_have_happened_then(fleet: Fleet) -> None:
    """A port that was down before, one that must listen since today."""
    fleet.number -= RUNS_OF_A_DAY
    fleet.machines["web00"].kill(80)
    fleet.run()
    fleet.number += RUNS_OF_A_DAY
    fleet.config = Config(declared=[{"host": "web01", "port": 9000}])
    (down,) = fleet.run()
    assert (down.kind, down.host_name, down.port) == (EventKind.DOWN, "web01", 9000)
    assert "nobody looked" not in down.reason


@pytest.mark.parametrize(("missed", "said"), [(2, False), (3, True)])
def test_a_few_missed_runs_are_nothing_to_speak_of(fleet: Fleet, missed: int, said: bool) -> None:
    """A pause of three intervals, or of four."""
    fleet.number -= RUNS_OF_A_DAY - missed
    fleet.machines["web00"].kill(80)
    (down,) = fleet.run()
    assert ("nobody looked" in down.reason) is said


def test_months_without_an_observation_give_up_no_port(fleet: Fleet) -> None:
    fleet.machines["web00"].kill(80)
    for _ in range(2):
        fleet.number += 31 * RUNS_OF_A_DAY
        told = [event.kind for event in (*fleet.run(), *fleet.run())]
        assert EventKind.RETIRED not in told
    fleet.number += RUNS_OF_A_DAY
    assert fleet.run() == []


def test_a_host_that_gave_no_evidence_for_long_was_not_seen_either(fleet: Fleet) -> None:
    fleet.number -= RUNS_OF_A_DAY
    machine = fleet.machines["web00"]
    machine.trouble = "timeout"
    for _ in range(6):
        fleet.run()
    machine.trouble = None
    machine.kill(80)
    down = next(event for event in fleet.run() if event.kind is EventKind.DOWN)
    assert "it happened between 2026-03-02 00:05 and 2026-03-02 00:40 UTC, while nobody looked" in down.reason


def test_a_day_of_changes_is_no_flood(fleet: Fleet) -> None:
    for number, machine in enumerate(fleet.machines.values()):
        machine.kill(80)
        machine.start(8000 + number, "java")
    events = fleet.run()
    assert len(events) == 80
    # One message for each kind, to each of the channels.
    assert len(fleet.got) == 2
    count = len(fleet.got)
    assert fleet.run() == []
    assert len(fleet.got) == count


def test_the_first_run_after_a_long_pause_deletes_and_gives_up_nothing(database: Database) -> None:
    fleet = web_fleet(database, 2, TWO + "  give_up_after: 1h\nretention: {observations: 12h, events: 12h}\n")
    fleet.dead = {"pager"}
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.number += RUNS_OF_A_DAY + 3

    def kept() -> tuple[int, list[DeliveryState]]:
        """Observations from before the pause, and deliveries of the down."""
        with database.begin() as conn:
            old = select(func.count()).select_from(tables.observations)
            count = conn.execute(
                old.where(tables.observations.c.observed_at < MONDAY + timedelta(hours=1))
            ).scalar_one()
            return count, [one.state for one in deliveries.unfinished(conn)]

    fleet.run()
    assert kept() == (4, [DeliveryState.PENDING])
    fleet.run()
    assert kept() == (0, [])
