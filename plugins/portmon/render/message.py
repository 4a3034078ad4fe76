"""Alerts into one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from portmon.models import Alert, AlertGroup, Event, Severity
from portmon.render.text import TITLE_LIMIT, inert, plain
from portmon.render.view import SEVERITIES, by_host, rank, view_of

Language = Literal["en", "zh"]

_TEMPLATES = Path(__file__).parents[1] / "templates"


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


def render(
    events: Sequence[Event],
    group: AlertGroup,
    *,
    language: Language,
    max_lines: int,
    link: Callable[[Event], str | None],
) -> Message:
    """The message of one alert group: by host, worst first, one line per event.

    :param events: at least one, all of ``group``
    :param group: says what the message is about
    :param language: of everything that portmon says; reasons are English in both
    :param max_lines: events listed; the rest is counted
    :param link: an event to the address of its host's task log, None if it has none
    :raises ValueError: without events
    """
    if not events:
        raise ValueError("a message needs at least one event")
    hosts = by_host(events)
    text_view = view_of(hosts, group, max_lines, link, clean=lambda value, limit: inert(plain(value, limit)))
    html_view = view_of(hosts, group, max_lines, link, clean=plain)
    words = f"{language}.j2"
    say = _environment(html=False).get_template(words).module
    return Message(
        title=plain(str(say.title(text_view)), TITLE_LIMIT),  # type: ignore[attr-defined]
        text=_environment(html=False).get_template("message.txt.j2").render(words=words, view=text_view).rstrip("\n"),
        html=_environment(html=True).get_template("message.html.j2").render(words=words, view=html_view),
        severity=SEVERITIES[min(rank(event) for event in events)],
    )


@lru_cache(maxsize=2)
def _environment(*, html: bool) -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
