"""PagerDuty's Events API v2: an event for each alert, whose id is the key that opens and closes one incident.

https://developer.pagerduty.com/docs/send-alert-event
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from portmon.alerting.channels.base import BaseChannel, HttpRequest, NeededConnection, Outside, Secrets, password_of
from portmon.alerting.channels.each import send_each
from portmon.alerting.channels.robots import as_json, buttons
from portmon.alerting.channels.webhook import alert_document
from portmon.errors import DeliveryError
from portmon.fields import Text
from portmon.model.event_kinds import AlertRole
from portmon.text import inert, plain

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message

SUMMARY_LIMIT = 1024
"""Characters."""
KEY = "integration key of an Events API v2 integration"


class PagerDutyChannel(BaseChannel):
    """PagerDuty, Events API v2: an incident for each alert, acknowledged and resolved with it.

    What is only worth a notice has no end, so it opens no incident and is not sent.
    """

    takes_acknowledgements: ClassVar[bool] = True

    type: Literal["pagerduty"]
    name: Text = Field("pagerduty", description="unique name")
    conn_id: Text = Field(
        "pagerduty_default",
        description="Airflow HTTP connection to `https://events.pagerduty.com`, in the EU "
        "`https://events.eu.pagerduty.com`; its password is the integration key",
    )

    def connections(self) -> Iterable[NeededConnection]:
        """The connection, with the options that add it."""
        host = "--conn-host https://events.pagerduty.com"
        yield NeededConnection(self.conn_id, options=f"{host} --conn-password '<integration key>'")

    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        """Send an event for each alert. One that PagerDuty calls invalid is given up, as its documentation asks for."""
        from portmon.alerting.channels.services import BY_SCHEMA

        service = BY_SCHEMA["pagerduty"]

        def send(one: Message) -> None:
            document = next((found for found in documents(one) if not service.exceeded(as_json(found))), None)
            if document is None:
                return

            def with_key(request: HttpRequest, secrets: Secrets) -> HttpRequest:
                key = password_of(self, self.conn_id, secrets, KEY)
                return replace(request, body=as_json({"routing_key": key, **document}))

            headers = {"Content-Type": "application/json"}
            request = HttpRequest(self.name, self.conn_id, "v2/enqueue", headers=headers, complete=with_key)
            outside.send(replace(request, service=service))

        send_each(self, message, send, gives_up=_is_invalid)


def _is_invalid(error: DeliveryError) -> bool:
    """Whether the event can never be taken. A wrong key is corrected, and then what waits is sent."""
    return error.status == 400 and "routing" not in str(error).lower()


def documents(message: Message) -> Iterator[dict[str, Any]]:
    """The event of a message about one alert, without its key, then the same with less in it."""
    (alert,) = message.alerts
    event = alert.event
    action = {AlertRole.FIRING: "trigger", AlertRole.RESOLVED: "resolve", AlertRole.NOTICE: None}[alert.role]
    if action is None:
        return
    own = {"event_action": "acknowledge" if message.acknowledged else action, "dedup_key": alert.id}
    if own["event_action"] != "trigger":
        yield own
        return
    links = [{"href": button.url, "text": button.text} for button in buttons(message)]
    payload: dict[str, Any] = {
        "summary": plain(message.text.split("\n")[0], SUMMARY_LIMIT),
        "source": inert(plain(event.host_name or event.host_id or "portmon")) or "portmon",
        "severity": event.severity.value,
        "timestamp": event.at.isoformat(),
        "class": event.kind.value,
    }
    if component := event.unit or event.program:
        payload["component"] = inert(plain(component))
    whole = {**own, "client": "portmon", "links": links, "payload": payload}
    if links:
        whole["client_url"] = links[0]["href"]
    yield {**whole, "payload": {**payload, "custom_details": alert_document(alert, *_addresses(message))}}
    yield whole


def _addresses(message: Message) -> tuple[str | None, str | None]:
    ((_, link, page),) = message.linked()
    return link, page
