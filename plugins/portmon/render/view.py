"""What the templates see: clean strings and numbers, nothing that could do anything."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from portmon.models import AlertGroup, Event, EventKind, PortStatus, Severity
from portmon.render.text import REASON_LIMIT, VALUE_LIMIT

SEVERITIES = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


@dataclass(frozen=True, slots=True)
class Line:
    """One event, as clean strings; what it does not have is empty.

    :param lasted: time that is over now, as numbers with units ``d``, ``h``, ``min`` and ``s``
    """

    kind: str
    severity: str
    host: str
    port: str
    program: str
    unit: str
    addresses: str
    before: str
    lost: str
    at: str
    since: str
    last_seen: str
    lasted: tuple[tuple[int, str], ...]
    error_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostView:
    """The lines of one host; the monitor's own have no name.

    :param link: address of its task log, checked to be http or https; empty without
    """

    name: str
    link: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """How many events of one kind there are, on how many hosts."""

    kind: str
    events: int
    hosts: int


@dataclass(frozen=True, slots=True)
class View:
    """Everything that a template may use.

    :param severity: of the worst event
    :param counts: worst kind first, of all events
    :param first: the first line of all
    :param events: how many there are
    :param hosts: how many hosts they are on
    :param listed: hosts with the events that fit
    :param more: events that did not fit
    :param more_hosts: hosts that these are on
    """

    group: str
    severity: str
    counts: tuple[Count, ...]
    first: Line
    events: int
    hosts: int
    listed: tuple[HostView, ...]
    more: int
    more_hosts: int


def _kind(event: Event) -> str:
    """The kind, with a name of its own for what is as bad as a ``down``."""
    if event.kind is EventKind.REBOUND and event.details.get("severe"):
        return "lost_bind"
    if event.kind is EventKind.STABLE and event.details.get("state") == PortStatus.DOWN:
        return "stable_down"
    return event.kind.value


def rank(event: Event) -> int:
    """0 is worst."""
    return SEVERITIES.index(event.severity)


def by_host(events: Iterable[Event]) -> list[tuple[Event, ...]]:
    """Events by host: the worst host first, then the one with most; its worst event first, then by port."""
    in_order = sorted(events, key=lambda event: event.host_id or "")
    hosts = [
        tuple(sorted(own, key=lambda event: (rank(event), event.protocol or "", event.port or 0, event.at, event.id)))
        for _, own in groupby(in_order, key=lambda event: event.host_id or "")
    ]
    hosts.sort(key=lambda own: (rank(own[0]), -len(own), own[0].host_name or "", own[0].host_id or ""))
    return hosts


def view_of(
    hosts: Sequence[Sequence[Event]],
    group: AlertGroup,
    max_lines: int,
    link: Callable[[Event], str | None],
    *,
    clean: Callable[[str, int], str],
) -> View:
    """What the templates see of these hosts.

    :param clean: makes text of a host harmless and at most so many characters long
    """
    events = [event for own in hosts for event in own]
    newest = max(event.at for event in events)
    listed: list[HostView] = []
    room = max_lines
    for own in hosts:
        shown = own[: max(room, 0)]
        room -= len(shown)
        if shown:
            address = next(filter(None, map(_checked(link), shown)), "")
            lines = tuple(_line(event, newest, clean) for event in shown)
            listed.append(HostView(name=lines[0].host, link=address, lines=lines))
    left = events[max_lines:]
    return View(
        group=group.value,
        severity=SEVERITIES[min(map(rank, events))].value,
        counts=_counts(events),
        first=_line(events[0], newest, clean),
        events=len(events),
        hosts=len({event.host_id for event in events if event.host_id is not None}),
        listed=tuple(listed),
        more=len(left),
        more_hosts=len({event.host_id for event in left if event.host_id is not None}),
    )


def _line(event: Event, newest: datetime, clean: Callable[[str, int], str]) -> Line:
    def name(value: object) -> str:
        return clean(str(value or "").strip(), VALUE_LIMIT)

    def names(detail: str) -> str:
        return name(", ".join(map(str, event.details.get(detail) or ())))

    return Line(
        kind=_kind(event),
        severity=event.severity.value,
        host=name(event.host_name or event.host_id),
        port=f"{event.protocol or 'tcp'}/{event.port}" if event.port is not None else "",
        program=name(event.program),
        unit=name(event.unit),
        addresses=names("addresses"),
        before=names("before") if isinstance(event.details.get("before"), list) else "",
        lost=names("lost"),
        at=_moment(event.at, newest),
        since=_moment(event.since or event.at, newest),
        last_seen=_moment(event.last_seen, newest),
        lasted=_lasted(event),
        error_class=name(event.details.get("error_class")),
        reason=clean(event.reason.strip(), REASON_LIMIT),
    )


def _counts(events: Iterable[Event]) -> tuple[Count, ...]:
    numbers: Counter[str] = Counter()
    hosts: dict[str, set[str | None]] = {}
    ranks: dict[str, int] = {}
    for event in events:
        kind = _kind(event)
        numbers[kind] += 1
        hosts.setdefault(kind, set()).add(event.host_id)
        ranks[kind] = min(rank(event), ranks.get(kind, len(SEVERITIES)))
    order = sorted(numbers, key=lambda kind: (ranks[kind], -numbers[kind], kind))
    return tuple(Count(kind=kind, events=numbers[kind], hosts=len(hosts[kind])) for kind in order)


def _moment(moment: datetime | None, newest: datetime) -> str:
    """Time of day, with as much of the date as the newest event does not share."""
    if moment is None:
        return ""
    if moment.date() == newest.date():
        return f"{moment:%H:%M}"
    return f"{moment:%m-%d %H:%M}" if moment.year == newest.year else f"{moment:%Y-%m-%d %H:%M}"


def _lasted(event: Event) -> tuple[tuple[int, str], ...]:
    details: Mapping[str, object] = event.details
    seconds = details.get("down_for", details.get("unreachable_for"))
    if not isinstance(seconds, int | float):
        seconds = (event.at - event.since).total_seconds() if event.since else None
    return _span(seconds) if seconds is not None and seconds >= 0 else ()


def _span(seconds: float) -> tuple[tuple[int, str], ...]:
    """A duration in at most two units: ``(3, "h"), (20, "min")``."""
    if seconds < 60:
        return ((round(seconds), "s"),)
    minutes = round(seconds / 60)
    if minutes < 60:
        return ((minutes, "min"),)
    if minutes < 48 * 60:
        large, small = (minutes // 60, "h"), (minutes % 60, "min")
    else:
        hours = round(minutes / 60)
        large, small = (hours // 24, "d"), (hours % 24, "h")
    return (large, small) if small[0] else (large,)


_LINK = re.compile(r"https?://[!-~]+")


def _checked(link: Callable[[Event], str | None]) -> Callable[[Event], str]:
    """Only what is a link and nothing else: no script, no blank to end it early."""

    def checked(event: Event) -> str:
        address = link(event) or ""
        return address if _LINK.fullmatch(address) and not set(address) & set("<>\"'`") else ""

    return checked
