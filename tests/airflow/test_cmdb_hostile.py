"""Whatever a CMDB, its connection or a file holds: the run goes on with the last good host list, and no secret is told."""

from __future__ import annotations

import http.server
import json
import logging
import resource
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.execution_time.timeout import timeout
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from portmon.airflow.outside import OUTSIDE, deliver
from portmon.alerting.channels import WebhookChannel
from portmon.alerting.channels.base import HttpRequest
from portmon.alerting.config import Heartbeat
from portmon.alerting.message.render import Message
from portmon.config import Config
from portmon.errors import CmdbError, DeliveryError, PortmonError
from portmon.inventory.config import Cmdb
from portmon.model.host import Host, Inventory
from portmon.steps.fetch import fetch_inventory
from portmon.steps.run import Run
from portmon.storage.database import Database

NOW = datetime(2026, 1, 5, tzinfo=UTC)
SECRET = "s3cR3tpw"
Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's ``say`` does, and keeps what was asked."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.server.say(self)  # type: ignore[attr-defined]

    do_POST = do_GET  # noqa: N815

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server:
    """A CMDB that says what a test makes it say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._env = monkeypatch
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._server.asked = self.asked  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.port = self._server.server_address[1]
        self.connect()

    def connect(self, **values: Any) -> None:
        given = {"conn_type": "http", "host": f"http://127.0.0.1:{self.port}", **values}
        self._env.setenv("AIRFLOW_CONN_CMDB_DEFAULT", json.dumps(given))

    def says(self, answer: Answer | bytes | str, **headers: str) -> None:
        def whole(handler: Handler) -> None:
            handler.send(answer if isinstance(answer, bytes) else str(answer).encode(), **headers)

        self._server.say = answer if callable(answer) else whole  # type: ignore[attr-defined]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(monkeypatch)
    yield made
    made.close()


def refused(**source: Any) -> str:
    from portmon.airflow.cmdb_hook import get_inventory

    given = {"type": "http", "endpoint": "api/hosts", **source}
    with pytest.raises(CmdbError) as caught:
        get_inventory(Cmdb.model_validate({"source": given}), Path())
    # A task log has the traceback, with what it was made of.
    assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def packed(size: int) -> bytes:
    """A gzip stream of blanks."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = b" " * (1 << 20)
    return b"".join(pack.compress(piece) for _ in range(size >> 20)) + pack.flush()


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    while True:
        handler.wfile.write(piece)


PAGE = json.dumps([{"id": 1, "address": "a"}])

