"""A channel of a kind of its own, and Airflow in a few lines: a new kind needs no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from portmon.alerting.channels.base import (
    BaseChannel,
    HttpRequest,
    NeededConnection,
    Outside,
    endpoint_problems,
    wait_of,
)
from portmon.alerting.config import Alerts, Heartbeat
from portmon.alerting.message.render import Message
from portmon.errors import ConfigError, DeliveryError, UnansweredError
from tests.worlds.messages import message


class PushChannel(BaseChannel):
    type: Literal["push"] = "push"
    conn_id: str = Field("push_default")

    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        outside.send(HttpRequest(self.name, self.conn_id, "topic", body=message.text.encode()))


class Airflow:
    """Keeps what is sent; connections are there, missing, or can't be read."""

    notifier_base = object

    def __init__(self, **connections: Any) -> None:
        self.connections = connections
        self.sent: list[HttpRequest] = []

    def send(self, request: HttpRequest) -> None:
        self.sent.append(request)

    def ask(self, request: HttpRequest, size: int) -> bytes:
        self.sent.append(request)
        return b"[]"

    def connection(self, conn_id: str) -> Any | None:
        found = self.connections.get(conn_id)
        if isinstance(found, Exception):
            raise found
        return found

    def redact(self, text: str) -> str:
        return text

    def mail_hook(self, notifier: Any) -> Any | None:
        return None


def test_a_kind_of_ones_own_needs_a_way_to_send() -> None:
    airflow, channel = Airflow(), PushChannel(name="phone")
    channel.send(message(text="down"), airflow, ())
    (request,) = airflow.sent
    assert (request.channel, request.conn_id, request.body) == ("phone", "push_default", b"down")
    assert [request.ok(status) for status in (199, 200, 299, 300)] == [False, True, True, False]
    assert list(channel.connections()) == [NeededConnection("push_default")]
    assert channel.check(airflow) == []
    failure = channel.failure("busy", waits={"": 5.0})
    assert isinstance(failure, DeliveryError)
    assert (str(failure), failure.waits) == ("channel 'phone': busy", {"": 5.0})
    with pytest.raises(ValidationError, match="name"):
        PushChannel()  # type: ignore[call-arg]


def test_connections_that_are_missing_are_named_with_what_to_do() -> None:
    alerts = Alerts.model_validate(
        {
            "channels": [
                {"type": "log"},
                {"type": "apprise", "conn_id": "chat"},
                {"type": "webhook", "name": "hook", "conn_id": "hook"},
                {"type": "notifier", "name": "mail", "notifier": "a.B", "arguments": {"smtp_conn_id": "smtp", "x": 1}},
            ],
            "heartbeat": {},
        }
    )
    problems, hint = alerts.missing_connections(Airflow(hook=ConfigError("it is malformed")))
    assert hint is None
    begin = "there is no Airflow connection"
    assert problems == [
        f"channel 'apprise': {begin} 'chat': add it with `airflow connections add chat --conn-type apprise "
        """--conn-extra '{"config": [{"path": "<Apprise URL>"}]}'`""",
        "channel 'hook': it is malformed",
        f"channel 'mail': {begin} 'smtp': add it with `airflow connections add smtp --conn-type smtp …`",
        f"heartbeat: {begin} 'portmon_heartbeat': add it with `airflow connections add portmon_heartbeat "
        "--conn-type http --conn-host https://…`",
    ]
    there = SimpleNamespace()
    assert alerts.missing_connections(Airflow(chat=there, hook=there, smtp=there, portmon_heartbeat=there)) == (
        [],
        None,
    )
    problems, hint = alerts.missing_connections(Airflow(hook=UnansweredError("it is down")))
    assert len(problems) == 1
    assert hint == "connections can't be looked up here: it is down"


def test_an_endpoint_is_a_path() -> None:
    assert endpoint_problems("in/x", "hook") == []
    (problem,) = endpoint_problems("https://h.example/x", "hook")
    assert problem.startswith("endpoint is a whole address, but it is a path below the host of the connection 'hook'")
    assert Heartbeat(endpoint="https://h.example/x").check() == endpoint_problems("://", "portmon_heartbeat")


@pytest.mark.parametrize(
    ("status", "headers", "options", "seconds"),
    [
        (200, {"Retry-After": "30"}, {}, None),
        (500, {}, {}, None),
        (503, {"Retry-After": "30"}, {}, 30),
        (503, {"Retry-After": "0"}, {}, 1),
        (503, {"Retry-After": "99999"}, {}, 3600),
        (429, {}, {}, 60),
        (429, {}, {"default": 600.0}, 600),
        (400, {}, {"more": (None, 5)}, 5),
        (200, {}, {"too_often": True}, 60),
        (429, {"Retry-After": "-1"}, {}, 60),
        (429, {"Retry-After": "nan"}, {}, 60),
        (429, {"Retry-After": "inf"}, {}, 60),
        (429, {"Retry-After": "9" * 5000}, {}, 60),
        (429, {}, {"more": (10**400, True)}, 1),
        (429, {"Retry-After": "Mon, 30 Nov 1998 06:00:00 GMT"}, {}, 60),
        (503, {"Retry-After": "Mon, 30 Nov 9998 06:00:00 GMT"}, {}, None),
        (429, {"Retry-After": "1 Jan 99999999999999999999 00:00:00 GMT"}, {}, 60),
        (429, {"Retry-After": "Mon, 30 Nov 2026 06:00:00 +99999999999999999"}, {}, 60),
        (429, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 -2359"}, {}, 60),
        (429, {"Retry-After": "Mon, 01 Jan 0001 00:00:00 +2359"}, {}, 60),
        (429, {"Retry-After": ", "}, {}, 60),
    ],
)
def test_how_long_a_receiver_wants_to_be_left_alone(
    status: int, headers: dict[str, str], options: dict[str, Any], seconds: float | None
) -> None:
    assert wait_of(status, headers, **options) == seconds
