"""Evaluations of small fleets, and properties of every history."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.engine import states
from portmon.engine.config import States
from portmon.engine.diff import Evaluation, Verdict, close_hosts, evaluate
from portmon.engine.frames import PORT_COLUMNS, empty_ports, frame, merged, ports_frame, ports_of
from portmon.engine.rules import Rule, RuleSet
from portmon.engine.states import Port
from portmon.model.event import Event
from portmon.model.host import Host
from portmon.model.observation import Listener, Listing, Observation, Outcome, PortKey

START = datetime(2026, 1, 1, tzinfo=UTC)
FIVE = timedelta(minutes=5)
FLEET = {
    str(number): Host(str(number), f"web{number}", f"10.0.0.{number}", None, {"role": "web"}) for number in range(1, 5)
}


def ok(
    at: float,
    *ports: int,
    host: str = "1",
    program: str | None = "nginx",
    address: str = "0.0.0.0",
    pid: int = 7,
    unit: str | None = None,
    **fields: Any,
) -> Observation:
    """A complete answer, ``at`` in runs since the start.

    :param fields: of the observation, or of its listing
    """
    listeners = tuple(Listener("tcp", address, port, pid, program, unit=unit) for port in ports)
    names = {field.name for field in dataclasses.fields(Listing)} & set(fields)
    known = {"tool": "netstat", "uid": 0, "boot_id": "b", "listeners": listeners}
    seen = Listing(**known | {name: fields.pop(name) for name in names})
    return dataclasses.replace(
        Observation(host, f"run{at}", 1, START + at * FIVE, Outcome.OK, listing=seen), **fields
    )  # fmt: skip


def bad(at: float, *, host: str = "1", outcome: Outcome = Outcome.UNREACHABLE, **fields: Any) -> Observation:
    known = {"error_class": "timeout", "error": "no answer"} | fields
    return Observation(host, f"run{at}", 1, START + at * FIVE, outcome, **known)


class World:
    """State that is kept between evaluations, as the database keeps it."""

    def __init__(self, *, rules: Sequence[Rule] = (), **settings: int) -> None:
        self.hosts: dict[str, dict[str, Any]] = {}
        self.ports = empty_ports()
        self.rules, self.settings = RuleSet(rules), States(**settings)
        self.events: list[Event] = []
        self.last: Verdict | None = None
        self.fleet, self.failing_since = FLEET, None
        self.declared: dict[str, dict[int, str]] = {}
        self.accepted: dict[PortKey, datetime] = {}

    def see(self, *observations: Observation) -> list[tuple[Any, ...]]:
        verdict = evaluate(
            self.hosts, self.ports, observations, inventory=self.fleet, rules=self.rules, settings=self.settings,
            interval=FIVE, run_id="run", declared=self.declared, accepted=self.accepted,
            failing_since=self.failing_since,
        )  # fmt: skip
        self.failing_since = verdict.failing_since
        self.events += verdict.events
        return self.take(verdict)

    def take(self, verdict: Verdict) -> list[tuple[Any, ...]]:
        self.last = verdict
        self.hosts |= {row["host_id"]: row for row in verdict.hosts}
        for host_id, at in verdict.unchanged.items():
            self.hosts[host_id] |= {"last_evaluated_at": at, "last_ok_at": at}
        self.ports = merged(self.ports, verdict.ports, verdict.dropped)
        return [(event.kind.value, event.port) if event.port else (event.kind.value,) for event in verdict.events]

    def port(self, port: int, host: str = "1") -> dict[str, Any] | None:
        rows = self.ports[(self.ports["port"] == port) & (self.ports["host_id"] == host)]
        return None if rows.empty else dict(rows.iloc[0])

    def host(self, host: str = "1") -> dict[str, Any]:
        return self.hosts[host]


# ── ports ───────────────────────────────────────────────────────────────────────────────────────


def test_the_first_answer_is_the_baseline() -> None:
    world = World()
    assert world.see(ok(0, 22, 80)) == [("baseline",)]
    assert world.events[0].details["ports"] == 2
    assert world.port(80)["status"] == "up"


def test_a_quiet_answer_changes_no_port_and_makes_no_event() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    assert world.see(ok(1, 80, 22)) == []
    assert world.last.ports == ()
    assert len(world.last.hosts) == 1


UNSEEN = "it happened between 2026-01-01 00:00 and"


@pytest.mark.parametrize(
    ("then", "kind", "told"),
    [
        (ok(3, 22), "down", False),
        (ok(3.1, 22), "down", True),
        (ok(4, 22, 80, 443), "new", True),
        (ok(4, 22, 80, program="apache2"), "replaced", True),
        (ok(4, 22, 80, pid=8), "restarted", True),
        (ok(4, 22, 80, address="127.0.0.1"), "rebound", True),
    ],
)
def test_an_event_after_a_long_pause_says_between_which_observations_it_happened(
    then: Observation, kind: str, told: bool
) -> None:
    """A long pause is more than three intervals and more than fifteen minutes."""
    world = World()
    world.see(ok(0, 22, 80))
    assert kind in [event[0] for event in world.see(then)]
    for event in world.events[1:]:
        assert (UNSEEN in event.reason) is told
        assert ("between" in event.details) is told
        if told:
            assert event.reason.endswith("UTC, while nobody looked")
            assert event.details["between"] == [START.isoformat(), then.observed_at.isoformat()]


def test_three_intervals_may_be_longer_than_fifteen_minutes() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    for at, told in ((12, False), (25, True)):
        answer = ok(at, 22, 80, pid=at)
        verdict = evaluate(
            world.hosts, world.ports, [answer], inventory=FLEET, rules=world.rules, settings=world.settings,
            interval=4 * FIVE, run_id="run",
        )  # fmt: skip
        world.take(verdict)
        assert {UNSEEN in event.reason or "while nobody looked" in event.reason for event in verdict.events} == {told}


def test_what_began_before_or_is_only_proven_now_did_not_happen_then() -> None:
    """A port that was missing already, one that has to be seen several times, and a flapping one."""
    world = World(down_after=2)
    world.see(ok(0, 22, 80))
    world.see(ok(1, 22, 40_000))
    assert world.see(ok(9, 22, 40_000)) == [("down", 80)]
    assert world.events[-1].last_seen == START
    assert "nobody looked" not in world.events[-1].reason
    assert world.see(ok(17, 22, 40_000)) == [("new", 40_000)]
    assert "nobody looked" not in world.events[-1].reason
    world.declared = {"1": {9000: "declared by the CMDB"}}
    assert world.see(ok(25, 22, 40_000)) == [("down", 9000)]
    assert "nobody looked" not in world.events[-1].reason
    assert world.see(ok(33, 22, 40_000, 9000)) == [("recovered", 9000)]
    assert "nobody looked" in world.events[-1].reason


def test_a_declared_port_that_listens_is_quiet() -> None:
    world = World()
    world.declared = {"1": {80: "declared by the CMDB"}}
    assert world.see(ok(0, 22, 80)) == [("baseline",)]
    assert world.port(80)["status"] == "up"
    # Another port is missing, so that the answer is a confirmed one.
    assert world.see(ok(1, 80)) == [("down", 22)]
    assert world.see(ok(2, 22)) == [("recovered", 22), ("down", 80)]
    assert world.see(ok(3, 22)) == []


def test_a_port_that_was_not_there_is_new() -> None:
    world = World()
    world.see(ok(0, 22))
    assert world.see(ok(1, 22, 80)) == [("new", 80)]
    assert world.events[-1].program == "nginx"


def test_a_port_that_is_missing_is_down_and_recovers_with_the_time_it_was_down() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    assert world.see(ok(1, 22)) == [("down", 80)]
    assert world.events[-1].last_seen == START
    assert world.see(ok(2, 22)) == []
    assert world.see(ok(4, 22, 80)) == [("recovered", 80)]
    assert world.events[-1].details["down_for"] == 900
    assert world.events[-1].since == START + FIVE


def test_down_after_counts_runs_in_a_row() -> None:
    world = World(down_after=3)
    world.see(ok(0, 80))
    assert world.see(ok(1)) == []
    assert world.see(ok(2)) == []
    assert world.see(ok(3, 80)) == []
    assert [world.see(ok(at)) for at in (4, 5, 6)] == [[], [], [("down", 80)]]
    assert world.events[-1].last_seen == START + 3 * FIVE


def test_no_evidence_neither_counts_as_a_miss_nor_breaks_a_row() -> None:
    world = World(down_after=2)
    world.see(ok(0, 80))
    assert world.see(ok(1)) == []
    assert world.see(bad(2)) == []
    assert world.see(ok(3)) == [("down", 80)]


def test_extra_looks_count_once_per_half_interval() -> None:
    world = World(down_after=2)
    world.see(ok(0, 80))
    assert world.see(ok(1)) == []
    assert world.see(ok(1.1)) == []
    assert world.see(ok(1.5)) == [("down", 80)]


def test_a_baseline_says_how_many_ports_there_are() -> None:
    world = World()
    world.see(ok(0, 22), ok(0, 22, 80, host="2"))
    assert [event.reason.partition(": ")[2] for event in world.events] == ["1 listening port", "2 listening ports"]


def test_a_new_process_is_a_note() -> None:
    world = World()
    world.see(ok(0, 80, pid=7))
    assert world.see(ok(1, 80, pid=8)) == [("restarted", 80)]
    assert world.port(80)["pids"] == (8,)


def test_an_owner_that_is_not_shown_stays_as_it_was_known() -> None:
    world = World()
    world.see(ok(0, 80))
    assert world.see(ok(1, 80, program=None)) == []
    assert world.see(ok(2)) == [("down", 80)]
    assert world.events[-1].program == "nginx"


def test_tcp_and_tcp6_are_one_port() -> None:
    world = World()
    both = ok(0, 80)
    six = Listener("tcp6", "::", 80, 7, "nginx")
    seen = dataclasses.replace(both.listing, listeners=(*both.listing.listeners, six))
    world.see(dataclasses.replace(both, listing=seen))
    assert len(world.ports) == 1
    assert world.port(80)["addresses"] == ("0.0.0.0", "::")


# ── candidates ──────────────────────────────────────────────────────────────────────────────────


def test_an_ephemeral_port_is_watched_after_three_looks() -> None:
    world = World()
    world.see(ok(0, 22))
    assert [world.see(ok(at, 22, 40000)) for at in (1, 2, 3)] == [[], [], [("new", 40000)]]
    assert world.see(ok(4, 22)) == [("down", 40000)]


def test_an_ephemeral_port_that_comes_and_goes_is_forgotten() -> None:
    world = World()
    world.see(ok(0, 22))
    world.see(ok(1, 22, 40000))
    assert world.see(ok(2, 22)) == []
    assert world.port(40000) is None
    assert [world.see(ok(at, 22, 40000)) for at in (3, 4)] == [[], []]


def test_an_ephemeral_port_of_the_baseline_becomes_watched_silently() -> None:
    world = World()
    world.see(ok(0, 22, 40000))
    assert world.port(40000)["status"] == "candidate"
    assert [world.see(ok(at, 22, 40000)) for at in (1, 2)] == [[], []]
    assert world.port(40000)["status"] == "up"


def test_no_evidence_does_not_break_a_row_of_candidates() -> None:
    world = World()
    world.see(ok(0, 22))
    world.see(ok(1, 40000, 22))
    world.see(bad(2))
    world.see(ok(3, 40000, 22))
    assert world.see(ok(4, 40000, 22)) == [("new", 40000)]


# ── hosts ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("outcome", [Outcome.UNREACHABLE, Outcome.INVALID])
def test_a_host_without_evidence_is_unreachable_and_its_ports_stay(outcome: Outcome) -> None:
    world = World()
    world.see(ok(0, 22, 80))
    assert world.see(bad(1, outcome=outcome)) == []
    assert world.see(bad(2, outcome=outcome)) == [("unreachable",)]
    assert world.events[-1].since == START + FIVE
    assert world.see(bad(3, outcome=outcome)) == []
    assert world.port(80)["status"] == "up"
    assert world.see(ok(4, 22)) == [("reachable",), ("down", 80)]
    assert world.events[-2].details["unreachable_for"] == 900


def test_a_host_that_never_answered() -> None:
    world = World(unreachable_after=1)
    assert world.see(bad(0)) == [("unreachable",)]
    assert world.see(ok(1, 80)) == [("baseline",), ("reachable",)]


def test_a_host_that_still_fails_when_the_first_one_answers_is_told_at_once() -> None:
    world = World()
    world.see(ok(0, 22), ok(0, 22, host="2"), ok(0, 22, host="3"))
    world.see(*(bad(1, host=host) for host in "123"))
    assert world.see(*(bad(2, host=host) for host in "123")) == [("fleet_unreachable",)]
    # Too soon to count as one more failure, but enough failures were counted before.
    assert world.see(ok(2.1, 22), ok(2.1, 22, host="3"), bad(2.1, host="2")) == [("fleet_reachable",), ("unreachable",)]


def test_failures_count_once_per_half_interval() -> None:
    world = World()
    world.see(ok(0, 22))
    assert world.see(bad(1)) == []
    assert world.see(bad(1.2)) == []
    assert world.see(bad(2)) == [("unreachable",)]


def test_an_older_look_is_ignored() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    world.see(ok(2, 22, 80))
    assert world.see(ok(1, 22)) == []
    assert world.last.hosts == ()


def test_hosts_that_are_not_in_the_inventory_are_ignored() -> None:
    assert World().see(ok(0, 22, host="99")) == []


def test_hosts_that_left_close_their_alerts() -> None:
    world = World(unreachable_after=1)
    world.see(ok(0, 22, 80), ok(0, 22, host="2"))
    world.see(ok(1, 22), bad(1, host="2"))
    closed = close_hosts(world.hosts, world.ports, ["1", "2"], reason="it left", run_id="r", now=START + 2 * FIVE)
    assert {(event.kind.value, event.host_id, event.port) for event in closed.events} == {
        ("retired", "1", 80),
        ("retired", "2", None),
    }
    world.take(closed)
    # Troubles that last when the hosts come back are told again.
    assert world.see(ok(3, 22), bad(3, host="2")) == [("down", 80), ("unreachable",)]


# ── rules ───────────────────────────────────────────────────────────────────────────────────────


def test_a_port_that_a_rule_change_excludes_is_dropped_without_an_event() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    world.see(ok(1, 22))
    world.rules = RuleSet([Rule(action="deny", port=80)])
    assert world.see(ok(2, 22)) == []
    assert world.last.dropped == (("1", "tcp", 80),)
    assert world.port(80) is None


def test_a_port_that_a_rule_change_includes_is_not_new() -> None:
    world = World(rules=[Rule(action="deny", port=80)])
    world.see(ok(0, 22, 80))
    assert world.port(80) is None
    world.rules = RuleSet([])
    assert world.see(ok(1, 22, 80)) == []
    assert world.port(80)["status"] == "up"


def test_a_known_port_whose_program_is_suddenly_unknown_stays_watched() -> None:
    world = World(rules=[Rule(action="allow", program="nginx")])
    world.see(ok(0, 80))
    assert world.see(ok(1, 80, program=None)) == []
    assert world.port(80)["status"] == "up"
    assert world.see(ok(2)) == [("down", 80)]


def test_a_watched_program_whose_port_another_one_took_is_down() -> None:
    world = World(rules=[Rule(action="allow", program="nginx")])
    world.see(ok(0, 80))
    # The host was not asked twice: another program listens on the port.
    assert world.see(dataclasses.replace(ok(1, 80, program="apache2"), confirmed=False)) == [("down", 80)]
    assert world.see(ok(2, 80)) == [("recovered", 80)]


# ── which looks are evaluated ──────────────────────────────────────────────────────────────────────


def test_the_same_look_again_is_ignored() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    assert world.see(ok(0, 22)) == []
    assert world.last.summary == {"evaluated": 0}
    assert world.last.hosts == ()


def test_of_two_looks_at_one_instant_the_first_counts() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    assert world.see(ok(1, 22), ok(1, 22, 80)) == [("down", 80)]


def test_two_looks_of_one_run_are_evaluated_in_the_order_of_time() -> None:
    world = World()
    world.see(ok(0, 22, 80), ok(0, 22, host="2"))
    late = dataclasses.replace(ok(1.6, 22, 80), run_id="run1", try_number=2)
    assert world.see(late, ok(1, 22, host="2"), ok(1, 22)) == [("down", 80), ("recovered", 80)]


def test_several_runs_are_evaluated_at_once_in_the_order_of_time() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    assert world.see(bad(2), ok(4, 22, 443), ok(5, 22), bad(1), ok(3, 22, 80)) == [
        ("unreachable",), ("reachable",), ("down", 80), ("new", 443), ("down", 443),
    ]  # fmt: skip
    assert world.last.summary == {"evaluated": 5, "down": 2, "new": 1, "reachable": 1, "unreachable": 1}


def test_a_run_within_another_one_is_evaluated_for_hosts_that_it_saw_later() -> None:
    world = World()
    world.see(ok(0, 22, 80), ok(0, 22, 80, host="2"))
    long = [dataclasses.replace(observation, run_id="long") for observation in (ok(1, 22, 80), ok(3, 22, 80, host="2"))]
    assert world.see(*long, ok(2, 22), dataclasses.replace(ok(2, 22, host="2"), run_id="run2")) == [("down", 80)]
    assert world.events[-1].host_id == "1"


@pytest.mark.parametrize(
    "observation",
    [
        dataclasses.replace(ok(1, 22), outcome=Outcome.INVALID, error_class="no_end"),
        dataclasses.replace(ok(1, 22), listing=None),
    ],
)
def test_only_a_complete_answer_is_evidence(observation: Observation) -> None:
    world = World(unreachable_after=1)
    world.see(ok(0, 22, 80))
    assert world.see(observation) == [("unreachable",)]
    assert world.last.ports == ()


def test_events_are_told_by_host_and_port_the_host_first() -> None:
    world = World()
    world.see(ok(0, 22, 443), ok(0, 22, 443, host="2"))
    assert world.see(ok(1, 80, 90, host="2", boot_id="c", pid=8), ok(1, 22, 80, boot_id="c")) == [
        ("rebooted",), ("new", 80), ("rebooted",), ("new", 80), ("new", 90),
    ]  # fmt: skip
    assert world.see(ok(4, 22, boot_id="c"), ok(4, 80, 85, host="2", boot_id="c", pid=8)) == [
        ("down", 80), ("down", 443), ("down", 22), ("new", 85), ("down", 90), ("down", 443),
    ]  # fmt: skip


def test_an_event_says_whose_port_it_is_and_why_it_is_watched() -> None:
    world = World(rules=[Rule(action="deny", port=22), Rule(action="allow", program="nginx")])
    world.see(ok(0, 80, unit="nginx.service"), ok(0, 22, 443, host="2", program=None))
    world.see(ok(1), ok(1, 22, host="2"))
    (event,) = world.last.events
    assert (event.host_name, event.labels, event.program, event.unit) == (
        "web1",
        {"role": "web"},
        "nginx",
        "nginx.service",
    )
    assert event.details["watched"] == "rules[1] allows it"
    assert event.details["looked_with"] == "netstat"
    assert event.details["row"] == "down"


def test_an_event_of_a_port_without_an_owner_names_none() -> None:
    world = World()
    world.fleet = {"1": Host("1", "web1", "10.0.0.1")}
    world.see(ok(0, 80, program=None))
    world.see(ok(1))
    (event,) = world.last.events
    assert (event.labels, event.program, event.unit) == ({}, None, None)
    assert event.details["watched"] == "no rule matches it"


# ── what a quiet answer costs ───────────────────────────────────────────────────────────────────


def test_ports_that_are_as_they_were_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.declared = {"1": {80: "declared by the CMDB"}}
    world.see(ok(0, 22, 80, unit="nginx.service"))

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("a step for a port that is as it was")

    monkeypatch.setattr(states, "again", again)
    assert world.see(ok(1, 22, 80, unit="nginx.service")) == []
    # Owners that are not shown change nothing.
    assert world.see(ok(2, 22, 80, program=None, pid=None)) == []


@pytest.mark.parametrize("name", ["pid", "program", "unit", "uid"])
def test_an_owner_that_changes_is_kept(name: str) -> None:
    world = World()
    known: dict[str, Any] = {"pid": 7, "program": "nginx", "unit": "nginx.service", "uid": 33}
    for at, values in enumerate((known, known | {name: {"pid": 8, "uid": 34}.get(name, "other")})):
        seen = Listing("netstat", 0, boot_id="b", listeners=(Listener("tcp", "0.0.0.0", 80, **values),))
        world.see(dataclasses.replace(ok(at), listing=seen))
        assert world.port(80)[f"{name}s"] == (values[name],)


def test_another_tool_is_kept() -> None:
    world = World()
    world.see(ok(0, 80))
    assert world.see(ok(1, 80, tool="ss")) == []
    assert world.port(80)["tool"] == "ss"


def test_a_bind_that_is_lost_and_comes_back() -> None:
    world = World()
    world.see(ok(0, 80))
    assert world.see(ok(1, 80, address="127.0.0.1")) == [("rebound", 80)]
    assert world.last.events[0].severity == "critical"
    assert world.see(ok(2, 80, address="127.0.0.1")) == []
    assert world.see(ok(3, 80)) == [("recovered", 80)]


def test_how_often_a_port_was_missing_is_a_whole_number_whatever_else_is_seen() -> None:
    world = World(down_after=2)
    world.see(ok(0, 22, 80), ok(0, 22, host="2"))
    world.see(ok(1, 22), ok(1, 22, 443, host="2"))
    assert world.see(ok(2, 22), ok(2, 22, 443, 444, host="2")) == [("down", 80), ("new", 444)]
    assert world.last.events[0].reason.startswith("Missing in the complete answers of 2 runs in a row")


def test_when_a_port_was_last_seen_is_known_from_the_last_answer_that_had_it() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    # An unconfirmed observation without it is no evidence; then it is there again.
    assert world.see(ok(1, 22, confirmed=False)) == []
    assert world.see(ok(2, 22, 80)) == []
    assert world.see(ok(3, 22)) == [("down", 80)]
    assert world.last.events[0].last_seen == START + 2 * FIVE


# ── settled hosts ───────────────────────────────────────────────────────────────────────────────


def stored(observation: Observation) -> Observation:
    """The observation as the archive stores it: its listing has a digest."""
    return dataclasses.replace(observation, facts=repr(observation.listing) if observation.listing else None)


def unread(observation: Observation) -> Observation:
    """The observation as the archive gives it, before its listing is read."""
    return dataclasses.replace(stored(observation), listing=None)


def state_of(world: World) -> tuple[Any, ...]:
    """The whole state, except the fingerprints."""
    hosts = {host_id: row | {"fingerprint": None} for host_id, row in world.hosts.items()}
    return hosts, sorted(map(repr, ports_of(world.ports))), world.failing_since


def test_an_answer_that_shows_nothing_new_of_a_settled_host_is_not_read() -> None:
    world = World()
    world.see(stored(ok(0, 22, 80)))
    for at in (1, 2, 30 * 24 * 12):
        assert world.see(unread(ok(at, 22, 80))) == []
        assert world.last == Verdict(unchanged={"1": START + at * FIVE}, summary={"evaluated": 1})
    assert world.see(stored(ok(9000, 22))) == [("down", 80)]
    assert world.host()["fingerprint"] is None


def test_what_is_not_stored_settles_nothing() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    assert world.host()["fingerprint"] is None


@pytest.mark.parametrize("other", ["facts", "rules", "declared", "not settled", "unknown"])
def test_an_answer_that_may_show_something_new_has_to_be_read(other: str) -> None:
    world = World()
    if other != "unknown":
        world.see(stored(ok(0, 22, 80)))
    if other == "rules":
        world.rules = RuleSet([Rule(action="deny", port=1)])
    elif other == "declared":
        world.declared = {"1": {80: "declared by the CMDB"}}
    elif other == "not settled":
        world.see(stored(ok(0.5, 22)))
    with pytest.raises(ValueError, match=r"the observation of '1' at .* lacks its listing"):
        world.see(unread(ok(1, 22, 80, pid=8 if other == "facts" else 7)))


def test_comments_of_rules_and_rules_of_other_hosts_unsettle_no_host() -> None:
    world = World(rules=[Rule(action="deny", port=443)])
    world.see(stored(ok(0, 22, 80)))
    world.rules = RuleSet([Rule(action="deny", port=443, comment="why"), Rule(action="allow", host="db*", port=1)])
    assert world.see(unread(ok(1, 22, 80))) == []


WILD = Listener("tcp", "0.0.0.0", 80, 7, "nginx")
LOOP = Listener("tcp", "127.0.0.1", 80)


@pytest.mark.parametrize(
    ("history", "settled"),
    [
        pytest.param([ok(0, 80)], True, id="baseline"),
        pytest.param([ok(0, 80), ok(1, 80, 81)], True, id="new"),
        pytest.param([ok(0, 80), ok(1, 80, pid=8)], True, id="restarted"),
        pytest.param([ok(0, 80), ok(1, 80, program=None, pid=None)], True, id="owner not shown"),
        pytest.param([ok(0, 80), ok(1, 80, program=None, pid=None, tool="ss")], False, id="owner not shown by another tool"),
        pytest.param([ok(0, 80), ok(1, 80), ok(2, 80, boot_id="c")], True, id="rebooted"),
        pytest.param([ok(0, 80), ok(1), ok(2, 80)], True, id="recovered"),
        pytest.param([ok(0, 80), bad(1)], True, id="failed once"),
        pytest.param([ok(0, 80, 40000)], False, id="candidate"),
        pytest.param([ok(0, 80, 40000), ok(1, 80)], True, id="candidate forgotten"),
        pytest.param([ok(0, 80), ok(1)], False, id="down"),
        pytest.param([ok(0, 80), ok(1, confirmed=False)], False, id="missing, not confirmed"),
        pytest.param([ok(0, 80), ok(1, boot_id="c")], False, id="grace after a reboot"),
        pytest.param([ok(0, 80), ok(1, 80, address="127.0.0.1")], False, id="bind lost"),
        pytest.param([ok(0, 80), ok(1, 80, address="127.0.0.1", confirmed=False)], False, id="bind lost, not confirmed"),
        pytest.param([ok(0, 80), ok(1), ok(2, 80), ok(3), ok(4, 80)], False, id="flapping"),
    ],
)  # fmt: skip
def test_a_host_is_settled_if_nothing_is_pending(history: list[Observation], settled: bool) -> None:
    world = World()
    for look in history:
        world.see(stored(look))
    assert (world.host()["fingerprint"] is not None) == settled
    # The same observation at any later time, confirmed or not, changes nothing.
    (last,) = [look for look in history if look.outcome is Outcome.OK][-1:]
    for days in (0, 1, 31):
        again = World()
        again.hosts, again.ports = world.hosts, world.ports
        at = history[-1].observed_at + timedelta(days=days, minutes=5)
        told = again.see(dataclasses.replace(last, observed_at=at, run_id="later", confirmed=days == 1))
        if settled:
            assert told == []
            assert (again.last.ports, again.last.dropped) == ((), ())


def test_a_port_that_must_listen_and_is_not_there_is_pending() -> None:
    world = World()
    world.declared = {"1": {80: "declared by the CMDB", 443: "declared by the CMDB"}, "2": {22: "promoted"}}
    look = stored(ok(0, 80, confirmed=False)), stored(ok(0, 22, host="2"))
    assert world.see(*look) == [("baseline",), ("baseline",)]
    assert world.host("1")["fingerprint"] is None
    assert world.host("2")["fingerprint"] is not None
    assert world.see(dataclasses.replace(look[0], observed_at=START + FIVE, confirmed=True)) == [("down", 443)]


def test_a_listener_without_a_name_may_be_evaluated_otherwise_once_its_port_has_one() -> None:
    """Its port has no known program first, and then one that a rule denies."""
    rules = [Rule(action="deny", program="nginx", bind="loopback")]
    seen = dataclasses.replace(ok(0).listing, listeners=(WILD, LOOP))  # type: ignore[type-var]
    world = World(rules=rules)
    for at, settled in ((0, False), (1, False), (2, True)):
        world.see(stored(dataclasses.replace(ok(at), listing=seen)))
        assert (world.host()["fingerprint"] is not None) == settled
    assert world.port(80)["addresses"] == ("0.0.0.0",)
    # Without rules, and with names for all listeners, the host is settled.
    for own, listeners in (((), (WILD, LOOP)), (rules, (WILD, dataclasses.replace(LOOP, program="java")))):
        other = World(rules=own)
        other.see(stored(dataclasses.replace(ok(0), listing=dataclasses.replace(seen, listeners=listeners))))
        assert other.host()["fingerprint"] is not None


class Twins:
    """One history, once with the listing of every observation and once as the archive gives it."""

    def __init__(self, **settings: Any) -> None:
        self.all, self.few = World(**settings), World(**settings)
        self.unread = 0

    def see(self, *observations: Observation) -> list[tuple[Any, ...]]:
        told = self.all.see(*observations)
        evaluation = Evaluation(
            {host_id: dict(row) | {"listening": None} for host_id, row in self.few.hosts.items()},
            inventory=self.few.fleet, rules=self.few.rules, settings=self.few.settings, interval=FIVE, run_id="run",
            declared=self.few.declared, accepted=self.few.accepted, failing_since=self.few.failing_since,
        )  # fmt: skip
        by_key = {(look.host_id, look.observed_at): look for look in map(stored, observations)}
        keys = {host_id: row["listening"] for host_id, row in self.few.hosts.items()}
        compared = 0
        for looks in evaluation.looks([unread(look) for look in observations]):
            ids = [look.host_id for look in looks]
            compared += len(looks)
            assert len(set(ids)) == len(ids)
            ports = self.few.ports[self.few.ports["host_id"].isin(ids)]
            read = [by_key[look.host_id, look.observed_at] for look in looks]
            changes = evaluation.compare(read, ports, {host_id: keys[host_id] for host_id in ids if host_id in keys})
            self.few.ports = merged(self.few.ports, changes.ports, changes.dropped)
        evaluation.find_duplicates({host_id: keys[host_id] for host_id in evaluation.sharing()})
        verdict = evaluation.verdict()
        self.unread += (
            verdict.summary["evaluated"] - compared - sum(look.outcome is not Outcome.OK for look in observations)
        )
        hosts = [
            row if row["listening"] is not None else row | {"listening": keys.get(row["host_id"])}
            for row in verdict.hosts
        ]
        self.few.take(dataclasses.replace(verdict, hosts=tuple(hosts)))
        self.few.failing_since = verdict.failing_since
        self.few.events += verdict.events
        assert verdict.events == self.all.last.events
        assert verdict.summary == self.all.last.summary
        assert (tuple(evaluation.dropped), verdict.unwatched) == (self.all.last.dropped, self.all.last.unwatched)
        assert state_of(self.few) == state_of(self.all)
        return told


@pytest.mark.parametrize(
    ("failed", "told"),
    [(0, []), (1, []), (2, [("reachable",)]), (3, [("reachable",)])],
)
def test_a_settled_host_that_answers_again_is_well_as_any_other(failed: int, told: list[Any]) -> None:
    twins = Twins()
    twins.see(ok(0, 22), ok(0, 22, host="2", boot_id="c"))
    for at in range(1, failed + 1):
        twins.see(bad(at), ok(at, 22, host="2", boot_id="c"))
    assert twins.see(ok(5, 22)) == told
    assert twins.unread == failed + 1
    assert twins.see(ok(6, 22)) == []


def test_a_settled_fleet_that_answers_again_is_well_as_any_other() -> None:
    twins = Twins(unreachable_after=1)
    machines = {"1": "a", "2": "b", "3": "c"}
    twins.see(*(ok(0, 22, host=host, boot_id=boot) for host, boot in machines.items()))
    assert twins.see(*(bad(1, host=host) for host in machines)) == [("fleet_unreachable",)]
    assert twins.see(*(ok(2, 22, host=host, boot_id=boot) for host, boot in machines.items())) == [("fleet_reachable",)]
    assert twins.few.host("3")["status_since"] == START + 2 * FIVE
    assert twins.unread == 3


def test_a_settled_host_may_get_another_name_or_label() -> None:
    twins = Twins()
    twins.see(ok(0, 22))
    for world in (twins.all, twins.few):
        world.fleet = FLEET | {"1": dataclasses.replace(FLEET["1"], labels={"role": "db"})}
    twins.see(ok(1, 22))
    assert twins.unread == 1
    assert twins.few.host()["labels"] == {"role": "db"}
    assert twins.few.last.unchanged == {}
    twins.see(ok(2, 22))
    assert twins.few.last.hosts == ()


def test_a_settled_host_is_a_duplicate_as_soon_as_another_one_shows_the_same() -> None:
    twins = Twins()
    one, two = {"netns": 1, "boot_id": "a"}, {"netns": 1, "boot_id": "b"}
    twins.see(ok(0, 22, 80, **one), ok(0, 22, 80, host="2", **two))
    assert twins.see(ok(1, 22, 80, **two), ok(1, 22, 80, host="2", **two)) == [("rebooted",), ("duplicate",)]
    assert twins.unread == 1
    assert twins.few.host("2")["duplicate_of"] == "1"
    assert twins.see(ok(2, 22, 80, **two), ok(2, 22, 80, host="2", **two)) == []
    assert twins.see(ok(3, 22, **two), ok(3, 22, 80, host="2", **two)) == [("down", 80)]
    # It stays a duplicate until it shows something else.
    assert twins.see(ok(4, 22, 80, **one), ok(4, 22, 80, host="2", **two)) == [("rebooted",), ("recovered", 80)]
    assert twins.few.host("2")["duplicate_of"] is None


def test_what_listens_on_hosts_is_asked_for_only_where_it_may_be_the_same_machine() -> None:
    world = World()
    looks = [ok(0, 22, host=host, netns=1, boot_id=boot) for host, boot in zip("1234", "abbc", strict=True)]
    world.see(*map(stored, looks))
    hosts = {host_id: row | {"listening": None} for host_id, row in world.hosts.items()}
    evaluation = Evaluation(
        hosts, inventory=FLEET, rules=world.rules, settings=world.settings, interval=FIVE, run_id="run"
    )
    later = [dataclasses.replace(unread(look), observed_at=START + FIVE) for look in looks]
    assert list(evaluation.looks(later[:1])) == []
    assert evaluation.sharing() == set()
    assert list(evaluation.looks(later[1:2])) == []
    assert evaluation.sharing() == {"2", "3"}
    with pytest.raises(ValueError, match=r"the row of '[23]' lacks its listening ports"):
        hosts["3"]["duplicate_of"] = None
        list(evaluation.looks(later[2:]))
        evaluation.find_duplicates()


def test_several_looks_at_a_settled_host_in_one_evaluation() -> None:
    twins = Twins()
    twins.see(ok(0, 22, 80))
    assert twins.see(ok(1, 22, 80), bad(2), ok(3, 22, 80), ok(4, 22), ok(5, 22, 80), ok(6, 22, 80)) == [
        ("down", 80), ("recovered", 80),
    ]  # fmt: skip
    # The last observation again shows nothing new.
    assert twins.unread == 3
    assert twins.see(bad(8), ok(7, 22, 80)) == []
    assert twins.few.host()["failures"] == 1


def test_hosts_are_compared_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portmon.engine.diff.PORTION", 3)
    twins = Twins()
    looks = [ok(0, 22, 80, host=host) for host in "1234"]
    evaluation = Evaluation({}, inventory=FLEET, rules=RuleSet([]), settings=States(), interval=FIVE, run_id="run")
    assert [len(part) for part in evaluation.looks(looks)] == [3, 1]
    assert twins.see(*looks) == [("baseline",)] * 4
    assert twins.see(*(ok(1, 22, host=host) for host in "1234")) == [("down", 80)] * 4


# ── the fleet ───────────────────────────────────────────────────────────────────────────────────


def fail(at: float, hosts: str = "1234", **fields: Any) -> list[Observation]:
    return [bad(at, host=host, **fields) for host in hosts]


def answer(at: float, hosts: str = "1234") -> list[Observation]:
    return [ok(at, 22, host=host) for host in hosts]


def test_when_every_host_fails_alike_it_is_told_once() -> None:
    world = World()
    world.see(*answer(0))
    assert world.see(*fail(1)) == []
    assert world.failing_since is None
    assert world.see(*fail(2)) == [("fleet_unreachable",)]
    event = world.events[-1]
    assert (event.host_id, event.since, event.details) == (None, START + FIVE, {"error_class": "timeout", "hosts": 4})
    assert event.reason.endswith(
        "All 4 hosts that were asked fail alike (timeout): look at the monitor and its network first. The last one says: no answer"
    )
    assert world.see(*fail(3)) == []
    assert world.failing_since == START + FIVE
    assert world.see(*answer(4)) == [("fleet_reachable",)]
    assert world.events[-1].since == START + FIVE
    assert world.events[-1].details == {"unreachable_for": 900.0}
    assert world.failing_since is None
    assert world.see(*answer(5)) == []


def test_hosts_that_still_fail_when_the_first_one_answers_are_told_then() -> None:
    world = World()
    world.see(*answer(0))
    world.see(*fail(1))
    world.see(*fail(2))
    assert world.see(*answer(3, "1"), *fail(3, "234")) == [
        ("fleet_reachable",),
        ("unreachable",),
        ("unreachable",),
        ("unreachable",),
    ]
    assert {event.host_id for event in world.last.events} == {None, "2", "3", "4"}


@pytest.mark.parametrize(("fields", "what", "says"), [
    ({}, "timeout", "no answer"),
    ({"error": None}, "timeout", "timeout"),
    ({"error": None, "error_class": None}, "unreachable", "unreachable"),
    ({"error_class": None}, "unreachable", "no answer"),
])  # fmt: skip
def test_the_fleet_says_what_it_knows(fields: dict[str, Any], what: str, says: str) -> None:
    world = World(unreachable_after=1)
    assert world.see(*fail(0, **fields)) == [("fleet_unreachable",)]
    assert f"fail alike ({what}): " in world.events[0].reason
    assert world.events[0].reason.endswith(f"says: {says}")


def test_the_fleet_is_unreachable_when_the_first_of_its_hosts_is() -> None:
    world = World(unreachable_after=3)
    world.see(*answer(0))
    assert world.see(*answer(1, "123"), *fail(1, "4")) == []
    assert world.see(*fail(2)) == []
    assert world.see(*fail(3)) == [("fleet_unreachable",)]
    assert world.events[-1].since == START + FIVE


def test_within_an_episode_other_errors_and_fewer_hosts_are_more_of_it() -> None:
    world = World(unreachable_after=1)
    assert world.see(*fail(0)) == [("fleet_unreachable",)]
    assert world.see(*fail(1, "12", error_class="refused"), *fail(1, "3")) == []
    assert world.see(*fail(2, "1")) == []
    assert world.see(*answer(3, "1")) == [("fleet_reachable",), ("baseline",)]


@pytest.mark.parametrize(
    ("observations", "told"),
    [
        (fail(1, "1234"), ["fleet_unreachable"]),
        (fail(1, "123"), ["fleet_unreachable"]),
        # two of four are not most
        (fail(1, "12"), ["unreachable"] * 2),
        (fail(1, "1"), ["unreachable"]),
        # not alike
        (fail(1, "123") + fail(1, "4", error_class="refused"), ["unreachable"] * 4),
        (fail(1, "123") + fail(1, "4", outcome=Outcome.INVALID), ["unreachable"] * 4),
        # not all
        (fail(1, "123") + answer(1, "4"), ["unreachable"] * 3),
    ],
)
def test_most_of_the_fleet_must_fail_alike(observations: list[Observation], told: list[str]) -> None:
    world = World(unreachable_after=1)
    world.see(*answer(0))
    assert [kind for kind, *_ in world.see(*observations)] == told


@pytest.mark.parametrize(
    ("known", "told"),
    [("", ["fleet_unreachable"]), ("12", ["fleet_unreachable"]), ("123", ["unreachable"]), ("1234", [])],
)
def test_two_hosts_must_fail_newly(known: str, told: list[str]) -> None:
    """:param known: hosts that were unreachable before"""
    world = World(unreachable_after=1)
    world.see(*answer(0))
    # One run each: together they would be an episode of the fleet.
    for number, host in enumerate(known):
        world.see(*fail(1 + number / 10, host))
    assert [kind for kind, *_ in world.see(*fail(2))] == told


def test_one_host_is_no_fleet() -> None:
    world = World(unreachable_after=1)
    world.fleet = {"1": FLEET["1"]}
    assert world.see(bad(0)) == [("unreachable",)]


# ── hosts: time ─────────────────────────────────────────────────────────────────────────────────


def test_a_failure_after_exactly_half_an_interval_counts() -> None:
    world = World()
    world.see(ok(0, 22))
    assert world.see(bad(1)) == []
    assert world.see(bad(1.499)) == []
    assert world.see(bad(1.5)) == [("unreachable",)]


@pytest.mark.parametrize(
    ("after", "fields", "reason"),
    [
        (1, {}, "No evidence in 1 run: no answer"),
        (2, {}, "No evidence in 2 runs in a row: no answer"),
        (1, {"error": None}, "No evidence in 1 run: timeout"),
        (1, {"error": None, "error_class": None}, "No evidence in 1 run: unreachable"),
        (1, {"error_class": None}, "No evidence in 1 run: no answer"),
    ],
)
def test_unreachable_says_why(after: int, fields: dict[str, Any], reason: str) -> None:
    world = World(unreachable_after=after)
    for at in range(after):
        world.see(bad(at, **fields))
    assert [event.reason for event in world.events] == [reason]


def test_since_when_a_host_answers() -> None:
    world = World()
    world.see(ok(0, 22))
    assert world.host()["status_since"] == START
    world.see(bad(1))
    world.see(ok(2, 22))
    assert world.host()["status_since"] == START
    world.see(bad(3))
    world.see(bad(4))
    assert (world.host()["status"], world.host()["status_since"]) == ("unreachable", START + 4 * FIVE)
    world.see(ok(5, 22))
    assert (world.host()["status"], world.host()["status_since"]) == ("ok", START + 5 * FIVE)
    world.see(ok(6, 22))
    assert world.host()["status_since"] == START + 5 * FIVE


@pytest.mark.parametrize(("failures", "since"), [(1, 0), (2, 3), (3, 4)])
def test_an_answer_after_an_episode_of_the_fleet_starts_anew(failures: int, since: int) -> None:
    world = World()
    world.see(*answer(0))
    for at in range(1, 1 + failures):
        world.see(*fail(at))
    world.see(*answer(1 + failures))
    assert world.host()["status_since"] == START + since * FIVE


def test_a_flapping_port_is_stable_after_an_hour_of_evidence() -> None:
    world = World(flap_threshold=2)
    world.see(ok(0, 22, 80))
    assert world.see(ok(1, 22)) == [("down", 80)]
    assert world.see(ok(2, 22, 80)) == [("flapping", 80)]
    assert world.see(bad(3), bad(4)) == [("unreachable",)]
    assert world.see(ok(5, 22, 80)) == [("reachable",)]
    assert world.see(ok(16.999, 22, 80)) == []
    assert world.see(ok(17, 22, 80)) == [("stable", 80)]


def test_a_reboot_is_one_event_and_ports_that_are_not_back_have_time() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    assert pd.isna(world.host()["grace_until"])
    assert world.see(ok(1, 22, boot_id="c", pid=8)) == [("rebooted",)]
    assert world.events[-1].details == {"boot_id": "c", "before": "b"}
    assert world.see(ok(2, 22, boot_id="c", pid=8)) == []
    assert world.see(ok(2.999, 22, boot_id="c", pid=8)) == []
    assert world.see(ok(3, 22, boot_id="c", pid=8)) == [("down", 80)]
    assert world.see(ok(4, 22, boot_id="c", pid=9)) == [("restarted", 22)]


def test_a_port_that_vanishes_after_the_first_look_of_the_boot_is_down_at_once() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    world.see(ok(1, 22, 80, boot_id="c"))
    assert world.see(ok(2, 22, boot_id="c")) == [("down", 80)]


@pytest.mark.parametrize(("second", "until"), [(2, 3), (2.999, 3), (3, 5)])
def test_a_second_reboot_does_not_extend_the_grace_unless_it_is_over(second: float, until: float) -> None:
    world = World()
    world.see(ok(0, 22))
    world.see(ok(1, 22, boot_id="c"))
    assert world.see(ok(second, 22, boot_id="d")) == [("rebooted",)]
    assert world.host()["grace_until"] == START + until * FIVE


def test_a_boot_id_that_cannot_be_read_is_no_reboot() -> None:
    world = World()
    world.see(ok(0, 22, boot_id=None))
    assert world.see(ok(1, 22, boot_id="b")) == []
    assert world.see(ok(2, 22, boot_id=None)) == []
    assert world.see(ok(3, 22, boot_id="b")) == []
    assert world.see(ok(4, 22, boot_id=None)) == []
    assert world.see(ok(5, 22, boot_id="c")) == [("rebooted",)]


# ── two entries, one machine ────────────────────────────────────────────────────────────────────


def twin(at: float, host: str, *ports: int, boot: str | None = "b", netns: int | None = 1) -> Observation:
    return ok(at, *ports, host=host, boot_id=boot, netns=netns)


def test_two_entries_of_one_machine_are_noted_once() -> None:
    world = World()
    assert world.see(twin(0, "1", 22), twin(0, "2", 22)) == [("baseline",), ("baseline",), ("duplicate",)]
    event = world.events[-1]
    assert (event.host_id, event.details["duplicate_of"]) == ("2", "1")
    assert "The same machine as web1 (id 1)" in event.reason
    assert (world.host("1")["duplicate_of"], world.host("2")["duplicate_of"]) == (None, "1")
    assert world.see(twin(1, "1", 22), twin(1, "2", 22)) == []
    # A port that one of them opens a moment earlier makes it no other machine.
    assert world.see(twin(2, "1", 22, 80), twin(2, "2", 22)) == [("new", 80)]
    assert world.host("2")["duplicate_of"] == "1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (twin(0, "1", 22), twin(0, "2", 22, 80)),
        (twin(0, "1", 22), twin(0, "2", 22, boot="c")),
        (twin(0, "1", 22), twin(0, "2", 22, netns=2)),
        (twin(0, "1", 22, boot=None), twin(0, "2", 22, boot=None)),
        (twin(0, "1", 22, netns=None), twin(0, "2", 22, netns=None)),
    ],
)
def test_what_is_not_the_same_machine(one: Observation, other: Observation) -> None:
    world = World()
    assert world.see(one, other) == [("baseline",), ("baseline",)]
    assert world.host("2")["duplicate_of"] is None


def test_an_entry_that_left_is_no_other_one() -> None:
    world = World()
    world.see(twin(0, "1", 22))
    world.fleet = {"2": FLEET["2"]}
    assert world.see(twin(1, "2", 22)) == [("baseline",)]


def test_a_duplicate_that_is_no_more_is_told_again_when_it_is_one() -> None:
    world = World()
    world.see(twin(0, "1", 22), twin(0, "2", 22))
    assert world.see(twin(1, "2", 22, boot="c")) == [("rebooted",)]
    assert world.host("2")["duplicate_of"] is None
    assert world.see(twin(2, "1", 22, boot="c")) == [("rebooted",)]
    assert world.see(twin(3, "2", 22, boot="c")) == [("duplicate",)]


def test_a_duplicate_of_another_entry_is_no_news() -> None:
    world = World()
    world.see(twin(0, "1", 22), twin(0, "2", 22), twin(0, "3", 22))
    world.see(twin(1, "1", 22, boot="c"))
    assert world.see(twin(2, "3", 22), twin(2, "2", 22)) == []
    assert (world.host("2")["duplicate_of"], world.host("3")["duplicate_of"]) == (None, "2")


# ── declared ports, rules ───────────────────────────────────────────────────────────────────────

CMDB = "declared by the CMDB"


def test_a_declared_port_is_down_from_the_first_confirmed_look() -> None:
    world = World()
    world.declared = {"1": {80: CMDB, 443: CMDB}, "2": {80: CMDB}}
    assert world.see(ok(0, 22, 443, confirmed=False)) == [("baseline",)]
    assert world.port(80) is None
    assert world.see(ok(1, 22, 443)) == [("down", 80)]
    assert world.port(443)["declared"] == CMDB
    assert world.events[-1].details["watched"] == CMDB
    assert world.see(ok(2, 22, 443)) == []
    assert world.see(ok(3, 22, 80, 443)) == [("recovered", 80)]


def test_a_declared_port_is_watched_whatever_rules_say() -> None:
    world = World(rules=[Rule(action="deny", port=80)])
    world.declared = {"1": {80: CMDB}}
    world.see(ok(0, 22, 80))
    assert world.port(80)["status"] == "up"
    assert world.see(ok(1, 22, 80)) == []
    assert world.see(ok(2, 22)) == [("down", 80)]


def test_a_learned_port_may_be_declared_and_be_learned_again() -> None:
    world = World()
    world.see(ok(0, 22))
    for at, declared in enumerate((CMDB, "promoted by ann", None), 1):
        world.declared = {"1": {22: declared}} if declared else {}
        assert world.see(ok(at, 22)) == []
        assert world.port(22)["declared"] == declared


def test_a_port_that_is_accepted_as_gone_is_retired() -> None:
    world = World()
    world.see(ok(0, 22, 80), ok(0, 80, host="2"))
    world.see(ok(1, 22), ok(1, host="2"))
    world.accepted = {("1", "tcp", 80): START + 1.5 * FIVE}
    assert world.see(ok(2, 22), ok(2, host="2")) == [("retired", 80)]
    assert world.last.dropped == (("1", "tcp", 80),)
    assert world.last.unwatched == ()


@pytest.mark.parametrize(
    ("rules", "then"),
    [
        ([], None),
        ([Rule(action="deny", port=80)], None),
        ([Rule(action="allow", port="1-65535")], ("new", 40000)),
        ([Rule(action="allow", program="nginx")], ("new", 40000)),
        ([Rule(action="allow", program="nginx", bind="loopback"), Rule(action="allow", program="*")], ("new", 40000)),
    ],
)
def test_an_ephemeral_port_that_an_allow_rule_names_needs_no_second_look(rules: list[Rule], then: Any) -> None:
    world = World(rules=rules)
    world.see(ok(0, 22))
    assert world.see(ok(1, 22, 40000)) == ([then] if then else [])
    assert world.port(40000)["status"] == ("up" if then else "candidate")


def test_a_rule_change_hides_what_changes_with_it() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    world.rules = RuleSet([Rule(action="deny", port=22)])
    assert world.see(ok(1, 22, 80, pid=8)) == []
    assert world.last.unwatched == (("1", "tcp", 22),)
    assert world.see(ok(2, 22, 80, pid=9)) == [("restarted", 80)]


def test_rules_that_are_not_known_are_no_other_rules() -> None:
    world = World()
    world.see(ok(0, 80))
    world.hosts["1"]["rules"] = None
    assert world.see(ok(1, 80, pid=8)) == [("restarted", 80)]


# ── moved ───────────────────────────────────────────────────────────────────────────────────────


def listening(at: float, *listeners: Listener, **fields: Any) -> Observation:
    return ok(at, listeners=listeners, **fields)


def worker(port: int, **fields: Any) -> Listener:
    return Listener("tcp", "0.0.0.0", port, **{"pid": 7, "program": "java", "unit": "app.service"} | fields)


MOVED, TWO = [("moved", 40000)], [("down", 40000), ("new", 50000)]


@pytest.mark.parametrize(
    ("before", "now", "fields", "told"),
    [
        (worker(40000), worker(50000), {}, MOVED),
        (worker(40000), worker(50000, pid=8), {}, MOVED),
        (worker(32768), worker(60999), {}, [("moved", 32768)]),
        (worker(40000, unit=None), worker(50000, unit=None), {}, MOVED),
        (worker(40000, program="java: one"), worker(50000, program="java: two"), {}, MOVED),
        (worker(40000), worker(50000, program="node"), {}, TWO),
        (worker(40000), worker(50000, unit="other.service"), {}, TWO),
        (worker(40000), worker(50000, unit=None), {}, TWO),
        (worker(40000, program=None), worker(50000, program=None), {}, TWO),
        (worker(40000), worker(50000, program=None), {}, TWO),
        (worker(40000), worker(50000), {"tool": "ss"}, TWO),
        (worker(40000), worker(50000), {"confirmed": False}, TWO[1:]),
        (worker(40000), worker(8080), {}, [("new", 8080), ("down", 40000)]),
        (worker(8080), worker(40000), {}, [("down", 8080), ("new", 40000)]),
    ],
)
def test_a_learned_ephemeral_port_moves_with_its_program(
    before: Listener, now: Listener, fields: dict[str, Any], told: list[Any]
) -> None:
    world = World(ephemeral_after=1)
    world.see(listening(0, before))
    assert world.see(listening(1, now, **fields)) == told
    assert world.port(now.port)["status"] == "up"


@pytest.mark.parametrize("declared", [40000, 50000])
def test_a_declared_port_neither_moves_nor_is_moved_to(declared: int) -> None:
    world = World(ephemeral_after=1)
    world.see(listening(0, worker(40000)))
    world.declared = {"1": {declared: CMDB}}
    assert world.see(listening(1, worker(50000))) == TWO


def test_a_port_that_is_down_does_not_move() -> None:
    world = World(ephemeral_after=1)
    world.see(listening(0, worker(40000)))
    assert world.see(listening(1)) == TWO[:1]
    assert world.see(listening(2, worker(50000))) == TWO[1:]
    assert world.port(40000)["status"] == "down"


def test_a_candidate_does_not_move() -> None:
    world = World()
    world.see(ok(0))
    world.see(listening(1, worker(40000)))
    assert world.see(listening(2, worker(50000))) == []
    assert (world.port(40000), world.port(50000)["status"]) == (None, "candidate")


def test_each_port_moves_to_one_of_its_own() -> None:
    world = World(ephemeral_after=1)
    world.see(listening(0, worker(40000), worker(40001), worker(40002)))
    assert world.see(listening(1, worker(50001), worker(50000))) == [
        ("moved", 40000),
        ("moved", 40001),
        ("down", 40002),
    ]
    assert [event.details.get("to") for event in world.last.events] == [50000, 50001, None]


# ── hosts that leave ────────────────────────────────────────────────────────────────────────────


def close(*ports: Port, host: Observation | None = None) -> Verdict:
    """Close host 1 with these ports and at most one observation."""
    world = World(unreachable_after=1)
    world.see(ok(0, 22), ok(0, 22, host="2"))
    if host is not None:
        world.see(host)
    return close_hosts(
        world.hosts, ports_frame(ports), ["1"], reason="it left the CMDB", run_id="r", now=START + 9 * FIVE
    )


def known(number: int, **fields: Any) -> Port:
    since = {"status_since": START + FIVE, "addresses": ("0.0.0.0",), "first_seen_at": START}
    return Port(**{"host_id": "1", "protocol": "tcp", "port": number, "status": "up"} | since | fields)


LATER = START + 3 * FIVE


@pytest.mark.parametrize(
    ("port", "reason", "since"),
    [
        (known(80, status="down"), "Was down", START + FIVE),
        (known(80, status="down", flapping_since=LATER, changes=(LATER,)), "Was down", START + FIVE),
        (known(80, flapping_since=LATER, changes=(LATER,)), "Was flapping", START + FIVE),
        (known(80, flapping_since=LATER, changes=(LATER,), lost=("::",), lost_since=LATER), "Was flapping", LATER),
        (known(80, lost=("::",), lost_since=LATER), "Lost a bind", LATER),
    ],
)
def test_what_is_open_of_a_port_is_closed_with_its_host(port: Port, reason: str, since: datetime) -> None:
    verdict = close(known(22), port)
    (event,) = verdict.events
    assert (event.kind, event.port, event.at, event.since) == ("retired", 80, START + 9 * FIVE, since)
    assert event.reason == f"{reason}; it left the CMDB"
    assert [(port.port, port.status) for port in verdict.ports] == [(80, "up")]
    assert verdict.dropped == ()
    assert verdict.hosts == ()


@pytest.mark.parametrize("port", [known(80), known(80, status="candidate"), known(80, misses=1)])
def test_what_is_not_open_stays(port: Port) -> None:
    verdict = close(port)
    assert (verdict.events, verdict.dropped) == ((), ())
    assert verdict.ports == ()
    assert verdict.hosts == ()


def test_a_declared_port_that_was_never_seen_leaves_with_its_host() -> None:
    verdict = close(known(80, status="down", addresses=(), declared=CMDB))
    assert [event.port for event in verdict.events] == [80]
    assert verdict.dropped == (("1", "tcp", 80),)
    assert verdict.ports == ()


def test_ports_of_other_hosts_stay_when_a_host_leaves() -> None:
    verdict = close(known(80, host_id="2", status="down"))
    assert verdict.events == ()
    assert verdict.ports == ()


def test_a_host_that_is_unreachable_is_closed_and_starts_counting_anew() -> None:
    verdict = close(host=bad(1))
    (event,) = verdict.events
    assert (event.kind, event.port, event.since) == ("retired", None, START + FIVE)
    assert event.reason == "Was unreachable; it left the CMDB"
    (row,) = verdict.hosts
    assert (row["host_id"], row["status"], row["failures"]) == ("1", "ok", 0)
    assert row["status_since"] == START + 9 * FIVE
    assert row["failing_since"] is None


def test_a_host_that_never_answered_is_new_again() -> None:
    world = World(unreachable_after=1)
    world.see(bad(0))
    closed = close_hosts(world.hosts, world.ports, ["1"], reason="it left", run_id="r", now=LATER)
    assert [row["status"] for row in closed.hosts] == ["new"]


# ── properties ──────────────────────────────────────────────────────────────────────────────────

looks = st.lists(
    st.tuples(st.sampled_from("12"), st.one_of(st.none(), st.frozensets(st.sampled_from([22, 80, 443, 40000])))),
    min_size=1,
    max_size=12,
)


def history(steps: Iterable[tuple[str, frozenset[int] | None]]) -> list[Observation]:
    return [
        bad(number, host=host) if ports is None else ok(number, *sorted(ports), host=host)
        for number, (host, ports) in enumerate(steps)
    ]


@given(looks, st.randoms())
def test_what_holds_for_every_history(steps: list[tuple[str, frozenset[int] | None]], random: Any) -> None:
    """No down without evidence, no recovery without a down; evaluating again, or all at once, changes nothing."""
    single, together, observations = World(), World(), history(steps)
    down = set()
    for observation in observations:
        single.see(observation)
        for event in single.last.events:
            key = (event.host_id, event.port)
            if event.kind == "down":
                assert observation.listing is not None
                assert event.port not in {one.port for one in observation.listing.listeners}
                assert key not in down
                down.add(key)
            elif event.kind == "recovered":
                down.remove(key)
    ids = {event.id for event in single.events}
    assert len(ids) == len(single.events)
    assert single.see(*observations) == []
    assert (single.last.hosts, single.last.ports, single.last.dropped) == ((), (), ())
    random.shuffle(observations)
    together.see(*observations)
    assert ids == {event.id for event in together.events}
    order = ["host_id", "port"]
    pd.testing.assert_frame_equal(
        single.ports.sort_values(order).reset_index(drop=True), together.ports.sort_values(order).reset_index(drop=True)
    )


SERVICES = st.frozensets(
    st.tuples(
        st.sampled_from([22, 80, 443, 40000]),
        st.sampled_from(["0.0.0.0", "127.0.0.1"]),
        st.sampled_from([None, "a", "b"]),
    ),
    max_size=4,
)
STATES = st.tuples(
    SERVICES, st.sampled_from("bcd"), st.sampled_from([1, 2]), st.booleans(), st.sampled_from(["netstat", "ss"])
)
POLICIES = st.sampled_from(
    [(), (), (Rule(action="deny", program="a", bind="loopback"),), (Rule(action="deny", port=80),)]
)


@given(
    st.lists(STATES, min_size=1, max_size=3),
    st.lists(
        st.tuples(
            st.sampled_from("123"),
            # Mostly ports that were seen before.
            st.one_of(st.none(), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
            st.sampled_from([1, 1, 1, 0.2, 13]),
            st.booleans(),
            st.one_of(st.none(), st.none(), st.none(), POLICIES),
            st.one_of(st.none(), st.none(), st.none(), st.frozensets(st.sampled_from([80, 443]))),
        ),
        max_size=20,
    ),
)
def test_what_is_not_read_would_change_nothing(shapes: list[Any], steps: list[Any]) -> None:
    twins, at, batch = Twins(), 0.0, []
    for host, shape, pause, together, rules, declared in steps:
        at += pause
        if shape is None:
            batch.append(bad(at, host=host))
        else:
            services, boot_id, netns, confirmed, tool = shapes[shape % len(shapes)]
            listeners = tuple(
                Listener("tcp", address, port, 7, name) for port, address, name in sorted(services, key=repr)
            )
            batch.append(
                ok(at, host=host, boot_id=boot_id, netns=netns, tool=tool, listeners=listeners, confirmed=confirmed)
            )
        if together:
            continue
        for world in (twins.all, twins.few):
            if rules is not None:
                world.rules = RuleSet(rules)
            if declared is not None:
                world.declared = {host: dict.fromkeys(sorted(declared), "declared by the CMDB")}
        twins.see(*batch)
        batch = []
    twins.see(*batch)


def test_a_frame_has_the_columns_and_types_it_says() -> None:
    assert dict(frame({}, PORT_COLUMNS).dtypes.astype(str)) == dict(PORT_COLUMNS)
