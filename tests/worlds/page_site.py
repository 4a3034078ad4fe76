"""The page in a live API server, below a base path, and people who read it with a browser."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page

from demo.airflow_env import EmbeddedAirflow, migrate_airflow
from portmon.config import Config
from portmon.storage.database import Database
from portmon.web.app import application
from tests.worlds.databases import migrated
from tests.worlds.fab import FAB, create_admin
from tests.worlds.fleet import FIVE, Fleet

BASE = "/af"
USERS = {"admin": "admin", "ann": "viewer", "joe": "user", "ops": "op"}
"""People and their roles; each one's password is the name."""
TOKEN = "metricsTokenOfTheTests"
SECRET = "secretprogram"
"""Name of a program: data that no stranger may get."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


class Answer:
    """One answer over HTTP, redirects not followed."""

    def __init__(self, status: int, headers: Mapping[str, str], body: str) -> None:
        self.status, self.headers, self.body = status, headers, body


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


def one_death(database: Database) -> Fleet:
    """Two hosts, on one of which a program has just died."""
    fleet = Fleet(database, Config(), start=datetime.now(UTC).replace(microsecond=0) - 4 * FIVE)
    fleet.add("web1", {22: "sshd", 80: SECRET}, site="fra1")
    fleet.add("web2", {22: "sshd", 80: "nginx"}, site="ams1")
    for _ in range(3):
        fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.run()
    return fleet


class Site:
    """An API server whose page reads what a fleet left.

    :param history: makes that fleet
    :param config: portmon.yaml
    :param fab: users are those of the FAB auth manager; default: of Airflow's simple one
    """

    def __init__(
        self, folder: Path, *, history: Callable[[Database], Fleet] = one_death, config: str = "", fab: bool = False
    ) -> None:
        self.database: Database = migrated(folder / "state.db")
        self.fleet = history(self.database)
        file = folder / "portmon.yaml"
        file.write_text(config)
        self.airflow = EmbeddedAirflow(
            folder / "airflow",
            config=file,
            connections={
                "portmon_db": json.dumps({"conn_type": "sqlite", "host": str(folder / "state.db")}),
                "portmon_metrics": json.dumps({"conn_type": "generic", "password": TOKEN}),
            },
        )
        self.root = f"{self.airflow.url}{BASE}"
        self.airflow.env |= {
            "AIRFLOW__API__BASE_URL": self.root,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in USERS.items()),
            **(FAB if fab else {}),
        }
        (self.airflow.home / "passwords.json").write_text(json.dumps({name: name for name in USERS}))
        migrate_airflow(self.airflow.env, folder / "migrate.out")
        if fab:
            create_admin(self.airflow, "admin")
        self.airflow.start_process("api-server")
        self.airflow.wait(lambda: self.ask("/", accept="text/html").status == 303, "the page", seconds=180)
        if fab:
            self._create_others()

    def stop(self) -> None:
        """End it."""
        self.airflow.stop()
        self.database.dispose()

    def ask(
        self, path: str, method: str = "GET", *, user: str = "", cookie: str = "", body: Any = None, **headers: str
    ) -> Answer:
        """One request to the page.

        :param user: who asks, with a bearer token
        """
        return self.call(f"/portmon{path}", method, user=user, cookie=cookie, body=body, **headers)

    def call(
        self, path: str, method: str = "GET", *, user: str = "", cookie: str = "", body: Any = None, **headers: str
    ) -> Answer:
        """One request to this Airflow."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.root}{path}", data=data, method=method)
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        if body is not None and "content_type" not in headers:
            request.add_header("Content-Type", "application/json")
        if user:
            request.add_header("Authorization", f"Bearer {self.token(user)}")
        if cookie:
            request.add_header("Cookie", f"_token={self.token(cookie)}")
        try:
            with _OPENER.open(request, timeout=30) as answer:
                return Answer(answer.status, answer.headers, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read().decode())

    def token(self, user: str) -> str:
        """What Airflow knows a user by."""
        answer = self.call("/auth/token", "POST", body={"username": user, "password": user})
        return str(json.loads(answer.body)["access_token"])

    def _create_others(self) -> None:
        for name, role in USERS.items():
            if name == "admin":
                continue
            person = {"username": name, "password": name, "first_name": name, "last_name": name, "email": name}
            body = {**person, "roles": [{"name": role.capitalize()}]}
            answer = self.call("/auth/fab/v1/users", "POST", user="admin", body=body)
            assert answer.status == 200, answer.body


def every_path() -> list[str]:
    """Each route of the page, with values in place of its parameters, and paths that are none."""
    paths = {
        re.sub(r"\{port\}", "80", re.sub(r"\{host_id:path\}", "id-web1", route.path))  # type: ignore[attr-defined]
        for route in application().routes
        if route.path != "/static"  # type: ignore[attr-defined]
    }
    return sorted(
        paths | {"/docs", "/redoc", "/openapi.json", "/static/page.css", "/nothing", "/api/v1/nothing", "/../"}
    )


def assert_closed_to_strangers(site: Site, method: str) -> None:
    """Ask for each path without a login."""
    paths = every_path()
    assert len(paths) > 25
    for path in paths:
        for accept in ("text/html", "application/json"):
            answer = site.ask(path, method, accept=accept, body={} if method in ("POST", "PUT", "PATCH") else None)
            assert answer.status in (303, 401), (method, path, answer.status)
            assert not {"web1", SECRET, "portmon_", "paths"} & set(re.findall(r"\w+", answer.body)), (method, path)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]


def alert_of(site: Site, host: str, port: int) -> str:
    """The id of the open alert of a port."""
    found = json.loads(site.ask("/api/v1/problems", user="ann").body)["rows"]
    (one,) = [row for row in found if (row["host"], row["port"]) == (host, port)]
    return str(one["id"])


class Reader:
    """A person with a browser; whatever the browser complains of is kept.

    :param user: who is logged in; nobody if empty
    :param options: of the browser's context
    """

    def __init__(self, site: Site, browser: Browser, user: str = "ann", **options: Any) -> None:
        self.site = site
        self.context: BrowserContext = browser.new_context(**options)
        self.context.set_default_timeout(30_000)
        if user:
            self.context.add_cookies([{"name": "_token", "value": site.token(user), "url": site.root}])
        self.complaints: list[str] = []

    def open(self, path: str, root: str = "/portmon") -> Page:
        """A new window."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.goto(f"{self.site.root}{root}{path}")
        return page


def close_dialog(page: Page) -> None:
    """Close it after something was done, and wait for the page that is loaded then, with its scripts."""
    with page.expect_navigation():
        page.get_by_role("dialog").get_by_role("button", name="Close").click()
