"""Imports that task processes inherit: made once in the process that forks them, instead of in each of them.

LocalExecutor's workers are forked from the scheduler, and each task from its worker; a task whose modules are imported
costs half as much CPU or less. A Celery worker forks as well, but loads no plugins: its configuration names
:mod:`portmon.airflow.celery_imports`.

After an upgrade without a restart, inherited code would be old. So each task checks whether a file of the package has
changed since, and then imports the package anew.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowConfigException

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]

MODULES = (
    "portmon.airflow.operators.netstat",
    "portmon.airflow.operators.sweep",
    "portmon.airflow.run_watch",
    "portmon.airflow.tasks",
    "portmon.steps.plan",
    "portmon.probe",
    "portmon.storage.archive",
    "portmon.storage.database",
    "portmon.storage.host_keys",
    "sqlalchemy.dialects.sqlite.pysqlite",
    # What Airflow itself imports in each task process.
    "airflow.dag_processing.bundles.local",
    "airflow.providers.standard.operators.empty",
    "airflow.sdk.bases.sensor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.execution_time.timeout",
    "jinja2.ext",
)
"""What a ``netstat`` task imports. Not pandas: only ``diff_ports`` needs it, and numpy starts threads, which do not
survive a fork. Nothing here opens a connection or a file.
"""

POSTGRES = ("sqlalchemy.dialects.postgresql.psycopg2", "psycopg2")
"""The driver, where it is installed: it is imported with the first connection."""

Fingerprint = frozenset[tuple[str, int, int]]

_preloaded: Fingerprint | None = None


def on_load() -> None:
    """Called when the plugin is loaded: in the scheduler before it makes its workers, in each task before it parses the
    DAG file, in many processes for which there is nothing to do; and by a Celery worker.
    """
    # How Airflow itself distinguishes task processes.
    if hasattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS"):
        forget_if_stale()
    elif _preloaded is None and forks_tasks(sys.argv):
        try:
            wanted = conf.getboolean("portmon", "preload", fallback=True)
        except AirflowConfigException as error:
            log.error("[portmon] preload in airflow.cfg must be True or False: %s", error)
            wanted = True
        if wanted:
            preload()


def forks_tasks(arguments: Sequence[str]) -> bool:
    """Whether the process of a command line forks tasks, or the workers that do."""
    command = [argument for argument in arguments[1:] if not argument.startswith("-")]
    if command[:1] == ["scheduler"]:
        executors = conf.get("core", "executor", fallback="LocalExecutor")
        chosen = multiprocessing.get_start_method(allow_none=True)
        # The first is the default: fork up to Python 3.13, and a server that forks since.
        return "LocalExecutor" in executors and (chosen or multiprocessing.get_all_start_methods()[0]) == "fork"
    return command[:2] == ["celery", "worker"]


def preload() -> None:
    """Import what tasks need. A module that can't be imported fails in the task as well, where operators see it."""
    global _preloaded
    # Taken before the imports, so that a change meanwhile is noticed.
    _preloaded = fingerprint()
    started, before = time.process_time(), len(sys.modules)
    driver = POSTGRES if find_spec("psycopg2") else ()
    for name in (*MODULES, *driver):
        try:
            importlib.import_module(name)
        except Exception:
            log.exception("%s could not be imported for the tasks", name)
    try:
        _warm_up(compiling=bool(driver))
    except Exception:
        log.exception("Not everything could be prepared for the tasks, which will take longer to start")
    count, seconds = len(sys.modules) - before, time.process_time() - started
    log.info("portmon imported %d modules for the tasks to come, in %.2f s of CPU", count, seconds)


def _warm_up(*, compiling: bool) -> None:
    """Fill caches: the validated portmon.yaml, Jinja's regular expressions, the schemas of DAG parameters, and parts of
    the statements of a ``netstat`` task as SQLAlchemy compiles them for PostgreSQL.

    :param compiling: there is a driver for that
    """
    from airflow.sdk import DAG, Param
    from jinja2.sandbox import SandboxedEnvironment
    from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData

    from portmon.airflow import settings
    from portmon.model.observation import Listing, Observation, Outcome
    from portmon.steps.plan import expected
    from portmon.storage import archive, host_keys
    from portmon.storage.database import Database

    settings.config()
    settings.for_dag()
    settings.schedule_for_parsing()
    SandboxedEnvironment(cache_size=0).from_string("{{ task }}")
    DAG("warm_up", schedule="* * * * *", params={"any": Param([], type="array", items={"type": "string"})})

    if not compiling:
        return

    class Compiler:
        """A connection that compiles statements and returns no rows."""

        dialect = Database("postgresql://nowhere").engine.dialect

        def execute(self, statement: Any, _: Any = None) -> IteratorResult[Any]:
            statement.compile(dialect=self.dialect)
            return IteratorResult(SimpleResultMetaData(()), iter(()))

    conn: Any = Compiler()
    host_keys.trusted(conn, ["[nowhere]:22"])
    expected(conn, ["1"], {})
    seen = Listing("netstat", 0)
    archive.save_observation(conn, Observation("1", "warm_up", 1, datetime.now(UTC), Outcome.OK, listing=seen))


def forget_if_stale() -> None:
    """Let a task import the package anew if a file of it has changed since it was imported."""
    if _preloaded is None or fingerprint() == _preloaded:
        return
    text = "portmon's files have changed since this process's parent imported them: restart the scheduler or worker"
    log.warning(text)
    for name in [name for name in sys.modules if name.split(".")[0] == "portmon"]:
        del sys.modules[name]


def fingerprint() -> Fingerprint:
    """Name, size and time of change of every file of the package's code."""
    found = []
    folders = [os.fspath(PACKAGE)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    found.append((entry.path, status.st_size, status.st_mtime_ns))
                elif entry.name != "__pycache__" and entry.is_dir():
                    folders.append(entry.path)
    return frozenset(found)
