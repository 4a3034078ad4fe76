"""Statements that SQLite and PostgreSQL both know, but SQLAlchemy spells apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, Text, bindparam, cast, delete, func, insert, select, update

from portmon.storage.arrays import array_text

Item = TypeVar("Item")
CHUNK = 500
"""Values of one IN list: SQLite has a limit, and plans for long lists are slow in both."""
ROWS = 5000
"""Rows of one statement that brings them along."""


def insert_new(conn: Connection, table: Table) -> Any:
    """``INSERT … ON CONFLICT DO NOTHING``."""
    return _insert(conn)(table).on_conflict_do_nothing()


def upsert(conn: Connection, table: Table, columns: Sequence[str]) -> Any:
    """``INSERT … ON CONFLICT (primary key) DO UPDATE``.

    :param columns: to overwrite where the row exists
    """
    return _or_update(_insert(conn)(table), table, columns)


def inserted_id(conn: Connection, table: Table, row: Mapping[str, Any]) -> int:
    """Insert one row into a table that numbers its rows.

    :returns: its number
    """
    key = conn.execute(insert(table), row).inserted_primary_key
    assert key is not None  # noqa: S101 - for the type checker: the table has one
    return int(key[0])


def insert_rows(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many rows in a few statements; those that are there stay as they are.

    :param rows: the same columns in each
    """
    if not rows:
        return
    if _as_arrays(conn, rows):
        for part in chunks(rows, ROWS):
            conn.execute(_insert_given(conn, table, part).on_conflict_do_nothing())
    else:
        conn.execute(insert_new(conn, table), rows)


def upsert_rows(
    conn: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    keep: Sequence[str] = (),
) -> None:
    """Insert or overwrite many rows in a few statements.

    :param columns: to overwrite where the row exists
    :param rows: the same columns in each; of each primary key one
    :param keep: those of the columns that NULL does not overwrite
    """
    if not rows:
        return
    if _as_arrays(conn, rows):
        for part in chunks(rows, ROWS):
            conn.execute(_or_update(_insert_given(conn, table, part), table, columns, keep))
    else:
        conn.execute(_or_update(_insert(conn)(table), table, columns, keep), rows)


def update_rows(
    conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, key: Sequence[str] = (), where: Any = None
) -> None:
    """Change many rows, each in its own way, in a few statements.

    :param rows: what names a row and what changes, the same columns in each
    :param key: columns that name a row; default: the primary key
    :param where: only rows of which this is true
    """
    if not rows:
        return
    key = key or [column.name for column in table.primary_key.columns]
    names = [name for name in rows[0] if name not in key]
    statement = update(table) if where is None else update(table).where(where)
    if _as_arrays(conn, rows):
        for part in chunks(rows, ROWS):
            given = _given(conn, table, part)
            same = (table.c[name] == given.c[name] for name in key)
            conn.execute(statement.where(*same).values({name: given.c[name] for name in names}))
        return
    # A column's name as that of a value would be taken for one that is set.
    same = (table.c[name] == bindparam(f"row_{name}") for name in key)
    statement = statement.where(*same).values({name: bindparam(f"row_{name}") for name in names})
    conn.execute(statement, [{f"row_{name}": value for name, value in row.items()} for row in rows])


def delete_rows(conn: Connection, table: Table, keys: Sequence[Sequence[Any]]) -> None:
    """Delete many rows in a few statements.

    :param keys: primary keys
    """
    if not keys:
        return
    primary = [column.name for column in table.primary_key.columns]
    rows = [dict(zip(primary, key, strict=True)) for key in keys]
    if _as_arrays(conn, rows):
        for part in chunks(rows, ROWS):
            given = _given(conn, table, part)
            conn.execute(delete(table).where(*(table.c[name] == given.c[name] for name in primary)))
        return
    conn.execute(
        delete(table).where(*(table.c[name] == bindparam(f"row_{name}") for name in primary)),
        [{f"row_{name}": value for name, value in row.items()} for row in rows],
    )


def _as_arrays(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> bool:
    # PostgreSQL's driver would send one statement per row. SQLite, which has no arrays, is in this process anyway; and
    # of one row the statement with arrays takes longer to be made than to be executed.
    return conn.dialect.name == "postgresql" and len(rows) > 1


def _given(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows that a statement brings along, as PostgreSQL takes them: one array per column."""
    from sqlalchemy.dialects.postgresql import ARRAY

    arrays = []
    for name in rows[0]:
        type_ = table.c[name].type
        text = array_text([row[name] for row in rows], type_, conn.dialect)
        arrays.append(cast(bindparam(None, text, type_=Text), ARRAY(type_, dimensions=1)))
    given = func.unnest(*arrays).table_valued(*(table.c[name] for name in rows[0]), with_ordinality=_NUMBER)
    return given.render_derived(name="given")


_NUMBER = "row_number"


def _insert_given(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> Any:
    given = _given(conn, table, rows)
    names = list(rows[0])
    # In their order, which is that of the numbers that they may get.
    return _insert(conn)(table).from_select(
        names, select(*(given.c[name] for name in names)).order_by(given.c[_NUMBER])
    )


def _or_update(statement: Any, table: Table, columns: Sequence[str], keep: Sequence[str] = ()) -> Any:
    new = {name: statement.excluded[name] for name in columns}
    new |= {name: func.coalesce(new[name], table.c[name]) for name in keep}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=new)


def rows_in(conn: Connection, query: Any, column: Any, values: Iterable[Any] | None) -> Iterator[Any]:
    """Rows of a query in which a column has one of some values; None: all of them."""
    if values is None:
        yield from conn.execute(query)
    else:
        for part in chunks(sorted(set(values))):
            yield from conn.execute(query.where(column.in_(part)))


def change_in(conn: Connection, statement: Any, column: Any, values: Iterable[Any]) -> None:
    """Update or delete the rows in which a column has one of some values."""
    for part in chunks(sorted(set(values))):
        conn.execute(statement.where(column.in_(part)))


def chunks(items: Sequence[Item], size: int = CHUNK) -> Iterator[Sequence[Item]]:
    """Items in portions, by default for IN lists."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _insert(conn: Connection) -> Any:
    if conn.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    from sqlalchemy.dialects import sqlite

    return sqlite.insert
