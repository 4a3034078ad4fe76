"""The young random ports of one owner: one subject, whose messages and silence are theirs together."""

from __future__ import annotations

import dataclasses
from typing import Any

from portmon.engine.rules import Rule, RuleSet
from portmon.model.observation import Observation
from tests.engine.test_evaluate import World, ok, told

A, B = 40_001, 40_002
UNIT = "worker.service"


def look(at: float, *ports: int, **fields: Any) -> Observation:
    return ok(at, *ports, **{"unit": UNIT} | fields)


def both(one: Observation, other: Observation) -> Observation:
    """One look that shows the listeners of two."""
    listeners = (*one.shows.listeners, *other.shows.listeners)
    return dataclasses.replace(one, listing=dataclasses.replace(one.shows, listeners=listeners))


def flapping(**fields: Any) -> World:
    """Port A was told to flap for all random ports of its owner in run 4, and B is up."""
    world = World(ephemeral_after=1, flap_threshold=2)
    assert world.see(look(0, 80, **fields)) == [("baseline",)]
    assert world.see(look(1, 80, A, B, **fields)) == [("new", A), ("new", B)]
    assert world.see(look(2, 80, B, **fields)) == [("down", A)]
    assert world.see(look(3, 80, A, B, **fields)) == [("recovered", A)]
    assert world.see(look(4, 80, B, **fields)) == [("flapping", A)]
    return world


def test_what_is_not_told_of_one_that_ends_counts_as_no_message() -> None:
    world = flapping()
    for at in range(5, 25, 2):
        assert world.see(look(at, 80, A, B)) + world.see(look(at + 1, 80, B)) == []
    assert len(world.port(A)["told"]) == 4
    assert [one for at in range(25, 37) for one in world.see(look(at, 80, B))] == [("stable", A)]


def test_the_messages_of_all_of_them_are_those_of_their_owner() -> None:
    world = World(ephemeral_after=1, flap_threshold=100)
    world.see(look(0, 80))
    assert world.see(look(1, 80, *range(A, A + 12))) == [("new", port) for port in range(A, A + 12)]
    # What is told of several in one look is one message.
    assert world.see(look(2, 80, *range(A + 2, A + 12))) == [("down", A), ("down", A + 1)]
    ends = [world.see(look(at, 80, *range(A + at, A + 12))) for at in range(3, 12)]
    assert ends == [[("down", A + at)] for at in range(2, 10)] + [[("flapping", A + 10)]]


def test_the_one_that_speaks_does_so_under_whatever_name_its_owner_has() -> None:
    world = flapping(unit=None)
    named = [both(look(at, 80, B, unit=None), look(at, A, unit="other.service")) for at in range(5, 20)]
    assert [(at, found) for at, one in enumerate(named, 5) if (found := world.see(one))] == [(16, [("stable", A)])]


def test_without_its_alert_an_owner_does_not_flap_any_more() -> None:
    world = flapping()
    assert world.leave("1") == [("retired", A)]
    assert world.see(look(5, 80, B)) == [("down", A)]
    assert world.see(look(6, 80)) == [("down", B)]
    hidden = flapping()
    hidden.rules = RuleSet([Rule(action="deny", port=A)])
    assert [hidden.see(look(at, 80, B)) for at in (5, 6, 7)] == [[], [("unwatched", A)], []]
    assert hidden.see(look(8, 80)) == [("down", B)]


def test_an_owner_is_not_stable_while_the_port_that_speaks_has_time_after_a_boot() -> None:
    world = flapping()
    assert [world.see(look(at, 80, A, B)) for at in range(5, 15)] == [[]] * 10
    seen = [world.see(look(at, 80, *ports, boot_id="b2")) for at, ports in ((15, ()), (16, ()), (17, (A, B)))]
    assert seen == [[("rebooted",)], [], [("stable", A)]]


def test_a_return_that_is_not_told_leaves_room_for_an_address_that_flaps() -> None:
    world, wide = World(ephemeral_after=1, flap_threshold=100), both(look(0, 80, A), look(0, A, address="192.0.2.1"))
    for at in range(12):
        world.see(look(at, 80) if at % 2 else dataclasses.replace(wide, observed_at=look(at).observed_at))
    assert told(world.events)[-2:] == [("recovered", A), ("flapping", A)]
    # Its 12th message, since that it is back is none.
    assert world.see(both(look(12, 80), look(12, A, address="192.0.2.1"))) == [("flapping", A)]


def test_the_one_that_speaks_flaps_on_by_itself_if_it_is_old_enough_as_it_is_back() -> None:
    world = World(ephemeral_after=1, flap_threshold=2, mature_after=25 * 60)
    for at in range(7):
        world.see(look(at, 80) if at in (0, 2, 4, 5) else look(at, 80, A))
    assert told(world.events) == [("baseline",), ("new", A), ("down", A), ("recovered", A), ("flapping", A)]
    assert [world.see(look(at, 80, A)) for at in (17, 18)] == [[], []]
    assert [one for at in range(19, 32) for one in world.see(look(at, 80, A))] == [("stable", A)]


def test_that_another_owner_has_one_of_them_is_an_end_for_its_own() -> None:
    world = World(ephemeral_after=1, flap_threshold=2)
    world.see(look(0, 80))
    world.see(look(1, 80, A, B))
    other = both(look(2, 80, B), look(2, A, unit="other.service"))
    assert world.see(other) == [("replaced", A)]
    assert world.see(both(look(3, 80), look(3, A, unit="other.service"))) == [("flapping", B)]
    # The ends of the other one count by themselves; while its own flaps nothing is told.
    assert world.see(both(look(4, 80, B), look(4, A, unit="third.service"))) == [("replaced", A)]
    assert world.see(both(look(5, 80), look(5, A, B, unit="third.service"))) == []


def test_that_another_owner_lacks_an_address_of_one_of_them_is_an_end_as_well() -> None:
    world, wide = World(ephemeral_after=1, flap_threshold=2), both(look(1, 80, A, B), look(1, A, address="192.0.2.1"))
    world.see(look(0, 80))
    world.see(wide)
    other = {"unit": "other.service", "address": "192.0.2.1"}
    assert world.see(both(look(2, 80, B), look(2, A, **other))) == [("rebound", A)]
    assert world.see(both(look(3, 80), look(3, A, **other))) == [("flapping", B)]
