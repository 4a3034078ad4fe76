"""docker-compose.yaml without a Docker engine: by its schema, and by running natively what its services run.

Commands, environment and health checks are taken from the file. Substituted is only what must differ:
names of other services, their ports, and the folder /opt/airflow.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from demo.airflow_env import EmbeddedAirflow, free_port
from demo.cmdb import Cmdb
from demo.fleet import USER, Fleet, HostSpec
from tests.worlds.postgres import Cluster

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES = COMPOSE["services"]
AIRFLOW = [name for name in SERVICES if name.startswith("airflow-") and name != "airflow-init"]


# ── the file ────────────────────────────────────────────────────────────────────────────────────


def test_the_schema() -> None:
    check = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, ROOT / "docker-compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_process_of_airflow_is_there() -> None:
    commands = {" ".join(SERVICES[name]["command"][1:3]) for name in AIRFLOW}
    assert commands == {"api-server --port", "scheduler", "dag-processor", "triggerer", "celery worker"}
    assert all("healthcheck" in SERVICES[name] for name in SERVICES if name != "airflow-init")
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert {name for name in used if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_there_is_no_working_default_password() -> None:
    text = (ROOT / "docker-compose.yaml").read_text()
    for name in re.findall(r"\$\{(\w*(?:PASSWORD|SECRET|KEY)\w*)([^}]*)\}", text):
        assert name[1].startswith(":?"), f"{name[0]} has a default"
    example = (ROOT / ".env.example").read_text()
    given = dict(line.split("=", 1) for line in example.splitlines() if re.match(r"\w+=", line))
    assert {name for name, value in given.items() if value} == {"AIRFLOW_PORT", "AIRFLOW_BASE_URL"}
    assert set(re.findall(r"\$\{(\w+)", text)) == set(given)


def test_the_image_holds_what_the_services_run() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?:--\S+ )?(\S+) ", (ROOT / "Dockerfile").read_text(), flags=re.M):
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


def test_secrets_are_in_neither_repository_nor_image() -> None:
    # With "*" first, only the files named after it are sent to the builder.
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")
    assert "**/secrets" in (ROOT / ".dockerignore").read_text().splitlines()
    for path in ("secrets/portmon_key", ".env"):
        done = subprocess.run(["git", "-C", ROOT, "check-ignore", "--quiet", path], check=False)
        assert done.returncode == 0, f"{path} could be committed"


# ── the services ────────────────────────────────────────────────────────────────────────────────


class Stack(EmbeddedAirflow):
    """The services of the file as processes of this machine."""

    def __init__(self, home: Path, cluster: Cluster, env: dict[str, str]) -> None:
        super().__init__(home, config=home / "config" / "portmon.yaml", connections={})
        self.redis_port = free_port()
        self.worker_port = free_port()
        self.values = env
        self.password = env["AIRFLOW_ADMIN_PASSWORD"]
        self.substitutes = {
            "airflow:"
            + env["POSTGRES_PASSWORD"]
            + "@postgres:5432": f"airflow:{env['POSTGRES_PASSWORD']}@127.0.0.1:{cluster.port}",
            "@postgres:5432": f"@127.0.0.1:{cluster.port}",
            "@redis:6379": f"@127.0.0.1:{self.redis_port}",
            "airflow-apiserver:8080": f"127.0.0.1:{self.port}",
            "localhost:8080": f"127.0.0.1:{self.port}",
            "/opt/airflow": str(home),
        }
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.base = {"AIRFLOW_HOME": str(home), "PATH": path, "HOME": str(home), "HOSTNAME": os.uname().nodename}

    def native(self, text: str) -> str:
        """Text of the file with its variables filled in, for this machine."""
        text = re.sub(r"\$\{(\w+)(?::[?-]([^}]*))?\}", lambda match: self.values.get(match[1]) or match[2] or "", text)
        for name, here in self.substitutes.items():
            text = text.replace(name, here)
        return text.replace("$$", "$")

    def env_of(self, name: str) -> dict[str, str]:
        own = {key: self.native(str(value)) for key, value in SERVICES[name].get("environment", {}).items()}
        extra = {key: value for key, value in self.values.items() if key.startswith("AIRFLOW_CONN_")}
        # Differs from the file where services would collide on one machine, or slow the test down.
        local = {
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(self.worker_port),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__PORTMON__SCHEDULE": "",
        }
        return {**self.base, **own, **extra, **local}

    def command_of(self, name: str) -> list[str]:
        command = [self.native(str(part)) for part in SERVICES[name]["command"]]
        return [str(self.port) if part == "8080" else part for part in command]

    def launch(self, name: str, command: list[str] | None = None) -> None:
        with (self.home / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command or self.command_of(name), env=self.env_of(name), stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def healthy(self, name: str) -> bool:
        kind, *test = SERVICES[name]["healthcheck"]["test"]
        test = [self.native(part) for part in test]
        command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        if name == "redis":
            command[1:1] = ["-p", str(self.redis_port)]
        return (
            subprocess.run(command, env=self.env_of(name), capture_output=True, check=False, timeout=120).returncode
            == 0
        )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster) -> Iterator[Stack]:
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    home = tmp_path_factory.mktemp("compose")
    names = (
        "POSTGRES_PASSWORD",
        "PORTMON_DB_PASSWORD",
        "REDIS_PASSWORD",
        "AIRFLOW_ADMIN_PASSWORD",
        "AIRFLOW_JWT_SECRET",
    )
    env = {name: secrets.token_hex(12) for name in names}
    env["AIRFLOW_FERNET_KEY"] = __import__("base64").urlsafe_b64encode(secrets.token_bytes(32)).decode()
    # The postgres image does the same with POSTGRES_USER and POSTGRES_PASSWORD.
    postgres_cluster._execute(f"CREATE ROLE airflow SUPERUSER LOGIN PASSWORD '{env['POSTGRES_PASSWORD']}'")
    postgres_cluster._execute("CREATE DATABASE airflow OWNER airflow")
    for name in ("dags", "plugins", "docker"):
        (home / name).symlink_to(ROOT / name)
    (home / "config").mkdir()
    cmdb = Cmdb()
    specs = [HostSpec(str(n), f"host{n}", {20000 + n: "nginx: master"}, {}) for n in range(1, 4)]
    with Fleet(specs, home / "fleet") as fleet:
        cmdb.entries = [
            {"id": n, "name": name, "address": host.address, "port": host.port}
            for n, (name, host) in enumerate(fleet.hosts.items())
        ]
        source = {"type": "http", "endpoint": "api/servers/", "items": "results", "pagination": {"style": "next_link"}}
        (home / "config" / "portmon.yaml").write_text(
            yaml.safe_dump({"cmdb": {"source": source}, "scan": {"pool": "portmon"}})
        )
        token = {"Authorization": f"Bearer {cmdb.token}"}
        env["AIRFLOW_CONN_CMDB_DEFAULT"] = json.dumps(
            {"conn_type": "http", "host": f"http://127.0.0.1:{cmdb.port}", "extra": token}
        )
        env["AIRFLOW_CONN_SSH_DEFAULT"] = json.dumps(
            {"conn_type": "ssh", "login": USER, "extra": {"key_file": str(fleet.key)}}
        )
        running = Stack(home, postgres_cluster, env)
        try:
            running.launch(
                "redis", [*running.command_of("redis"), "--port", str(running.redis_port), "--dir", str(home)]
            )
            running.wait(lambda: running.healthy("redis"), "redis", seconds=30)
            running.launch("airflow-init")
            init = running.processes.pop("airflow-init")
            assert init.wait(300) == 0, (home / "airflow-init.out").read_text()
            for name in AIRFLOW:
                running.launch(name)
            yield running
        finally:
            running.stop()
            cmdb.close()


def test_init_can_run_again(stack: Stack) -> None:
    done = subprocess.run(
        stack.command_of("airflow-init"), env=stack.env_of("airflow-init"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "up to date" in done.stdout


@pytest.mark.parametrize("name", AIRFLOW)
def test_a_service_starts_and_its_health_check_passes(stack: Stack, name: str) -> None:
    deadline = time.monotonic() + 240
    while not stack.healthy(name):
        assert stack.processes[name].poll() is None, (stack.home / f"{name}.out").read_text()[-3000:]
        assert time.monotonic() < deadline, (stack.home / f"{name}.out").read_text()[-3000:]


def test_the_dag_runs_on_celery(stack: Stack) -> None:
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
