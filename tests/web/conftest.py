"""A fleet that lived for some hours, and the page over it."""

from __future__ import annotations

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


@pytest.fixture
def fleet(database: Database) -> Fleet:
    """Two web servers and a database, of which a quarter of an hour is known, until just now."""
    made = Fleet(database, Config())
    made.start = datetime.now(UTC).replace(microsecond=0) - 12 * FIVE
    made.add("web1", {22: "sshd", 80: "nginx"}, site="fra1", env="prod")
    made.add("web2", {22: "sshd", 80: "nginx"}, site="ams1", env="prod")
    made.add("db", {22: "sshd", 5432: "postgres"}, site="fra1")
    for _ in range(3):
        made.run()
    return made


@pytest.fixture
def browser(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Browser:
    show(fleet.database, monkeypatch, tmp_path)
    return Browser()
