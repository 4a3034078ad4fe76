"""Another version of probe or reader, another tool, or a tool that hung makes no event of a port."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from portmon.config import parse_config
from portmon.engine.rules import Rule
from portmon.engine.watched import KnownOwner, subjects_of
from portmon.model.observation import PROBE, READER, Listener
from portmon.steps.plan import expected
from portmon.storage import hosts, tables
from portmon.storage.database import Database
from tests.engine.test_evaluate import START, World, ok
from tests.worlds.fleet import FIVE, Fleet, Machine

OLD: dict[str, Any] = {"probe": 1, "reader": 1}


def seen(at: float, *listeners: Listener, **fields: Any) -> Any:
    return ok(at, listeners=listeners, **fields)


def listener(port: int, address: str = "0.0.0.0", **fields: Any) -> Listener:
    return Listener("tcp6" if ":" in address else "tcp", address, port, **fields)


# ── versions ────────────────────────────────────────────────────────────────────────────────────


def test_the_first_look_of_another_reader_learns_in_silence() -> None:
    """ss of an old host prints * for every address of IPv4, which an earlier reader took for ::."""
    world = World()
    before = [listener(22, "::", pid=1, program="sshd"), listener(25, "127.0.0.1", pid=2, program="master")]
    now = [
        listener(22, "0.0.0.0", pid=9, program="sshd-session", comm="sshd"),
        listener(25, "127.0.0.1", pid=2, program="postfix", comm="postfix"),
        listener(81, pid=3, program="new"),
    ]
    assert world.see(seen(0, *before, tool="ss", **OLD)) == [("baseline",), ("probe_outdated",)]
    assert world.see(seen(1, *before, tool="ss", **OLD)) == []
    assert world.see(seen(2, *now, tool="ss")) == []
    assert world.host().reader == READER
    assert world.host().probe == PROBE
    assert world.port(22)["addresses"] == ("0.0.0.0",)
    assert world.port(81)["status"] == "up"
    # Later observations are compared as usual.
    assert world.see(seen(3, *now[:2], listener(82), tool="ss")) == [("down", 81), ("new", 82)]


def test_what_is_missing_in_it_is_evaluated() -> None:
    world = World()
    world.see(seen(0, listener(22), listener(80), tool="ss", **OLD))
    assert world.see(seen(1, listener(22), tool="ss")) == [("down", 80)]
    assert world.see(seen(2, listener(22), listener(80), tool="ss")) == [("recovered", 80)]


def test_what_is_back_in_it_is_told() -> None:
    world = World()
    world.see(seen(0, listener(22), listener(80), tool="ss", **OLD))
    assert world.see(seen(1, listener(22), tool="ss", **OLD)) == [("down", 80)]
    assert world.see(seen(2, listener(22), listener(80), tool="ss")) == [("recovered", 80)]


def test_a_wildcard_that_another_reader_lost_is_not_lost_any_more() -> None:
    world = World()
    both = [listener(22, "::"), listener(22, "0.0.0.0")]
    world.see(seen(0, *both, tool="ss", **OLD))
    assert world.see(seen(1, listener(22, "0.0.0.0"), tool="ss", **OLD)) == [("rebound", 22)]
    # Its open alert ends with an event.
    assert world.see(seen(2, listener(22, "0.0.0.0"), tool="ss")) == [("recovered", 22)]
    assert world.see(seen(3, listener(22, "0.0.0.0"), tool="ss")) == []


def test_an_address_that_was_lost_stays_lost() -> None:
    world = World()
    world.see(seen(0, listener(22, "10.0.0.1"), listener(22, "10.0.0.2"), tool="ss", **OLD))
    assert world.see(seen(1, listener(22, "10.0.0.1"), tool="ss", **OLD)) == [("rebound", 22)]
    assert world.see(seen(2, listener(22, "10.0.0.1"), tool="ss")) == []
    assert world.port(22)["lost"] == ("10.0.0.2",)
    assert world.see(seen(3, listener(22, "10.0.0.1"), listener(22, "10.0.0.2"), tool="ss")) == [("recovered", 22)]


@pytest.mark.parametrize("ends", ["a", "b"])
def test_a_reader_that_took_the_inode_of_another_socket_and_knew_no_sessions(ends: str) -> None:
    """Up to the second one: all sockets of one address had the last one's inode beside netstat."""

    def look(*inodes: int, **session: str) -> list[Listener]:
        names = zip("ab", inodes, strict=True)
        shared = [listener(80, comm=name, unit=f"{name}.service", inode=inode) for name, inode in names]
        return [*shared, listener(9000, comm="socat", **session)]

    world = World()
    world.see(seen(0, *look(5, 5), reader=2))
    now = look(4, 5, unit="session-3.scope")
    assert world.see(seen(1, *now)) == []
    # What was taken for mature stays so.
    assert world.port(9000)["young_since"] is None
    left = [one for one in now if one.comm != ends]
    assert world.see(seen(2, *left)) == [("owner_gone", 80)]


