"""Notes on ports and units: where they stand, and who wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection

from portmon.api.explain import explain
from portmon.api.fleet import list_ports
from portmon.api.notes import LIMIT, write_note
from portmon.api.problems import list_problems
from portmon.config import Config
from portmon.errors import CommandError, RequestError
from portmon.storage import actions
from portmon.storage.lookups import PortFilter
from tests.worlds.databases import migrated
from tests.worlds.fleet import Fleet

NOW = datetime(2026, 3, 2, 1, tzinfo=UTC)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    database = migrated(tmp_path / "state.db")
    made = Fleet(database, Config())
    made.add("web1", {80: "nginx", 443: "nginx"}, site="fra1")
    made.add("web2", {80: "nginx"}, site="ams1")
    made.run()
    yield made
    database.dispose()


@pytest.fixture
def conn(fleet: Fleet) -> Iterator[Connection]:
    with fleet.database.begin() as made:
        yield made


def noted(conn: Connection) -> dict[tuple[str, int], list[str]]:
    rows = list_ports(conn, PortFilter()).rows
    return {(row.host, row.port): [note.text for note in row.notes] for row in rows if row.notes}


def test_a_note_stands_at_its_port_and_a_units_note_at_each_host_with_the_label(conn: Connection) -> None:
    said = write_note(conn, "billing, ask payments", host="WEB1", port=80, author="ann", now=NOW)
    assert said == "web1 port 80: the note is written"
    write_note(conn, "edge proxy", unit="nginx.service", label="site=fra1", author="bob", now=NOW)
    assert noted(conn) == {("web1", 80): ["billing, ask payments", "edge proxy"], ("web1", 443): ["edge proxy"]}
    write_note(conn, "all proxies", unit="nginx.service", author="bob", now=NOW)
    assert noted(conn)["web2", 80] == ["all proxies"]


def test_a_note_replaces_the_one_before_and_an_empty_one_removes_it(conn: Connection) -> None:
    write_note(conn, "old", host="web1", port=80, author="ann", now=NOW)
    write_note(conn, "new", host="web1", port=80, author="bob", now=NOW)
    assert noted(conn) == {("web1", 80): ["new"]}
    assert write_note(conn, " ", host="web1", port=80, author="bob", now=NOW) == "web1 port 80: the note is removed"
    assert noted(conn) == {}
    found = [(one.author, one.before, one.after) for one in actions.newest(conn, limit=9)]
    assert found == [
        ("bob", {"text": "new"}, None),
        ("bob", {"text": "old"}, {"text": "new"}),
        ("ann", None, {"text": "old"}),
    ]


def test_a_note_is_told_where_the_port_is(fleet: Fleet) -> None:
    with fleet.database.begin() as conn:
        write_note(conn, "billing, ask payments", host="web1", port=80, author="ann", now=NOW)
    fleet.machines["web1"].kill(80)
    fleet.run()
    assert "billing, ask payments (ann)" in fleet.got[-1].message.text
    assert "billing, ask payments" in fleet.got[-1].message.html
    with fleet.database.begin() as conn:
        (problem,) = list_problems(conn, fleet.now).rows
        assert [note.text for note in problem.notes] == ["billing, ask payments"]
        assert "Note by ann, 2026-03-02 01:00:00 UTC: billing, ask payments" in explain(
            conn, Config(), "web1", 80, now=fleet.now
        )


def test_what_is_wrong_is_refused(conn: Connection) -> None:
    for given in (
        {},
        {"host": "web1"},
        {"port": 80},
        {"host": "web1", "port": 80, "unit": "x"},
        {"host": "web1", "unit": "x"},
    ):
        with pytest.raises(RequestError, match="say what the note is about"):
            write_note(conn, "x", author="ann", now=NOW, **given)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="name=value"):
        write_note(conn, "x", unit="u", label="site", author="ann", now=NOW)
    with pytest.raises(RequestError, match="at most"):
        write_note(conn, "x" * (LIMIT + 1), unit="u", author="ann", now=NOW)
    with pytest.raises(CommandError, match="no host"):
        write_note(conn, "x", host="gone", port=80, author="ann", now=NOW)
