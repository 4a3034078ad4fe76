"""``python -m portmon replay`` and ``status``: what the archive holds, and what else it could have told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from portmon.config import Config
from portmon.model.host import Host
from portmon.storage.tables import contents, observations
from tests.worlds.fleet import FIVE, Fleet
from tests.worlds.shell import Shell

NASTY = "[red]\x1b[31m\u202eevil"


class Replayed(Shell):
    """Commands on the state of a fleet."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        now = datetime.now(UTC).replace(microsecond=0)
        self.fleet = Fleet(self.database, Config(), start=now - timedelta(hours=2))

    def config(self, text: str) -> str:
        path = self.folder / "other.yaml"
        path.write_text(text)
        return str(path)

    def died(self) -> None:
        """Four runs: what listens at 80 and 5432 dies, 80 comes back."""
        web = self.fleet.add("web", {22: "sshd", 80: NASTY})
        self.fleet.add("db", {5432: "postgres"})
        self.fleet.run()
        program = web.kill(80)
        self.fleet.machines["db"].kill(5432)
        self.fleet.run()
        self.fleet.run()
        web.start(80, program)
        self.fleet.run()


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Replayed]:
    monkeypatch.setattr("portmon.airflow.settings.config", Config)
    with closing(Replayed(tmp_path, capsys, monkeypatch)) as made:
        yield made


def test_replay_shows_what_other_rules_would_have_told(shell: Replayed) -> None:
    shell.died()
    begin = shell.fleet.start.isoformat()
    rules = shell.config("rules:\n- {action: deny, port: 5432}\n")
    code, out, err = shell("replay", "--from", begin, "--config", rules)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [line[4:7] for line in lines if line[:1] == ["-"] and "down" in line] == [["down", "db", "tcp/5432"]]
    assert ["down", "2", "1"] in lines
    assert ["recovered", "1", "1"] in lines
    assert out.splitlines()[-1].startswith("replayed: 4 runs from ")
    code, out, err = shell("replay", "--from", begin, "--config", rules, "--format", "json")
    told = json.loads(out)
    assert (code, told["evaluations"], told["counts"]["down"], told["gained"]) == (0, 4, [2, 1], [])
    assert [event["port"] for event in told["lost"] if event["kind"] == "down"] == [5432]


def test_replay_shows_what_would_have_been_told_otherwise(shell: Replayed) -> None:
    shell.died()
    slower = shell.config("states: {down_after: 2}\n")
    code, out, _ = shell("replay", "--from", shell.fleet.start.isoformat(), "--config", slower)
    assert code == 0
    assert {line.split()[0] for line in out.splitlines() if " down " in line and "tcp/" in line} <= {"+", "-", "~"}


def test_the_same_configuration_tells_the_same(shell: Replayed) -> None:
    shell.died()
    code, out, _ = shell("replay", "--from", shell.fleet.start.isoformat())
    assert code == 0
    assert not [line for line in out.splitlines() if line[:1] in "+-~"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--from", "yesterday"], "is no time"),
        (["--from", "2999-01-01"], "is still to come"),
        (["--from", "2026-01-02", "--to", "2026-01-01"], "must be later than --from"),
        (["--from", "2026-01-01"], "wait for"),
    ],
)
def test_replay_says_what_is_wrong(shell: Replayed, arguments: list[str], told: str) -> None:
    code, out, err = shell("replay", *arguments)
    assert code != 0
    assert out == ""
    assert told in " ".join(err.replace("│", " ").split())


def test_replay_of_a_time_that_is_not_kept(shell: Replayed) -> None:
    shell.died()
    code, _, err = shell("replay", "--from", "2026-01-01")
    assert code == 1
    assert "give a later" in err


def test_status_of_an_empty_database(shell: Replayed) -> None:
    code, out, err = shell("status")
    assert (code, err) == (0, "")
    assert "none yet" in out
    code, out, _ = shell("status", "--format", "json", "--verify")
    told = json.loads(out)
    assert (told["hosts"], told["oldest_look"], told["last_run"], told["damaged"]) == (0, None, None, [])


def test_status_shows_how_much_there_is(shell: Replayed) -> None:
    shell.died()
    shell.fleet.listed.discard("web")
    shell.fleet.run()
    code, out, _ = shell("status", "--verify")
    assert code == 0
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "hidden: 1" in lines["hosts"]
    assert lines["damaged"].split() == ["damaged", "nothing"]
    _, out, _ = shell("status", "--format", "json")
    told = json.loads(out)
    assert (told["hosts"], told["hidden"], told["looks"], told["runs"]) == (1, 1, 9, 5)
    assert told["steps"] == 7
    assert told["checkpoints"] >= 1
    assert told["contents"]["number"] > 4
    assert told["replayable_from"] == told["oldest_look"] == shell.fleet.start.isoformat()
    assert told["last_run"] == told["last_run_finished"] == (shell.fleet.now - FIVE).isoformat()


def test_status_finds_what_is_damaged(shell: Replayed) -> None:
    shell.died()
    with shell.database.begin() as conn:
        digest = conn.execute(select(observations.c.facts).limit(1)).scalar()
        conn.execute(update(contents).where(contents.c.digest == digest).values(data=b"x"))
    code, out, err = shell("status", "--verify")
    assert code == 1
    assert str(digest) in out.replace("\n", "").replace(" ", "")
    assert "1 of " in err
    assert "restore the state database from a backup" in err
    code, out, _ = shell("status", "--verify", "--format", "json")
    assert (code, json.loads(out)["damaged"]) == (1, [digest])


def test_host_names_are_no_commands_for_a_terminal(shell: Replayed) -> None:
    machine = shell.fleet.add("evil", {80: NASTY})
    machine.host = Host(machine.host.id, NASTY, machine.host.address)
    shell.fleet.run()
    machine.kill(80)
    shell.fleet.run()
    rules = shell.config("rules:\n- {action: deny, port: 80}\n")
    code, out, _ = shell("replay", "--from", shell.fleet.start.isoformat(), "--config", rules)
    assert code == 0
    assert "\\x1b[31m" in out
