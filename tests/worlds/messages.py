"""Events, alerts and messages by hand."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from portmon.alerting.message.render import Message
from portmon.model.alert import Alert
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind, Severity

NOW = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
LINK = "https://airflow.example.com/dags/portmon/runs/manual__2026-03-09T12%3A00/tasks/netstat/mapped/7"
PAGE = "https://airflow.example.com/portmon/hosts/id-of-web01/ports/8080"


def event(
    kind: EventKind = EventKind.DOWN, host: str | None = "web01", port: int | None = 8080, **fields: Any
) -> Event:
    """An event of a port, or of a host without one."""
    given: dict[str, Any] = {
        "id": hashlib.sha256(repr((kind.value, host, port)).encode()).hexdigest()[:32],
        "at": NOW,
        "run_id": "scheduled__2026-03-09T12:00:00+00:00",
        "host_id": f"id-of-{host}" if host is not None else None,
        "protocol": "tcp" if port is not None else None,
        "severity": kind.meaning(fields.get("details", {})).severity,
        "reason": "2 complete looks in a row did not show it",
    }
    return Event(kind=kind, host_name=host, port=port, **{**given, **fields})


def alert(told: Event | None = None, role: AlertRole = AlertRole.FIRING, **fields: Any) -> Alert:
    """An alert that a message tells for the first time, unless told otherwise."""
    told = told or event()
    given: dict[str, Any] = {"id": told.id, "first": told, "starts_at": told.at, **fields}
    return Alert(role=role, event=told, **given)


def message(*alerts: Alert, **fields: Any) -> Message:
    """A message of some alerts."""
    given: dict[str, Any] = {
        "title": "1 port down on web01",
        "text": "web01\n  tcp/8080 (java) is down",
        "markdown": "**web01**\n\n* tcp/8080 (java) is down",
        "html": "<html><body><p>tcp/8080 (java) is down</p></body></html>",
        "severity": Severity.CRITICAL,
        "id": "0123456789abcdef0123456789abcdef",
        "alerts": alerts,
        "links": (None,) * len(alerts),
        "expires_at": NOW + timedelta(minutes=20),
    }
    return Message(**{**given, **fields})
