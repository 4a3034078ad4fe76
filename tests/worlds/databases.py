"""Databases with portmon's tables, or Airflow's, for the tests: copies of one that was migrated once in this process.

Their connections stay open until :meth:`Database.dispose`: the tests have thousands of transactions, one after the other.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.engine import URL

from demo.airflow_env import inherited, migrate_airflow
from portmon.storage import runs
from portmon.storage.database import Database
from tests.worlds.postgres import Cluster, for_airflow


def migrated(path: Path) -> Database:
    """A new database of SQLite with all tables in it.

    :param path: where nothing is yet
    """
    shutil.copyfile(_template(), path)
    path.chmod(0o600)
    made = Database(URL.create("sqlite", database=str(path)), keep_open=True)
    sqlalchemy.event.listen(made.engine, "connect", _do_not_wait_for_the_disk)
    return made


def start_run(
    conn: Connection, run_id: str, at: datetime, *, run_type: str = "scheduled", logical_date: datetime | None = None
) -> None:
    """The record of a run of the whole inventory that begins."""
    runs.start(
        conn,
        run_id,
        run_type=run_type,
        logical_date=logical_date,
        started_at=at,
        scope=None,
        inventory="",
        inventory_fetched_at=at,
        inventory_stale=False,
        settings="",
    )


def migrated_url(cluster: Cluster) -> str:
    """A new database of a server, with all tables in it.

    :returns: its URL
    """

    def fill(url: str) -> None:
        template = Database(url)
        template.migrate()
        template.dispose()

    return cluster.copy_of("migrated", fill)


def migrated_postgres(cluster: Cluster) -> Database:
    """A new database of a server, with all tables in it."""
    return Database(migrated_url(cluster), keep_open=True)


def airflow_metadata(cluster: Cluster) -> str:
    """A new database of a server, with all tables of Airflow in it.

    :returns: its URL, as Airflow takes it
    """

    def fill(url: str) -> None:
        home = Path(tempfile.mkdtemp(prefix="portmon-airflow-"))
        env = {**inherited(), "AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": for_airflow(url)}
        migrate_airflow(env, home / "migrate.out")
        # Not reached if it failed: its output stays there.
        shutil.rmtree(home)

    return for_airflow(cluster.copy_of("airflow", fill))


def _do_not_wait_for_the_disk(connection: Any, _: Any) -> None:
    # Tests kill processes, which loses nothing without fsync; none simulates a power failure.
    connection.execute("PRAGMA synchronous=OFF")


@cache
def _template() -> Path:
    folder = tempfile.mkdtemp(prefix="portmon-template-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "state.db"
    made = Database(f"sqlite:///{path}")
    made.migrate()
    # Closing the last connection moves the write-ahead log into the file.
    made.dispose()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return path
