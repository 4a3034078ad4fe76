"""Events into messages: one per alert group and run, in English or Chinese.

Whatever came from a host or the CMDB is data for a template, never template source. It is cut and made
visible by :func:`plain`; in the text, which chat programs interpret in their own ways, :func:`inert` takes
the effect from mentions and links; in the HTML everything is escaped.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Literal

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from portmon.models import Alert, AlertGroup, Event, EventKind, PortStatus, Severity

Language = Literal["en", "zh"]

VALUE_LIMIT = 120
"""Characters of a program, unit or host name that a message shows."""
REASON_LIMIT = 300
"""Characters of a reason that a message shows."""
TITLE_LIMIT = 160
"""Characters of a title: mail subjects and chat headings."""

_TEMPLATES = Path(__file__).parent / "templates"
_SEVERITIES = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


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
    hosts = _hosts(events)
    text_view = _view(hosts, group, max_lines, link, clean=lambda value, limit: inert(plain(value, limit)))
    html_view = _view(hosts, group, max_lines, link, clean=plain)
    words = f"{language}.j2"
    say = _environment(html=False).get_template(words).module
    return Message(
        title=plain(str(say.title(text_view)), TITLE_LIMIT),  # type: ignore[attr-defined]
        text=_environment(html=False).get_template("message.txt.j2").render(words=words, view=text_view).rstrip("\n"),
        html=_environment(html=True).get_template("message.html.j2").render(words=words, view=html_view),
        severity=_SEVERITIES[min(_rank(event) for event in events)],
    )


# ── hostile text ────────────────────────────────────────────────────────────────────────────────

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of control and format characters (bidi and zero-width ones too), lone surrogates, unassigned."""
_UNSEEN_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and signs that are drawn as nothing."""
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def plain(text: str, limit: int = VALUE_LIMIT) -> str:
    r"""One line of visible characters, of at most ``limit``.

    Whatever can't be seen, breaks the line or turns its direction is written as an escape such as ``\n``,
    ``\u202e`` or, for a byte that is no UTF-8, ``\xff``. A longer text ends in an ellipsis.

    :param limit: characters of the result
    """
    pieces: list[str] = []
    size = 0
    for char in text:
        piece = _visible(char)
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            while size > limit - 1:
                size -= len(pieces.pop())
            pieces.append("…")
            break
    return "".join(pieces)


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _UNSEEN and char not in _UNSEEN_LETTERS:
        return char
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # how surrogateescape keeps a byte
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_EFFECTS = (
    # A mention. The @ of `getty@tty1.service` is none.
    (re.compile(r"(?<!\w)@(?!\s)|@(?=(?:everyone|here|channel|all)\b)", re.IGNORECASE), "@ "),
    # An address that a chat program would make a link of, and a Markdown link or image.
    (re.compile(r"://"), ": //"),
    (re.compile(r"\]\("), "] ("),
    # Slack's <!channel> and <address|title>, and HTML.
    (re.compile(r"<(?!\s)"), "< "),
    # Discord's spoiler bars, which hide what is between them.
    (re.compile(r"\|(?=\|)"), "| "),
)


def inert(text: str) -> str:
    """Text that notifies, links and hides nothing in a chat: a space is put into what would."""
    for pattern, replacement in _EFFECTS:
        text = pattern.sub(replacement, text)
    return text


# ── what the templates see ──────────────────────────────────────────────────────────────────────


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


def _rank(event: Event) -> int:
    return _SEVERITIES.index(event.severity)


def _hosts(events: Iterable[Event]) -> list[tuple[Event, ...]]:
    """Events by host: the worst host first, then the one with most; its worst event first, then by port."""
    by_host = sorted(events, key=lambda event: event.host_id or "")
    hosts = [
        tuple(sorted(own, key=lambda event: (_rank(event), event.protocol or "", event.port or 0, event.at, event.id)))
        for _, own in groupby(by_host, key=lambda event: event.host_id or "")
    ]
    hosts.sort(key=lambda own: (_rank(own[0]), -len(own), own[0].host_name or "", own[0].host_id or ""))
    return hosts


def _view(
    hosts: Sequence[Sequence[Event]],
    group: AlertGroup,
    max_lines: int,
    link: Callable[[Event], str | None],
    *,
    clean: Callable[[str, int], str],
) -> View:
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
        severity=_SEVERITIES[min(map(_rank, events))].value,
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
        ranks[kind] = min(_rank(event), ranks.get(kind, len(_SEVERITIES)))
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
