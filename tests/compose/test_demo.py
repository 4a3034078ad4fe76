"""The profile ``demo`` of docker-compose.yaml: what its services run, natively."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError

import pytest
import requests
import yaml

from demo.airflow_env import ROOT, free_port
from portmon.config import load_config
from tests.worlds.alertmanager import Alertmanager, missing
from tests.worlds.mailbox import Mailbox
from tests.worlds.sshd import make_key, needs_sshd
from tests.worlds.stack import SERVICES
from tests.worlds.waiting import skip_without, until

pytestmark = pytest.mark.slow

FOLDER = ROOT / "docker" / "demo"
HOSTS = [name for name in SERVICES if name.startswith("demo-") and "--name" in SERVICES[name].get("command", [])]
ENTRIES = json.loads((FOLDER / "hosts.json").read_text())


def setting(name: str) -> str:
    """What docker/demo/demo.env has for a variable."""
    return dict(line.split("=", 1) for line in (FOLDER / "demo.env").read_text().splitlines() if "=" in line)[name]


def native(parts: list[str]) -> list[str]:
    """A command of the demo image, for this machine."""
    places = {"python3": sys.executable, "/opt/demo/cmdb.py": str(ROOT / "demo" / "cmdb.py")}
    return [places.get(part, part.replace("/opt/demo", str(FOLDER))) for part in parts]


def test_hosts_of_the_cmdb_are_services() -> None:
    assert [entry["address"] for entry in ENTRIES] == HOSTS
    for name in HOSTS:
        assert SERVICES[name]["hostname"] == name
        assert SERVICES[name]["command"][:2] == ["--name", name]


# ── the hosts ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """demo-web1 in a network of its own, and the key of its account."""
    skip_without(
        None if os.geteuid() == 0 and shutil.which("nsenter") else "root may make a network, and nsenter is there"
    )
    key = make_key(tmp_path / "key")
    entrypoint = re.findall(r"^ENTRYPOINT (\[.*\])$", (ROOT / "Dockerfile").read_text(), flags=re.M)[0]
    command = native([*json.loads(entrypoint), *SERVICES["demo-web1"]["command"]])
    command[command.index("/var/lib/demo")] = str(tmp_path)
    # This Python may be one that only root can read.
    command[command.index("50000")] = "0"
    # There is no account `portmon` here, and the folder of tests is another one than /etc/ssh.
    of_sshd = ["-o", "AllowUsers=root", "-o", f"AuthorizedKeysFile={key}.pub", "-o", "StrictModes=no"]
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command, "--", *of_sshd],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            said = ""
            while "demo-web1 is ready" not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            yield process, key
        finally:
            process.terminate()


@needs_sshd
def test_a_host_lets_the_key_in_and_a_service_of_it_dies(host: tuple[subprocess.Popen[str], Path]) -> None:
    process, key = host

    def listeners() -> str:
        options = ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={key}.known", "-o", "BatchMode=yes"]
        ssh = ["ssh", "-i", key, *options, "root@127.0.0.1", "ss -Hltnp"]
        inside = ["nsenter", "--net", "--target", str(process.pid)]
        return subprocess.run([*inside, *ssh], capture_output=True, text=True, check=False).stdout

    shown = until(listeners, "a login")
    assert re.search(r':8080 .*"nginx"', shown)
    assert re.search(r':9100 .*"node_exporter"', shown)
    (pid,) = re.findall(r'"nginx",pid=(\d+)', shown)
    os.kill(int(pid), 9)
    until(lambda: ":8080 " not in listeners(), "the end of nginx")
    # No zombie is left: the first process of a container waits for all.
    until(lambda: not Path("/proc", pid).exists(), "the end of its process")
    process.terminate()
    assert process.wait(30) == 0


# ── CMDB, Alertmanager and mail ─────────────────────────────────────────────────────────────────


def test_portmon_reads_its_hosts_from_the_cmdb() -> None:
    port = free_port()
    command = native([*SERVICES["demo-cmdb"]["entrypoint"], *SERVICES["demo-cmdb"]["command"]])
    assert command[-1] == "8000"
    env = {**os.environ, "DEMO_CMDB_TOKEN": setting("DEMO_CMDB_TOKEN")}
    refused = subprocess.run(command, env={**env, "DEMO_CMDB_TOKEN": ""}, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.split(" is ")[0]) == (1, "DEMO_CMDB_TOKEN")
    connection = json.loads(setting("AIRFLOW_CONN_CMDB_DEFAULT"))
    assert connection["host"] == f"http://demo-cmdb:{command[-1]}"

    def fetch(path: str) -> object:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", headers=connection["extra"])
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    with subprocess.Popen([*command[:-1], str(port)], env=env, stdout=subprocess.PIPE, text=True) as cmdb:
        try:
            assert cmdb.stdout is not None
            assert cmdb.stdout.readline() == f"serving 3 hosts on port {port}\n"
            source = load_config(FOLDER / "portmon.yaml").cmdb.source
            assert fetch(source.endpoint) == {"count": 3, "next": None, "results": ENTRIES}  # type: ignore[union-attr]
            connection["extra"] = {}
            with pytest.raises(HTTPError, match="401"):
                fetch("api/servers/")
        finally:
            cmdb.terminate()


def test_alertmanager_mails_to_the_catcher(tmp_path: Path) -> None:
    skip_without(missing())
    service = SERVICES["demo-alertmanager"]
    assert service["command"][0].split("=")[1] in service["volumes"][0]
    assert json.loads(setting("AIRFLOW_CONN_ALERTMANAGER_DEFAULT"))["host"] == "http://demo-alertmanager:9093"
    with closing(Mailbox()) as mails:
        text = (FOLDER / "alertmanager.yml").read_text()
        assert "demo-mail:1025" in text
        server = Alertmanager(tmp_path, text.replace("demo-mail:1025", f"127.0.0.1:{mails.port}"))
        with closing(server):
            server.start()
            alert = {"labels": {"alertname": "PortDown", "host": "demo-web1"}, "annotations": {}}
            requests.post(f"{server.url}/api/v2/alerts", json=[alert], timeout=10).raise_for_status()
            until(lambda: mails.got, "the mail of Alertmanager")
    assert mails.got[0][0] == ["ops@example.com"]
    smtp = json.loads(setting("AIRFLOW_CONN_SMTP_DEFAULT"))
    assert (smtp["host"], smtp["port"]) == ("demo-mail", 1025)


def test_the_demo_is_configured_where_the_containers_see_it() -> None:
    assert setting("PORTMON_CONFIG").replace("/opt/airflow", str(ROOT)) == str(FOLDER / "portmon.yaml")
    config = yaml.safe_load((FOLDER / "portmon.yaml").read_text())
    assert {channel["type"] for channel in config["alerts"]["channels"]} == {"log", "alertmanager", "notifier"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "docker /opt/airflow/docker" in dockerfile
