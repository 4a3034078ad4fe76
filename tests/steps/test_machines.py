"""Entries for which another machine answers, and people who accept it: real steps, from the host list to the messages."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import Connection

from portmon.api.explain import explain
from portmon.api.hosts import accept_machine
from portmon.config import Config, parse_config
from portmon.errors import CommandError
from portmon.model.event_kinds import EventKind
from portmon.storage import actions, alerts, decisions, hosts, silences, state
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


def test_silences_of_an_entry_that_left_count_for_the_one_that_goes_on_with_its_state(fleet: Fleet) -> None:
    until = fleet.now + timedelta(days=1)
    with fleet.database.begin() as conn:
        silences.add(conn, hosts=("web1",), ends_at=until, author="ann", reason="moves", now=fleet.now)
    new, old = fleet.add("web1-new", {}), fleet.machines["web1"]
    new.services, new.identity = old.services, old.host.id
    fleet.listed.discard("web1")
    assert told(fleet) == [("taken_over", "id-web1-new")]
    with fleet.database.begin() as conn:
        (silence,) = silences.current(conn, fleet.now)
    assert silence.hosts == ("web1", "web1-new")


def test_a_fleet_whose_ids_were_all_renewed_goes_on_as_it_was(database: Database) -> None:
    """The CMDB was imported anew: each open alert is told once more under the new id, and nothing else."""
    fleet = Fleet(database, parse_config("alerts: {channels: [{type: log, name: chat}]}"))
    for number in range(10):
        fleet.add(f"web{number}", {22: "sshd", 80: "nginx"})
    fleet.run()
    fleet.machines["web0"].kill(80)
    fleet.machines["web1"].addresses = ("127.0.0.1",)
    assert told(fleet) == [("down", "id-web0"), ("rebound", "id-web1"), ("rebound", "id-web1")]
    assert told(fleet) == []
    for name, old in list(fleet.machines.items()):
        new = fleet.add(f"{name}-new", {})
        new.services, new.addresses, new.identity = old.services, old.addresses, old.host.id
        fleet.listed.discard(name)
    before = len(fleet.got)
    # The ids have changed: nothing is concluded in the first run, in which both are asked.
    first = fleet.run()
    assert {event.kind.value for event in first} == {"prune_refused", "baseline", "duplicate"}
    assert sum(event.kind is EventKind.DUPLICATE for event in first) == 10
    # In the second one the old ones leave, and the new ones go on with their state.
    second = fleet.run()
    kinds = Counter((event.kind.value, event.host_id or "") for event in second)
    assert [of for of in kinds.elements() if of[0] in ("down", "rebound")] == [
        ("down", "id-web0-new"),
        ("rebound", "id-web1-new"),
        ("rebound", "id-web1-new"),
    ]
    assert {kind for kind, host in kinds if host} == {"retired", "taken_over", "down", "rebound"}
    assert sum(count for (kind, _), count in kinds.items() if kind == "taken_over") == 10
    (down,) = (event for event in second if event.kind is EventKind.DOWN)
    assert down.since == fleet.start + fleet.interval
    # Messages: pruning is refused, works again; what is wrong, under the new names. No end under the old ones.
    messages = [got.message.text for got in fleet.got[before:]]
    assert len(messages) == 3
    assert sum(text.count("web0-new") > 0 and "web1-new" in text for text in messages) == 1
    assert not [text for text in messages if "no longer watched" in text]
    with database.begin() as conn:
        assert {one.id for one in hosts.known(conn)} == {f"id-web{n}-new" for n in range(10)}
        (alert,) = (one for one in alerts.opened(conn).values() if one.event.kind is EventKind.DOWN)
    assert alert.event.host_id == "id-web0-new"
    # It goes on as one host: nothing more is told, but its end once.
    for _ in range(3):
        assert told(fleet) == []
    fleet.machines["web0-new"].start(80, "nginx")
    assert told(fleet) == [("recovered", "id-web0-new")]
    # A day of a fleet that has its size: a few of it may leave.
    fleet.listed -= {"web8-new", "web9-new"}
    assert told(fleet) == []
