"""UDP ports: which are learned, what is told of them, and what turning UDP on and off makes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from portmon.engine.evaluate import evaluate
from portmon.engine.rules import Rule, RuleSet
from portmon.model.event import Event
from portmon.model.numbers import UDP, number_of
from portmon.model.observation import Listener, Observation
from portmon.storage.archive import facts_to_json
from tests.engine.test_evaluate import FIVE, World, ok

DNS, NTP = number_of(UDP, 53), number_of(UDP, 123)


def tcp(port: int, program: str | None = "named", **fields: Any) -> Listener:
    known = {"inode": 7000 + port, "unit": f"{program}.service" if program else None, "comm": program} | fields
    pid = None if program is None else 7
    return Listener(**{"protocol": "tcp", "address": "0.0.0.0", "port": port, "pid": pid, "program": program} | known)


def udp(port: int, program: str | None = "named", **fields: Any) -> Listener:
    return tcp(port, program, **{"protocol": "udp"} | fields)


SSH = (tcp(22, "sshd"),)


def look(
    at: float,
    shown: Iterable[Listener] | None = (),
    *,
    listening: Sequence[Listener] = SSH,
    confirmed: bool = True,
    **fields: Any,
) -> Observation:
    """An answer that shows these UDP sockets; None: it does not show UDP."""
    sockets = None if shown is None else tuple(shown)
    return ok(at, confirmed=confirmed, listeners=tuple(listening), udp=sockets, **fields)


class Udp(World):
    """Hosts on which UDP is watched."""

    def __init__(self, *, rules: Sequence[Rule] = (), watched: bool = True, **settings: int) -> None:
        super().__init__(**settings)
        self.watch(watched, rules)

    def watch(self, watched: bool, rules: Sequence[Rule] = ()) -> None:
        self.rules = RuleSet(rules, udp=(lambda host: True) if watched else None)

    def learned(self, *shown: Listener) -> Udp:
        """After looks that show these."""
        for at in range(4):
            self.see(look(at, shown))
        return self

    def known(self) -> dict[int, str]:
        """UDP ports and their states."""
        own = self.ports[self.ports["protocol"] == "udp"]
        return dict(zip(own["port"], own["status"], strict=True))


def kinds(events: Iterable[Event]) -> list[tuple[str, str | None, int | None]]:
    return [(event.kind.value, event.protocol, event.port) for event in events]


# ── what is learned ─────────────────────────────────────────────────────────────────────────────


def test_a_port_of_udp_is_a_candidate_until_it_was_seen_often_enough() -> None:
    world = Udp()
    assert world.see(look(0, [udp(53)])) == [("baseline",)]
    assert world.known() == {53: "candidate"}
    for at in (1, 2):
        # What was there at first is no news.
        assert world.see(look(at, [udp(53)])) == []
    assert world.known() == {53: "up"}
    assert [world.see(look(at, [udp(53), udp(69, "tftpd")])) for at in (3, 4, 5)] == [[], [], [("new", 69)]]


def test_looks_count_half_an_interval_apart() -> None:
    world = Udp()
    for at in (0, 0.1, 0.2, 0.3, 1, 1.4):
        world.see(look(at, [udp(53)]))
    assert world.known() == {53: "candidate"}
    world.see(look(2, [udp(53)]))
    assert world.known() == {53: "up"}


def test_a_client_that_is_gone_is_forgotten() -> None:
    world = Udp()
    for at, shown in enumerate(([udp(2000)], [udp(2000)], [], [udp(2000)], [udp(2000)], [])):
        assert world.see(look(at, shown))[1:] == []
    assert world.known() == {}


def test_another_socket_on_a_random_port_begins_anew() -> None:
    world = Udp()
    for at in range(6):
        assert world.see(look(at, [udp(2000, inode=at)]))[1:] == []
    assert world.known() == {2000: "candidate"}


@pytest.mark.parametrize("port", [32768, 60999, 45000])
def test_no_port_of_the_random_range_is_learned(port: int) -> None:
    world = Udp(rules=[])
    for at in range(8):
        assert world.see(look(at, [udp(port, "avahi-daemon")]))[1:] == []
    assert world.known() == {}


def test_a_reserved_port_of_that_range_is_learned() -> None:
    world = Udp()
    for at in range(3):
        world.see(look(at, [udp(51820, None), udp(45000)], reserved=((51820, 51820),)))
    assert world.known() == {51820: "up"}


def test_a_declared_port_is_watched_whatever_its_number() -> None:
    world = Udp()
    world.declared = {"1": {number_of(UDP, 51820): "declared", DNS: "declared"}}
    assert world.see(look(0, [udp(51820, None)])) == [("baseline",), ("down", 53)]
    assert world.known() == {53: "down", 51820: "up"}
    assert world.see(look(1, [udp(51820, None), udp(53)])) == [("recovered", 53)]
    assert world.see(look(2, [udp(53)])) == [("down", 51820)]


def test_a_host_with_random_ports_that_are_not_learned_is_settled() -> None:
    world = Udp()
    for at in range(4):
        one = look(at, [udp(53), udp(45000, "avahi-daemon")])
        world.see(dataclasses.replace(one, facts="f"))
    assert world.host().fingerprint is not None


def test_rpcbind_takes_random_ports_below_1024() -> None:
    world = Udp().learned(udp(111, "rpcbind"), udp(868, "rpcbind"), udp(700, "rpc.statd"), udp(514, "rsyslogd"))
    assert world.known() == {111: "up", 514: "up"}


# ── what is told ────────────────────────────────────────────────────────────────────────────────


def test_a_death_is_told_once_and_ends() -> None:
    world = Udp().learned(udp(53), udp(123, "chronyd"))
    assert world.see(look(4, [udp(123, "chronyd")])) == [("down", 53)]
    assert world.events[-1].protocol == "udp"
    assert world.see(look(5, [udp(123, "chronyd")])) == []
    assert world.see(look(6, [udp(53), udp(123, "chronyd")])) == [("recovered", 53)]


def test_tcp_and_udp_of_one_number_are_two_ports() -> None:
    both = (*SSH, tcp(53))
    world = Udp()
    for at in range(4):
        world.see(look(at, [udp(53)], listening=both))
    world.see(look(4, [udp(53)]))
    world.see(look(5, [], listening=both))
    assert kinds(world.events)[1:] == [("down", "tcp", 53), ("recovered", "tcp", 53), ("down", "udp", 53)]


def test_both_families_are_one_port() -> None:
    six = dataclasses.replace(udp(53), protocol="udp6", address="::", inode=1)
    world = Udp().learned(udp(53), six)
    assert world.known() == {53: "up"}
    assert world.see(look(4, [udp(53)])) == [("rebound", 53)]
    assert world.events[-1].details["severe"]


def test_a_port_of_udp_never_moves() -> None:
    world = Udp()
    world.declared = {"1": {number_of(UDP, 40000): "declared"}}
    world.see(look(0, [udp(40000)]))
    world.declared = {}
    for at in (1, 2):
        world.see(look(at, [udp(40000)]))
    assert world.see(look(3, [udp(41000)])) == [("down", 40000)]
    assert world.known() == {40000: "down"}


def test_a_missing_port_needs_two_answers() -> None:
    world = Udp().learned(udp(53))
    assert world.see(look(4, [], confirmed=False)) == []
    assert world.known() == {53: "up"}


def test_a_socket_of_the_kernel_is_watched() -> None:
    world = Udp().learned(udp(4789, None))
    assert world.see(look(4)) == [("down", 4789)]


def test_a_reboot_is_given_time() -> None:
    world = Udp().learned(udp(53))
    assert world.see(look(4, [], boot_id="b2")) == [("rebooted",)]
    assert world.see(look(5, [], boot_id="b2")) == []
    assert world.see(look(6, [udp(53, inode=1)], boot_id="b2")) == []
    assert world.known() == {53: "up"}


def test_a_program_that_hears_what_is_sent_to_all_is_not_missed() -> None:
    """Beside the service of mDNS; a service would be."""
    avahi, browser = udp(5353, "avahi-daemon", inode=1), udp(5353, "chrome", unit="session-2.scope", inode=2)
    other = udp(5353, "resolved", inode=3)
    world = Udp().learned(avahi, browser, other)
    day = 12 * 24
    assert world.see(look(4 + day, [avahi, other])) == []
    assert world.see(look(5 + day, [avahi, browser, other])) == []
    # A client of the resolver's own, on another address.
    assert world.see(look(6 + day, [avahi, browser, other, udp(5353, "unbound", inode=4)])) == []
    assert world.see(look(7 + day, [avahi, other])) == []
    assert world.see(look(8 + day, [avahi])) == [("owner_gone", 5353)]
    assert world.events[-1].details["owner"] == "resolved (resolved.service)"


def test_the_death_of_a_service_is_told_though_a_client_that_came_not_long_ago_goes_on() -> None:
    avahi, browser = udp(5353, "avahi-daemon", inode=1), udp(5353, "chrome", unit="session-2.scope", inode=2)
    world = Udp().learned(avahi)
    for at in (4, 5):
        assert world.see(look(at, [avahi, browser])) == []
    assert world.see(look(6, [browser])) == [("owner_gone", 5353)]
    assert world.events[-1].details["owner"] == "avahi-daemon (avahi-daemon.service)"
    assert world.see(look(7, [browser])) == []
    assert world.see(look(8, [dataclasses.replace(avahi, inode=3), browser])) == [("recovered", 5353)]
    assert world.see(look(9, [dataclasses.replace(avahi, inode=3)])) == []


def test_a_service_that_came_not_long_ago_takes_a_port_over() -> None:
    blue, green = (
        udp(514, "rsyslogd", unit="blue.service", inode=1),
        udp(514, "rsyslogd", unit="green.service", inode=2),
    )
    world = Udp().learned(blue)
    assert world.see(look(4, [blue, green])) == []
    assert world.see(look(5, [green])) == [("replaced", 514)]


# ── UDP is turned on and off ────────────────────────────────────────────────────────────────────


def test_turning_it_on_makes_one_baseline() -> None:
    world = Udp(watched=False)
    for at in range(3):
        world.see(look(at, None))
    world.watch(True)
    before = len(world.events)
    for at in range(3, 9):
        world.see(look(at, [udp(53), udp(123, "chronyd"), udp(45000, "x")]))
    assert kinds(world.events[before:]) == [("baseline", None, None)]
    # Without the random port.
    assert world.events[-1].details == {"ports": 2, "protocol": "udp"}
    assert world.known() == {53: "up", 123: "up"}
    # What was there from the beginning is mature.
    assert world.see(look(9, [udp(53)])) == [("down", 123)]
    assert "young" not in world.events[-1].details


def test_what_is_not_watched_is_not_seen() -> None:
    world = Udp(watched=False)
    world.declared = {"1": {DNS: "declared", NTP: "declared"}}
    for at in range(5):
        assert world.see(look(at, [udp(53)]))[1:] == []
    assert world.known() == {}
    assert world.host().listening == ("tcp/22",)


def test_an_answer_that_does_not_show_it_is_no_evidence() -> None:
    world = Udp().learned(udp(53))
    world.declared = {"1": {NTP: "declared"}}
    for at in range(4, 8):
        assert world.see(look(at, None)) == []
    assert world.known() == {53: "up"}
    assert world.see(look(8, [udp(53)])) == [("down", 123)]
    assert world.see(look(9, None)) == []
    assert world.see(look(10, [])) == [("down", 53)]


def test_turning_it_off_closes_what_is_open_and_says_so() -> None:
    world = Udp().learned(udp(53), udp(123, "chronyd"))
    assert world.see(look(4, [udp(53)])) == [("down", 123)]
    world.watch(False)
    assert world.see(look(5, None)) == []
    assert world.see(look(6, None)) == [("unwatched", 123)]
    assert "UDP is not asked for" in world.events[-1].reason
    assert [world.see(look(at, None)) for at in (7, 8)] == [[], []]
    world.watch(True)
    # It is wrong still, and everything else is as it was.
    assert world.see(look(9, [udp(53)])) == [("baseline",), ("down", 123)]
    assert world.known() == {53: "up", 123: "down"}


def test_what_is_off_for_long_is_forgotten() -> None:
    world = Udp().learned(udp(53))
    world.watch(False)
    for at in range(5, 7):
        assert world.see(look(at, None)) == []
    assert world.see(look(6 + 12 * 24, None)) == []
    assert world.known() == {}
    world.see(look(7 + 12 * 24, None))
    assert world.host().listening == ("tcp/22",)


def test_turning_it_on_or_off_tells_nothing_else_of_tcp() -> None:
    """Of another owner, as at any time."""
    world = Udp(watched=False)
    for at in range(3):
        world.see(look(at, None, listening=(tcp(80, "nginx", inode=1),)))
    world.watch(True)
    assert world.see(look(3, [], listening=(tcp(80, "caddy", inode=2),))) == [("baseline",), ("replaced", 80)]


def test_rules_of_udp() -> None:
    rules = [Rule(action="deny", port="123/udp"), Rule(action="deny", port="69"), Rule(action="deny", port="53/tcp")]
    world = Udp(rules=rules)
    for at in range(4):
        world.see(look(at, [udp(53), udp(123, "chronyd"), udp(69, "tftpd")], listening=(tcp(123, "x"), tcp(53, "y"))))
    assert world.known() == {53: "up"}
    assert set(world.ports[world.ports["protocol"] == "tcp"]["port"]) == {123}


# ── a week of noise ─────────────────────────────────────────────────────────────────────────────


def test_a_week_of_clients_makes_no_event() -> None:
    """A resolver that asks from random ports, clients of QUIC, workers that share a port."""
    chance = random.Random(1)
    world, inode = Udp(), 10_000
    server = [udp(53, "unbound", inode=number) for number in range(4)]
    events = []
    for at in range(0, 7 * 24 * 12, 12):
        asking = []
        for _ in range(chance.randrange(60)):
            inode += 1
            asking.append(udp(chance.randrange(1024, 65536), "unbound", inode=inode))
        browsers = [udp(5353, "chrome", inode=90, unit="session-1.scope")] if chance.random() < 0.5 else []
        shown = [*server, udp(5353, "avahi-daemon", inode=8), *browsers, *asking]
        events += world.see(look(at, shown))
    assert events == [("baseline",)]
    assert [port for port, status in world.known().items() if status == "up"] == [53, 5353]


def test_the_same_look_again_changes_nothing() -> None:
    world = Udp().learned(udp(53))
    again = look(5, [udp(53)])
    assert world.see(again) == world.see(again) == []
    assert evaluate(world.hosts, world.ports, [again], world.inputs([again]), world.conditions).events == ()
    assert again.listing is not None
    assert b'"udp":[' in facts_to_json(again.listing)
    assert timedelta(minutes=5) == FIVE
