"""Alerts into one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from portmon.alerting.config import Language
from portmon.alerting.message.bodies import Bodies, fill
from portmon.alerting.message.build import checked, view_of
from portmon.alerting.message.order import Block, in_order, worst
from portmon.alerting.message.view import Address
from portmon.alerting.outages import Outage
from portmon.alerting.runbooks import about
from portmon.model.alert import Alert
from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup, Severity


@dataclass(frozen=True, slots=True)
class Layout:
    """How messages look.

    :param language: of all texts but the reasons of events, which are English
    :param max_lines: lines listed; the rest is counted
    :param templates: folder with templates of the user's own
    """

    language: Language = "en"
    max_lines: int = 50
    templates: Path | None = None


@dataclass(frozen=True, slots=True)
class Message(Bodies):
    """What a channel sends at once. All of it is final text: nothing in it may be rendered again.

    :param severity: of the worst event
    :param id: 32 hex digits, the same for the same message sent again: an idempotency key
    :param reminder: it repeats alerts that still fire
    :param acknowledged: a person takes care of its alerts; only for a channel that ``takes_acknowledgements``
    :param language: of its texts
    :param alerts: worst first, also those that did not fit into the lines
    :param links: of the task log of each alert
    :param pages: of the page of its port or host
    :param page: of the page that has all that is wrong
    :param runbooks: kind of event -> address of what to do
    :param expires_at: when a receiver that forgets drops a firing alert, unless it is sent again
    :param lines: number of lines listed
    :param cut: the same message with at most so many lines, for receivers that take less; None if it was not rendered
    :param alone: title and bodies of a message about one of its alerts; None if it was not rendered
    :param resting: targets of the channel that asked to be left alone, and until when
    :param crowded: runs with more alerts than one message to the channel could name
    """

    severity: Severity = Severity.INFO
    id: str = ""
    group: AlertGroup = AlertGroup.DOWN
    route: str = ""
    reminder: bool = False
    acknowledged: bool = False
    language: Language = "en"
    alerts: tuple[Alert, ...] = ()
    links: tuple[str | None, ...] = ()
    pages: tuple[str | None, ...] = ()
    page: str | None = None
    runbooks: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    lines: int = 0
    cut: Callable[[int], Bodies] | None = field(default=None, repr=False, compare=False)
    alone: Callable[[Alert], Bodies] | None = field(default=None, repr=False, compare=False)
    resting: Mapping[str, datetime] = field(default_factory=dict)
    crowded: frozenset[str] = frozenset()

    def linked(self) -> Iterator[tuple[Alert, str | None, str | None]]:
        """Each alert with the addresses of its task log and of its page, None if it has none."""
        nothing = (None,) * len(self.alerts)
        return zip(self.alerts, self.links or nothing, self.pages or nothing, strict=True)

    def each(self) -> Iterator[Message]:
        """The same message about each of its alerts alone."""
        for alert, link, page in self.linked():
            bodies = asdict(self.alone(alert)) if self.alone else {}
            own: dict[str, Any] = {"alerts": (alert,), "links": (link,), "pages": (page,)}
            yield replace(self, **bodies, **own, severity=alert.event.severity, lines=1, cut=None, alone=None)


def render(
    alerts: Sequence[Alert],
    group: AlertGroup,
    *,
    layout: Layout,
    link: Callable[[Event], str | None],
    page: str | None = None,
    page_of: Callable[[Event], str | None] = lambda _: None,
    runbook_of: Callable[[str], str | None] = lambda _: None,
    note_of: Callable[[Event], str] = lambda _: "",
    subject: str = "",
    reminder: bool = False,
    outages: Mapping[str, Outage] | None = None,
) -> Message:
    """One message: by host, worst first, one line per alert, one per outage.

    :param alerts: at least one, all of ``group``
    :param link: an event to the address of its host's task log, None if it has none
    :param page: address of the page that has what the message leaves out
    :param page_of: an event to the address of the page of its port or host
    :param runbook_of: the name of a runbook to its address
    :param note_of: an event to what people wrote about its port
    :param subject: value of the label that the message is grouped by
    :param reminder: it repeats alerts that still fire
    :param outages: host id -> outage that its event is folded into, see :func:`portmon.alerting.outages.find_outages`
    :raises ValueError: without alerts
    """
    if not alerts:
        raise ValueError("a message needs at least one alert")
    blocks = in_order(alerts, outages or {})
    told = tuple(alert for block in blocks for bundle in block for alert in bundle.alerts)
    everything = checked(page)
    links = {alert.event.id: checked(link(alert.event)) for alert in told}
    pages = {alert.event.id: checked(page_of(alert.event)) for alert in told}
    notes = {alert.event.id: note_of(alert.event) for alert in told}
    named = {alert.event.kind: about(alert.event.kind, alert.event.role) for alert in told}
    found = {kind: checked(runbook_of(name)) for kind, name in named.items() if name}
    runbooks: dict[str, Address] = {kind: address for kind, address in found.items() if address}

    def bodies(shown: Sequence[Block], lines: int, *, again: bool = True) -> Bodies:
        view = view_of(
            shown,
            group,
            max_lines=lines,
            links=links,
            pages=pages,
            notes=notes,
            page=everything,
            runbooks=runbooks,
            subject=subject,
            reminder=reminder,
        )
        return fill(view, layout.language, layout.templates, again=again)

    return Message(
        **asdict(bodies(blocks, layout.max_lines, again=False)),
        severity=worst(told),
        group=group,
        reminder=reminder,
        language=layout.language,
        alerts=told,
        links=tuple(links[alert.event.id] or None for alert in told),
        pages=tuple(pages[alert.event.id] or None for alert in told),
        page=everything or None,
        runbooks=runbooks,
        lines=min(layout.max_lines, sum(map(len, blocks))),
        cut=lambda lines: bodies(blocks, lines),
        alone=lambda one: bodies(in_order([one], {}), 1),
    )
