"""``portmon hosts``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from portmon.config import Config
from portmon.model.host import Host, Inventory
from portmon.steps.run import Run
from tests.worlds.runs import take
from tests.worlds.shell import Shell

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CSV = "id,name,address,port,declared,label.role\n1,web01,10.0.0.1,2222,80;443,web\n2,web02,10.0.0.2,,,\n3,web03,,,,\n"


class Hosts(Shell):
    """``hosts`` with a file for the CMDB."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.config = self.folder / "portmon.yaml"
        self.config.write_text("cmdb:\n  source: {type: file, path: hosts.csv}\n")

    def hosts(self, text: str = CSV, *arguments: str) -> tuple[int, str, str]:
        (self.folder / "hosts.csv").write_text(text, encoding="utf-8")
        return self("hosts", "--config", str(self.config), *arguments)

    def know(self, *numbers: int) -> None:
        found = Inventory(tuple(Host(str(n), f"web{n:02}", f"10.0.0.{n}") for n in numbers))
        take(self.database, Config(), Run("r"), found, now=NOW)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    with closing(Hosts(tmp_path, capsys, monkeypatch)) as made:
        yield made


def test_hosts_and_invalid_entries(shell: Hosts) -> None:
    code, out, err = shell.hosts()
    assert (code, err) == (0, "")
    assert re.search(r"^1 +web01 +10\.0\.0\.1 +2222 +80,443 +role=web *$", out, flags=re.M)
    assert re.search(r"^2 +web02 +10\.0\.0\.2 +- +- *$", out, flags=re.M)
    assert "hosts: 2, invalid: 1, disabled: 0\n" in out
    assert "invalid: entry 3 (web03): it has no address\n" in out
    assert "known" not in out
    assert not (shell.path).exists()


def test_what_would_follow(shell: Hosts) -> None:
    shell.know(1, 3, 4)
    _, out, _ = shell.hosts()
    assert "known: 3\nwould add: web02 (2)\nwould hide: web04 (4)\n" in out


def test_pruning_that_would_be_refused(shell: Hosts) -> None:
    shell.know(*range(1, 20))
    code, out, _ = shell.hosts()
    assert code == 0
    assert "would refuse to prune: 16 of 19 hosts are missing" in out


def test_json(shell: Hosts) -> None:
    shell.know(1, 4)
    code, out, err = shell.hosts(CSV, "--format", "json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert shown["hosts"][0] == {
        "id": "1",
        "name": "web01",
        "address": "10.0.0.1",
        "port": 2222,
        "labels": {"role": "web"},
        "declared": [80, 443],
    }
    assert shown["invalid"] == [{"position": 3, "id": "3", "name": "web03", "reason": "it has no address"}]
    assert shown["state"]["hide"] == [{"id": "4", "name": "web04"}]


def test_the_documented_json_is_the_real_one(shell: Hosts) -> None:
    shell.know(1)
    shown = json.loads(shell.hosts(CSV, "--format", "json")[1])
    documented = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "cmdb.md").read_text().split("## What a host")[0], re.M)
    assert list(shown) == documented
    from portmon.cli.hosts import list_hosts

    names = set(re.findall(r"`(\w+)`", str(list_hosts.__doc__)))
    nested = {*shown["hosts"][0], *shown["invalid"][0], *shown["state"]}
    assert names == {*shown, *nested}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\n1\n", "hosts.csv: line 2: has another number of columns"),
        ("id,address\n1,\n2,a b\n", "it has no valid entry of 2, the first is invalid because it has no address"),
    ],
)
@pytest.mark.parametrize("output", ["table", "json"])
def test_no_usable_list(shell: Hosts, text: str, message: str, output: str) -> None:
    code, _, err = shell.hosts(text, "--format", output)
    assert code == 1
    assert err.startswith("error: ")
    assert message in err


def test_an_empty_list_where_hosts_were(shell: Hosts) -> None:
    shell.know(1, 2)
    code, out, err = shell.hosts("id,address\n")
    assert code == 1
    assert "gave an empty list where there were 2 hosts" in err
    assert "would hide" not in out


def test_hostile_text_is_harmless(shell: Hosts) -> None:
    name = "[red]\x1b[31m\u202eevil\u200b[/]"
    text = f'id,name,address,label.x\n"[bold]a\u202e",{name[:5]}\u202eb,10.0.0.1,"\x9b2J\u2066"\n2,"{name}",10.0.0.2,\n'
    code, out, err = shell.hosts(text)
    assert (code, err) == (0, "")
    assert "[bold]a\\u202e" in out
    assert "[red]\\u202eb" in out
    assert "x=\\x9b2J\\u2066" in out
    assert "the name" in out
    assert all(char.isprintable() or char == "\n" for char in out)


def test_hostile_text_in_an_error_is_harmless(shell: Hosts) -> None:
    shell.config.write_text("cmdb:\n  source: {type: ansible, path: hosts.csv}\n")
    code, _, err = shell.hosts("h\u202e[1:\x1b]\n")
    assert code == 1
    assert all(char.isprintable() or char == "\n" for char in err)


def test_a_database_that_can_not_be_compared(shell: Hosts) -> None:
    shell.know(1)
    with shell.database.begin() as conn:
        conn.exec_driver_sql("UPDATE portmon_alembic_version SET version_num = 'other'")
    code, out, err = shell.hosts()
    assert code == 0
    assert "hosts: 2" in out
    assert "not compared with known hosts: " in err
    assert "has revision other" in err


def test_the_real_command(shell: Hosts) -> None:
    """``portmon`` in a process of its own: what is logged on the way is not part of its JSON."""
    (shell.folder / "hosts.csv").write_text(CSV)
    shell.know(1)
    shell.database.dispose()
    command = [sys.executable, "-m", "portmon", "hosts", "--config", str(shell.config), "--format", "json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=shell.folder)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert [host["name"] for host in shown["hosts"]] == ["web01", "web02"]
    assert shown["state"]["known"] == 1
    assert {path.name for path in shell.folder.iterdir()} == {"hosts.csv", "portmon.yaml", "state.db"}
