"""Alerts into one message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from portmon.alerting.config import Language
from portmon.alerting.message.bodies import Bodies, fill
from portmon.alerting.message.build import checked, view_of
from portmon.alerting.message.order import in_order, worst
from portmon.alerting.outages import Outage
from portmon.model.alert import Alert
from portmon.model.event import AlertGroup, Event, Severity


@dataclass(frozen=True, slots=True)
class Layout:
    """How messages look.

    :param language: of everything that portmon says; reasons are English in both
    :param max_lines: lines listed; the rest is counted
    :param templates: folder with templates of the user's own
    """

    language: Language = "en"
    max_lines: int = 50
    templates: Path | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What one channel is to be told at once. All of it is final text: nothing in it may be rendered again.

    :param title: one short line, counts first
    :param text: lines for chat and logs; like ``markdown`` without the title
    :param html: a complete document for mail, with the title
    :param severity: of the worst event
    :param id: 32 hex digits, the same for the same message sent again: an idempotency key
    :param reminder: it repeats what goes on
    :param alerts: worst first, those that did not fit into the lines too
    :param links: of the task log of each alert
    :param expires_at: until when what goes on holds unless it is repeated, for receivers that forget
    :param lines: how many are listed
    :param cut: the same message with at most so many lines, for receivers that take less; None if it was not rendered
    :param resting: targets of the channel that asked to be left alone, and until when
    :param crowded: runs of which the channel was told so much that one message could not name it all
    """

    title: str
    text: str
    html: str
    severity: Severity = Severity.INFO
    markdown: str = ""
    id: str = ""
    group: AlertGroup = AlertGroup.DOWN
    route: str = ""
    reminder: bool = False
    alerts: tuple[Alert, ...] = ()
    links: tuple[str | None, ...] = ()
    expires_at: datetime | None = None
    lines: int = 0
    cut: Callable[[int], Bodies] | None = field(default=None, repr=False, compare=False)
    resting: Mapping[str, datetime] = field(default_factory=dict)
    crowded: frozenset[str] = frozenset()


def render(
    alerts: Sequence[Alert],
    group: AlertGroup,
    *,
    layout: Layout,
    link: Callable[[Event], str | None],
    page: str | None = None,
    subject: str = "",
    reminder: bool = False,
    outages: Mapping[str, Outage] | None = None,
) -> Message:
    """One message: by host, worst first, one line per alert, one per outage.

    :param alerts: at least one, all of ``group``
    :param link: an event to the address of its host's task log, None if it has none
    :param page: address of the page that has what the message leaves out
    :param subject: value of the label that the message is grouped by
    :param reminder: it repeats what goes on
    :param outages: host id -> outage that its event is folded into, see :func:`portmon.alerting.outages.find_outages`
    :raises ValueError: without alerts
    """
    if not alerts:
        raise ValueError("a message needs at least one alert")
    blocks = in_order(alerts, outages or {})
    told = tuple(alert for block in blocks for bundle in block for alert in bundle.alerts)
    links = {alert.event.id: checked(link(alert.event)) for alert in told}
    view = partial(view_of, blocks, group, links=links, page=checked(page), subject=subject, reminder=reminder)
    bodies = fill(view(max_lines=layout.max_lines), layout.language, layout.templates)
    return Message(
        title=bodies.title,
        text=bodies.text,
        html=bodies.html,
        markdown=bodies.markdown,
        severity=worst(told),
        group=group,
        reminder=reminder,
        alerts=told,
        links=tuple(links[alert.event.id] or None for alert in told),
        lines=min(layout.max_lines, sum(map(len, blocks))),
        cut=lambda lines: fill(view(max_lines=lines), layout.language, layout.templates, again=True),
    )
