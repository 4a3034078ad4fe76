"""``portmon accept``, ``promote``, ``ports`` and ``explain``: what people say about ports."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from portmon.config import Config, parse_config
from portmon.model.host import Host, Inventory
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.storage import decisions
from portmon.storage.database import Database
from tests.worlds.runs import Runs
from tests.worlds.shell import Shell

NASTY = "[red]\x1b[31m\u202eevil\n{{ conn.x.password }}[/]"


class TwoHosts(Runs):
    """Runs that began five hours ago: decisions are made now, and count for observations that are not older."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, Config(), start=datetime.now(UTC) - timedelta(hours=5))
        self.listeners: tuple[Listener, ...] = ()
        self.answers = {"1": "1", "2": "2"}

    def load(self) -> Inventory:
        return Inventory((Host("1", "web1", "10.0.0.1", declared=(443,)), Host("2", NASTY, "10.0.0.2")))

    def observation(self, host_id: str) -> Observation:
        seen = Listing("netstat", 0, boot_id=self.answers[host_id], netns=1, listeners=self.listeners)
        return Observation(host_id, self.run_of().run_id, 1, self.now, Outcome.OK, listing=seen)


class Decisions(Shell):
    """Commands on the state of two hosts."""

    @cached_property
    def runs(self) -> TwoHosts:
        return TwoHosts(self.database)

    def see(
        self, *ports: int, program: str = "nginx", addresses: Sequence[str] = ("0.0.0.0",), **settings: int
    ) -> list[tuple[Any, ...]]:
        """A run; what it told."""
        self.runs.config = parse_config(json.dumps({"states": settings}))
        binds = [(port, address) for port in ports for address in addresses]
        self.runs.listeners = tuple(Listener("tcp", address, port, 7, program) for port, address in binds)
        run = self.runs.run_of()
        self.runs.scan_and_evaluate(run)
        self.runs.number += 1
        return [(event.kind.value, event.port) for event in self.runs.events(run.run_id) if event.host_id == "1"]

    def see_later(self, *ports: int, **values: Any) -> list[tuple[Any, ...]]:
        """A run after all decisions."""
        self.runs.start += max(timedelta(0), datetime.now(UTC) - self.runs.now)
        return self.see(*ports, **values)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Decisions]:
    with closing(Decisions(tmp_path, capsys, monkeypatch)) as made:
        (tmp_path / "portmon.yaml").write_text("")
        yield made


# ── accept ──────────────────────────────────────────────────────────────────────────────────────


def test_accept_retires_what_is_down(shell: Decisions) -> None:
    shell.see(80, 443)
    assert shell.see(443) == [("down", 80)]
    code, out, err = shell("accept", "WEB1", "80", "--reason", "moved", "--author", "ann")
    assert (code, err) == (0, "")
    assert out.endswith("web1: port 80 is accepted as gone; the next complete answer without it retires it\n")
    with shell.database.begin() as conn:
        assert decisions.decision(conn, decisions.DecisionKind.ACCEPTED, "1", 80) is not None
        assert decisions.decision(conn, decisions.DecisionKind.ACCEPTED, "1", 80)[1] == "ann: moved"  # type: ignore[index]
        assert decisions.decision(conn, decisions.DecisionKind.ACCEPTED, "2", 80) is None
    assert shell.see_later(443) == [("retired", 80)]
    assert shell("accept", "web1", "80")[0] == 1


def test_accept_is_over_when_the_port_comes_back(shell: Decisions) -> None:
    shell.see(80, 443)
    shell.see(443)
    shell("accept", "web1", "80")
    assert shell.see_later(80, 443) == [("recovered", 80)]
    assert shell.see(443) == [("down", 80)]
    assert shell.see(443) == []


def test_accept_ends_the_alert_of_an_address_that_a_port_lost(shell: Decisions) -> None:
    both = ("192.0.2.1", "192.0.2.2")
    shell.see(80, 443, addresses=both)
    assert shell.see(80, 443, addresses=both[:1]) == [("rebound", 80), ("rebound", 443)]
    code, out, err = shell("accept", "web1", "80", "--reason", "the address moved", "--author", "ann")
    assert (code, err) == (0, "")
    assert out.endswith("web1: port 80 is accepted without 192.0.2.2; the next complete answer ends its alert\n")
    # Also of a port that must listen: it does.
    assert shell("accept", "web1", "443")[0] == 0
    assert shell.see_later(80, 443, addresses=both[:1]) == [("retired", 80), ("retired", 443)]
    assert shell.see(80, 443, addresses=both[:1]) == []
    code, _, err = shell("accept", "web1", "80")
    assert (code, err) == (1, "error: web1: port 80 is not down; there is nothing to accept\n")


