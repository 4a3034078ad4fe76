"""Databases with portmon's tables for the tests: copies of one that was migrated once in this process.

Their connections stay open until :meth:`Database.dispose`: the tests have thousands of transactions, one after the other.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy.engine import URL

from portmon.storage.database import Database
from tests.postgres import Cluster

TEMPLATE = "migrated"
"""Name of the PostgreSQL database of which the others are copies."""


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
