"""What SQLite and PostgreSQL both know, but SQLAlchemy spells apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Table

Item = TypeVar("Item")
CHUNK = 500
"""Values of one IN list: SQLite has a limit, and plans for long lists are slow in both."""


def insert_new(conn: Connection, table: Table) -> Any:
    """``INSERT … ON CONFLICT DO NOTHING``."""
    return _insert(conn)(table).on_conflict_do_nothing()


def upsert(conn: Connection, table: Table, columns: Sequence[str]) -> Any:
    """``INSERT … ON CONFLICT (primary key) DO UPDATE``.

    :param columns: to overwrite where the row exists
    """
    statement = _insert(conn)(table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns), set_={name: statement.excluded[name] for name in columns}
    )


def chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Items in portions for IN lists."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def _insert(conn: Connection) -> Any:
    if conn.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    from sqlalchemy.dialects import sqlite

    return sqlite.insert
