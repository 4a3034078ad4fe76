"""No line of a command is wider than the terminal, whatever the hosts and programs are called."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.cells import cell_len

from portmon.cli.terminal import print_table, width, wrapped
from portmon.config import Config
from portmon.storage import host_keys, silences
from tests.worlds.databases import migrated
from tests.worlds.fleet import Fleet
from tests.worlds.shell import run_command

WIDTHS = (60, 80, 100, 120)
LONG = "db-replica-with-a-very-long-name-that-nobody-types.rack-17.fra1.production.example.com"
CHINESE = "北京数据中心第三机房核心交易数据库服务器"
COMMANDS = [
    ("status",),
    ("ports",),
    ("ports", LONG),
    ("ports", CHINESE),
    ("events",),
    ("alerts",),
    ("silences",),
    ("hostkeys", "list"),
    ("explain", LONG),
    ("explain", CHINESE),
    ("explain", LONG, "5432"),
    ("db", "usage"),
    ("replay", "--from", "START"),
    ("check",),
    ("hosts", "--config", "CONFIG"),
    ("doctor", "--no-login"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A state database with long names: its path, and when it begins."""
    path = tmp_path_factory.mktemp("width") / "state.db"
    with closing(_Made(path)) as made:
        yield path, made.start


class _Made:
    def __init__(self, path: Path) -> None:
        self.database = migrated(path)
        now = datetime.now(UTC).replace(microsecond=0)
        fleet = Fleet(self.database, Config(), start=now - timedelta(hours=2))
        fleet.add(LONG, {22: "sshd", 5432: "postgres-with-patches-and-a-very-long-name"}, site="fra1")
        fleet.add(CHINESE, {22: "sshd", 8080: "订单处理与结算服务主程序"})
        fleet.run()
        fleet.machines[LONG].kill(5432)
        fleet.machines[CHINESE].kill(8080)
        fleet.run()
        fleet.run()
        fleet.machines[CHINESE].trouble = "timeout"
        fleet.run()
        fleet.run()
        with self.database.begin() as conn:
            ends = now + timedelta(hours=1)
            why = "moved to another data centre " * 6
            silences.add(conn, hosts=[LONG], ends_at=ends, author="ann", reason=why, now=now)
            host_keys.remember(conn, f"[{LONG}]:22", "ssh-ed25519", "AAAA", f"SHA256:{'a' * 43}", now)
        self.start = fleet.start.isoformat()
        path.with_name("portmon.yaml").write_text("cmdb: {source: {type: file, path: hosts.csv}}\n")
        path.with_name("hosts.csv").write_text(f"id,name,address\n1,{LONG},10.0.0.1\n2,{CHINESE},10.0.0.2\n3,,x\n")

    def close(self) -> None:
        self.database.dispose()


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """`doctor` silences the loggers of its process."""
    own = logging.getLogger("portmon")
    level = own.level
    yield
    own.setLevel(level)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_line_is_wider_than_the_terminal(
    world: tuple[Path, str],
    command: tuple[str, ...],
    columns: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, start = world
    monkeypatch.setenv("AIRFLOW_CONN_PORTMON_DB", f'{{"conn_type": "sqlite", "host": "{path}"}}')
    monkeypatch.setattr("portmon.airflow.settings.config", Config)
    monkeypatch.setenv("COLUMNS", str(columns))
    given = {"START": start, "CONFIG": str(path.with_name("portmon.yaml"))}
    arguments = [given.get(text, text) for text in command]
    code, out, err = run_command(capsys, *arguments)
    assert code == 0 or command[0] == "doctor", err
    # The path of the state database is for copying: a terminal breaks it.
    wide = [line for line in out.splitlines() if cell_len(line) > columns and "airflow connections add" not in line]
    assert wide == []


def test_a_pipe_gets_tables_of_120_columns_and_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert width() == 120
    print_table(("a", "b"), [("x" * 200, "y")])
    assert max(map(len, capsys.readouterr().out.splitlines())) == 120
    assert wrapped("word " * 60, False) == "word " * 60


def test_times_and_numbers_stay_whole_beside_long_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    print_table(("at", "host", "port", "unit"), [("2026-01-02 04:00 UTC", LONG, "5432/tcp", f"{LONG}.service")])
    out = capsys.readouterr().out
    assert all(text in out for text in ("2026-01-02", "5432/tcp"))
    assert max(map(len, out.splitlines())) <= 50
    # Nothing is cut.
    assert out.count("r") == 2 * LONG.count("r") + 1 + 1


def test_lines_are_wrapped_at_words_and_commands_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    told = wrapped("  one two three four five: run `portmon explain web01 443 --config x` then", True)
    assert told.splitlines() == [
        "  one two three four five: run",
        "    `portmon explain web01 443 --config x`",
        "    then",
    ]
    assert wrapped("服务器" * 8, True).splitlines() == ["服务器" * 6 + "服", "  务器服务器"]
    assert wrapped("last run     a b c", True) == "last run     a b c"
