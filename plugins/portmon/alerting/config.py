"""Section ``alerts``: which channels get which events."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from portmon.alerting.channels import Channel
from portmon.alerting.channels.base import HttpRequest, NeededConnection, Outside, endpoint_problems
from portmon.alerting.channels.log import LogChannel
from portmon.errors import ConfigError, UnansweredError
from portmon.fields import (
    Duration,
    Globs,
    HostMatch,
    PortRanges,
    PositiveDuration,
    Section,
    Text,
    globs_schema,
    one_or_many,
)
from portmon.model.event_kinds import AlertRole, EventKind, Severity
from portmon.untrusted.redact import describe

Language = Literal["en", "zh"]
DEFAULT_ROUTE = "default"
"""Name of the route of events that no other one matches."""
_AUTOMATIC = re.compile(r"route (\d+)", re.ASCII)
"""As :meth:`Alerts.route_name` names a route without a name."""
PING = timedelta(seconds=10)
"""Time for a ping and its answer: short, since the next run sends another one."""


def _routable(kinds: tuple[EventKind, ...]) -> tuple[EventKind, ...]:
    for kind in kinds:
        if kind not in _ROUTABLE and kind.usual.role is None:
            raise ValueError(f"{kind.value!r} is a note: it is stored, and no channel gets it")
        if kind not in _ROUTABLE:
            raise ValueError(
                f"{kind.value!r} goes to the channels that got the alert it ends; it has no route of its own. "
                "`send_resolved: false` keeps it from a channel"
            )
    return kinds


def _runbook_address(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^\s{}]+\{kind\}[^\s{}]*", value):
        raise ValueError(
            f"{value[:200]!r} is no address with {{kind}} in it, such as https://wiki.example.com/{{kind}}"
        )
    return value


def _enum_schema(values: Iterable[StrEnum]) -> WithJsonSchema:
    one = {"type": "string", "enum": [value.value for value in values]}
    return WithJsonSchema({"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]})


_ROUTABLE = [kind for kind in EventKind if any(row.role in (AlertRole.FIRING, AlertRole.NOTICE) for row in kind.rows)]
Kinds = Annotated[
    tuple[EventKind, ...],
    BeforeValidator(one_or_many),
    Field(min_length=1),
    AfterValidator(_routable),
    _enum_schema(_ROUTABLE),
]
Severities = Annotated[tuple[Severity, ...], BeforeValidator(one_or_many), Field(min_length=1), _enum_schema(Severity)]


class EventMatch(HostMatch):
    """Which events. Everything given must match; of a list, one item must."""

    kind: Kinds | None = Field(None, description="kind of event or list of kinds, see docs/states.md")
    severity: Severities | None = Field(None, description="`critical`, `warning` or `info`, or a list of these")
    port: PortRanges | None = Field(
        None,
        description="port, range such as `8000-8100`, or a list; a number is of TCP and UDP, `53/udp` of one",
    )
    program: Annotated[Globs | None, globs_schema("globs on the program's name")] = Field(
        None, description="glob or list of globs on the program's name; an unknown program matches none"
    )
    young: bool | None = Field(
        None,
        description="`true`: only what is of a port that is young (see `states.mature_after`); `false`: the rest",
    )


class Route(Section):
    """Events that some channels get, and how. The first route that matches counts."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: Text | None = Field(None, description="unique name, shown in logs; default: its place in the list")
    match: EventMatch = Field(default_factory=EventMatch, description="which events; empty: all")
    channels: tuple[Text, ...] = Field(description="names of channels; an empty list: none")
    language: Language | None = Field(None, description="of its messages; default: `alerts.language`")
    max_lines: Annotated[int, Field(ge=1)] | None = Field(None, description="default: `alerts.max_lines`")
    group_by: Text | None = Field(
        None, description="label of hosts: one message for each of its values; default: `alerts.group_by`"
    )
    go_on: bool = Field(False, alias="continue", description="also try the routes after this one")


class Signal(StrEnum):
    """What a dead-man's switch is told of a run, by the end of the address."""

    GOOD = ""
    START = "start"
    FAIL = "fail"


class Heartbeat(Section):
    """A ping after each good run, for a dead-man's switch such as Healthchecks: it alerts when no ping comes."""

    conn_id: Text = Field("portmon_heartbeat", description="Airflow HTTP connection")
    endpoint: str = Field("", description="path below the connection's host; a secret one belongs into its host")
    method: Literal["GET", "HEAD", "POST"] = Field("POST", description="how to ask")

    signals: bool = Field(
        False,
        description="also ping `/start` below the address when a run begins, and `/fail` when one failed, as "
        "Healthchecks reads them",
    )

    def check(self) -> list[str]:
        """Sentences about what is wrong, as far as it shows without the connection."""
        return endpoint_problems(self.endpoint, self.conn_id)

    def ping(self, summary: str, outside: Outside, signal: Signal = Signal.GOOD) -> None:
        """Tell the switch that a run was good, or another signal.

        :param summary: shown by the switch; sent only with POST
        :raises DeliveryError: unless the answer is 2xx and no "not found". It holds no path, which may be the switch's
            secret
        """
        posts = self.method == "POST"
        body = summary.encode("utf-8", "backslashreplace") if posts else None
        headers = {"Content-Type": "text/plain; charset=utf-8"} if posts else {}
        path, mark, query = self.endpoint.partition("?")
        endpoint = f"{path.rstrip('/')}/{signal}{mark}{query}" if signal else self.endpoint
        where = ("heartbeat", self.conn_id, endpoint, self.method)
        outside.send(HttpRequest(*where, body, headers, denied=_unknown_check, limit=PING))


