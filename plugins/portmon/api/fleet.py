"""The whole fleet at a glance, and its hosts, ports, events and runs as searched and paged lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from pydantic import BeforeValidator, Field, computed_field
from sqlalchemy import Connection

from portmon import timeouts
from portmon.api.event_kinds import KINDS
from portmon.api.hosts import find_host
from portmon.api.notes import NoteView
from portmon.api.timeline import FOREIGN_KINDS, Stretch, Uptime, blind, foreign, joined, spans, uptime
from portmon.api.view import Text, View
from portmon.engine.owners import PortOwner
from portmon.errors import CommandError
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind, Severity
from portmon.model.numbers import named, number_of, port_of, protocol_of, range_of
from portmon.model.state import HostStatus
from portmon.storage import archive, conditions, deliveries, events, lookups, notes, runs
from portmon.storage.lookups import EventFilter, HostFilter, PortFilter, reach_of

RANGES = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
"""Times that a timeline shows."""
Row = TypeVar("Row", bound=View)


class Page(View, Generic[Row]):
    """Some rows of a list.

    :param total: of the whole list, counted up to 10,000; ``more``: there are more than that
    """

    rows: tuple[Row, ...]
    total: int
    offset: int
    limit: int

    @computed_field
    def more(self) -> bool:
        """Whether there are more than were counted."""
        return self.total > lookups.MOST_COUNTED


# ── at a glance ─────────────────────────────────────────────────────────────────────────────────


class RunView(View):
    """One run.

    :param duration: seconds from its start to its evaluation; None while it is not evaluated
    :param summary: counts: hosts that were scanned, events of each kind
    :param errors: error class: number of hosts
    :param phases: ``fetch``, ``scan`` and ``diff``: seconds
    :param rate: hosts per second
    """

    run_id: Text
    run_type: str
    logical_date: datetime | None
    started_at: datetime
    finished_at: datetime | None
    scope: tuple[Text, ...] | None
    inventory_stale: bool
    duration: float | None
    phases: Mapping[str, float]
    rate: float | None
    summary: Mapping[str, Any]
    errors: Mapping[str, int]


class GlanceView(View):
    """Counts of the fleet.

    :param hosts: state: number; ``failing`` and ``quarantined`` ones are counted besides their state
    :param ports: state: number; ``flapping`` ones are counted besides their state
    :param new: ports that were new in the last 24 hours
    :param last_run: the newest one that was evaluated
    :param overdue: for how long no run was evaluated, if that is too long
    :param changes: hour: how many events of the last 24 hours tell that something went wrong, and how many others
    """

    hosts: Mapping[str, int]
    ports: Mapping[str, int]
    new: int
    last_run: RunView | None
    overdue: timedelta | None
    runs: tuple[RunView, ...]
    changes: tuple[tuple[datetime, int, int], ...]


class Counts(NamedTuple):
    """What is counted of the fleet; it changes with the journal, the events and the hour.

    :param per_hour: (kind, hour): number of events of the last 24 hours
    """

    hosts: Mapping[str, int]
    ports: Mapping[str, int]
    per_hour: Mapping[tuple[str, datetime], int]


def count(conn: Connection, now: datetime) -> Counts:
    """Hosts and ports by their state, and events by their hour."""
    return Counts(lookups.host_counts(conn), lookups.port_counts(conn), lookups.count_events(conn, _first_hour(now)))


def _first_hour(now: datetime) -> datetime:
    return (now - timedelta(hours=23)).replace(minute=0, second=0, microsecond=0)


def glance(conn: Connection, now: datetime, counts: Counts, *, interval: timedelta) -> GlanceView:
    """The fleet at a glance.

    :param interval: between scheduled runs; 0 if there is no rhythm
    """
    newest = list_runs(conn, limit=30)
    done = next((run for run in newest if run.finished_at is not None), None)
    late = now - done.started_at if done is not None and interval else None
    per_hour = {_first_hour(now) + timedelta(hours=hour): [0, 0] for hour in range(24)}
    for (kind, hour), count in counts.per_hour.items():
        if hour in per_hour:
            per_hour[hour][0 if kind in KINDS and KINDS[kind].role == AlertRole.FIRING else 1] += count
    return GlanceView(
        hosts=counts.hosts,
        ports=counts.ports,
        new=sum(count for (kind, _), count in counts.per_hour.items() if kind == EventKind.NEW),
        last_run=done,
        overdue=late if late is not None and late > timeouts.OVERDUE_AFTER * interval else None,
        runs=tuple(newest),
        changes=tuple((hour, *values) for hour, values in per_hour.items()),
    )


def list_runs(conn: Connection, *, limit: int = 100, before: datetime | None = None) -> list[RunView]:
    """Runs, newest first."""
    rows = lookups.find_runs(conn, limit=limit, before=before)
    return [_run(row, {}) for row in rows]


def runs_with_errors(conn: Connection, *, limit: int = 50, before: datetime | None = None) -> list[RunView]:
    """The same, with how many hosts gave no evidence, and why."""
    rows = lookups.find_runs(conn, limit=limit, before=before)
    failures = lookups.failure_counts(conn, [row["run_id"] for row in rows])
    return [_run(row, failures.get(row["run_id"], {})) for row in rows]


def _run(row: Mapping[str, Any], errors: Mapping[str, int]) -> RunView:
    done, summary = row["finished_at"], dict(row["summary"] or {})
    phases = summary.pop(runs.SECONDS, {})
    # The clocks of two workers differ.
    duration = max((done - row["started_at"]).total_seconds(), 0.0) if done is not None else None
    scanned = summary.get("scanned", 0)
    return RunView(
        **{**row, "summary": summary},
        duration=duration,
        phases=phases,
        rate=scanned / duration if duration and scanned else None,
        errors=dict(sorted(errors.items())),
    )


# ── hosts ───────────────────────────────────────────────────────────────────────────────────────


class HostRow(View):
    """One host as it is stored.

    :param failures: runs in a row without evidence
    :param evidence_at: of its last complete answer
    :param quarantined: it shows another host key than the trusted one
    :param foreign: another machine answers at its address
    :param unscanned: no run tried it for too long
    """

    id: Text = Field(validation_alias="host_id")
    name: Text
    address: Text
    ssh_port: int | None
    labels: Mapping[Text, Text]
    status: str
    status_since: datetime | None
    failures: int
    failing_since: datetime | None
    evidence_at: datetime | None = Field(validation_alias="last_ok_at")
    removed_at: datetime | None
    flapping_since: datetime | None
    error_class: str | None
    error: Text | None
    tool: str | None
    duplicate_of: Text | None
    quarantined: bool = False
    foreign: bool = False
    unscanned: bool = False

    @computed_field
    def state(self) -> str:
        """What people call its state: where several hold, the one that explains the others."""
        holds = {
            "quarantined": self.quarantined,
            "foreign": self.foreign,
            "flapping": self.flapping_since is not None,
            "unreachable": self.status == HostStatus.UNREACHABLE,
            "unscanned": self.unscanned,
            "failing": self.failures > 0,
        }
        return next((name for name, does in holds.items() if does), self.status)


def list_hosts(
    conn: Connection, wanted: HostFilter, *, sort: str = "name", limit: int = 100, offset: int = 0
) -> Page[HostRow]:
    """Hosts of the CMDB."""
    rows, total = lookups.find_hosts(conn, wanted, sort=sort, limit=limit, offset=offset)
    return Page[HostRow](rows=tuple(_hosts(conn, rows)), total=total, offset=offset, limit=limit)


def _hosts(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> list[HostRow]:
    marked = {name: conditions.hosts_with(conn, one) for name, one in lookups.OF_CONDITIONS.items()}
    return [
        HostRow.model_validate({**row, **{name: row["host_id"] in found for name, found in marked.items()}})
        for row in rows
    ]


def one_host(conn: Connection, host_id: str) -> HostRow:
    """A host by its id.

    :raises CommandError: it is not known
    """
    row = lookups.host_row(conn, host_id)
    if row is None:
        raise CommandError(f"no host has the id {host_id!r}")
    return _hosts(conn, [row])[0]


# ── ports ───────────────────────────────────────────────────────────────────────────────────────


def _gone(owners: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of those of stored owners that are gone."""
    named = ("unit", "comms", "programs")
    return tuple(str(PortOwner(**{name: one[name] for name in named})) for one in owners if one["gone_since"])


