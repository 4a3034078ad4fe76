"""What an address of the page asks for: filters, order and page, the same for pages, JSON and CSV."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Depends, Query
from sqlalchemy import Connection

from portmon.api.event_kinds import KINDS
from portmon.api.hosts import find_host
from portmon.errors import RequestError
from portmon.fields import parse_ports
from portmon.storage.lookups import EventFilter, HostFilter, PortFilter

LIMIT = 100
MOST = 1000
"""Rows of one answer."""

Text = Annotated[str, Query(max_length=300)]
Limit = Annotated[int, Query(ge=1, le=MOST)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]
Number = Annotated[int | None, Query(ge=1, le=65535)]
HostState = Literal["", "ok", "unreachable", "new", "failing", "quarantined"]
PortState = Literal["", "up", "down", "candidate", "flapping", "lost"]
Reach = Literal["", "everywhere", "addresses", "loopback"]
Labels = Annotated[list[str], Query(alias="label", max_length=20)]


def labels_of(given: list[str]) -> dict[str, str]:
    """``site=fra1`` as a label and its value.

    :raises RequestError: there is no ``=``
    """
    pairs = [text.partition("=") for text in given if text]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise RequestError("a label is given as name=value")
    return {name: value for name, _, value in pairs}


def _hosts(q: Text = "", state: HostState = "", label: Labels = []) -> HostFilter:  # noqa: B006 - FastAPI copies it
    return HostFilter(text=q.strip(), labels=labels_of(label), state=state)


def _ports(
    host: Text = "",
    port: Text = "",
    program: Text = "",
    unit: Text = "",
    reach: Reach = "",
    state: PortState = "",
    label: Labels = [],  # noqa: B006
) -> PortFilter:
    try:
        # `53/udp` is how a port is named where there are several protocols: today every one is of TCP.
        numbers = parse_ports([one.removesuffix("/tcp") for one in port.replace(",", " ").split()])
    except ValueError as error:
        raise RequestError(f"port: {error}") from error
    return PortFilter(
        host=host.strip(),
        labels=labels_of(label),
        numbers=numbers,
        program=program.strip(),
        unit=unit.strip(),
        reach=reach,
        state=state,
    )


def utc(value: datetime | None) -> datetime | None:
    """A time of a form, which has no zone: UTC."""
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class EventQuery:
    """Which events; the host may be given by its name."""

    def __init__(
        self,
        kind: Text = "",
        host: Text = "",
        port: Number | Literal[""] = None,
        since: datetime | Literal[""] | None = None,
        until: datetime | Literal[""] | None = None,
        before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    ) -> None:
        if kind and kind not in KINDS:
            raise RequestError(f"there is no kind of events {kind!r}")
        self.kind, self.host, self.before = kind, host.strip(), before
        self.port = port or None
        self.since, self.until = utc(since or None), utc(until or None)

    def filter(self, conn: Connection) -> EventFilter:
        """What to look for.

        :raises CommandError: there is no such host
        """
        return EventFilter(
            kinds=(KINDS[self.kind].kind,) if self.kind else (),
            host_id=find_host(conn, self.host).id if self.host else "",
            port=self.port,
            since=self.since,
            until=self.until,
        )


Hosts = Annotated[HostFilter, Depends(_hosts)]
Ports = Annotated[PortFilter, Depends(_ports)]
Events = Annotated[EventQuery, Depends()]
