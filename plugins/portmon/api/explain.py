"""The story of a port or a host in plain words: what it is now, why it is watched, what happened. Loads pandas."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from portmon.api.hosts import find_host
from portmon.api.ports import known_ports
from portmon.config import Config, rule_set
from portmon.engine.conditions import Condition
from portmon.engine.declared import declared_ports
from portmon.engine.identities import ACCEPTED
from portmon.engine.owners import names_of, present
from portmon.engine.state import Port
from portmon.engine.watched import deciding, decisions_on, subjects_of
from portmon.fields import format_duration, format_seconds
from portmon.model.alert import DeliveryStatus
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind, Meaning
from portmon.model.host import KnownHost
from portmon.model.numbers import is_udp, port_of, protocol_of, text_of
from portmon.model.state import HostStatus, PortStatus
from portmon.scan.answer import bind_of
from portmon.storage import alerts, archive, conditions, decisions, deliveries, events, notes, state
from portmon.storage.decisions import DecisionKind
from portmon.storage.lookups import EventFilter, find_events
from portmon.text import counted

_WIDE = {EventKind.RETIRED, EventKind.CLOCK_BACK, EventKind.CLOCK_BELIEVED} | {
    kind
    for kind in EventKind
    if any(row.subject in ("host", "fleet") for row in kind.rows) and kind is not EventKind.PROBE_OUTDATED
}
"""Kinds of events of a host, or of all of them, that are part of the story of each port."""
_HOST_EVENTS = 50
"""So many events are part of the story of a host."""


def explain(conn: Connection, config: Config, wanted: str, number: int | None, *, now: datetime) -> list[str]:
    """Lines for people about the port ``number`` of the host whose name or id is ``wanted``; None: about the host."""
    known = find_host(conn, wanted)
    if number is None:
        return _explain_host(conn, known)
    host = known.as_host()
    present = _Present(conn, config, known, number, now)
    lines = [f"{host.shown()}, id {host.id}, port {text_of(number)}", "", *_host_lines(conn, known, present.row)]
    lines += present.port_lines()
    units = present.port.units if present.port is not None else ()
    for note in notes.all_(conn).of(host.id, protocol_of(number), port_of(number), units, host.labels):
        about = f" on {note.unit}{f' of {note.label}' if note.label else ''}" if note.unit else ""
        lines.append(f"Note{about} by {note.author}, {_moment(note.at)}: {note.text}")
    lines += _last_look(conn, host.id)
    return [*lines, *_happened(conn, events.of_port(conn, host.id, number, kinds=_WIDE), number)]


def host_lines(conn: Connection, wanted: str) -> list[str]:
    """Lines for people about a host whose ports are not what they seem: it is unreachable, left, or never answered."""
    known = find_host(conn, wanted)
    return list(_host_lines(conn, known, _row_of(conn, known.id)))


def _explain_host(conn: Connection, known: KnownHost) -> list[str]:
    host = known.as_host()
    labels = ", ".join(f"{name}={value}" for name, value in sorted(host.labels.items()))
    lines = [f"{host.shown()}, id {host.id}{f', {labels}' if labels else ''}", ""]
    lines += _host_lines(conn, known, _row_of(conn, host.id))
    count = Counter(port.status for port in known_ports(conn, host.id))
    lines.append(f"Its ports: {', '.join(f'{number} {status}' for status, number in sorted(count.items())) or 'none'}.")
    lines += _last_look(conn, host.id)
    story = [event for _, event in find_events(conn, EventFilter(host_id=host.id), limit=_HOST_EVENTS)][::-1]
    more = f"the last {_HOST_EVENTS} events:" if len(story) == _HOST_EVENTS else None
    return [*lines, *_happened(conn, story, None, first=more)]


def _happened(conn: Connection, story: Sequence[Event], port: int | None, *, first: str | None = None) -> list[str]:
    sent = deliveries.of_events(conn, [event.id for event in story])
    told = [line for event in story for line in _event_lines(event, port, sent)] or ["nothing so far."]
    return ["", "What happened:", *(f"  {line}" for line in ([first] if first else []) + told)]


def _row_of(conn: Connection, host_id: str) -> Mapping[str, Any]:
    """The stored state of a host; empty before its first run."""
    found = state.load_hosts(conn, [host_id]).get(host_id)
    return {} if found is None else {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}


def _host_lines(conn: Connection, known: KnownHost, row: Mapping[str, Any]) -> Iterator[str]:
    """:param row: of :func:`_row_of`"""
    if known.removed_at is not None:
        left = f"The host left the CMDB at {_moment(known.removed_at)}"
        yield f"{left}: it is not asked, and none of its ports is watched until it is back."
        return
    yield from _alert_lines(conn, known.id)
    kept = ""
    if row.get("last_ok_at") is None:
        yield "The host never gave a complete answer: nothing is known of its ports."
    else:
        kept = f": its ports keep the state of its last complete answer, {_moment(row['last_ok_at'])}"
    since = f" since {_moment(row['failing_since'])}" if row.get("failing_since") else ""
    if row.get("status") == HostStatus.UNREACHABLE:
        yield f"The host is unreachable{since}{kept}."
    elif count := row.get("failures"):
        runs = "its last run" if count == 1 else f"its last {count} runs"
        yield f"The host gave no evidence in {runs}{f',{since}' if since else ''}{kept}."
    foreign_since = conditions.since(conn, Condition.FOREIGN.key(known.id))
    accepted = decisions.decision(conn, DecisionKind.ACCEPTED, known.id, ACCEPTED[1])
    if foreign_since and accepted and accepted[0] >= foreign_since:
        yield f"The machine that answers is accepted by {accepted[1]}: its next complete answer counts."


_GOING_ON = {
    "fleet_unreachable": "Nearly every host fails since {since}: look at the monitor and its network first",
    "fleet_unscanned": "Many hosts are not scanned since {since}{why}",
    "fleet_owners_hidden": "Many hosts do not show programs of other users any more since {since}{why}",
    "clock_back": "The monitor's clock went back at {at}: looks older than the last judged ones count for nothing{why}",
    "foreign_machine": "Another machine answers at its address since {since}: what it shows counts for nothing{why}",
    "host_flapping": "The host comes and goes since {since}: no more is told of it until it holds still{why}",
    "host_stable_unreachable": "The host came and went, and stays unreachable{why}",
}
"""Row of the catalogue: what an open alert of it says of a host now, if that is more than its summary."""


def _going_on(row: Meaning) -> str | None:
    """What an open alert of a row says of a host; None if that is nothing, or the state of the host says it."""
    if row.name in _GOING_ON or row.subject != "host" or row.key == EventKind.UNREACHABLE.usual.key:
        return _GOING_ON.get(row.name)
    said = row.summary.format(host="the host")
    return f"{said[:1].upper()}{said[1:]} since {{since}}{{why}}"


def _alert_lines(conn: Connection, host_id: str) -> Iterator[str]:
    """What the state of a host does not say: its open alerts, and those of the monitor."""
    for alert, _ in alerts.standing(conn):
        event = alert.event
        text = _going_on(event.meaning)
        if text is not None and event.host_id in (None, host_id):
            at, since = _moment(event.at), _moment(event.since or alert.starts_at)
            yield f"{text.format(at=at, since=since, why=f' ({event.reason})' if event.reason else '')}."


def _last_look(conn: Connection, host_id: str) -> list[str]:
    looked = archive.last_observation(conn, host_id)
    if looked is None:
        return []
    error = f" ({looked.error})" if looked.error else ""
    return [f"Last look: {_moment(looked.observed_at)}, run {looked.run_id}: {looked.outcome.value}{error}."]


class _Present:
    """What is known now of one port of one host."""

    def __init__(self, conn: Connection, config: Config, known: KnownHost, number: int, now: datetime) -> None:
        host = known.as_host()
        decided = decisions.in_force(conn, now, host_id=host.id)
        must = declared_ports({host.id: host}, config.declared, decided.promoted, where=config.where)
        self.number, self.now, self.states = number, now, config.states
        self.removed_at = known.removed_at
        self.row = _row_of(conn, host.id)
        # None if it is not watched.
        self.port = next((port for port in known_ports(conn, host.id) if port.number == number), None)
        self.declared = must.get(host.id, {}).get(number)
        self.accepted = decisions.decision(conn, DecisionKind.ACCEPTED, host.id, number)
        self.forgotten = decisions.decision(conn, DecisionKind.FORGOTTEN, host.id, number)
        self.rules = rule_set(config, ignored=decided.ignored).for_host(host)
        self.seen = archive.last_listing(conn, host.id)

    def port_lines(self) -> Iterator[str]:
        port = self.port
        if port is None:
            yield from self._unwatched()
            return
        if self.removed_at is None:
            yield from self._state(port)
        owner = {"program": port.programs, "unit": port.units, "uid": port.uids, "pid": port.pids, "on": port.addresses}
        shown = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in owner.items() if values)
        yield f"Last known of it: {shown or 'nothing'}."
        if self.removed_at is None:
            yield self._why_watched(port)

    def _unwatched(self) -> Iterator[str]:
        if self.removed_at is not None:
            yield "Nothing is known of the port."
            return
        listeners = [one for one in self.seen.sockets if one.number == self.number] if self.seen else []
        if self.row.get("last_ok_at") is not None and not listeners:
            yield "It is not watched, and nothing listened on it in the last complete answer."
        elif self.row.get("last_ok_at") is not None:
            evaluated = [self.rules.evaluate(subject) for one in listeners for subject in subjects_of(one)]
            by = ", ".join(dict.fromkeys(f"{one.program or 'a hidden program'} on {bind_of(one)}" for one in listeners))
            watched = any(decision.watched for decision in evaluated)
            why = "the next run evaluates it by the rules in force" if watched else evaluated[0].reason
            yield f"It listens ({by}), but is not watched: {why}."
        if self.declared:
            yield f"It must listen: {self.declared}; the next complete answer counts."

    def _state(self, port: Port) -> Iterator[str]:
        ago = timedelta(seconds=max(0, int((self.now - port.status_since).total_seconds())))
        since = f"since {_moment(port.status_since)} ({format_duration(ago)})"
        last = f"last seen {_moment(port.last_seen_at)}" if port.last_seen_at else "never seen"
        if port.status == PortStatus.CANDIDATE:
            span = f"{self.row['ephemeral_low']} to {self.row['ephemeral_high']}"
            seen = f"{port.streak} of {self.states.ephemeral_after} times in a row"
            why = (
                "a UDP port may be a client's" if is_udp(port.number) else f"inside the host's ephemeral range ({span})"
            )
            yield f"It is a candidate: {why}, seen {seen}."
        elif port.status == PortStatus.DOWN:
            yield f"It is down {since}, {last}."
            if holders := names_of(present(port.holders)):
                yield f"Another program has it: {holders}."
            if self.accepted and self.accepted[0] >= port.status_since:
                yield f"Accepted as gone by {self.accepted[1]}: the next complete answer without it retires it."
        else:
            yield f"It is up {since}."
            if port.grace_until:
                yield f"It is missing since the host's reboot and has until {_moment(port.grace_until)} to come back."
            elif port.misses:
                missing = f"{port.misses} of {self.states.down_after} runs in a row"
                yield f"It is missing in {missing}, {last}."
        if port.lost:
            lost = f", since {_moment(port.lost_since)}" if port.lost_since else ""
            yield f"It does not listen on {', '.join(port.lost)} any more{lost}."
        left = ", ".join(str(owner) for owner in port.owners if not owner.gone_since)
        for owner in port.owners:
            if owner.gone_since:
                still = f", only {left}" if left else ""
                yield f"{owner} does not hold it any more{still}, since {_moment(owner.gone_since)}."
        if port.young_since is not None:
            yield "It is young: it is not watched for states.mature_after yet, and what happens to it is a warning."
        if port.boots:
            longest = format_duration(timedelta(seconds=round(max(port.boots))))
            yield f"After the last boots of its host it listened within {longest}."
        if self.forgotten:
            at, who = self.forgotten
            booted = self.row["booted_at"]
            when = "" if booted and booted > at else ", from the next boot on"
            yield f"How long it took after boots before {_moment(at)} does not count any more{when}: {who}."
        if port.hidden_since:
            yield f"No rule watches it since {_moment(port.hidden_since)}: its state is kept for cmdb.prune_after."
        if port.flapping_since:
            last_change = _moment(port.changed_at or port.flapping_since)
            yield (
                f"It is flapping since {_moment(port.flapping_since)}; its last change was at {last_change}, and "
                "nothing more is told of it until it holds still."
            )

    def _why_watched(self, port: Port) -> str:
        if self.declared:
            return f"It must listen: {self.declared}."
        if watched := deciding(port, port.addresses, self.rules):
            why = watched.reason if watched.rule is not None else "no rule says otherwise"
            return f"It was learned and is watched: {why}."
        denied = next(decisions_on(port, port.addresses, self.rules), None)
        why = denied.reason if denied else "it is not declared any more"
        return f"No rule in force watches it: {why}."


_DETAILS = {
    "before": "before: {}",
    "was": "owner before: {}",
    "owner": "owner: {}",
    "left": "still there: {}",
    "gone": "gone: {}",
    "young": "young",
    "pids": "pid {}",
    "uids": "uid {}",
    "down_for": "down for {}",
    "unreachable_for": "unreachable for {}",
    "state": "it is {}",
    "machine_name": "the machine of {}",
    "boot_id": "boot id {}",
    "last_tried": "last tried {}",
    "behind": "the clock is {} behind",
    "hosts": "hosts: {}",
    "names": "among them {}",
    "from_name": "from {}",
    "misses": "missing in {}",
    "watched": "watched: {}",
    "looked_with": "looked with {}",
    "row": "row of the table: {}",
}
"""Details of an event that the story shows, in this order."""


def _event_lines(event: Event, port: int | None, sent: Mapping[tuple[str, str], DeliveryStatus]) -> Iterator[str]:
    subject = "" if event.number in (None, port) else f" of port {text_of(event.number or 0)}"
    owner = ", ".join(name for name in (event.program, event.unit) if name) if event.port is not None else ""
    names = f" ({owner})" if owner else ""
    yield f"{_moment(event.at)}  {event.kind.value}{subject}{names}: {event.reason}."
    parts = [f"run {event.run_id}"]
    if "map_index" in event.details:
        parts.append(f"task {event.details['task']}[{event.details['map_index']}]")
    for name, text in _DETAILS.items():
        value = event.details.get(name)
        if value is not None and value != []:
            if name.endswith("_for") or name == "behind":
                value = format_seconds(timedelta(seconds=value))
            elif name == "misses":
                value = counted(value, "run")
            parts.append(text.format(", ".join(map(str, value)) if isinstance(value, list) else value))
    if event.replayed_by is not None:
        parts.append(f"evaluated again by run {event.replayed_by}")
    own = [one for (event_id, _), one in sent.items() if event_id == event.id]
    parts += [f"{one.channel}: {one.state}{f' ({one.reason})' if one.reason else ''}" for one in own]
    yield f"    {'; '.join(parts)}"


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