ANSWERS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "deep": ("[" * 100_000, {}, "is nested more than 100 levels deep"),
    "deep objects": ('{"a":' * 100_000, {}, "is nested more than 100 levels deep"),
    "digits": ("[" + "9" * 5000 + "]", {}, "no JSON"),
    "twice": ('[{"id": 1, "id": 2, "address": "a"}]', {}, "'id' is given twice"),
    "latin": ('[{"id": 1, "address": "é"}]'.encode("latin-1"), {}, "no JSON"),
    "function": (PAGE, {"items": "sum(@)"}, "cmdb.source.items 'sum(@)' fails on the answer: JMESPathTypeError"),
    "no list": (PAGE, {"items": "[0].id"}, "'[0].id' is a int, not a list"),
    "total": (PAGE, {"total": "`1e999`"}, "is a float, not a number"),
    "negative": (PAGE, {"total": "`-5`"}, "is not 0 to 1000000"),
    "unique": (PAGE, {"unique": "abs(address)"}, "cmdb.source.unique 'abs(address)' fails"),
    "number as link": (
        '{"r": [1], "next": 5}',
        {"items": "r", "pagination": {"style": "next_link"}},
        "'next' is a int, not a link",
    ),
    "link in a circle": (
        '{"r": [1], "next": "?x"}',
        {"items": "r", "pagination": {"style": "next_link"}},
        "a page that was read before: a loop",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_run_goes_on_with_the_last_good_list(server: Server, database: Database, name: str) -> None:
    from portmon.airflow.cmdb_hook import get_inventory

    answer, values, message = ANSWERS[name]
    server.says(answer, Content_Type="application/json")
    config = Config(cmdb=Cmdb.model_validate({"source": {"type": "http", "endpoint": "api/hosts", **values}}))
    good = Inventory((Host("1", "web", "a"),), source="test")
    fetch_inventory(database, config, Run("r1"), lambda: good, now=NOW)
    found = fetch_inventory(
        database, config, Run("r2"), lambda: get_inventory(config.cmdb, Path()), now=NOW + timedelta(minutes=5)
    )
    assert found.stale
    assert message in refused(**values)


@pytest.mark.parametrize("error", [RecursionError(), AttributeError("x"), OverflowError(), PortmonError("ours")])
def test_whatever_a_source_raises_it_is_no_end_of_the_run(database: Database, error: Exception) -> None:
    config = Config()
    fetch_inventory(database, config, Run("r1"), lambda: Inventory((Host("1", "web", "a"),)), now=NOW)

    def load() -> Inventory:
        raise error

    assert fetch_inventory(database, config, Run("r2"), load, now=NOW + timedelta(minutes=5)).stale


def test_what_a_cmdb_says_is_inert_and_of_bounded_length_in_logs(
    server: Server, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(cmdb=Cmdb.model_validate({"source": {"type": "http", "endpoint": "api/hosts"}}))

    def fetch(run_id: str) -> None:
        from portmon.airflow.cmdb_hook import get_inventory

        fetch_inventory(database, config, Run(run_id), lambda: get_inventory(config.cmdb, Path()), now=NOW)

    server.says(json.dumps({"message": "::group::x \x1b[2J\u202e"}))
    with pytest.raises(CmdbError) as caught:
        fetch("first")
    assert "it says" in str(caught.value)
    assert "::group::" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.__cause__ is None
    good = {"id": "a", "address": "a"}
    server.says(json.dumps([good, *({"id": f"::group::{number}"} for number in range(5000))]))
    caplog.clear()
    fetch("second")
    assert 200 <= len(caplog.records) < 210
    assert "and more that are invalid: 4800" in caplog.text
    assert "::group::" not in caplog.text


@pytest.mark.parametrize("nested", [1, 2])
def test_an_answer_that_unpacks_to_a_multiple(server: Server, nested: int) -> None:
    body = packed(1 << 28)
    for _ in range(nested - 1):
        pack = zlib.compressobj(9, zlib.DEFLATED, 31)
        body = pack.compress(body) + pack.flush()
    server.says(body, Content_Type="application/json", Content_Encoding=", ".join(["gzip"] * nested))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with timeout(60):
        assert "a page has more than 64 MiB" in refused()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 250


def test_an_answer_without_end(server: Server) -> None:
    server.says(endless)
    with timeout(60):
        assert "a page has more than 64 MiB" in refused()


def test_pages_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portmon.airflow.cmdb_hook.MAX_LIST", 5000)

    def answer(handler: Handler) -> None:
        number = len(server.asked)
        handler.send(json.dumps({"r": [{"id": number, "x": "y" * 900}], "next": f"?page={number}"}).encode())

    server.says(answer)
    assert "pages have more than 0 MiB together" in refused(items="r", pagination={"style": "next_link"})
    assert len(server.asked) == 6


def test_a_redirect_is_not_followed_wherever_it_leads(server: Server) -> None:
    for place in ("/api/hosts", "http://localhost:1/", "//evil/", "http://evil\\@127.0.0.1/"):
        server.says(lambda handler, place=place: handler.send(b"", 302, Location=place))
        assert "a redirect, which is not followed" in refused()
    assert len(server.asked) == 4


LINKS = [
    "http://evil\\@127.0.0.1:{port}/x",
    "http://127.0.0.1:{port}@evil/x",
    "http://127.0.0.1:{port}#@evil/x",
    "http://evil#@127.0.0.1:{port}/x",
    "http://evil?@127.0.0.1:{port}/x",
    "//evil/x",
    "http:\\\\evil/x",
    "http://127.0.0.1:{port}\t@evil/x",
    "http://127.0.0.1\n.evil:{port}/x",
    "http://user@127.0.0.1:{port}/x",
    "http://127.0.0.1:{other}/x",
    "http://127.0.0.1/x",
    "https://127.0.0.1:{port}/x",
    "http://127。0。0。2:{port}/x",
    "http://[::ffff:127.0.0.1]:{port}/x",
    "http://127.0.0.1:{port}.evil/x",
    "http://127.1:{port}/x",
    "ftp://127.0.0.1:{port}/x",
    "javascript:1",
    "http://[",
    "http://127.0.0.1:99999/x",
    " \thttp://evil/",
]


@pytest.mark.parametrize("link", LINKS)
def test_no_link_leads_the_credentials_elsewhere(server: Server, monkeypatch: pytest.MonkeyPatch, link: str) -> None:
    """By what is dialled, not by how a text is read."""
    dialled: list[tuple[str, int]] = []
    import urllib3.util.connection as dialling

    really = dialling.create_connection

    def dial(address: tuple[str, int], *args: Any, **values: Any) -> Any:
        dialled.append(address)
        return really(address, *args, **values)

    monkeypatch.setattr(dialling, "create_connection", dial)
    server.connect(password=SECRET, login="user")
    url = link.format(port=server.port, other=server.port + 1)
    body = json.dumps({"r": [{"id": 1, "address": "a"}], "next": url})
    server.says(lambda handler: handler.send(body.encode() if "x" not in handler.path else b'{"r": [], "next": null}'))
    try:
        from portmon.airflow.cmdb_hook import CmdbHook
        from portmon.inventory.sources.http import HttpSource

        source = {"endpoint": "api/hosts", "items": "r", "pagination": {"style": "next_link"}}
        CmdbHook(HttpSource.model_validate(source)).get_inventory()
    except CmdbError as error:
        told = str(error)
    else:
        told = ""
    assert set(dialled) == {("127.0.0.1", server.port)}
    # What is no address by any reading is a path on the same server.
    assert told or link.startswith("http:\\")
    assert SECRET not in told


def test_messages_name_the_address_that_was_asked(server: Server) -> None:
    server.says(lambda handler: handler.send(b"no", 404))
    server.connect(host=f"http://127.0.0.1:{server.port}/api/")
    told = refused(endpoint="api/dcim/devices/?token=x")
    assert server.asked[-1][0].startswith("/api/api/dcim/devices/")
    assert f"CMDB http://127.0.0.1:{server.port}/api/api/dcim/devices/ (connection cmdb_default): HTTP 404" in told
    # A host with a port of its own, which Airflow puts behind the path.
    server.connect(host="http://127.0.0.1", port=server.port)
    refused()
    server.says(json.dumps({"r": [], "next": "http://127.0.0.1:1/"}))
    told = refused(items="r", pagination={"style": "next_link"})
    assert f"is on http://127.0.0.1:1, another server than the connection's http://127.0.0.1:{server.port}: not" in told


def test_an_endpoint_is_below_the_connections_host(server: Server) -> None:
    server.says(lambda handler: handler.send(b"no", 404))
    for endpoint in ("http://evil/x", "//evil/x", "@evil/x", "\\@evil", ":80@evil/"):
        refused(endpoint=endpoint)
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"extra": {"Authorization": "Bearer tök€n"}}, "a character that HTTP can't send (it must be Latin-1)"),
        ({"login": "u", "password": "€"}, "a character that HTTP can't send (it must be Latin-1)"),
        ({"extra": {"Authorization": f"Bearer {SECRET}\n"}}, "a header of the connection is none that HTTP can send"),
        ({"extra": {"proxies": {"http": f"http://user:{SECRET}@[/"}}}, "no answer: "),
        ({"host": "http://127.0.0.1:eighty/"}, "the connection's host is no URL"),
        ({"host": "http://[::1/"}, "the connection's host is no URL"),
        ({"host": "://"}, "the connection's host is no URL"),
        ({"host": None}, "the connection's host is no URL"),
        ({"host": "ftp://127.0.0.1/"}, "the connection's host is no URL"),
        ({"extra": "[1]"}, "can't be asked: "),
        ({"extra": '"x"'}, "can't be asked: "),
        ({"extra": "[" * 100_000}, "can't be asked: "),
        ({"schema": "http\n"}, "the connection's host is no URL"),
    ],
)
def test_a_connection_that_can_not_be_used(server: Server, values: dict[str, Any], message: str) -> None:
    server.says(PAGE)
    server.connect(**{"host": f"127.0.0.1:{server.port}", **values})
    assert message in refused()
    assert server.asked == []


