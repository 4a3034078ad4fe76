"""A fleet that lived for some hours, and the page over it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from portmon.config import Config
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.fleet import FIVE, Fleet
from tests.worlds.page import Browser, show

HOSTILE = "<script>alert(1)</script>\"'&\u202egnp.exe" + "x" * 300


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = migrated(tmp_path / "state.db")
    yield made
    made.dispose()


def fleet_of(database: Database, start: datetime) -> Fleet:
    made = Fleet(database, Config())
    made.start = start
    made.add("web1", {22: "sshd", 80: "nginx"}, site="fra1", env="prod")
    made.add("web2", {22: "sshd", 80: "nginx"}, site="ams1", env="prod")
    made.add("db", {22: "sshd", 5432: "postgres"}, site="fra1")
    return made


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, datetime]:
    """A database after three runs, and when the first one began: made once, for its tests to copy."""
    file = tmp_path_factory.mktemp("lived") / "state.db"
    start = datetime.now(UTC).replace(microsecond=0) - 12 * FIVE
    database = migrated(file)
    fleet = fleet_of(database, start)
    for _ in range(3):
        fleet.run()
    # The last connection that closes empties the log into the file.
    database.dispose()
    return file, start


@pytest.fixture
def fleet(database: Database, lived: tuple[Path, datetime]) -> Fleet:
    """Two web servers and a database, of which a quarter of an hour is known, until just now."""
    file, start = lived
    made = fleet_of(database, start)
    if database.is_sqlite:
        database.dispose()
        shutil.copyfile(file, str(database.url.database))
        made.number = 3
    else:
        for _ in range(3):
            made.run()
    return made


@pytest.fixture
def browser(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Browser:
    show(fleet.database, monkeypatch, tmp_path)
    return Browser()
