"""The shell blocks of the documents: those that are marked as runnable do run, and the others are known."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from portmon.config import load_config
from tests.worlds import blocks
from tests.worlds.blocks import DOCUMENTS, ROOT, Block, shell_blocks

NOT_RUN = {
    "README.md": {
        "make demo": "minutes, and an environment of its own: .ci/run calls both",
        "for server in": "makes an account as root on two servers: tests/cli/test_init.py reads the script",
    },
    "alerts.md": {"portmon alerts": "needs an open alert of web01: tests/cli/test_decisions.py has them"},
    "benchmarks.md": {"make bench": "hours"},
    "cmdb.md": {
        "portmon hosts": "needs a CMDB: tests/cli/test_hosts.py has one",
        "airflow connections add cmdb_default --conn-type http --conn-host https://bkapi": "the page has added it before",
    },
    "forced-command.md": {
        "ssh root@web01": "needs a server: tests/e2e/test_rollout.py has one",
        "ANSIBLE_ROLES_PATH": "needs an inventory and servers: tests/e2e/test_rollout.py has them",
    },
    "operations.md": {
        "pip install": "the road of README installs the package",
        "sudo -u postgres": "needs a PostgreSQL server with a role for it",
        "sudo chown": "needs root, and gives the key away",
        "pg_dump": "needs a database with a state: tests/stories/test_restore.py",
        "pg_restore": "the same",
        "docker compose": "needs Docker: tests/compose runs what its services run",
        "kubectl": "needs Kubernetes: tests/compose/test_helm_values.py reads the values",
        "airflow backfill create": "needs a scheduler: tests/e2e/test_replay.py has one",
        'echo "UPDATE backfill': "is for a database with a backfill; a test of it is below",
    },
    "ssh.md": {"ssh-keygen -s": "needs an authority: tests/ssh/test_certificates.py has one"},
    "page.md": {"curl": "needs the page and a token"},
    "security.md": {
        "useradd": "needs root on a server",
        "portmon hostkeys accept": "needs a host whose key has changed: tests/cli/test_hosts.py",
    },
}
"""By document: how a block begins that is not run, and why. Documents in Chinese have the same blocks."""
ENGLISH = [page for page in DOCUMENTS if "zh" not in str(page.relative_to(ROOT))]
RUN = [
    page
    for page in ENGLISH
    if page.name != "README.md" and any("runnable" in block.marks for block in shell_blocks(page))
]


def known(page: Path, block: Block) -> list[str]:
    """The reasons why a block is not run."""
    own = NOT_RUN.get("README.md" if page.name.startswith("README") else page.name, {})
    return [why for begin, why in own.items() if block.text.startswith(begin)]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_is_marked_or_there_is_a_reason(page: Path) -> None:
    for block in shell_blocks(page):
        assert set(block.marks) <= {"runnable", "background"}, block
        assert ("runnable" in block.marks) != bool(known(page, block)), f"{page.name}:{block.line}"


def test_no_reason_is_left_of_a_block_that_is_gone() -> None:
    for page in ENGLISH:
        for begin in NOT_RUN.get(page.name, {}) if page.name != "README.md" or page.parent == ROOT else ():
            assert any(block.text.startswith(begin) for block in shell_blocks(page)), f"{page.name}: {begin}"


def test_a_block_is_found_with_its_marks_wherever_it_is() -> None:
    text = "a\n```sh runnable\none\n```\n1. b\n\n    ```sh\n    two\n        three\n    ```\n```\nfour\n```\n"
    assert blocks.blocks(text) == [
        Block(2, "sh", ("runnable",), "one\n"),
        Block(7, "sh", (), "two\n    three\n"),
        Block(11, "", (), "four\n"),
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the two databases, empty."""
    folder = tmp_path_factory.mktemp("home")
    made = "airflow db migrate && portmon db upgrade"
    subprocess.run(["sh", "-c", made], env=environment(folder), check=True, capture_output=True)
    return folder


