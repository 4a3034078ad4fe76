"""Which ports moved, and which names tell one owner from another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from portmon.engine import lifecycle
from portmon.engine.config import States
from portmon.engine.moves import heirs
from portmon.engine.owners import containers_of, is_service, services_of
from portmon.engine.state import Evidence, Port, Seen
from portmon.model.state import PortStatus

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
FIVE = timedelta(minutes=5)
HOUR = 3600.0
CLOCK, BOOT, BEFORE = 100_000.0, 99_000.0, 98_700.0
"""Evidence clocks of the look, of the first one of its boot and of the last one before."""
JAVA: dict[str, Any] = {"programs": ("java",), "comms": ("java",), "units": ("app.service",)}
UNKNOWN: dict[str, Any] = {"programs": (), "comms": (), "units": (), "uids": (0,)}
OLD, NEW = "docker:aaaaaaaaaaaa", "docker:bbbbbbbbbbbb"


def port(number: int = 40000, **fields: Any) -> Port:
    known = {"addresses": ("0.0.0.0",), "tool": "ss", **JAVA} | fields
    return Port("1", "tcp", number, known.pop("status", PortStatus.UP), NOW, **known)


def late(number: int = 40000, **fields: Any) -> Port:
    """A port that was there in the last look before the boot."""
    return port(number, **{"last_seen_at": NOW - 2 * FIVE, "seen_clock": BEFORE} | fields)


def seen(**fields: Any) -> Seen:
    return Seen(**{"addresses": ("0.0.0.0",), **JAVA} | fields)


def look(*, early: bool = False, **fields: Any) -> Evidence:
    settings = States()
    known: dict[str, Any] = {
        "at": NOW, "clock": CLOCK, "first": False, "before": frozenset(), "seen_at": NOW - FIVE, "seen_clock": CLOCK - 300,
        "ephemeral": (32768, 60999), "tool": "ss", "tool_before": "ss", "new_boot": False, "grace_until": None,
        "rules_changed": False, "confirmed": True, "listening": frozenset(), "half_interval": FIVE / 2, "pause": 3 * FIVE,
        "pace": lifecycle.pace(settings, FIVE), "settings": settings,
    }  # fmt: skip
    if early:
        known |= {"boot_clock": BOOT, "before_boot": frozenset({40000})}
    return Evidence(**known | fields)


def moved(gone: Port, came: Seen, evidence: Evidence | None = None, **more: Any) -> bool:
    """Whether port 40000 moved to 50000."""
    given: dict[str, Any] = {"stayed": [], "must": ()} | more
    return heirs([gone], {50000: came}, evidence=evidence or look(), **given) == {gone.port: 50000}


MOVES: dict[str, tuple[Port, Seen, dict[str, Any], bool]] = {
    "same unit and program": (port(), seen(), {}, True),
    "other unit": (port(), seen(units=("other.service",)), {}, False),
    "other program of the unit": (port(), seen(programs=("node",), comms=("node",)), {}, False),
    "no unit": (port(units=()), seen(units=()), {}, True),
    "unit not shown": (port(), seen(units=()), {}, False),
    "other instance of a template": (port(units=("app@1.service",)), seen(units=("app@2.service",)), {}, True),
    "scopes are no names": (port(units=("run-1.scope",)), seen(units=("run-2.scope",)), {}, True),
    "title": (port(comms=(), programs=("java: a",)), seen(comms=(), programs=("java: b",)), {}, True),
    "other tool, by the kernel's name": (port(tool="netstat"), seen(), {}, True),
    "other tool, by its own name": (port(tool="netstat", comms=()), seen(comms=()), {}, False),
    "owner not shown": (port(), seen(**UNKNOWN), {}, False),
    "no owner known or shown": (port(**UNKNOWN), seen(**UNKNOWN), {}, False),
    "other family": (port(), seen(addresses=("::",)), {}, False),
    "other reach": (port(), seen(addresses=("127.0.0.1",)), {}, False),
    "another address of the same reach": (port(addresses=("10.0.0.1",)), seen(addresses=("10.0.0.2",)), {}, True),
    "lost bind": (port(addresses=("127.0.0.1",), lost=("0.0.0.0",)), seen(addresses=("0.0.0.0", "127.0.0.1")), {}, True),
    "asked once": (port(), seen(), {"confirmed": False}, False),
    "docker-proxy": (port(programs=("docker-proxy",), comms=("docker-proxy",)), seen(programs=("docker-proxy",), comms=("docker-proxy",)), {}, False),
    "sshd, by its title": (port(comms=(), programs=("sshd: a@pts/1",)), seen(comms=(), programs=("sshd: a@pts/2",)), {}, False),
    "not in the range": (port(8080), seen(), {}, False),
    "reserved": (port(), seen(), {"reserved": ((40000, 40000),)}, False),
    "beside what is reserved": (port(), seen(), {"reserved": ((40001, 49999), (50001, 50010))}, True),
    "hidden": (port(hidden_since=NOW - FIVE), seen(), {}, False),
    "candidate": (port(status=PortStatus.CANDIDATE), seen(), {}, False),
    "down": (port(status=PortStatus.DOWN, last_seen_at=NOW - 2 * FIVE, seen_clock=CLOCK - 600), seen(), {}, False),
    "missed before": (port(last_seen_at=NOW - 2 * FIVE, seen_clock=CLOCK - 600), seen(), {}, False),
    "early, late after the boot": (late(), seen(), {"early": True}, True),
    "early, down after the grace": (late(status=PortStatus.DOWN), seen(), {"early": True}, True),
    "early, gone before the boot": (late(40001, seen_clock=BEFORE - 300), seen(), {"early": True}, False),
    "early, gone after the boot": (late(seen_clock=BOOT), seen(), {"early": True}, False),
    "early, candidate": (late(status=PortStatus.CANDIDATE), seen(), {"early": True}, False),
    "early, no owner known or shown": (late(**UNKNOWN), seen(**UNKNOWN), {"early": True}, True),
    "early, no owner, another user": (late(**UNKNOWN), seen(**UNKNOWN | {"uids": (7,)}), {"early": True}, False),
    "early, owner known": (late(), seen(**UNKNOWN), {"early": True}, False),
    "just before the hour is over": (late(), seen(), {"early": True, "clock": BOOT + HOUR - 1}, True),
    "after an hour": (late(), seen(), {"early": True, "clock": BOOT + HOUR}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_a_port_moves_if_owner_family_and_reach_are_the_same(name: str) -> None:
    gone, came, fields, expected = MOVES[name]
    assert moved(gone, came, look(**fields)) is expected


@pytest.mark.parametrize(("must", "expected"), [((40000,), False), ((50000,), False), ((50001,), True)])
def test_declared_ports_do_not_move(must: tuple[int, ...], expected: bool) -> None:
    assert moved(port(), seen(), must=must) is expected


def test_as_many_come_as_are_gone_of_each_owner() -> None:
    other = {"units": ("other.service",)}
    gone = [port(40003), port(40001), port(40002, **other)]
    came = {50002: seen(), 50001: seen(), 50003: seen(**other), 50004: seen(**other)}
    assert heirs(gone, came, [], look(), ()) == {40001: 50001, 40003: 50002}


@pytest.mark.parametrize(
    ("came", "moved_to"), [((50001,), {}), ((50001, 50002), {40000: 50001}), ((50001, 50002, 50003), {})]
)
def test_a_candidate_that_is_gone_counts_and_does_not_move(came: tuple[int, ...], moved_to: dict[int, int]) -> None:
    gone = [port(40000), port(40001, status=PortStatus.CANDIDATE)]
    assert heirs(gone, {number: seen() for number in came}, [], look(), ()) == moved_to


@pytest.mark.parametrize(
    ("stayed", "units", "expected"),
    [
        ([(port(9000, units=(OLD,)), seen(units=(NEW,)))], {NEW}, True),
        ([(port(9000, units=(OLD,)), seen(units=(NEW,)))], {NEW, OLD}, False),
        ([(port(9000, units=(OLD,)), seen(units=("docker:cccccccccccc",)))], {NEW}, False),
        ([(port(9000, units=(OLD, NEW)), seen(units=(NEW,)))], {NEW}, False),
        ([], {NEW}, False),
    ],
)
def test_a_container_is_the_same_after_its_id_changed_if_another_port_went_the_same_way(
    stayed: list[tuple[Port, Seen]], units: set[str], expected: bool
) -> None:
    gone, came = port(units=(OLD,)), seen(units=(NEW,))
    assert moved(gone, came, look(units=frozenset(units)), stayed=stayed) is expected


@pytest.mark.parametrize(
    ("span", "number", "names", "expected"),
    [
        ((32768, 60999), 32767, (), False),
        ((32768, 60999), 32768, (), True),
        ((32768, 60999), 60999, (), True),
        ((32768, 60999), 61000, (), False),
        ((1024, 65535), 32767, (), False),
        ((1024, 65535), 32768, (), True),
        ((1024, 65535), 65535, (), True),
        # One port more than half of all, and just half.
        ((20000, 52768), 32767, (), False),
        ((20000, 52767), 32767, (), True),
        ((32768, 60999), 512, ("rpc.statd",), True),
        ((32768, 60999), 1023, ("java", "rpc.mountd"), True),
        ((32768, 60999), 511, ("rpc.statd",), False),
        ((32768, 60999), 1024, ("rpc.statd",), False),
        ((32768, 60999), 800, ("rpcbind",), False),
    ],
)
def test_which_ports_a_host_picks_at_random(
    span: tuple[int, int], number: int, names: tuple[str, ...], expected: bool
) -> None:
    assert look(ephemeral=span).is_ephemeral(number, names) is expected


def test_names_of_units() -> None:
    units = (
        "app@1.service",
        "app@2.service",
        "ssh.socket",
        "run-u12.service",
        "session-3.scope",
        OLD,
        "dbus-:1.2-a.service",
    )
    assert services_of(units) == {"app@.service", "ssh.socket"}
    assert containers_of(units) == {OLD}
    assert [is_service(unit) for unit in ("app.service", "session-3.scope", OLD)] == [True, False, False]
