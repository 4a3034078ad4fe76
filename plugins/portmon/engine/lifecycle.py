"""The lifecycle that all conditions share: when a change is told, when a condition flaps and is stable again.

Pure: times are arguments. Clocks are the evidence clocks of :mod:`portmon.engine.clocks`, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portmon.engine.config import States

FLAP_INTERVALS = 12
"""The window of flapping is at least this many intervals, or nothing could flap with a slow schedule."""
MESSAGES = 10
"""Messages of one subject within :data:`DAY`; the change whose message would be the next one is told as flapping."""
MOST_MESSAGES = 12
"""After so many nothing more is told of the subject until the day is over: `flapping` and `stable` come after
:data:`MESSAGES`."""
DAY = timedelta(days=1)


class TableRow(Enum):
    """A row of a table in docs/states.md: the stored state, what an observation shows, the next state, what is told."""

    def __init__(self, stored: str, observed: str, then: str, event: str) -> None:
        self.stored, self.observed, self.then, self.event = stored, observed, then, event


class LifecycleRow(TableRow):
    """Rows of the lifecycle."""

    WAITS = ("clear", "the fault, in fewer runs in a row than it takes", "clear, counting", "nothing")
    OPENS = ("clear", "the fault, in enough runs in a row", "open", "its event")
    CLOSES = ("open", "no fault", "clear", "the event of its end")
    FLAPS = (
        "open or clear",
        f"the change that makes `states.flap_threshold` (4) within the window, or whose message would be number "
        f"{MESSAGES + 1} of its subject in a day",
        "as the change says, flapping",
        "`flapping`, with its state, instead of the change's own event",
    )
    SILENT = ("flapping", "a change", "as the change says, flapping", "nothing")
    SETTLES = (
        "flapping",
        "no change for the window, all of it with evidence",
        "as it is",
        "`stable`, with its state: it ends the alert, or goes on with it",
    )
    FULL = ("any", f"a change after {MOST_MESSAGES} messages in a day", "as the change says, flapping", "nothing")
    INCLUDED = (
        "open",
        "a greater condition of its subject",
        "open",
        "the event of its end; again, if it outlasts that",
    )
    ACCEPTED = ("open", "the fault, which a person accepted", "clear", "`retired`")
    RETIRES = ("open", "the fault, for `states.retire_after` (30 days) of evidence", "clear", "`retired`")
    HIDDEN = ("any", "a rule, label or field of the CMDB hides its subject: first run", "unchanged", "nothing")
    PAUSES = ("open", "the same, second run in a row", "paused", "`unwatched`; `retired` if its host left the CMDB")
    RESUMES = ("paused", "the fault", "open", "its event again, since when it was open")
    FORGOTTEN = ("paused", "no fault", "clear", "nothing")
    NO_EVIDENCE = ("any", "no evidence", "unchanged", "nothing")


@dataclass(frozen=True, slots=True)
class Changes:
    """The last changes of one condition: its starts and ends, told or not.

    :param recent: when they were, by the subject's evidence clock; while it flaps, only the last one
    :param flapping_since: None while it does not flap
    :param at: when the last one was, if it flaps
    """

    recent: tuple[float, ...] = ()
    flapping_since: datetime | None = None
    at: datetime | None = None


NONE = Changes()
SHARED = Changes()
"""Those of a port whose changes are counted with others of its owner (:mod:`portmon.engine.young`). It is known by
identity, and never stored."""
UNHEARD = Changes()
"""The same while nothing is told of them, so that no change of the port's presence is a message."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What counts as often: :attr:`window` is in seconds of evidence."""

    threshold: int
    window: float


def pace(settings: States, interval: timedelta) -> Pace:
    """The pace of a fleet, given the time between scheduled runs."""
    window = max(settings.flap_window, FLAP_INTERVALS * interval)
    return Pace(settings.flap_threshold, window.total_seconds())


def messages(told: Sequence[datetime], at: datetime) -> tuple[datetime, ...]:
    """Of the times of messages, those of the last day."""
    return tuple(one for one in told if at - one < DAY)


def with_message(told: Sequence[datetime], at: datetime) -> tuple[datetime, ...]:
    """The times of a subject's messages within the last day, with one more at this time."""
    return (*messages(told, at), at)


def was_accepted(accepted: datetime | None, since: datetime, at: datetime) -> bool:
    """Whether a person accepted what is wrong since a time.

    :param at: of the observation; a later decision is not for it
    """
    return accepted is not None and since <= accepted <= at


def change(
    before: Changes,
    pace: Pace,
    *,
    clock: float,
    at: datetime,
    told: Sequence[datetime],
    silent: bool = False,
    is_counted: bool = False,
) -> tuple[LifecycleRow, Changes, int]:
    """A condition starts or ends.

    :param told: times of the messages of its subject
    :param silent: the change has no message of its own
    :param is_counted: it is told now, and was counted when it began
    :returns: FLAPS, SILENT or FULL; else OPENS, which stands for CLOSES as well. The changes from now on, and how many
        there were within the window, this one included
    """
    changes = before if is_counted else untold(before, pace, clock=clock, at=at)
    number = len(_recent(changes, pace, clock))
    if before.flapping_since:
        return LifecycleRow.SILENT, changes, number
    flapping, count = Changes((clock,), at, at), len(messages(told, at))
    if number >= pace.threshold or (count >= MESSAGES and not silent):
        return LifecycleRow.FLAPS if count < MOST_MESSAGES else LifecycleRow.FULL, flapping, number
    return LifecycleRow.OPENS, changes, number


def began(before: Changes, pace: Pace, *, clock: float, at: datetime) -> datetime:
    """When the changes began that add up to flapping with one at this time; a pause between them is left out."""
    first = min(_recent(before, pace, clock), default=clock)
    return at - timedelta(seconds=clock - first)


def why_flapping(count: int, pace: Pace, what: str) -> str:
    """The reason of a `flapping`.

    :param count: changes within the window, see :func:`change`; a few may be enough if there were many messages
    :param what: which changes
    """
    many = count >= pace.threshold
    why = f"{count} {what} within {pace.window / 60:g} min" if many else f"{MESSAGES} messages within a day"
    return f"{why}: nothing more is told of it until it holds still"


def untold(before: Changes, pace: Pace, *, clock: float, at: datetime) -> Changes:
    """The changes after one that is not told, since a greater condition is told instead."""
    if before.flapping_since:
        return Changes((clock,), before.flapping_since, at)
    return Changes((*_recent(before, pace, clock), clock))


def _recent(before: Changes, pace: Pace, clock: float) -> list[float]:
    return [one for one in before.recent if clock - one < pace.window]


def settles(changes: Changes, pace: Pace, *, clock: float, at: datetime, told: Sequence[datetime]) -> bool:
    """Whether a condition that flapped is stable: unchanged for the window, and its end may be told."""
    if not changes.flapping_since or clock - changes.recent[-1] < pace.window:
        return False
    return may_tell(told, at)


def is_over(changes: Changes, pace: Pace, clock: float) -> bool:
    """Whether changes say nothing any more: none is recent, and they make no flapping."""
    return not (changes.flapping_since or _recent(changes, pace, clock))


def may_tell(told: Sequence[datetime], at: datetime, number: int = 1) -> bool:
    """Whether anything, or so many messages, may be told of a subject."""
    return len(messages(told, at)) + number <= MOST_MESSAGES


def may_note(told: Sequence[datetime], at: datetime) -> bool:
    """Whether a notice may be told: `flapping` and `stable` have room after the last one."""
    return len(messages(told, at)) < MESSAGES
