"""What the robots of group chats have in common: buttons of a card, and the people who are called by a host's label.

A robot's address holds a token. It is the password of the connection, so that no page, log or error shows it.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field

from portmon.alerting.channels.base import BaseChannel, HttpRequest, NeededConnection, Outside, Secrets, password_of
from portmon.errors import DeliveryError
from portmon.fields import Text, Texts
from portmon.model.alert import Alert
from portmon.model.event_kinds import AlertRole, Severity

if TYPE_CHECKING:
    from portmon.alerting.channels.services import ChatService
    from portmon.alerting.message.render import Message

People = Mapping[Text, Mapping[Text, Texts]]
"""Label of hosts: its value: ids of people."""

_WORDS = {
    "en": {"page": "Open the page", "acknowledge": "Acknowledge", "log": "Task log"},
    "zh": {"page": "打开页面", "acknowledge": "确认告警", "log": "任务日志"},
}
_CARD, _CALL = "card", "call"
"""Names of the two requests of a message, for those that took it in an earlier try."""


class Button(NamedTuple):
    """A button of a card, which leads to an address."""

    text: str
    url: str


class Robot(BaseChannel):
    """A robot of a group chat: a message is a card, and what is critical calls people by the labels of its hosts."""

    host: ClassVar[str]
    """Address of the vendor's server."""
    token: ClassVar[str]
    """The part of a robot's address that is the connection's password."""
    schema_of_service: ClassVar[str] = ""
    """Of its row in the list of services; default: its type."""

    conn_id: Text = Field(
        description="Airflow HTTP connection to the vendor's server; its password is the token of the robot's address"
    )
    mentions: People = Field(
        default_factory=dict,
        description="people who are called when something critical begins: label of hosts, its value, ids of people",
    )

    @property
    def service(self) -> ChatService:
        """What the vendor takes and answers."""
        from portmon.alerting.channels.services import BY_SCHEMA

        return BY_SCHEMA[self.schema_of_service or self.type]

    def connections(self) -> Iterable[NeededConnection]:
        """The connection, with the options that add it."""
        yield NeededConnection(self.conn_id, options=f"--conn-host {self.host} --conn-password '<{self.token}>'")

    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        """Send the card, then what calls people where that is a message of its own."""
        taken: list[str] = []
        for name, document in ((_CARD, self.card(message)), (_CALL, self.call(message))):
            if document is None or name in done:
                continue
            request = HttpRequest(
                self.name,
                self.conn_id,
                "",
                body=as_json(document),
                headers={"Content-Type": "application/json; charset=utf-8"},
                complete=self.complete,
                service=self.service,
            )
            try:
                outside.send(request)
            except DeliveryError as error:
                error.delivered = tuple(taken)
                raise
            taken.append(name)

    @abstractmethod
    def card(self, message: Message) -> Mapping[str, Any]:
        """The message as the vendor takes it, not longer than that."""

    def call(self, message: Message) -> Mapping[str, Any] | None:
        """A message that only calls people; None if none is to be called, or if the card does it."""
        return None

    @abstractmethod
    def complete(self, request: HttpRequest, secrets: Secrets) -> HttpRequest:
        """The request with token and signature."""

    def token_of(self, secrets: Secrets) -> str:
        """The token; raises DeliveryError if the connection has none."""
        return password_of(self, self.conn_id, secrets, self.token)


def as_json(document: Mapping[str, Any]) -> bytes:
    """A document as it is sent and measured; half a character, which a template may make, is an escape."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def buttons(message: Message) -> Iterator[Button]:
    """To the page of the one alert, its acknowledge form and its task log; of several alerts to the page of all."""
    words = _WORDS[message.language]
    alerts = list(message.linked())
    if len(alerts) > 1:
        if message.page:
            yield Button(words["page"], message.page)
        return
    for alert, log, page in alerts:
        if page:
            yield Button(words["page"], page)
        if page and alert.role is AlertRole.FIRING:
            yield Button(words["acknowledge"], acknowledge_address(page, alert))
        if log:
            yield Button(words["log"], log)


def acknowledge_address(page: str, alert: Alert) -> str:
    """The address of an alert's page with the form open that acknowledges it."""
    return f"{page}{'&' if '?' in page else '?'}acknowledge={alert.id}"


def without_links(text: str) -> str:
    """The text of a message without the lines that are only a link, since the card has buttons."""
    return "\n".join(line for line in text.split("\n") if not (line.startswith("    ") and "://" in line))


def called(message: Message, people: People) -> tuple[str, ...]:
    """Ids of the people to be called: of the hosts whose alerts are critical and are told for the first time."""
    if message.reminder:
        return ()
    found = (
        one
        for alert in message.alerts
        if alert.role is AlertRole.FIRING and alert.event.severity is Severity.CRITICAL
        for label, values in people.items()
        for one in values.get(alert.event.labels.get(label, ""), ())
    )
    return tuple(dict.fromkeys(found))


def is_over(message: Message) -> bool:
    """Whether all that the message tells is over."""
    return all(alert.role is AlertRole.RESOLVED for alert in message.alerts)


def ids_are(pattern: str) -> Callable[[People], People]:
    """A validator of people: ids that could change the message around them are refused."""

    def check(people: People) -> People:
        for values in people.values():
            for one in (one for ids in values.values() for one in ids):
                if not re.fullmatch(pattern, one):
                    raise ValueError(f"{one!r} is no id of a person here")
        return people

    return check