class PortRow(View):
    """One port as it is stored.

    :param host: name of its host
    :param host_status: state of its host: ports of an unreachable one keep the state that was last seen
    :param reach: ``loopback``, ``addresses`` or ``everywhere``
    :param lost: bind addresses that it does not listen on any more
    :param gone: owners that left it while others stayed
    :param young: it is not watched for long: what happens to it is a warning
    :param boots: seconds that it took after the last boots of its host
    :param hidden_since: since when no rule watches it: it keeps the state that it had
    """

    host_id: Text
    host: Text = Field(validation_alias="host_name")
    host_status: str
    labels: Mapping[Text, Text]
    protocol: str
    port: int
    status: str
    status_since: datetime | None
    first_seen_at: datetime | None
    last_seen_at: datetime | None
    programs: tuple[Text, ...]
    units: tuple[Text, ...]
    pids: tuple[int, ...]
    addresses: tuple[Text, ...]
    reach: str
    declared: Text | None
    flapping_since: datetime | None
    lost: tuple[Text, ...]
    gone: Annotated[tuple[Text, ...], BeforeValidator(_gone)] = Field((), validation_alias="owners")
    young: Annotated[bool, BeforeValidator(lambda since: since is not None)] = Field(validation_alias="young_since")
    grace_until: datetime | None
    boots: tuple[float, ...]
    hidden_since: datetime | None
    notes: tuple[NoteView, ...] = ()

    @property
    def key(self) -> tuple[str, int | str]:
        """The port as requests name it."""
        return self.host_id, named(self.protocol, self.port)


