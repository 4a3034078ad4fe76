"""Ids of events, events of the monitor itself, and events that end alerts. Loads no pandas."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from portmon.engine import lifecycle
from portmon.engine.state import Draft, HostState, Port
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind, Severity

CLOSES = "closes"
"""Detail of an event that no observation made: the id of the event whose alert it ends."""


def event_id(kind: EventKind, host_id: str | None, protocol: str | None, port: int | None, evidence: str) -> str:
    """The id of an event: 32 hex digits.

    :param evidence: names what was evaluated; the same evidence evaluated again gives the same id
    """
    parts = (kind.value, host_id, protocol, port, evidence)
    text = "\x00".join("\x01" if part is None else f"\x02{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Report:
    """The events of one evaluation.

    :param run_id: of the run that evaluates
    :param step: of the journal, if ids are to tell it: one time can come twice after the monitor's clock went back
    """

    def __init__(self, run_id: str, step: int | None = None) -> None:
        self.events: list[Event] = []
        self._run_id = run_id
        self._mark = "" if step is None else f"/{step}"
        self._ends: set[str] = set()

    def mark(self, step: int) -> None:
        """Let the ids of further events tell the step."""
        self._mark = f"/{step}"

    def of_host(self, host: HostState, at: datetime, draft: Draft) -> None:
        """Add an event of a host. A notice is left out if the host had too many messages."""
        if draft.is_message:
            notice = draft.kind.meaning(draft.details).role is AlertRole.NOTICE
            if notice and not lifecycle.may_note(host.told, at):
                return
            host.told = lifecycle.with_message(host.told, at)
        self.events.append(self._event(draft, host, None, at, {}))

    def of_port(
        self,
        port: Port,
        host: HostState,
        at: datetime,
        draft: Draft,
        details: Mapping[str, Any],
        *,
        severity: Severity | None = None,
    ) -> None:
        """Add an event of a port.

        :param severity: of what opens an alert, if a rule or declaration says it
        """
        names = ("addresses", "programs", "pids", "uids", "units")
        own: dict[str, Any] = {name: list(getattr(port, name)) for name in names if getattr(port, name)}
        if port.declared:
            own["declared"] = port.declared
        event = self._event(draft, host, port, at, {**own, **details})
        if event.role is AlertRole.FIRING:
            young = Severity.WARNING if event.details.get("young") else event.severity
            event = dataclasses.replace(event, severity=severity or young)
        self.events.append(event)

    def of_monitor(self, draft: Draft, at: datetime) -> None:
        """Add an event of the monitor itself."""
        self.events.append(
            monitor_event(
                draft.kind,
                at=at,
                run_id=self._run_id,
                reason=draft.reason,
                evidence=f"{at.isoformat()}{self._mark}",
                since=draft.since,
                details=draft.details,
            )
        )

    def _event(
        self, draft: Draft, host: HostState, port: Port | None, at: datetime, details: Mapping[str, Any]
    ) -> Event:
        protocol, number = (port.protocol, port.port) if port else (None, None)
        extra = {**details, **draft.details}
        return Event(
            id=self._id(draft, host, protocol, number, at),
            kind=draft.kind,
            at=at,
            run_id=self._run_id,
            host_id=host.host_id,
            host_name=host.name,
            protocol=protocol,
            port=number,
            severity=draft.kind.meaning(extra).severity,
            reason=draft.reason,
            program=", ".join(port.programs) or None if port else None,
            unit=", ".join(port.units) or None if port else None,
            since=draft.since,
            last_seen=draft.last_seen,
            labels=dict(host.labels or {}),
            details=extra,
        )

    def _id(self, draft: Draft, host: HostState, protocol: str | None, port: int | None, at: datetime) -> str:
        evidence = f"{at.isoformat()}{self._mark}"
        found = event_id(draft.kind, host.host_id, protocol, port, evidence)
        if ends := draft.details.get("ends"):
            # Several alerts of a host may end at once. The first keeps the id that earlier versions gave it.
            if found in self._ends:
                found = event_id(draft.kind, host.host_id, protocol, port, f"{evidence}/{ends}")
            self._ends.add(found)
        return found


def monitor_event(
    kind: EventKind,
    *,
    at: datetime,
    run_id: str,
    reason: str,
    evidence: str,
    since: datetime | None = None,
    details: Mapping[str, Any] | None = None,
) -> Event:
    """An event of the monitor itself, such as a stale host list or a refused prune.

    :param evidence: see :func:`event_id`
    :param since: start of the episode
    """
    return Event(
        id=event_id(kind, None, None, None, evidence),
        kind=kind,
        at=at,
        run_id=run_id,
        severity=kind.meaning(details or {}).severity,
        reason=reason,
        since=since,
        details=dict(details or {}),
    )


def closing_event(
    kind: EventKind, first: Event, *, at: datetime, run_id: str, reason: str, details: Mapping[str, Any] | None = None
) -> Event:
    """An event that ends the alert of ``first`` without an observation."""
    details = {**first.details, **(details or {}), CLOSES: first.id}
    # The link to the task log would lead to the task that saw the first event.
    for name in ("task", "map_index"):
        details.pop(name, None)
    return dataclasses.replace(
        first,
        id=event_id(kind, first.host_id, first.protocol, first.port, f"{first.id}/{kind}"),
        kind=kind,
        at=at,
        run_id=run_id,
        severity=kind.usual.severity,
        reason=reason,
        since=first.since or first.at,
        details=details,
    )
