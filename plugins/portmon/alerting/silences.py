"""Silences and acknowledgements: they withhold messages, never events.

A weekly schedule is a text such as ``Sun 02:00-04:00``, ``Mon-Fri 22:00-06:00`` (over midnight; it belongs to the day
on which it starts) or ``Sat,Sun 00:00-24:00``, in the local time of its zone. An hour that the clock skips in spring is
no part of any schedule, and a schedule that would start in it starts right after it. An hour that the clock shows twice
in autumn counts both times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import ClassVar
from zoneinfo import ZoneInfo

from portmon.matching import any_glob, has_labels, in_ranges, is_named, match_text
from portmon.model.event import Event, programs_of
from portmon.model.host import Host

EVERYTHING = "*"
"""As a glob of hosts also the monitor's own events, which are about no host."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = 24 * 60
_WEEK = 7 * _DAY
_MINUTE = timedelta(minutes=1)
_HOUR = 60 * _MINUTE
_SCHEDULE = re.compile(r"([A-Za-z, -]+?)\s+(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})")
_RIGHT = "give days and times, for instance 'Sun 02:00-04:00', 'Mon-Fri 22:00-06:00' or 'Sat,Sun 00:00-24:00'"


@dataclass(frozen=True, slots=True)
class Weekly:
    """One weekly schedule, in minutes since Monday, 00:00, of the wall clock.

    :param starts: when it begins, for each of its days
    :param length: how long it lasts; at most a day
    """

    starts: tuple[int, ...]
    length: int

    def covers(self, wall: datetime) -> bool:
        """Whether it is under way at what the clock shows."""
        minute = _minute_of_week(wall)
        return any((minute - start) % _WEEK < self.length for start in self.starts)

    def wait(self, wall: datetime) -> int:
        """Minutes on the clock until it begins, 1 to a week."""
        minute = _minute_of_week(wall)
        return min((start - minute - 1) % _WEEK + 1 for start in self.starts)


