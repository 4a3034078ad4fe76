"""The pages: each view and each filter of it is an address."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParam
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from portmon.alerting import runbooks
from portmon.api import actions, fleet, hosts, problems, rules, silences
from portmon.api.addresses import host_path
from portmon.api.explain import explain
from portmon.api.export import write_csv
from portmon.api.ignored import list_ignored
from portmon.errors import CommandError
from portmon.model.numbers import TCP, named, number_of, port_of, protocol_of, range_of
from portmon.storage import lookups
from portmon.text import plain
from portmon.web import reading
from portmon.web.queries import (
    LIMIT,
    MOST,
    Events,
    Hosts,
    Labels,
    Limit,
    Moment,
    Number,
    Offset,
    Port,
    Ports,
    Range,
    Text,
    labels_of,
)
from portmon.web.reading import reading as connection
from portmon.web.render import language_of, page

router = APIRouter()


@router.get("/")
def show_problems(
    request: Request,
    q: Text = "",
    label: Labels = [],  # noqa: B006 - FastAPI copies it
    kind: Text = "",
    group: Text = "",
    offset: Offset = 0,
) -> Response:
    """What is wrong now, worst first; the first screen."""
    now = datetime.now(UTC)
    with connection() as conn:
        found = problems.list_problems(
            conn, now, text=q.strip(), labels=labels_of(label), kind=kind, group=group, limit=LIMIT, offset=offset
        )
        shown: dict[str, Any] = {
            "glance": reading.glance(conn, now),
            "groups": lookups.label_values(conn),
            "newest": lookups.newest_event(conn),
        }
    return page(request, "problems", found=found, group=group, offset=offset, limit=LIMIT, **shown)


@router.get("/runbooks/{name}")
def show_runbook(request: Request, name: Annotated[str, PathParam(max_length=64)]) -> Response:
    """What to do about a kind of event."""
    # They lead to each other as files do.
    name = name.removesuffix(".md")
    if name not in runbooks.names():
        raise CommandError(f"there is no runbook {plain(name)!r}; there are: {', '.join(sorted(runbooks.names()))}")
    text = MarkdownIt("commonmark", {"html": False}).render(runbooks.read(name, language_of(request)))
    return page(request, "runbook", text=Markup(text))  # noqa: S704 - rendered without HTML of its own


@router.get("/ports")
def show_ports(
    request: Request,
    wanted: Ports,
    group: Literal["", "unit", "port"] = "",
    sort: Literal["", "host", "port", "state"] = "",
    offset: Offset = 0,
) -> Response:
    """Ports of the whole fleet, or how many each unit or number has."""
    with connection() as conn:
        if group:
            found: Any = reading.unchanged(
                conn,
                (repr(wanted), group, offset),
                lambda: fleet.group_ports(conn, wanted, group, limit=LIMIT, offset=offset),
            )
        else:
            found = fleet.list_ports(conn, wanted, sort=sort or "host", limit=LIMIT, offset=offset)
        labels = lookups.label_values(conn)
    return page(request, "ports", found=found, wanted=wanted, group=group, sort=sort, labels=labels)


@router.get("/ports.csv")
def download_ports(wanted: Ports, limit: Limit = MOST, offset: Offset = 0) -> Response:
    """The same as CSV."""
    with connection() as conn:
        rows = fleet.list_ports(conn, wanted, limit=limit, offset=offset).rows
    names = ("host", "host_id", "protocol", "port", "status", "status_since", "programs", "units", "addresses", "reach")
    return _csv("ports", names, ({name: getattr(row, name) for name in names} for row in rows))


@router.get("/hosts")
def show_hosts(
    request: Request, wanted: Hosts, sort: Literal["", "name", "state", "evidence"] = "", offset: Offset = 0
) -> Response:
    """Hosts of the CMDB."""
    with connection() as conn:
        found = fleet.list_hosts(conn, wanted, sort=sort or "name", limit=LIMIT, offset=offset)
        labels = lookups.label_values(conn)
    return page(request, "hosts", found=found, wanted=wanted, sort=sort, labels=labels)


@router.get("/host")
def show_by_id(
    request: Request, wanted: Hosts, id: Text, port: Number = None, range: Literal["", "24h", "7d", "30d"] = ""
) -> Response:
    """A host, or its port, whose id no path can hold, see :func:`portmon.api.addresses.host_path`."""
    if port is not None:
        return show_port(request, id, port, range or "7d")
    return show_host(request, id, wanted, range or "24h")


@router.get("/hosts/{host_id:path}/ports/{port}")
def show_port(request: Request, host_id: str, port: Annotated[Port, PathParam()], range: Range = "7d") -> Response:
    """One port: its story, its timeline, who was notified."""
    now = datetime.now(UTC)
    with connection() as conn:
        host = fleet.one_host(conn, host_id)
        line = fleet.host_timeline(conn, host_id, length=fleet.RANGES[range], now=now, number=port)
        story = explain(conn, reading.config(), host_id, port, now=now)
        wrong = problems.list_problems(conn, now, host_id=host_id).rows
        happened = fleet.list_events(conn, lookups.EventFilter(host_id=host_id, numbers=(range_of(port),)), limit=LIMIT)
    own = [one for one in wrong if one.port is None or number_of(one.protocol or TCP, one.port) == port]
    name = named(protocol_of(port), port_of(port))
    return page(request, "port", host=host, port=name, line=line, story=story, wrong=own, events=happened, range=range)


@router.get("/hosts/{host_id:path}")
def show_host(request: Request, host_id: str, wanted: Hosts, range: Range = "24h") -> Response:
    """One host: its ports with timelines, its events, its last raw answer."""
    now = datetime.now(UTC)
    with connection() as conn:
        host = fleet.one_host(conn, host_id)
        line = fleet.host_timeline(conn, host_id, length=fleet.RANGES[range], now=now)
        previous, following = lookups.neighbours(conn, wanted, host.name, host.id)
        shown: dict[str, Any] = {
            "wrong": problems.list_problems(conn, now, host_id=host_id).rows,
            "events": fleet.list_events(conn, lookups.EventFilter(host_id=host_id), limit=LIMIT),
            "answers": fleet.raw_answers(conn, host_id),
            "keys": hosts.list_host_keys(conn, changed=True) if host.quarantined else [],
        }
    return page(request, "host", host=host, line=line, range=range, previous=previous, following=following, **shown)


@router.get("/events")
def show_events(request: Request, wanted: Events) -> Response:
    """What happened, newest first."""
    with connection() as conn:
        found = fleet.list_events(conn, wanted.filter(conn), limit=LIMIT, before=wanted.before)
    return page(request, "events", found=found, wanted=wanted, limit=LIMIT)


@router.get("/events.csv")
def download_events(wanted: Events, limit: Limit = MOST) -> Response:
    """The same as CSV."""
    with connection() as conn:
        rows = fleet.list_events(conn, wanted.filter(conn), limit=limit, before=wanted.before)
    names = ("at", "kind", "severity", "host", "host_id", "protocol", "port", "program", "unit", "reason", "run_id")
    return _csv("events", names, ({name: getattr(row, name) for name in names} for row in rows))


@router.get("/runs")
def show_runs(request: Request, before: Moment | None = None) -> Response:
    """The runs with their durations and what failed."""
    with connection() as conn:
        found = fleet.runs_with_errors(conn, limit=LIMIT // 2, before=before)
    return page(request, "runs", found=found, limit=LIMIT // 2)


@router.get("/silence")
def prepare_silence(request: Request, host: Text = "", port: Number = None) -> Response:
    """A form for a silence that is filled in: what a link in a message leads to."""
    return show_silences(request, {"host": host, "port": port and named(protocol_of(port), port_of(port))})


@router.get("/silences")
def list_silences(request: Request, offset: Offset = 0) -> Response:
    """Silences and rules: what is in force, from where, and what each hits now; and what people did."""
    return show_silences(request, None, offset)


def show_silences(request: Request, wanted: Mapping[str, Any] | None, offset: int = 0) -> Response:
    """The page of both.

    :param offset: of the first port that is ignored
    """
    now = datetime.now(UTC)
    with connection() as conn:
        shown: dict[str, Any] = {
            "silences": silences.list_with_hits(conn, now),
            "ignored": list_ignored(conn, now, limit=LIMIT, offset=offset),
            "rules": rules.list_rules(conn, reading.config()),
            "actions": actions.list_actions(conn),
        }
    return page(request, "silences", wanted=wanted, **shown)


@router.get("/port")
def find_port(request: Request, host: Text, port: Number = None) -> Response:
    """The page of a host or of its port by the host's name: what a link in a message leads to."""
    with connection() as conn:
        found = hosts.find_host(conn, host)
    return RedirectResponse(f"{request.scope.get('root_path', '')}{host_path(found.id, port)}", 303)


@router.get("/icon.svg")
def draw_icon(n: Annotated[int, Query(ge=0, le=10_000_000)] = 0) -> Response:
    """The page's sign, with the number of problems."""
    colour, sign = ("#c4314b", "99+" if n > 99 else str(n)) if n else ("#0f7b4f", "✓")
    drawn = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="16" cy="16" r="16" '
        f'fill="{colour}"/><text x="16" y="22" font-family="sans-serif" font-size="{14 if n > 99 else 17}" '
        f'font-weight="bold" text-anchor="middle" fill="#fff">{sign}</text></svg>'
    )
    return Response(drawn, media_type="image/svg+xml")


def _csv(name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Response:
    out = io.StringIO()
    write_csv(out, columns, rows)
    return Response(
        out.getvalue(),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="portmon-{name}.csv"'},
    )
