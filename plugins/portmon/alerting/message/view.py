"""What the templates see: clean strings and numbers, nothing that could do anything."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from portmon.alerting.outages import Outage
from portmon.model.alert import Alert
from portmon.model.event import AlertGroup, AlertRole, Event, EventKind, Severity
from portmon.model.state import PortStatus
from portmon.text import REASON_LIMIT, VALUE_LIMIT

SEVERITIES = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)
"""Worst first."""
SUBJECT_LIMIT = 40
"""Characters of a subject: the counts after it must fit into the title too."""
NAMES_SHOWN = 3
"""Hosts of an outage that are named."""
CROWD = 200
"""More events than these of one host and run are one line: one host must not fill everybody's messages."""
_OUTAGES_COUNTED = 2
"""More outages than these are one number in the title."""


@dataclass(frozen=True, slots=True)
class Site:
    """What an outage line has to say.

    :param name: empty for the whole fleet
    :param hosts: hosts of the site
    :param unreachable: of them unreachable now
    :param told: hosts that this line tells of
    :param names: of the first of these
    :param unnamed: how many more there are
    :param errors: error class and how many hosts have it, most first
    :param shortest: time that is over for the host that came back fastest; ``lasted`` of the line is the longest
    """

    name: str
    hosts: int
    unreachable: int
    told: int
    names: tuple[str, ...]
    unnamed: int
    errors: tuple[tuple[str, int], ...]
    shortest: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One alert, or what many are folded into, as clean strings; what it does not have is empty.

    :param kind: of the event, or ``lost_bind`` (a severe rebound), ``stable_down``, ``outage``, ``outage_over``,
        ``many`` (too much of one host and run to be listed)
    :param state: of a port that flaps or flapped, ``up`` or ``down``
    :param at: when the newest event was, UTC like all times
    :param since: since when that is so
    :param started: since when the alert goes on
    :param lasted: time that is over now, as numbers with units ``d``, ``h``, ``min`` and ``s``
    :param untold: it is over, and that it began was not told before
    :param still: it goes on and was told before
    :param site: only of an outage
    :param counts: only of ``many``: how much of what
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
    state: str
    at: str
    since: str
    started: str
    last_seen: str
    lasted: tuple[tuple[int, str], ...]
    error_class: str
    reason: str
    untold: bool
    still: bool
    site: Site | None = None
    counts: tuple[Count, ...] = ()


@dataclass(frozen=True, slots=True)
class HostView:
    """The lines of one host, or the line of one site; the monitor's own and the whole fleet have no name.

    :param link: address of the host's task log, checked to be http or https; empty without
    """

    name: str
    link: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """How many alerts of one kind there are, on how many hosts.

    :param kind: like that of a line; ``unwatched`` counts as ``retired``; ``outages`` are more than two of them
    :param site: name of an outage's site, empty for the whole fleet
    :param sites: how many outages
    :param of: hosts of the sites
    :param unreachable: of them unreachable now
    :param besides: an outage is counted too: these are other hosts
    """

    kind: str
    events: int
    hosts: int
    site: str = ""
    sites: int = 0
    of: int = 0
    unreachable: int = 0
    besides: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """Everything that a template may use.

    :param group: ``new``, ``down``, ``recovered`` or ``unreachable``
    :param severity: of the worst alert
    :param reminder: it repeats what goes on
    :param subject: value of the label that this message is grouped by; empty without
    :param counts: worst kind first, of all alerts
    :param first: the first line of all
    :param events: how many alerts there are
    :param hosts: how many hosts they are on
    :param listed: hosts with the lines that fit
    :param more: alerts whose lines did not fit
    :param more_hosts: hosts that these are on
    :param page: address that has what this message does not name; empty without, or if it names everything
    """

    group: str
    severity: str
    reminder: bool
    subject: str
    counts: tuple[Count, ...]
    first: Line
    events: int
    hosts: int
    listed: tuple[HostView, ...]
    more: int
    more_hosts: int
    page: str


