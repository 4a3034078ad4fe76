"""What tried runs say about a host itself: messages, flapping, and which cause is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from portmon.engine import hosts, lifecycle
from portmon.engine.conditions import Condition, OpenConditions
from portmon.engine.config import States
from portmon.engine.events import Report
from portmon.engine.hosts import Fleet
from portmon.engine.inputs import EvaluationInputs
from portmon.engine.monitor import Monitor
from portmon.engine.rules import RuleSet
from portmon.engine.state import Draft, HostState
from portmon.model.event_kinds import EventKind
from portmon.model.observation import Listing, Observation, Outcome

START = datetime(2026, 1, 1, tzinfo=UTC)
FIVE = timedelta(minutes=5)


class World:
    """One host and what its runs come to, ``at`` in runs since the start."""

    def __init__(self, **settings: Any) -> None:
        inputs = EvaluationInputs({}, RuleSet([]), States(**settings), FIVE, "run", START)
        pace = lifecycle.pace(inputs.settings, FIVE)
        self.fleet = Fleet(inputs, FIVE, pace, OpenConditions(), Report("run"))
        self.host = HostState("1", name="web1", last_ok_at=START, last_evaluated_at=START, tried_at=START, status="ok")

    def fails(self, at: float, error_class: str = "timeout") -> list[str]:
        look = Observation("1", "run", 1, START + at * FIVE, Outcome.UNREACHABLE, error_class=error_class)
        return self.told(lambda: hosts.failed(self.host, look, self.fleet))

    def answers(self, at: float, boot: bool = False) -> list[str]:
        look = Observation("1", "run", 1, START + at * FIVE, Outcome.OK, listing=Listing("ss", 0))

        def step() -> None:
            hosts.tick(self.host, look, self.fleet)
            draft = Draft(EventKind.REBOOTED, "Its boot id changed") if boot else None
            covered = self.fleet.conditions.includes(Condition.UNREACHABLE, "1")
            hosts.end(self.host, Condition.HOST_KEY, look.observed_at, "It is trusted again", self.fleet)
            hosts.answered(self.host, look.observed_at, self.fleet, draft, covered=covered)

        return self.told(step)

    def shows_owners(self, at: float, shown: bool | None) -> list[str]:
        def step() -> None:
            self.fleet.hiding.clear()
            hosts.names_owners(self.host, START + at * FIVE, self.fleet, shown)
            Monitor({"1": self.host}, self.fleet, None).find_hiding({"1"})

        return self.told(step)

    def told(self, step: Any) -> list[str]:
        before = len(self.fleet.report.events)
        step()
        return [event.kind.value for event in self.fleet.report.events[before:]]

    def is_told(self, condition: Condition) -> bool:
        """Whether it is open, and its alert is."""
        found = self.fleet.conditions.get(condition, "1")
        return found is not None and found.told


@pytest.mark.parametrize(("at", "told"), [(1.49, []), (1.5, ["unreachable"])])
def test_failures_count_once_in_half_an_interval(at: float, told: list[str]) -> None:
    world = World()
    assert world.fails(1) == []
    assert world.fails(at) == told


def test_no_host_becomes_unreachable_while_most_fail() -> None:
    world = World()
    world.fleet.conditions.open(Condition.FLEET, None, START, told=False)
    assert [world.fails(at) for at in (1, 2, 3)] == [[], [], []]
    world.fleet.conditions.end(Condition.FLEET)
    assert world.fails(4) == ["unreachable"]
    assert world.fleet.report.events[-1].details["failures"] == 4


def test_reboots_and_outages_are_changes_of_one_host() -> None:
    world = World(unreachable_after=1)
    told = [world.answers(1, boot=True), world.fails(2), world.answers(3), world.fails(4)]
    assert told == [["rebooted"], ["unreachable"], ["reachable"], ["flapping"]]
    event = world.fleet.report.events[-1]
    assert (event.severity, event.details["state"]) == ("critical", "unreachable")
    # The change at 4 is the last one; each tried run is evidence.
    assert [world.fails(at) for at in range(5, 16)] == [[]] * 11
    assert world.fails(16) == ["stable"]
    assert world.is_told(Condition.UNREACHABLE)
    assert world.answers(17) == ["reachable"]
    assert not world.is_told(Condition.UNREACHABLE)


def test_a_change_an_hour_ago_does_not_count() -> None:
    world = World(unreachable_after=1)
    told = [world.fails(1), world.answers(2), world.fails(3)]
    told += [world.fails(at) for at in range(4, 13)]
    assert [kinds for kinds in told if kinds] == [["unreachable"], ["reachable"], ["unreachable"]]
    assert world.answers(13) == ["reachable"]


def test_a_gap_of_more_than_three_runs_is_one_interval_of_tried_time() -> None:
    world = World(unreachable_after=1)
    world.answers(1, boot=True)
    world.fails(2)
    world.answers(3)
    assert world.fails(4) == ["flapping"]
    for at in (20, 40, 60):
        assert world.fails(at) == []
    assert world.host.tried == 7 * 300


@pytest.mark.parametrize(("known", "told"), [(9, ["unreachable"]), (10, ["flapping"]), (11, ["flapping"]), (12, [])])
def test_the_eleventh_message_of_a_day_is_flapping_and_after_the_twelfth_there_is_none(
    known: int, told: list[str]
) -> None:
    world = World(unreachable_after=1)
    world.host.told = tuple(START - number * FIVE for number in range(known))
    assert world.fails(1) == told
    assert (world.host.presence.flapping_since is not None) == (told != ["unreachable"])
    assert world.is_told(Condition.UNREACHABLE) == (told == ["unreachable"])


@pytest.mark.parametrize(("known", "told"), [(9, ["rebooted"]), (10, [])])
def test_a_reboot_is_not_told_where_there_is_only_room_for_flapping(known: int, told: list[str]) -> None:
    world = World(flap_threshold=9)
    world.host.told = tuple(START - number * FIVE for number in range(known))
    assert [kind for kind in world.answers(1, boot=True) if kind == "rebooted"] == told


def test_a_changed_host_key_is_told_instead_of_unreachable() -> None:
    world = World()
    assert [world.fails(1), world.fails(2)] == [[], ["unreachable"]]
    assert world.fails(3, "host_key_changed") == ["reachable", "host_key_changed"]
    assert world.fails(4) == []
    assert (world.host.status, world.host.failures) == ("unreachable", 4)
    assert (world.is_told(Condition.HOST_KEY), world.is_told(Condition.UNREACHABLE)) == (True, False)
    assert world.answers(5) == ["host_key_restored"]
    assert not world.is_told(Condition.HOST_KEY)


def test_a_host_that_is_not_scanned_is_scanned_by_a_failure() -> None:
    world = World()
    hosts.opens(world.host, Condition.UNSCANNED, Draft(EventKind.UNSCANNED, "No run tried it"), START, world.fleet)
    assert world.fails(1) == ["scanned"]


def test_a_lesser_condition_does_not_open_beside_a_greater_one() -> None:
    world = World()
    world.fails(1, "host_key_changed")
    draft = Draft(EventKind.UNSCANNED, "No run tried it")
    assert world.told(lambda: hosts.opens(world.host, Condition.UNSCANNED, draft, START, world.fleet)) == []
    assert not world.is_told(Condition.UNSCANNED)


def test_what_flapped_is_not_stable_beside_a_changed_host_key() -> None:
    """The alert of it would never end."""
    world = World(unreachable_after=1)
    world.answers(1, boot=True)
    world.fails(2)
    world.answers(3)
    assert world.fails(4) == ["flapping"]
    world.fails(5, "host_key_changed")
    for at in range(6, 30):
        world.fails(at, "host_key_changed")
    assert not world.is_told(Condition.UNREACHABLE)
    # It is once the key is trusted again, and by then it answers.
    assert world.answers(30) == ["host_key_restored"]
    assert [kind for at in range(31, 43) for kind in world.answers(at)] == ["stable"]
    assert world.fleet.report.events[-1].details["state"] == "ok"


@pytest.mark.parametrize(("known", "told"), [(10, ["host_key_changed"]), (11, []), (12, [])])
def test_what_does_not_flap_begins_only_if_its_end_can_be_told_as_well(known: int, told: list[str]) -> None:
    world = World()
    world.host.told = tuple(START - number * FIVE for number in range(known))
    assert world.fails(1, "host_key_changed") == told
    assert world.answers(2) == [kind.replace("changed", "restored") for kind in told]
    assert world.fleet.conditions.get(Condition.HOST_KEY, "1") is None


def test_a_greater_condition_waits_if_its_end_and_that_of_the_lesser_one_can_not_be_told() -> None:
    world = World()
    world.host.told = tuple(START - number * FIVE for number in range(9))
    foreign = Draft(EventKind.FOREIGN_MACHINE, "Another machine answers")
    hosts.opens(world.host, Condition.FOREIGN, foreign, START, world.fleet)
    assert world.fails(1, "host_key_changed") == []
    assert (world.is_told(Condition.HOST_KEY), world.is_told(Condition.FOREIGN)) == (False, True)
    # A day later there is room.
    assert world.fails(288, "host_key_changed") == ["own_machine", "host_key_changed"]


def test_that_owners_are_hidden_resumes_in_a_look_without_a_listener() -> None:
    world = World(unreachable_after=1)
    world.host.unnamed = 0

    hidden = world.shows_owners
    assert [hidden(1, None), hidden(2, False)] == [[], ["owners_hidden"]]
    assert world.fails(3) == ["owners_shown", "unreachable"]
    assert [world.answers(4), hidden(4, None)] == [["reachable"], ["owners_hidden"]]


def test_the_end_of_what_does_not_flap_has_its_place_before_it_comes() -> None:
    world = World(unreachable_after=1)
    world.host.told = (START,) * 10
    world.host.unnamed = 1

    hidden = world.shows_owners
    assert hidden(1, False) == ["owners_hidden"]
    assert world.answers(2, boot=True) == []
    assert [hidden(3, True), hidden(3, False), hidden(4, False)] == [["owners_shown"], [], []]
    assert len(world.host.told) == 12
