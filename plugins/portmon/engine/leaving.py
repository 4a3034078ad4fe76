"""Hosts that leave the inventory: their alerts end, and what is wrong with them is told again if they come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from datetime import datetime

from portmon.engine import transitions
from portmon.engine.conditions import EVALUATED, Open, OpenConditions
from portmon.engine.events import Report
from portmon.engine.lifecycle import NONE
from portmon.engine.state import Draft, HostState, Port
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.state import PortStatus


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """What changes when hosts leave: changed hosts and ports, the conditions that are open now, and events."""

    hosts: tuple[HostState, ...]
    ports: tuple[Port, ...]
    conditions: Mapping[str, Open]
    events: tuple[Event, ...]


def leave(
    hosts: Mapping[str, HostState],
    ports: Collection[Port],
    host_ids: Collection[str],
    conditions: Mapping[str, Open],
    *,
    reason: str,
    run_id: str,
    now: datetime,
) -> Left:
    """End the alerts of hosts that left, by ``retired`` events; their conditions are paused.

    :param ports: of these hosts
    :param reason: why they left, as the end of a sentence
    """
    report, book = Report(run_id), OpenConditions(conditions)
    rows = {host_id: dataclasses.replace(hosts[host_id]) for host_id in host_ids if host_id in hosts}
    for host in rows.values():
        for condition in EVALUATED:
            before = book.end(condition, host.host_id)
            if before is not None and before.told:
                what, ends = condition.value.was, {"ends": condition.value.opens.value}
                draft = Draft(EventKind.RETIRED, f"{what}; {reason}", before.since, details=ends)
                report.of_host(host, now, draft)
        if host.presence.flapping_since:
            details = {"ends": EventKind.UNREACHABLE.value}
            since = host.presence.flapping_since
            report.of_host(host, now, Draft(EventKind.RETIRED, f"Was flapping; {reason}", since, details=details))
        host.presence, host.fingerprint, host.known_since = NONE, None, None
    changed = []
    for port in ports:
        if not transitions.is_open(port) or port.paused:
            continue
        what = "Was flapping" if port.flapping_since else "Lost a bind"
        if port.status == PortStatus.DOWN:
            what = "Was down"
        draft = Draft(EventKind.RETIRED, f"{what}; {reason}", port.lost_since or port.status_since)
        report.of_port(port, rows[port.host_id], now, draft, {})
        changed.append(transitions.pause(port))
    return Left(tuple(rows.values()), tuple(changed), book.now, tuple(report.events))
