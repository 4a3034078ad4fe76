"""The webhook channel against a real web server."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from portmon.airflow import http
from portmon.airflow.outside import OUTSIDE, deliver
from portmon.alerting.channels import WebhookChannel
from portmon.alerting.channels.webhook import document
from portmon.errors import DeliveryError, OverrunError
from tests.airflow.channels.samples import connect, printed
from tests.worlds.messages import alert, event, message
from tests.worlds.sshd import tcp_server

CHANNEL = WebhookChannel(type="webhook", name="hook", conn_id="hook", endpoint="in/s3cret-in-path")
KEY = "s3cret-key-of-the-signature"
MESSAGE = message(alert(event(program="端口 {{ conn.x.password }}")))


@pytest.fixture
def receiver(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> HTTPServer:
    connect(monkeypatch, "hook", f"http://localhost:{httpserver.port}", extra={"secret": KEY, "X-Team": "ops"})
    return httpserver


def _sent(receiver: HTTPServer) -> list[Request]:
    return [request for request, _ in receiver.log]


def test_document_arrives_signed(receiver: HTTPServer) -> None:
    receiver.expect_request("/in/s3cret-in-path", method="POST").respond_with_data(status=202)
    deliver(CHANNEL, MESSAGE)
    (request,) = _sent(receiver)
    body = request.get_data()
    assert json.loads(body) == document(MESSAGE)
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Idempotency-Key"] == MESSAGE.id
    timestamp = request.headers["X-Portmon-Timestamp"]
    assert abs(int(timestamp) - time.time()) < 3600
    expected = hmac.digest(KEY.encode(), f"{timestamp}.".encode() + body, "sha256").hex()
    assert request.headers["X-Portmon-Signature"] == f"sha256={expected}"
    assert hashlib.sha256(body).hexdigest() not in request.headers["X-Portmon-Signature"]


@pytest.mark.parametrize("field", ["secret", "Secret"])
def test_key_of_the_signature_is_not_sent(receiver: HTTPServer, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """HttpHook sends every extra field that it does not know as a header."""
    connect(monkeypatch, "hook", f"http://localhost:{receiver.port}", extra={field: KEY, "X-Team": "ops"})
    receiver.expect_request("/in/s3cret-in-path").respond_with_data("fine")
    deliver(CHANNEL, MESSAGE)
    (request,) = _sent(receiver)
    assert request.headers["X-Team"] == "ops"
    assert "X-Portmon-Signature" in request.headers
    assert KEY not in str(request.headers) + request.get_data(as_text=True) + request.url
    assert "secret" not in {name.lower() for name in request.headers.keys()}  # noqa: SIM118


def test_without_a_key_nothing_is_signed(receiver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "hook", f"http://localhost:{receiver.port}")
    receiver.expect_request("/in/s3cret-in-path").respond_with_data("fine")
    deliver(CHANNEL, MESSAGE)
    assert not [name for name, _ in _sent(receiver)[0].headers if name.startswith("X-Portmon")]


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_refusal_is_told_and_the_next_try_is_the_same_message(receiver: HTTPServer, status: int) -> None:
    refusal = Response(
        f"no: {KEY[:0]}busy\nhttps://me:pw@h.example/T1/B2", status=status, headers={"Retry-After": "30"}
    )
    receiver.expect_ordered_request("/in/s3cret-in-path").respond_with_response(refusal)
    receiver.expect_ordered_request("/in/s3cret-in-path").respond_with_data("fine")
    with pytest.raises(DeliveryError, match=rf"HTTP {status}, Retry-After 30.*it says 'no: busy") as failure:
        deliver(CHANNEL, MESSAGE)
    told = printed(failure.value)
    assert "T1/B2" not in told
    assert "me:pw" not in told
    assert "s3cret-in-path" not in told
    assert failure.value.channel == "hook"
    deliver(CHANNEL, MESSAGE)
    first, second = _sent(receiver)
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] == MESSAGE.id
    assert first.get_data() == second.get_data()


def test_redirect_is_not_followed(receiver: HTTPServer) -> None:
    moved = Response(status=307, headers={"Location": receiver.url_for("/elsewhere")})
    receiver.expect_request("/in/s3cret-in-path").respond_with_response(moved)
    receiver.expect_request("/elsewhere").respond_with_data("fine")
    with pytest.raises(DeliveryError, match="HTTP 307, a redirect, which is not followed"):
        deliver(CHANNEL, MESSAGE)
    assert [request.path for request in _sent(receiver)] == ["/in/s3cret-in-path"]


def test_login_and_path_of_the_connection_count(receiver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "hook", f"http://localhost:{receiver.port}/below", login="me", password="s3cret-pw")
    receiver.expect_request("/below/in/s3cret-in-path").respond_with_data("fine")
    deliver(CHANNEL, MESSAGE)
    assert _sent(receiver)[0].authorization is not None
    assert _sent(receiver)[0].authorization.password == "s3cret-pw"
    receiver.clear()
    with pytest.raises(DeliveryError) as failure:
        deliver(CHANNEL, MESSAGE)
    assert "s3cret" not in printed(failure.value)
    assert "below" not in printed(failure.value)


def test_address_with_a_query_and_no_endpoint_is_asked_as_it_is(
    receiver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, "hook", f"http://localhost:{receiver.port}/send?token=s3cret")
    receiver.expect_request("/send", query_string="token=s3cret").respond_with_data("fine")
    deliver(CHANNEL.model_copy(update={"endpoint": ""}), MESSAGE)


@pytest.mark.parametrize("host", ["", "http://", "http://[::1", "nosuch://x/s3cret", "http://no such/s3cret"])
def test_host_that_is_none_is_a_delivery_error(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    connect(monkeypatch, "hook", host)
    with pytest.raises(DeliveryError) as failure:
        deliver(CHANNEL, MESSAGE)
    assert "s3cret" not in printed(failure.value)


def test_without_a_connection_the_error_says_what_to_do() -> None:
    with pytest.raises(DeliveryError, match="airflow connections add hook --conn-type http"):
        deliver(CHANNEL, MESSAGE)


@pytest.mark.parametrize(("status", "unsure"), [(400, False), (500, False), (502, True), (503, False), (504, True)])
def test_whether_it_may_have_come_through(receiver: HTTPServer, status: int, unsure: bool) -> None:
    receiver.expect_request("/in/s3cret-in-path").respond_with_data("no", status)
    with pytest.raises(DeliveryError, match=f"HTTP {status}") as failure:
        deliver(CHANNEL, MESSAGE)
    assert failure.value.unsure == unsure


def test_a_port_without_a_listener(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    connect(monkeypatch, "hook", f"http://localhost:{free_port}")
    with pytest.raises(
        DeliveryError, match=rf"http://localhost:{free_port} \(connection hook\): no answer: the conn"
    ) as failure:
        deliver(CHANNEL, MESSAGE)
    assert not failure.value.unsure
    assert "s3cret" not in printed(failure.value)


# ── servers that take their time ────────────────────────────────────────────────────────────────


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a server that sends what it is told to, a byte at a time."""
    with contextlib.ExitStack() as stack:

        def start(answer: bytes, pause: float) -> None:
            def serve(peer: socket.socket, over: threading.Event) -> None:
                peer.recv(1 << 16)
                for byte in answer:
                    if over.wait(pause):
                        return
                    peer.sendall(bytes([byte]))
                over.wait()

            connect(monkeypatch, "hook", f"http://127.0.0.1:{stack.enter_context(tcp_server(serve))}")

        yield start


