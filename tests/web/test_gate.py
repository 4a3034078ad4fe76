"""The gate alone: what it does about clients, sockets and auth managers that misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.responses import Response

from portmon.web import gate
from portmon.web.app import application
from portmon.web.gate import Gate
from portmon.web.reading import CONNECTIONS
from tests.worlds.fleet import Fleet
from tests.worlds.page import show

TOKEN = "tokenOfPrometheus"


class AuthManager:
    """Airflow's, as far as the gate asks it.

    :param allowed: methods on the DAG
    """

    def __init__(self, *allowed: str) -> None:
        self.allowed: set[str] = set(allowed)
        self.broken = False

    def is_authorized_dag(self, *, method: str, **_: Any) -> bool:
        if self.broken:
            raise RuntimeError("the metadata database is away")
        return method in self.allowed

    def is_authorized_variable(self, **_: Any) -> bool:
        return False


class User:
    """Who asks."""

    def get_name(self) -> str:
        return "ann"


class Site:
    """The page behind its gate, where Airflow mounts it."""

    def __init__(self, auth: AuthManager, app: Any = None) -> None:
        self.auth = auth
        self._outer = Starlette()
        self._outer.mount("/portmon", Gate(app or application()))

    async def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: Sequence[bytes] = (b"",),
        silent: bool = False,
        kind: str = "http",
        send: Callable[[Any], Any] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request.

        :param path: below the page, as the server decoded it
        :param body: in so many messages
        :param silent: the client sends no more than that, and does not hang up either
        """
        given = list(body)
        answer: list[Any] = []

        async def receive() -> Any:
            if kind == "websocket":
                return {"type": "websocket.connect"}
            if given:
                part = given.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(given) or silent}
            return await anyio.sleep_forever()

        async def keep(message: Any) -> None:
            answer.append(message)
            if send is not None:
                await send(message)

        scope = {
            "type": kind,
            "method": method,
            "path": f"/portmon{path}",
            "raw_path": b"",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "server": ("airflow.example.com", 80),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "state": {},
        }
        await self._outer(scope, receive, keep)
        if kind == "websocket":
            return 0, {}, json.dumps(answer).encode()
        start = answer[0]
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], found, b"".join(message.get("body", b"") for message in answer[1:])


OWN = (
    ("host", "airflow.example.com"),
    ("origin", "http://airflow.example.com"),
    ("content-type", "application/json"),
    ("cookie", "_token=x"),
)


@pytest.fixture
def auth(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AuthManager:
    """Everybody who is known may do everything; a bearer token or a cookie ``_token`` makes one known."""
    made = AuthManager("GET", "PUT")

    async def get_user(request: Any, _: Any, bearer: Any) -> User:
        if bearer is not None and bearer.credentials == "expired":
            raise HTTPException(403, "Token has expired")
        if bearer is not None and bearer.credentials == TOKEN:
            raise HTTPException(403, "Invalid JWT token")
        if bearer is None and "_token" not in request.cookies:
            raise HTTPException(401, "Not authenticated")
        return User()

    monkeypatch.setattr(gate, "get_user", get_user)
    monkeypatch.setattr(gate, "get_auth_manager", lambda: made)
    monkeypatch.setenv("AIRFLOW_CONN_PORTMON_METRICS", json.dumps({"conn_type": "generic", "password": TOKEN}))
    show(fleet.database, monkeypatch, tmp_path)
    return made


@pytest.fixture
def site(auth: AuthManager) -> Site:
    return Site(auth)


def ask(site: Site, path: str, method: str = "GET", **more: Any) -> tuple[int, dict[str, str], bytes]:
    return anyio.run(lambda: site.ask(path, method, **more))


@pytest.mark.parametrize("host", ["airflow.example.com", "x/portmon/metrics?", "x/portmon/metrics#", "x\\metrics", ""])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "//metrics",
        "/metrics/",
        "/metrics/..",
        "/metrics/../hosts",
        "/metrics?x",
        "/metrics#",
        "/Metrics",
        "/metrics\x00",
        "/static/../metrics/../hosts",
        "/static/../gate.py",
        "/static/%2e%2e/gate.py",
        "/hosts/id-web1",
        "/hosts//metrics",
        "/portmon/metrics",
        "",
    ],
)
def test_the_token_of_the_metrics_reads_no_other_path(site: Site, host: str, path: str) -> None:
    status, _, body = ask(site, path, headers=[("host", host), ("authorization", f"Bearer {TOKEN}")])
    assert status in (307, 403)
    assert b"web1" not in body
    assert ask(site, "/metrics", headers=[("host", host), ("authorization", f"Bearer {TOKEN}")])[0] == 200


@pytest.mark.parametrize("path", ["/static/../gate.py", "/static/../../config.py", "/static//etc/passwd", "/static/"])
def test_no_file_is_read_besides_the_static_ones(site: Site, path: str) -> None:
    status, _, body = ask(site, path, headers=OWN)
    assert status == 404
    assert b"import" not in body


def test_a_bearer_token_beats_the_cookie(site: Site) -> None:
    expired = ("authorization", "Bearer expired")
    assert ask(site, "/hosts", headers=[*OWN, expired])[0] == 403
    # The cookie came along: the request may be another site's.
    both = [pair for pair in OWN if pair[0] != "origin"] + [("authorization", "Bearer good")]
    assert ask(site, "/api/v1/problems", "POST", headers=both, body=[b"{}"])[0] == 403
    alone = [pair for pair in both if pair[0] != "cookie"]
    assert ask(site, "/api/v1/problems", "POST", headers=alone, body=[b"{}"])[0] == 405


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", "bearer  ", "Basic eDp5", "Bearer \xff\xfe", "B" * 100_000])
def test_a_strange_authorization_is_no_login_by_itself(site: Site, given: str) -> None:
    status, headers, _ = ask(site, "/nothing", headers=[("authorization", given)])
    assert status in (401, 404)
    assert headers["x-content-type-options"] == "nosniff"


