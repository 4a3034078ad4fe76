"""The road of README, line by line: a fresh checkout, a fresh home, an environment that pip fills, and real hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.airflow_env import free_port
from tests.worlds import blocks, lab

pytestmark = [pytest.mark.full, pytest.mark.long]

if (why := lab.missing()) is not None:
    pytest.skip(why, allow_module_level=True)


@pytest.fixture
def servers() -> Iterator[lab.Lab]:
    made = lab.Lab(["web1", "web2"])
    try:
        for host in made.hosts.values():
            host.start_service(8080, "nginx: master")
        yield made
    finally:
        made.close()


def test_every_line_of_the_road_can_be_pasted(servers: lab.Lab, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    port = free_port()
    web1, web2 = servers.hosts.values()
    # Not those of this test's own interpreter: pip and airflow are to be those of the road.
    kept = {
        name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "http", "HTTP", "no_"))
    }
    # portmon-server.sh would make an account and a sudo rule of this very computer.
    account = "; ".join(f"cat ~/airflow/portmon_key.pub >> {host.folder}/authorized_keys" for host in (web1, web2))
    page = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/api/v2/version')"
    run = "airflow dags list-runs portmon --state success -o plain | grep -q scheduled"
    said = blocks.run(
        blocks.ROOT / "README.md",
        blocks.checkout(tmp_path / "checkout"),
        {**kept, "HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"},
        given={
            "10.0.0.11": web1.address,
            "10.0.0.12": web2.address,
            "--user portmon": f"--user {servers.user}",
            "portmon init": f"portmon init --port {port}",
        },
        instead={
            "for server in 10.0.0.11 10.0.0.12; do ssh root@$server sh -s < ~/airflow/portmon-server.sh; done": account
        },
        ready=f'python3 -c "{page}" 2>/dev/null',
        after=f"for i in $(seq 90); do {run} && break; sleep 4; done; {run}; portmon explain web2 8080",
        seconds=1500,
    )
    assert f"http://localhost:{port}" in said
    # The account has no sudo rule here: it sees the ports, and the doctor says what is missing.
    assert "sudo" in said
    assert "Asking web1" in said
    # web2 was asked by the run alone.
    assert "baseline" in said.rpartition("portmon explain web2 8080")[2]