def test_accept_without_a_port_accepts_the_machine_that_answers(shell: Decisions) -> None:
    shell.see(80, 443)
    code, _, err = shell("accept", "web1")
    assert code == 1
    assert err == (
        "error: web1: no other machine answers for it, so there is no machine to accept; to accept a port that is "
        "down, name the port\n"
    )
    shell.runs.answers["1"] = "2"
    assert shell.see(80, 443) == [("foreign_machine", None)]
    code, out, err = shell("accept", "web1", "--reason", "restored from an image", "--author", "ann")
    assert (code, err) == (0, "")
    assert out.endswith(
        "web1: the machine that answers is accepted; its next complete answer counts, as after a reboot\n"
    )
    story = shell("explain", "web1", "--config", str(shell.folder / "portmon.yaml"))[1]
    assert (
        "The machine that answers is accepted by ann: restored from an image: its next complete answer counts." in story
    )
    assert shell.see_later(80, 443) == [("own_machine", None), ("rebooted", None)]
    assert shell("accept", "web1")[0] == 1


def test_ignore_ends_an_alert_until_the_port_is_watched_again(shell: Decisions) -> None:
    shell.see(80, 443)
    code, out, err = shell("ignore", "web1", "80", "--for", "30d", "--author", "ann", "--reason", "a trial")
    assert (code, err) == (0, "")
    assert "web1: port 80 is ignored until " in out
    assert shell.see_later(443) == []
    assert shell("ignore", "web1", "80", "--author", "ann")[0] == 2
    assert shell("ignore", "web1", "443", "--for", "1d")[2].startswith("error: web1: port 443 is declared by the CMDB")
    assert shell("ignore", "web1", "80", "--withdraw")[0] == 0
    assert shell("ignore", "web1", "80", "--withdraw")[0] == 1
    # What was known of it was kept: it is up, as before.
    assert shell.see_later(80, 443) == []
    assert shell.see(443) == [("down", 80)]


def test_boots_are_forgotten(shell: Decisions) -> None:
    shell.see(80, 443)
    assert shell("forget-boots", "web1", "80")[0] == 1
    shell.runs.answers["1"] = "other"
    shell.see(443)
    shell.see(80, 443)
    code, out, err = shell("forget-boots", "web1", "80", "--author", "ann", "--reason", "one slow start")
    assert (code, err) == (0, "")
    assert out.endswith("web1: that port 80 took up to 5m after boots does not count any more, from the next boot on\n")
    assert "does not count any more, from the next boot on: ann: one slow start." in shell("explain", "web1", "80")[1]


def test_the_author_is_the_system_user_by_default(shell: Decisions) -> None:
    shell.see(80, 443)
    shell.see(443)
    shell("accept", "1", "80")
    with shell.database.begin() as conn:
        assert decisions.decision(conn, decisions.DecisionKind.ACCEPTED, "1", 80)[1] == getpass.getuser()  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("web1", "80"), "web1: port 80 is not down; there is nothing to accept"),
        (("web1", "81"), "web1: port 81 is not down; there is nothing to accept"),
        (("web1", "443"), "web1: port 443 is declared by the CMDB; take that back, or it is down again at once"),
        (("web9", "80"), "no host has the name or id 'web9'; the CMDB's list of the last run counts"),
    ],
)
def test_what_can_not_be_accepted(shell: Decisions, arguments: tuple[str, ...], message: str) -> None:
    shell.see(80)
    code, _, err = shell("accept", *arguments)
    assert (code, err) == (1, f"error: {message}\n")
    with shell.database.begin() as conn:
        assert decisions.in_force(conn, datetime.now(UTC)).accepted == {}


# ── promote ─────────────────────────────────────────────────────────────────────────────────────


def test_promote_and_withdraw(shell: Decisions) -> None:
    shell.see(80, 443)
    _, out, _ = shell("promote", "web1", "80", "--reason", "the shop", "--author", "ann")
    assert out.endswith("web1: port 80 must listen from now on\n")
    assert shell.see(80, 443) == []
    assert re.search(r"^80 +up .* promoted by ann: the shop *$", shell("ports", "web1")[1], flags=re.M)
    assert shell.see(443) == [("down", 80)]
    assert "port 80 is promoted by ann: the shop; take that back" in shell("accept", "web1", "80")[2]
    _, out, _ = shell("promote", "web1", "80", "--withdraw")
    assert out.endswith("web1: port 80 is no longer promoted\n")
    code, _, err = shell("promote", "web1", "80", "--withdraw")
    assert (code, err) == (1, "error: web1: port 80 was not promoted\n")
    assert shell.see(80, 443) == [("recovered", 80)]
    assert "promoted" not in shell("ports", "web1")[1]