@lru_cache(maxsize=1024)
def parse_weekly(text: str) -> Weekly:
    """Read a weekly schedule.

    :raises ValueError: naming what is right
    """
    match = _SCHEDULE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no weekly schedule: {_RIGHT}")
    start, end = _minutes(text, match[2], match[3]), _minutes(text, match[4], match[5])
    if start == end:
        raise ValueError(f"{text!r} begins when it ends; a whole day is 00:00-24:00")
    if start == _DAY:
        raise ValueError(f"{text!r} begins at 24:00; that is 00:00 of the next day")
    return Weekly(tuple(sorted(day * _DAY + start for day in _days(text, match[1]))), (end - start) % _DAY or _DAY)


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name.

    :raises ValueError: if there is none of that name here
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone: give an IANA name such as Europe/Berlin, or UTC") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Withholding:
    """Keeps messages from channels for a time.

    :param ends_at: it does not count from then on; None: it counts until a person lifts it
    :param author: the person who made it
    :param reason: why, in that person's words
    """

    verb: ClassVar[str]

    id: int
    starts_at: datetime
    ends_at: datetime | None
    author: str
    reason: str
    created_at: datetime
    lifted_at: datetime | None = None
    lifted_by: str | None = None

    def over(self, now: datetime) -> bool:
        """Whether it never counts again."""
        return any(end is not None and end <= now for end in (self.ends_at, self.lifted_at))

    def active(self, now: datetime) -> bool:
        """Whether it counts."""
        return self.starts_at <= now and not self.over(now)

    def next_start(self, now: datetime) -> datetime | None:
        """When it counts next; now if it does, None if it never will."""
        return None if self.over(now) else max(now, self.starts_at)

    def counted(self, since: datetime, now: datetime) -> bool:
        """Whether it counted at some time from ``since`` on and before ``now``."""
        at = self.next_start(since)
        return at is not None and at < now and self.active(at)

    def when(self) -> str:
        """When it counts, for people who know when it began."""
        return f"until {self.ends_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if self.ends_at is not None else ""

    def told(self) -> str:
        """Why a message is withheld, for people: by whom, until when, and the reason given."""
        when = self.when()
        return f"{self.verb} by {self.author}{f' {when}' if when else ''}{f': {self.reason}' if self.reason else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement(_Withholding):
    """A person takes care of one alert. It ends with the alert, if not earlier."""

    verb = "acknowledged"

    alert_id: str

    def matches(self, event: Event, alert_id: str | None, host: Host | None = None) -> bool:
        """Whether it is about the alert; see :meth:`Silence.matches`."""
        return alert_id == self.alert_id

    def what(self) -> str:
        """Its subject, for people."""
        return f"alert {self.alert_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence(_Withholding):
    """Which events send no message, and when. Everything given must match; of a list, one item must.

    :param hosts: globs on the host's name; ``*`` matches the monitor's own events too
    :param labels: of the host: name to globs on its value
    :param ports: inclusive ranges
    :param programs: globs; an unknown program matches none
    :param weekly: schedules, see :func:`parse_weekly`: between start and end it counts only within one of them
    :param timezone: IANA name, of the schedules
    """

    verb = "silenced"

    hosts: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    ports: tuple[tuple[int, int], ...] = ()
    programs: tuple[str, ...] = ()
    weekly: tuple[str, ...] = ()
    timezone: str = "UTC"

    def active(self, now: datetime) -> bool:
        """Whether it counts.

        A schedule or time zone that can't be read here silences nothing: a message too many is better than one too few.
        """
        if not _Withholding.active(self, now):
            return False
        try:
            return not self.weekly or any(parse_weekly(text).covers(self._wall(now)) for text in self.weekly)
        except ValueError:
            return False

    def next_start(self, now: datetime) -> datetime | None:
        """When it counts next, to the minute; now if it does, None if it never will."""
        at = max(now, self.starts_at)
        # A schedule comes round every week, unless it lies in the hour that the clock skips.
        last = at + timedelta(weeks=2, days=1)
        while at < last and not self.over(at):
            if self.active(at):
                return at
            at = self._step(at)
        return None

    def matches(self, event: Event, alert_id: str | None, host: Host | None = None) -> bool:
        """Whether it is about an event.

        :param alert_id: of the alert that the event is part of, if any
        :param host: with its name and labels of now, which may match as well as those of the event
        """
        name = None if event.host_id is None else event.host_name or ""
        if not self._matches_name(name, event.labels) and not (host is not None and self.matches_host(host)):
            return False
        if self.ports and (event.number is None or not in_ranges(event.number, self.ports)):
            return False
        return not self.programs or any(any_glob(program, self.programs) for program in programs_of(event))

    def matches_host(self, host: Host) -> bool:
        """Whether some event of a host could be withheld."""
        return self._matches_name(host.name, host.labels)

    def _matches_name(self, name: str | None, labels: Mapping[str, str]) -> bool:
        """Whether it is about a host of this name; None is the monitor itself."""
        named = EVERYTHING in self.hosts if name is None else is_named(name, self.hosts)
        return (named or not self.hosts) and has_labels(labels, self.labels)

    def what(self) -> str:
        """Its subject, for people."""
        given = {"host": self.hosts, "label": self.labels, "port": self.ports, "program": self.programs}
        return match_text((name, value or None) for name, value in given.items())

    def when(self) -> str:
        """When it counts, for people who know when it began."""
        weekly = f"{', '.join(self.weekly)} {self.timezone}" if self.weekly else ""
        return f"{weekly} {_Withholding.when(self)}".strip()

    def told(self) -> str:
        """As that of an acknowledgement, with the id of the silence."""
        return f"{_Withholding.told(self)} (silence {self.id})"

    def _wall(self, at: datetime) -> datetime:
        """What the clock shows in the time zone of the schedules."""
        return at.astimezone(zone(self.timezone))

    def _step(self, at: datetime) -> datetime:
        """The next moment that may be the first of a schedule."""
        at = at.replace(second=0, microsecond=0)
        try:
            wait = min(parse_weekly(text).wait(self._wall(at)) for text in self.weekly)
            steady = self._wall(at).utcoffset() == self._wall(at + _HOUR).utcoffset()
        except ValueError:
            return at + _HOUR
        # Near a change of the clock each minute is tried.
        return at + min(wait * _MINUTE, _HOUR) if steady else at + _MINUTE


Withholding = Silence | Acknowledgement


@dataclass(frozen=True, slots=True)
class SilencedElsewhere:
    """What withholds an alert at its receiver, such as a silence in Alertmanager.

    :param told: in words: where, by whom and until when
    """

    told: str
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class SilencesInForce:
    """Silences and acknowledgements at a moment.

    :param found: those that do not count now included
    :param listed: host id: host, as the CMDB has it now
    """

    found: Sequence[Withholding]
    listed: Mapping[str, Host]
    now: datetime

    def withholds(self, event: Event, alert_id: str | None) -> Withholding | None:
        """The first that counts and is about an event.

        :param alert_id: of the alert that the event is part of, if any
        """
        host = self.listed.get(event.host_id or "")
        return next((one for one in self.found if one.active(self.now) and one.matches(event, alert_id, host)), None)


def _minute_of_week(wall: datetime) -> int:
    return wall.weekday() * _DAY + wall.hour * 60 + wall.minute


def _minutes(text: str, hours: str, minutes: str) -> int:
    found = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or found > _DAY:
        raise ValueError(f"{text!r}: {hours}:{minutes} is no time of day; they go from 00:00 to 24:00")
    return found


def _days(text: str, days: str) -> set[int]:
    found: set[int] = set()
    for part in days.split(","):
        names = [name.strip().capitalize() for name in part.split("-")]
        wrong = next((name for name in names if name not in _DAYS), None)
        if wrong is not None or len(names) > 2:
            raise ValueError(
                f"{text!r}: {part.strip()!r} is no day; days are {', '.join(_DAYS)}, or a range such as Mon-Fri"
            )
        first, last = _DAYS.index(names[0]), _DAYS.index(names[-1])
        found |= {(first + step) % 7 for step in range((last - first) % 7 + 1)}
    return found
