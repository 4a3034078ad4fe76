"""The lifecycle of conditions: when a change is told, flaps and settles, each boundary from both sides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from portmon.engine import lifecycle
from portmon.engine.config import States
from portmon.engine.lifecycle import MESSAGES, MOST_MESSAGES, NONE, Changes, LifecycleRow, Pace

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
CLOCK, BIT = 10_000.0, 0.001
PACE = Pace(4, 3600.0)
FLAPPING = Changes((CLOCK - 60,), NOW - DAY, NOW - HOUR)


def told(times: int) -> list[datetime]:
    """So many messages within the last day."""
    return [NOW - number * TICK for number in range(times)]


@pytest.mark.parametrize(
    ("minutes", "window"), [(1, 3600.0), (5, 3600.0), (6, 72 * 60.0), (60, 12 * 3600.0), (0, 3600.0)]
)
def test_the_window_is_at_least_twelve_intervals(minutes: int, window: float) -> None:
    assert lifecycle.pace(States(flap_threshold=7), timedelta(minutes=minutes)) == Pace(7, window)


@pytest.mark.parametrize(
    # A later one is of a clock that was believed: it counts as one of now.
    ("ago", "counts"),
    [(timedelta(0), True), (DAY - TICK, True), (DAY, False), (-TICK, True)],
)
def test_messages_of_the_last_day_count(ago: timedelta, counts: bool) -> None:
    assert lifecycle.messages([NOW - 2 * DAY, NOW - ago], NOW) == (NOW - ago,) * counts


@pytest.mark.parametrize(("times", "may"), [(0, True), (MESSAGES - 1, True), (MESSAGES, False), (MOST_MESSAGES, False)])
def test_a_notice_leaves_room_for_flapping_and_stable(times: int, may: bool) -> None:
    assert lifecycle.may_note(told(times), NOW) is may
    assert lifecycle.may_note([NOW - DAY, *told(times)], NOW) is may


@pytest.mark.parametrize(
    ("before", "times", "row", "kept", "count"),
    [
        # The pace: a change that is a whole window ago does not count.
        ((), 0, LifecycleRow.OPENS, (CLOCK,), 1),
        ((CLOCK - 2, CLOCK - 1), 0, LifecycleRow.OPENS, (CLOCK - 2, CLOCK - 1, CLOCK), 3),
        ((CLOCK - 3, CLOCK - 2, CLOCK - 1), 0, LifecycleRow.FLAPS, (CLOCK,), 4),
        ((CLOCK - 3600 + BIT, CLOCK - 2, CLOCK - 1), 0, LifecycleRow.FLAPS, (CLOCK,), 4),
        ((CLOCK - 3600, CLOCK - 2, CLOCK - 1), 0, LifecycleRow.OPENS, (CLOCK - 2, CLOCK - 1, CLOCK), 3),
        # The messages of the day.
        ((), MESSAGES - 1, LifecycleRow.OPENS, (CLOCK,), 1),
        ((), MESSAGES, LifecycleRow.FLAPS, (CLOCK,), 1),
        ((CLOCK - 1,), MOST_MESSAGES - 1, LifecycleRow.FLAPS, (CLOCK,), 2),
        ((), MOST_MESSAGES, LifecycleRow.FULL, (CLOCK,), 1),
        ((CLOCK - 3, CLOCK - 2, CLOCK - 1), MOST_MESSAGES, LifecycleRow.FULL, (CLOCK,), 4),
    ],
)
def test_a_change(
    before: tuple[float, ...], times: int, row: LifecycleRow, kept: tuple[float, ...], count: int
) -> None:
    flaps = Changes(kept, NOW, NOW)
    expected = (row, Changes(kept) if row is LifecycleRow.OPENS else flaps, count)
    assert lifecycle.change(Changes(before), PACE, clock=CLOCK, at=NOW, told=told(times)) == expected
    old = [NOW - DAY] * MOST_MESSAGES
    assert lifecycle.change(Changes(before), PACE, clock=CLOCK, at=NOW, told=[*old, *told(times)]) == expected


@pytest.mark.parametrize(
    ("before", "times", "row"),
    [
        ((), MESSAGES, LifecycleRow.OPENS),
        ((), MOST_MESSAGES, LifecycleRow.OPENS),
        ((CLOCK - 3, CLOCK - 2, CLOCK - 1), MESSAGES, LifecycleRow.FLAPS),
        ((CLOCK - 3, CLOCK - 2, CLOCK - 1), MOST_MESSAGES, LifecycleRow.FULL),
    ],
)
def test_a_change_without_a_message_is_not_one_too_many(
    before: tuple[float, ...], times: int, row: LifecycleRow
) -> None:
    found = lifecycle.change(Changes(before), PACE, clock=CLOCK, at=NOW, told=told(times), silent=True)
    assert found[0] is row


@pytest.mark.parametrize("times", [0, MESSAGES, MOST_MESSAGES])
def test_a_change_of_what_flaps_is_silent_and_does_not_begin_it_anew(times: int) -> None:
    expected = (LifecycleRow.SILENT, Changes((CLOCK,), NOW - DAY, NOW), 1)
    assert lifecycle.change(FLAPPING, PACE, clock=CLOCK, at=NOW, told=told(times)) == expected


@pytest.mark.parametrize(
    ("since", "times", "settles"),
    [
        (3600.0 - BIT, 0, False),
        (3600.0, 0, True),
        (3600.0, MOST_MESSAGES - 1, True),
        (3600.0, MOST_MESSAGES, False),
        (3600.0 - BIT, MOST_MESSAGES, False),
    ],
)
def test_what_flapped_settles_after_the_window_if_that_may_be_told(since: float, times: int, settles: bool) -> None:
    changes = Changes((CLOCK - since,), NOW - DAY, NOW - HOUR)
    assert lifecycle.settles(changes, PACE, clock=CLOCK, at=NOW, told=told(times)) is settles
    old = [NOW - DAY] * MOST_MESSAGES
    assert lifecycle.settles(changes, PACE, clock=CLOCK, at=NOW, told=[*old, *told(times)]) is settles


@pytest.mark.parametrize("changes", [NONE, Changes((CLOCK - 7200,))])
def test_what_does_not_flap_does_not_settle(changes: Changes) -> None:
    assert not lifecycle.settles(changes, PACE, clock=CLOCK, at=NOW, told=[])