def test_an_old_forced_command_is_noted_once() -> None:
    world = World()
    assert world.see(seen(0, listener(22), probe=1)) == [("baseline",), ("probe_outdated",)]
    assert world.see(seen(1, listener(22), probe=1)) == []
    assert world.see(seen(2, listener(22))) == []
    # The old script is installed again.
    assert world.see(seen(3, listener(22), probe=1)) == [("probe_outdated",)]


# ── another tool ────────────────────────────────────────────────────────────────────────────────

NETSTAT = [
    listener(22, pid=1, program="sshd: /usr/sbin", comm="sshd"),
    listener(80, "::", pid=5, program="nginx: master", comm="nginx"),
    listener(546, "fe80::1", pid=6, program="dhclient", comm="dhclient"),
]
SS = [
    listener(22, pid=1, program="sshd", comm="sshd"),
    listener(80, "::", pid=5, program="nginx", comm="nginx"),
    listener(546, "fe80::1", pid=6, program="dhclient", comm="dhclient", zone="eth0"),
]


@pytest.mark.parametrize("first", ["netstat-W", "ss"])
def test_a_change_of_tool_makes_no_event(first: str) -> None:
    world = World()
    looks = {"netstat-W": NETSTAT, "ss": SS}
    second = next(tool for tool in looks if tool != first)
    world.see(seen(0, *looks[first], tool=first))
    assert world.see(seen(1, *looks[second], tool=second)) == []
    assert world.see(seen(2, *looks[first], tool=first)) == []


def test_another_program_is_seen_across_tools() -> None:
    world = World()
    world.see(seen(0, *NETSTAT, tool="netstat-W"))
    other = [SS[0], dataclasses.replace(SS[1], pid=77, program="caddy", comm="caddy"), SS[2]]
    assert world.see(seen(1, *other, tool="ss")) == [("replaced", 80)]


@pytest.mark.parametrize(
    ("action", "program", "first"),
    [
        ("deny", "nginx", NETSTAT),
        ("deny", "nginx", SS),
        ("allow", "nginx", NETSTAT),
        ("allow", "nginx", SS),
        # A watched port keeps a name that only netstat prints.
        ("allow", "nginx: *", NETSTAT),
        ("deny", "other: *", NETSTAT),
    ],
)
def test_a_rule_by_program_does_not_flip_with_the_tool(action: str, program: str, first: list[Listener]) -> None:
    rules = [Rule(action=action, program=[program])]
    if action == "allow":
        rules += [Rule(action="allow", port=[(22, 22)]), Rule(action="allow", port=[(546, 546)])]
    second = SS if first is NETSTAT else NETSTAT
    world = World(rules=rules)
    for at, look in enumerate((first, second, first, second)):
        told = world.see(seen(at, *look, tool="netstat-W" if look is NETSTAT else "ss"))
        assert told == ([("baseline",)] if at == 0 else [])
        assert (world.port(80) is not None) == (action == "allow" or program == "other: *")


# ── tools that hung ─────────────────────────────────────────────────────────────────────────────


def test_a_tool_that_hung_is_left_alone_for_a_day() -> None:
    world = World()
    world.see(seen(0, listener(22), tool="ss", hung=("netstat",)))
    assert (world.host().hung, world.host().hung_at) == ("netstat", START)
    world.see(seen(1, listener(22), tool="ss"))
    assert (world.host().hung, world.host().hung_at) == ("netstat", START)
    world.see(seen(2, listener(22), tool="proc", hung=("ss",)))
    assert (world.host().hung, world.host().hung_at) == ("netstat,ss", START + 2 * FIVE)
    world.see(seen(2 + 288, listener(22), tool="netstat-W"))
    assert (world.host().hung, world.host().hung_at) == (None, None)


