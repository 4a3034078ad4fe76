"""The naive implementation of who holds a port: each row of the contract's table of owners, restarts, young ports, boots."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from portmon.engine.rules import Rule
from portmon.model.observation import Listener, Listing, Outcome
from portmon.model.observation import Owner as Process
from tests.engine.test_twin import DAY, START, Play, five
from tests.worlds.reference_owners import Owner, is_named, is_same, unit_name, units_of_many, view_of
from tests.worlds.reference_rows import Changes

HOUR = 60


def _hours(count: float) -> timedelta:
    return timedelta(hours=count)


def _at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def sock(
    program: str | None,
    unit: str | None = None,
    pid: int | None = 7,
    *,
    port: int = 80,
    on: str = "0.0.0.0",
    **more: Any,
) -> Listener:
    """A socket; its kernel's name is that of its program if ``comm`` is not given."""
    protocol = "tcp6" if ":" in on else "tcp"
    return replace(Listener(protocol, on, port, pid, program, unit=unit, comm=program), **more)


def look(*listeners: Listener, boot: str = "b1", confirmed: bool = True, **more: Any) -> dict[str, dict[str, Any]]:
    ssh = Listener("tcp", "0.0.0.0", 22, 1022, "sshd", unit="ssh.service", inode=22, comm="sshd")
    listing = replace(Listing("ss", 0, boot_id=boot, listeners=(ssh, *listeners)), **more)
    return {"a": {"outcome": Outcome.OK, "listing": listing, "confirmed": confirmed}}


NGINX = sock("nginx", "nginx.service", 500, inode=5000)
PYTHON = sock("python3", None, 900, inode=9000)
VARNISH = sock("varnishd", "varnish.service", 600, inode=6000)
HIDDEN = sock(None, None, None)


def told(play: Play, minutes: float, *listeners: Listener, **more: Any) -> list[Any]:
    """Kinds of what is told of port 80 in one look, each with what else it says."""
    events = play.run(minutes, look(*listeners, **more))
    return [one[1] if len(one) < 5 else f"{one[1]} {one[4]}" for one in events if one[3:4] == (80,)]


def known(*listeners: Listener, until: int = 10, **settings: Any) -> Play:
    """A host whose first looks showed these."""
    play = Play(**settings)
    for minutes in five(0, until):
        assert told(play, minutes, *listeners) == []
    return play


def owners(play: Play) -> list[str]:
    """Of port 80: unit or program of each, and whether it is gone."""
    found = play.reference.ports["a"][80].owners
    return sorted((one.unit or min(one.comms)) + (" gone" if one.gone_since else "") for one in found)


# ── who is who ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        (None, ""),
        ("nginx.service", "nginx.service"),
        ("ssh.socket", "ssh.socket"),
        ("app@blue.service", "app@.service"),
        ("a@b@c.service", "a@.service"),
        ("session-3.scope", ""),
        ("debug.scope", ""),
        ("run-r12.service", ""),
        ("dbus-:1.2-org.x@0.service", ""),
        ("docker:0123456789ab", "docker"),
        ("lxc:web", "lxc"),
    ],
)
def test_units_that_are_names(unit: str | None, name: str) -> None:
    assert unit_name(unit) == name


A = Owner(unit="a.service")
N, J = frozenset({"nginx"}), frozenset({"java"})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (A, A, True),
        (A, Owner(unit="b.service"), False),
        (Owner(unit="a.service", comms=N), Owner(unit="a.service", comms=J), True),
        (Owner(unit="many.service", comms=N), Owner(unit="many.service", comms=J), False),
        (Owner(unit="many.service", comms=N), Owner(unit="many.service", comms=N), True),
        (Owner(unit="many.service", comms=N), Owner(unit="many.service"), None),
        (Owner(unit="docker", inodes=frozenset({7})), Owner(unit="docker", inodes=frozenset({7, 8})), True),
        (Owner(unit="docker", inodes=frozenset({7})), Owner(unit="docker", inodes=frozenset({8})), None),
        (Owner(unit="docker", comms=N), Owner(unit="docker", comms=J), False),
        (Owner(unit="docker", comms=N), Owner(unit="podman", comms=N), False),
        # A unit of the process is no unit of the socket.
        (A, Owner(unit="a.service", of_socket=True), None),
        (A, Owner(unit="b.service", of_socket=True), None),
        (Owner(unit="a.service", comms=N), Owner(unit="b.service", of_socket=True, comms=N), True),
        (A, Owner(comms=N), None),
        # Names of one kind.
        (Owner(comms=N), Owner(comms=N | J), True),
        (Owner(comms=N, programs=J, tool="ss"), Owner(comms=J, programs=J, tool="ss"), False),
        (Owner(programs=frozenset({"nginx: master"}), tool="ss"), Owner(programs=N, tool="ss"), True),
        (Owner(programs=N, tool="ss"), Owner(programs=J, tool="ss"), False),
        (Owner(programs=N, tool="ss"), Owner(programs=J, tool="netstat-W"), None),
        (Owner(comms=N), Owner(programs=N, tool="ss"), None),
        # A pid, within one boot.
        (Owner(comms=N, pids=frozenset({7})), Owner(programs=J, tool="ss", pids=frozenset({7, 8})), True),
        (Owner(comms=N, pids=frozenset({7})), Owner(programs=J, tool="ss", pids=frozenset({7}), boot=1), None),
        (Owner(comms=N, pids=frozenset({7})), Owner(comms=J, pids=frozenset({7})), False),
        # A socket, within one boot.
        (Owner(comms=N, inodes=frozenset({7})), Owner(comms=J, inodes=frozenset({7, 8})), True),
        (Owner(comms=N, inodes=frozenset({7})), Owner(comms=J, inodes=frozenset({7}), boot=1), False),
        (Owner(unit="a.service", comms=N, inodes=frozenset({7})), Owner(comms=J, inodes=frozenset({7})), True),
        (
            Owner(unit="a.service", comms=N, inodes=frozenset({7})),
            Owner(unit="b.service", of_socket=True, comms=J, inodes=frozenset({7})),
            True,
        ),
        (
            Owner(unit="a.service", inodes=frozenset({7})),
            Owner(unit="b.service", inodes=frozenset({7})),
            False,
        ),
    ],
)
def test_whether_two_are_the_same_owner(one: Owner, other: Owner, same: bool | None) -> None:
    assert is_same(one, other, {"many.service"}) is same
    assert is_same(other, one, {"many.service"}) is same


@pytest.mark.parametrize(
    ("rows", "many"),
    [
        ((sock("x", "u.service", inode=1), sock("y", "u.service", inode=2)), True),
        ((sock("x", "u.service", inode=1), sock("y", "u.service", inode=1)), False),
        ((sock("x", "u.service", inode=1), sock("x", "u.service", inode=2)), False),
        ((sock("x", "u.service"), sock("y", "u.service", port=443)), True),
        ((sock("x", "u.service"), sock("y", "v.service")), False),
        # By the kernel's names only if all are shown.
        ((sock("x: 1", "u.service", comm=None), sock("x: 2", "u.service")), False),
        ((sock("x", "u.service", comm="m"), sock("x", "u.service", comm="n")), True),
        ((sock("x", "u.service", comm=None), sock("x", "u.service", comm="n")), False),
        ((sock("x", "u@1.service"), sock("y", "u@2.service")), True),
        ((sock("systemd", "u.service", 1), sock("y", "u.service")), False),
        ((sock("x", "s.scope"), sock("y", "s.scope")), False),
    ],
)
def test_units_that_hold_many_programs(rows: tuple[Listener, ...], many: bool) -> None:
    assert bool(units_of_many(rows)) is many


