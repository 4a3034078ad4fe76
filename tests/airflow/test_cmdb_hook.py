"""The CMDB hook against a real HTTP server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.execution_time.timeout import timeout
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from portmon import timeouts
from portmon.errors import CmdbError
from portmon.inventory.config import Cmdb
from portmon.inventory.sources.http import HttpSource
from tests.worlds.sshd import tcp_server

TOKEN = "s3cret-t0ken"
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "cmdb"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    with HTTPServer() as running:
        connection = {
            "conn_type": "http",
            "host": running.url_for("/base").rstrip("/"),
            "extra": {"Authorization": f"Bearer {TOKEN}"},
        }
        monkeypatch.setenv("AIRFLOW_CONN_CMDB_DEFAULT", json.dumps(connection))
        yield running


def ask(**source: Any) -> Any:
    from portmon.airflow.cmdb_hook import CmdbHook

    return CmdbHook(HttpSource.model_validate({"endpoint": "api/hosts", **source})).get_inventory()


def test_every_page_is_asked_for_with_the_credentials(server: HTTPServer) -> None:
    seen = []

    def answer(request: Request) -> Response:
        seen.append(request.headers["Authorization"])
        page = int(request.args["page"])
        entries = [{"id": page * 10 + n, "address": f"h{page}{n}"} for n in range({1: 2, 2: 2, 3: 1}.get(page, 0))]
        return Response(json.dumps({"results": entries}), content_type="application/json")

    server.expect_request("/base/api/hosts").respond_with_handler(answer)
    found = ask(items="results", pagination={"style": "page", "size": 2}, params={"token": "x"})
    assert [host.id for host in found.hosts] == ["10", "11", "20", "21", "30"]
    assert seen == [f"Bearer {TOKEN}"] * 4


def test_numbered_pages_end_where_there_is_none(server: HTTPServer) -> None:
    def answer(request: Request) -> Response:
        if request.args["page"] == "3":
            return Response('{"detail": "Invalid page."}', status=404)
        return Response(json.dumps([{"id": request.args["page"], "address": "a"}]), content_type="application/json")

    server.expect_request("/base/api/hosts").respond_with_handler(answer)
    assert [host.id for host in ask(pagination={"style": "page"}).hosts] == ["1", "2"]


def test_post_with_a_body(server: HTTPServer) -> None:
    server.expect_request(
        "/base/api/hosts", method="POST", json={"fields": ["id"], "offset": 0, "limit": 100}
    ).respond_with_json([{"id": 1, "address": "a"}])
    server.expect_request(
        "/base/api/hosts", method="POST", json={"fields": ["id"], "offset": 1, "limit": 100}
    ).respond_with_json([])
    assert len(ask(method="POST", json_body={"fields": ["id"]}, pagination={"style": "offset"}).hosts) == 1


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (Response("{}", status=500), "HTTP 500"),
        (Response("no", status=404), "HTTP 404"),
        (Response("no", status=401), "credentials of connection cmdb_default are refused"),
        (Response("no", status=403), "credentials of connection cmdb_default are refused"),
        (Response("<html>\x1b[31mlogin</html>", content_type="text/html"), "no JSON: HTTP 200, text/html"),
        (Response("", content_type="application/json"), "no JSON"),
        (Response('{"a": [', content_type="application/json"), "no JSON"),
        (Response(status=302, headers={"Location": "http://other.example/"}), "a redirect, which is not followed"),
        (Response('{"a": 1}', content_type="application/json"), "not a list"),
    ],
    ids=["500", "404", "401", "403", "html", "empty", "cut", "redirect", "object"],
)
def test_what_is_no_list_is_refused(server: HTTPServer, response: Response, message: str) -> None:
    server.expect_request("/base/api/hosts").respond_with_response(response)
    with pytest.raises(CmdbError, match=message) as caught:
        ask(params={"key": "qu3ry"})
    assert TOKEN not in str(caught.value)
    assert "qu3ry" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_half_its_pages(server: HTTPServer) -> None:
    def answer(request: Request) -> Response:
        if request.args["page"] == "2":
            return Response("broken", status=500)
        return Response(json.dumps([{"id": n, "address": "a"} for n in range(100)]), content_type="application/json")

    server.expect_request("/base/api/hosts").respond_with_handler(answer)
    with pytest.raises(CmdbError, match="HTTP 500"):
        ask(pagination={"style": "page"})


@pytest.fixture(params=["head", "body", "chunks"])
def dripping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server whose answer never stalls and never ends: a byte every tenth of a second."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    start, drop = {
        "head": (head + b"X-Slow: ", b"x"),
        "body": (head + b"Content-Length: 1000000\r\n\r\n[", b" "),
        "chunks": (head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    }[request.param]

    def serve(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(start)
        while not over.wait(0.1):
            connection.sendall(drop)

    with tcp_server(serve) as port:
        connection = {"conn_type": "http", "host": f"http://127.0.0.1:{port}"}
        monkeypatch.setenv("AIRFLOW_CONN_CMDB_DEFAULT", json.dumps(connection))
        yield


@pytest.mark.usefixtures("dripping")
def test_a_page_that_drips_has_a_deadline() -> None:
    started = time.monotonic()
    with timeout(20), pytest.raises(CmdbError, match="longer than 1 s"):
        ask(timeout=1)
    assert time.monotonic() - started < 5


def test_the_pages_together_have_a_deadline(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: Request) -> Response:
        time.sleep(0.3)
        page = int(request.args["page"])
        return Response(json.dumps([{"id": page, "address": "a"}]), content_type="application/json")

    monkeypatch.setattr(timeouts, "HOST_LIST", timedelta(seconds=1))
    server.expect_request("/base/api/hosts").respond_with_handler(answer)
    with pytest.raises(CmdbError, match="the pages of the host list took longer than 1 s together"):
        ask(pagination={"style": "page", "size": 1}, max_pages=30)


def test_a_port_without_a_listener(server: HTTPServer) -> None:
    server.stop()
    with pytest.raises(CmdbError, match="the connection failed"):
        ask(timeout=2)


def test_there_is_no_such_connection() -> None:
    with pytest.raises(CmdbError, match="airflow connections add cmdb_elsewhere"):
        ask(conn_id="cmdb_elsewhere")


# ── CMDBs that are known by name ────────────────────────────────────────────────────────────────


def ask_preset(kind: str, **source: Any) -> Any:
    from portmon.airflow.cmdb_hook import get_inventory

    return get_inventory(Cmdb.model_validate({"source": {"type": kind, **source}}), FIXTURES)


def recorded(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def test_netbox(server: HTTPServer) -> None:
    seen = []

    def answer(request: Request) -> Response:
        seen.append((request.headers["Authorization"], request.args.to_dict(flat=False)))
        name = "netbox_devices" if "dcim" in request.path else "netbox_virtual_machines"
        everything = recorded(name)["results"]
        start, limit = int(request.args["offset"]), int(request.args["limit"])
        page = {"count": len(everything), "next": None, "previous": None, "results": everything[start : start + limit]}
        return Response(json.dumps(page), content_type="application/json")

    server.expect_request("/base/api/dcim/devices/").respond_with_handler(answer)
    server.expect_request("/base/api/virtualization/virtual-machines/").respond_with_handler(answer)
    found = ask_preset("netbox", status=["active", "staged"], page_size=2, fields={"declared": "custom_fields.ports"})
    assert [host.id for host in found.hosts] == ["device-7", "device-8", "device-11", "vm-7", "vm-8"]
    assert [host.declared for host in found.hosts] == [(22, 443), (), (5432,), (22, 5432), ()]
    assert [entry.name for entry in found.invalid] == ["pdu-9"]
    assert {token for token, _ in seen} == {f"Bearer {TOKEN}"}
    assert seen[0][1]["status"] == ["active", "staged"]
    assert found.source.endswith("/ (connection cmdb_default)")
    assert TOKEN not in str(found)


def test_netbox_refuses(server: HTTPServer) -> None:
    server.expect_request("/base/api/dcim/devices/").respond_with_json(recorded("netbox_forbidden"), status=403)
    with pytest.raises(CmdbError) as caught:
        ask_preset("netbox")
    told = str(caught.value)
    for part in (
        "/api/dcim/devices/ (connection cmdb_default): the credentials of connection cmdb_default are refused",
        "Bearer nbt_…",
        "Token …",
        "allowed to view devices and virtual machines",
        "Authentication credentials were not provided.",
    ):
        assert part in told
    assert TOKEN not in told


def test_netbox_of_which_one_list_fails(server: HTTPServer) -> None:
    server.expect_request("/base/api/dcim/devices/").respond_with_json(recorded("netbox_devices"))
    server.expect_request("/base/api/virtualization/virtual-machines/").respond_with_data("<html>", status=502)
    with pytest.raises(CmdbError, match=r"virtual-machines/ \(connection cmdb_default\): HTTP 502"):
        ask_preset("netbox")


def test_netbox_that_fails_halfway(server: HTTPServer) -> None:
    def answer(request: Request) -> Response:
        if int(request.args["offset"]) > 0:
            return Response("<html>gateway</html>", content_type="text/html")
        page = {**recorded("netbox_devices"), "results": recorded("netbox_devices")["results"][:2]}
        return Response(json.dumps(page), content_type="application/json")

    server.expect_request("/base/api/dcim/devices/").respond_with_handler(answer)
    with pytest.raises(CmdbError, match="no JSON: HTTP 200, text/html"):
        ask_preset("netbox", page_size=2)


def test_netbox_that_changes_while_it_is_read(server: HTTPServer) -> None:
    everything = recorded("netbox_devices")["results"]
    asked = []

    def answer(request: Request) -> Response:
        asked.append(int(request.args["offset"]))
        if len(asked) == 2:
            everything.pop(0)
        page = everything[asked[-1] :][: int(request.args["limit"])]
        return Response(json.dumps({"count": len(everything), "results": page}), content_type="application/json")

    server.expect_request("/base/api/dcim/devices/").respond_with_handler(answer)
    found = ask_preset("netbox", page_size=2, virtual_machines=False)
    assert [host.id for host in found.hosts] == ["device-8", "device-11"]
    assert asked == [0, 1, 0, 1]


def test_a_link_that_a_proxy_made_wrong_is_not_followed(server: HTTPServer) -> None:
    answer = {"results": [{"id": 1, "address": "a"}], "next": "http://internal:8000/api/hosts?page=2"}
    server.expect_request("/base/api/hosts").respond_with_json(answer)
    with pytest.raises(
        CmdbError,
        match="the next page is on http://internal:8000, another server than the connection's http://localhost:",
    ):
        ask(items="results", pagination={"style": "next_link"})


def test_prometheus(server: HTTPServer) -> None:
    server.expect_request("/base/targets", query_string="team=web").respond_with_json(recorded("http_sd"))
    found = ask_preset("http_sd", endpoint="targets", params={"team": "web"})
    assert [host.id for host in found.hosts][:2] == ["10.0.0.1", "2001:db8::1"]


def test_prometheus_with_a_broken_group(server: HTTPServer) -> None:
    server.expect_request("/base/targets").respond_with_json([{"labels": {}}])
    with pytest.raises(CmdbError, match=r"/targets \(connection cmdb_default\): group 1: 'targets' is null"):
        ask_preset("http_sd", endpoint="targets")


def test_paging_within_a_body(server: HTTPServer) -> None:
    server.expect_request(
        "/base/api/hosts", method="POST", json={"fields": ["id"], "page": {"sort": "id", "start": 0, "limit": 500}}
    ).respond_with_json(recorded("blueking"))
    found = ask(
        method="POST",
        json_body={"fields": ["id"], "page": {"sort": "id"}},
        items="data.info",
        total="data.count",
        pagination={"style": "offset", "offset_param": "page.start", "limit_param": "page.limit", "size": 500},
        fields={"id": "bk_host_id", "address": "bk_host_innerip"},
    )
    assert len(found.hosts) == 2


def test_what_ansible_inventory_printed(server: HTTPServer) -> None:
    server.expect_request("/base/hosts.json").respond_with_json(recorded("ansible"))
    found = ask_preset("ansible", conn_id="cmdb_default", endpoint="hosts.json", fields={"labels": {"env": "vars.env"}})
    assert len(found.hosts) == 7
    assert [host.labels["env"] for host in found.hosts if host.id == "db-a"] == ["prod"]
    assert found.source.endswith("/base/hosts.json (connection cmdb_default)")


@pytest.mark.parametrize(
    ("answer", "message"),
    [("[]", "has no _meta.hostvars"), ('{"_meta": {"hostvars": {"a": 3}}}', "is a int"), ("<html>", "no JSON")],
)
def test_what_ansible_inventory_did_not_print(server: HTTPServer, answer: str, message: str) -> None:
    server.expect_request("/base/hosts.json").respond_with_data(answer)
    with pytest.raises(CmdbError, match=message):
        ask_preset("ansible", conn_id="cmdb_default", endpoint="hosts.json")


def test_files_need_no_connection() -> None:
    assert len(ask_preset("ansible", path="ansible.ini").hosts) == 7
