"""What a port was over a time: up, down, or without evidence. Pure: events and visits in, spans out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Final, Literal

from portmon.api.view import View
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.state import PortStatus

State = Literal["up", "down", "none"]
UP: Final = "up"
DOWN: Final = "down"
NONE: Final = "none"
GAP = 2.5
"""Two visits further apart than so many times their usual distance leave a time without evidence between them."""
SHORTEST_GAP = timedelta(minutes=15)

FOREIGN_KINDS = (
    EventKind.FOREIGN_MACHINE,
    EventKind.OWN_MACHINE,
    EventKind.ANSWERS_DISCARDED,
    EventKind.RETIRED,
)
"""Kinds of events of a host that :func:`foreign` reads."""


class Stretch(View):
    """A time in which a port was the same.

    :param state: ``none``: it is not known, or the port was not watched
    """

    start: datetime
    end: datetime
    state: State


class Uptime(View):
    """How long a port was up, of the time of which there is evidence.

    :param percent: cut to two decimals, so that it is 100 only without any downtime; None without evidence
    """

    up: timedelta
    down: timedelta
    unknown: timedelta
    percent: float | None


def blind(visits: Sequence[tuple[datetime, bool]], since: datetime, until: datetime) -> list[tuple[datetime, datetime]]:
    """Times of which a host gave no evidence: all but those between two good visits that are not far apart.

    :param visits: in order: when, and whether it gave evidence
    """
    times = [at for at, _ in visits]
    distances = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    usual = max(timedelta(seconds=median(distances) * GAP), SHORTEST_GAP) if distances else SHORTEST_GAP
    found = []
    dark_since = since
    # The edges count as good: a visit near one of them covers the time to it.
    for (earlier, before), (later, after) in pairwise([(since, True), *visits, (until, True)]):
        if before and after and later - earlier <= usual:
            if dark_since < earlier:
                found.append((dark_since, earlier))
            dark_since = later
    return [*found, (dark_since, until)] if dark_since < until else found


def joined(times: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Times in order, those that overlap as one."""
    found: list[tuple[datetime, datetime]] = []
    for start, end in sorted(times):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def foreign(story: Iterable[Event], since: datetime, until: datetime) -> list[tuple[datetime, datetime]]:
    """Times in which another machine answered for a host: what it showed is no evidence of the host's ports.

    :param story: events of the host itself in order, those before ``since`` included
    """
    found: list[tuple[datetime, datetime]] = []
    began: datetime | None = None
    for event in story:
        if event.kind is EventKind.ANSWERS_DISCARDED:
            found.append((datetime.fromisoformat(event.details.get("since") or event.at.isoformat()), event.at))
        elif event.kind is EventKind.FOREIGN_MACHINE:
            began = event.since or event.at
        elif began is not None and event.alert_row.key == EventKind.FOREIGN_MACHINE.usual.key:
            found.append((began, event.at))
            began = None
    if began is not None:
        found.append((began, until))
    cut = ((max(start, since), min(end, until)) for start, end in found)
    return joined((start, end) for start, end in cut if start < end)


def spans(
    story: Iterable[Event],
    dark: Sequence[tuple[datetime, datetime]],
    *,
    now_state: str | None,
    first_seen: datetime | None,
    since: datetime,
    until: datetime,
) -> list[Stretch]:
    """What a port was, in order and without a gap from ``since`` to ``until``.

    :param story: events of the port in order, those before ``since`` included as far as there are any
    :param dark: times without evidence of its host in order, see :func:`blind` and :func:`foreign`
    :param now_state: its stored status, None if it is not watched
    :param first_seen: when it was seen first; before that it was not watched
    """
    changes: list[tuple[datetime, State]] = []
    for event in story:
        state = _after(event, now_state)
        if state is None:
            continue
        if not changes:
            before: State = NONE if event.kind is EventKind.NEW else _BEFORE[state]
            changes.append((datetime.min.replace(tzinfo=since.tzinfo), before))
        at = event.since if state == DOWN and event.since is not None else event.at
        changes.append((max(at, changes[-1][0]), state))
    if not changes:
        changes = [(first_seen or since, _OF_STATUS.get(now_state or "", NONE))]
    elif first_seen is not None and changes[0][1] == UP and first_seen > changes[0][0]:
        changes[0] = (min(first_seen, changes[1][0] if len(changes) > 1 else first_seen), UP)
    cuts = sorted(
        {since, until}
        | {at for at, _ in changes if since < at < until}
        | {edge for span in dark for edge in span if since < edge < until}
    )
    found: list[Stretch] = []
    last: State = NONE
    changed = passed = 0
    # One way through all of them: a port that flaps for a month has thousands.
    for start, end in pairwise(cuts):
        while changed < len(changes) and changes[changed][0] <= start:
            last = changes[changed][1]
            changed += 1
        while passed < len(dark) and dark[passed][1] <= start:
            passed += 1
        # The edges of the dark are cuts: it covers the whole stretch or nothing of it.
        now = NONE if passed < len(dark) and dark[passed][0] <= start else last
        if found and found[-1].state == now:
            found[-1] = Stretch(start=found[-1].start, end=end, state=now)
        else:
            found.append(Stretch(start=start, end=end, state=now))
    return found


_OF_STATUS: Mapping[str, State] = {PortStatus.UP: UP, PortStatus.DOWN: DOWN}
_BEFORE: Mapping[State, State] = {"up": "down", "down": "up", "none": "up"}
"""What a port was before the first change that is known."""


def _after(event: Event, now_state: str | None) -> State | None:
    """What a port is after an event; None if that is no news."""
    meaning = event.meaning
    if meaning.name == "withdrawn":
        # The state from before another machine answered is back: what is withdrawn was not wrong in it.
        return NONE if now_state is None else UP
    if event.kind in (EventKind.RETIRED, EventKind.UNWATCHED):
        return NONE
    if event.kind is EventKind.NEW:
        return UP
    if "state" in event.details:
        # A port that lacks an address or an owner listens all the same.
        still = event.details.get("lost") or event.details.get("gone")
        return DOWN if event.details["state"] == PortStatus.DOWN and not still else UP
    if event.kind is EventKind.DOWN:
        return DOWN
    return UP if event.kind is EventKind.RECOVERED and meaning.name == event.kind.value else None


def uptime(found: Iterable[Stretch]) -> Uptime:
    """How long it was what."""
    lasted = dict.fromkeys((UP, DOWN, NONE), timedelta(0))
    for span in found:
        lasted[span.state] += span.end - span.start
    known = lasted[UP] + lasted[DOWN]
    percent = int(lasted[UP] / known * 10_000) / 100 if known else None
    if percent == 100 and lasted[DOWN]:
        percent = 99.99
    return Uptime(up=lasted[UP], down=lasted[DOWN], unknown=lasted[NONE], percent=percent)
