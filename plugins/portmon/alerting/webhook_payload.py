"""Messages as a JSON document for programs, and its signature. docs/alerts.md describes both."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from portmon.alerting.message.render import Message
from portmon.model.alert import Alert
from portmon.text import plain

VERSION = 1
"""Of the document. A field may be added within a version; none changes its meaning or goes."""
TEXT_LIMIT = 4096
"""Characters of one value that came from a host or the CMDB."""


def document(message: Message) -> dict[str, Any]:
    """A message as JSON types.

    What hosts and the CMDB said is in it as it was, not made harmless: whoever shows it must escape it. Only
    lone surrogates, which no UTF-8 can hold, are written as the escapes of :func:`portmon.text.plain`.
    """
    links = message.links or (None,) * len(message.alerts)
    return {
        "version": VERSION,
        "id": message.id,
        "group": message.group.value,
        "route": _valid(message.route),
        "reminder": message.reminder,
        "severity": message.severity.value,
        "title": _valid(message.title),
        "text": _valid(message.text),
        "alerts": [_alert(alert, link) for alert, link in zip(message.alerts, links, strict=True)],
    }


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Value of the header ``X-Portmon-Signature``: HMAC-SHA256 over timestamp, a dot, and the body.

    :param timestamp: value of the header ``X-Portmon-Timestamp``, seconds since 1970
    """
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


def _alert(alert: Alert, link: str | None) -> dict[str, Any]:
    event = alert.event
    told = {
        "id": alert.id,
        "status": alert.role.value,
        "kind": event.kind.value,
        "severity": event.severity.value,
        "host": event.host_name,
        "host_id": event.host_id,
        "port": event.port,
        "protocol": event.protocol,
        "program": event.program,
        "unit": event.unit,
        "labels": dict(event.labels),
        "reason": event.reason,
        "at": _moment(event.at),
        "since": _moment(event.since),
        "starts_at": _moment(alert.starts_at),
        "ends_at": _moment(alert.ends_at),
        "last_seen": _moment(event.last_seen),
        "link": link,
        "untold": alert.untold,
        "event_id": event.id,
        "details": dict(event.details),
    }
    return {name: _data(value) for name, value in told.items()}


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _data(value: Any) -> Any:
    """A value that is JSON for every reader, at any depth."""
    if isinstance(value, str):
        shown = _valid(value)
        return shown if len(shown) <= TEXT_LIMIT else f"{shown[: TEXT_LIMIT - 1]}…"
    if isinstance(value, Mapping):
        return {_data(str(key)): _data(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_data(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


_SURROGATES = re.compile("[\ud800-\udfff]")


def _valid(text: str) -> str:
    return _SURROGATES.sub(lambda found: plain(found.group()), text)