def test_listeners_are_grouped_by_unit_and_else_by_program() -> None:
    def names(*rows: Listener, many: frozenset[str] = frozenset()) -> list[tuple[str, list[str]]]:
        view = view_of(rows, tool="ss", boot=0, many=many)
        return sorted((one.unit, sorted(one.comms)) for one in view.owners)

    assert names(sock("x", "u@1.service"), sock("y", "u@2.service")) == [("u@.service", ["x", "y"])]
    both = (sock("x", "u.service"), sock("y", "u.service", 8))
    assert names(*both, many=frozenset({"u.service"})) == [("u.service", ["x"]), ("u.service", ["y"])]
    assert names(sock("x", "docker:1"), sock("y", "docker:2")) == [("docker", ["x"]), ("docker", ["y"])]
    assert names(sock("x", "docker:1"), sock("x", "docker:2")) == [("docker", ["x"])]
    assert names(sock("x", "a.scope"), sock("x", None), sock("y", None)) == [("", ["x"]), ("", ["y"])]
    assert names(sock("x", "u.service"), sock("x", None)) == [("u.service", ["x"])]
    assert names(sock("systemd", None, 1), sock("init", None, 1, on="::"), HIDDEN) == []
    assert names(sock("init", None, 2)) == [("", ["init"])]


# ── the table ───────────────────────────────────────────────────────────────────────────────────


def test_known_none_and_shown_one_it_is_the_owner_and_never_joined() -> None:
    play = known(HIDDEN)
    assert owners(play) == []
    assert told(play, 15, NGINX) == []
    assert owners(play) == ["nginx.service"]
    assert play.reference.ports["a"][80].owners[0].joined is None
    assert told(known(sock(None, None, None, inode=1)), 15, NGINX) == []  # no restart either


def test_one_that_joins_is_not_told() -> None:
    play = known(NGINX)
    assert told(play, 15, NGINX, VARNISH) == []
    assert owners(play) == ["nginx.service", "varnish.service"]


def test_none_of_the_known_ones_is_shown() -> None:
    play = known(NGINX)
    assert told(play, 15, PYTHON, confirmed=False) == ["replaced"]
    assert owners(play) == ["python3"]
    assert told(play, 20, PYTHON) == []
    both = known(NGINX, VARNISH)
    assert told(both, 15, PYTHON) == ["replaced"]


def test_other_unit_same_program() -> None:
    jenkins, tomcat = sock("java", "jenkins.service", 500), sock("java", "tomcat.service", 900)
    assert told(known(jenkins), 15, tomcat) == ["replaced"]


def test_one_of_two_owners_leaves() -> None:
    play = known(NGINX, VARNISH)
    assert told(play, 15, NGINX, confirmed=False) == []
    assert owners(play) == ["nginx.service", "varnish.service"]
    assert told(play, 20, NGINX) == ["owner_gone"]
    assert owners(play) == ["nginx.service", "varnish.service gone"]
    assert told(play, 25, NGINX) == []
    assert told(play, 30, NGINX, sock("varnishd", "varnish.service", 601, inode=6001)) == ["recovered owner"]
    assert owners(play) == ["nginx.service", "varnish.service"]


def test_the_owners_that_are_gone_are_one_alert_until_the_last_is_back() -> None:
    third = sock("third", "third.service", 700, inode=7000)
    play = known(NGINX, VARNISH, third)
    assert told(play, 15, NGINX, third) == ["owner_gone"]
    assert told(play, 20, NGINX) == ["owner_gone"]
    assert told(play, 80, NGINX, VARNISH) == []
    assert told(play, 85, NGINX, VARNISH, third) == ["recovered owner"]
    assert told(known(NGINX, VARNISH, third), 15, NGINX) == ["owner_gone"]  # both at once


def test_another_one_comes_as_one_leaves() -> None:
    play = known(NGINX, VARNISH)
    assert told(play, 15, NGINX, PYTHON) == ["owner_gone"]
    assert owners(play) == ["nginx.service", "python3", "varnish.service gone"]


def test_of_owners_that_stay_all_of_whom_joined_lately() -> None:
    play = known(NGINX, mature_after=_hours(1))
    assert told(play, 15, NGINX, VARNISH) == []
    assert told(play, 74, VARNISH) == ["replaced"]  # 19 minutes of evidence
    assert owners(play) == ["varnish.service"]
    play = known(NGINX, mature_after=_hours(1))
    assert [told(play, minutes, NGINX, VARNISH) for minutes in five(15, 70)] == [[]] * 12
    assert told(play, 75, VARNISH) == ["owner_gone"]


def test_workers_and_sockets_that_are_handed_over() -> None:
    workers = [sock("gunicorn", "app.service", pid) for pid in (500, 501, 502)]
    play = known(*workers)
    assert told(play, 15, *workers[:2]) == told(play, 20, workers[0]) == []
    # The new process has the sockets of the old one.
    play = known(NGINX)
    heir = sock("caddy", "caddy.service", 501, inode=5000)
    assert told(play, 15, NGINX, heir) == told(play, 20, heir) == []
    assert owners(play) == ["caddy.service"]


def test_bluegreen_handover() -> None:
    blue, green = sock("java", "app@blue.service", 500), sock("java", "app@green.service", 900)
    play = known(blue)
    assert told(play, 15, blue, green) == told(play, 20, green) == []


@pytest.mark.parametrize(
    ("rows", "now", "gone"),
    [
        # Without inodes: fewer listeners on its address than all had, and each shows an owner.
        ((sock("x", pid=1001), sock("y", pid=1002)), (sock("x", pid=1001),), True),
        ((sock("x", pid=1001), sock("y", pid=1002)), (sock("x", pid=1001), sock("x", pid=1003)), False),
        ((sock("x", pid=1001), sock("y", pid=1002)), (sock("x", pid=1001), HIDDEN), False),
        ((sock("x", pid=1001), sock("y", pid=1002, on="::1")), (sock("x", pid=1001),), True),
        ((sock("x", pid=1001), sock("x", pid=1002), sock("y", pid=1003, on="::1")), (sock("x", pid=1001),), True),
        # With inodes: none of its own is there, and no other socket may be a new one of it.
        ((sock("x", inode=1), sock("y", inode=2)), (sock("x", inode=1), sock("x", inode=3)), True),
        ((sock("x", inode=1), sock("y", inode=2)), (sock("x", inode=1), sock(None, None, None, inode=3)), False),
        (
            (sock("x", inode=1), sock("y", inode=2), sock("y", inode=4)),
            (sock("x", inode=1), sock(None, None, None, inode=3)),
            True,
        ),
        ((sock("x", inode=1), sock("y", inode=2)), (sock("x", inode=1), sock(None, None, None, inode=2)), False),
        ((sock("x", inode=1), sock("y", inode=2)), (sock("x"), sock("x")), False),
    ],
)
def test_when_an_owner_that_is_not_shown_is_gone(
    rows: tuple[Listener, ...], now: tuple[Listener, ...], gone: bool
) -> None:
    play = known(*rows)
    assert told(play, 15, *now) == (["owner_gone"] if gone else [])