# ── order ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Entry:
    """The alerts of one line: one, those of an outage, or a crowd of one host and run."""

    alerts: tuple[Alert, ...]
    outage: Outage | None = None

    @property
    def crowd(self) -> bool:
        """Whether these are too many of one host to be listed."""
        return self.outage is None and len(self.alerts) > 1


Block = tuple[Entry, ...]
"""The entries of one host, or the one of an outage."""


def rank(event: Event) -> int:
    """0 is worst."""
    return SEVERITIES.index(event.severity)


def in_order(alerts: Iterable[Alert], outages: Mapping[str, Outage]) -> list[Block]:
    """Alerts by host: the worst host first, outages before others that are as bad, then the host with most.

    Within a host its worst alert is first, then by port.

    :param outages: host id -> outage that its ``unreachable`` or ``reachable`` is folded into
    """
    hosts: dict[str, list[Alert]] = defaultdict(list)
    folded: dict[tuple[Outage, EventKind], list[Alert]] = defaultdict(list)
    for alert in alerts:
        event = alert.event
        outage = outages.get(event.host_id or "")
        if outage and event.kind in (EventKind.UNREACHABLE, EventKind.REACHABLE):
            folded[outage, event.kind].append(alert)
        else:
            hosts[event.host_id or ""].append(alert)
    blocks: list[Block] = [tuple(_entries(sorted(own, key=_place))) for own in hosts.values()]
    blocks += [(Entry(tuple(sorted(own, key=_by_name)), outage),) for (outage, _), own in folded.items()]

    def place(block: Block) -> tuple[int, bool, int, str, str]:
        outage, event = block[0].outage, block[0].alerts[0].event
        worst = min(rank(alert.event) for alert in block[0].alerts)
        size = sum(len(entry.alerts) for entry in block)
        return worst, outage is None, -size, outage.site if outage else event.host_name or "", event.host_id or ""

    return sorted(blocks, key=place)


def _entries(own: Sequence[Alert]) -> Iterator[Entry]:
    """The lines of one host: what is too much of one run is one line, where its worst alert would be."""
    runs: dict[str, list[Alert]] = defaultdict(list)
    for alert in own:
        runs[alert.event.run_id].append(alert)
    for alert in own:
        alike = runs[alert.event.run_id]
        if len(alike) <= CROWD or not alert.event.host_id:
            yield Entry((alert,))
        elif alert is alike[0]:
            yield Entry(tuple(alike))


def _place(alert: Alert) -> tuple[int, str, int, datetime, str]:
    event = alert.event
    return rank(event), event.protocol or "", event.port or 0, event.at, event.id


def _by_name(alert: Alert) -> tuple[int, str, str, str]:
    event = alert.event
    return rank(event), event.host_name or "", event.host_id or "", event.id


# ── the view ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Medium:
    """How one kind of body takes text and addresses.

    :param clean: makes text of a host harmless and at most so many characters long
    :param address: makes an address fit
    """

    clean: Callable[[str, int], str]
    address: Callable[[str], str]


def view_of(
    blocks: Sequence[Block],
    group: AlertGroup,
    medium: Medium,
    *,
    max_lines: int,
    links: Mapping[str, str],
    page: str,
    subject: str,
    reminder: bool,
) -> View:
    """What the templates see.

    :param blocks: at least one, in order
    :param links: id of an event -> checked address of its task log
    :param page: checked address of the page that has the rest; empty without
    """
    entries = [entry for block in blocks for entry in block]
    events = [alert.event for entry in entries for alert in entry.alerts]
    lines = _Lines(medium.clean, max(event.at for event in events), reminder)
    listed: list[HostView] = []
    room = max_lines
    for block in blocks:
        shown = block[: max(room, 0)]
        room -= len(shown)
        if shown:
            own = tuple(map(lines.line, shown))
            found = (links.get(alert.event.id, "") for entry in shown if not entry.outage for alert in entry.alerts)
            listed.append(HostView(name=own[0].host, link=medium.address(next(filter(None, found), "")), lines=own))
    left = [alert.event for entry in entries[max_lines:] for alert in entry.alerts]
    unnamed = any(line.counts or (line.site and line.site.unnamed) for host in listed for line in host.lines)
    return View(
        group=group.value,
        severity=SEVERITIES[min(map(rank, events))].value,
        reminder=reminder,
        subject=medium.clean(subject.strip(), SUBJECT_LIMIT),
        counts=_counts(entries, lines),
        first=listed[0].lines[0] if listed else lines.line(entries[0]),
        events=len(events),
        hosts=_hosts(events),
        listed=tuple(listed),
        more=len(left),
        more_hosts=_hosts(left),
        page=medium.address(page) if left or unnamed else "",
    )


