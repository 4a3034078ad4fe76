"""What portmon expects of a channel, as tests; see :mod:`portmon.testing`."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from portmon import timeouts
from portmon.alerting.channels.base import BaseChannel, HttpRequest, NeededConnection, Secrets
from portmon.alerting.message.render import Layout, Message, render
from portmon.errors import DeliveryError
from portmon.model.alert import Alert, begun_by
from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind, Severity

SECRETS = Secrets(password="p4ssword-of-the-connection", secret="s3cret-of-the-connection")  # noqa: S106
"""Of every connection, for requests that ask for them."""
HOSTILE = (
    'a"b\\c\n\r</x>{{ conn.x.password }}{% if %}<!channel> @all <at id=all></at> [x](http://evil.example) \u202e端口'
)
"""What a host may call itself."""
_NOW = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
_PAGE = "https://airflow.example.com/portmon/hosts/web01/ports/8080"


class RecordedOutside:
    """The part of Airflow that channels use, without Airflow.

    :ivar requests: what was sent, complete
    :param failure: what sending raises, None if everything is taken
    """

    notifier_base: Any = object

    def __init__(self, failure: DeliveryError | None = None) -> None:
        self.requests: list[HttpRequest] = []
        self.failure = failure

    def send(self, request: HttpRequest) -> None:
        """Keep a request, or fail."""
        self.requests.append(request.complete(request, SECRETS))
        if self.failure is not None:
            raise self.failure

    def ask(self, request: HttpRequest, size: int) -> bytes:
        """An empty list, or fail."""
        self.send(request)
        return b"[]"

    def connection(self, conn_id: str) -> Any | None:
        """There is none."""
        return None

    def redact(self, text: str) -> str:
        """One line."""
        return " ".join(text.split())

    def mail_hook(self, notifier: Any) -> Any | None:
        """There is none."""
        return None


def messages() -> Iterator[Message]:
    """Messages of every form: what begins, ends, is worth a notice or repeated, many alerts, hostile text, Chinese."""
    down, stale = _event(), _event(EventKind.CMDB_STALE, host=None, port=None)
    end = _NOW + timedelta(minutes=5)
    over = replace(begun_by(down), role=AlertRole.RESOLVED, event=_event(EventKind.RECOVERED, at=end), ends_at=end)
    notice = replace(begun_by(_event(EventKind.NEW)), role=AlertRole.NOTICE)
    nasty = begun_by(_event(host=HOSTILE, program=HOSTILE, reason=HOSTILE, labels={HOSTILE: HOSTILE}))
    many = [begun_by(_event(port=number)) for number in range(1, 121)]
    forms: list[tuple[list[Alert], Any, bool]] = [
        ([begun_by(down)], "en", False),
        ([begun_by(down)], "zh", True),
        ([over], "en", False),
        ([notice], "en", False),
        ([begun_by(stale)], "en", False),
        (many, "en", False),
        ([nasty], "en", False),
    ]
    for number, (alerts, language, reminder) in enumerate(forms):
        made = render(
            alerts,
            AlertGroup.DOWN,
            layout=Layout(language),
            link=lambda _: None,
            page=_PAGE,
            page_of=lambda _: _PAGE,
            reminder=reminder,
        )
        yield replace(made, id=f"{number:032x}", route="default", expires_at=_NOW + timedelta(minutes=20))


def _event(
    kind: EventKind = EventKind.DOWN, *, host: str | None = "web01", port: int | None = 8080, **fields: Any
) -> Event:
    given: dict[str, Any] = {
        "id": f"{abs(hash((kind, host, port))):032x}"[:32],
        "at": _NOW,
        "run_id": "scheduled__2026-03-09T12:00:00+00:00",
        "host_id": host,
        "protocol": None if port is None else "tcp",
        "severity": Severity.CRITICAL,
        "reason": "2 complete looks in a row did not show it",
        "program": "nginx",
    }
    return Event(kind=kind, host_name=host, port=port, **{**given, **fields})


class ChannelContract:
    """Tests of a channel; a subclass says which one."""

    @abstractmethod
    def channel(self) -> BaseChannel:
        """The channel, as a section of portmon.yaml makes it."""

    def outside(self, failure: DeliveryError | None = None) -> RecordedOutside:
        """Where it sends to; a channel that uses no HTTP connection brings its own."""
        return RecordedOutside(failure)

    def test_its_section_is_written(self) -> None:
        """Settings are archived with each run, as JSON."""
        channel = self.channel()
        assert isinstance(channel, BaseChannel), f"{type(channel).__name__} is no subclass of BaseChannel"
        written = json.loads(channel.model_dump_json(by_alias=True))
        assert channel.name, "it needs a name"
        assert channel.type == written["type"], "its type is the name of its entry point"

    def test_it_names_its_connections(self) -> None:
        """`portmon check` says which are missing."""
        for one in self.channel().connections():
            assert isinstance(one, NeededConnection)
            assert one.id, "a connection needs an id"

    def test_its_check_gives_sentences(self) -> None:
        """They are shown with file and line."""
        found = self.channel().check(self.outside())
        assert isinstance(found, list), "a list of sentences"
        assert all(isinstance(one, str) for one in found), "a list of sentences"

    def test_it_sends_every_form_of_message(self) -> None:
        """Within the time that a message has, and with requests that are whole."""
        channel = self.channel()
        for message in messages():
            outside = self.outside()
            timeouts.within(timeouts.SEND, lambda m=message, o=outside: channel.send(m, o, ()))  # type: ignore[misc]
            for request in outside.requests:
                self.check_request(request)

    def check_request(self, request: HttpRequest) -> None:
        """What holds of every request: no text of a host can change its address, its headers or its form."""
        assert "://" not in request.endpoint, "an endpoint is a path below the connection's host"
        assert not any(char.isspace() for char in request.endpoint), f"blanks in the path {request.endpoint!r}"
        for name, value in request.headers.items():
            assert not set("\r\n") & set(f"{name}{value}"), f"a line break in the header {name}"
        kind = next((value for name, value in request.headers.items() if name.lower() == "content-type"), "")
        if "json" in kind:
            json.loads((request.body or b"").decode("utf-8"))

    def test_a_refusal_is_no_success(self) -> None:
        """A channel that swallows an error loses the message: it would be noted as delivered."""
        channel, sent = self.channel(), False
        for message in messages():
            outside = self.outside(DeliveryError("refused by the test", channel=channel.name, status=500))
            try:
                channel.send(message, outside, ())
            except DeliveryError as error:
                sent = True
                for secret in (str(SECRETS.password), str(SECRETS.secret)):
                    assert secret not in str(error), "an error shows a secret"
            else:
                assert not outside.requests, "it sent something that was refused, and says that all is well"
        assert sent, "it sends nothing over `outside`: bring one of your own that fails when it is told to"

    def test_who_has_the_message_does_not_get_it_again(self) -> None:
        """What an error names as delivered is left out by the next try."""
        channel = self.channel()
        for message in messages():
            first = self.outside(DeliveryError("refused by the test", channel=channel.name, status=500))
            try:
                channel.send(message, first, ())
            except DeliveryError as error:
                known = {alert.event.id for alert in message.alerts}
                assert {*error.taken, *error.refused} <= known, "ids of events that the message does not have"
                again = self.outside()
                channel.send(message, again, error.delivered)
                assert len(again.requests) <= len(first.requests) or not error.delivered