def test_a_look_without_owners_says_nothing() -> None:
    play = known(NGINX, VARNISH)
    assert told(play, 15, HIDDEN, HIDDEN) == []
    assert owners(play) == ["nginx.service", "varnish.service"]


def test_the_first_process_owns_nothing() -> None:
    play = known(NGINX)
    systemd = sock("systemd", "init.scope", 1, inode=5000)
    assert told(play, 15, systemd) == []
    assert owners(play) == ["nginx.service"]
    assert told(play, 20, sock("nginx", "nginx.service", 501, inode=5000)) == []


def test_the_only_one_that_may_be_the_only_known_owner_is_taken_for_it() -> None:
    play = known(sock("nginx", None, 7, comm=None))
    assert told(play, 15, sock("caddy", None, 8, comm=None), tool="netstat-W") == ["restarted"]
    assert owners_of_programs(play) == ["caddy"]


def test_what_may_be_a_known_owner_or_not_is_as_if_it_were_not_shown() -> None:
    play = known(sock("nginx", None, 7, comm=None), sock("java", None, 6, comm=None))
    assert told(play, 15, sock("caddy", None, 8, comm=None), tool="netstat-W") == []
    assert owners_of_programs(play) == ["java", "nginx"]


def test_another_process_that_holds_a_socket_with_the_first_one_is_its_owner() -> None:
    both = sock("systemd", "init.scope", 1, inode=5000, owners=(Process(1, "systemd"), Process(500, "nginx")))
    play = known(sock("nginx", None, 500, inode=5000))
    assert told(play, 15, both) == told(play, 20, sock("nginx", None, 500, inode=5000)) == []
    assert told(play, 25, replace(both, inode=1, owners=(Process(1, "systemd"), Process(600, "caddy")))) == ["replaced"]
    assert play.reference.ports["a"][80].pids == {600}


def owners_of_programs(play: Play) -> list[str]:
    return sorted(name for one in play.reference.ports["a"][80].owners for name in one.programs)


def test_who_has_the_same_socket_is_the_same_owner_and_has_both_names_where_no_unit_compares() -> None:
    play = known(PYTHON)
    other = sock("gunicorn", None, 901, inode=9000)
    assert told(play, 15, other) == []
    assert play.reference.ports["a"][80].owners[0].comms == {"python3", "gunicorn"}
    assert told(play, 20, sock("python3", None, 902, inode=9001)) == ["restarted"]
    assert play.reference.ports["a"][80].owners[0].comms == {"python3"}
    assert told(play, 25, sock("gunicorn", None, 901, inode=9002)) == ["replaced"]


# ── binds of owners ─────────────────────────────────────────────────────────────────────────────


def test_loopback_twin_dies() -> None:
    bouncer = sock("pgbouncer", "pgbouncer.service", 700, on="10.0.0.5")
    postgres = sock("postgres", "postgresql.service", 600, on="127.0.0.1")
    assert told(known(bouncer, postgres), 15, bouncer) == ["owner_gone"]


def test_the_binds_of_an_owner_that_is_gone_are_gone_with_it_and_expected_when_it_is_back() -> None:
    other = [
        sock("varnishd", "varnish.service", 600, on=on, inode=inode) for on, inode in (("10.0.0.5", 1), ("10.0.0.6", 2))
    ]
    nginx = sock("nginx", "nginx.service", 500, on="127.0.0.1", inode=3)
    play = known(nginx, *other)
    assert told(play, 15, nginx) == ["owner_gone"]
    assert told(play, 20, nginx) == []
    assert told(play, 25, nginx, other[0]) == ["rebound severe"]
    assert told(play, 30, nginx, *other) == ["recovered"]


def test_a_bind_that_another_owner_loses_is_told_when_that_owner_is_not_gone_any_more() -> None:
    both = [("127.0.0.1", 1), ("10.0.0.5", 2)]
    nginx = [sock("nginx", "nginx.service", 500, on=on, inode=inode) for on, inode in both]
    varnish = sock("varnishd", "varnish.service", 600, on="10.0.0.6", inode=3)
    play = known(*nginx, varnish)
    assert told(play, 15, nginx[0]) == ["owner_gone"]
    assert told(play, 20, nginx[0]) == []
    assert told(play, 80, nginx[0], varnish) == ["rebound severe"]
    assert told(play, 85, *nginx, varnish) == ["recovered"]
    play = known(*nginx, varnish, retire_after=_hours(1))
    assert told(play, 15, nginx[0]) == ["owner_gone"]
    assert told(play, 20, *nginx) == []
    assert [one for minutes in five(25, 75) for one in told(play, minutes, *nginx)] == ["retired"]


def test_all_addresses_of_ipv6_serve_those_of_ipv4() -> None:
    some = [sock("nginx", "nginx.service", 500, on=f"10.0.0.{last}", inode=5000) for last in (5, 6)]
    assert told(known(*some), 15, sock("nginx", "nginx.service", 500, on="::", inode=5000)) == ["rebound"]
    assert told(known(*some), 15, sock("nginx", "nginx.service", 500, on="fd00::5", inode=5000)) == ["rebound severe"]


@pytest.mark.parametrize(
    ("before", "now", "events"),
    [
        # Another address of the same owner.
        ("n5 v6", "n7 v6", ["rebound"]),
        ("n5 v6", "n6 v6", ["rebound"]),
        ("n5 n7 v6", "n7 v6 v8", ["rebound severe"]),
        ("n5 n7 v6 v8", "n9 n7 v6", ["rebound severe"]),
        ("n5 n7 v6", "n7 v6 p8", ["rebound severe"]),
        # Who has the others is not shown.
        ("n5 n7 v6", "n7 v6 -8", ["rebound"]),
        # It is the one of an owner that is gone.
        ("n5 v6", "n5", ["owner_gone"]),
    ],
)
def test_the_addresses_of_each_owner(before: str, now: str, events: list[str]) -> None:
    names = {"n": "nginx", "v": "varnishd", "p": "python3", "-": None}

    def rows(which: str) -> list[Listener]:
        return [
            sock(names[one[0]], None, ord(one[0]) if one[0] != "-" else None, on=f"10.0.0.{one[1]}")
            for one in which.split()
        ]

    assert told(known(*rows(before)), 15, *rows(now)) == events


def test_another_owner_that_has_only_some_of_the_addresses_is_one_message_and_two_changes() -> None:
    local = replace(PYTHON, address="127.0.0.1")
    play = known(NGINX)
    assert told(play, 15, local) == ["rebound severe"]
    row = play.reference.ports["a"][80]
    assert [len(one) for one in (row.messages, row.presence.times, row.parts["bind", "0.0.0.0"].times)] == [1, 1, 1]
    play = known(NGINX, flap_threshold=1)
    assert [one.split()[0] for one in told(play, 15, local)] == ["flapping"]
    play = known(NGINX)
    play.reference.ports["a"][80].parts["bind", "0.0.0.0"] = Changes(flapping=True)
    assert told(play, 15, local) == ["replaced"]  # of its addresses nothing is told


