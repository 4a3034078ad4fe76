"""The story of one port in plain words: what it is now, why it is watched, what happened. Loads pandas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from portmon.config import Config
from portmon.engine.declared import declared_ports
from portmon.engine.frames import ports_of
from portmon.engine.rules import HostRules, RuleSet
from portmon.engine.states import Port
from portmon.engine.watched import decisions_on
from portmon.errors import CommandError
from portmon.fields import format_duration
from portmon.model.alert import DeliveryStatus
from portmon.model.event import Event, EventKind
from portmon.model.host import KnownHost
from portmon.model.observation import Listing
from portmon.model.state import HostStatus, PortStatus
from portmon.scan.answer import bind_of
from portmon.storage import archive, conditions, decisions, deliveries, events, hosts, state
from portmon.storage.conditions import FLEET
from portmon.storage.database import Database

WIDE_EVENTS = frozenset(
    {
        EventKind.BASELINE,
        EventKind.UNREACHABLE,
        EventKind.REACHABLE,
        EventKind.REBOOTED,
        EventKind.DUPLICATE,
        EventKind.MANY_CHANGES,
        EventKind.HOST_KEY_CHANGED,
        EventKind.HOST_KEY_RESTORED,
        EventKind.RETIRED,
        EventKind.FLEET_UNREACHABLE,
        EventKind.FLEET_REACHABLE,
    }
)
"""Events of a host and of the monitor that are part of the story of each port."""


def find_host(conn: Connection, wanted: str) -> KnownHost:
    """A server by id, or by name without regard to case.

    :raises CommandError: if there is none, or more than one
    """
    known = hosts.known(conn)
    found = [host for host in known if host.id == wanted] or [
        host for host in known if host.name.lower() == wanted.lower()
    ]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(repr(host.id) + (" (left the CMDB)" if host.removed_at else "") for host in found)
        raise CommandError(f"{len(found)} servers are named {wanted!r}; give one of their ids: {ids}")
    raise CommandError(f"no server has the name or id {wanted!r}; the CMDB's list of the last run counts")


@dataclass(frozen=True, slots=True)
class _Known:
    """All that is known of one port of one host.

    :param row: of the host's state; empty before its first run
    :param port: None if it is not watched
    :param declared: by what, None if it is not
    :param accepted: when a person said that it is gone for good, and who
    :param rules: in force on this host
    :param seen: what the host's last complete answer showed
    :param fleet: since when every host fails
    """

    host: KnownHost
    row: Mapping[str, Any]
    number: int
    port: Port | None
    declared: str | None
    accepted: tuple[datetime, str] | None
    rules: HostRules
    seen: Listing | None
    fleet: datetime | None


def explain(database: Database, config: Config, wanted: str, port: int, *, now: datetime) -> list[str]:
    """Lines for people, not escaped yet.

    :param wanted: id or name of the server
    :raises CommandError: if there is no such server
    """
    with database.begin() as conn:
        found = find_host(conn, wanted)
        host = found.as_host()
        rows, ports = state.load(conn, [host.id])
        must = declared_ports({host.id: host}, config.declared, decisions.promoted(conn), where=config.where)
        known = _Known(
            host=found,
            row=rows.get(host.id, {}),
            number=port,
            port=next((one for one in ports_of(ports) if one.port == port), None),
            declared=must.get(host.id, {}).get(port),
            accepted=decisions.acceptance(conn, host.id, port),
            rules=RuleSet(config.rules, where=config.where).for_host(host),
            seen=archive.last_seen(conn, host.id),
            fleet=conditions.since(conn, FLEET),
        )
        looked = archive.last_look(conn, host.id)
        story = events.of_port(conn, host.id, port, kinds=WIDE_EVENTS)
        sent = deliveries.of_events(conn, [event.id for event in story])
    lines = [f"{host.shown()}, id {host.id}, port {port}", ""]
    lines += _host_now(known)
    lines += _port_now(known, config, now)
    if looked is not None:
        error = f" ({looked.error})" if looked.error else ""
        lines.append(f"Last look: {_moment(looked.observed_at)}, run {looked.run_id}: {looked.outcome.value}{error}.")
    lines += ["", "What happened:"]
    lines += [f"  {line}" for event in story for line in _told(event, port, sent)] or ["  nothing so far."]
    return lines


def _host_now(known: _Known) -> Iterator[str]:
    row = known.row
    if known.host.removed_at is not None:
        yield (
            f"The host left the CMDB at {_moment(known.host.removed_at)}: it is not asked, and none of its ports is "
            "watched until it is back."
        )
        return
    if known.fleet is not None:
        yield f"Every host that is asked fails since {_moment(known.fleet)}: look at the monitor and its network first."
    if row.get("last_ok_at") is None:
        yield "The host never gave a complete answer: nothing is known of its ports."
    kept = f"its ports keep the state of its last complete answer, {_moment(row.get('last_ok_at'))}"
    if row.get("status") == HostStatus.UNREACHABLE:
        yield f"The host is unreachable since {_moment(row['failing_since'])}: {kept}."
    elif row.get("failures"):
        yield (
            f"The host gave no evidence in its last {row['failures']} run(s), since {_moment(row['failing_since'])}: "
            f"{kept}."
        )


def _port_now(known: _Known, config: Config, now: datetime) -> Iterator[str]:
    port = known.port
    if port is None:
        yield from _unknown_now(known)
        return
    if known.host.removed_at is None:
        yield from _state_now(port, known, config, now)
    owner = [
        ("program", port.programs),
        ("unit", port.units),
        ("uid", port.uids),
        ("pid", port.pids),
        ("on", port.addresses),
    ]
    shown = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in owner if values)
    yield f"Last known of it: {shown or 'nothing'}."
    if known.host.removed_at is None:
        yield _why_watched(port, known)


def _unknown_now(known: _Known) -> Iterator[str]:
    """A port without a stored state."""
    number = known.number
    if known.host.removed_at is not None:
        yield "Nothing is known of the port."
        return
    if known.row.get("last_ok_at") is not None:
        listeners = [one for one in known.seen.listeners if one.port == number] if known.seen else []
        evaluated = [known.rules.evaluate(port=number, address=one.address, program=one.program) for one in listeners]
        if listeners:
            by = ", ".join(dict.fromkeys(f"{one.program or 'a hidden program'} on {bind_of(one)}" for one in listeners))
            watched = any(decision.watched for decision in evaluated)
            why = "the next run evaluates it by the rules in force" if watched else evaluated[0].reason
            yield f"It listens ({by}), but is not watched: {why}."
        else:
            yield "It is not watched, and nobody listened on it in the last complete answer."
    if known.declared:
        yield f"It must listen: {known.declared}; the next complete answer counts."


def _state_now(port: Port, known: _Known, config: Config, now: datetime) -> Iterator[str]:
    since = f"since {_moment(port.status_since)} ({_ago(now, port.status_since)})"
    if port.status == PortStatus.CANDIDATE:
        yield (
            f"It is a candidate: inside the host's ephemeral range ({known.row['ephemeral_low']} to "
            f"{known.row['ephemeral_high']}), seen {port.streak} of {config.states.ephemeral_after} times in a row."
        )
    elif port.status == PortStatus.DOWN:
        last = f"last seen {_moment(port.last_seen_at)}" if port.last_seen_at else "never seen"
        yield f"It is down {since}, {last}."
        if known.accepted and known.accepted[0] >= port.status_since and not known.declared:
            yield f"Accepted as gone by {known.accepted[1]}: the next complete answer without it retires it."
    else:
        yield f"It is up {since}."
        if port.grace_until:
            yield f"It is missing since the host's reboot and has until {_moment(port.grace_until)} to come back."
        elif port.misses:
            yield (
                f"It is missing in {port.misses} of {config.states.down_after} runs in a row, last seen "
                f"{_moment(port.last_seen_at)}."
            )
    if port.lost:
        yield f"It does not listen on {', '.join(port.lost)} any more, since {_moment(port.lost_since)}."
    if port.flapping_since:
        yield (
            f"It is flapping since {_moment(port.flapping_since)}; its last change was at {_moment(port.changes[-1])}, "
            "and nothing more is told of it until it holds still."
        )


def _why_watched(port: Port, known: _Known) -> str:
    if known.declared:
        return f"It must listen: {known.declared}."
    evaluated = list(decisions_on(port, port.addresses, known.rules))
    watched = next((decision for decision in evaluated if decision.watched), None)
    if watched:
        why = watched.reason if watched.rule is not None else "no rule says otherwise"
        return f"It was learned and is watched: {why}."
    why = evaluated[0].reason if evaluated else "it is not declared any more"
    return f"No rule in force watches it, so the next run drops it: {why}."


_CONTEXT = {
    "before": "before: {}",
    "pids": "pid {}",
    "uids": "uid {}",
    "down_for": "down for {}",
    "unreachable_for": "unreachable for {}",
    "state": "it is {}",
    "misses": "missing in {} run(s)",
    "watched": "watched: {}",
    "looked_with": "looked with {}",
    "row": "row of the table: {}",
}
"""What the details of an event say, in this order."""


def _told(event: Event, port: int, sent: Mapping[tuple[str, str], DeliveryStatus]) -> Iterator[str]:
    subject = "" if event.port in (None, port) else f" of port {event.port}"
    owner = ", ".join(name for name in (event.program, event.unit) if name) if event.port is not None else ""
    names = f" ({owner})" if owner else ""
    yield f"{_moment(event.at)}  {event.kind.value}{subject}{names}: {event.reason}."
    parts = [f"run {event.run_id}"]
    if "map_index" in event.details:
        # Older events do not name their task: there was but one.
        parts.append(f"task {event.details.get('task', 'netstat')}[{event.details['map_index']}]")
    for name, text in _CONTEXT.items():
        value = event.details.get(name)
        if value is not None and value != []:
            parts.append(text.format(_detail(name, value)))
    if event.replayed_by is not None:
        parts.append(f"evaluated again by run {event.replayed_by}")
    parts += [
        f"{one.channel}: {one.state}{f' ({one.reason})' if one.reason else ''}"
        for (event_id, _), one in sent.items()
        if event_id == event.id
    ]
    yield f"    {'; '.join(parts)}"


def _detail(name: str, value: Any) -> str:
    if name.endswith("_for"):
        return format_duration(timedelta(seconds=int(value)))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _moment(at: object) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if isinstance(at, datetime) else "an unknown time"


def _ago(now: datetime, then: datetime) -> str:
    return format_duration(timedelta(seconds=max(0, int((now - then).total_seconds()))))
