"""What the page reads: the state database without a right to write, and portmon.yaml as it is now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from threading import Lock
from typing import Any, TypeVar

from sqlalchemy import Connection

from portmon.airflow import settings
from portmon.api import fleet
from portmon.config import Config
from portmon.storage import lookups
from portmon.storage.database import Database, Reader

SECONDS = 5.0
"""A query of the page is cut after so long: the API server answers the tasks' heartbeats too."""
CONNECTIONS = 8
"""Most requests that are served at a time, each with a connection to the database."""
_REMEMBERED = 64
"""Most lists whose counts are kept."""
_KEPT = 30.0
"""How long settings and the address of the database are believed, in seconds."""

Value = TypeVar("Value")
_lock = Lock()
_counting = Lock()
"""One request counts and the others wait for it: after a run all of them would count the whole fleet at once."""
_kept: dict[str, tuple[float, Any]] = {}
_counts: dict[Any, tuple[Any, Any]] = {}


def kept(name: str, read: Callable[[], Value], seconds: float = _KEPT) -> Value:
    """What was read not long ago, or is read now."""
    with _lock:
        at, value = _kept.get(name, (0.0, None))
    now = time.monotonic()
    if not at or now - at > seconds:
        value = read()
        with _lock:
            _kept[name] = (now, value)
    found: Value = value
    return found


def forget() -> None:
    """Read settings and counts anew."""
    with _lock:
        _kept.clear()
        _counts.clear()


@lru_cache(maxsize=2)
def _reader(url: str) -> Reader:
    return Reader(Database(url), seconds=SECONDS, connections=CONNECTIONS)


@contextmanager
def reading() -> Iterator[Connection]:
    """A transaction that can only read, and whose queries are cut after :data:`SECONDS`.

    :raises StorageError: there is no database yet, it can't be reached, or a query took too long
    """
    with _reader(kept("database", settings.database_url)).begin() as conn:
        yield conn


def config() -> Config:
    """portmon.yaml.

    :raises ConfigError: with file, line and field
    """
    return kept("config", settings.config)


def interval() -> timedelta:
    """Time between scheduled runs; 0 if there is no rhythm."""
    return kept("interval", settings.interval)


def unchanged(conn: Connection, name: Any, read: Callable[[], Value]) -> Value:
    """What was read after the newest step of the journal, or is read now: the state changes with the journal only."""
    return _unchanged(conn, name, lookups.last_step(conn), read)


def _unchanged(conn: Connection, name: Any, state: Any, read: Callable[[], Value]) -> Value:
    # The pool stands for the database: another one has other counts at the same step.
    name = (conn.engine.pool, name)
    # After a run all requests want to count the same: one does, the others wait for it.
    with _counting:
        with _lock:
            known, value = _counts.pop(name, (None, None))
        if known != state:
            value = read()
        with _lock:
            _counts[name] = (state, value)
            for old in list(_counts)[:-_REMEMBERED]:
                del _counts[old]
    found: Value = value
    return found


def glance(conn: Connection, now: datetime) -> fleet.GlanceView:
    """The fleet at a glance; counted anew only after something happened."""
    key = (lookups.last_step(conn), lookups.newest_event(conn), now.replace(minute=0, second=0, microsecond=0))
    counts = _unchanged(conn, "fleet", key, lambda: fleet.count(conn, now))
    return fleet.glance(conn, now, counts, interval=interval())
