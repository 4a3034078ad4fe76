"""Alerts into one message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from portmon.alerting.config import Language
from portmon.alerting.message.bodies import Bodies, Views, fill
from portmon.alerting.message.view import SEVERITIES, Block, Medium, checked, in_order, rank, view_of
from portmon.alerting.outages import Outage
from portmon.model.alert import Alert
from portmon.model.event import AlertGroup, Event, Severity
from portmon.text import escape_markdown, inert, plain


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
    :param text: lines for chat and logs; the title is not repeated
    :param html: a complete document for mail; holds the title
    :param severity: of the worst event
    :param markdown: the same lines for what shows Markdown; the title is not repeated
    :param id: the same for the same message sent again: an idempotency key. 32 hex digits
    :param group: the alert task that sends it
    :param route: name of the route that it came by
    :param reminder: it repeats what goes on
    :param alerts: what it tells, as data, worst first; also what did not fit into the lines
    :param links: of the task log of each alert, None where there is none
    :param expires_at: until when what goes on holds unless it is repeated, for receivers that forget
    :param lines: how many are listed
    :param cut: the same message with fewer lines listed and the rest counted, for receivers that take less; None if
        it was not rendered here
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


_TEXT = Medium(clean=lambda value, limit: inert(plain(value, limit)), address=str)
_MARKDOWN = Medium(
    clean=lambda value, limit: escape_markdown(inert(plain(value, limit))),
    # What would end the address of a Markdown link, or be interpreted within it.
    address=lambda address: "".join(f"%{ord(char):02X}" if char in "()[]\\|*;" else char for char in address),
)
_HTML = Medium(clean=plain, address=str)


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
    :param group: says what the message is about
    :param layout: how it looks
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
    told = tuple(alert for block in blocks for entry in block for alert in entry.alerts)
    links = {alert.event.id: checked(link(alert.event)) for alert in told}

    def cut(max_lines: int, *, again: bool = True) -> Bodies:
        views = views_of(
            blocks, group, max_lines=max_lines, links=links, page=checked(page), subject=subject, reminder=reminder
        )
        return fill(views, layout.language, layout.templates, again=again)

    bodies = cut(layout.max_lines, again=False)
    return Message(
        title=bodies.title,
        text=bodies.text,
        html=bodies.html,
        markdown=bodies.markdown,
        severity=SEVERITIES[min(rank(alert.event) for alert in told)],
        group=group,
        reminder=reminder,
        alerts=told,
        links=tuple(links[alert.event.id] or None for alert in told),
        lines=min(layout.max_lines, sum(map(len, blocks))),
        cut=cut,
    )


def views_of(
    blocks: Sequence[Block],
    group: AlertGroup,
    *,
    max_lines: int,
    links: Mapping[str, str],
    page: str,
    subject: str,
    reminder: bool,
) -> Views:
    """What the templates of each medium see, see :func:`portmon.alerting.message.view.view_of`."""
    text, markdown, html = (
        view_of(
            blocks,
            group,
            medium,
            max_lines=max_lines,
            links=links,
            page=page,
            subject=subject,
            reminder=reminder,
        )
        for medium in (_TEXT, _MARKDOWN, _HTML)
    )
    return Views(text=text, markdown=markdown, html=html)
