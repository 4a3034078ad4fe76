"""What an address of the page asks for: filters, order and page, the same for pages, JSON and CSV."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import Depends, Query
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from sqlalchemy import Connection

from portmon.api.addresses import as_it_was
from portmon.api.event_kinds import KINDS
from portmon.api.fleet import event_filter
from portmon.errors import RequestError
from portmon.fields import parse_port, parse_ports
from portmon.storage.lookups import EventFilter, HostFilter, PortFilter

LIMIT = 100
MOST = 1000
"""Rows of one answer."""


def label_query(name: str, value: str) -> str:
    """A label as ``name=value``: what of the name would end it is escaped."""
    return f"{name.replace('%', '%25').replace('=', '%3D')}={value}"


def _utc(value: datetime) -> datetime:
    """A time of a form has no zone: it is UTC."""
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time has a year from 1 to 9999 in UTC") from error


def _number(value: Any) -> int | None:
    return None if value is None or value == "" else parse_port(str(value)[:20].replace("-udp", "/udp"))


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ValueError(f"give a text of at most {LONGEST} characters")
    return value


LONGEST = 2000
"""Characters of a text in an address: names of 250 characters, each of which may be carried as five."""
Text = Annotated[str, Query(max_length=LONGEST), AfterValidator(as_it_was)]
Moment = Annotated[datetime, AfterValidator(_utc)]
# Lone surrogates included, which pydantic refuses in a text.
Name = Annotated[Any, AfterValidator(_name), WithJsonSchema({"type": "string", "maxLength": LONGEST})]
"""Of a host or its id, within JSON."""
Limit = Annotated[int, Query(ge=1, le=MOST)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]
Number = Annotated[int | None, BeforeValidator(_number), Query(), WithJsonSchema({"type": "string", "maxLength": 12})]
"""A port as ``53`` or ``53/udp``, and as addresses have it (:func:`portmon.api.addresses.host_path`)."""
Port = Annotated[
    int,
    BeforeValidator(_number),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"type": "string", "maxLength": 12}]}
    ),
]
"""The same within JSON and in a path."""
HostState = Literal["", "ok", "unreachable", "new", "failing", "quarantined", "foreign", "flapping", "unscanned"]
PortState = Literal["", "up", "down", "candidate", "flapping", "lost", "owner_gone", "hidden"]
Reach = Literal["", "everywhere", "addresses", "loopback"]
Range = Literal["24h", "7d", "30d"]
"""Keys of :data:`portmon.api.fleet.RANGES`."""
Labels = Annotated[list[str], Query(alias="label", max_length=20)]


def labels_of(given: list[str]) -> dict[str, str]:
    """``site=fra1`` as a label and its value.

    :raises RequestError: there is no ``=``
    """
    pairs = [text.partition("=") for text in given if text]
    if not all(equals for _, equals, _ in pairs):
        raise RequestError("a label is given as name=value")
    return {as_it_was(unquote(name)): as_it_was(value) for name, _, value in pairs}


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
        numbers = parse_ports(port.replace(",", " ").split())
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


class EventQuery:
    """Which events; the host may be given by its name."""

    def __init__(
        self,
        kind: Text = "",
        host: Text = "",
        port: Text = "",
        since: Moment | Literal[""] | None = None,
        until: Moment | Literal[""] | None = None,
        before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    ) -> None:
        if kind and kind not in KINDS:
            raise RequestError(f"there is no kind of events {kind!r}")
        self.kind, self.host, self.before = kind, host.strip(), before
        try:
            self.numbers = parse_ports(port) if port.strip() else ()
        except ValueError as error:
            raise RequestError(f"port: {error}") from error
        self.port = port.strip()
        self.since, self.until = since or None, until or None

    def filter(self, conn: Connection) -> EventFilter:
        """What to look for.

        :raises CommandError: there is no such host
        """
        return event_filter(
            conn, kind=self.kind, host=self.host, numbers=self.numbers, since=self.since, until=self.until
        )


Hosts = Annotated[HostFilter, Depends(_hosts)]
Ports = Annotated[PortFilter, Depends(_ports)]
Events = Annotated[EventQuery, Depends()]
