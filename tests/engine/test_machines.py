"""Who answered: what tells machines apart, and how long the state before a reboot is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from portmon.engine.machines import Answerer, Kept, Machine, agree, answerer, back_to, is_kept, is_one, of_boot
from portmon.engine.state import HostState

ONE = Machine("a", 1, 100)


@pytest.mark.parametrize(
    ("other", "agrees", "one"),
    [
        (ONE, True, True),
        (Machine("a", 1, None), True, True),
        (Machine("a", None, 100), True, True),
        # What both show must be at least one of these two.
        (Machine("a", None, None), True, False),
        (Machine(None, 1, 100), True, False),
        (Machine("a", 2, 100), False, False),
        (Machine("a", 1, 101), False, False),
        (Machine("b", 1, 100), False, False),
        (Machine(None, None, None), True, False),
    ],
)
def test_one_machine_has_one_boot_id_and_no_other_part_that_differs(other: Machine, agrees: bool, one: bool) -> None:
    assert (agree(ONE, other), is_one(ONE, other)) == (agrees, one)
    assert (agree(other, ONE), is_one(other, ONE)) == (agrees, one)


def test_two_answers_that_show_different_parts_are_not_known_to_be_one() -> None:
    assert not is_one(Machine("a", 1, None), Machine("a", None, 100))


def test_zero_is_a_value() -> None:
    assert is_one(Machine("a", 0, None), Machine("a", 0, None))
    assert not is_one(Machine("a", 0, None), Machine("a", 1, None))


def host(**fields: Any) -> HostState:
    known = {"boot_id": "b", "netns": 1, "pid1_start": 100, "last_ok_at": datetime(2026, 1, 1, tzinfo=UTC)}
    return HostState("1", **known | fields)


def rebooted(looks: int, **fields: Any) -> HostState:
    """A host that was machine ONE until a reboot when its evidence clock was 5000."""
    before = host(boot_id="a", netns=1, pid1_start=100)
    return host(kept=Kept(before, (), 5000.0), boot_looks=looks, **fields)


@pytest.mark.parametrize(
    ("looks", "clock", "kept"),
    [
        (1, 5000, True),
        (12, 8599, True),
        (12, 8600, False),
        (11, 8600, True),
        (11, 100_000, True),
        (12, 100_000, False),
    ],
)
def test_the_state_before_a_reboot_is_kept_for_the_longer_of_an_hour_and_twelve_looks(
    looks: int, clock: float, kept: bool
) -> None:
    assert is_kept(rebooted(looks), clock) == kept
    found = answerer(rebooted(looks), ONE, {}, clock=clock)
    assert found.who is (Answerer.BACK if kept else Answerer.REBOOTED)


def test_nothing_is_kept_without_a_reboot() -> None:
    assert not is_kept(host(), 0)


@pytest.mark.parametrize(
    ("shown", "who"),
    [
        (ONE, Answerer.BACK),
        # What it does not show is no difference.
        (Machine("a", None, None), Answerer.BACK),
        # The same boot, and another container in it.
        (Machine("a", 1, 101), Answerer.REBOOTED),
        (Machine("c", 1, 100), Answerer.REBOOTED),
    ],
)
def test_the_boot_before_is_back_if_no_part_differs(shown: Machine, who: Answerer) -> None:
    assert answerer(rebooted(1), shown, {}, clock=5000).who is who


def test_the_boot_before_is_a_better_reason_than_another_entry() -> None:
    assert answerer(rebooted(1), ONE, {"2": ONE}, clock=5000).who is Answerer.BACK


@pytest.mark.parametrize(
    ("others", "who", "other"),
    [
        ({"2": Machine("c", 1, 100)}, Answerer.FOREIGN, "2"),
        ({"3": Machine("c", 1, None), "2": Machine("c", None, 100)}, Answerer.FOREIGN, "2"),
        # No part but the boot id is common: containers of one kernel have that.
        ({"2": Machine("c", None, None)}, Answerer.REBOOTED, None),
        ({"2": Machine("c", 2, 100)}, Answerer.REBOOTED, None),
        ({}, Answerer.REBOOTED, None),
    ],
)
def test_the_machine_of_another_entry_is_foreign(others: dict[str, Machine], who: Answerer, other: str | None) -> None:
    found = answerer(host(), Machine("c", 1, 100), others, clock=0)
    assert (found.who, found.other) == (who, other)


def test_an_entry_that_was_one_machine_with_another_is_always_rebooted() -> None:
    one = rebooted(1, shared=True)
    assert answerer(one, ONE, {"2": ONE}, clock=5000).who is Answerer.REBOOTED


def test_what_another_machine_showed_of_units_is_forgotten_when_the_boot_before_is_back() -> None:
    kept, host = of_boot(HostState("1")), HostState("1", many=("app.service",))
    back_to(host, kept)
    assert host.many == ()
