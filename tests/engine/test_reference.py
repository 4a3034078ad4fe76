"""The naive implementation where it is not told by a history: rules, declarations and decisions that change on the way,
what is evaluated again, late or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from portmon.engine.rules import Rule, RuleSet
from portmon.model.host import Host
from portmon.model.observation import Listener, Listing, Observation, Outcome
from tests.worlds.reference import Defaults, Reference

START = datetime(2026, 1, 1, tzinfo=UTC)
FIVE = timedelta(minutes=5)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def bind(
    port: int, address: str = "0.0.0.0", program: str | None = "nginx", pid: int | None = 7, **more: Any
) -> Listener:
    return Listener("tcp6" if ":" in address else "tcp", address, port, pid, program, **more)


def ok(minutes: float, *ports: int | Listener, host: str = "h1", run: str | None = None, **more: Any) -> Observation:
    listeners = tuple(bind(port) if isinstance(port, int) else port for port in ports)
    seen = Listing(**{"tool": "ss", "uid": 0, "boot_id": "b1", "listeners": listeners} | more)
    return Observation(host, run or f"r{minutes}", 1, at(minutes), Outcome.OK, listing=seen)


def bad(minutes: float, *, host: str = "h1", run: str | None = None, error_class: str = "timeout") -> Observation:
    return Observation(host, run or f"r{minutes}", 1, at(minutes), Outcome.UNREACHABLE, error_class=error_class)


class World:
    def __init__(self, *, hosts: Iterable[str] = ("h1",), declared: tuple[int, ...] = (), **settings: Any) -> None:
        self.reference = Reference()
        self.hosts = list(hosts)
        self.declared = declared
        self.rules: list[Rule] = []
        self.accepted: dict[tuple[str, str, int], datetime] = {}
        self.settings = Defaults(**settings)

    def see(self, *looks: Observation) -> list[tuple[Any, ...]]:
        """The kinds and ports of the events of some observations, and what else they say but that a port is young."""
        told = self.reference.run(
            looks,
            inventory={host: Host(host, host, host, declared=self.declared) for host in self.hosts},
            rules=RuleSet(self.rules),
            settings=self.settings,
            interval=FIVE,
            accepted=self.accepted,
            now=max((look.observed_at for look in looks), default=START),
        )
        return [
            (kind, *(part for part in (host if len(self.hosts) > 1 else None, port, extra) if part and part != "young"))
            for _, kind, host, port, extra in told
        ]

    def status(self, port: int, host: str = "h1") -> str | None:
        row = self.reference.ports[host].get(port)
        return None if row is None else "hidden" if row.hidden_since else row.status


# ── declared ports ──────────────────────────────────────────────────────────────────────────────


def test_a_declared_port_is_down_from_the_first_look_on_and_stays_declared_when_a_person_accepts_that_it_is_gone() -> (
    None
):
    world = World(declared=(80, 443))
    assert world.see(ok(0, 443)) == [("baseline",), ("down", 80)]
    assert world.see(ok(60 * 24 * 40, 443)) == []  # a look after 40 days is no 40 days of evidence
    world.accepted["h1", "tcp", 80] = at(60 * 24 * 40)
    assert world.see(ok(60 * 24 * 40 + 5, 443)) == [("retired", 80)]
    assert world.see(ok(60 * 24 * 40 + 10, 443)) == []
    assert world.see(ok(60 * 24 * 40 + 15, 443, 80)) == []
    assert world.see(ok(60 * 24 * 40 + 20, 443)) == [("down", 80)]


def test_a_declared_port_that_never_was_there_is_forgotten_with_its_declaration() -> None:
    world = World(declared=(80,))
    world.see(ok(0))
    world.declared = ()
    assert world.see(ok(5)) == []
    assert world.see(ok(10)) == [("unwatched", 80)]
    assert world.see(ok(60 * 24 + 4)) == []
    assert world.status(80) == "hidden"
    assert world.see(ok(60 * 24 + 5)) == []
    assert world.status(80) is None


def test_a_declaration_makes_a_candidate_up_or_down() -> None:
    world = World()
    world.see(ok(0))
    assert world.see(ok(5, 40000, 40001)) == []
    world.declared = (40000, 40001)
    assert world.see(ok(6, 40000)) == [("new", 40000), ("down", 40001)]


def test_a_declared_port_in_the_ephemeral_range_is_new_at_once_and_never_moves() -> None:
    world = World(declared=(40000,))
    assert world.see(ok(0, 40000, 40001)) == [("baseline",)]
    assert (world.status(40000), world.status(40001)) == ("up", "candidate")
    assert world.see(ok(5, 41000)) == [("down", 40000)]


def test_no_rule_hides_a_declared_port() -> None:
    world = World(declared=(80,))
    world.rules = [Rule(action="deny", port=80)]
    assert world.see(ok(0, 80)) == [("baseline",)]
    assert world.see(ok(5)) == [("down", 80)]


# ── rules ───────────────────────────────────────────────────────────────────────────────────────


def test_what_a_new_rule_excludes_is_hidden_and_what_it_includes_is_no_news() -> None:
    world = World()
    world.see(ok(0, 80, 443), ok(0.1, 80))
    assert (world.status(80), world.status(443)) == ("up", "down")
    world.rules = [Rule(action="deny", port="1-1000")]
    assert world.see(ok(5, 80, 8)) == []
    assert (world.status(80), world.status(443)) == ("hidden", "hidden")
    assert world.see(ok(10, 80, 8)) == [("unwatched", 443)]
    world.rules = []
    assert world.see(ok(15, 80, 443, 8)) == []
    assert (world.status(80), world.status(443), world.status(8)) == ("up", "up", "up")


def test_a_program_that_is_not_shown_is_evaluated_by_its_last_name() -> None:
    world = World()
    world.see(ok(0, bind(80, program="nginx"), bind(81, program="java")))
    world.rules = [Rule(action="deny", program="ja*")]
    assert world.see(ok(5, bind(80, program=None), bind(81, program=None))) == []
    assert (world.status(80), world.status(81)) == ("up", "hidden")


# ── decisions ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("when", "told"), [(4, []), (5, [("retired", 80)]), (10, [("retired", 80)]), (11, [])])
def test_an_acceptance_counts_for_the_down_that_it_was_made_of(when: float, told: list[Any]) -> None:
    world = World()
    world.see(ok(0, 80))
    world.see(ok(5))
    world.accepted["h1", "tcp", 80] = at(when)
    assert world.see(ok(10)) == told


# ── what is evaluated, and when ────────────────────────────────────────────────────────────────────


def test_looks_are_evaluated_once_whatever_their_order() -> None:
    world = World()
    looks = [ok(5, run="b"), ok(0, 80, run="a"), ok(10, 80, run="c")]
    assert world.see(*looks) == [("baseline",), ("down", 80), ("recovered", 80)]
    before = world.reference.snapshot()
    assert world.see(*looks) == []
    assert world.see(ok(7)) == [("clock_back",)]
    assert world.reference.snapshot() == before


def test_a_host_that_is_not_listed_is_not_evaluated() -> None:
    assert World(hosts=()).see(ok(0, 80)) == []


def test_a_run_is_evaluated_before_the_next_one_begins() -> None:
    world = World(hosts=("h1", "h2"))
    world.see(ok(0, host="h1"), ok(0, host="h2", boot_id="b2"))
    late = [
        bad(6, run="two", host="h1"),
        bad(1, run="one", host="h1"),
        bad(1.1, run="one", host="h2"),
        bad(6.1, run="two", host="h2"),
    ]
    assert world.see(*late) == [("fleet_unreachable",)]


# ── the fleet ───────────────────────────────────────────────────────────────────────────────────


def test_half_of_the_fleet_may_be_unreachable() -> None:
    world = World(hosts=("h1", "h2", "h3", "h4"))
    world.see(*(ok(0, host=host, boot_id=host) for host in world.hosts))
    world.see(bad(5, host="h1", run="5"), bad(5, host="h2", run="5"))
    assert world.see(bad(10, host="h1", run="10"), bad(10, host="h2", run="10")) == [
        ("unreachable", "h1"),
        ("unreachable", "h2"),
    ]


def test_in_an_episode_no_host_becomes_unreachable_until_most_answer() -> None:
    world = World(hosts=("h1", "h2", "h3"))
    world.see(*(ok(0, host=host, boot_id=host, run="0") for host in world.hosts))
    for minutes, told in ((5, []), (10, [("fleet_unreachable",)]), (15, [])):
        assert world.see(*(bad(minutes, host=host, run=str(minutes)) for host in world.hosts)) == told
    assert world.see(bad(20, host="h1", error_class="refused")) == []
    bad_two = [bad(25, host="h1", run="25"), bad(25, host="h3", run="25")]
    assert world.see(*bad_two, ok(25.1, host="h2", boot_id="h2", run="25")) == []
    more = [ok(30, host=host, boot_id=host, run="30") for host in ("h2", "h3")]
    assert world.see(bad(30, host="h1", run="30"), *more) == [("fleet_reachable",)]
    assert world.see(bad(35, host="h1")) == []
    assert world.see(bad(40, host="h1")) == [("unreachable", "h1")]


# ── the CMDB ────────────────────────────────────────────────────────────────────────────────────


def test_leaving_closes_what_is_open() -> None:
    world = World(declared=(443,))
    world.see(ok(0, bind(25), bind(25, "10.0.0.5"), 80, 22), ok(5, bind(25, "10.0.0.5"), 22))
    told = world.reference.leave(["h1"], at(7))
    assert [(kind, port) for _, kind, _, port, _ in told] == [("retired", 25), ("retired", 80), ("retired", 443)]
    assert world.reference.leave(["h1"], at(8)) == []
    told = world.see(ok(10, bind(25, "10.0.0.5"), 22, 443))
    assert told == [("rebound", 25, "severe"), ("down", 80)]  # 443 is there, and that is that


def test_after_a_purge_all_begins_anew() -> None:
    world = World()
    world.see(ok(0, 80))
    world.reference.purge(["h1"])
    assert world.see(ok(5)) == [("baseline",)]


# ── ephemeral ports ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("listener", "state"),
    [
        (bind(40000), "candidate"),
        (bind(40000, unit="session-3.scope"), "candidate"),
        (bind(40000, unit="docker:0123"), "candidate"),
        (bind(40000, unit="run-r3.service"), "candidate"),
        (bind(40000, unit="a.service"), "up"),
        (bind(40000, unit="a.socket"), "up"),
        (bind(40000, program="java"), "up"),
        (bind(32767), "up"),
        (bind(45000), "up"),
        (bind(45001), "candidate"),
        (bind(700), "up"),
        (bind(700, program="rpc.statd"), "candidate"),
        (bind(700, program=None, comm="rpc.statd"), "candidate"),
        (bind(511, program="rpc.statd"), "up"),
        (bind(1024, program="rpc.statd"), "up"),
    ],
)
def test_the_baseline_holds_an_ephemeral_port_for_a_candidate_unless_something_says_that_it_is_meant(
    listener: Listener, state: str
) -> None:
    world = World()
    world.rules = [Rule(action="allow", program="java"), Rule(action="allow", bind="wildcard")]
    assert world.see(ok(0, listener, reserved=((45000, 45000),))) == [("baseline",)]
    assert world.status(listener.port) == state


@pytest.mark.parametrize(
    ("listener", "state"),
    [(bind(40000, unit="a.service"), "candidate"), (bind(40000, program="java"), "up"), (bind(9000), "up")],
)
def test_later_an_ephemeral_port_of_a_service_is_a_candidate_as_well(listener: Listener, state: str) -> None:
    world = World()
    world.rules = [Rule(action="allow", program="java"), Rule(action="allow", bind="wildcard")]
    world.see(ok(0))
    assert world.see(ok(5, listener)) == ([("new", listener.port)] if state == "up" else [])
    assert world.status(listener.port) == state


@pytest.mark.parametrize(
    ("ephemeral", "number", "state"),
    [
        ((1024, 33791), 1024, "candidate"),  # half of all ports
        ((1024, 33792), 1024, "up"),
        ((1024, 33792), 32767, "up"),
        ((1024, 33792), 32768, "candidate"),
        ((1024, 65535), 65535, "candidate"),
        ((1024, 33792), 33793, "up"),
    ],
)
def test_of_a_range_of_more_than_half_of_all_ports_only_the_upper_part_is_ephemeral(
    ephemeral: tuple[int, int], number: int, state: str
) -> None:
    world = World()
    world.see(ok(0, number, ephemeral=ephemeral))
    assert world.status(number) == state


# ── moved ───────────────────────────────────────────────────────────────────────────────────────

APP = {"unit": "app@1.service", "comm": "app", "program": "app"}
AGAIN = {**APP, "unit": "app@2.service"}


def up(*listeners: Listener, **more: Any) -> World:
    """A host with ports that are up: it showed them three times."""
    world = World()
    world.see(*(ok(minutes, *listeners, **more) for minutes in (-15, -10, -5)))
    assert {world.status(one.port) for one in listeners} == {"up"}
    return world


def test_as_many_as_are_gone_move_in_the_order_of_their_numbers() -> None:
    world = up(bind(40002), bind(40001), bind(80))
    first_seen = world.reference.ports["h1"][40001].first_seen
    assert world.see(ok(0, 80, 50002, 50001)) == [("moved", 40001), ("moved", 40002)]
    assert (world.status(40001), world.status(50001), world.status(50002)) == (None, "up", "up")
    assert world.reference.ports["h1"][50001].first_seen == first_seen == at(-15)
    assert world.see(ok(5, 80, 50001, 50002)) == []


@pytest.mark.parametrize("now", [(50001,), (50001, 50002, 50003)])
def test_where_the_counts_differ_each_is_a_death_or_an_arrival(now: tuple[int, ...]) -> None:
    world = up(bind(40001), bind(40002))
    assert world.see(ok(0, *now)) == [("down", 40001), ("down", 40002)]
    assert {world.status(number) for number in now} == {"candidate"}


def test_each_owner_moves_by_itself() -> None:
    world = up(bind(40001), bind(40002), bind(40003, program="java"))
    told = world.see(ok(0, bind(50001), bind(50003, program="java")))
    assert told == [("down", 40001), ("down", 40002), ("moved", 40003)]


@pytest.mark.parametrize(
    ("old", "new", "moves"),
    [
        (bind(40000), bind(50000), True),
        (bind(40000), bind(50000, program="java"), False),
        (bind(40000), bind(50000, program=None), False),
        (bind(40000), bind(50000, unit="b.service"), False),
        (bind(40000), bind(9000), False),
        (bind(9000), bind(50000), False),
        (bind(700, program="rpc.statd"), bind(800, program="rpc.statd"), True),
        (bind(700, program="statd"), bind(800, program="statd"), False),
        # Titles, names of the kernel, and units that are none.
        (bind(40000, program="nginx: master"), bind(50000, program="nginx: x"), True),
        (bind(40000, **APP), bind(50000, **APP), True),
        (bind(40000, **APP), bind(50000, **AGAIN), True),
        (bind(40000, **APP), bind(50000, **APP | {"unit": "app.service"}), False),
        (bind(40000, **APP), bind(50000, **APP | {"program": "other"}), True),
        (bind(40000, **APP), bind(50000, **APP | {"comm": "other"}), False),
        (bind(40000, **APP), bind(50000, **APP | {"comm": None}), True),
        (bind(40000, **APP), bind(50000, **APP | {"comm": None, "program": "other"}), False),
        (bind(40000, unit="session-1.scope"), bind(50000, unit="session-2.scope"), True),
        (bind(40000, unit="session-1.scope"), bind(50000), True),
        (bind(40000, unit="docker:1"), bind(50000, unit="docker:1"), True),
        (bind(40000, unit="docker:1"), bind(50000, unit="docker:2"), False),
        # Family and reach.
        (bind(40000, "10.0.0.5"), bind(50000, "10.0.0.6"), True),
        (bind(40000, "10.0.0.5"), bind(50000, "127.0.0.1"), False),
        (bind(40000, "10.0.0.5"), bind(50000), False),
        (bind(40000, "::"), bind(50000), False),
        (bind(40000, "fe80::1"), bind(50000, "10.0.0.5"), False),
        # Those that listen for others.
        (bind(40000, program="docker-proxy"), bind(50000, program="docker-proxy"), False),
        (bind(40000, program="rootlessport"), bind(50000, program="rootlessport"), False),
        (bind(40000, program="x", comm="kube-proxy"), bind(50000, program="x", comm="kube-proxy"), False),
        (bind(40000, program="sshd: ann"), bind(50000, program="sshd: ann"), False),
        (bind(40000, program="docker-proxy", comm="x"), bind(50000, program="x", comm="x"), False),
        (bind(40000, program="x", comm="x"), bind(50000, program="docker-proxy", comm="x"), False),
        (bind(40000, program="sshd2"), bind(50000, program="sshd2"), True),
    ],
)
def test_a_port_moves_if_its_owner_family_and_reach_are_the_same(old: Listener, new: Listener, moves: bool) -> None:
    told = up(old).see(ok(0, new))
    assert (("moved", old.port) in told, ("down", old.port) in told) == (moves, not moves)


def test_the_addresses_of_a_port_are_those_that_it_lost_as_well() -> None:
    world = up(bind(40000, "10.0.0.5"), bind(40000, "127.0.0.1"))
    assert world.see(ok(0, bind(40000, "127.0.0.1"))) == [("rebound", 40000, "severe")]
    told = world.see(ok(5, bind(50000, "10.0.0.5"), bind(50000, "127.0.0.1")))
    assert told == [("retired", 40000)]  # its alert was open
    world = up(bind(40000, "10.0.0.5"), bind(40000, "127.0.0.1"))
    world.see(ok(0, bind(40000, "127.0.0.1")))
    assert world.see(ok(5, bind(50000, "127.0.0.1"))) == [("down", 40000)]


def test_a_program_is_compared_with_one_that_the_same_tool_named_unless_the_kernel_names_all() -> None:
    assert up(bind(40000)).see(ok(0, 50000, tool="netstat-W")) == [("down", 40000)]
    assert up(bind(40000, comm="nginx")).see(ok(0, bind(50000, comm="nginx"), tool="netstat-W")) == [("moved", 40000)]
    # One port without the kernel's name, of whatever owner, and all go by the names of the tool.
    without = bind(50001, program="java")
    told = up(bind(40000, comm="nginx")).see(ok(0, bind(50000, comm="nginx"), without, tool="netstat-W"))
    assert told == [("down", 40000)]
    nameless = bind(50001, program=None)
    told = up(bind(40000, comm="nginx")).see(ok(0, bind(50000, comm="nginx"), nameless, tool="netstat-W"))
    assert told == [("moved", 40000)]


def test_what_is_missing_in_one_answer_alone_does_not_move() -> None:
    world = up(bind(40000))
    assert world.see(dataclasses.replace(ok(0, 50000), confirmed=False)) == []
    assert (world.status(40000), world.status(50000)) == ("up", "candidate")
    assert world.see(ok(5, 50000)) == [("down", 40000)]  # the last look did not show it, and the other one is known


def test_what_the_last_look_did_not_show_does_not_move() -> None:
    world = up(bind(40000))
    world.see(dataclasses.replace(ok(0), confirmed=False))
    assert world.see(ok(5, 50000)) == [("down", 40000)]


def test_what_is_declared_candidate_or_hidden_does_not_move() -> None:
    world = up(bind(40000))
    world.declared = (40000,)
    assert world.see(ok(0, 50000)) == [("down", 40000)]
    world = up(bind(40000))
    world.declared = (50000,)
    assert world.see(ok(0, 50000)) == [("down", 40000), ("new", 50000)]
    world = World()
    assert world.see(ok(0), ok(5, 40000), ok(10, 50000), ok(15, 50000)) == [("baseline",)]
    assert world.see(ok(20, 50000)) == [("new", 50000)]
    world = up(bind(40000))
    world.rules = [Rule(action="deny", port=40000)]
    assert world.see(ok(0, 50000)) == []
    assert (world.status(40000), world.status(50000)) == ("hidden", "candidate")
    world = up(bind(40000))
    world.rules = [Rule(action="deny", port=50000)]
    assert world.see(ok(0, 50000)) == [("down", 40000)]


# ── moved: containers ───────────────────────────────────────────────────────────────────────────


def box(port: int, unit: str) -> Listener:
    return bind(port, program="java", unit=unit)


@pytest.mark.parametrize(
    ("others", "moves"),
    [
        ((box(8080, "docker:b"), box(8081, "docker:b")), True),
        ((box(8080, "docker:b"),), True),
        ((box(8080, "docker:b"), box(8081, "docker:c")), False),
        ((box(8080, "docker:b"), box(8080, "docker:c")), False),
        ((box(8080, "docker:c"),), False),
        ((box(8080, "docker.service"),), False),
        ((box(8082, "docker:b"),), False),  # not known
        ((), False),
        ((box(8080, "docker:b"), box(8081, "docker:a")), False),  # the old one lives
        ((box(8080, "docker:b"), box(9999, "docker:a")), False),  # where a rule hides it
    ],
)
def test_a_port_moves_to_another_container_if_another_port_did_and_the_old_one_is_gone(
    others: tuple[Listener, ...], moves: bool
) -> None:
    world = up(box(40000, "docker:a"), box(8080, "docker:a"), box(8081, "docker:a"))
    world.rules = [Rule(action="deny", port=9999)]
    told = world.see(ok(0, box(50000, "docker:b"), *others))
    assert (("moved", 40000) in told, ("down", 40000) in told) == (moves, not moves)


# ── moved: reboots ──────────────────────────────────────────────────────────────────────────────


def test_a_port_moves_in_the_first_look_of_a_boot() -> None:
    assert up(bind(40000)).see(ok(0, 50000, boot_id="b2")) == [("rebooted",), ("moved", 40000)]


@pytest.mark.parametrize(
    ("late", "told"),
    [
        (5, [("moved", 40000)]),
        (10, [("moved", 40000)]),  # the look that would call it down
        (15, [("down", 40000), ("retired", 40000)]),
        (55, [("down", 40000), ("retired", 40000)]),
        (60, [("down", 40000)]),
    ],
)
def test_a_port_that_is_late_moves_in_the_first_hour_of_a_boot(late: int, told: list[Any]) -> None:
    world = up(bind(40000), bind(80))
    found = [one for minutes in range(0, late, 5) for one in world.see(ok(minutes, 80, boot_id="b2"))]
    found += world.see(ok(late, 80, 50000, boot_id="b2"))
    assert found == [("rebooted",), *told]
    assert world.status(50000) == ("candidate" if late == 60 else "up")


@pytest.mark.parametrize(("late", "state"), [(59, "up"), (60, "candidate")])
def test_the_first_hour_is_over_after_an_hour_of_evidence_however_few_its_looks(late: int, state: str) -> None:
    world = up(bind(40000))
    world.see(*(ok(minutes, boot_id="b2") for minutes in range(0, 60, 10)))
    world.see(ok(late, 50000, boot_id="b2"))
    assert world.status(50000) == state


def test_what_a_look_of_the_boot_showed_is_late_no_more() -> None:
    world = up(bind(40000))
    world.see(ok(0, boot_id="b2"), ok(5, 40000, boot_id="b2"))
    assert world.see(ok(10, boot_id="b2")) == [("down", 40000)]
    assert world.see(ok(15, 50000, boot_id="b2")) == []


def test_what_was_down_before_the_boot_does_not_move() -> None:
    world = up(bind(40000))
    assert world.see(ok(0)) == [("down", 40000)]
    assert world.see(ok(5, 50000, boot_id="b2")) == [("rebooted",)]
    assert world.see(ok(10, 50000, boot_id="b2")) == []


def test_a_late_port_whose_alert_a_person_closed_has_moved() -> None:
    world = up(bind(40000))
    world.see(*(ok(minutes, boot_id="b2") for minutes in (0, 5, 10)))
    assert world.status(40000) == "down"
    world.reference.leave(["h1"], at(12))
    assert world.see(ok(15, 50000, boot_id="b2")) == [("moved", 40000)]


def test_a_host_that_shares_its_machine_has_only_the_first_look_of_a_boot() -> None:
    def look(minutes: float, *ports: int, boot: str) -> list[Observation]:
        return [ok(minutes, *ports, host=host, run=f"{minutes}", boot_id=boot, netns=1) for host in ("h1", "h2")]

    def world() -> World:
        world = World(hosts=("h1", "h2"))
        world.see(*look(0, 40000, boot="b1"), *look(5, 40000, boot="b1"), *look(10, 40000, boot="b1"))
        return world

    told = world().see(*look(15, 50000, boot="b2"))
    assert [one for one in told if one[0] != "rebooted"] == [("moved", "h1", 40000), ("moved", "h2", 40000)]
    late = world()
    assert not {one[0] for one in late.see(*look(15, boot="b2"), *look(20, 50000, boot="b2"))} - {"rebooted"}
    assert (late.status(40000), late.status(50000)) == ("up", "candidate")


def kernel(port: int, uid: int | None = 0, **more: Any) -> Listener:
    return bind(port, program=None, pid=None, uid=uid, **more)


@pytest.mark.parametrize(
    ("new", "moves"),
    [
        (kernel(50000), True),
        (kernel(50000, 1000), False),
        (kernel(50000, None), False),
        (kernel(50000, unit="session-1.scope"), False),
        (kernel(50000, comm="java"), False),
        (kernel(50000, address="::"), False),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_ports_without_owners_move_in_the_first_hour_of_a_boot_by_their_users(
    new: Listener, moves: bool, late: bool
) -> None:
    world = up(kernel(40000))
    if late:
        world.see(ok(-3, boot_id="b2"))
    told = world.see(ok(0, new, boot_id="b2"))
    assert (("moved", 40000) in told) == moves
    assert world.status(40000) == (None if moves else "up")


def test_ports_without_owners_move_at_no_other_time() -> None:
    assert up(kernel(40000)).see(ok(0, kernel(50000))) == [("down", 40000)]


# ── tools ───────────────────────────────────────────────────────────────────────────────────────


def test_plain_netstat_cuts_addresses() -> None:
    world = World()
    world.see(ok(0, bind(80, "2001:db8::1"), bind(80, "::1"), tool="netstat"))
    assert world.see(ok(5, bind(80, "::1"), tool="ss")) == []
    assert world.see(ok(10, bind(80, "::1"), bind(80, "::"), tool="netstat-W")) == [("rebound", 80)]


def test_programs_are_compared_with_those_that_the_same_tool_reported() -> None:
    world = World()
    world.see(ok(0, bind(80, program="nginx: master", pid=7), tool="netstat-W"))
    assert world.see(ok(5, bind(80, program=None, pid=None), tool="ss")) == []
    assert world.see(ok(10, bind(80, program="nginx", pid=7), tool="ss")) == []
    assert world.see(ok(15, bind(80, program="caddy", pid=7), tool="ss")) == [("replaced", 80)]


# ── binds ───────────────────────────────────────────────────────────────────────────────────────


def test_a_second_bind_that_is_lost_is_told_as_well_and_recovered_is_told_when_all_are_back() -> None:
    world = World()
    all_of_it = [bind(80, "10.0.0.5"), bind(80, "10.0.0.6"), bind(80, "127.0.0.1")]
    world.see(ok(0, *all_of_it))
    assert world.see(ok(5, *all_of_it[1:])) == [("rebound", 80, "severe")]
    assert world.see(ok(10, *all_of_it[2:])) == [("rebound", 80, "severe")]
    assert world.see(ok(80, *all_of_it[1:])) == []
    assert world.see(ok(85, *all_of_it)) == [("recovered", 80)]


def test_a_port_that_flaps_and_keeps_a_bind_lost_is_stable_down() -> None:
    world = World(flap_threshold=2)
    both = [bind(80), bind(80, "127.0.0.1")]
    world.see(ok(0, *both))
    assert world.see(ok(5, both[1])) == [("rebound", 80, "severe")]
    assert world.see(ok(10, *both)) == [("flapping", 80, "up")]
    assert world.see(ok(15, both[1])) == []
    for minutes in range(25, 75, 10):
        assert world.see(ok(minutes, both[1])) == []
    assert world.see(ok(75, both[1])) == [("stable", 80, "down")]
    assert world.see(ok(80, *both)) == [("recovered", 80)]


# ── notices ─────────────────────────────────────────────────────────────────────────────────────


def test_of_each_kind_of_notice_the_first_few_are_told() -> None:
    world = World()
    world.see(ok(0, bind(80, "10.0.0.1")))
    told = [world.see(ok(5 * run, bind(80, f"10.0.0.{run + 1}"))) for run in range(1, 9)]
    assert told == [[("rebound", 80)]] * 4 + [[]] * 4
    assert world.see(ok(45, bind(80, "10.0.0.9", pid=8))) == [("restarted", 80)]
    assert world.see(ok(50)) == [("down", 80)]
    assert world.see(ok(55, bind(80, "10.0.0.9", pid=8))) == [("recovered", 80)]
    # The last notice, sent or not, was at 40 minutes; the window is an hour of evidence.
    for minutes in range(65, 95, 10):
        assert world.see(ok(minutes, bind(80, "10.0.0.9", pid=8))) == []
    assert world.see(ok(99, bind(80, "10.0.0.10", pid=8))) == []
    for minutes in range(109, 159, 10):
        assert world.see(ok(minutes, bind(80, "10.0.0.10", pid=8))) == []
    assert world.see(ok(159, bind(80, "10.0.0.11", pid=8))) == [("rebound", 80)]


def test_of_very_many_notices_of_one_look_the_rest_is_counted() -> None:
    world = World()
    world.see(ok(0, 80))
    told = world.see(ok(5, *range(1000, 1300)))
    assert told == [("many_changes",), ("down", 80), *(("new", port) for port in range(1000, 1200))]
