"""Ids of events, events of the monitor itself, and events that end alerts. Loads no pandas."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host

CLOSES = "closes"
"""Detail of an event that no observation made: the id of the event whose alert it ends."""


def event_id(kind: EventKind, host_id: str | None, protocol: str | None, port: int | None, evidence: str) -> str:
    """The id of an event: 32 hex digits.

    :param evidence: names what was evaluated; the same evidence evaluated again gives the same id
    """
    parts = (kind.value, host_id, protocol, port, evidence)
    text = "\x00".join("\x01" if part is None else f"\x02{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def monitor_event(
    kind: EventKind,
    *,
    at: datetime,
    run_id: str,
    reason: str,
    evidence: str,
    host: Host | None = None,
    since: datetime | None = None,
    details: Mapping[str, Any] | None = None,
) -> Event:
    """An event of the monitor itself, such as a stale host list, a refused prune or a changed host key.

    :param evidence: see :func:`event_id`
    :param since: start of the episode
    """
    return Event(
        id=event_id(kind, host.id if host else None, None, None, evidence),
        kind=kind,
        at=at,
        run_id=run_id,
        host_id=host.id if host else None,
        host_name=host.name if host else None,
        severity=kind.meaning(details or {}).severity,
        reason=reason,
        since=since,
        labels=dict(host.labels) if host else {},
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
