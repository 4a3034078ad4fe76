"""``portmon replay``, ``db usage``, ``status`` and ``events``: what is stored, and what it tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from portmon.config import Config
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host
from portmon.storage import events, silences
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


def test_usage_of_an_empty_database(shell: Replayed) -> None:
    code, out, err = shell("db", "usage")
    assert (code, err) == (0, "")
    assert "none yet" in out
    code, out, _ = shell("db", "usage", "--format", "json", "--verify")
    told = json.loads(out)
    assert (told["hosts"], told["oldest_look"], told["last_run"], told["damaged"]) == (0, None, None, [])


def test_usage_shows_how_much_there_is(shell: Replayed) -> None:
    shell.died()
    shell.fleet.listed.discard("web")
    shell.fleet.run()
    code, out, _ = shell("db", "usage", "--verify")
    assert code == 0
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "hidden: 1" in lines["hosts"]
    assert lines["damaged"].split() == ["damaged", "nothing"]
    _, out, _ = shell("db", "usage", "--format", "json")
    told = json.loads(out)
    assert (told["hosts"], told["hidden"], told["looks"], told["runs"]) == (1, 1, 9, 5)
    assert told["steps"] == 7
    assert told["checkpoints"] >= 1
    assert told["contents"]["number"] > 4
    assert told["replayable_from"] == told["oldest_look"] == shell.fleet.start.isoformat()
    assert told["last_run"] == told["last_run_finished"] == (shell.fleet.now - FIVE).isoformat()


def test_usage_finds_what_is_damaged(shell: Replayed) -> None:
    shell.died()
    with shell.database.begin() as conn:
        digest = conn.execute(select(observations.c.facts).limit(1)).scalar()
        conn.execute(update(contents).where(contents.c.digest == digest).values(data=b"x"))
    code, out, err = shell("db", "usage", "--verify")
    assert code == 1
    assert str(digest) in out.replace("\n", "").replace(" ", "")
    assert "1 of " in err
    assert "restore the state database from a backup" in err
    code, out, _ = shell("db", "usage", "--verify", "--format", "json")
    assert (code, json.loads(out)["damaged"]) == (1, [digest])


def test_status_of_nothing(shell: Replayed) -> None:
    code, out, err = shell("status")
    assert (code, err) == (0, "")
    assert "last run     none was evaluated yet: unpause the DAG" in out
    assert "open alerts  0" in out
    assert "nothing is known yet" in shell("ports")[1]


def test_status_is_the_page_for_a_terminal(shell: Replayed) -> None:
    shell.died()
    code, out, err = shell("status")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "hosts 2 ok" in lines
    assert "ports 2 up, 1 down" in lines
    assert "open alerts 1" in lines
    assert any(re.fullmatch(r"last run 20.* UTC, .* ago, took .*", line) for line in lines)
    (row,) = (line for line in lines if "5432/tcp" in line)
    assert "db 5432/tcp down postgres postgres.service" in row
    told = json.loads(shell("status", "--format", "json")[1])
    assert [one["port"] for one in told["problems"]["rows"]] == [5432]
    assert told["fleet"]["ports"]["down"] == 1
    with shell.database.begin() as conn:
        now = datetime.now(UTC)
        silences.add(conn, hosts=["db"], ends_at=now + timedelta(hours=1), author="ann", reason="x", now=now)
    assert "open alerts  0, and 1 acknowledged or silenced" in shell("status")[1]


def test_status_alerts_and_events_tell_of_a_host_that_flaps(shell: Replayed) -> None:
    shell.died()
    flaps, then = {"subject": "host", "state": "unreachable"}, shell.fleet.now
    told = [
        Event("1" * 32, EventKind.FLAPPING, then, "r", "id-web", "web", reason="4 changes", details=flaps),
        Event("2" * 32, EventKind.CLOCK_BACK, then, "r", reason="2 h behind"),
    ]
    with shell.database.begin() as conn:
        events.add(conn, told)
    shell.fleet.alert()
    rows = [" ".join(line.split()) for line in shell("status")[1].splitlines()]
    assert any("UTC web - host flapping" in row for row in rows)
    assert any("UTC - - clock back" in row for row in rows)
    assert "flapping" in shell("alerts")[1]
    found = json.loads(shell("events", "--kind", "host_flapping", "--format", "json")[1])
    assert [(one["kind"], one["host"], one["reason"]) for one in found] == [("host_flapping", "web", "4 changes")]
    assert json.loads(shell("events", "--kind", "flapping", "--format", "json")[1]) == []
    assert "The host comes and goes since" in shell("explain", "web")[1]
    assert "The monitor's clock went back at" in shell("explain", "db")[1]


def test_a_run_that_is_overdue_is_the_first_thing_that_status_says(
    shell: Replayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.died()
    monkeypatch.setattr("portmon.airflow.settings.interval", lambda: FIVE)
    assert shell("status")[1].splitlines()[1].startswith("overdue      no run was evaluated for 1h ")


def test_events_are_those_of_last_night(shell: Replayed) -> None:
    shell.died()
    code, out, err = shell("events", "--kind", "down", "--since", "12h")
    assert (code, err) == (0, "")
    assert out.count("tcp") == 2
    assert shell("events", "--kind", "down", "--until", "12h")[1].count("tcp") == 0
    found = json.loads(shell("events", "--host", "DB", "--port", "5432", "--format", "json")[1])
    assert [(one["kind"], one["host"]) for one in found] == [("down", "db")]
    assert found[0]["at"].endswith(("Z", "+00:00"))
    code, _, err = shell("events", "--kind", "dead")
    assert code == 2
    assert "there is no kind 'dead'" in " ".join(err.replace("│", " ").split())


def test_ports_and_stories_without_a_host_or_a_port(shell: Replayed) -> None:
    shell.died()
    _, out, _ = shell("ports")
    assert [line.split()[:3] for line in out.splitlines()[2:]] == [
        ["db", "5432/tcp", "down"],
        ["web", "22/tcp", "up"],
        ["web", "80/tcp", "up"],
    ]
    assert "and more: --limit 3" in shell("ports", "--limit", "1")[1]
    code, out, _ = shell("explain", "db")
    assert code == 0
    assert "Its ports: 1 down." in out
    assert "down of port 5432 (postgres, postgres.service)" in out
    told = json.loads(shell("explain", "db", "5432", "--format", "json")[1])
    assert (told["host"]["name"], [port["status"] for port in told["ports"]]) == ("db", ["down"])
    assert [event["kind"] for event in told["events"]] == ["down"]
    assert any("is down since" in line for line in told["story"])
    # The ports of a host that does not answer are not what they seem.
    shell.fleet.machines["db"].trouble = "timeout"
    shell.fleet.run()
    shell.fleet.run()
    assert "The host is unreachable since" in shell("ports", "db")[1]
    assert "down, host unreachable" in " ".join(shell("ports", "db")[1].split())
    shell.fleet.machines["web"].trouble = "timeout"
    shell.fleet.run()
    shell.fleet.run()
    assert " ".join(shell("ports")[1].split()).count("up, host unreachable") == 2


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
