"""What the next run would make of a host list; looking changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from portmon.api.preview import PreviewView, preview
from portmon.config import Config
from portmon.errors import CmdbError, StorageError
from portmon.model.host import Host, InvalidHost, Inventory
from portmon.steps.run import Run
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.runs import take

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def listed(*numbers: int, invalid: tuple[InvalidHost, ...] = ()) -> Inventory:
    return Inventory(tuple(Host(str(n), f"h{n}", f"10.0.0.{n}") for n in numbers), invalid, source="CMDB")


class Site:
    """A state database that runs have filled."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.runs = 0

    def run(self, found: Inventory, *, at: datetime) -> None:
        self.runs += 1
        take(self.database, Config(), Run(f"run{self.runs}"), found, now=at)

    def preview(self, found: Inventory, **values: Any) -> PreviewView:
        with self.database.reading() as conn:
            return preview(conn, Config(**values), found, now=NOW)


@pytest.fixture
def site(database: Database) -> Site:
    return Site(database)


def test_what_would_follow(site: Site) -> None:
    site.run(listed(*range(1, 21)), at=NOW - timedelta(hours=30))
    site.run(listed(*range(2, 21)), at=NOW - timedelta(hours=24, minutes=10))
    site.run(listed(*range(3, 21)), at=NOW - timedelta(minutes=30))
    found = listed(2, 3, *range(5, 21), 30)
    shown = site.preview(found)
    assert shown.state is not None
    assert shown.state.model_dump() == {
        "known": 20,
        "new": ({"id": "30", "name": "h30"},),
        "hide": ({"id": "4", "name": "h4"},),
        "resume": ({"id": "2", "name": "h2"},),
        "purge": ({"id": "1", "name": "h1"},),
        "refused": None,
    }
    assert shown.problem is None
    # A run does what was shown.
    site.run(found, at=NOW)
    after = site.preview(found).state
    assert after is not None
    assert (after.known, after.new, after.hide, after.resume) == (20, (), (), ())


def test_pruning_that_would_be_refused(site: Site) -> None:
    site.run(listed(*range(1, 21)), at=NOW)
    state = site.preview(listed(1, 2)).state
    assert state is not None
    assert state.hide == ()
    assert "18 of 20 hosts are missing" in str(state.refused)


def test_a_list_that_a_run_would_not_use(site: Site) -> None:
    site.run(listed(1, 2), at=NOW)
    shown = site.preview(listed())
    assert "gave an empty list where there were 2 hosts" in str(shown.problem)
    assert shown.state is not None
    assert "an old one" in str(shown.state.refused)
    broken = listed(invalid=(InvalidHost(1, "1", "h1", "it has no address"),))
    assert "it has no valid entry of 1" in str(site.preview(broken).problem)


def test_without_a_state_database(tmp_path: Path) -> None:
    path = tmp_path / "none" / "portmon.db"
    shown = Site(Database(f"sqlite:///{path}")).preview(listed(1))
    assert not path.parent.exists()
    assert (shown.state, shown.problem) == (None, None)
    assert preview(None, Config(), listed(), now=NOW).problem is None
    broken = listed(invalid=(InvalidHost(1, None, None, "it has no id"),))
    assert "because it has no id" in str(preview(None, Config(), broken, now=NOW).problem)


def test_an_empty_database_is_none(database_url: str) -> None:
    assert Site(Database(database_url)).preview(listed(1)).state is None
    with Database(database_url).reading() as conn:
        assert conn is None


def test_looking_can_only_read(site: Site) -> None:
    with pytest.raises((StorageError, SQLAlchemyError)), site.database.reading() as conn:
        assert conn is not None
        conn.execute(text("DELETE FROM hosts"))


def test_a_database_of_another_version_is_not_read(site: Site) -> None:
    with site.database.begin() as conn:
        conn.execute(text("UPDATE portmon_alembic_version SET version_num = 'other'"))
    with pytest.raises(StorageError, match="has revision other"):
        site.preview(listed(1))


def test_looking_changes_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "a b#?%"
    folder.mkdir()
    site = Site(migrated(folder / "p.db"))
    site.run(listed(1), at=NOW)
    # SQLite keeps files beside it as long as a connection is open.
    site.database.dispose()

    def files() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}

    before = files()
    state = site.preview(listed(1)).state
    assert state is not None
    assert (state.known, state.new) == (1, ())
    assert files() == before


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    site = Site(migrated(tmp_path / "p.db"))
    site.run(listed(1), at=NOW)
    with site.database.begin():
        assert site.preview(listed(1)).state is not None


def test_the_message_of_a_cmdb_error_has_its_source_once() -> None:
    error = CmdbError("down", source="CMDB x")
    assert (str(error), error.message) == ("CMDB x: down", "down")
