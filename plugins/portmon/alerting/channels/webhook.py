"""A JSON document by POST, signed, with an idempotency key. docs/alerts.md describes document and signature."""

from __future__ import annotations

import hmac
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from portmon.alerting.channels.answers import denied
from portmon.alerting.channels.base import BaseChannel, HttpRequest, Outside, Secrets, endpoint_problems
from portmon.fields import Text
from portmon.text import plain

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message
    from portmon.model.alert import Alert

VERSION = 1
"""Of the document. A field may be added within a version; none changes its meaning or goes."""
TEXT_LIMIT = 4096
"""Characters of one value that came from a host or the CMDB."""


class WebhookChannel(BaseChannel):
    """A JSON document by POST, signed, with an idempotency key; docs/alerts.md has its fields."""

    knows_ids: ClassVar[bool] = True

    type: Literal["webhook"]
    conn_id: Text = Field(description="Airflow HTTP connection; its extra field `secret` is the key of the signature")
    endpoint: str = Field("", description="path below the connection's host")

    def check(self, outside: Outside) -> list[str]:
        """What is wrong with the endpoint."""
        return [f"channel {self.name!r}: {text}" for text in endpoint_problems(self.endpoint, self.conn_id)]

    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        """Send the document; any 2xx whose answer does not say otherwise means that the receiver has it."""
        body = json.dumps(document(message), ensure_ascii=False, allow_nan=False).encode()
        now = str(int(time.time()))
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.id}

        def signed(request: HttpRequest, secrets: Secrets) -> HttpRequest:
            if secrets.secret is None:
                return request
            own = {"X-Portmon-Timestamp": now, "X-Portmon-Signature": sign(secrets.secret, now, body)}
            return replace(request, headers={**request.headers, **own})

        request = HttpRequest(self.name, self.conn_id, self.endpoint, "POST", body, headers, signed, denied=denied)
        outside.send(request)


def document(message: Message) -> dict[str, Any]:
    """A message as JSON types.

    It has the texts of hosts and of the CMDB as they were: a program that shows them must escape them. Only lone
    surrogates, which no UTF-8 can hold, are written as the escapes of :func:`portmon.text.plain`.
    """
    return {
        "version": VERSION,
        "id": message.id,
        "group": message.group.value,
        "route": _valid(message.route),
        "reminder": message.reminder,
        "severity": message.severity.value,
        "title": _valid(message.title),
        "text": _valid(message.text),
        "alerts": [
            alert_document(*linked) | {"runbook_url": message.runbooks.get(linked[0].event.kind)}
            for linked in message.linked()
        ],
    }


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Value of the header ``X-Portmon-Signature``: HMAC-SHA256 over timestamp, a dot, and the body.

    :param timestamp: value of the header ``X-Portmon-Timestamp``, seconds since 1970
    """
    return f"sha256={hmac.digest(secret.encode(), f'{timestamp}.'.encode() + body, 'sha256').hex()}"


def alert_document(alert: Alert, link: str | None, page: str | None) -> dict[str, Any]:
    """An alert as JSON types, with the addresses of its task log and of its page."""
    event = alert.event
    fields = {
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
        "page": page,
        "untold": alert.untold,
        "event_id": event.id,
        "details": dict(event.details),
    }
    return {name: _data(value) for name, value in fields.items()}


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
