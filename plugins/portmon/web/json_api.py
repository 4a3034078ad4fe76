"""The JSON API: what the pages show, with the same filters. Errors are problem documents of RFC 9457."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from portmon.api import event_kinds, fleet, problems, rules, silences
from portmon.api.actions import ActionView, list_actions
from portmon.api.fleet import EventRow, GlanceView, HostRow, HostTimeline, Page, PortGroup, PortRow, RunView
from portmon.api.ignored import IgnoredView, list_ignored
from portmon.api.problems import ProblemsView
from portmon.api.rules import RuleView
from portmon.api.silences import SilenceHits
from portmon.api.view import View
from portmon.storage import lookups
from portmon.web import reading
from portmon.web.queries import (
    LIMIT,
    Events,
    Hosts,
    Labels,
    Limit,
    Moment,
    Number,
    Offset,
    Ports,
    Range,
    Text,
    labels_of,
)
from portmon.web.reading import reading as connection

router = APIRouter()


class ChangeCount(View):
    """What happened since an event.

    :param count: of events
    :param newest: number of the newest event
    """

    count: int
    newest: int


@router.get("/problems")
def get_problems(
    q: Text = "",
    label: Labels = [],  # noqa: B006 - FastAPI copies it
    kind: Text = "",
    withheld: bool | None = None,
    limit: Limit = LIMIT,
    offset: Offset = 0,
) -> ProblemsView:
    """What is wrong now, worst first."""
    now = datetime.now(UTC)
    with connection() as conn:
        return problems.list_problems(
            conn, now, text=q, labels=labels_of(label), kind=kind, withheld=withheld, limit=limit, offset=offset
        )


@router.get("/fleet")
def get_fleet() -> GlanceView:
    """The fleet at a glance."""
    with connection() as conn:
        return reading.glance(conn, datetime.now(UTC))


@router.get("/kinds")
def get_kinds() -> list[event_kinds.KindView]:
    """The catalogue of events."""
    return list(event_kinds.KINDS.values())


@router.get("/ports")
def get_ports(
    wanted: Ports, sort: Literal["host", "port", "state"] = "host", limit: Limit = LIMIT, offset: Offset = 0
) -> Page[PortRow]:
    """Ports of the fleet; ``port`` takes numbers and ranges, of one protocol as ``53/udp``."""
    with connection() as conn:
        return fleet.list_ports(conn, wanted, sort=sort, limit=limit, offset=offset)


@router.get("/ports/groups")
def get_port_groups(
    wanted: Ports, by: Literal["unit", "port"], limit: Limit = LIMIT, offset: Offset = 0
) -> Page[PortGroup]:
    """How many hosts and ports each unit or number has."""
    with connection() as conn:
        return fleet.group_ports(conn, wanted, by, limit=limit, offset=offset)


@router.get("/hosts")
def get_hosts(
    wanted: Hosts, sort: Literal["name", "state", "evidence"] = "name", limit: Limit = LIMIT, offset: Offset = 0
) -> Page[HostRow]:
    """Hosts of the CMDB."""
    with connection() as conn:
        return fleet.list_hosts(conn, wanted, sort=sort, limit=limit, offset=offset)


@router.get("/host")
def get_host(id: Text) -> HostRow:
    """One host."""
    with connection() as conn:
        return fleet.one_host(conn, id)


@router.get("/host/timeline")
def get_timeline(id: Text, port: Number = None, range: Range = "24h") -> HostTimeline:
    """What the ports of a host were over a time."""
    with connection() as conn:
        host = fleet.one_host(conn, id)
        return fleet.host_timeline(conn, host.id, length=fleet.RANGES[range], now=datetime.now(UTC), number=port)


@router.get("/host/answers")
def get_answers(id: Text) -> list[str]:
    """The last raw answers of a host."""
    with connection() as conn:
        return fleet.raw_answers(conn, fleet.one_host(conn, id).id)


@router.get("/events")
def get_events(wanted: Events, limit: Limit = LIMIT) -> list[EventRow]:
    """Events, newest first; ``before`` is the number of the last one that is known."""
    with connection() as conn:
        return fleet.list_events(conn, wanted.filter(conn), limit=limit, before=wanted.before)


@router.get("/runs")
def get_runs(limit: Limit = LIMIT, before: Moment | None = None) -> list[RunView]:
    """Runs, newest first."""
    with connection() as conn:
        return fleet.runs_with_errors(conn, limit=limit, before=before)


@router.get("/silences")
def get_silences() -> list[SilenceHits]:
    """Silences and acknowledgements that are not over."""
    with connection() as conn:
        return silences.list_with_hits(conn, datetime.now(UTC))


@router.get("/rules")
def get_rules() -> list[RuleView]:
    """The rules in force."""
    with connection() as conn:
        return rules.list_rules(conn, reading.config())


@router.get("/ignored")
def get_ignored(limit: Limit = LIMIT, offset: Offset = 0) -> Page[IgnoredView]:
    """Ports that people ignore, the latest decision first."""
    with connection() as conn:
        return list_ignored(conn, datetime.now(UTC), limit=limit, offset=offset)


@router.get("/actions")
def get_actions(limit: Limit = LIMIT, before: Annotated[int | None, Query(ge=0, le=2**62)] = None) -> list[ActionView]:
    """What people did, newest first."""
    with connection() as conn:
        return list_actions(conn, limit=limit, before=before)


@router.get("/changes")
def get_changes(since: Annotated[int, Query(ge=0, le=2**62)]) -> ChangeCount:
    """How much happened since an event: what a page that is open asks now and then."""
    with connection() as conn:
        newest = lookups.newest_event(conn)
        return ChangeCount(count=lookups.count_since(conn, since) if newest > since else 0, newest=newest)


@router.get("/openapi.json", include_in_schema=False)
def get_openapi(request: Request) -> dict[str, Any]:
    """This API's description."""
    described: dict[str, Any] = request.app.openapi()
    return described
