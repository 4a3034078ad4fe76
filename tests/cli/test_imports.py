"""What commands import: Airflow takes longer than anything that most of them do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from portmon.airflow import installation
from tests.cli.test_width import world
from tests.worlds.shell import run_command

__all__ = ["world"]
HEAVY = ("airflow", "pandas", "numpy", "paramiko", "cryptography", "fastapi", "jinja2", "requests")
_SCRIPT = f"""
import sys
sys.argv[0] = "portmon"
from portmon.cli import main
try:
    main()
finally:
    print("imported:", *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""


def run(*arguments: str, home: Path) -> tuple[str, set[str]]:
    """What a command prints, and which of :data:`HEAVY` it imports."""
    folder = str(installation.PACKAGE.parent)
    environment = {**os.environ, "PYTHONPATH": folder, "AIRFLOW_HOME": str(home), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "command",
    [("--help",), ("status", "--help"), ("export", "events", "--help"), ("probe",), ("parse", "FILE")],
    ids=" ".join,
)
def test_what_needs_no_state_imports_nothing_heavy(command: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "listing"
    file.write_text("tcp 0 0 0.0.0.0:80 0.0.0.0:* LISTEN 7/nginx\n")
    assert run(*(str(file) if one == "FILE" else one for one in command), home=tmp_path)[1] == set()


@pytest.mark.parametrize(
    "command", [("status",), ("events",), ("ports",), ("alerts",), ("silences",), ("export", "ports")], ids=" ".join
)
def test_a_database_that_is_given_needs_no_airflow(
    world: tuple[Path, str], command: tuple[str, ...], tmp_path: Path
) -> None:
    out, imported = run("--database", str(world[0]), *command, home=tmp_path)
    assert imported == set()
    assert len(out.splitlines()) > 1


@pytest.mark.parametrize(
    "command", [("explain", "HOST"), ("ports", "HOST"), ("db", "usage"), ("simulate", "EMPTY")], ids=" ".join
)
def test_what_evaluates_needs_pandas_and_no_airflow(
    world: tuple[Path, str], command: tuple[str, ...], tmp_path: Path
) -> None:
    empty = tmp_path / "history.jsonl"
    empty.write_text("")
    given = {"HOST": "北京数据中心第三机房核心交易数据库服务器", "EMPTY": str(empty)}
    _, imported = run("--database", str(world[0]), *(given.get(one, one) for one in command), home=tmp_path)
    assert imported.isdisjoint({"airflow", "paramiko", "fastapi", "requests"})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--database", "x.db", "doctor"), "doctor asks Airflow for its database"),
        (("--database", "oracle://scott:s3cret@db/x", "status"), "is not supported: use PostgreSQL or SQLite"),
        (("--database", "http://s3cret:x:y", "status"), "give the file of a SQLite database, or postgresql://"),
        (("--database", "/none/x.db", "status"), "does not exist yet"),
    ],
)
def test_what_can_be_no_database(arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_command(capsys, *arguments)
    assert code in (1, 2)
    assert told in " ".join(err.replace("│", " ").split())
    assert "s3cret" not in err


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("", {}),
        ("[portmon]\nconfig = /etc/portmon.yaml\nschedule = 10min\n", {}),
        ("[portmon]\nconfig = $ELSEWHERE/portmon.yaml\n", {"ELSEWHERE": "/srv"}),
        (
            "[portmon]\nconfig = /etc/portmon.yaml\n",
            {"AIRFLOW__PORTMON__CONFIG": "$ELSEWHERE/own.yaml", "ELSEWHERE": "/srv"},
        ),
    ],
)
def test_options_are_read_as_airflow_reads_them(
    text: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.configuration import AirflowSDKConfigParser

    file = tmp_path / "airflow.cfg"
    file.write_text(text)
    monkeypatch.setenv("AIRFLOW_CONFIG", str(file))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    airflows = AirflowSDKConfigParser()
    airflows.read(file)
    for name, default in (("config", ""), ("schedule", "*/5 * * * *")):
        assert installation.option(name) == airflows.get("portmon", name, fallback=default).strip()
    file.write_text("no section\n")
    monkeypatch.delenv("AIRFLOW__PORTMON__CONFIG", raising=False)
    assert installation.option("config") is None