def test_server_that_hangs_is_given_up(slow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SILENCE", 0.3)
    slow(b"", 0)
    with pytest.raises(DeliveryError, match="no answer: time-out") as failure:
        deliver(CHANNEL, MESSAGE)
    assert failure.value.unsure


def test_server_that_drips_is_given_up_and_may_still_have_got_it(slow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LIMIT", timedelta(seconds=1))
    slow(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 1000, 0.1)
    with pytest.raises(DeliveryError, match="no answer within 1 s") as failure:
        deliver(CHANNEL, MESSAGE)
    assert isinstance(failure.value.__cause__, OverrunError)


def test_success_is_one_although_the_answer_does_not_end(slow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SILENCE", 0.3)
    slow(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", 0)
    deliver(CHANNEL, MESSAGE)


def test_refusal_is_told_although_its_text_does_not_come(slow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SILENCE", 0.3)
    slow(b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000\r\n\r\n", 0)
    with pytest.raises(DeliveryError, match="HTTP 500"):
        deliver(CHANNEL, MESSAGE)


# ── check ───────────────────────────────────────────────────────────────────────────────────────


def test_check_finds_a_whole_address_where_a_path_belongs() -> None:
    (problem,) = CHANNEL.model_copy(update={"endpoint": "https://h.example/x"}).check(OUTSIDE)
    assert "put scheme and host" in problem
    assert CHANNEL.check(OUTSIDE) == []
