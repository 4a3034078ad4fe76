"""Rows that a statement brings along, as texts of arrays that PostgreSQL reads."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Boolean, Column, Connection, Float, Integer, LargeBinary, MetaData, String, Table, Text, select
from sqlalchemy.dialects.postgresql.psycopg2 import dialect
from sqlalchemy.types import TypeEngine

from portmon.storage.sql import array_text, delete_rows, insert_rows, update_rows, upsert_rows
from portmon.storage.tables import SafeJson, SafeText, UtcDateTime
from tests.worlds.databases import migrated_postgres
from tests.worlds.postgres import Cluster

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("values", "type_", "text"),
    [
        ([], Text(), "{}"),
        ([None, "NULL", ""], Text(), '{NULL,"NULL",""}'),
        (['a"b', "a\\b", "{a,b}", " a "], Text(), r'{"a\"b","a\\b","{a,b}"," a "}'),
        (["a\x00"], SafeText(), '{"a\x1a0000"}'),
        ([Colour.RED], String(), '{"red"}'),
        ([1, -2, None], Integer(), "{1,-2,NULL}"),
        ([0.1, 1e100], Float(), "{0.1,1e+100}"),
        ([True, False], Boolean(), "{t,f}"),
        ([AT, None], UtcDateTime(), '{"2026-01-02T03:04:05.678901+00:00",NULL}'),
        ([b"\x00\xff", b""], LargeBinary(), r'{"\\x00ff","\\x"}'),
        ([("a", 'b"'), None], SafeJson(), r'{"[\"a\",\"b\\\"\"]",NULL}'),
    ],
)
def test_the_text_of_an_array(values: list[Any], type_: TypeEngine[Any], text: str) -> None:
    assert array_text(values, type_, dialect()) == text


def test_a_value_without_a_text_is_refused() -> None:
    with pytest.raises(TypeError, match="no text of an array for Decimal"):
        array_text([Decimal(1)], Integer(), dialect())


TABLE = Table(
    "anything",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("text", SafeText),
    Column("at", UtcDateTime),
    Column("number", Float),
    Column("flag", Boolean),
    Column("data", LargeBinary),
    Column("json", SafeJson),
    prefixes=["TEMPORARY"],
)
TIMES = st.datetimes(timezones=st.just(UTC), min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31))  # noqa: DTZ001
VALUES = st.fixed_dictionaries(
    {
        "text": st.none() | st.text() | st.text(st.sampled_from('"\\{},\x00\x1a\ud800 NUL')),
        "at": st.none() | TIMES,
        "number": st.none() | st.floats(allow_nan=False),
        "flag": st.none() | st.booleans(),
        "data": st.none() | st.binary(),
        "json": st.none() | st.lists(st.text()) | st.dictionaries(st.text(), st.integers()),
    }
)


@pytest.fixture(scope="module")
def conn(postgres_cluster: Cluster) -> Iterator[Connection]:
    database = migrated_postgres(postgres_cluster)
    with database.begin() as conn:
        TABLE.create(conn)
        yield conn
    database.dispose()


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VALUES, min_size=2, max_size=20), st.data())
def test_any_rows_come_back_as_they_were(
    conn: Connection, given_rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    conn.execute(TABLE.delete())
    rows = [{"id": number, **row} for number, row in enumerate(given_rows)]

    def stored() -> list[dict[str, Any]]:
        return [dict(row) for row in conn.execute(select(TABLE).order_by(TABLE.c.id)).mappings()]

    insert_rows(conn, TABLE, rows)
    assert stored() == rows
    others = [{"id": row["id"], **data.draw(VALUES)} for row in rows]
    upsert_rows(conn, TABLE, others)
    assert stored() == others
    update_rows(conn, TABLE, rows)
    assert stored() == rows
    delete_rows(conn, TABLE, [(0,), (1,)])
    assert stored() == rows[2:]