def _hosts(events: Iterable[Event]) -> int:
    return len({event.host_id for event in events if event.host_id is not None})


def _kind(entry: Entry) -> str:
    """The kind, with a name of its own for what is as bad as a ``down``."""
    event = entry.alerts[0].event
    if entry.crowd:
        return "many"
    if entry.outage:
        return "outage" if event.kind is EventKind.UNREACHABLE else "outage_over"
    if event.kind is EventKind.REBOUND and event.details.get("severe"):
        return "lost_bind"
    if event.kind is EventKind.STABLE and event.details.get("state") == PortStatus.DOWN:
        return "stable_down"
    return event.kind.value


@dataclass(frozen=True, slots=True)
class _Lines:
    clean: Callable[[str, int], str]
    newest: datetime
    reminder: bool

    def line(self, entry: Entry) -> Line:
        alert = entry.alerts[0]
        event = alert.event
        if entry.crowd:
            return self.crowd(entry)
        lasted = _spans(entry.alerts)
        return Line(
            kind=_kind(entry),
            severity=event.severity.value,
            host=self.name(entry.outage.site) if entry.outage else self.host(event),
            port=f"{event.protocol or 'tcp'}/{event.port}" if event.port is not None else "",
            program=self.name(event.program),
            unit=self.name(event.unit),
            addresses=self.names(event, "addresses"),
            before=self.names(event, "before"),
            lost=self.names(event, "lost"),
            state=self.name(event.details.get("state")),
            at=self.moment(max(alert.event.at for alert in entry.alerts)),
            since=self.moment(min(alert.event.since or alert.starts_at for alert in entry.alerts)),
            started=self.moment(min(alert.starts_at for alert in entry.alerts)),
            last_seen=self.moment(event.last_seen),
            lasted=_span(lasted[-1]) if lasted else (),
            error_class=self.name(event.details.get("error_class")),
            reason=self.clean(event.reason.strip(), REASON_LIMIT),
            untold=all(alert.untold for alert in entry.alerts),
            still=self.reminder and alert.role is AlertRole.FIRING,
            site=self.site(entry.alerts, entry.outage) if entry.outage else None,
        )

    def crowd(self, entry: Entry) -> Line:
        first = entry.alerts[0].event
        return Line(
            kind=_kind(entry),
            severity=first.severity.value,
            host=self.host(first),
            port="",
            program="",
            unit="",
            addresses="",
            before="",
            lost="",
            state="",
            at=self.moment(max(alert.event.at for alert in entry.alerts)),
            since=self.moment(min(alert.event.since or alert.starts_at for alert in entry.alerts)),
            started=self.moment(min(alert.starts_at for alert in entry.alerts)),
            last_seen="",
            lasted=(),
            error_class="",
            reason="",
            untold=all(alert.untold for alert in entry.alerts),
            still=self.reminder and any(alert.role is AlertRole.FIRING for alert in entry.alerts),
            counts=_counts([entry], self),
        )

    def site(self, alerts: Sequence[Alert], outage: Outage) -> Site:
        hosts = {alert.event.host_id: alert.event for alert in alerts}
        errors = Counter(str(event.details.get("error_class") or "") for event in hosts.values())
        del errors[""]
        spans = _spans(alerts)
        return Site(
            name=self.name(outage.site),
            hosts=outage.hosts,
            unreachable=outage.unreachable,
            told=len(hosts),
            names=tuple(self.host(event) for event in list(hosts.values())[:NAMES_SHOWN]),
            unnamed=max(len(hosts) - NAMES_SHOWN, 0),
            errors=tuple((self.name(error), count) for error, count in sorted(errors.items(), key=_most_first)),
            shortest=_span(spans[0]) if spans else (),
        )

    def name(self, value: object) -> str:
        return self.clean(str(value or "").strip(), VALUE_LIMIT)

    def host(self, event: Event) -> str:
        return self.name(event.host_name) or self.name(event.host_id)

    def names(self, event: Event, detail: str) -> str:
        values = event.details.get(detail)
        return self.name(", ".join(map(str, values))) if isinstance(values, list | tuple) else ""

    def moment(self, moment: datetime | None) -> str:
        """Time of day, with as much of the date as the newest event does not share; a reminder may come days later."""
        if moment is None:
            return ""
        if moment.year != self.newest.year:
            return f"{moment:%Y-%m-%d %H:%M}"
        if self.reminder or moment.date() != self.newest.date():
            return f"{moment:%m-%d %H:%M}"
        return f"{moment:%H:%M}"


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


