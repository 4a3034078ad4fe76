"""Delivery with real notifiers: receivers that hang, are slow or crash hold up no other."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from airflow.sdk.execution_time.timeout import timeout
from pytest_httpserver import HTTPServer
from werkzeug import Response

from portmon import timeouts
from portmon.airflow import http
from portmon.airflow.outside import deliver
from portmon.config import Config, parse_config
from portmon.engine.events import monitor_event
from portmon.errors import DeliveryError, PortmonError
from portmon.model.alert import Delivery
from portmon.model.event_kinds import AlertGroup, EventKind
from portmon.model.host import Host
from portmon.steps import deliver as delivering
from portmon.steps.deliver import LEASE_TTL
from portmon.steps.dispatch import groups_to_alert
from portmon.storage import deliveries, events, hosts, lease
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.runs import FIVE, alert_task
from tests.worlds.sshd import tcp_server

HTTP = "airflow.providers.http.notifications.http.HttpNotifier"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GROUP = AlertGroup.UNREACHABLE
RESTED = timedelta(minutes=2)
"""Until a message that was not answered goes again."""

# Apprise's encrypted mail looks for PGP, whose library imports it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = migrated(tmp_path / "state.db")
    yield made
    made.dispose()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """A receiver that accepts and never answers; the connections it got."""
    got: list[socket.socket] = []

    def serve(connection: socket.socket, over: threading.Event) -> None:
        got.append(connection)
        over.wait()

    with tcp_server(serve) as port:
        _connect(monkeypatch, "hanging", port)
        yield got


@pytest.fixture
def healthy(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> HTTPServer:
    httpserver.expect_request("/alerts").respond_with_data("ok")
    _connect(monkeypatch, "healthy", httpserver.port)
    return httpserver


def _connect(monkeypatch: pytest.MonkeyPatch, name: str, port: int) -> None:
    connection = {"conn_type": "http", "host": "127.0.0.1", "port": port}
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))


def config(*names: str) -> Config:
    """Channels that post to the Airflow connections of their names, without a time-out of their own."""
    arguments = {"endpoint": "alerts", "json": {"title": "$title"}}
    channels = [
        {"type": "notifier", "name": name, "notifier": HTTP, "arguments": {"http_conn_id": name, **arguments}}
        for name in names
    ]
    return parse_config(json.dumps({"alerts": {"channels": channels, "repeat_every": 0, "give_up_after": "9999d"}}))


def happen(database: Database, *numbers: int) -> None:
    listed = [Host(f"h{number}", f"web{number}", "10.0.0.1") for number in numbers]
    with database.begin() as conn:
        hosts.sync(conn, listed)
        events.add(
            conn,
            [
                replace(
                    monitor_event(EventKind.UNREACHABLE, at=NOW, run_id="r", reason="why", evidence=host.id),
                    host_id=host.id,
                    host_name=host.name,
                )
                for host in listed
            ],
        )


def send_all(
    database: Database,
    settings: Config,
    send: Callable[..., None] | None = None,
    *,
    later: timedelta = timedelta(0),
) -> int:
    """One alert task.

    :param later: than now
    """
    groups_to_alert(database, settings, run_id="r", now=NOW, interval=FIVE)
    # As Airflow does it, though it should never come to that.
    with timeout(30):
        return alert_task(
            database,
            settings,
            GROUP,
            send=send or (lambda channel, message, done: deliver(channel, message, done=done)),
            clock=lambda: datetime.now(UTC) + later,
            hold_until=NOW + timedelta(days=1),
        ).run()


def waiting(database: Database, channel: str) -> list[Delivery]:
    with database.begin() as conn:
        return deliveries.unfinished(conn, channel)


@pytest.mark.parametrize("names", [("hanging", "healthy"), ("healthy", "hanging")])
def test_a_receiver_that_hangs_holds_no_other(
    database: Database,
    hanging: list[socket.socket],
    healthy: HTTPServer,
    names: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timeouts, "SEND", timedelta(seconds=1))
    happen(database, 1)
    ended = []

    def send(channel: Any, message: Any, done: Any) -> None:
        try:
            deliver(channel, message, done=done)
        finally:
            ended.append(channel.name)

    with pytest.raises(PortmonError, match="hanging"):
        send_all(database, config(*names), send)
    # Served side by side: no channel waits for the time-out of another one.
    assert ended[:1] == ["healthy"]
    assert len(hanging) == 1
    assert len(healthy.log) == 1
    assert waiting(database, "healthy") == []
    (left,) = waiting(database, "hanging")
    assert left.tries == 1
    # It may have come through: the next try, seconds later, leaves it alone, but is red.
    with pytest.raises(PortmonError, match=r"hanging.*tried again after"):
        send_all(database, config(*names))
    assert len(hanging) == 1
    # A later one asks only the one that has not got it.
    with pytest.raises(PortmonError, match="hanging"):
        send_all(database, config(*names), later=RESTED)
    assert len(hanging) == 2
    assert len(healthy.log) == 1


def test_who_failed_before_is_asked_last(
    database: Database, hanging: list[socket.socket], healthy: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "SEND", timedelta(seconds=1))
    happen(database, 1)
    settings = config("hanging", "healthy")
    with pytest.raises(PortmonError):
        send_all(database, settings)
    happen(database, 2)
    monkeypatch.setattr(delivering, "CHANNELS_AT_ONCE", 1)
    asked = []

    def send(channel: Any, message: Any, done: Any) -> None:
        asked.append(channel.name)

    send_all(database, settings, send, later=RESTED)
    # What may have come through goes again by itself, as the message that it was.
    assert asked == ["healthy", "hanging", "hanging"]


def test_more_hanging_receivers_than_there_is_time_for_take_turns(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "SEND", timedelta(seconds=0.2))
    monkeypatch.setattr(timeouts, "ALERT", timedelta(seconds=0.7))
    monkeypatch.setattr(delivering, "CHANNELS_AT_ONCE", 1)
    names = [f"c{number}" for number in range(8)]
    asked: list[str] = []

    def send(channel: Any, message: Any, done: Any) -> None:
        asked.append(channel.name)
        if channel.name != "c7":
            time.sleep(5)

    happen(database, 1)
    # Two or three in each run; on a busy machine fewer.
    for _ in range(len(names)):
        with pytest.raises(DeliveryError):
            send_all(database, config(*names), send)
        if "c7" in asked:
            break
    assert waiting(database, "c7") == []
    assert asked[:7] == names[:7]


def test_a_message_that_arrives_late_comes_twice_at_most_and_is_never_lost(
    database: Database, healthy: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "SEND", timedelta(seconds=0.5))
    go_on = threading.Event()

    def slowly(_: Any) -> Response:
        go_on.wait(20)
        return Response("ok")

    healthy.clear()
    healthy.expect_ordered_request("/alerts").respond_with_handler(slowly)
    healthy.expect_ordered_request("/alerts").respond_with_data("ok")
    happen(database, 1)
    with pytest.raises(DeliveryError, match="healthy"):
        send_all(database, config("healthy"))
    go_on.set()
    assert len(waiting(database, "healthy")) == 1
    assert send_all(database, config("healthy"), later=RESTED) == 1
    assert send_all(database, config("healthy")) == 0
    assert len(healthy.log) == 2


class Forgetful(BaseHTTPRequestHandler):
    """Takes a message, and says nothing or hangs up; answers only from the second request on."""

    took: ClassVar[list[tuple[str, set[str]]]] = []
    hangs_up: ClassVar[bool] = False

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.took.append((self.headers["Idempotency-Key"], {one["host"] for one in document["alerts"]}))
        if len(self.took) > 1:
            self.send_response(204)
            self.end_headers()
        elif not self.hangs_up:
            self.connection.recv(1)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_message_whose_answer_is_lost_comes_again_as_it_was(
    database: Database, monkeypatch: pytest.MonkeyPatch, hangs_up: bool
) -> None:
    """A receiver that took it knows it by its id, even if there is more to tell meanwhile."""
    monkeypatch.setattr(http, "SILENCE", 0.3)
    monkeypatch.setattr(Forgetful, "took", [])
    monkeypatch.setattr(Forgetful, "hangs_up", hangs_up)
    channel = {"type": "webhook", "name": "hook", "conn_id": "hook"}
    settings = parse_config(json.dumps({"alerts": {"channels": [channel]}}))
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _connect(monkeypatch, "hook", server.server_address[1])
        happen(database, 1)
        with pytest.raises(DeliveryError, match="no answer"):
            send_all(database, settings)
        happen(database, 2)
        assert send_all(database, settings, later=RESTED) == 2
        server.shutdown()
    first, *later = Forgetful.took
    # What failed before comes last.
    assert later[-1] == first
    assert [hosts for _, hosts in later] == [{"web2"}, {"web1"}]
    assert later[0][0] != first[0]


def test_whatever_a_channel_raises_holds_no_other(database: Database, healthy: HTTPServer) -> None:
    def send(channel: Any, message: Any, done: Any) -> None:
        if channel.name == "broken":
            raise ZeroDivisionError("a mistake")
        deliver(channel, message, done=done)

    happen(database, 1)
    with pytest.raises(DeliveryError, match=r"broken.*ZeroDivisionError at test_deliver.py"):
        send_all(database, config("broken", "healthy"), send)
    assert len(healthy.log) == 1
    assert waiting(database, "broken")[0].tries == 1


def test_a_channel_that_another_copy_serves_holds_no_other(database: Database, healthy: HTTPServer) -> None:
    order = []

    def send(channel: Any, message: Any, done: Any) -> None:
        order.append(channel.name)
        if channel.name == "healthy":
            taken.release()

    taken = lease.acquire(database, "alert/taken", "another copy", ttl=timedelta(minutes=5), now=datetime.now(UTC))
    assert taken is not None
    happen(database, 1)
    assert send_all(database, config("taken", "healthy"), send) == 2
    assert order == ["healthy", "taken"]


def test_who_was_replaced_neither_sends_nor_marks(database: Database) -> None:
    happen(database, 1)
    sent = []

    def send(channel: Any, message: Any, done: Any) -> None:
        sent.append(message)
        # Another copy takes over, as after the end of a lease, and does the work.
        other = lease.acquire(
            database,
            "alert/a",
            "another copy",
            ttl=timedelta(minutes=5),
            now=datetime.now(UTC) + timedelta(hours=1),
        )
        assert other is not None
        with database.begin() as conn:
            deliveries.delivered(conn, "a", [one.event.id for one in deliveries.unfinished(conn, "a")], NOW)
        other.release()

    assert send_all(database, config("a"), send) == 0
    assert len(sent) == 1
    assert waiting(database, "a") == []


def test_the_lease_outlives_what_it_protects() -> None:
    assert timeouts.SEND < LEASE_TTL < timeouts.ALERT