def test_a_connection_that_can_not_be_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CMDB_DEFAULT", f'{{"conn_type": "http", "pass": "{SECRET}"}}')
    assert "the environment variable AIRFLOW_CONN_CMDB_DEFAULT is no Airflow connection" in refused()


def test_a_login_in_the_connections_host_is_used_and_goes_nowhere_else(server: Server) -> None:
    server.connect(host=f"http://us%40er:{SECRET}@127.0.0.1:{server.port}/base")

    def answer(handler: Handler) -> None:
        following = None if "page" in handler.path else f"http://127.0.0.1:{server.port}/base/api/hosts?page=2"
        handler.send(json.dumps({"r": [], "next": following}).encode())

    server.says(answer)
    from portmon.airflow.cmdb_hook import CmdbHook
    from portmon.inventory.sources.http import HttpSource

    source = {"endpoint": "api/hosts", "items": "r", "pagination": {"style": "next_link"}}
    found = CmdbHook(HttpSource.model_validate(source)).get_inventory()
    assert found.source == f"CMDB http://127.0.0.1:{server.port}/base/api/hosts (connection cmdb_default)"
    assert [path for path, _ in server.asked] == ["/base/api/hosts", "/base/api/hosts?page=2"]
    assert len({headers["Authorization"] for _, headers in server.asked}) == 1


