"""Connecting, transactions, migrations."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from portmon.errors import DatabaseBusyError, NoDatabaseError, StorageError, TooSlowError

# A replay migrates a scratch database: its lines would read as if the state moved there. Who migrates names the
# revisions.
logging.getLogger("alembic.runtime").setLevel(logging.WARNING)

VERSION_TABLE = "portmon_alembic_version"
FIRST_RELEASED = "r0010"
"""The revision of the first release: every later one can be undone."""
BUSY_SECONDS = 30
"""How long SQLite waits for another writer, and PostgreSQL for a connection."""
_CANCELED, _LOCKED = "57014", "55P03"
"""Of a query that was cut, and of one that waited too long for a lock. The texts are in the server's language:
https://www.postgresql.org/docs/current/errcodes-appendix.html"""
_BELIEVED = 10.0
"""Seconds for which a reader takes the tables to be those that it saw."""


class Database:
    """The state database.

    :param url: SQLAlchemy URL; ``postgres://`` and ``postgresql://`` mean psycopg2
    :param multi_machine: tasks run on several machines, each of which would have a SQLite file of its own
    :param keep_open: the connection stays open for the next transaction, until :meth:`dispose`
    :param throwaway: a SQLite file of one process, of no use after a crash
    :param patience: seconds to wait for other writers; default: 30 with SQLite, as long as it takes with PostgreSQL
    :raises StorageError: if such a database can't hold the state
    """

    def __init__(
        self,
        url: str | URL,
        *,
        multi_machine: bool = False,
        keep_open: bool = False,
        throwaway: bool = False,
        patience: int | None = None,
    ) -> None:
        self._patience = patience or BUSY_SECONDS
        self.url = make_url(str(url).replace("postgres://", "postgresql://", 1) if isinstance(url, str) else url)
        # Task processes live for seconds and use one connection: a pool is of no use.
        options: dict[str, Any] = {"poolclass": NullPool}
        if keep_open or throwaway:
            # PostgreSQL may have been restarted since the connection was used last.
            options = {"poolclass": QueuePool, "pool_size": 1, "pool_pre_ping": True}
        if self.url.get_backend_name() == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg2")
            # No table has this type, and the driver would query for it on every connection.
            options["use_native_hstore"] = False
            arguments: dict[str, Any] = {"connect_timeout": self._patience, "application_name": "portmon"}
            if patience is not None:
                arguments["options"] = f"-c lock_timeout={patience}s -c statement_timeout={patience}s"
        elif self.url.get_backend_name() == "sqlite":
            if multi_machine:
                raise StorageError(
                    "this executor runs tasks on several machines, and each of them would keep a SQLite state of its "
                    "own: point the Airflow connection portmon_db at a PostgreSQL database"
                )
            arguments = {"timeout": self._patience}
        else:
            raise StorageError(f"{self.url.get_backend_name()!r} is not supported: use PostgreSQL or SQLite")
        self.engine = sqlalchemy.create_engine(self.url, **options, connect_args=arguments)
        if self.is_sqlite:
            prepare = _prepare_throwaway if throwaway else partial(_prepare_sqlite, patience=self._patience)
            event.listen(self.engine, "connect", prepare)
            # A transaction that begins by reading can't become a writer while another one writes: lock at once.
            event.listen(self.engine, "begin", lambda conn: conn.exec_driver_sql("BEGIN IMMEDIATE"))

    def __str__(self) -> str:
        # Options of the driver may hold another password, as sslpassword does.
        return self.url.set(query={}).render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file on this machine."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back if it raises.

        :raises StorageError: if the database can't be reached, or has no such tables yet
        """
        self._prepare_folder()
        try:
            with self.engine.begin() as conn:
                yield conn
        except DBAPIError as error:
            said = str(error.orig)
            if "no such table" in said or "UndefinedTable" in type(error.orig).__name__:
                raise StorageError(f"{self} is not migrated: run `portmon db upgrade`") from error
            if "database is locked" in said:
                raise DatabaseBusyError(
                    f"{self}: another process writes for more than {self._patience} s; with many hosts use PostgreSQL"
                ) from error
            if _code(error) in (_CANCELED, _LOCKED):
                raise DatabaseBusyError(f"{self}: another process writes for more than {self._patience} s") from error
            if isinstance(error, OperationalError):
                raise StorageError(f"{self}: {_first_line(error)}") from error
            raise

    def downgrade(self, revision: str) -> list[str]:
        """Take the tables back to an earlier revision, in one transaction; see :func:`portmon.storage.care.downgrade`.

        :returns: revisions that were undone, newest first
        :raises StorageError: no way leads there
        """
        with self.begin() as conn:
            self._lock_migrations(conn)
            undone = self._way_back(conn, revision)
            config = _alembic_config()
            config.attributes["connection"] = conn
            command.downgrade(config, revision)
            return undone

    def check_way_back(self, revision: str) -> None:
        """:raises StorageError: no way leads back to a revision; the message says what to do"""
        with self.begin() as conn:
            self._way_back(conn, revision)

    def _way_back(self, conn: Connection, revision: str) -> list[str]:
        current = self._current(conn)
        self._must_be_current(current)
        names = [one.revision for one in _revisions()]
        released = names[names.index(FIRST_RELEASED) :]
        if revision not in names:
            raise StorageError(f"there is no revision {revision!r}; there are: {', '.join(released)}")
        if revision not in released:
            raise StorageError(
                f"revision {revision} is of a development version from before {FIRST_RELEASED}, the first release: no "
                "way leads back there. Restore a backup of that time into another database"
            )
        return names[: names.index(revision) : -1]

    def _lock_migrations(self, conn: Connection) -> None:
        if not self.is_sqlite:
            conn.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtext('portmon migrations'))"))

    def migrate(self) -> list[str]:
        """Create or update the tables, in one transaction; processes that do so at once wait for each other.

        :returns: revisions that were applied, oldest first
        :raises StorageError: if it was written by a newer portmon, or by one from before the first release
        """
        with self.begin() as conn:
            if self._current(conn) == self._head():
                return []
        with self.begin() as conn:
            self._lock_migrations(conn)
            before = self._current(conn)
            self._must_be_released(before)
            config = _alembic_config()
            revisions = _revisions()
            names = [revision.revision for revision in revisions]
            if before is not None and before not in names:
                raise StorageError(f"{self} has revision {before}, which a newer portmon made: upgrade portmon")
            config.attributes["connection"] = conn
            command.upgrade(config, "head")
            start = 0 if before is None else names.index(before) + 1
            return [f"{revision.revision} {revision.doc}" for revision in revisions[start:]]

    def check(self) -> None:
        """:raises StorageError: if the tables are not those of this portmon; the message says what to do"""
        with self.begin() as conn:
            self._must_be_current(self._current(conn))

    @contextmanager
    def reading(self) -> Iterator[Connection | None]:
        """A transaction that can only read; None if there is no database, or nothing in it.

        :raises StorageError: if it can't be reached, or its tables are not the ones that this portmon needs
        """
        engine = self.engine
        if self.is_sqlite:
            path = Path(self.url.database or "")
            if not path.is_file():
                yield None
                return
            engine = sqlalchemy.create_engine(
                _reading_url(self.url), poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS}
            )
            event.listen(engine, "connect", _only_reads)
            event.listen(engine, "begin", lambda conn: conn.exec_driver_sql("BEGIN"))
        try:
            with engine.begin() as conn:
                if not self.is_sqlite:
                    conn.exec_driver_sql("SET TRANSACTION READ ONLY")
                current = self._current(conn)
                if current is not None:
                    self._must_be_current(current)
                yield conn if current is not None else None
        except DBAPIError as error:
            raise StorageError(f"{self}: {_first_line(error)}") from error

    def must_be_current(self, conn: Connection) -> None:
        """Say whether the tables are the ones that this portmon needs, to a transaction that reads.

        :raises NoDatabaseError: there are none
        :raises StorageError: they are others
        """
        current = self._current(conn)
        if current is None:
            raise NoDatabaseError(f"{self} is empty: the first run of the DAG fills it")
        self._must_be_current(current)

    def _must_be_released(self, current: str | None) -> None:
        if current is not None and current.isdecimal():
            raise StorageError(
                f"{self} has revision {current}, which a development version of portmon made before the first release. "
                "No upgrade leads from there, and nothing was changed. Keep that database aside, give the connection a "
                "new, empty one, and run `portmon db upgrade`: the next run learns every host anew"
            )

    def _must_be_current(self, current: str | None) -> None:
        self._must_be_released(current)
        if current != self._head():
            raise StorageError(
                f"{self} has revision {current or 'none'}, this portmon needs {self._head()}: run `portmon db upgrade`"
            )

    def dispose(self) -> None:
        """Close the open connection."""
        self.engine.dispose()

    def _current(self, conn: Connection) -> str | None:
        return MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE}).get_current_revision()

    def _head(self) -> str | None:
        return ScriptDirectory.from_config(_alembic_config()).get_current_head()

    def _prepare_folder(self) -> None:
        path = Path(self.url.database or ":memory:")
        if self.is_sqlite and str(path) != ":memory:" and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # No other user may read inventories and listings.
            path.touch(mode=0o600)


class Reader:
    """The same database for many short readers, such as requests: a small pool, no right to write, and a time limit.

    :param seconds: that a query may take
    :param connections: most at a time
    """

    def __init__(self, database: Database, *, seconds: float, connections: int) -> None:
        self._database, self._seconds = database, seconds
        # When the tables were looked at last, and the file that they were in.
        self._checked = -_BELIEVED
        self._file: tuple[int, int] | None = None
        pool: dict[str, Any] = {"poolclass": QueuePool, "pool_size": connections, "max_overflow": 0}
        pool["pool_timeout"] = seconds
        if database.is_sqlite:
            self._engine = sqlalchemy.create_engine(
                _reading_url(database.url), **pool, connect_args={"timeout": seconds, "check_same_thread": False}
            )
            event.listen(self._engine, "connect", _only_reads)
            event.listen(self._engine, "begin", self._begin_in_time)
        else:
            milliseconds = int(seconds * 1000)
            options = (
                f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
                "-c default_transaction_read_only=on -c idle_in_transaction_session_timeout=60000"
            )
            arguments = {"connect_timeout": int(seconds), "application_name": "portmon page", "options": options}
            self._engine = sqlalchemy.create_engine(
                database.url, **pool, pool_pre_ping=True, use_native_hstore=False, connect_args=arguments
            )

    def _begin_in_time(self, conn: Connection) -> None:
        deadline = time.monotonic() + self._seconds
        raw: Any = conn.connection.dbapi_connection
        raw.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        conn.exec_driver_sql("BEGIN")

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that can only read.

        :raises NoDatabaseError: there is none yet, or nothing in it
        :raises TooSlowError: a query was cut
        :raises StorageError: it can't be reached, or its tables are not the ones that this portmon needs
        """
        database = self._database
        if database.is_sqlite:
            self._must_be_the_same_file()
        try:
            with self._engine.begin() as conn:
                if time.monotonic() - self._checked > _BELIEVED:
                    database.must_be_current(conn)
                    self._checked = time.monotonic()
                yield conn
        except DBAPIError as error:
            self._checked = -_BELIEVED
            if _code(error) == _CANCELED or str(error.orig) == "interrupted":
                raise TooSlowError(f"{database}: a query took more than {self._seconds:g} s and was cut") from error
            raise StorageError(f"{database}: {_first_line(error)}") from error
        except sqlalchemy.exc.TimeoutError as error:
            raise TooSlowError(f"{database}: no connection was free") from error

    def _must_be_the_same_file(self) -> None:
        # An open connection would go on to read a file that was deleted, or replaced by a backup.
        try:
            found = Path(self._database.url.database or "").stat()
        except OSError:
            raise NoDatabaseError(f"{self._database} is not there yet: the first run of the DAG makes it") from None
        file = (found.st_dev, found.st_ino)
        if self._file not in (None, file):
            self._engine.dispose()
            self._checked = -_BELIEVED
        self._file = file


