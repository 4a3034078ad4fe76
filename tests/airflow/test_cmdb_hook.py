"""The CMDB hook against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from portmon.config import HttpSource
from portmon.errors import CmdbError

TOKEN = "s3cret-t0ken"


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
    from portmon.hooks import CmdbHook

    return CmdbHook(HttpSource.model_validate({"endpoint": "api/hosts", **source})).get_inventory()


def test_every_page_is_asked_for_with_the_credentials(server: HTTPServer) -> None:
    seen = []

    def answer(request: Request) -> Response:
        seen.append(request.headers["Authorization"])
        page = int(request.args["page"])
        entries = [{"id": page * 10 + n, "address": f"h{page}{n}"} for n in range(2 if page < 3 else 1)]
        return Response(json.dumps({"results": entries}), content_type="application/json")

    server.expect_request("/base/api/hosts").respond_with_handler(answer)
    found = ask(items="results", pagination={"style": "page", "size": 2}, params={"token": "x"})
    assert [host.id for host in found.hosts] == ["10", "11", "20", "21", "30"]
    assert seen == [f"Bearer {TOKEN}"] * 3


def test_post_with_a_body(server: HTTPServer) -> None:
    server.expect_request(
        "/base/api/hosts", method="POST", json={"fields": ["id"], "offset": 0, "limit": 100}
    ).respond_with_json([{"id": 1, "address": "a"}])
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


def test_nobody_answers(server: HTTPServer) -> None:
    server.stop()
    with pytest.raises(CmdbError, match="the connection failed"):
        ask(timeout=2)


def test_there_is_no_such_connection() -> None:
    with pytest.raises(CmdbError, match="airflow connections add cmdb_elsewhere"):
        ask(conn_id="cmdb_elsewhere")
