"""Databases with portmon's tables, or Airflow's, for the tests: copies of one that was migrated once in this process.

Their connections stay open until :meth:`Database.dispose`: the tests have thousands of transactions, one after the other.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy.engine import URL

from demo.airflow_env import inherited, migrate_airflow
from portmon.storage.database import Database
from tests.postgres import Cluster

TEMPLATE = "migrated"
"""Name of the PostgreSQL database of which the others are copies."""
AIRFLOW = "airflow"
"""The same, of Airflow's own."""


def migrated(path: Path) -> Database:
    """A new database of SQLite with all tables in it.

    :param path: where nothing is yet
    """
    shutil.copyfile(_template(), path)
    path.chmod(0o600)
    return Database(URL.create("sqlite", database=str(path)), keep_open=True)


def migrated_postgres(cluster: Cluster) -> Database:
    """A new database of a server, with all tables in it."""
    if TEMPLATE not in cluster.databases:
        template = Database(cluster.new_database(TEMPLATE))
        template.migrate()
        # Nobody may be connected to what is copied.
        template.dispose()
    return Database(cluster.new_database(template=TEMPLATE), keep_open=True)


def airflow_metadata(cluster: Cluster) -> str:
    """A new database of a server, with all tables of Airflow in it.

    :returns: its URL, as Airflow takes it
    """
    if AIRFLOW not in cluster.databases:
        url = _for_airflow(cluster.new_database(AIRFLOW))
        home = Path(tempfile.mkdtemp(prefix="portmon-airflow-"))
        env = {**inherited(), "AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url}
        migrate_airflow(env, home / "migrate.out")
        # If it failed, what it said is there.
        shutil.rmtree(home)
    return _for_airflow(cluster.new_database(template=AIRFLOW))


def _for_airflow(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg2://")


@cache
def _template() -> Path:
    folder = tempfile.mkdtemp(prefix="portmon-template-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "state.db"
    made = Database(f"sqlite:///{path}")
    made.migrate()
    # Closing the last connection moves what is in the log beside it into the file.
    made.dispose()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return path