def _reading_url(url: URL) -> URL:
    # Not mode=ro: such a reader leaves the -wal and -shm files behind, as files of the user that looked.
    path = quote(str(Path(url.database or "").absolute()))
    return URL.create("sqlite", database=f"file:{path}", query={"mode": "rw", "uri": "true"})


def _revisions() -> list[Script]:
    """The revisions, oldest first."""
    return list(ScriptDirectory.from_config(_alembic_config()).iterate_revisions("head", "base"))[::-1]


def _alembic_config() -> Config:
    config = Config()
    # Alembic interpolates this option: a % in a path would be an error.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _prepare_sqlite(connection: Any, _: Any, *, patience: int) -> None:
    _set(connection, f"busy_timeout={patience * 1000}", "synchronous=FULL", "foreign_keys=ON")
    # SQLite does not wait by itself if another process does this to a new file at the same moment.
    deadline = time.monotonic() + patience
    while True:
        try:
            return _set(connection, "journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _prepare_throwaway(connection: Any, _: Any) -> None:
    # A write-ahead log would grow to gigabytes and be of no use. MEMORY, not OFF: savepoints need a journal.
    _set(connection, "journal_mode=MEMORY", "synchronous=OFF", "cache_size=-65536")


def _only_reads(connection: Any, _: Any) -> None:
    _set(connection, "query_only=ON")


def _set(connection: Any, *pragmas: str) -> None:
    # Or else the driver begins transactions by itself, without DDL and reads.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _code(error: DBAPIError) -> str | None:
    """What PostgreSQL calls the error."""
    code: str | None = getattr(error.orig, "pgcode", None)
    return code


def _first_line(error: DBAPIError) -> str:
    return next(iter(str(error.orig).strip().splitlines()), type(error.orig).__name__)
