"""What the templates see, the same for text, Markdown and HTML. docs/messages.md says what each field is.

Times are UTC. What is not known is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[tuple[int, str], ...]
"""A duration in one or two units: ``(3, "h"), (20, "min")``; empty if it is not known."""


class Address(str):
    """An http or https address; every other string of a view is text."""

    __slots__ = ()


NO_ADDRESS = Address()


@dataclass(frozen=True, slots=True)
class Site:
    """The hosts of an outage. The fleet as a whole has no name; ``told`` are the hosts that the line tells of."""

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
    """How many alerts of one kind there are, on how many hosts; ``ports`` of them are about a port.

    The other fields with defaults are of outages.
    """

    kind: str
    events: int
    hosts: int
    site: str = ""
    sites: int = 0
    of: int = 0
    unreachable: int = 0
    besides: bool = False
    ports: int = 0


@dataclass(frozen=True, slots=True)
class MessageLine:
    """One alert, or several that are told in one line."""

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
    owner: str = ""
    left: str = ""
    was: str = ""
    gone: str = ""
    young: bool = False
    state: str = ""
    last_seen: str = ""
    lasted: Span = ()
    error_class: str = ""
    reason: str = ""
    site: Site | None = None
    counts: tuple[Count, ...] = ()
    page: Address = NO_ADDRESS
    note: str = ""


@dataclass(frozen=True, slots=True)
class MessageHost:
    """The lines of one host, or the line of one site; the monitor's own and the whole fleet have no name.

    ``page`` is of its port if there is one line, else of the host.
    """

    name: str
    link: Address
    page: Address
    lines: tuple[MessageLine, ...]


@dataclass(frozen=True, slots=True)
class MessageView:
    """Everything that a template may use."""

    group: str
    severity: str
    reminder: bool
    subject: str
    counts: tuple[Count, ...]
    first: MessageLine
    events: int
    hosts: int
    listed: tuple[MessageHost, ...]
    more: int
    more_hosts: int
    page: Address
    runbooks: tuple[Address, ...] = ()
