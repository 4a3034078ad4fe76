"""docker-compose.yaml without a Docker engine: by its schema, and by running natively what its services run."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.airflow_env import ROOT, AirflowError
from tests.worlds.fab import needs_fab
from tests.worlds.postgres import Cluster
from tests.worlds.stack import AIRFLOW, COMPOSE, SERVICES, Stack, watched_by

pytestmark = [pytest.mark.slow, needs_fab]
PRODUCTION = [name for name, service in SERVICES.items() if "profiles" not in service]


# ── the file ────────────────────────────────────────────────────────────────────────────────────


def test_the_schema() -> None:
    check = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, ROOT / "docker-compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_process_of_airflow_is_there() -> None:
    commands = {" ".join(SERVICES[name]["command"][1:3]) for name in AIRFLOW}
    assert commands == {"api-server --port", "scheduler", "dag-processor", "triggerer", "celery worker"}
    assert all("healthcheck" in SERVICES[name] for name in SERVICES if name != "airflow-init")
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in used if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_without_its_profile_nothing_of_the_demo_is_there() -> None:
    demo = {name: service["profiles"] for name, service in SERVICES.items() if name not in PRODUCTION}
    assert demo == {name: ["demo"] for name in SERVICES if name.startswith("demo-")}
    needed = {other for name in PRODUCTION for other in SERVICES[name].get("depends_on", {})}
    assert needed <= set(PRODUCTION)
    assert "demo-" not in "".join(str(SERVICES[name]) for name in PRODUCTION)


def test_each_service_has_limits() -> None:
    for name, service in SERVICES.items():
        limits = service["deploy"]["resources"]["limits"]
        assert float(limits["cpus"]) > 0, name
        assert re.fullmatch(r"\d+[MG]", limits["memory"]), name


def test_there_is_no_working_default_password() -> None:
    text = (ROOT / "docker-compose.yaml").read_text()
    variables = re.findall(r"\$\{(\w+)([^}]*)\}", text)
    # A user without a password is not made, and the demo's CMDB does not start without a token.
    optional = {"AIRFLOW_ADMIN_PASSWORD", "AIRFLOW_VIEWER_PASSWORD", "DEMO_CMDB_TOKEN"}
    for name, default in variables:
        if re.search("PASSWORD|SECRET|KEY|TOKEN", name):
            assert default == (":-" if name in optional else ":?see .env.example"), name
    example = (ROOT / ".env.example").read_text()
    given = dict(line.split("=", 1) for line in example.splitlines() if re.match(r"\w+=", line))
    assert {name for name, value in given.items() if value} == {
        "AIRFLOW_PORT",
        "AIRFLOW_BASE_URL",
        "AIRFLOW_ADMIN_USER",
        "AIRFLOW_VIEWER_USER",
    }
    assert {name for name, _ in variables} == {*given, "PORTMON_CONFIG", "DEMO_CMDB_TOKEN"}


def test_the_image_holds_what_the_services_run() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?:--\S+ )?(\S+) ", (ROOT / "Dockerfile").read_text(), flags=re.M):
        assert (ROOT / source).exists()
        assert any(f"!{place}" in ignored for place in (source, *map(str, Path(source).parents))), source


def test_secrets_are_in_neither_repository_nor_image() -> None:
    # With "*" first, only the files named after it are sent to the builder.
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")
    assert "**/secrets" in (ROOT / ".dockerignore").read_text().splitlines()
    for path in ("secrets/portmon_key", ".env"):
        done = subprocess.run(["git", "-C", ROOT, "check-ignore", "--quiet", path], check=False)
        assert done.returncode == 0, f"{path} could be committed"


# ── the services ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster) -> Iterator[Stack]:
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    with watched_by(tmp_path_factory.mktemp("compose"), postgres_cluster) as (running, _):
        running.start()
        yield running


def token(stack: Stack, user: str, password: str) -> str | None:
    """What the API gives for a login; None if it refuses."""
    stack._token = ""
    try:
        return str(stack._request("POST", "/auth/token", {"username": user, "password": password})["access_token"])
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        return None


def test_the_services_start_have_the_users_of_env_and_run_the_dag(stack: Stack) -> None:
    # One test: tests that share services would each start them where processes run tests side by side.
    for name in AIRFLOW:
        starts(stack, name)
    has_no_user_without_a_password(stack)
    has_the_users_of_env(stack)
    runs_on_celery(stack)


def starts(stack: Stack, name: str) -> None:
    deadline = time.monotonic() + 240
    while not stack.healthy(name):
        assert stack.processes[name].poll() is None, (stack.home / f"{name}.out").read_text()[-3000:]
        assert time.monotonic() < deadline, (stack.home / f"{name}.out").read_text()[-3000:]


def has_no_user_without_a_password(stack: Stack) -> None:
    assert "The page has no user" in stack.init()
    assert all(token(stack, name, password) is None for name in ("admin", "viewer") for password in ("admin", name))


def has_the_users_of_env(stack: Stack) -> None:
    first, second, viewer = (secrets.token_hex(12) for _ in range(3))
    said = stack.init(AIRFLOW_ADMIN_PASSWORD=first, AIRFLOW_VIEWER_PASSWORD=viewer)
    assert "up to date" in said
    assert first not in said
    assert token(stack, "admin", first)
    stack.init(AIRFLOW_ADMIN_PASSWORD=second)
    assert token(stack, "admin", first) is None
    assert token(stack, "admin", second)
    stack.password = second
    # The navigation is made from the plugins, which a viewer may not list by default.
    stack._token = token(stack, "viewer", viewer) or ""
    assert "portmon" in {plugin["name"] for plugin in stack.call("GET", "plugins")["plugins"]}
    with pytest.raises(AirflowError, match="403"):
        stack.call("PATCH", "dags/portmon", {"is_paused": False})
    stack._token = ""


def runs_on_celery(stack: Stack) -> None:
    def listed() -> bool:
        try:
            stack.call("PATCH", "dags/portmon", {"is_paused": False})
        except Exception:
            return False
        return True

    stack.wait(listed, "the DAG", seconds=120)
    run_id = stack.trigger()
    assert stack.wait_run(run_id, seconds=300) == "success"
    looks = [task for task in stack.tasks(run_id) if task["task_id"] == "netstat"]
    assert {(task["rendered_map_index"], task["state"], task["pool"]) for task in looks} == {
        (f"host{n}", "success", "portmon") for n in range(1, 4)
    }
    assert {task["executor"] or "CeleryExecutor" for task in looks} == {"CeleryExecutor"}