class PortGroup(View):
    """The ports of one unit, or of one number.

    :param name: the names of the units, or the port as requests name it
    """

    name: tuple[Text, ...] | int | str
    hosts: int
    ports: int
    down: int


def list_ports(
    conn: Connection, wanted: PortFilter, *, sort: str = "host", limit: int = 100, offset: int = 0
) -> Page[PortRow]:
    """Ports of hosts of the CMDB."""
    rows, total = lookups.find_ports(conn, wanted, sort=sort, limit=limit, offset=offset)
    written = notes.all_(conn)
    views = tuple(
        PortRow.model_validate(
            {
                **row,
                "reach": reach_of(row["addresses"]),
                "notes": [
                    NoteView.model_validate(one)
                    for one in written.of(row["host_id"], row["protocol"], row["port"], row["units"], row["labels"])
                ],
            }
        )
        for row in rows
    )
    return Page[PortRow](rows=views, total=total, offset=offset, limit=limit)


def group_ports(conn: Connection, wanted: PortFilter, by: str, *, limit: int = 100, offset: int = 0) -> Page[PortGroup]:
    """The same ports counted by ``unit`` or by ``port``, the largest groups first."""
    rows, total = lookups.group_ports(conn, wanted, by, limit=limit, offset=offset)
    name = (lambda of: named(protocol_of(of), port_of(of))) if by == "port" else (lambda of: of)
    groups = (PortGroup(name=name(of), hosts=hosts, ports=ports, down=down) for of, hosts, ports, down in rows)
    return Page[PortGroup](rows=tuple(groups), total=total, offset=offset, limit=limit)


# ── events ──────────────────────────────────────────────────────────────────────────────────────


