"""Statements that SQLite and PostgreSQL both know, but SQLAlchemy spells apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    CursorResult,
    Dialect,
    LargeBinary,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.types import TypeEngine

Item = TypeVar("Item")
CHUNK = 500
"""Values of one IN list: SQLite has a limit, and plans for long lists are slow in both."""
ROWS = 5000
"""Rows of one statement that brings them along."""


def insert_new(conn: Connection, table: Table) -> Any:
    """``INSERT … ON CONFLICT DO NOTHING``."""
    return _insert(conn)(table).on_conflict_do_nothing()


def inserted_id(conn: Connection, table: Table, row: Mapping[str, Any]) -> int:
    """Insert one row into a table that numbers its rows, and return its number."""
    key = conn.execute(insert(table), row).inserted_primary_key
    assert key is not None  # noqa: S101 - for the type checker: the table has one
    return int(key[0])


def insert_rows(
    conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, returning: Column[Any] | None = None
) -> list[Any]:
    """Insert many rows, with the same columns each, in a few statements; rows that exist stay as they are.

    :param returning: a column of the table
    :returns: its values in the rows that did not exist; nothing without it
    """

    def resolve(statement: Any) -> Any:
        statement = statement.on_conflict_do_nothing()
        return statement if returning is None else statement.returning(returning)

    results = _insert_many(conn, table, rows, resolve)
    return [] if returning is None else [value for result in results for value in result.scalars()]


def upsert_rows(
    conn: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    columns: Sequence[str] = (),
    keep: Sequence[str] = (),
    add: Sequence[str] = (),
) -> None:
    """Insert or overwrite many rows in a few statements.

    :param rows: the same columns in each; of each primary key one
    :param columns: to overwrite where the row exists; default: all but the primary key
    :param keep: those of the columns that NULL does not overwrite
    :param add: those of the columns that grow by the new value
    """

    def resolve(statement: Any) -> Any:
        names = columns or [name for name in rows[0] if not table.c[name].primary_key]
        new = {name: statement.excluded[name] for name in names}
        new |= {name: func.coalesce(new[name], table.c[name]) for name in keep}
        new |= {name: table.c[name] + new[name] for name in add}
        return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=new)

    _insert_many(conn, table, rows, resolve)


def update_rows(
    conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, key: Sequence[str] = (), where: Any = None
) -> None:
    """Change many rows, each in its own way, in a few statements.

    :param rows: what names a row and what changes, the same columns in each
    :param key: columns that name a row; default: the primary key
    :param where: only rows of which this is true
    """
    if rows:
        key = key or _primary(table)
        changed = [name for name in rows[0] if name not in key]
        statement = update(table) if where is None else update(table).where(where)
        _change_many(conn, table, rows, key, lambda given: statement.values({name: given(name) for name in changed}))


def delete_rows(conn: Connection, table: Table, keys: Sequence[Sequence[Any]]) -> None:
    """Delete many rows, named by their primary keys, in a few statements."""
    primary = _primary(table)
    rows = [dict(zip(primary, key, strict=True)) for key in keys]
    _change_many(conn, table, rows, primary, lambda _: delete(table))


def _insert_many(
    conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]], resolve: Callable[[Any], Any]
) -> list[CursorResult[Any]]:
    """:param resolve: adds what is done on a conflict
    :returns: what each statement returned
    """
    if _as_arrays(conn, rows):
        names, results = list(rows[0]), []
        for given in _given(conn, table, rows):
            # In their order, which is that of the numbers that they may get.
            query = select(*(given.c[name] for name in names)).order_by(given.c[_NUMBER])
            results.append(conn.execute(resolve(_insert(conn)(table).from_select(names, query))))
        return results
    return [conn.execute(resolve(_insert(conn)(table)), rows)] if rows else []


def _change_many(
    conn: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    key: Sequence[str],
    statement: Callable[[Callable[[str], Any]], Any],
) -> None:
    """:param statement: makes it, given a function from a column's name to the value in the row"""

    def execute(given: Callable[[str], Any], *parameters: Any) -> None:
        conn.execute(statement(given).where(*(table.c[name] == given(name) for name in key)), *parameters)

    if _as_arrays(conn, rows):
        for given in _given(conn, table, rows):
            execute(given.c.__getitem__)
    elif rows:
        # A column's name as that of a value would be taken for one that is set.
        values = [{f"row_{name}": value for name, value in row.items()} for row in rows]
        execute(lambda name: bindparam(f"row_{name}"), values)


def _primary(table: Table) -> list[str]:
    return [column.name for column in table.primary_key.columns]


def _as_arrays(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> bool:
    # PostgreSQL's driver would send one statement per row. SQLite, which has no arrays, is in this process anyway; and
    # of one row the statement with arrays takes longer to be made than to be executed.
    return conn.dialect.name == "postgresql" and len(rows) > 1


_NUMBER = "row_number"


def _given(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """Rows that a statement brings along, as PostgreSQL takes them: one array per column; in portions."""
    from sqlalchemy.dialects.postgresql import ARRAY

    for part in chunks(rows, ROWS):
        arrays = []
        for name in part[0]:
            type_ = table.c[name].type
            text = array_text([row[name] for row in part], type_, conn.dialect)
            arrays.append(cast(bindparam(None, text, type_=Text), ARRAY(type_, dimensions=1)))
        given = func.unnest(*arrays).table_valued(*(table.c[name] for name in part[0]), with_ordinality=_NUMBER)
        yield given.render_derived(name="given")


def rows_in(conn: Connection, query: Any, column: Any, values: Iterable[Any] | None) -> Iterator[Any]:
    """Rows of a query in which a column has one of some values; None: all of them."""
    queries = [query] if values is None else (query.where(column.in_(part)) for part in chunks(sorted(set(values))))
    for one in queries:
        # Row by row takes longer.
        for part in conn.execute(one).partitions(ROWS):
            yield from part


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


def array_text(values: Iterable[Any], type_: TypeEngine[Any], dialect: Dialect) -> str:
    """Values as PostgreSQL's text of an array: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO.

    The server parses a text at once. An array of the driver is an expression of as many terms as it has values.

    :raises TypeError: if there is no text for one of them
    """
    # Bytes would become the driver's own.
    process = None if isinstance(type_, LargeBinary) else type_.dialect_impl(dialect).bind_processor(dialect)
    stored = values if process is None else map(process, values)
    return f"{{{','.join(map(_element, stored))}}}"


def _element(value: Any) -> str:
    for kind in type(value).__mro__:
        if kind in _WRITE:
            return _WRITE[kind](value)
    raise TypeError(f"no text of an array for {value!r}")


_WRITE: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "NULL",
    bool: lambda value: "t" if value else "f",
    int: str,
    float: str,
    str: lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"',
    bytes: lambda value: f'"\\\\x{value.hex()}"',
    datetime: lambda value: f'"{value.isoformat()}"',
}
