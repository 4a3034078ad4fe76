"""Commands of ``portmon``, run in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from portmon.storage.database import Database
from tests.worlds.databases import migrated


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run one as the command line would.

    :returns: exit code, and what it printed to stdout and to stderr: nothing that a terminal would obey
    """
    from portmon import cli

    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.app(list(arguments))
    out, err = capsys.readouterr()
    assert all(char.isprintable() or char == "\n" for char in out + err)
    return int(caught.value.code or 0), out, err


class Shell:
    """A folder with a state database, which the commands find by its Airflow connection.

    :param path: of the database, which is made at its first use
    """

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.path = folder / "state.db"
        self.capsys = capsys
        self._database: Database | None = None
        monkeypatch.setenv("AIRFLOW_CONN_PORTMON_DB", json.dumps({"conn_type": "sqlite", "host": str(self.path)}))

    @property
    def database(self) -> Database:
        if self._database is None:
            self._database = migrated(self.path)
        return self._database

    def close(self) -> None:
        if self._database is not None:
            self._database.dispose()

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        return run_command(self.capsys, *arguments)
