"""The page in this process, without Airflow's API server and its logins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette

from portmon.storage.database import Database
from portmon.web import reading
from portmon.web.app import application


class Browser:
    """Asks the page, which is mounted as Airflow mounts it.

    :param root: Airflow's own base path
    """

    def __init__(self, root: str = "") -> None:
        self._outer = Starlette()
        self._outer.mount("/portmon", application())
        self._root = root

    def get(self, path: str, *, accept: str = "text/html", **headers: str) -> httpx.Response:
        """One answer."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._outer, root_path=self._root, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://airflow.example.com") as client:
                return await client.get(f"{self._root}/portmon{path}", headers={"accept": accept, **headers})

        return anyio.run(ask)

    def json(self, path: str) -> Any:
        """What the JSON API answers with 200."""
        answer = self.get(f"/api/v1{path}", accept="application/json")
        assert answer.status_code == 200, answer.text
        return answer.json()


class Person(Browser):
    """A user who may do everything, without logins."""

    def __init__(self) -> None:
        super().__init__()
        inner: Any = self._outer

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            scope["state"] = {"portmon_user": self, "portmon_may_edit": True, "portmon_may_operate": lambda: True}
            await inner(scope, receive, send)

        self._outer = outer  # type: ignore[assignment]

    def get_name(self) -> str:
        return "ann"

    def post(self, path: str, content: bytes, *, preview: bool = True) -> httpx.Response:
        """Do something, or ask what that would do."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._outer, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://airflow.example.com") as client:
                return await client.post(
                    f"/portmon/api/v1{path}",
                    params={"preview": str(preview).lower()},
                    content=content,
                    headers={"content-type": "application/json"},
                )

        return anyio.run(ask)


def show(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str = "") -> None:
    """Let the page read a database and a portmon.yaml."""
    file = tmp_path / "portmon.yaml"
    file.write_text(config)
    monkeypatch.setenv("AIRFLOW__PORTMON__CONFIG", str(file))
    monkeypatch.setenv("AIRFLOW_CONN_PORTMON_DB", _connection(database))
    reading.forget()


def _connection(database: Database) -> str:
    url = database.url
    if database.is_sqlite:
        return json.dumps({"conn_type": "sqlite", "host": url.database})
    return json.dumps(
        {
            "conn_type": "postgres",
            "host": url.host,
            "port": url.port,
            "login": url.username,
            "password": url.password or "",
            "schema": url.database,
            "extra": json.dumps(dict(url.query)),
        }
    )