class EventRow(View):
    """One event.

    :param seq: its number
    :param kind: name of its row in the catalogue
    :param role: ``firing``, ``resolved`` or ``notice``; None for a note
    :param told: channel: what became of its message
    """

    seq: int
    id: str
    kind: str
    role: str | None
    severity: Severity
    at: datetime
    run_id: Text
    host_id: Text | None
    host: Text | None
    protocol: str | None
    port: int | None
    program: Text | None
    unit: Text | None
    reason: Text
    task: str | None
    map_index: int | None
    told: Mapping[Text, str]


def event_filter(conn: Connection, *, kind: str = "", host: str = "", **more: Any) -> EventFilter:
    """Which events, by what people call a kind and a host.

    :param kind: name of a row of the catalogue; empty: all
    :param host: name or id; empty: all
    :param more: other fields of the filter
    :raises CommandError: there is no such host
    """
    row = KINDS[kind] if kind else None
    return EventFilter(
        kind=row.kind if row is not None else None,
        row=kind,
        host_id=find_host(conn, host).id if host else "",
        **more,
    )


def list_events(
    conn: Connection, wanted: EventFilter, *, limit: int = 100, before: int | None = None
) -> list[EventRow]:
    """Events, newest first.

    :param before: older ones than the event of this number
    """
    found = lookups.find_events(conn, wanted, limit=limit, before=before)
    sent = deliveries.of_events(conn, [event.id for _, event in found])
    told: dict[str, dict[str, str]] = {}
    for (event_id, channel), status in sent.items():
        told.setdefault(event_id, {})[channel] = str(status.state)
    return [_event_row(seq, event, told.get(event.id, {})) for seq, event in found]


def _event_row(seq: int, event: Event, told: Mapping[str, str]) -> EventRow:
    same = ("id", "severity", "at", "run_id", "host_id", "protocol", "port", "program", "unit", "reason")
    return EventRow(
        seq=seq,
        kind=event.meaning.name,
        role=event.role,
        host=event.host_name,
        task=event.details.get("task"),
        map_index=event.details.get("map_index"),
        told=told,
        **{name: getattr(event, name) for name in same},
    )


# ── one host over time ──────────────────────────────────────────────────────────────────────────


class PortTimeline(View):
    """One port over a time."""

    port: PortRow
    spans: tuple[Stretch, ...]
    uptime: Uptime


class HostTimeline(View):
    """The ports of one host over a time, in the order of their numbers.

    :param dark: times without evidence, or with that of another machine
    """

    since: datetime
    until: datetime
    dark: tuple[tuple[datetime, datetime], ...]
    ports: tuple[PortTimeline, ...]


def host_timeline(
    conn: Connection, host_id: str, *, length: timedelta, now: datetime, number: int | None = None, limit: int = 1000
) -> HostTimeline:
    """What the ports of a host were over a time.

    :param number: of this one only
    """
    since = now - length
    visits, of_host = lookups.visits(conn, host_id, since, now), events.of_host(conn, host_id, FOREIGN_KINDS)
    dark = joined([*blind(visits, since, now), *foreign(of_host, since, now)])
    numbers = (range_of(number),) if number is not None else ()
    found = list_ports(conn, PortFilter(host_id=host_id, numbers=numbers), limit=limit).rows
    story: dict[int, list[Event]] = {}
    for event in events.changes_of(conn, host_id, since, number=number):
        story.setdefault(event.number or 0, []).append(event)
    lines = []
    for one in found:
        own = spans(
            story.get(number_of(one.protocol, one.port), ()),
            dark,
            now_state=one.status,
            first_seen=one.first_seen_at,
            since=since,
            until=now,
        )
        lines.append(PortTimeline(port=one, spans=tuple(own), uptime=uptime(own)))
    return HostTimeline(since=since, until=now, dark=tuple(dark), ports=tuple(lines))


def raw_answers(conn: Connection, host_id: str) -> list[str]:
    """The last raw answers of a host, as text."""
    return [frame.decode("utf-8", "backslashreplace") for frame in archive.latest_frames(conn, host_id)]