# Both are the same to whoever reads a title: nobody will hear of these ports again.
_COUNTED_AS = {EventKind.UNWATCHED.value: EventKind.RETIRED.value}


def _counts(entries: Iterable[Entry], lines: _Lines) -> tuple[Count, ...]:
    by_kind: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    single = ([Entry((alert,)) for alert in entry.alerts] if entry.crowd else [entry] for entry in entries)
    for entry in chain.from_iterable(single):
        kind = _kind(entry)
        by_kind[_COUNTED_AS.get(kind, kind), entry.outage.site if entry.outage else ""].append(entry)
    sites = sorted(key for key in by_kind if key[0] == "outage")
    if len(sites) > _OUTAGES_COUNTED:
        by_kind["outages", ""] = [entry for key in sites for entry in by_kind.pop(key)]

    def place(key: tuple[str, str]) -> tuple[int, bool, int, tuple[str, str]]:
        alerts = [alert for entry in by_kind[key] for alert in entry.alerts]
        return min(rank(alert.event) for alert in alerts), by_kind[key][0].outage is None, -len(alerts), key

    counts: list[Count] = []
    for kind, site in sorted(by_kind, key=place):
        own = by_kind[kind, site]
        events = [alert.event for entry in own for alert in entry.alerts]
        found = [entry.outage for entry in own if entry.outage]
        counts.append(
            Count(
                kind=kind,
                events=len(events),
                hosts=_hosts(events),
                site=lines.name(site),
                sites=len(found),
                of=sum(outage.hosts for outage in found),
                unreachable=sum(outage.unreachable for outage in found),
                besides=bool(sites) and not found,
            )
        )
    return tuple(counts)


# ── times ───────────────────────────────────────────────────────────────────────────────────────


def _spans(alerts: Iterable[Alert]) -> list[float]:
    """How long what is over went on, in seconds, shortest first."""
    seconds = (_lasted(alert) for alert in alerts)
    return sorted(span for span in seconds if span is not None and span >= 0)


def _lasted(alert: Alert) -> float | None:
    details = alert.event.details
    seconds = details.get("down_for", details.get("unreachable_for"))
    if isinstance(seconds, int | float):
        return seconds
    began = alert.event.since or (alert.starts_at if alert.role is AlertRole.RESOLVED else None)
    return (alert.event.at - began).total_seconds() if began else None


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


# ── addresses ───────────────────────────────────────────────────────────────────────────────────

_ADDRESS = re.compile(r"https?://[!-~]+")


def checked(address: str | None) -> str:
    """An address only if it is one and nothing else: no script, no blank or quote to end it early."""
    address = address or ""
    return address if _ADDRESS.fullmatch(address) and not set(address) & set("<>\"'`") else ""
