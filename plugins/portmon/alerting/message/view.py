"""What the templates see, the same for text, Markdown and HTML. docs/messages.md lists the fields.

Times are UTC. What is not known is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[tuple[int, str], ...]
"""A duration in one or two units: ``(3, "h"), (20, "min")``; empty if it is not known."""


class Address(str):
    """An http or https address; every other string of a view is text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Site:
    """What the line of an outage has to say.

    :param name: empty for the whole fleet
    :param unreachable: of its hosts, now
    :param told: hosts that this line tells of
    :param names: of the first of these
    :param unnamed: how many more there are
    :param errors: error class and how many hosts have it, most first
    :param shortest: how long the host was gone that came back fastest; ``lasted`` of the line is the longest
    """

    name: str
    hosts: int
    unreachable: int
    told: int
    names: tuple[str, ...]
    unnamed: int
    errors: tuple[tuple[str, int], ...]
    shortest: Span


@dataclass(frozen=True, slots=True)
class Count:
    """How many alerts of one kind there are, on how many hosts.

    :param kind: like that of a line; ``unwatched`` counts as ``retired``; ``outages`` are more than two of them
    :param site: name of an outage's site, empty for the whole fleet
    :param sites: how many outages
    :param of: hosts of the sites
    :param unreachable: of them, now
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
class MessageLine:
    """One alert, or several that are told in one line.

    :param kind: of the event, or ``lost_bind`` (a severe rebound), ``stable_down``, ``outage``, ``outage_over``,
        ``many`` (too many of one host and run to be listed)
    :param at: when the newest event was
    :param since: since when that is so
    :param started: since when the alert goes on
    :param untold: it is over, and that it began was not told before
    :param still: it goes on and was told before
    :param state: of a port that flaps or flapped, ``up`` or ``down``
    :param lasted: how long it went on, of what is over now
    :param site: only of an outage
    :param counts: only of ``many``: how much of what
    """

    kind: str
    severity: str
    host: str
    at: str
    since: str
    started: str
    untold: bool
    still: bool
    port: str = ""
    program: str = ""
    unit: str = ""
    addresses: str = ""
    before: str = ""
    lost: str = ""
    state: str = ""
    last_seen: str = ""
    lasted: Span = ()
    error_class: str = ""
    reason: str = ""
    site: Site | None = None
    counts: tuple[Count, ...] = ()


@dataclass(frozen=True, slots=True)
class HostView:
    """The lines of one host, or the line of one site; the monitor's own and the whole fleet have no name.

    :param link: of the host's task log
    """

    name: str
    link: Address
    lines: tuple[MessageLine, ...]


@dataclass(frozen=True, slots=True)
class View:
    """Everything that a template may use.

    :param severity: of the worst alert
    :param reminder: it repeats what goes on
    :param subject: value of the label that this message is grouped by
    :param counts: worst kind first, of all alerts
    :param first: the first line of all
    :param events: how many alerts there are
    :param hosts: how many hosts they are on
    :param listed: hosts with the lines that fit
    :param more: alerts whose lines did not fit
    :param more_hosts: hosts that these are on
    :param page: the page that has what this message does not name; empty if it names everything
    """

    group: str
    severity: str
    reminder: bool
    subject: str
    counts: tuple[Count, ...]
    first: MessageLine
    events: int
    hosts: int
    listed: tuple[HostView, ...]
    more: int
    more_hosts: int
    page: Address