def test_a_body_that_is_too_large_is_refused(site: Site) -> None:
    for path in ("/api/v1/silences", "/api/v1/nothing"):
        status, _, body = ask(site, path, "POST", headers=OWN, body=[b"x" * 64 * 1024] * 5)
        assert status == 413
        assert json.loads(body)["detail"] == "a request has at most 262144 bytes"


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff\xfe", b'{"a": ' + b"9" * 10_000 + b"}", b"", b"nul\x00"])
def test_a_body_that_is_no_json_is_refused(site: Site, body: bytes) -> None:
    assert ask(site, "/api/v1/silences", "POST", headers=OWN, body=[body])[0] in (400, 422)


def test_a_client_that_sends_slowly_takes_no_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crowd() -> list[int]:
        found: list[int] = []

        async def slow() -> None:
            answer = await site.ask("/api/v1/silences", "POST", headers=OWN, body=[b"{"], silent=True)
            found.append(answer[0])

        async with anyio.create_task_group() as group:
            for _ in range(2 * CONNECTIONS):
                group.start_soon(slow)
            with anyio.fail_after(20):
                assert (await site.ask("/hosts", headers=OWN))[0] == 200
                assert not found
            monkeypatch.setattr(gate, "BODY_SECONDS", 0.2)
            assert (await site.ask("/api/v1/silences", "POST", headers=OWN, body=[b"{"], silent=True))[0] == 408
            group.cancel_scope.cancel()
        return found

    anyio.run(crowd)


def test_a_client_that_reads_slowly_takes_no_place(site: Site) -> None:
    async def crowd() -> None:
        async def never(_: Any) -> None:
            await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            for _ in range(2 * CONNECTIONS):
                group.start_soon(lambda: site.ask("/ports", headers=OWN, send=never))
            with anyio.fail_after(30):
                assert (await site.ask("/hosts", headers=OWN))[0] == 200
            group.cancel_scope.cancel()

    anyio.run(crowd)


def test_who_waits_too_long_for_a_place_is_told_to_try_again(
    auth: AuthManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "WAIT_SECONDS", 0.2)

    async def crowd() -> None:
        go_on, arrived = anyio.Event(), 0

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            nonlocal arrived
            arrived += 1
            await go_on.wait()
            await send({"type": "http.response.start", "status": 204, "headers": []})

        site = Site(auth, slow)
        async with anyio.create_task_group() as group:
            for _ in range(CONNECTIONS):
                group.start_soon(lambda: site.ask("/", headers=OWN))
            with anyio.fail_after(20):
                while arrived < CONNECTIONS:
                    await anyio.lowlevel.checkpoint()
            status, headers, body = await site.ask("/", headers=OWN)
            assert status == 503
            assert "try again" in json.loads(body)["detail"]
            assert headers["cache-control"] == "no-store"
            go_on.set()
        assert (await site.ask("/", headers=OWN))[0] == 204

    anyio.run(crowd)


def test_a_heartbeat_is_answered_while_the_page_is_slow(auth: AuthManager) -> None:
    go_on, arrived = threading.Event(), threading.Semaphore(0)
    slow, server = FastAPI(), Starlette()

    @slow.get("/slow")
    def wait() -> None:
        arrived.release()
        go_on.wait(60)

    def beat(_: Any) -> Response:
        return Response(status_code=204)

    async def crowd() -> None:
        site = Site(auth, slow)
        server.mount("/portmon", site._outer)
        server.add_route("/heartbeat", beat)
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(lambda: site.ask("/slow", headers=OWN))
            for _ in range(CONNECTIONS):
                await anyio.to_thread.run_sync(arrived.acquire)
            transport = httpx.ASGITransport(server)
            with anyio.fail_after(20):
                async with httpx.AsyncClient(transport=transport, base_url="http://airflow.example.com") as client:
                    answers = [await client.put("/heartbeat"), await client.get("/heartbeat")]
            go_on.set()
        assert [one.status_code for one in answers] == [405, 204]

    anyio.run(crowd)


def test_an_auth_manager_that_fails_lets_nobody_through(
    site: Site, auth: AuthManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth.broken = True
    status, headers, body = ask(site, "/hosts", headers=OWN)
    assert (status, "web1" in body.decode()) == (503, False)
    assert "frame-ancestors 'self'" in headers["content-security-policy"]

    async def get_user(*_: Any) -> User:
        raise RuntimeError("no table of revoked tokens")

    monkeypatch.setattr(gate, "get_user", get_user)
    assert ask(site, "/hosts", headers=OWN)[0] == 503


def test_a_web_socket_is_closed(site: Site) -> None:
    answer = ask(site, "/hosts", kind="websocket", headers=OWN)[2]
    assert [message["type"] for message in json.loads(answer)] == ["websocket.close"]


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", ""])
def test_an_odd_method_reads_nothing(site: Site, method: str) -> None:
    for headers in (OWN, OWN[:1]):
        status, _, body = ask(site, "/hosts", method, headers=headers)
        assert status in (401, 403, 405)
        assert b"web1" not in body
