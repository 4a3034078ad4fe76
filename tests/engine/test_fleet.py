"""What is wrong with many hosts at once, at the boundaries of each number."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from portmon.engine.fleet import Episode, Outlook, outlook, unscanned
from portmon.engine.state import HostState
from portmon.model.observation import Observation, Outcome

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def names(count: int) -> list[str]:
    return [f"h{number:02}" for number in range(count)]


def known(count: int, *, status: str = "ok", failures: int = 0, answered: bool = True) -> dict[str, HostState]:
    last = START if answered else None
    return {
        name: HostState(name, status=status, failures=failures, last_ok_at=last, last_evaluated_at=START)
        for name in names(count)
    }


def tried(failing: int, count: int, *, minutes: float = 5, **fields: str) -> list[Observation]:
    """A run that tried so many hosts, of which the first ones fail."""
    at = START + minutes * MINUTE
    failed = {"outcome": Outcome.UNREACHABLE, "error_class": "timeout"} | fields
    return [
        Observation(name, "run", 1, at, **failed if number < failing else {"outcome": Outcome.OK})  # type: ignore[arg-type]
        for number, name in enumerate(names(count))
    ]


def seen(
    looks: list[Observation], hosts: dict[str, HostState], *, before: Episode | None = None, fleet: int = 0, enough: int = 2
) -> Outlook:  # fmt: skip
    return outlook(
        before, looks, hosts, listed=names(fleet or len(hosts)), foreign=(), enough=enough, half_interval=2.5 * MINUTE
    )


@pytest.mark.parametrize(
    ("failing", "count", "suspected"),
    [
        (1, 1, False),
        (2, 2, True),
        (1, 2, False),
        (8, 9, False),
        (9, 10, True),
        (17, 19, False),
        (10, 12, False),
        (11, 12, True),
    ],
)
def test_nine_in_ten_and_at_least_two_begin_to_fail(failing: int, count: int, suspected: bool) -> None:
    found = seen(tried(failing, count), known(count))
    assert (found.episode is not None) == suspected
    assert not found.opens
    if found.episode is not None:
        assert found.episode == Episode(START + 5 * MINUTE, frozenset(names(failing)), 1, START + 5 * MINUTE)


@pytest.mark.parametrize(("fleet", "suspected"), [(3, True), (4, False)])
def test_the_run_tried_more_than_half_of_the_fleet(fleet: int, suspected: bool) -> None:
    assert (seen(tried(2, 2), known(2), fleet=fleet).episode is not None) == suspected


@pytest.mark.parametrize(
    "hosts", [known(4, status="unreachable"), known(4, failures=1), known(4, answered=False)], ids=["unreachable", "failed", "never"]
)  # fmt: skip
def test_only_hosts_that_answered_in_their_last_run_count(hosts: dict[str, HostState]) -> None:
    assert seen(tried(4, 4), hosts).episode is None
    # The others are few, and all of them fail.
    few = hosts | known(2)
    assert seen(tried(4, 4), few).episode == Episode(START + 5 * MINUTE, frozenset(names(2)), 1, START + 5 * MINUTE)


def test_another_host_key_and_an_invalid_answer_are_the_host_s_own() -> None:
    assert seen(tried(4, 4, error_class="host_key_changed"), known(4)).episode is None
    assert seen(tried(4, 4, outcome=Outcome.INVALID), known(4)).episode is None
    assert seen(tried(4, 4, error_class="authentication"), known(4)).episode is not None


def test_one_run_is_enough_if_one_is_configured() -> None:
    found = seen(tried(4, 4), known(4), enough=1)
    assert found.opens
    assert found.episode is not None
    assert found.episode.told


SUSPECTED = Episode(START, frozenset(names(10)), 1, START)
TOLD = Episode(START, frozenset(names(10)), 2, START, told=True)


@pytest.mark.parametrize(
    ("minutes", "failing", "opens", "runs"),
    [(2.4, 10, False, 1), (2.5, 10, True, 2), (5, 9, True, 2), (5, 8, False, None), (5, 4, False, None)],
)
def test_a_suspicion_is_told_in_the_run_that_makes_it_enough(
    minutes: float, failing: int, opens: bool, runs: int | None
) -> None:
    """If nine in ten still fail; if not, it ends in silence."""
    found = seen(tried(failing, 10, minutes=minutes), known(10), before=SUSPECTED)
    assert (found.opens, found.ends) == (opens, False)
    assert (found.episode.runs if found.episode else None) == runs


@pytest.mark.parametrize(("enough", "minutes"), [(3, 5), (2, 1)])
def test_until_then_half_of_them_are_enough(enough: int, minutes: float) -> None:
    found = seen(tried(5, 10, minutes=minutes), known(10), before=SUSPECTED, enough=enough)
    assert found.episode is not None


@pytest.mark.parametrize(("failing", "ends"), [(10, False), (5, False), (4, True), (0, True)])
def test_an_episode_ends_when_fewer_than_half_of_its_hosts_fail(failing: int, ends: bool) -> None:
    found = seen(tried(failing, 10), known(10), before=TOLD)
    assert (found.ends, found.opens, found.episode is None) == (ends, False, ends)


@pytest.mark.parametrize(("count", "ends"), [(5, False), (6, True)])
def test_a_run_that_tried_half_of_its_hosts_says_nothing(count: int, ends: bool) -> None:
    found = seen(tried(0, count), known(10), before=TOLD)
    assert (found.ends, found.episode) == (ends, None if ends else TOLD)


@pytest.mark.parametrize(("left", "ends"), [(2, False), (3, True), (10, True)])
def test_hosts_that_left_the_inventory_are_no_part_of_an_episode(left: int, ends: bool) -> None:
    """Else it would never end if most of them left."""
    looks = [look for look in tried(0, 4) if left < 10]
    present = names(10)[: 10 - left] if left < 10 else ["other"]
    looks = looks or [Observation("other", "run", 1, START + 5 * MINUTE, Outcome.OK)]
    found = outlook(TOLD, looks, known(10), listed=present, foreign=(), enough=2, half_interval=2.5 * MINUTE)
    assert (found.ends, found.episode is None) == (ends, ends)


def test_hosts_that_begin_to_fail_meanwhile_join() -> None:
    found = seen(tried(12, 12), known(12), before=TOLD)
    assert found.episode is not None
    assert found.episode.hosts == frozenset(names(12))


def test_hosts_join_in_a_run_that_tried_few_of_the_others() -> None:
    found = seen(tried(12, 12)[-6:], known(12), before=TOLD)
    assert found.episode == dataclasses.replace(TOLD, hosts=frozenset(names(12)))


# ── hosts that are not tried ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("interval", "minutes", "waits"), [(5, 14.9, False), (5, 15, True), (10, 29.9, False), (10, 30, True), (1, 15, True)]
)  # fmt: skip
def test_a_host_waits_for_three_intervals_and_a_quarter_of_an_hour(interval: int, minutes: float, waits: bool) -> None:
    hosts = known(1).values()
    found = unscanned(hosts, now=START + minutes * MINUTE, since=START, interval=interval * MINUTE)
    assert found == ({"h00": START} if waits else {})


def test_it_waits_since_it_is_known_and_since_runs_come() -> None:
    new = HostState("new", known_since=START)
    hosts = [new, *known(1).values()]
    now = START + 15 * MINUTE
    assert unscanned(hosts, now=now, since=None, interval=5 * MINUTE) == {"new": None, "h00": START}
    assert unscanned(hosts, now=now, since=START + MINUTE, interval=5 * MINUTE) == {}
