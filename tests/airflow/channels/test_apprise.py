"""Apprise, its targets being paths of a web server on this machine."""

from __future__ import annotations

import json
import logging
import socket
from datetime import timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from portmon import timeouts
from portmon.airflow.outside import deliver
from portmon.alerting.channels import AppriseChannel
from portmon.alerting.message.render import Message
from portmon.errors import DeliveryError
from tests.airflow.channels.samples import MESSAGE, SECRET, printed

APPRISE = AppriseChannel(type="apprise", name="chat")


class Targets:
    """A web server whose paths are JSON targets of Apprise; those in ``failing`` answer 500."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.failing: set[str] = set()
        self.got: list[tuple[str, dict[str, Any]]] = []
        server.expect_request("/one").respond_with_handler(self._answer)
        server.expect_request("/two").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        self.got.append((request.path, request.get_json()))
        return Response(status=500 if request.path in self.failing else 200)

    def url(self, path: str) -> str:
        return f"json://operator:s3cret-in-url@localhost:{self.server.port}{path}?+X-Token=s3cret-in-query"


@pytest.fixture
def targets(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Targets:
    found = Targets(httpserver)
    _connect_apprise(monkeypatch, [{"path": found.url("/one")}, {"path": found.url("/two"), "tag": "night"}])
    return found


def _connect_apprise(monkeypatch: pytest.MonkeyPatch, config: object) -> None:
    connection = {"conn_type": "apprise", "extra": {"config": config}}
    monkeypatch.setenv("AIRFLOW_CONN_APPRISE_DEFAULT", json.dumps(connection))


def test_apprise_sends_to_every_target_as_it_is(targets: Targets) -> None:
    deliver(APPRISE, MESSAGE)
    assert sorted(path for path, _ in targets.got) == ["/one", "/two"]
    for _, sent in targets.got:
        assert sent["title"] == MESSAGE.title
        assert sent["message"] == MESSAGE.text
        assert sent["type"] == "failure"
        assert SECRET not in json.dumps(sent)


def test_apprise_asks_only_the_failed_target_again(targets: Targets) -> None:
    targets.failing = {"/one"}
    with pytest.raises(DeliveryError) as failure:
        deliver(APPRISE, MESSAGE)
    assert sorted(path for path, _ in targets.got) == ["/one", "/two"]
    assert len(failure.value.delivered) == 1
    assert "/one" in str(failure.value)
    assert "500" in str(failure.value)
    assert "/two" not in str(failure.value)

    targets.got.clear()
    with pytest.raises(DeliveryError) as again:
        deliver(APPRISE, MESSAGE, done=failure.value.delivered)
    assert [path for path, _ in targets.got] == ["/one"]
    assert again.value.delivered == ()

    targets.got.clear()
    targets.failing = set()
    deliver(APPRISE, MESSAGE, done=failure.value.delivered)
    assert [path for path, _ in targets.got] == ["/one"]


def test_apprise_error_and_target_ids_hold_no_secret(targets: Targets, caplog: pytest.LogCaptureFixture) -> None:
    targets.failing = {"/one"}
    with caplog.at_level(logging.DEBUG, logger="portmon"), pytest.raises(DeliveryError) as failure:
        deliver(APPRISE, MESSAGE)
    assert "s3cret" not in caplog.text + str(failure.value.delivered) + printed(failure.value)


def test_apprise_target_that_does_not_answer_fails_alone(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    _connect_apprise(monkeypatch, [{"path": f"json://localhost:{free_port}/"}, {"path": targets.url("/two")}])
    with pytest.raises(DeliveryError, match=r"1 of 2 targets"):
        deliver(APPRISE, MESSAGE)
    assert [path for path, _ in targets.got] == ["/two"]


def test_apprise_targets_that_hang_hold_no_other(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setattr("portmon.alerting.channels.apprise.TARGET_TIMEOUT", 2.0)
    monkeypatch.setattr(timeouts, "SEND", timedelta(seconds=8))
    with socket.create_server(("127.0.0.1", free_port)):
        # No process accepts: the connections stand, and no answer comes.
        dead = [{"path": f"json://localhost:{free_port}/{n}?rto=1"} for n in range(8)]
        _connect_apprise(monkeypatch, [*dead, {"path": targets.url("/two")}])
        with pytest.raises(DeliveryError, match=r"8 of 9 targets") as failure:
            deliver(APPRISE, MESSAGE)
    assert len(failure.value.delivered) == 1
    assert [path for path, _ in targets.got] == ["/two"]


def test_apprise_url_that_is_none_is_no_silent_loss_and_no_leak(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _connect_apprise(monkeypatch, [{"path": "nosuch://tokensecret/x"}, {"path": targets.url("/two")}])
    with caplog.at_level(logging.DEBUG), pytest.raises(DeliveryError, match="target 1 of connection") as failure:
        deliver(APPRISE, MESSAGE)
    assert [path for path, _ in targets.got] == ["/two"]
    assert len(failure.value.delivered) == 1
    assert "tokensecret" not in caplog.text + str(failure.value)


@pytest.mark.parametrize("address", ["user:8080/s3cret@h", "user:80/a#s3cret@h", "h/s3cret@x"])
def test_apprise_takes_a_password_for_a_path_and_we_do_not_show_it(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    _connect_apprise(monkeypatch, [{"path": f"json://{address}"}])
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [])
    with pytest.raises(DeliveryError) as caught:
        deliver(APPRISE, MESSAGE)
    assert "s3cret" not in str(caught.value)
    assert "target 1 of connection 'apprise_default'" in str(caught.value)


def test_apprise_targets_that_look_alike_when_masked_are_two(monkeypatch: pytest.MonkeyPatch, targets: Targets) -> None:
    _connect_apprise(
        monkeypatch,
        [
            {"path": f"json://me:first@localhost:{targets.server.port}/one"},
            {"path": f"json://me:other@localhost:{targets.server.port}/one"},
        ],
    )
    targets.failing = {"/one"}
    targets.server.clear()
    answers = iter([200, 500, 200])
    targets.server.expect_request("/one").respond_with_handler(lambda request: Response(status=next(answers)))
    with pytest.raises(DeliveryError) as failure:
        deliver(APPRISE, MESSAGE)
    assert len(failure.value.delivered) == 1
    deliver(APPRISE, MESSAGE, done=failure.value.delivered)
    assert next(answers, None) is None


def test_apprise_cuts_what_the_service_would_refuse(monkeypatch: pytest.MonkeyPatch, targets: Targets) -> None:
    long = Message(title="t", text="first\n" + "line\n" * 10_000, html="")
    deliver(APPRISE, long)
    assert len(targets.got) == 2
    for _, sent in targets.got:
        assert sent["message"].startswith("first\n")
        assert len(sent["message"]) <= 32768


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        (None, "airflow connections add apprise_default"),
        ({"conn_type": "apprise"}, "airflow connections add apprise_default"),
        ({"conn_type": "apprise", "extra": {"config": []}}, "names no target"),
        ({"conn_type": "apprise", "extra": {"config": {"nopath": 1}}}, "target 1 of connection"),
    ],
)
def test_apprise_without_a_usable_connection_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, connection: object, says: str
) -> None:
    if connection is not None:
        monkeypatch.setenv("AIRFLOW_CONN_APPRISE_DEFAULT", json.dumps(connection))
    with pytest.raises(DeliveryError, match=says) as failure:
        deliver(APPRISE, MESSAGE)
    assert failure.value.channel == "chat"