def environment(folder: Path, plugins: Path = ROOT / "plugins") -> dict[str, str]:
    """Of a user whose home is a folder, with Airflow and portmon on the path."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "portmon").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m portmon "$@"\n')
    (tools / "portmon").chmod(0o755)
    return {
        "HOME": str(folder),
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "LC_ALL": "C.UTF-8",
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(plugins),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    # Thirteen connections of Airflow, five seconds each.
    [
        pytest.param(page, marks=[pytest.mark.long, pytest.mark.full]) if page.name == "alerts.md" else page
        for page in RUN
    ],
    ids=lambda page: page.name,
)
def test_what_is_marked_as_runnable_runs(page: Path, home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "home"
    shutil.copytree(home, mine)
    # What the runs of the first day leave.
    (mine / "airflow" / "logs" / "dag_id=portmon").mkdir(parents=True)
    source = blocks.checkout(tmp_path / "checkout")
    blocks.run(page, source, environment(mine, source / "plugins"))


# ── docker-compose ──────────────────────────────────────────────────────────────────────────────


def compose_road() -> str:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    return text.split("\n### docker-compose\n")[1].split("\n### ")[0]


COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())


def test_services_of_the_road_are_those_of_the_file() -> None:
    named = set(re.findall(r"\b(?:exec|run|--scale) (?:-\S+ )*([a-z]+(?:-[a-z0-9]+)+)", compose_road()))
    assert {"airflow-worker", "airflow-scheduler"} <= named <= set(COMPOSE["services"])


def test_folders_of_the_road_are_mounted_where_it_says() -> None:
    mounts = dict(volume.split(":")[:2] for volume in COMPOSE["x-airflow"]["volumes"])
    said = dict(re.findall(r"`(\./\w+)` as\s+`(/opt/\S+)`", compose_road()))
    assert said.keys() == {"./config", "./secrets"}
    assert said.items() <= mounts.items()
    assert COMPOSE["x-airflow"]["user"] in re.findall(r"\b\d{5}\b", compose_road())


def test_the_road_makes_all_that_the_file_asks_for(tmp_path: Path) -> None:
    source = blocks.checkout(tmp_path / "checkout")
    blocks.run_text(compose_road(), source, environment(tmp_path))
    lines = (source / ".env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    asked = set(re.findall(r"\$\{(\w+)(?::\?|:-\})", (ROOT / "docker-compose.yaml").read_text()))
    # Besides the administrator, who is made because there is a password.
    assert {name for name in asked if not given.get(name)} == {"AIRFLOW_VIEWER_PASSWORD"}
    # What the demo adds.
    connection = json.loads(given["AIRFLOW_CONN_CMDB_DEFAULT"])
    assert connection["extra"] == {"Authorization": f"Bearer {given['DEMO_CMDB_TOKEN']}"}
    assert len(given["DEMO_CMDB_TOKEN"]) == 64
    assert len(base64.urlsafe_b64decode(given["AIRFLOW_FERNET_KEY"])) == 32
    key = yaml.safe_load(given["AIRFLOW_CONN_SSH_DEFAULT"])["extra"]["key_file"]
    assert (source / key.replace("/opt/airflow/", "")).is_file()
    (config,) = (block.text for block in blocks.blocks(compose_road()) if block.language == "yaml")
    (source / "config" / "portmon.yaml").write_text(config)
    hosts = load_config(source / "config" / "portmon.yaml").cmdb.source.read(
        source / "config", lambda _: pytest.fail("it is no HTTP source")
    )
    assert [(host.name, host.address) for host in hosts.hosts] == [("web1", "10.0.0.11"), ("web2", "10.0.0.12")]
    for name in re.findall(r"`((?:config|secrets)/\S+?)`", compose_road()):
        assert (source / name).exists(), name


def test_the_backfill_that_blocks_is_a_row_that_can_be_closed() -> None:
    from airflow.models.backfill import Backfill

    (block,) = (one for one in shell_blocks(ROOT / "docs" / "operations.md") if "UPDATE backfill" in one.text)
    assert Backfill.__tablename__ == "backfill"
    assert set(re.findall(r"\b\w+_at\b", block.text)) <= {column.name for column in Backfill.__table__.columns}
