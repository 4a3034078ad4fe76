"""When a run came so late that ages say little."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from portmon.model.pause import jumped

NOW = datetime(2026, 3, 2, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("ago", "interval", "expected"),
    [
        (None, HOUR, False),
        (-9 * DAY, HOUR, False),
        (HOUR, HOUR, False),
        (DAY + 3 * HOUR, HOUR, False),
        (DAY + 3 * HOUR + SECOND, HOUR, True),
        (DAY, timedelta(0), False),
        (DAY + SECOND, timedelta(0), True),
        (9 * DAY, 3 * DAY, False),
    ],
    ids=str,
)
def test_more_than_a_day_and_three_intervals(ago: timedelta | None, interval: timedelta, expected: bool) -> None:
    assert jumped(None if ago is None else NOW - ago, NOW, interval) is expected
