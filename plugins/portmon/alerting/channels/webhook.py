"""A JSON document by POST, signed, with an idempotency key. docs/alerts.md describes document and signature."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from portmon.alerting.channels.answers import denied
from portmon.alerting.channels.base import BaseChannel, HttpRequest, Outside, Secrets, endpoint_problems
from portmon.alerting.channels.each import send_each
from portmon.alerting.channels.signing import signatures
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
    conn_id: Text = Field(
        description="Airflow HTTP connection; its extra fields `secret` and, while that is replaced, `old_secret` are "
        "the keys of the signatures"
    )
    per_alert: bool = Field(False, description="one request for each alert, in place of one for each message")
    endpoint: str = Field("", description="path below the connection's host; with `per_alert` a template as well")
    template: Text | None = Field(
        None, description="body in place of the document: a Jinja template that makes JSON of its fields"
    )

    @field_validator("endpoint")
    @classmethod
    def _path_is_right(cls, value: str, info: ValidationInfo) -> str:
        if "{" in value:
            if not info.data.get("per_alert"):
                raise ValueError("it can be a template only with `per_alert`, ")
            from portmon.alerting.channels.body import problem_of_path

            if why := problem_of_path(value):
                raise ValueError(why)
        return value

    @field_validator("template")
    @classmethod
    def _body_is_right(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            from portmon.alerting.channels.body import problem_of_body

            if why := problem_of_body(value, per_alert=bool(info.data.get("per_alert"))):
                raise ValueError(why)
        return value

    def check(self, outside: Outside) -> list[str]:
        """What is wrong with the endpoint."""
        return [f"channel {self.name!r}: {text}" for text in endpoint_problems(self.endpoint, self.conn_id)]

    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        """Send the document; any 2xx whose answer does not say otherwise means that the receiver has it."""
        if self.per_alert:
            send_each(self, message, lambda one: self._post(replace(one, id=_id_of(one)), outside))
        else:
            self._post(message, outside)

    def _post(self, message: Message, outside: Outside) -> None:
        endpoint, told = self.endpoint, document(message)
        try:
            body = json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
            if self.template is not None or "{" in endpoint:
                from portmon.alerting.channels import body as own

                if self.template is not None:
                    body = own.filled(self.template, told, per_alert=self.per_alert)
                endpoint = own.path_of(endpoint, told) if "{" in endpoint else endpoint
        except ValueError as error:
            raise self.failure(f"the template fails: {error}") from None

        def signed(request: HttpRequest, secrets: Secrets) -> HttpRequest:
            try:
                own = signatures(message.id, body, secrets)
            except ValueError as error:
                raise self.failure(f"connection {self.conn_id!r}: {error}") from None
            return replace(request, headers={**request.headers, **own})

        headers = {"Content-Type": "application/json", "Idempotency-Key": message.id}
        outside.send(HttpRequest(self.name, self.conn_id, endpoint, "POST", body, headers, signed, denied=denied))


def _id_of(one: Message) -> str:
    """The id of a message about one alert: the same when it is sent again, with whichever others."""
    (alert,) = one.alerts
    text = f"{one.id if one.reminder else ''}/{one.group}/{alert.id}/{alert.event.id}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


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
