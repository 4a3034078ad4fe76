"""Whether so much time has passed since the last evaluated run that ages say little."""

from __future__ import annotations

from datetime import datetime, timedelta

LONGEST = timedelta(days=1)
INTERVALS = 3


def jumped(last_judged: datetime | None, now: datetime, interval: timedelta) -> bool:
    """Whether the monitor stood still, or its clock jumped: more than a day and 3 intervals since the last judged run.

    Such a run deletes, retires, expires and gives up nothing; the next one does.

    :param last_judged: time of the newest evaluation of another run; None if there was none
    :param interval: between scheduled runs; 0 without a rhythm
    """
    return last_judged is not None and now - last_judged > LONGEST + INTERVALS * interval