# ── when nothing is compared ────────────────────────────────────────────────────────────────────


def test_owners_are_taken_over_in_silence_where_readers_changed() -> None:
    play = known(NGINX)
    assert told(play, 15, PYTHON, reader=1) == []
    assert owners(play) == ["python3"]


def test_who_is_gone_stays_so_where_nothing_is_compared_unless_it_is_shown() -> None:
    play = known(NGINX, VARNISH)
    assert told(play, 15, NGINX) == ["owner_gone"]
    assert told(play, 20, NGINX, reader=1) == []
    assert owners(play) == ["nginx.service", "varnish.service gone"]
    assert told(play, 25, NGINX, VARNISH) == ["recovered owner"]  # another reader again


# ── a declaration that names an owner ────────────────────────────────────────────────────────────


def declared(*listeners: Listener) -> Play:
    play = Play()
    play.declared, play.owners = (80,), ((80, "nginx.service"),)
    for minutes in five(0, 10):
        assert told(play, minutes, *listeners) == []
    return play


@pytest.mark.parametrize(
    ("one", "name", "is_it"),
    [
        (Owner(unit="nginx.service"), "nginx.service", True),
        (Owner(unit="app@.service"), "app@blue.service", True),
        (Owner(unit="apache2.service", comms=frozenset({"nginx"})), "nginx.service", False),
        (Owner(unit="ssh.socket", of_socket=True), "ssh.service", None),
        (Owner(comms=frozenset({"nginx"})), "nginx.service", None),
        (Owner(unit="apache2.service", comms=frozenset({"nginx"})), "nginx", True),
        (Owner(programs=frozenset({"nginx: master"})), "nginx", True),
        (Owner(comms=frozenset({"python3"})), "nginx", False),
        (Owner(unit="nginx.service"), "nginx", None),
    ],
)
def test_whether_a_declaration_names_an_owner(one: Owner, name: str, is_it: bool | None) -> None:
    assert is_named(one, name) is is_it


def test_a_declared_port_that_another_owner_has_is_down_until_its_own_is_back() -> None:
    play = declared(NGINX)
    assert told(play, 15, PYTHON) == ["down"]
    assert told(play, 20, PYTHON) == told(play, 25, HIDDEN) == []
    assert told(play, 30, PYTHON, VARNISH) == ["replaced taken"]
    assert told(play, 35, NGINX) == ["recovered"]
    assert owners(play) == ["nginx.service"]
    play = declared(NGINX, VARNISH)
    assert told(play, 15, NGINX) == ["owner_gone"]
    play = declared(NGINX, VARNISH)
    assert told(play, 15, VARNISH, confirmed=False) == []
    assert told(play, 20, VARNISH) == ["down"]
    assert told(play, 25, VARNISH, NGINX) == ["recovered"]


def test_those_that_a_person_accepted_are_the_owners_until_the_declared_one_is_seen_again() -> None:
    play = declared(NGINX)
    assert told(play, 15, PYTHON) == ["down"]
    play.accepted["a", "tcp", 80] = _at(17)
    assert told(play, 20, PYTHON) == ["retired"]
    assert told(play, 25, sock("python3", None, 901, inode=9001)) == ["restarted"]
    assert told(play, 30) == ["down"]
    assert told(play, 35, PYTHON) == ["recovered"]
    assert [told(play, minutes, PYTHON) for minutes in five(40, 95)] == [[]] * 12
    assert told(play, 100, VARNISH) == ["replaced"]
    assert told(play, 105, VARNISH, NGINX) == []
    assert told(play, 110, PYTHON) == ["down"]
    assert told(play, 115, VARNISH) == ["replaced taken"]


def test_a_declaration_that_names_another_owner_asks_for_that() -> None:
    play = declared(NGINX)
    play.owners = ((80, "varnish.service"),)
    assert told(play, 15, NGINX) == ["down"]
    play.accepted["a", "tcp", 80] = _at(17)
    assert told(play, 20, NGINX) == ["retired"]
    play.owners = ((80, "caddy.service"),)
    assert told(play, 25, NGINX) == ["down"]
    play.owners = ()
    assert told(play, 30, NGINX) == ["recovered"]


def test_a_declared_owner_is_the_same_one_whatever_its_unit_runs_later() -> None:
    play = Play()
    play.declared, play.owners = (80,), ((80, "gunicorn"),)
    gunicorn, python = sock("gunicorn", "app.service", 500, inode=1), sock("python3", "app.service", 501, inode=1)
    assert [told(play, minutes, one) for minutes, one in enumerate((gunicorn, python, python))] == [[], [], []]
    assert told(play, 5) == ["down"]
    assert told(play, 10, python) == ["recovered"]


def test_a_declaration_that_ends_says_nothing_of_a_port_that_others_have() -> None:
    play = declared(NGINX)
    assert told(play, 15, PYTHON) == ["down"]
    play.accepted["a", "tcp", 80] = _at(17)
    play.declared, play.owners = (), ()
    assert told(play, 20, NGINX) == []
    assert play.reference.ports["a"][80].is_held
    assert told(play, 25, PYTHON) == ["retired"]
    play = declared(NGINX)
    told(play, 15, PYTHON)
    play.declared, play.owners = (), ()
    assert [told(play, 20), told(play, 25, NGINX)] == [[], ["recovered"]]


# ── rules or declarations that change ───────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("now", "events"), [((PYTHON,), ["replaced"]), ((NGINX,), ["owner_gone"]), ((NGINX, HIDDEN), [])]
)
def test_owners_are_judged_in_a_look_in_which_rules_changed(now: tuple[Listener, ...], events: list[str]) -> None:
    play = known(NGINX, VARNISH)
    play.rules = type(play.rules)((Rule(action="deny", port=9),))
    assert told(play, 15, *now) == events
    assert told(play, 20, *now) == []


def test_who_is_excluded_from_now_on_leaves_without_a_word_and_who_is_not_any_more_is_told() -> None:
    java = sock("java", "b.service", 800, inode=8000, on="127.0.0.1")
    no_loopback = (Rule(action="deny", bind="loopback"),)
    play = known(NGINX, java)
    play.rules = type(play.rules)(no_loopback)
    assert told(play, 15, NGINX) == told(play, 20, NGINX) == []
    assert owners(play) == ["nginx.service"]
    play = known(NGINX, java)
    play.rules = type(play.rules)(no_loopback)
    assert told(play, 15, NGINX, java) == told(play, 20, NGINX, java) == []
    play.rules = type(play.rules)(())
    assert told(play, 25, NGINX) == ["owner_gone"]


# ── how long an owner may be gone ───────────────────────────────────────────────────────────────


def test_an_owner_that_is_gone_retires_after_long_or_if_a_person_accepts_it() -> None:
    play = known(NGINX, VARNISH, retire_after=_hours(1))
    assert told(play, 15, NGINX) == ["owner_gone"]
    found = [one for minutes in five(20, 80) for one in told(play, minutes, NGINX)]
    assert found == ["retired"]
    assert owners(play) == ["nginx.service"]
    play = known(NGINX, VARNISH)
    told(play, 15, NGINX)
    play.accepted["a", "tcp", 80] = _at(17)
    assert told(play, 20, NGINX) == ["retired"]
    assert told(play, 25, NGINX, VARNISH) == []