# ── secrets in addresses ────────────────────────────────────────────────────────────────────────

# Another one than that of the connections above: Airflow masks what it knows to be a password.
IN_HOST = "hun7erTw0"
MESSAGE = Message(title="t", text="t", html="t")
around = st.text("/?#@:\\ a1%'\"[]", max_size=4)
CHANNELS: dict[str, Callable[[], None]] = {
    "webhook": lambda: deliver(WebhookChannel(name="h", type="webhook", conn_id="target"), MESSAGE),
    "heartbeat": lambda: Heartbeat(conn_id="target").ping("well", OUTSIDE),
    "request": lambda: OUTSIDE.send(HttpRequest("c", "target", "x", body=b"{}")),
    "cmdb": lambda: _inventory("target"),
}


def _inventory(conn_id: str) -> None:
    from portmon.airflow.cmdb_hook import get_inventory

    get_inventory(Cmdb.model_validate({"source": {"type": "http", "conn_id": conn_id, "timeout": 5}}), Path())


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name has an address, and nothing is dialled."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("refused")

    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.usefixtures("nowhere")
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=around, after=around, scheme=st.sampled_from(["http://", "https://", "", "://", "x://"]))
@example(before="", after="/x", scheme="http://")
@example(before="", after="#x", scheme="http://")
@example(before="", after="?x", scheme="http://")
@example(before="", after="'x", scheme="://")
@example(before="1", after=")x", scheme="http://")
def test_a_password_in_a_connections_host_is_in_no_message(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, before: str, after: str, scheme: str
) -> None:
    host = f"{scheme}user:{before}{IN_HOST}{after}@h"
    monkeypatch.setenv("AIRFLOW_CONN_TARGET", json.dumps({"conn_type": "http", "host": host}))
    caplog.clear()
    with caplog.at_level(logging.INFO), pytest.raises((CmdbError, DeliveryError)) as caught:
        CHANNELS[kind]()
    error: BaseException | None = caught.value
    while error is not None:
        assert IN_HOST not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert IN_HOST not in caplog.text


def test_what_to_do_about_a_password_that_is_no_part_of_an_address(server: Server) -> None:
    server.connect(host=f"http://user:{SECRET}/x@127.0.0.1:{server.port}")
    assert "write these signs as %2F, %3F and %23" in refused()
