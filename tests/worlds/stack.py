"""The services of docker-compose.yaml as processes of this machine.

Commands, environment and health checks are taken from the file. Substituted is only what must differ:
names of other services, their ports, and the folder /opt/airflow.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from demo.airflow_env import ROOT, EmbeddedAirflow, free_port
from demo.cmdb import Cmdb
from demo.fleet import USER, Fleet, HostSpec
from tests.worlds.postgres import Cluster
from tests.worlds.waiting import until

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES = COMPOSE["services"]
AIRFLOW = [name for name in SERVICES if name.startswith("airflow-") and name != "airflow-init"]
SECRETS = (
    "POSTGRES_PASSWORD",
    "PORTMON_DB_PASSWORD",
    "REDIS_PASSWORD",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_API_SECRET_KEY",
)


class Stack(EmbeddedAirflow):
    """The services.

    :param cluster: runs in place of the service postgres
    :param env: what .env has
    :param local: settings of Airflow that differ from the file's
    """

    def __init__(
        self, home: Path, cluster: Cluster, env: dict[str, str], local: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(home, config=home / "config" / "portmon.yaml", connections={})
        self.redis_port = free_port()
        self.worker_port = free_port()
        self.values = env
        self.cluster = cluster
        self.local = dict(local or {})
        self.restarts = False
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
            **self.local,
        }
        return {**self.base, **own, **extra, **local}

    def command_of(self, name: str) -> list[str]:
        command = [self.native(str(part)) for part in SERVICES[name]["command"]]
        if name == "redis":
            command += ["--port", str(self.redis_port), "--dir", str(self.home)]
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

    def start(self, *_: Any, **__: Any) -> None:
        """Start all services in the order of the file."""
        # The postgres image does the same with POSTGRES_USER and POSTGRES_PASSWORD.
        self.cluster._execute(f"CREATE ROLE airflow SUPERUSER LOGIN PASSWORD '{self.values['POSTGRES_PASSWORD']}'")
        self.cluster._execute("CREATE DATABASE airflow OWNER airflow")
        self.launch("redis")
        self.wait(lambda: self.healthy("redis"), "redis", seconds=60)
        self.init()
        for name in AIRFLOW:
            self.launch(name)

    def init(self, **env: str) -> str:
        """Run airflow-init to its end, and return what it said.

        :param env: what .env has besides
        """
        self.values |= env
        done = subprocess.run(
            self.command_of("airflow-init"),
            env=self.env_of("airflow-init"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def wait(self, condition: Callable[[], Any], what: str, *, seconds: float, every: float = 0.3) -> Any:
        """Wait for a condition. With ``restarts`` a service that ends starts again meanwhile, as Docker restarts it."""
        if not self.restarts:
            return super().wait(condition, what, seconds=seconds, every=every)

        def met() -> Any:
            for name, process in list(self.processes.items()):
                if process.poll() is not None:
                    self.kill(name)
                    self.launch(name)
            with contextlib.suppress(OSError, urllib.error.URLError):
                return condition()

        return until(met, what, seconds=seconds, every=every)


@contextlib.contextmanager
def watched_by(home: Path, cluster: Cluster, **more: Any) -> Iterator[tuple[Stack, Fleet]]:
    """Three hosts, their CMDB, and the services, which are not started yet.

    :param more: ``config``: sections of portmon.yaml, ``env``: lines of .env, ``local``: settings of Airflow
    """
    env = {name: secrets.token_hex(12) for name in SECRETS}
    env["AIRFLOW_FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    for name in ("dags", "plugins", "docker"):
        (home / name).symlink_to(ROOT / name)
    (home / "config").mkdir()
    cmdb = Cmdb()
    specs = [HostSpec(str(n), f"host{n}", {20000 + n: "nginx: master"}, {}) for n in range(1, 4)]
    with contextlib.closing(cmdb), Fleet(specs, home / "fleet") as fleet:
        cmdb.entries = [
            {"id": n, "name": name, "address": host.address, "port": host.port}
            for n, (name, host) in enumerate(fleet.hosts.items())
        ]
        source = {"type": "http", "endpoint": "api/servers/", "items": "results", "pagination": {"style": "next_link"}}
        sections = {"cmdb": {"source": source}, "scan": {"pool": "portmon"}, **more.get("config", {})}
        (home / "config" / "portmon.yaml").write_text(yaml.safe_dump(sections))
        connections: dict[str, dict[str, Any]] = {
            "CMDB_DEFAULT": {
                "conn_type": "http",
                "host": f"http://127.0.0.1:{cmdb.port}",
                "extra": {"Authorization": f"Bearer {cmdb.token}"},
            },
            "SSH_DEFAULT": {"conn_type": "ssh", "login": USER, "extra": {"key_file": str(fleet.key)}},
        }
        env |= {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in connections.items()}
        running = Stack(home, cluster, env | more.get("env", {}), more.get("local"))
        try:
            yield running, fleet
        finally:
            running.stop()
