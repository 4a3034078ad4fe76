"""Sizes, vacuum, backup and the way back to an earlier revision, on both kinds of databases with data in them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from portmon.config import Config
from portmon.errors import StorageError
from portmon.storage import care, contents, lease
from portmon.storage import database as databases
from portmon.storage.database import FIRST_RELEASED, Database, _alembic_config
from portmon.storage.tables import metadata
from tests.worlds.fleet import Fleet

MINUTE = timedelta(minutes=1)
NEXT = '''"""Next release"""
from alembic import op
from sqlalchemy import Column, Text

revision = "r9999"
down_revision = {head!r}


def upgrade() -> None:
    op.add_column("hosts", Column("extra", Text, server_default="x"))
    op.create_table("extras", Column("name", Text, primary_key=True))
    {broken_up}


def downgrade() -> None:
    op.drop_table("extras")
    op.drop_column("hosts", "extra")
    {broken_down}
'''


@pytest.fixture
def filled(database: Database) -> Database:
    """A state of three hosts with a port that is down."""
    fleet = Fleet(database, Config())
    for name in ("web1", "web2", "web3"):
        fleet.add(name, {80: "nginx", 443: "nginx"})
    fleet.run()
    fleet.machines["web1"].kill(443)
    fleet.run()
    return database


def rows(database: Database) -> dict[str, list[str]]:
    """Every row of every table that the database has, but for leases, which the commands take."""
    with database.begin() as conn:
        names = set(inspect(conn).get_table_names()) - {"leases"}
        return {name: sorted(map(shown, conn.execute(text(f"SELECT * FROM {name}")))) for name in names}


def shown(row: Any) -> str:
    # A column that was dropped and added comes last.
    values = row._mapping.items()
    return str(sorted((key, bytes(value) if isinstance(value, memoryview) else value) for key, value in values))


class NextRelease:
    """Migrations with one more, of a release that is not there yet."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "next" / "9999_next_release.py"
        self.file.parent.mkdir()
        config = _alembic_config()
        (self.head,) = ScriptDirectory.from_config(config).get_heads()
        own = Path(databases.__file__).parent / "migrations" / "versions"

        def both() -> Any:
            made = _alembic_config()
            made.set_main_option("path_separator", "os")
            made.set_main_option("version_locations", f"{own}:{self.file.parent}")
            return made

        self.write()
        monkeypatch.setattr(databases, "_alembic_config", both)

    def write(self, *, broken_up: str = "pass", broken_down: str = "pass") -> None:
        self.file.write_text(NEXT.format(head=self.head, broken_up=broken_up, broken_down=broken_down))


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NextRelease:
    return NextRelease(tmp_path, monkeypatch)


def test_up_and_down_and_up_again_keeps_the_data(filled: Database, release: NextRelease) -> None:
    before = rows(filled)
    assert filled.migrate() == ["r9999 Next release"]
    with pytest.raises(StorageError, match="which a newer portmon made"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(databases, "_alembic_config", _alembic_config)
        filled.migrate()
    assert care.downgrade(filled, release.head) == ["r9999"]
    assert rows(filled) == before
    assert filled.migrate() == ["r9999 Next release"]
    assert care.downgrade(filled, "r9999") == []


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_migration_that_fails_leaves_everything_as_it_was(filled: Database, release: NextRelease, way: str) -> None:
    if way == "up":
        release.write(broken_up="raise OSError('power cut')")
    else:
        release.write(broken_down="raise OSError('power cut')")
        filled.migrate()
    before = rows(filled)
    with pytest.raises(OSError, match="power cut"):
        filled.migrate() if way == "up" else care.downgrade(filled, release.head)
    assert rows(filled) == before


def test_every_migration_after_the_first_release_can_be_undone() -> None:
    script = ScriptDirectory.from_config(_alembic_config())
    later = script.iterate_revisions("head", FIRST_RELEASED)
    assert [one.revision for one in later if not hasattr(one.module, "downgrade")] == []
    assert script.get_revision(FIRST_RELEASED) is not None


@pytest.mark.parametrize(
    ("revision", "text_"),
    [("r0001", "of a development version"), ("r4711", "there is no revision 'r4711'; there are: ")],
)
def test_no_way_leads_there(filled: Database, revision: str, text_: str) -> None:
    with pytest.raises(StorageError, match=text_):
        care.downgrade(filled, revision)


@pytest.mark.parametrize("what", ["vacuum", "downgrade"])
def test_a_run_that_writes_is_not_disturbed(filled: Database, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(care, "WAIT", timedelta(0))
    with (
        lease.hold(filled, lease.STATE, "diff run7", ttl=MINUTE, wait=MINUTE),
        pytest.raises(StorageError, match="'state' is held by 'diff run7'"),
    ):
        care.vacuum(filled) if what == "vacuum" else care.downgrade(filled, FIRST_RELEASED)


def test_vacuum_gives_space_back(filled: Database) -> None:
    with filled.begin() as conn:
        digest = contents.put(conn, os.urandom(4 << 20), now=datetime.now(UTC))
    with filled.begin() as conn:
        conn.execute(text("DELETE FROM contents WHERE digest = :digest"), {"digest": digest})
    kept = rows(filled)
    before, after = care.vacuum(filled)
    assert after < before
    assert rows(filled) == kept


def test_sizes(filled: Database) -> None:
    with filled.begin() as conn:
        found = {one.name: one for one in care.table_sizes(conn)}
        total = care.total_size(conn)
    assert found.keys() == metadata.tables.keys()
    assert found["ports"].rows == 6
    sizes = [one.size for one in found.values() if one.size is not None]
    assert 0 < sum(sizes) <= total


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'state.db'}")
    made.migrate()
    yield made
    made.dispose()


def test_a_copy_is_of_one_moment_while_another_process_writes(file: Database, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db")) as writer:
        writer.execute("INSERT INTO conditions (name, since) VALUES ('x', '2026-01-01')")
        size = care.back_up(file, tmp_path / "copy.db")
        writer.commit()
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT count(*) FROM conditions").fetchone() == (0,)
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert size == (tmp_path / "copy.db").stat().st_size > 0


def test_a_copy_writes_over_nothing_and_leaves_nothing_half_done(file: Database, tmp_path: Path) -> None:
    (tmp_path / "there.db").write_text("mine")
    with pytest.raises(StorageError, match="is there already"):
        care.back_up(file, tmp_path / "there.db")
    assert (tmp_path / "there.db").read_text() == "mine"
    (tmp_path / "state.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StorageError):
        care.back_up(file, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_postgresql_has_a_tool_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="use pg_dump"):
        care.back_up(Database("postgresql://nowhere/state"), tmp_path / "copy.db")