def _unknown_check(body: bytes) -> str | None:
    """Healthchecks may say with a 200 that there is no such check: https://healthchecks.io/docs/http_api/."""
    return "" if b"(not found)" in body.lower() else None


class Alerts(Section):
    """Which channels get which events."""

    channels: tuple[Channel, ...] = Field(
        (LogChannel(type="log"),), description="where messages can go; default: the task log"
    )
    routes: tuple[Route, ...] = Field((), description="which events go to which channels: the first match counts")
    default: tuple[Text, ...] | None = Field(
        None, description="channels for events that no route matches; default: every channel"
    )
    language: Language = Field("en", description="language of messages")
    max_lines: Annotated[int, Field(ge=1)] = Field(50, description="a message lists at most this many events")
    group_by: Text | None = Field(None, description="label of hosts: one message for each of its values")
    outage_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5,
        description="when this share of the hosts of a site (at least 5) is unreachable, a message has one line for "
        "the site instead of one per host",
    )
    outage_label: Text | None = Field(
        None, description="label of hosts that names their site; default: all hosts are one site"
    )
    repeat_every: Duration = Field(
        timedelta(days=1), description="alerts that still fire are sent again after this, in one message; 0: never"
    )
    give_up_after: PositiveDuration = Field(
        timedelta(days=1),
        description="an event that a channel did not take for this long is logged and not sent any more",
    )
    templates: Text | None = Field(
        None, description="folder with templates of your own, relative to this file; docs/messages.md"
    )
    runbook_url: Annotated[str, AfterValidator(_runbook_address)] | None = Field(
        None,
        description="address with `{kind}` to which messages lead for what to do; default: portmon's page; empty: none",
    )
    heartbeat: Heartbeat | None = Field(
        None, description="dead-man's switch: where to ping after a good run; default: nowhere"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Alerts:
        for what, names in (
            ("channels", [channel.name for channel in self.channels]),
            ("routes", [self.route_name(number) for number in range(len(self.routes))]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {what} are named {', '.join(map(repr, twice))}: give each a `name` of its own")
        return self

    def missing_connections(self, outside: Outside) -> tuple[list[str], str | None]:
        """Sentences about Airflow connections that channels and heartbeat need and that do not exist.

        :returns: these; and why connections could not be looked up, None if they could
        """
        needed: list[tuple[str, NeededConnection]] = []
        problems: list[str] = []
        for channel in self.channels:
            try:
                needed += [(f"channel {channel.name!r}", one) for one in channel.connections()]
            except Exception as error:
                problems.append(f"channel {channel.name!r}: its check fails: {describe(error, outside.redact)}")
        if self.heartbeat is not None:
            needed.append(("heartbeat", NeededConnection(self.heartbeat.conn_id)))
        for name, one in needed:
            try:
                if outside.connection(one.id) is None:
                    problems.append(f"{name}: {one.missing}")
            except ConfigError as error:
                problems.append(f"{name}: {error}")
            except UnansweredError as error:
                return problems, f"connections can't be looked up here: {error}"
        return problems, None

    def route_name(self, number: int) -> str:
        """Name of a route in logs and in the database, by its place from 0."""
        return self.routes[number].name or f"route {number + 1}"

    def mistakes(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Places below ``alerts`` with a name that a route can't have or that no channel has, and what is wrong."""
        names = [channel.name for channel in self.channels]
        named: list[tuple[tuple[str | int, ...], str]] = []
        for number, route in enumerate(self.routes):
            named += [(("routes", number, "channels", place), name) for place, name in enumerate(route.channels)]
            automatic = _AUTOMATIC.fullmatch(route.name or "")
            if route.name == DEFAULT_ROUTE:
                why = "that is what serves all that no route matches"
            elif automatic and int(automatic[1]) != number + 1:
                why = f"so is the one in place {automatic[1]} if it has no name, and this is place {number + 1}"
            else:
                continue
            yield ("routes", number, "name"), f"no route can be named {route.name!r} here: {why}"
        named += [(("default", place), name) for place, name in enumerate(self.default or ())]
        for place, name in named:
            if name not in names:
                yield place, f"there is no channel {name!r}; there are: {', '.join(names) or 'none'}"