def test_an_owner_that_comes_and_goes_flaps_and_is_stable_down_if_it_is_gone() -> None:
    play = known(NGINX, VARNISH)
    seen = [told(play, minutes, NGINX, *([VARNISH] if minutes % 10 == 0 else [])) for minutes in five(15, 45)]
    assert seen == [["owner_gone"], ["recovered owner"], ["owner_gone"], ["flapping up"], [], [], []]
    found = [one for minutes in five(50, 105) for one in told(play, minutes, NGINX)]
    assert found == ["stable down"]
    assert told(play, 110, NGINX, VARNISH) == ["recovered owner"]


THIRD = sock("third", "third.service", 700, inode=7000)


def _flaps(play: Play, one: Listener, *others: Listener) -> None:
    """An owner beside others leaves and comes until it flaps; then it is there."""
    seen = [told(play, minutes, *([one] if minutes % 10 == 0 else []), *others) for minutes in five(15, 30)]
    assert seen == [["owner_gone"], ["recovered owner"], ["owner_gone"], ["flapping up"]]


def test_each_owner_flaps_by_itself() -> None:
    play = known(NGINX, VARNISH, THIRD)
    shown = ([NGINX, THIRD], [NGINX, VARNISH, THIRD], [NGINX, VARNISH], [NGINX, VARNISH, THIRD])
    seen = [told(play, minutes, *here) for minutes, here in zip(five(15, 30), shown, strict=True)]
    assert seen == [["owner_gone"], ["recovered owner"], ["owner_gone"], ["recovered owner"]]


def test_an_owner_that_leaves_is_told_while_another_one_flaps_and_that_it_is_back_only_at_the_end() -> None:
    play = known(NGINX, VARNISH, THIRD)
    _flaps(play, VARNISH, NGINX, THIRD)
    assert told(play, 35, NGINX, VARNISH) == ["owner_gone"]
    assert [told(play, minutes, NGINX, VARNISH, THIRD) for minutes in five(40, 85)] == [[]] * 10
    assert told(play, 90, NGINX, VARNISH, THIRD) == ["stable up"]


def test_an_owner_that_is_back_while_another_one_flaps_may_flap_as_well() -> None:
    play = known(NGINX, VARNISH, THIRD)
    _flaps(play, VARNISH, NGINX, THIRD)
    seen = [told(play, minutes, NGINX, VARNISH, *([THIRD] if minutes % 10 == 0 else [])) for minutes in five(35, 55)]
    assert seen == [["owner_gone"], [], ["owner_gone"], ["flapping up"], []]