class OddMachine(Machine):
    """A host with a version of the probe, a tool, and tools that hang."""

    def __init__(self, machine: Machine, **says: Any) -> None:
        Machine.__init__(self, machine.host, machine.services)
        self.says = says
        self.shows: Callable[[Sequence[Listener]], Sequence[Listener]] = lambda found: found

    def look(self, run_id: str, at: Any) -> Any:
        observation = Machine.look(self, run_id, at)
        found = dataclasses.replace(observation.listing, listeners=tuple(self.shows(observation.listing.listeners)))
        return dataclasses.replace(observation, listing=dataclasses.replace(found, **self.says))


def test_the_next_look_is_told_of_it(database: Database) -> None:
    fleet = Fleet(database, parse_config("{}"))
    machine = fleet.add("web1", {22: "sshd"})
    fleet.machines["web1"] = OddMachine(machine, hung=("netstat",), tool="ss")
    fleet.run()
    with database.begin() as conn:
        now = fleet.start + timedelta(hours=1)
        wanted = expected(conn, [machine.host.id], {}, now=now)[machine.host.id]
        assert (wanted.tool, wanted.hung) == ("ss", ("netstat",))
        wanted = expected(conn, [machine.host.id], {}, now=now + timedelta(days=1))[machine.host.id]
        assert wanted.hung == ()


# ── an upgrade ──────────────────────────────────────────────────────────────────────────────────


def test_an_upgrade_of_a_filled_archive_makes_no_event(database: Database) -> None:
    """The first runs of a fleet after the upgrade make no event but the notes of old probes."""
    fleet = Fleet(database, parse_config("{}"))
    for number in range(12):
        machine = fleet.add(f"web{number}", {22: "sshd", 80: "nginx", 5432: "postgres"})
        fleet.machines[machine.host.name] = odd = OddMachine(machine, probe=1, reader=1)
        if number % 3 == 0:
            odd.says |= {"tool": "ss"}
            # The former reader took a lone * for this address.
            odd.shows = lambda found: [dataclasses.replace(one, address="::", protocol="tcp6") for one in found]
    for _ in range(3):
        fleet.run()
    down = fleet.machines["web1"]
    program = down.kill(5432)
    assert [event.kind.value for event in fleet.run()] == ["down"]
    _as_an_earlier_reader_left_it(database)

    for number, machine in enumerate(fleet.machines.values()):
        machine.says = {"probe": 1} if number == 5 else {"tool": "ss" if number % 3 == 0 else "netstat-W"}
        machine.shows = lambda found: [
            dataclasses.replace(one, comm=one.program[:15], program=f"{one.program}: main") for one in found
        ]
    events = fleet.run()
    assert [(event.kind.value, event.host_name) for event in events] == [("probe_outdated", "web5")]
    with database.begin() as conn:
        assert hosts.outdated(conn) == ["web5"]
    assert fleet.run() == []
    # Open alerts end, and a death is an event.
    down.start(5432, program)
    fleet.machines["web3"].kill(80)
    assert sorted((event.kind.value, event.host_name) for event in fleet.run()) == [
        ("down", "web3"),
        ("recovered", "web1"),
    ]


def _as_an_earlier_reader_left_it(database: Database) -> None:
    """Remove what only later versions store: the versions of probe and reader, and the kernel's names."""
    with database.begin() as conn:
        conn.execute(update(tables.hosts).values(probe=None, reader=None, hung=None, hung_at=None))
        conn.execute(update(tables.ports).values(comms=(), notices=()))


# ── what rules may know a listener by ───────────────────────────────────────────────────────────


@pytest.mark.parametrize(("shown", "expected"), [(None, ("last.service",)), ("now.service", ("now.service",))])
@pytest.mark.parametrize("program", [None, "nginx"])
def test_a_unit_that_is_not_shown_is_the_last_known_one(
    shown: str | None, expected: tuple[str, ...], program: str | None
) -> None:
    known = KnownOwner(("nginx",), (), ("last.service",))
    subjects = subjects_of(listener(80, program=program, unit=shown), known)
    assert [(subject.programs, subject.units) for subject in subjects] == [(("nginx",), expected)]
