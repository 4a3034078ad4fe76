"""The story of one port in plain words: what it is now, why it is watched, what happened. Loads pandas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from portmon.config import Config, format_duration
from portmon.declared import declared_ports
from portmon.errors import CommandError
from portmon.frames import ports_of, records
from portmon.models import Event, EventKind, Host, HostStatus, PortStatus
from portmon.rules import RuleSet
from portmon.states import Port
from portmon.storage import archive, decisions, hosts, outbox, state
from portmon.storage.database import Database

HOST_EVENTS = frozenset(
    {
        EventKind.BASELINE,
        EventKind.UNREACHABLE,
        EventKind.REACHABLE,
        EventKind.REBOOTED,
        EventKind.DUPLICATE,
        EventKind.HOST_KEY_CHANGED,
        EventKind.HOST_KEY_RESTORED,
        EventKind.RETIRED,
    }
)
"""Events of a host that are part of the story of each of its ports."""


def find_host(conn: Connection, wanted: str) -> hosts.KnownHost:
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
        ids = ", ".join(repr(host.id) for host in found)
        raise CommandError(f"{len(found)} servers are named {wanted!r}; give one of their ids: {ids}")
    raise CommandError(f"no server has the name or id {wanted!r}; the CMDB's list of the last run counts")


def explain(database: Database, config: Config, wanted: str, port: int, *, now: datetime) -> list[str]:
    """Lines for people, not escaped yet.

    :param wanted: id or name of the server
    :raises CommandError: if there is no such server
    """
    with database.begin() as conn:
        found = find_host(conn, wanted)
        host = found.as_host()
        known, ports = state.load(conn, [host.id])
        row = next(iter(records(known)), {})
        mine = next((one for one in ports_of(ports) if one.port == port), None)
        must = declared_ports({host.id: host}, config.declared, decisions.promoted(conn), where=config.where)
        declared = must.get(host.id, {}).get(port)
        story = outbox.of_port(conn, host.id, port, kinds=HOST_EVENTS)
        looked = archive.last_look(conn, host.id)
    lines = [f"{host.shown()}, id {host.id}, port {port}", ""]
    lines += _host_now(found, row)
    lines += _port_now(mine, row.get("listening") or (), host, port, config, declared, now)
    if looked is not None:
        error = f" ({looked.error})" if looked.error else ""
        lines.append(f"Last look: {_moment(looked.observed_at)}, run {looked.run_id}: {looked.outcome.value}{error}.")
    lines += ["", "What happened:"]
    lines += [f"  {line}" for event in story for line in _told(event)] or ["  nothing that was told, or nothing yet."]
    return lines


def _host_now(host: hosts.KnownHost, row: dict[str, object]) -> Iterator[str]:
    if host.removed_at is not None:
        yield f"The host left the CMDB at {_moment(host.removed_at)}: it is not asked, and nothing of it is judged."
    elif row.get("last_ok_at") is None:
        yield "The host never gave a complete answer: nothing is known of its ports."
    elif row.get("status") == HostStatus.UNREACHABLE:
        since = _moment(row["failing_since"])
        yield f"The host is unreachable since {since}: its ports keep their state until it answers again."
    elif row.get("failures"):
        yield f"The host gave no evidence in its last {row['failures']} run(s), since {_moment(row['failing_since'])}."


def _port_now(
    port: Port | None,
    listening: Sequence[str],
    host: Host,
    number: int,
    config: Config,
    declared: str | None,
    now: datetime,
) -> Iterator[str]:
    rules = RuleSet(config.rules, where=config.where).for_host(host)
    if port is None:
        if f"tcp/{number}" in listening:
            why = "a rule excludes it, or no allow rule names it" if config.rules else "the next run judges it"
            yield f"It listens, but is not watched: {why}."
        else:
            yield "It is not watched, and nobody listened on it in the last complete answer."
        if declared:
            yield f"It is {declared}: the next complete answer counts."
        return
    since = f"since {_moment(port.status_since)} ({_ago(now, port.status_since)})"
    if port.status == PortStatus.CANDIDATE:
        yield (
            f"It is a candidate: inside the host's ephemeral range, seen {port.streak} of "
            f"{config.states.ephemeral_after} times in a row."
        )
    elif port.status == PortStatus.DOWN:
        last = f"last seen {_moment(port.last_seen_at)}" if port.last_seen_at else "never seen"
        yield f"It is down {since}, {last}."
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
        last = _moment(port.changes[-1])
        yield f"It is flapping since {_moment(port.flapping_since)}; its last change was at {last}."
    owner = [
        ("program", port.programs),
        ("unit", port.units),
        ("uid", port.uids),
        ("pid", port.pids),
        ("on", port.addresses),
    ]
    known = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in owner if values)
    yield f"Last known of it: {known or 'nothing'}."
    if declared:
        yield f"It must listen: {declared}."
        return
    judged = [
        rules.judge(port=number, address=address, program=program)
        for address in port.addresses
        for program in port.programs or (None,)
    ]
    watched = next((decision for decision in judged if decision.watched), None)
    if watched:
        yield f"It was learned and is watched: {watched.reason}."
    else:
        why = judged[0].reason if judged else "it is not declared any more"
        yield f"No rule in force watches it, so the next run drops it: {why}."


_CONTEXT = {
    "watched": "watched because {}",
    "looked_with": "looked with {}",
    "misses": "missing in {} run(s)",
    "row": "row of the table: {}",
}


def _told(event: Event) -> Iterator[str]:
    names = f" ({event.unit or event.program})" if event.port is not None and (event.unit or event.program) else ""
    yield f"{_moment(event.at)}  {event.kind.value}{names}: {event.reason}."
    details = {name: event.details[name] for name in _CONTEXT if event.details.get(name)}
    parts = [f"run {event.run_id}", *(_CONTEXT[name].format(value) for name, value in details.items())]
    yield f"    {'; '.join(parts)}"


def _moment(at: object) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if isinstance(at, datetime) else "an unknown time"


def _ago(now: datetime, then: datetime) -> str:
    return format_duration(timedelta(seconds=max(0, int((now - then).total_seconds()))))
