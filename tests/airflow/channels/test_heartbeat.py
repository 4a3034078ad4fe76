"""The sign of life against a real web server."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from portmon.airflow import outside
from portmon.airflow.outside import OUTSIDE
from portmon.alerting import config
from portmon.alerting.config import Alerts, Heartbeat, Signal
from portmon.errors import DeliveryError
from tests.airflow.channels.samples import connect, printed
from tests.worlds.waiting import until

SECRET_PATH = "/ping/0b5e8a7e-s3cret"


@pytest.fixture
def switch(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> HTTPServer:
    connect(monkeypatch, "portmon_heartbeat", f"http://localhost:{httpserver.port}{SECRET_PATH}")
    return httpserver


@pytest.mark.parametrize(("method", "body"), [("POST", "6 hosts, 端口 \\udcff"), ("GET", ""), ("HEAD", "")])
def test_ping(switch: HTTPServer, method: str, body: str) -> None:
    switch.expect_request(SECRET_PATH).respond_with_data("OK")
    Heartbeat(method=method).ping("6 hosts, 端口 \udcff", OUTSIDE)  # type: ignore[arg-type]
    ((request, _),) = switch.log
    assert (request.method, request.get_data(as_text=True)) == (method, body)


def test_endpoint_is_below_the_host(switch: HTTPServer) -> None:
    switch.expect_request(f"{SECRET_PATH}/0").respond_with_data("OK")
    Heartbeat(endpoint="0").ping("fine", OUTSIDE)


@pytest.mark.parametrize(
    ("endpoint", "signal", "path", "query"),
    [
        ("", Signal.START, "/start", ""),
        ("", Signal.FAIL, "/fail", ""),
        ("a/?create=1", Signal.FAIL, "/a/fail", "create=1"),
        ("a?create=1", Signal.GOOD, "/a", "create=1"),
    ],
)
def test_the_beginning_and_the_failure_of_a_run(
    switch: HTTPServer, endpoint: str, signal: Signal, path: str, query: str
) -> None:
    switch.expect_request(f"{SECRET_PATH}{path}").respond_with_data("OK")
    Heartbeat(endpoint=endpoint).ping("run", OUTSIDE, signal)
    ((request, _),) = switch.log
    assert request.query_string.decode() == query


def test_signals_are_sent_where_they_are_wanted_and_a_switch_that_is_down_stops_nothing(
    switch: HTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    for heartbeat in (None, Heartbeat()):
        outside.signal(Alerts(heartbeat=heartbeat), Signal.START, "run")
    assert switch.log == []
    outside.signal(Alerts(heartbeat=Heartbeat(signals=True)), Signal.START, "run")
    assert "did not take /start" in caplog.text
    assert "s3cret" not in "".join(record.getMessage() for record in caplog.records if record.name != "werkzeug")


def test_a_check_that_is_not_there_is_no_success(switch: HTTPServer) -> None:
    switch.expect_request(SECRET_PATH).respond_with_data("OK (not found)")
    with pytest.raises(DeliveryError, match=r"HTTP 200, but it refuses.*not found"):
        Heartbeat().ping("fine", OUTSIDE)
    switch.clear()
    switch.expect_request(SECRET_PATH).respond_with_data("OK (rate limited)")
    Heartbeat().ping("fine", OUTSIDE)


@pytest.mark.parametrize("answer", [Response("no such check", status=404), Response(status=302), Response(status=500)])
def test_switch_that_refuses(switch: HTTPServer, answer: Response, caplog: pytest.LogCaptureFixture) -> None:
    switch.expect_request(SECRET_PATH).respond_with_response(answer)
    with (
        caplog.at_level("INFO"),
        pytest.raises(DeliveryError, match=f"HTTP {answer.status_code}") as failure,
    ):
        Heartbeat().ping("fine", OUTSIDE)
    assert failure.value.channel == "heartbeat"
    ours = [record.getMessage() for record in caplog.records if record.name != "werkzeug"]
    assert "s3cret" not in printed(failure.value) + "".join(ours)


def test_switch_that_hangs_is_not_waited_for(switch: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert timedelta(seconds=10) == config.PING
    monkeypatch.setattr(config, "PING", timedelta(seconds=0.5))
    over = threading.Event()

    def hang(_: object) -> Response:
        over.wait(60)
        return Response()

    switch.expect_request(SECRET_PATH).respond_with_handler(hang)
    with pytest.raises(DeliveryError, match="no answer") as failure:
        Heartbeat().ping("fine", OUTSIDE)
    over.set()
    # It would be in the log of the next test otherwise.
    until(lambda: switch.log, "the end of the request")
    assert "s3cret" not in printed(failure.value)


def test_without_a_connection() -> None:
    with pytest.raises(DeliveryError, match="airflow connections add portmon_heartbeat"):
        Heartbeat().ping("fine", OUTSIDE)
