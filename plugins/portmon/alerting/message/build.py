"""Alerts in their order into what the templates see."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from portmon.alerting.message.order import Block, Bundle, rank, worst
from portmon.alerting.message.view import Address, Count, MessageHost, MessageLine, MessageView, Site, Span
from portmon.alerting.outages import Outage
from portmon.model.alert import Alert
from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup, AlertRole
from portmon.text import REASON_LIMIT, VALUE_LIMIT, plain

SUBJECT_LIMIT = 40
"""Characters of a subject: the counts after it must fit into the title too."""
NAMES_SHOWN = 3
"""Hosts of an outage that are named."""
RUNBOOKS = 3
"""A message leads to so many of them, of the worst kinds."""
_OUTAGES_COUNTED = 2
"""More outages than these are one number in the title."""


def view_of(
    blocks: Sequence[Block],
    group: AlertGroup,
    *,
    max_lines: int,
    links: Mapping[str, Address],
    pages: Mapping[str, Address],
    notes: Mapping[str, str],
    page: Address,
    subject: str,
    reminder: bool,
    runbooks: Mapping[str, Address],
) -> MessageView:
    """What the templates see.

    :param blocks: at least one, in order
    :param links: id of an event -> address of its task log
    :param pages: id of an event -> address of the page of its port or host
    :param notes: id of an event -> what people wrote about its port
    :param page: has what the lines leave out
    :param runbooks: kind of event -> address of what to do
    """
    bundles = [bundle for block in blocks for bundle in block]
    alerts = [alert for bundle in bundles for alert in bundle.alerts]
    line_of = partial(
        _line, pages=pages, notes=notes, newest=max(alert.event.at for alert in alerts), reminder=reminder
    )
    listed: list[MessageHost] = []
    room = max_lines
    for block in blocks:
        shown, room = block[:room], max(room - len(block), 0)
        if not shown:
            break
        lines = tuple(map(line_of, shown))
        found = (links.get(alert.event.id) for one in shown if not one.outage for alert in one.alerts)
        log = next(filter(None, found), Address())
        own = lines[0].page if len(lines) == 1 else Address(_OF_PORT.sub("", lines[0].page))
        listed.append(MessageHost(lines[0].host, log, own, lines))
    left = [alert for bundle in bundles[max_lines:] for alert in bundle.alerts]
    unnamed = any(line.counts or (line.site and line.site.unnamed) for host in listed for line in host.lines)
    return MessageView(
        group=group.value,
        severity=worst(alerts).value,
        reminder=reminder,
        subject=plain(subject.strip(), SUBJECT_LIMIT),
        counts=_counts(bundles),
        first=line_of(bundles[0]),
        events=len(alerts),
        hosts=_hosts(alerts),
        listed=tuple(listed),
        more=len(left),
        more_hosts=_hosts(left),
        page=page if left or unnamed else Address(),
        runbooks=tuple(dict.fromkeys(filter(None, (runbooks.get(alert.event.kind) for alert in alerts))))[:RUNBOOKS],
    )


_OF_PORT = re.compile(r"(?:/ports/|&port=)\d+\Z")
"""What the address of a port has behind that of its host."""
_ADDRESS = re.compile(r"https?://(?:(?![<>\"'`])[!-~])+")


def checked(address: str | None) -> Address:
    """An address only if it is one and nothing else: no script, no blank or quote that could end it early."""
    return Address(address) if address and _ADDRESS.fullmatch(address) else Address()


def _hosts(alerts: Iterable[Alert]) -> int:
    return len({alert.event.host_id for alert in alerts if alert.event.host_id is not None})


def _line(
    bundle: Bundle, *, pages: Mapping[str, Address], notes: Mapping[str, str], newest: datetime, reminder: bool
) -> MessageLine:
    alerts, outage, event = bundle.alerts, bundle.outage, bundle.alerts[0].event
    time_of = partial(_time, newest=newest, reminder=reminder)
    line = MessageLine(
        kind=bundle.kind,
        severity=event.severity.value,
        host=_shown(outage.site) if outage else _name(event),
        at=time_of(max(alert.event.at for alert in alerts)),
        since=time_of(min(alert.event.since or alert.starts_at for alert in alerts)),
        started=time_of(min(alert.starts_at for alert in alerts)),
        untold=all(alert.untold for alert in alerts),
        still=reminder and any(alert.role is AlertRole.FIRING for alert in alerts),
        page=Address() if outage else pages.get(event.id, Address()),
        note="" if outage else plain(notes.get(event.id, ""), REASON_LIMIT),
    )
    if bundle.crowd:
        return replace(line, counts=_counts([bundle]))
    seconds = _seconds(alerts)
    return replace(
        line,
        port=f"{event.protocol or 'tcp'}/{event.port}" if event.port is not None else "",
        program=_shown(event.program),
        unit=_shown(event.unit),
        addresses=_joined(event, "addresses"),
        before=_joined(event, "before"),
        lost=_joined(event, "lost"),
        owner=_joined(event, "owner"),
        left=_joined(event, "left"),
        was=_joined(event, "was"),
        gone=_joined(event, "gone"),
        young=event.details.get("young") is True,
        state=_shown(event.details.get("state")),
        last_seen=time_of(event.last_seen),
        lasted=_span(seconds[-1]) if seconds else (),
        error_class=_shown(event.details.get("error_class")),
        reason=plain(event.reason.strip(), REASON_LIMIT),
        site=_site(alerts, outage) if outage else None,
    )


def _time(moment: datetime | None, *, newest: datetime, reminder: bool) -> str:
    """Time of day, with as much of the date as the newest event does not share; a reminder may come days later."""
    if moment is None:
        return ""
    if moment.year != newest.year:
        return f"{moment:%Y-%m-%d %H:%M}"
    return f"{moment:%m-%d %H:%M}" if reminder or moment.date() != newest.date() else f"{moment:%H:%M}"


def _site(alerts: Sequence[Alert], outage: Outage) -> Site:
    hosts = {alert.event.host_id: alert.event for alert in alerts}
    errors = Counter(str(event.details["error_class"]) for event in hosts.values() if event.details.get("error_class"))
    seconds = _seconds(alerts)
    return Site(
        name=_shown(outage.site),
        hosts=outage.hosts,
        unreachable=outage.unreachable,
        told=len(hosts),
        names=tuple(_name(event) for event in list(hosts.values())[:NAMES_SHOWN]),
        unnamed=max(len(hosts) - NAMES_SHOWN, 0),
        errors=tuple((_shown(error), errors[error]) for error in sorted(errors, key=lambda one: (-errors[one], one))),
        shortest=_span(seconds[0]) if seconds else (),
    )


def _shown(value: object) -> str:
    return plain(str(value or "").strip(), VALUE_LIMIT)


def _name(event: Event) -> str:
    return _shown(event.host_name) or _shown(event.host_id)


def _joined(event: Event, detail: str) -> str:
    """A detail that is a list, or text already."""
    value = event.details.get(detail)
    if isinstance(value, list | tuple):
        return _shown(", ".join(map(str, value)))
    return _shown(value) if isinstance(value, str) else ""


def _counts(bundles: Iterable[Bundle]) -> tuple[Count, ...]:
    by_kind: dict[tuple[str, str], list[Bundle]] = defaultdict(list)
    for bundle in bundles:
        for one in [Bundle((alert,)) for alert in bundle.alerts] if bundle.crowd else [bundle]:
            kind = one.alerts[0].event.meaning.counted_as or one.kind
            by_kind[kind, one.outage.site if one.outage else ""].append(one)
    sites = sorted(key for key in by_kind if key[0] == "outage")
    if len(sites) > _OUTAGES_COUNTED:
        by_kind["outages", ""] = [bundle for key in sites for bundle in by_kind.pop(key)]

    def place(key: tuple[str, str]) -> tuple[int, bool, int, tuple[str, str]]:
        alerts = [alert for bundle in by_kind[key] for alert in bundle.alerts]
        return min(rank(alert.event) for alert in alerts), by_kind[key][0].outage is None, -len(alerts), key

    def count(kind: str, site: str) -> Count:
        alerts = [alert for bundle in by_kind[kind, site] for alert in bundle.alerts]
        outages = [bundle.outage for bundle in by_kind[kind, site] if bundle.outage]
        return Count(
            kind=kind,
            events=len(alerts),
            hosts=_hosts(alerts),
            site=_shown(site),
            sites=len(outages),
            of=sum(outage.hosts for outage in outages),
            unreachable=sum(outage.unreachable for outage in outages),
            besides=bool(sites) and not outages,
            ports=sum(alert.event.port is not None for alert in alerts),
        )

    return tuple(count(*key) for key in sorted(by_kind, key=place))


def _seconds(alerts: Iterable[Alert]) -> list[float]:
    """How long each alert lasted, shortest first; alerts of unknown length are left out."""
    found: list[float] = []
    for alert in alerts:
        event = alert.event
        seconds = event.details.get("down_for", event.details.get("unreachable_for"))
        began = event.since or (alert.starts_at if alert.role is AlertRole.RESOLVED else None)
        if isinstance(seconds, int | float):
            found.append(seconds)
        elif began:
            found.append((event.at - began).total_seconds())
    return sorted(seconds for seconds in found if seconds >= 0)


def _span(seconds: float) -> Span:
    if seconds < 60:
        return ((round(seconds), "s"),)
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        units = (minutes // 60, "h"), (minutes % 60, "min")
    else:
        hours = round(minutes / 60)
        units = (hours // 24, "d"), (hours % 24, "h")
    return tuple(unit for unit in units if unit[0])
