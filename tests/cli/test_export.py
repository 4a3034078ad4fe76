"""``portmon export``: files of what is known."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, select

from portmon.api import export
from portmon.config import Config
from portmon.storage.database import Database
from portmon.storage.lookups import EventFilter
from portmon.storage.tables import events
from tests.worlds.fleet import Fleet
from tests.worlds.shell import Shell


class Exported(Shell):
    """Commands on a fleet in which a service of a program with a formula for a name died."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        fleet = Fleet(self.database, Config(), start=datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1))
        fleet.add("web", {22: "sshd", 80: '=cmd|"x"!A1'}, site="fra1")
        fleet.add("db", {5432: "postgres"})
        fleet.run()
        fleet.machines["web"].kill(80)
        fleet.run()
        fleet.run()

    def rows(self, *arguments: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.text(*arguments))))

    def text(self, *arguments: str) -> str:
        file = self.folder / "exported"
        assert self("export", *arguments, "-o", str(file)) == (0, "", "")
        return file.read_bytes().decode()


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    with closing(Exported(tmp_path, capsys, monkeypatch)) as made:
        yield made


@pytest.mark.parametrize("what", export.COLUMNS)
def test_each_has_the_columns_that_its_help_names(shell: Exported, what: str) -> None:
    rows = shell.rows(what)
    assert rows
    assert all(list(row) == list(export.COLUMNS[what]) for row in rows)
    told = json.loads(shell.text(what, "--format", "json").splitlines()[0])
    assert list(told) == list(export.COLUMNS[what])
    shown = " ".join(shell("export", what, "--help")[1].replace("│", " ").split())
    named = shown.partition("Columns: ")[2].partition(".")[0].replace(" ", "").split(",")
    assert named == list(export.COLUMNS[what])


def test_csv_is_safe_and_has_whole_times(shell: Exported) -> None:
    (port,) = (row for row in shell.rows("ports", "--host", "web") if row["port"] == "80")
    assert port["programs"] == '\'=cmd|"x"!A1'
    assert (port["status"], port["host_status"]) == ("down", "ok")
    assert datetime.fromisoformat(port["status_since"]).tzinfo
    assert {row["labels"] for row in shell.rows("hosts")} == {"", "site=fra1"}
    (alert,) = shell.rows("alerts")
    assert (alert["host"], alert["port"], alert["kind"]) == ("web", "80", "down")


def test_the_filters_are_those_of_the_lists(shell: Exported) -> None:
    assert [row["port"] for row in shell.rows("events", "--kind", "down", "--since", "12h")] == ["80"]
    assert shell.rows("events", "--until", "12h") == []
    assert {row["host"] for row in shell.rows("ports", "--host", "db")} == {"db"}
    code, _, err = shell("export", "ports", "--host", "mail")
    assert (code, "no host has the name or id 'mail'" in err) == (1, True)
    assert shell("export", "events", "--kind", "dead")[0] == 2


def test_a_file_is_replaced_as_a_whole_or_not_at_all(shell: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shell.folder / "out"
    folder.mkdir()
    file = folder / "ports.csv"
    assert shell("export", "ports", "-o", str(file)) == (0, "", "")
    before = file.read_bytes()
    assert before.count(b"\r\n") == 4

    def broken(conn: Any, wanted: Any) -> Iterator[Any]:
        yield dict.fromkeys(export.COLUMNS["ports"], "x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("portmon.api.export.ports", broken)
    code, _, err = shell("export", "ports", "-o", str(file))
    assert (code, "No space left on device" in err) == (1, True)
    assert (list(folder.iterdir()), file.read_bytes()) == ([file], before)
    code, _, err = shell("export", "hosts", "-o", str(folder / "none" / "hosts.csv"))
    assert (code, "No such file or directory" in err) == (1, True)


def test_events_are_read_as_they_are_written(database: Database) -> None:
    """Only some of them are in memory."""
    fleet = Fleet(database, Config())
    fleet.add("web", {80: "nginx"})
    fleet.run()
    with database.begin() as conn:
        row = dict(conn.execute(select(events)).first()._mapping)  # type: ignore[union-attr]
        del row["seq"]
        conn.execute(insert(events), [row | {"id": f"{number:032x}"} for number in range(3500)])
    made = 0
    real = export.lookups.event_from

    def counting(values: Any) -> Any:
        nonlocal made
        made += 1
        return real(values)

    with pytest.MonkeyPatch.context() as patch, database.begin() as conn:
        patch.setattr("portmon.storage.lookups.event_from", counting)
        found = export.events(conn, EventFilter())
        next(found)
        assert made <= 1000
        assert 1 + sum(1 for _ in found) >= 3500


def test_parquet_without_pyarrow_says_what_to_install(shell: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    file = shell.folder / "ports.parquet"
    code, _, err = shell("export", "ports", "--format", "parquet", "-o", str(file))
    assert (code, err.splitlines()[-1]) == (
        1,
        "error: Parquet needs pyarrow: pip install 'portmon[parquet]', or pip install pyarrow",
    )
    assert not file.exists()


def test_parquet_has_types(shell: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyarrow is asked to write; it is not installed here."""
    written: list[Any] = []

    class Writer:
        def __init__(self, out: Any, schema: Any) -> None:
            written.append(dict(schema))

        def __enter__(self) -> Writer:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write_table(self, rows: Any) -> None:
            written.append(rows)

    arrow: Any = ModuleType("pyarrow")
    arrow.parquet = ModuleType("pyarrow.parquet")
    arrow.parquet.ParquetWriter = Writer
    arrow.string, arrow.int64 = (lambda: "text"), (lambda: "int")
    arrow.timestamp = lambda unit, tz: f"{unit} {tz}"
    arrow.list_ = lambda kind: [kind]
    arrow.schema = list
    arrow.Table = SimpleNamespace(from_pylist=lambda rows, schema: rows)
    monkeypatch.setitem(sys.modules, "pyarrow", arrow)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", arrow.parquet)
    assert shell("export", "ports", "--format", "parquet", "-o", str(shell.folder / "p"))[0] == 0
    schema, rows = written
    assert (schema["port"], schema["status_since"], schema["units"]) == ("int", "us UTC", ["text"])
    assert [row["port"] for row in rows] == [5432, 22, 80]