def test_a_port_that_was_never_seen_can_be_promoted(shell: Decisions) -> None:
    shell.see(443)
    shell("promote", "web1", "80", "--author", "ann")
    assert shell.see(443) == [("down", 80)]
    shell("promote", "web1", "80", "--withdraw")
    assert shell.see(443) == []
    # Nothing watches a port that was never seen: its alert ends.
    assert shell.see(443) == [("unwatched", 80)]


# ── ports ───────────────────────────────────────────────────────────────────────────────────────


def test_ports(shell: Decisions) -> None:
    shell.see(80, 443, 50000)
    shell.see(443, 50000)
    code, out, err = shell("ports", "web1")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["80", "down"], ["443", "up"], ["50000", "candidate"]]
    assert rows[0][-3:] == ["-", "0.0.0.0", "learned"]
    assert rows[1][-5:] == ["0.0.0.0", "declared", "by", "the", "CMDB"]


def test_a_port_that_flaps(shell: Decisions) -> None:
    for ports in ((80, 443), (443,), (80, 443)):
        shell.see(*ports, flap_threshold=2)
    assert "up, flapping" in shell("ports", "web1")[1]


def test_a_port_that_no_rule_watches_any_more_is_hidden_and_not_down(shell: Decisions) -> None:
    shell.see(80, 443)
    assert shell.see(443) == [("down", 80)]
    shell("ignore", "web1", "80", "--for", "30d", "--author", "ann", "--reason", "a trial")
    shell.see_later(443)
    for own in (("ports", "web1"), ("ports",)):
        (row,) = (line.split() for line in shell(*own)[1].splitlines() if " 80" in f" {line}" and "hidden" in line)
        assert "down" not in row
    (row,) = (
        one for one in json.loads(shell("ports", "--format", "json")[1]) if (one["host"], one["port"]) == ("web1", 80)
    )
    assert (row["status"], row["hidden_since"] is not None) == ("down", True)


def test_ports_as_json(shell: Decisions) -> None:
    shell.see(80, 443)
    code, out, err = shell("ports", "web1", "--format", "json")
    assert (code, err) == (0, "")
    assert out.isascii()
    first, second = json.loads(out)
    assert (first["port"], first["status"], first["programs"], first["declared"]) == (80, "up", ["nginx"], None)
    assert (second["port"], second["declared"]) == (443, "declared by the CMDB")


# ── all of them ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", ["accept", "promote", "explain", "forget-boots"])
@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_what_is_no_port(shell: Decisions, command: str, port: str) -> None:
    assert shell(command, "web1", port)[0] == 2


@pytest.mark.parametrize(
    "arguments", [("accept", "w", "1"), ("promote", "w", "1"), ("explain", "w", "1"), ("ports", "w")]
)
def test_without_a_state_database(shell: Decisions, arguments: tuple[str, ...]) -> None:
    code, _, err = shell(*arguments)
    assert code == 1
    assert "portmon db upgrade" in err


def test_hostile_text_is_harmless(shell: Decisions) -> None:
    shell.see(80, 443, program=NASTY)
    shell.see(443, program=NASTY)
    said = [
        shell("explain", "2", "80", "--config", str(shell.folder / "portmon.yaml")),
        shell("accept", "2", "80", "--author", NASTY, "--reason", NASTY),
        shell("explain", "2", "80", "--config", str(shell.folder / "portmon.yaml")),
        shell("promote", "2", "80", "--author", NASTY, "--reason", NASTY),
        shell("ports", "2"),
        shell("ports", "2", "--format", "json"),
        shell("accept", "2", "443"),
    ]
    assert [code for code, _, _ in said] == [0] * 6 + [1]
    assert "Accepted as gone by [red]\\x1b[31m\\u202eevil\\n{{ conn.x.password }}[/]: [red]" in said[2][1]
    assert "[red]\\x1b[31m" in said[4][1]
    assert json.loads(said[5][1])[0]["programs"] == [NASTY]
    assert said[6][2].startswith("error: [red]\\x1b[31m")
