"""Care of the state database: sizes, giving space back, a copy, and the way back to an earlier release.

What must not meet a run that writes takes the lease of the evaluation: it waits for a moment, and then refuses.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, func, select, text

from portmon.errors import StorageError
from portmon.storage import lease
from portmon.storage.database import Database
from portmon.storage.tables import metadata

HELD = timedelta(minutes=10)
"""A crash keeps runs waiting for no longer than this. What takes longer has the database's own locks."""
WAIT = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class TableSize:
    """How large a table is.

    :param size: bytes with indexes and what is stored apart; None where SQLite can't tell
    """

    name: str
    rows: int
    size: int | None


def table_sizes(conn: Connection) -> list[TableSize]:
    """Every table of the state, the largest first."""
    found = []
    for table in metadata.sorted_tables:
        rows = conn.execute(select(func.count()).select_from(table)).scalar() or 0
        found.append(TableSize(table.name, rows, _size_of(conn, table.name)))
    return sorted(found, key=lambda one: (-(one.size or 0), -one.rows, one.name))


def _size_of(conn: Connection, name: str) -> int | None:
    query = "SELECT pg_total_relation_size(to_regclass(:name))"
    if conn.dialect.name == "sqlite":
        if "ENABLE_DBSTAT_VTAB" not in conn.execute(text("PRAGMA compile_options")).scalars().all():
            return None
        query = "SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_schema WHERE tbl_name = :name)"
    return int(conn.execute(text(query), {"name": name}).scalar() or 0)


def total_size(conn: Connection) -> int:
    """Bytes of all tables; of SQLite those of the file, free space included."""
    if conn.dialect.name == "sqlite":
        pages, size = (conn.execute(text(f"PRAGMA {name}")).scalar() or 0 for name in ("page_count", "page_size"))
        return int(pages * size)
    return sum(one.size or 0 for one in table_sizes(conn))


def vacuum(database: Database) -> tuple[int, int]:
    """Give the space of deleted rows back, and let the database look at its tables anew.

    :returns: bytes before and after
    :raises StorageError: a run writes just now
    """
    with _alone(database, "db vacuum"):
        with database.begin() as conn:
            before = total_size(conn)
        if database.is_sqlite:
            with _file(database) as raw:
                raw.execute("VACUUM")
                raw.execute("ANALYZE")
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
                for table in metadata.sorted_tables:
                    conn.execute(text(f"VACUUM (ANALYZE) {conn.dialect.identifier_preparer.format_table(table)}"))
        with database.begin() as conn:
            return before, total_size(conn)


def back_up(database: Database, path: Path) -> int:
    """Copy a SQLite state to a new file while runs go on: the copy is of one moment.

    :returns: its bytes
    :raises StorageError: it is no SQLite, or the file is there
    """
    if not database.is_sqlite:
        raise StorageError(f"{database} is no file: use pg_dump, as docs/operations.md says")
    if path.exists():
        raise StorageError(f"{path} is there already: name a new file")
    path.touch(mode=0o600)
    try:
        with _file(database) as raw, closing(sqlite3.connect(path)) as copy:
            raw.backup(copy)
            (damage,) = copy.execute("PRAGMA integrity_check").fetchone()
        if damage != "ok":
            raise StorageError(f"{database} is damaged: {damage}")
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            raise StorageError(f"{database}: {error}") from error
        raise
    return path.stat().st_size


def downgrade(database: Database, revision: str) -> list[str]:
    """Take the tables back to those of an earlier release, in one transaction, before that release is installed.

    :returns: the revisions that were undone, newest first
    :raises StorageError: a run writes just now, or no way leads there
    """
    database.check_way_back(revision)
    with _alone(database, "db downgrade"):
        return database.downgrade(revision)


@contextmanager
def _alone(database: Database, what: str) -> Iterator[None]:
    with lease.hold(database, lease.STATE, what, ttl=HELD, wait=WAIT):
        yield


@contextmanager
def _file(database: Database) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(database.url.database or "", timeout=WAIT.total_seconds())) as raw:
            raw.isolation_level = None
            yield raw
    except sqlite3.OperationalError as error:
        raise StorageError(f"{database}: {error}") from error