@pytest.mark.parametrize(("there", "events"), [(True, []), (False, ["stable down"])])
def test_of_two_owners_that_flap_the_first_that_does_not_any_more_is_told_only_if_it_is_gone(
    there: bool, events: list[str]
) -> None:
    play = known(NGINX, VARNISH, THIRD)
    _flaps(play, VARNISH, NGINX, THIRD)
    stay = [NGINX, *([VARNISH] if there else [])]
    found = [told(play, minutes, *stay, *([THIRD] if minutes // 10 % 2 else [])) for minutes in five(35, 120)]
    flaps = "flapping up" if there else "flapping down"
    assert [one for minute in found for one in minute] == ["owner_gone", "owner_gone", flaps, *events]
    last = [one for minutes in five(125, 220) for one in told(play, minutes, *stay, THIRD)]
    assert last == ["stable up" if there else "stable down"]


def test_each_address_flaps_by_itself_and_what_is_lost_with_one_that_flaps_is_told() -> None:
    one, other, third = (
        sock("nginx", "nginx.service", 500, on=on, inode=inode)
        for on, inode in (("10.0.0.5", 1), ("10.0.0.6", 2), ("127.0.0.1", 3))
    )
    play = known(one, other, third)
    shown = ([other, third], [one, other, third], [one, third], [one, other, third])
    seen = [told(play, minutes, *here) for minutes, here in zip(five(15, 30), shown, strict=True)]
    assert seen == [["rebound severe"], ["recovered"], ["rebound severe"], ["recovered"]]
    assert told(play, 35, other, third) == ["rebound severe"]
    assert told(play, 40, one, other, third) == ["flapping up"]
    assert told(play, 45, third) == ["rebound severe"]  # the other one, too
    assert [told(play, minutes, one, other, third) for minutes in five(50, 105)] == [["flapping up"], *[[]] * 11]
    assert told(play, 110, one, other, third) == ["stable up"]


def test_an_address_that_is_lost_as_an_owner_leaves_counts_in_silence() -> None:
    nginx = [sock("nginx", "nginx.service", 500, on=on, inode=inode) for on, inode in (("::1", 1), ("10.0.0.5", 2))]
    varnish = sock("varnishd", "varnish.service", 600, on="10.0.0.6", inode=3)
    play = known(*nginx, varnish)
    assert [told(play, minutes, nginx[0]) for minutes in (15, 20)] == [["owner_gone"], []]
    assert told(play, 25, *nginx, varnish) == ["recovered owner"]
    assert told(play, 30, nginx[0], varnish) == ["rebound severe"]
    assert told(play, 35, *nginx, varnish) == ["flapping up"]


# ── a port that is down ─────────────────────────────────────────────────────────────────────────


def down(*listeners: Listener, **settings: Any) -> Play:
    play = known(*listeners, **settings)
    assert told(play, 15) == ["down"]
    return play


def test_another_owner_on_a_port_that_is_down() -> None:
    play = down(NGINX)
    assert told(play, 20, PYTHON) == ["replaced taken"]
    assert told(play, 25, PYTHON) == told(play, 30, PYTHON, sock("python3", None, 901)) == []
    assert told(play, 35, PYTHON, VARNISH) == ["replaced taken"]
    assert told(play, 40, PYTHON) == told(play, 45) == []
    assert told(play, 50, PYTHON) == []  # it was told
    assert told(play, 55, NGINX) == ["recovered"]
    assert owners(play) == ["nginx.service"]


@pytest.mark.parametrize(
    ("now", "events"),
    [
        ((NGINX, VARNISH), ["recovered"]),
        ((NGINX,), ["recovered", "owner_gone"]),
        ((NGINX, PYTHON), ["recovered", "owner_gone"]),
        ((NGINX, HIDDEN), ["recovered"]),
        ((HIDDEN,), ["recovered"]),
        ((sock("systemd", None, 1),), ["recovered"]),
        ((PYTHON, HIDDEN), ["recovered"]),
        ((PYTHON,), ["replaced taken"]),
    ],
)
def test_who_ends_a_down_that_two_owners_lost(now: tuple[Listener, ...], events: list[str]) -> None:
    assert told(down(NGINX, VARNISH), 20, *now, confirmed=False) == events


def test_a_down_goes_on_from_an_owner_that_was_gone_before() -> None:
    play = known(NGINX, VARNISH)
    told(play, 15, NGINX)
    assert told(play, 20) == ["down"]
    assert told(play, 25, VARNISH) == ["recovered", "owner_gone"]


def test_another_owner_that_stays_has_the_port_in_the_end() -> None:
    play = down(NGINX, mature_after=_hours(1))
    assert [one for minutes in five(20, 75) for one in told(play, minutes, PYTHON)] == ["replaced taken"]
    assert told(play, 80, PYTHON) == ["retired"]
    assert (owners(play), play.reference.ports["a"][80].status) == (["python3"], "up")
    assert told(play, 85, PYTHON) == []
    assert told(play, 90, NGINX) == ["replaced"]


def test_of_a_declared_port_only_a_person_accepts_another_owner() -> None:
    play = Play(mature_after=_hours(1))
    play.declared = (80,)
    told(play, 0, NGINX)
    assert told(play, 5) == ["down"]
    assert [one for minutes in five(10, 5 * HOUR) for one in told(play, minutes, PYTHON)] == ["replaced taken"]
    play.accepted["a", "tcp", 80] = _at(5 * HOUR + 1)
    assert told(play, 5 * HOUR + 5, PYTHON) == ["retired"]
    assert told(play, 5 * HOUR + 10, PYTHON) == []


def test_a_down_that_is_told_again_says_who_has_the_port() -> None:
    play = down(NGINX)
    deny = (Rule(action="deny", port=80),)
    play.rules = type(play.rules)(deny)
    assert [told(play, 20, PYTHON), told(play, 25, PYTHON)] == [[], ["unwatched"]]
    play.rules = type(play.rules)(())
    assert [told(play, 30, PYTHON), told(play, 35, PYTHON)] == [["down"], []]


def test_a_port_that_is_down_is_compared_whatever_reads_it() -> None:
    assert told(down(NGINX), 20, PYTHON, reader=1) == ["replaced taken"]
    assert told(down(NGINX, VARNISH), 20, NGINX, reader=1) == ["recovered", "owner_gone"]


def test_a_port_that_others_have_does_not_retire() -> None:
    play = down(NGINX, retire_after=_hours(1))
    assert [one for minutes in five(20, 180) for one in told(play, minutes, PYTHON)] == ["replaced taken"]
    assert told(play, 185) == ["retired"]  # its own owner was last seen long ago


def test_flapping_then_other_program() -> None:
    play = known(NGINX, until=0)
    seen = [told(play, minutes, *([NGINX] if minutes % 10 == 0 else [])) for minutes in five(5, 25)]
    assert seen == [["down"], ["recovered"], ["down"], ["flapping up"], []]
    found = [one for minutes in five(30, 120) for one in told(play, minutes, PYTHON)]
    assert found == ["stable down", "replaced taken"]
    assert told(play, 125, NGINX) == ["recovered"]


def test_while_a_port_flaps_another_owner_makes_it_down() -> None:
    play = known(NGINX, until=0)
    for minutes in five(5, 20):
        told(play, minutes, *([NGINX] if minutes % 10 == 0 else []))
    assert told(play, 25, PYTHON) == []
    assert play.reference.ports["a"][80].status == "down"
    assert [one for minutes in five(30, 85) for one in told(play, minutes, PYTHON)] == ["stable down", "replaced taken"]


# ── another boot ────────────────────────────────────────────────────────────────────────────────


def test_after_a_boot_owners_have_the_grace_of_the_host() -> None:
    play = known(NGINX, VARNISH)
    nginx = sock("nginx", "nginx.service", 50, inode=50)
    assert [told(play, minutes, nginx, boot="b2") for minutes in five(15, 25)] == [[], [], ["owner_gone"]]
    play = known(NGINX, VARNISH)
    assert told(play, 15, nginx, boot="b2") == []
    assert told(play, 20, nginx, sock("varnishd", "varnish.service", 60, inode=60), boot="b2") == []
    assert [told(play, minutes, PYTHON, boot="b2") for minutes in five(25, 30)] == [["replaced"], []]


def test_what_is_lost_after_it_was_seen_since_the_boot_does_not_wait() -> None:
    nginx, varnish = (sock(name, f"{name}.service", pid, inode=pid) for name, pid in (("nginx", 50), ("varnish", 60)))

    def booted(*before: Listener, now: tuple[Listener, ...] = ()) -> Play:
        play = known(*before)
        assert told(play, 15, *(now or before), boot="b2") == []
        return play

    # Owners.
    play = booted(nginx, varnish)
    assert told(play, 20, nginx, boot="b2", confirmed=False) == []
    assert told(play, 21, nginx, boot="b2") == ["owner_gone"]
    assert told(booted(nginx), 20, PYTHON, boot="b2") == ["replaced"]
    play = booted(nginx, varnish, now=(nginx,))
    assert [told(play, minutes, PYTHON, boot="b2") for minutes in five(20, 30)] == [["replaced"], ["owner_gone"], []]
    play = booted(nginx, varnish)
    assert [told(play, 20, boot="b2"), told(play, 21, nginx, boot="b2")] == [["down"], ["recovered", "owner_gone"]]
    # Binds.
    one, other, local = (
        replace(nginx, address=on, inode=inode) for on, inode in (("10.0.0.5", 1), ("10.0.0.6", 2), ("127.0.0.1", 3))
    )
    play = booted(local, one, other)
    assert told(play, 20, local, other, boot="b2", confirmed=False) == []
    assert told(play, 21, local, other, boot="b2") == ["rebound severe"]
    play = booted(local, one, other, now=(local, one))
    assert [told(play, minutes, local, boot="b2") for minutes in five(20, 25)] == [["rebound severe"]] * 2
    play = booted(local, one, other, now=(local, one))
    assert told(play, 20, local, one, boot="b2") == []
    assert told(play, 21, local, one, other, boot="b2") == []
    play = booted(local, one)
    assert [told(play, 20, boot="b2"), told(play, 21, local, boot="b2")] == [["down"], ["recovered", "rebound severe"]]
    # Who has a declared port.
    play = declared(nginx)
    assert [told(play, 15, nginx, boot="b2"), told(play, 20, PYTHON, boot="b2")] == [[], ["down"]]
    play = declared(nginx)
    assert [told(play, minutes, PYTHON, boot="b2") for minutes in five(15, 25)] == [[], [], ["down"]]


def test_within_the_grace_nobody_replaces_an_owner() -> None:
    play = known(NGINX)
    assert [told(play, minutes, PYTHON, boot="b2") for minutes in five(15, 25)] == [[], [], ["replaced"]]


def test_a_port_that_is_down_is_compared_in_the_first_look_of_a_boot() -> None:
    assert told(down(NGINX, VARNISH), 20, NGINX, boot="b2") == ["recovered"]
    play = down(NGINX)
    assert [told(play, minutes, PYTHON, boot="b2") for minutes in five(20, 25)] == [[], ["replaced taken"]]
    assert play.reference.ports["a"][80].pids == {500}


def test_a_slow_service_gets_the_time_that_it_took() -> None:
    play = known(NGINX)
    nginx = sock("nginx", "nginx.service", 50)
    boots = [[told(play, HOUR * 24 * boot + minutes, boot=f"b{boot}x") for minutes in five(0, 15)] for boot in (1,)]
    assert boots == [[[], [], ["down"], []]]
    assert told(play, HOUR * 24 + 20, nginx, boot="b1x") == ["recovered"]
    assert [one.total_seconds() for one in play.reference.ports["a"][80].boots] == [20 * 60]
    second = [told(play, HOUR * 48 + minutes, boot="b2x") for minutes in five(0, 30)]
    assert second == [[], [], [], [], [], [], ["down"]]  # one and a half times as long


def test_boots_that_took_more_than_an_hour_say_nothing_and_only_the_last_five_count() -> None:
    play = known(NGINX)
    for number, late in enumerate((65, 0, 5, 10, 15, 20, 25)):
        begin = HOUR * 24 * (number + 1)
        for minutes in five(0, 65):
            told(play, begin + minutes, *([NGINX] if minutes >= late else []), boot=f"b{number}x")
    assert [one.total_seconds() / 60 for one in play.reference.ports["a"][80].boots] == [5, 10, 15, 20, 25]


def test_a_second_boot_within_the_grace_does_not_extend_it() -> None:
    def late(*boots: str) -> Play:
        play = known(NGINX)
        for minutes in five(0, 20):
            told(play, HOUR + minutes, *([NGINX] if minutes == 20 else []), boot="b2x")
        begin = 3 * HOUR  # 30 minutes from here
        assert [told(play, begin + minutes, boot=boot) for minutes, boot in zip(five(0, 95), boots, strict=False)] == [
            []
        ] * len(boots)
        return play

    assert told(late("b3x", *["b4x"] * 5), 3 * HOUR + 30, boot="b4x") == ["down"]
    # Nor does one after the grace of the host.
    assert told(late(*["b3x"] * 3, *["b4x"] * 3), 3 * HOUR + 30, boot="b4x") == ["down"]
    # What had its time is missing, though nothing was seen of it between.
    play = known(NGINX)
    assert [told(play, minutes, boot=boot) for minutes, boot in ((60, "b2x"), (70, "b3x"))] == [[], []]
    assert told(play, 75, boot="b3x") == ["down"]


def test_a_boot_after_the_grace_of_the_host_gives_owners_their_time_anew() -> None:
    play = known(NGINX, VARNISH)
    for minutes in five(HOUR, HOUR + 20):
        told(play, minutes, *([NGINX, VARNISH] if minutes == HOUR + 20 else []), boot="b2x")
    begin = 3 * HOUR
    assert [told(play, begin + minutes, NGINX, boot="b3x") for minutes in five(0, 10)] == [[]] * 3
    assert [told(play, begin + minutes, NGINX, boot="b4x") for minutes in five(15, 40)] == [[]] * 6
    assert told(play, begin + 45, NGINX, boot="b4x") == ["owner_gone"]


def test_a_port_that_moves_at_each_boot_takes_its_time_with_it() -> None:
    play = Play()

    def numbers(boot: int, begin: int, *, late: int) -> list[Any]:
        found = []
        for minutes in five(begin, begin + 60):
            app = sock("java", "app.service", 50 + boot, port=38000 + boot, inode=50 + boot)
            found += play.run(minutes, look(*([app] if minutes - begin >= late else []), boot=f"b{boot}x"))
        return [(one[0] - begin, *one[1:2], *one[3:]) for one in found if len(one) > 3]

    assert numbers(0, 0, late=0) == []
    first = [(10, "down", 38000, "young"), (15, "retired", 38000, "young")]
    assert numbers(1, 3 * HOUR, late=15) == first
    assert numbers(2, 6 * HOUR, late=15) == [(15, "moved", 38001)]
    assert [one.total_seconds() / 60 for one in play.reference.ports["a"][38002].boots] == [15, 15]


# ── restarts and misses ─────────────────────────────────────────────────────────────────────────


def test_a_service_that_restarts_again_and_again() -> None:
    play = known(NGINX, until=0)
    seen = [told(play, minutes, sock("nginx", "nginx.service", minutes + 500)) for minutes in five(5, 30)]
    assert seen == [["restarted"], ["restarted"], ["restarted"], ["crash_looping up"], [], []]
    assert told(play, 35) == told(play, 40, NGINX) == []
    assert [one for minutes in five(45, 100) for one in told(play, minutes, NGINX)] == ["stable up"]


def test_what_the_first_rule_gives_that_allows_a_port_counts_and_of_a_declared_one_its_declaration() -> None:
    rules = (
        Rule(action="allow", port=[80, 22], bind="wildcard", restarts="note"),
        Rule(action="allow", program="nginx", down_after=2),
    )
    play = Play(rules=rules)
    seen = [told(play, minutes, sock("nginx", "nginx.service", minutes, inode=minutes)) for minutes in five(0, 35)]
    assert seen == [[], *[["restarted"]] * 4, [], [], []]  # it is no change, and only the first ones are told
    assert told(play, 40) == ["down"]
    local = replace(NGINX, address="127.0.0.1")
    play = Play(rules=rules)
    assert [told(play, minutes, *shown) for minutes, shown in ((0, [local]), (5, []), (10, []))] == [[], [], ["down"]]
    play.given = {"a": {80: Rule(action="allow", port=80, down_after=3)}}
    play.declared = (80,)
    seen = [told(play, minutes, *shown) for minutes, shown in ((15, [local]), (20, []), (25, []), (30, []))]
    assert seen == [["recovered"], [], [], ["down"]]


def test_where_one_change_is_no_restart_a_port_flaps() -> None:
    play = known(NGINX, until=0)
    assert told(play, 5) == ["down"]
    assert told(play, 10, sock("nginx", "nginx.service", 510)) == ["recovered"]
    assert told(play, 15, sock("nginx", "nginx.service", 515)) == ["restarted"]
    assert told(play, 20, sock("nginx", "nginx.service", 520)) == ["flapping up"]


@pytest.mark.parametrize(
    ("before", "now", "restarts"),
    [
        ((sock("x", pid=7, inode=1),), (sock("x", pid=8, inode=2),), True),
        ((sock("x", pid=7, inode=1),), (sock("x", pid=8, inode=1),), False),
        ((sock("x", pid=7, inode=1),), (sock("x", pid=7, inode=2),), True),
        ((sock("x", pid=7, inode=1), sock("x", pid=8, inode=2)), (sock("x", pid=9, inode=2),), False),
        ((sock("x", pid=7),), (sock("x", pid=8),), True),
        ((sock("x", pid=7, inode=1),), (sock("x", pid=8),), True),
        ((sock("x", pid=7), sock("x", pid=8)), (sock("x", pid=9), sock("x", pid=10)), False),
        ((sock("x", pid=7),), (HIDDEN,), False),
        ((sock("x", pid=7, inode=1),), (sock(None, None, None, inode=2),), True),
        ((sock("x", pid=7, inode=1),), (sock("systemd", pid=1, inode=1),), False),
    ],
)
def test_what_is_a_restart(before: tuple[Listener, ...], now: tuple[Listener, ...], restarts: bool) -> None:
    assert told(known(*before), 15, *now) == (["restarted"] if restarts else [])


def test_no_restart_after_a_boot_or_where_others_come_or_go() -> None:
    other = sock("nginx", "nginx.service", 501, inode=5001)
    play = known(NGINX)
    assert told(play, 15, other, boot="b2") == told(play, 20, other, boot="b2") == []
    assert told(known(NGINX), 15, other, VARNISH) == []
    play = known(NGINX)
    assert told(play, 15, boot="b2") == told(play, 20, other, boot="b2") == []


def test_misses_that_never_come_twice_in_a_row_are_changes() -> None:
    play = known(NGINX, until=0, down_after=2)
    seen = [told(play, minutes, *([NGINX] if minutes % 10 == 0 else [])) for minutes in five(5, 30)]
    assert seen == [[], [], [], ["flapping up"], [], []]


def test_a_down_after_misses_is_no_further_change() -> None:
    play = known(NGINX, until=0, down_after=2, flap_threshold=3)
    assert [told(play, minutes) for minutes in five(5, 15)] == [[], ["down"], []]
    assert told(play, 20, NGINX) == ["recovered"]
    assert told(play, 25) == ["flapping up"]
    assert told(play, 30) == []
    assert play.reference.ports["a"][80].status == "down"


# ── young ports ─────────────────────────────────────────────────────────────────────────────────


def test_a_young_port_goes_down_as_such_and_retires_soon_in_silence() -> None:
    play = Play(mature_after=_hours(2))
    told(play, 0)
    assert told(play, 5, PYTHON) == ["new"]
    assert told(play, 10) == ["down young"]
    assert told(play, 15, PYTHON) == ["recovered"]
    assert told(play, 20) == ["down young"]
    found = [(minutes, one) for minutes in five(25, 180) for one in told(play, minutes)]
    assert found == [(135, "retired young")]


def test_a_port_is_mature_after_enough_evidence_without_a_long_down() -> None:
    play = Play(mature_after=_hours(2))
    told(play, 0)
    for minutes in five(5, 120):
        told(play, minutes, *([PYTHON] if not 60 <= minutes <= 90 else []))
    assert told(play, 125) == ["down"]  # 30 minutes are no long down
    play = Play(mature_after=_hours(2))
    told(play, 0)
    for minutes in five(5, 180):
        told(play, minutes, *([PYTHON] if not 60 <= minutes <= 125 else []))
    assert told(play, 185) == ["down young"]


@pytest.mark.parametrize(
    ("listener", "young"),
    [
        (sock("x", "a.service"), False),
        (sock("x"), False),
        (sock("x", "session-3.scope"), True),
        (sock("x", "a.service", port=40000), True),
    ],
)
def test_what_the_baseline_holds_is_mature_but_for_login_sessions_and_ephemeral_ports(
    listener: Listener, young: bool
) -> None:
    play = Play()
    play.run(0, look(listener))
    assert bool(play.reference.ports["a"][listener.port].young) is young


def test_what_is_declared_or_named_by_a_rule_is_mature() -> None:
    play = Play(rules=[Rule(action="allow", port=80), Rule(action="allow", bind="wildcard")])
    told(play, 0)
    assert told(play, 5, PYTHON) == ["new"]
    assert told(play, 10) == ["down"]
    play = Play()
    told(play, 0)
    assert told(play, 5, PYTHON) == ["new"]
    play.declared = (80,)
    assert told(play, 10) == ["down"]
    play.declared = ()
    assert told(play, 15, PYTHON) == ["recovered"]
    assert told(play, 20) == ["down"]


def test_a_port_that_moves_stays_as_old_as_it_is() -> None:
    play = Play(mature_after=_hours(1))
    for minutes in five(0, 50):
        play.run(minutes, look(sock("x", "a.service", port=40000)))
    for minutes in five(55, 60):
        play.run(minutes, look(sock("x", "a.service", port=40001)))
    assert not play.reference.ports["a"][40001].young


# ── rules ───────────────────────────────────────────────────────────────────────────────────────

NO_JAVA = (Rule(action="deny", program=["java"]),)
JAVA = sock("java", "b.service", 800, inode=8000)


def test_one_blind_look_brings_nothing_that_a_rule_excludes() -> None:
    play = Play(rules=NO_JAVA)
    assert [told(play, 0, JAVA), told(play, 5, HIDDEN), told(play, 10, JAVA), told(play, 15, HIDDEN)] == [[]] * 4
    play.rules = type(play.rules)((Rule(action="deny", program=["jav"]),))
    assert told(play, 20, HIDDEN) == []  # the rules changed, so it is no news
    assert play.reference.ports["a"][80].status == "up"


def test_a_port_without_an_owner_that_turns_out_to_be_denied_is_dropped() -> None:
    play = Play(rules=NO_JAVA)
    told(play, 0, HIDDEN)
    assert 80 in play.reference.ports["a"]
    assert told(play, 5, JAVA) == []
    assert 80 not in play.reference.ports["a"]
    assert told(play, 10, HIDDEN) == []
    assert 80 not in play.reference.ports["a"]
    play = Play(rules=NO_JAVA)
    told(play, 0, HIDDEN)
    assert told(play, 5) == ["down"]
    assert told(play, 10, JAVA) == ["unwatched"]


def test_on_a_watched_port_a_denied_program_is_another_owner() -> None:
    play = Play(rules=NO_JAVA)
    told(play, 0, NGINX)
    assert told(play, 5, JAVA) == ["replaced"]
    assert told(play, 10, JAVA) == []
    assert told(play, 15) == ["down"]
    play = Play(rules=NO_JAVA)
    told(play, 0, NGINX)
    assert told(play, 5) == ["down"]
    assert told(play, 10, JAVA) == ["replaced taken"]


def test_that_an_excluded_owner_leaves_is_not_told_but_it_counts_as_one_that_stays() -> None:
    play = Play(rules=NO_JAVA)
    assert [told(play, 0, NGINX, JAVA), told(play, 5, NGINX), told(play, 10, NGINX, JAVA)] == [[]] * 3
    assert told(play, 15, JAVA) == ["replaced"]  # it joined lately
    play = Play(rules=NO_JAVA)
    assert [told(play, 0, NGINX, JAVA), told(play, 5, JAVA), told(play, 10, JAVA)] == [[], ["owner_gone"], []]
    assert told(play, 15, NGINX) == ["recovered owner"]
    assert told(play, 20) == ["down"]
    assert told(play, 25, JAVA) == ["replaced taken"]
    assert told(play, 30, NGINX) == ["recovered"]


def test_an_address_that_an_excluded_listener_has_is_not_lost() -> None:
    play = Play(rules=NO_JAVA)
    nginx = [sock("nginx", "nginx.service", 500, on=on, inode=int(on[-1])) for on in ("10.0.0.5", "10.0.0.6")]
    told(play, 0, *nginx)
    assert told(play, 5, nginx[0], replace(JAVA, address="10.0.0.6")) == []
    assert told(play, 10, nginx[0]) == []


def test_an_excluded_bind_is_a_bind_of_a_watched_port() -> None:
    play = Play(rules=[Rule(action="deny", bind="loopback")])
    told(play, 0, NGINX)
    assert told(play, 5, sock("nginx", "nginx.service", 500, on="127.0.0.1", inode=5001)) == [
        "restarted",
        "rebound severe",
    ]


def test_days_are_as_long_as_the_contract_says() -> None:
    play = Play()
    told(play, 0)
    found = [one for minutes in five(5, DAY) for one in told(play, minutes, PYTHON)]
    assert found == ["new"]
    assert told(play, DAY + 5) == ["down"]
