"""The state database is lost and restored as docs/operations.md says, in both kinds: nothing is told twice, nothing is
forgotten. The commands are those of the document."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from portmon.config import Config
from portmon.storage.database import Database
from tests.worlds.blocks import ROOT, shell_blocks
from tests.worlds.fleet import Fleet
from tests.worlds.postgres import tools


def commands(*beginnings: str) -> str:
    """The blocks of the document that begin so, in one script."""
    found = shell_blocks(ROOT / "docs" / "operations.md")
    chosen = [next(one.text for one in found if one.text.startswith(begin)) for begin in beginnings]
    return "\n".join(["set -e", *chosen])


class Operator:
    """A person with a shell, where portmon's connection leads to the database."""

    def __init__(self, home: Path, url: str) -> None:
        (home / "bin").mkdir()
        (home / "bin" / "portmon").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m portmon "$@"\n')
        (home / "bin" / "portmon").chmod(0o755)
        self.home = home
        self.env = {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(home / "bin"), *tools(), os.environ["PATH"]]),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONPATH": str(ROOT / "plugins"),
            "PORTMON_DB": url,
        }
        # A path is below $AIRFLOW_HOME.
        self.env["AIRFLOW_CONN_PORTMON_DB"] = url if url.startswith("postgres") else "sqlite:///portmon.db"

    def __call__(self, script: str) -> None:
        done = subprocess.run(
            ["sh", "-c", script], cwd=self.home, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_what_was_wrong_goes_on_after_a_restore(database_url: str, tmp_path: Path) -> None:
    is_sqlite = database_url.startswith("sqlite")
    operator = Operator(tmp_path, database_url)
    database = Database(database_url)
    database.migrate()
    fleet = Fleet(database, Config())
    for name in ("web1", "web2"):
        fleet.add(name, {80: "nginx", 443: "nginx"})
    fleet.run()
    fleet.machines["web1"].kill(443)
    fleet.run()
    assert [got.message.title for got in fleet.got] == ["[portmon] 1 port down on web1: tcp/443 nginx"]

    operator(commands("portmon db backup" if is_sqlite else "pg_dump"))
    fleet.machines["web2"].kill(80)
    fleet.run()
    assert len(fleet.got) == 2
    # The disaster.
    database.dispose()
    if is_sqlite:
        Path(database.url.database or "").write_bytes(b"")
    else:
        with database.begin() as conn:
            conn.execute(text("DROP SCHEMA public CASCADE"))
            conn.execute(text("CREATE SCHEMA public"))
        database.dispose()
    operator(commands('rm -f "$AIRFLOW_HOME/portmon.db"' if is_sqlite else "pg_restore"))

    fleet.run()
    # What began after the copy is told again, what was open is not.
    assert [got.message.title for got in fleet.got[2:]] == ["[portmon] 1 port down on web2: tcp/80 nginx"]
    fleet.machines["web1"].start(443, "nginx")
    fleet.run()
    (over,) = fleet.got[3:]
    assert "443" in over.message.title
    assert over.message.alerts[0].id == fleet.got[0].message.alerts[0].id
    database.dispose()
