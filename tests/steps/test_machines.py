"""Entries for which another machine answers, and people who accept it: real steps, from the host list to the messages."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Connection

from portmon.api.explain import explain
from portmon.api.hosts import accept_machine
from portmon.config import Config
from portmon.errors import CommandError
from portmon.storage import actions, decisions, state
from portmon.storage.database import Database
from portmon.storage.decisions import DecisionKind
from tests.worlds.fleet import Fleet

ACCEPTED = "The machine that answers is accepted by ann: moved: its next complete answer counts."


@pytest.fixture
def fleet(database: Database) -> Fleet:
    """Three web servers that were seen twice."""
    made = Fleet(database, Config())
    for name in ("web1", "web2", "web3"):
        made.add(name, {22: "sshd", 80: "nginx"})
    made.run()
    made.run()
    return made


def told(fleet: Fleet) -> list[tuple[str, str | None]]:
    """A run; the kinds of what it told, and the hosts."""
    return [(event.kind.value, event.host_id) for event in fleet.run()]


def accept(fleet: Fleet, host: str) -> str:
    """A person accepts the machine between two runs."""
    with fleet.database.begin() as conn:
        return accept_machine(conn, host, author="ann", reason="moved", now=fleet.now - timedelta(minutes=1))


def story(conn: Connection, fleet: Fleet, host: str) -> list[str]:
    return explain(conn, Config(), host, None, now=fleet.now)


def sharing(fleet: Fleet) -> set[str]:
    with fleet.database.begin() as conn:
        return {host_id for host_id, host in state.load_hosts(conn).items() if host.shared}


def test_an_accepted_machine_is_the_hosts_own(fleet: Fleet) -> None:
    fleet.machines["web1"].identity = "id-web2"
    assert told(fleet) == [("foreign_machine", "id-web1")]
    # What it shows is not counted.
    fleet.machines["web1"].kill(80)
    assert told(fleet) == []
    said = accept(fleet, "WEB1")
    assert said == "web1: the machine that answers is accepted; its next complete answer counts, as after a reboot"
    with fleet.database.begin() as conn:
        assert list(decisions.in_force(conn, fleet.now).accepted) == [("id-web1", "host", 0)]
        (done,) = actions.newest(conn, limit=10)
        assert ACCEPTED in story(conn, fleet, "web1")
        assert ACCEPTED not in story(conn, fleet, "web2")
    assert (done.author, done.kind, done.subject, done.reason) == ("ann", "accept_machine", "web1", "moved")
    assert done.before == {"foreign_since": (fleet.start + 2 * fleet.interval).isoformat()}
    own, boot = fleet.run()
    assert (own.kind, own.reason) == ("own_machine", "A person accepted the machine that answers")
    assert (boot.kind, boot.host_id) == ("rebooted", "id-web1")
    assert len(fleet.titles()) == 2
    with fleet.database.begin() as conn:
        assert ACCEPTED not in story(conn, fleet, "web1")
    # From then on it is watched: its port had died.
    assert told(fleet) == []
    assert told(fleet) == [("down", "id-web1")]


def test_only_a_machine_that_is_foreign_now_can_be_accepted(fleet: Fleet) -> None:
    with fleet.database.begin() as conn:
        with pytest.raises(CommandError, match=r"web1: no other machine answers for it.*name the port"):
            accept_machine(conn, "web1", author="ann", now=fleet.now)
        assert decisions.in_force(conn, fleet.now).accepted == {}
        assert actions.newest(conn, limit=1) == []
    fleet.machines["web1"].identity = "id-web2"
    assert told(fleet) == [("foreign_machine", "id-web1")]
    accept(fleet, "web1")
    # It answers itself again before the acceptance counted: later foreign answers are another matter.
    fleet.machines["web1"].identity = ""
    assert told(fleet) == [("own_machine", "id-web1")]
    fleet.machines["web1"].identity = "id-web3"
    assert told(fleet) == [("foreign_machine", "id-web1")]
    assert told(fleet) == []
    with fleet.database.begin() as conn:
        assert ACCEPTED not in story(conn, fleet, "web1")


def test_what_is_withdrawn_before_the_next_run_does_not_count(fleet: Fleet) -> None:
    fleet.machines["web1"].identity = "id-web2"
    assert told(fleet) == [("foreign_machine", "id-web1")]
    accept(fleet, "web1")
    with fleet.database.begin() as conn:
        assert decisions.withdraw(conn, DecisionKind.ACCEPTED, "id-web1", 0)
        assert ACCEPTED not in story(conn, fleet, "web1")
    assert told(fleet) == []
    accept(fleet, "web1")
    with fleet.database.begin() as conn:
        # It has no end, so nothing of it expires.
        assert decisions.expire(conn, fleet.now + timedelta(days=1000)) == 0
    assert told(fleet) == [("own_machine", "id-web1"), ("rebooted", "id-web1")]


def test_a_reboot_of_a_machine_that_was_accepted_makes_neither_of_its_entries_foreign(fleet: Fleet) -> None:
    """Whichever of them shows it first."""
    one, other = fleet.machines["web1"], fleet.machines["web2"]
    one.identity = "id-web2"
    told(fleet)
    accept(fleet, "web1")
    told(fleet)
    one.boot = 2
    assert told(fleet) == [("rebooted", "id-web1")]
    other.boot = 2
    assert told(fleet) == [("rebooted", "id-web2")]


def test_a_duplicate_marks_the_entry_that_was_there_before_although_it_is_quiet(fleet: Fleet) -> None:
    fleet.add("alias", {22: "sshd", 80: "nginx"}).identity = "id-web2"
    assert told(fleet) == [("baseline", "id-alias"), ("duplicate", "id-alias")]
    assert sharing(fleet) == {"id-alias", "id-web2"}
    fleet.machines["alias"].boot = 2
    assert told(fleet) == [("rebooted", "id-alias")]
    fleet.machines["web2"].boot = 2
    assert told(fleet) == [("rebooted", "id-web2")]
