"""Evaluations of small fleets, and properties of every history."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.engine import frames, transitions
from portmon.engine.answers import ChangedPorts
from portmon.engine.conditions import RUNS, Open
from portmon.engine.config import States
from portmon.engine.evaluate import Evaluation, Verdict, evaluate
from portmon.engine.frames import PORT_COLUMNS, empty_ports, frame, merged, of_hosts, ports_of
from portmon.engine.identities import ACCEPTED
from portmon.engine.inputs import EvaluationInputs
from portmon.engine.leaving import Left, leave
from portmon.engine.lifecycle import Changes
from portmon.engine.owners import PortOwner
from portmon.engine.rules import Rule, RuleSet
from portmon.engine.state import HostState, Port
from portmon.model.event import Event
from portmon.model.host import Host
from portmon.model.observation import Listener, Listing, Observation, Outcome, PortKey
from portmon.storage.state import TICKING

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
    """State that is kept between evaluations, as the database keeps it. Its inventory are the hosts looked at so far."""

    def __init__(self, *, rules: Sequence[Rule] = (), **settings: int) -> None:
        self.hosts: dict[str, HostState] = {}
        self.ports = empty_ports()
        self.conditions: Mapping[str, Open] = {}
        self.rules, self.settings = RuleSet(rules), States(**settings)
        self.events: list[Event] = []
        self.last = Verdict()
        self.fleet, self.seen, self.now, self.step = FLEET, set[str](), START, 0
        self.declared: dict[str, dict[int, str]] = {}
        self.accepted: dict[PortKey, datetime] = {}
        self.invalid: dict[str, str] = {}

    def inputs(self, observations: Sequence[Observation], **fields: Any) -> EvaluationInputs:
        """What an evaluation of these goes by, after it was known that they are next."""
        self.seen |= {look.host_id for look in observations}
        self.now = max([self.now, *(look.observed_at for look in observations)])
        self.step += 1
        known: dict[str, Any] = {
            "inventory": {host_id: host for host_id, host in self.fleet.items() if host_id in self.seen},
            "rules": self.rules, "settings": self.settings, "interval": FIVE, "run_id": "run", "now": self.now,
            "step": self.step, "declared": self.declared, "accepted": self.accepted, "invalid": self.invalid,
        }  # fmt: skip
        return EvaluationInputs(**known | fields)

    def see(self, *observations: Observation, **fields: Any) -> list[tuple[Any, ...]]:
        """Evaluate them; kinds and ports of the events.

        :param fields: of EvaluationInputs
        """
        inputs = self.inputs(observations, **fields)
        return self.take(evaluate(self.hosts, self.ports, observations, inputs, self.conditions))

    def take(self, verdict: Verdict) -> list[tuple[Any, ...]]:
        self.last = verdict
        self.events += verdict.events
        self.hosts |= {host.host_id: host for host in (*verdict.hosts, *verdict.ticked)}
        for old in verdict.taken_over.values():
            del self.hosts[old]
        self.ports = merged(self.ports, verdict.ports, verdict.dropped)
        self.conditions = verdict.conditions
        return told(verdict.events)

    def leave(self, *host_ids: str) -> list[tuple[Any, ...]]:
        """Hosts leave the inventory."""
        own = [port for port in ports_of(self.ports) if port.host_id in host_ids]
        left = leave(self.hosts, own, host_ids, self.conditions, reason="it left the CMDB", run_id="r", now=self.now)
        self.events += left.events
        self.hosts |= {host.host_id: host for host in left.hosts}
        self.ports = merged(self.ports, left.ports, ())
        self.conditions, self.seen = left.conditions, self.seen - set(host_ids)
        return told(left.events)

    def port(self, port: int, host: str = "1") -> dict[str, Any] | None:
        rows = self.ports[(self.ports["port"] == port) & (self.ports["host_id"] == host)]
        return None if rows.empty else dict(rows.iloc[0])

    def host(self, host: str = "1") -> HostState:
        return self.hosts[host]

    def open(self) -> set[str]:
        """Names of the conditions that are open and told."""
        return {name for name, one in self.conditions.items() if name != RUNS and one.told}


def told(events: Iterable[Event]) -> list[tuple[Any, ...]]:
    return [(event.kind.value, event.port) if event.port else (event.kind.value,) for event in events]


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
        world.see(answer, interval=4 * FIVE)
        assert {"while nobody looked" in event.reason for event in world.last.events} == {told}


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


def test_each_alert_of_a_host_that_leaves_ends_by_an_event_of_its_own() -> None:
    world = World(unreachable_after=1)
    world.see(ok(0, 22), ok(0, 22, host="2"))
    for at in range(1, 5):
        world.see(bad(at) if at % 2 else ok(at, 22), ok(at, 22, host="2"))
    for at in range(5, 9):
        world.see(ok(at, 22, host="2"))
    assert [event.kind.value for event in world.events][-2:] == ["flapping", "unscanned"]
    assert world.leave("1") == [("retired",), ("retired",)]
    ends = world.events[-2:]
    assert {event.details["ends"] for event in ends} == {"unscanned", "unreachable"}
    assert len({event.id for event in ends}) == 2


def test_hosts_that_left_close_their_alerts() -> None:
    world = World(unreachable_after=1)
    world.see(ok(0, 22, 80), ok(0, 22, host="2"))
    world.see(ok(1, 22), bad(1, host="2"))
    assert sorted(world.leave("1", "2")) == [("retired",), ("retired", 80)]
    assert world.open() == set()
    # Troubles that last when the hosts come back are told again.
    assert world.see(ok(3, 22), bad(3, host="2")) == [("down", 80), ("unreachable",)]
    assert world.events[-2].since == START + FIVE
    assert world.see(ok(4, 22, 80), ok(4, 22, host="2")) == [("recovered", 80), ("reachable",)]


def test_what_is_well_when_a_host_comes_back_is_not_told() -> None:
    world = World(unreachable_after=1)
    world.see(ok(0, 22, 80), ok(0, 22, host="2"))
    world.see(ok(1, 22), bad(1, host="2"))
    world.leave("1", "2")
    assert world.see(ok(3, 22, 80), ok(3, 22, host="2")) == []


# ── rules ───────────────────────────────────────────────────────────────────────────────────────


def test_a_port_that_a_rule_change_excludes_is_hidden_then_paused_and_dropped_after_a_day() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    world.see(ok(1, 22))
    world.rules = RuleSet([Rule(action="deny", port=80)])
    assert world.see(ok(2, 22)) == []
    assert world.see(ok(3, 22)) == [("unwatched", 80)]
    assert world.events[-1].since == START + FIVE
    for at in (4, 147, 289):
        assert world.see(ok(at, 22)) == []
        assert world.port(80)["paused"]
    assert world.see(ok(290, 22)) == []
    assert world.last.dropped == (("1", "tcp", 80),)
    assert world.port(80) is None


@pytest.mark.parametrize("looks", [1, 2, 5])
def test_a_port_that_is_hidden_for_a_while_goes_on_as_it_was(looks: int) -> None:
    world = World()
    world.see(ok(0, 22, 80))
    world.rules = RuleSet([Rule(action="deny", port=80)])
    for at in range(1, looks + 1):
        assert world.see(ok(at, 22)) == []
    world.rules = RuleSet([])
    assert world.see(ok(looks + 1, 22, confirmed=False)) == [("down", 80)], "nobody asked for it, so it needs no proof"
    assert world.events[-1].last_seen == START
    assert world.see(ok(looks + 2, 22, 80)) == [("recovered", 80)]


@pytest.mark.parametrize(("ports", "then"), [((22,), [("down", 80)]), ((22, 80), [])])
def test_what_was_wrong_with_a_hidden_port_is_told_again_if_it_still_is(
    ports: tuple[int, ...], then: list[tuple[Any, ...]]
) -> None:
    world = World()
    world.see(ok(0, 22, 80))
    world.see(ok(1, 22))
    world.rules = RuleSet([Rule(action="deny", port=80)])
    assert [world.see(ok(at, 22)) for at in (2, 3, 4)] == [[], [("unwatched", 80)], []]
    world.rules = RuleSet([])
    assert world.see(ok(5, *ports)) == then
    assert world.events[-1].since == START + FIVE
    assert world.see(ok(6, 22)) == ([] if then else [("down", 80)])


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


def test_a_watched_port_that_another_program_took_stays_watched() -> None:
    world = World(rules=[Rule(action="allow", program="nginx")])
    world.see(ok(0, 80))
    # No rule watches that program, but only a change of the rules hides a port.
    assert world.see(dataclasses.replace(ok(1, 80, program="apache2"), confirmed=False)) == [("replaced", 80)]
    assert world.see(ok(2)) == [("down", 80)]


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
    booted = [ok(1, 80, 90, host="2", boot_id="d", pid=8), ok(1, 22, 80, boot_id="c")]
    assert world.see(*booted) == [("rebooted",), ("rebooted",)]
    assert [(event.host_id, event.port) for event in world.last.events] == [("1", None), ("2", None)]
    again = [dataclasses.replace(look, observed_at=START + 2 * FIVE) for look in booted]
    assert world.see(*again) == [("new", 80), ("new", 80), ("new", 90)]
    assert world.see(ok(4, 22, boot_id="c"), ok(4, 80, 85, host="2", boot_id="d", pid=8)) == [
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

    monkeypatch.setattr(transitions, "again", again)
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


def test_a_rule_that_denies_one_owner_of_a_port_hides_no_other() -> None:
    rows = [
        Listener("tcp", "0.0.0.0", 80, pid, program, comm=program, inode=pid)
        for pid, program in ((7, "nginx"), (8, "java"))
    ]
    world = World()
    world.see(ok(0, listeners=tuple(rows)))
    world.rules = RuleSet([Rule(action="deny", program="java")])
    assert [world.see(ok(at, listeners=tuple(rows))) for at in (1, 2, 3)] == [[], [], []]
    # Also by what is known of it, where the look does not show its program.
    blind = (dataclasses.replace(rows[0], pid=None, program=None, comm=None), rows[1])
    assert world.see(ok(4, listeners=blind)) == []
    assert world.see(ok(5)) == [("down", 80)]


def test_an_owner_whose_address_has_fewer_sockets_is_gone_though_as_many_are_there() -> None:
    world = World()
    world.see(ok(0, listeners=(Listener("tcp", "0.0.0.0", 80, 7, "nginx", inode=5),)))
    blind, java = Listener("tcp", "::", 80, inode=6), Listener("tcp", "::", 80, 8, "java", inode=8)
    # Who has the first socket is not known, while none of those that are known is shown.
    assert world.see(ok(1, listeners=(blind, java))) == [("rebound", 80)]
    assert world.see(ok(2, listeners=(blind, java))) == [("replaced", 80)]


# ── settled hosts ───────────────────────────────────────────────────────────────────────────────


def stored(observation: Observation) -> Observation:
    """The observation as the archive stores it: its listing has a digest."""
    return dataclasses.replace(observation, facts=repr(observation.listing) if observation.listing else None)


def unread(observation: Observation) -> Observation:
    """The observation as the archive gives it, before its listing is read."""
    return dataclasses.replace(stored(observation), listing=None)


def state_of(world: World) -> tuple[Any, ...]:
    """The whole state, except the fingerprints."""

    def plain(row: HostState) -> HostState:
        kept = row.kept and dataclasses.replace(row.kept, host=plain(row.kept.host))
        return dataclasses.replace(row, fingerprint=None, kept=kept)

    hosts = {host_id: plain(row) for host_id, row in world.hosts.items()}
    return hosts, sorted(map(repr, ports_of(world.ports))), world.conditions


def test_an_answer_that_shows_nothing_new_of_a_settled_host_is_not_read() -> None:
    world = World()
    world.see(stored(ok(0, 22, 80)))
    for at in (1, 2, 30 * 24 * 12):
        assert world.see(unread(ok(at, 22, 80))) == []
        assert (world.last.hosts, world.last.ports, world.last.events) == ((), (), ())
        assert [(row.host_id, row.last_ok_at) for row in world.last.ticked] == [("1", START + at * FIVE)]
        assert world.last.summary == {"evaluated": 1}
    assert world.see(stored(ok(9000, 22))) == [("down", 80)]
    assert world.host().fingerprint is None


def test_what_is_not_stored_settles_nothing() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    assert world.host().fingerprint is None


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
        pytest.param([ok(0, 80), ok(1, 80), ok(2, 80, boot_id="c")], False, id="rebooted"),
        pytest.param([ok(0, 80), ok(2, 80, boot_id="c"), ok(3, 80, boot_id="c")], True, id="rebooted, second look"),
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
    assert (world.host().fingerprint is not None) == settled
    # The same observation at any later time, confirmed or not, changes nothing.
    (last,) = [look for look in history if look.outcome is Outcome.OK][-1:]
    for days in (0, 1, 31):
        again = World()
        again.hosts, again.ports = world.hosts, world.ports
        at = history[-1].observed_at + timedelta(days=days, minutes=5)
        told = again.see(dataclasses.replace(last, observed_at=at, run_id="later", confirmed=days == 1))
        if settled:
            # That owners are hidden is counted without a look at ports.
            assert [one for one in told if one[0] != "owners_hidden"] == []
            assert (again.last.ports, again.last.dropped) == ((), ())


def test_a_host_without_a_listener_hides_no_owner_however_often_it_shows_none() -> None:
    world = World()
    for look in (ok(0, 40000), ok(1, 40000, program=None, pid=None), *(ok(at) for at in range(2, 6))):
        world.see(stored(look))
    assert (told(world.events), world.host().unnamed) == ([("baseline",)], 1)
    assert world.see(stored(ok(6, 40000, program=None, pid=None))) == [("owners_hidden",)]


def test_a_port_that_must_listen_and_is_not_there_is_pending() -> None:
    world = World()
    world.declared = {"1": {80: "declared by the CMDB", 443: "declared by the CMDB"}, "2": {22: "promoted"}}
    look = stored(ok(0, 80, confirmed=False)), stored(ok(0, 22, host="2"))
    assert world.see(*look) == [("baseline",), ("baseline",)]
    assert world.host("1").fingerprint is None
    assert world.host("2").fingerprint is not None
    assert world.see(dataclasses.replace(look[0], observed_at=START + FIVE, confirmed=True)) == [("down", 443)]


def test_a_listener_without_a_name_may_be_evaluated_otherwise_once_its_port_has_one() -> None:
    """Its port has no known program first, and then one that a rule denies."""
    rules = [Rule(action="deny", program="nginx", bind="loopback")]
    seen = dataclasses.replace(ok(0).listing, listeners=(WILD, LOOP))  # type: ignore[type-var]
    world = World(rules=rules)
    # No rule changed, so the bind is dropped and not kept for a day.
    for at, settled in ((0, False), (1, False), (2, True)):
        world.see(stored(dataclasses.replace(ok(at), listing=seen)))
        assert (world.host().fingerprint is not None) == settled
    assert world.port(80)["addresses"] == ("0.0.0.0",)
    # Without rules, and with names for all listeners, the host is settled.
    for own, listeners in (((), (WILD, LOOP)), (rules, (WILD, dataclasses.replace(LOOP, program="java")))):
        other = World(rules=own)
        other.see(stored(dataclasses.replace(ok(0), listing=dataclasses.replace(seen, listeners=listeners))))
        assert other.host().fingerprint is not None


def test_an_owner_that_rules_exclude_joins_as_any_other() -> None:
    java = Listener("tcp", "10.0.0.1", 80, 7, "java", inode=5, unit="java.service")
    other = dataclasses.replace(java, pid=8, program="varnishd", unit="varnish.service")
    rules = [Rule(action="deny", program="varnishd")]
    world = World(rules=rules)
    world.see(stored(ok(0, listeners=(java,))))
    assert world.see(stored(ok(1, listeners=(java, other)))) == []
    assert len(world.port(80)["owners"]) == 2
    # Its socket is the same one, which it handed over.
    assert world.see(stored(ok(2, listeners=(other,)))) == []
    # With both known, the host is settled.
    both = World(rules=rules)
    both.see(stored(ok(0, listeners=(java, other))))
    assert both.host().fingerprint is not None


def test_a_port_that_a_rule_named_stays_mature() -> None:
    world = World()
    world.see(stored(ok(0)))
    world.see(stored(ok(1, 80)))
    assert world.port(80)["young_since"] is not None
    world.rules = RuleSet([Rule(action="allow", port=80)])
    world.see(stored(ok(2, 80)))
    world.rules = RuleSet(())
    world.see(stored(ok(3, 80)))
    assert world.port(80)["young_since"] is None
    assert world.host().fingerprint is not None


def test_a_port_that_a_rule_named_while_it_was_down_stays_mature() -> None:
    world = World()
    for look in (ok(0, 22), ok(1, 22, 80), ok(2, 22)):
        world.see(look)
    assert world.port(80)["young_since"] is not None
    world.rules = RuleSet([Rule(action="allow", port=["22", "80"])])
    assert world.see(ok(3, 22)) == []
    assert world.port(80)["young_since"] is None


@pytest.mark.parametrize(("pids", "waits"), [((7, 8), False), ((7, None), False), ((7, 9), True)])
def test_an_owner_that_could_not_be_compared_may_be_in_the_next_look(pids: tuple[int | None, ...], waits: bool) -> None:
    owners = (
        PortOwner(comms=("java",), pids=(7,), binds=("::",)),
        PortOwner(comms=("nginx",), pids=(8,), binds=("::",)),
    )
    rows = [Listener("tcp", "::", 80, pid, "java") for pid in pids]
    assert frames._waits(owners, (rows, [])) is waits
    assert frames._waits(owners, (rows[:1], rows[1:])) is waits


class Twins:
    """One history, once with the listing of every observation and once as the archive gives it."""

    def __init__(self, **settings: Any) -> None:
        self.all, self.few = World(**settings), World(**settings)
        self.unread = 0

    def see(self, *observations: Observation) -> list[tuple[Any, ...]]:
        told, few = self.all.see(*observations), self.few
        rows = {host_id: dataclasses.replace(row, listening=None) for host_id, row in few.hosts.items()}
        evaluation = Evaluation(rows, few.inputs(observations), few.conditions)
        by_key = {(look.host_id, look.observed_at): look for look in map(stored, observations)}
        keys = {host_id: row.listening for host_id, row in few.hosts.items()}
        compared, dropped = 0, ChangedPorts()
        assert evaluation.check_clock(observations) is None
        for looks in evaluation.looks([unread(look) for look in observations]):
            compared += len(looks)
            assert len({look.host_id for look in looks}) == len(looks)
            read = [by_key[look.host_id, look.observed_at] for look in looks]
            ids = evaluation.involved(read)
            listening = {host_id: keys[host_id] for host_id in ids if host_id in keys}
            changes = evaluation.compare(read, of_hosts(few.ports, ids), listening)
            few.ports = merged(few.ports, changes.changed.values(), changes.gone)
            dropped.add(changes)
        evaluation.finish()
        verdict = evaluation.verdict()
        self.unread += (
            verdict.summary["evaluated"] - compared - sum(look.outcome is not Outcome.OK for look in observations)
        )
        for row in verdict.hosts:
            row.listening = keys.get(row.host_id) if row.listening is None else row.listening
        clocks = ({name: getattr(row, name) for name in TICKING} for row in verdict.ticked)
        ticked = tuple(dataclasses.replace(few.hosts[its["host_id"]], **its) for its in clocks)
        few.take(dataclasses.replace(verdict, ticked=ticked))
        assert verdict.events == self.all.last.events
        assert verdict.summary == self.all.last.summary
        assert tuple(dropped.gone) == self.all.last.dropped
        assert state_of(few) == state_of(self.all)
        return told


@pytest.mark.parametrize(
    ("failed", "told"),
    [(0, []), (1, []), (2, [("reachable",)]), (3, [("reachable",)])],
)
def test_a_settled_host_that_answers_again_is_well_as_any_other(failed: int, told: list[Any]) -> None:
    twins = Twins()
    other = {"host": "2", "boot_id": "c"}
    twins.see(ok(0, 22), ok(0, 22, **other))
    for at in range(1, failed + 1):
        twins.see(bad(at), ok(at, 22, **other))
    assert twins.see(ok(5, 22), ok(5, 22, **other)) == told
    assert twins.unread == failed + 2
    assert twins.see(ok(6, 22), ok(6, 22, **other)) == []


def test_a_settled_host_that_was_not_scanned_is_scanned_as_any_other() -> None:
    twins = Twins()
    twins.see(ok(0, 22), ok(0, 22, host="2", boot_id="c"))
    for at in (1, 2):
        assert twins.see(ok(at, 22)) == []
    assert twins.see(ok(3, 22)) == [("unscanned",)]
    assert twins.see(ok(4, 22), ok(4, 22, host="2", boot_id="c")) == [("scanned",)]
    assert len(twins.few.host("2").told) == 2


def test_a_settled_fleet_that_answers_again_is_well_as_any_other() -> None:
    twins = Twins(unreachable_after=1)
    machines = {"1": "a", "2": "b", "3": "c"}
    twins.see(*(ok(0, 22, host=host, boot_id=boot) for host, boot in machines.items()))
    assert twins.see(*(bad(1, host=host) for host in machines)) == [("fleet_unreachable",)]
    assert twins.see(*(ok(2, 22, host=host, boot_id=boot) for host, boot in machines.items())) == [("fleet_reachable",)]
    assert (twins.few.host("3").status, twins.few.host("3").status_since) == ("ok", START)
    assert twins.unread == 3


def test_a_settled_host_may_get_another_name_or_label() -> None:
    twins = Twins()
    twins.see(ok(0, 22))
    for world in (twins.all, twins.few):
        world.fleet = FLEET | {"1": dataclasses.replace(FLEET["1"], labels={"role": "db"})}
    twins.see(ok(1, 22))
    assert twins.unread == 1
    assert twins.few.host().labels == {"role": "db"}
    assert twins.few.last.ticked == ()
    twins.see(ok(2, 22))
    assert twins.few.last.hosts == ()


def test_a_settled_host_is_the_machine_that_another_one_shows() -> None:
    twins = Twins()
    one, two = {"netns": 1, "boot_id": "a"}, {"netns": 1, "boot_id": "b"}
    twins.see(ok(0, 22, 80, **one), ok(0, 22, 80, host="2", **two))
    assert twins.see(ok(1, 22, 80, **two), ok(1, 22, 80, host="2", **two)) == [("foreign_machine",)]
    assert twins.unread == 1
    assert twins.few.host("1").fingerprint is None
    assert twins.see(ok(2, 22, **two), ok(2, 22, 80, host="2", **two)) == []
    assert twins.see(ok(3, 22, 80, **one), ok(3, 22, host="2", **two)) == [("own_machine",), ("down", 80)]
    assert twins.see(ok(4, 22, 80, **one), ok(4, 22, host="2", **two)) == []


def test_ports_are_asked_for_of_the_compared_hosts_and_of_those_whose_machine_answers() -> None:
    world = World()
    world.see(*(stored(ok(0, 22, host=host, netns=1, boot_id=host)) for host in "123"))
    world.leave("2", "3")
    looks = [ok(1, 22, host="1", netns=1, boot_id="1"), ok(1, 22, host="4", netns=1, boot_id="3")]
    evaluation = Evaluation(dict(world.hosts), world.inputs(looks), world.conditions)
    # The first one is settled.
    (compared,) = evaluation.looks(list(map(unread, looks)))
    assert [look.host_id for look in compared] == ["4"]
    assert evaluation.involved(looks[1:]) == ["4", "3"]


def test_several_looks_at_a_settled_host_in_one_evaluation() -> None:
    twins = Twins()
    twins.see(ok(0, 22, 80))
    assert twins.see(ok(1, 22, 80), bad(2), ok(3, 22, 80), ok(4, 22), ok(5, 22, 80), ok(6, 22, 80)) == [
        ("down", 80), ("recovered", 80),
    ]  # fmt: skip
    # The last observation again shows nothing new.
    assert twins.unread == 3
    assert twins.see(bad(8), ok(7, 22, 80)) == []
    assert twins.few.host().failures == 1


def test_hosts_are_compared_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portmon.engine.evaluate.PORTION", 3)
    twins = Twins()
    looks = [ok(0, 22, 80, host=host) for host in "1234"]
    assert [len(part) for part in Evaluation({}, World().inputs(looks), {}).looks(looks)] == [3, 1]
    assert twins.see(*looks) == [("baseline",)] * 4
    assert twins.see(*(ok(1, 22, host=host) for host in "1234")) == [("down", 80)] * 4


# ── the fleet ───────────────────────────────────────────────────────────────────────────────────


def fail(at: float, hosts: str = "1234", **fields: Any) -> list[Observation]:
    return [bad(at, host=host, **fields) for host in hosts]


def answer(at: float, hosts: str = "1234") -> list[Observation]:
    return [ok(at, 22, host=host) for host in hosts]


def test_when_every_host_fails_it_is_told_once() -> None:
    world = World()
    world.see(*answer(0))
    assert world.see(*fail(1)) == []
    assert (world.open(), "fleet_unreachable" in world.conditions) == (set(), True), "it is suspected"
    assert world.see(*fail(2)) == [("fleet_unreachable",)]
    event = world.events[-1]
    assert (event.host_id, event.since, event.details) == (None, START + FIVE, {"error_class": "timeout", "hosts": 4})
    assert event.reason.endswith(
        "4 of 4 hosts that were asked began to fail at once (the last one: timeout): look at the monitor and its "
        "network first. It says: no answer"
    )
    assert world.see(*fail(3)) == []
    assert world.see(*answer(4)) == [("fleet_reachable",)]
    assert world.events[-1].since == START + FIVE
    assert world.events[-1].details == {"unreachable_for": 900.0}
    assert world.open() == set()
    assert world.see(*answer(5)) == []


@pytest.mark.parametrize(("still", "ends"), [("1234", False), ("", True)])
def test_an_episode_that_an_earlier_version_told_goes_on_until_its_hosts_answer(still: str, ends: bool) -> None:
    world = World()
    world.see(*answer(0))
    world.see(*fail(1))
    # Earlier versions stored no details.
    world.conditions = {**world.conditions, "fleet_unreachable": Open(START)}
    answering = "".join(one for one in "1234" if one not in still)
    assert world.see(*fail(2, still), *answer(2, answering)) == [("fleet_reachable",)] * ends
    assert ("fleet_unreachable" in world.open()) is not ends
    assert world.see(*answer(3)) == [("fleet_reachable",)] * (not ends)


def test_hosts_that_are_not_scanned_are_so_after_another_clock_is_believed() -> None:
    """Their last try, and since when they are not scanned, become one time."""
    world = World(unreachable_after=1)
    world.fleet = {host: Host(host, f"web{host}", host) for host in "1234567"}
    world.see(*(twin(10, host, 22, boot=f"b{host}") for host in world.fleet))
    assert world.see(twin(13, "1", 22, boot="b1")) == [("fleet_unscanned",)]
    back = dataclasses.replace(twin(5, "1", 22, boot="b1"), run_id="back")
    assert world.see(back, run_id="back") == [("clock_back",), ("clock_believed",)]
    assert "fleet_unscanned" in world.open()
    assert world.events[-2].details == {"behind": 2400.0}
    assert world.events[-2].reason.startswith("The monitor's clock went back by 0:40:00: ")


def test_a_suspicion_counts_on_after_another_clock_is_believed() -> None:
    """Of the run that showed it few hosts were tried; the next one counts, as after any half interval."""
    world = World()
    machines = {"1": "a", "2": "b", "3": "c"}
    world.see(*(twin(288, host, 22, boot=boot) for host, boot in machines.items()))
    world.see(*(bad(289, host=host) for host in machines))
    for run, told in (("back", "clock_back"), ("again", "clock_believed")):
        back = dataclasses.replace(twin(1, "1", 22, boot="a"), run_id=run)
        assert world.see(back, run_id=run) == [(told,)]
    assert world.see(*(bad(3, host=host) for host in machines)) == [("fleet_unreachable",)]


def test_a_clock_that_went_back_by_an_earlier_version_is_believed_in_the_next_run_that_shows_it() -> None:
    world = World()
    world.see(ok(10, 22))
    world.conditions = {**world.conditions, "clock_back": Open(START)}
    assert world.see(ok(1, 22, run_id="back"), run_id="back") == [("clock_believed",)]
    assert world.open() == set()


def test_hosts_that_still_fail_when_the_others_answer_have_runs_of_their_own() -> None:
    world = World()
    world.see(*answer(0))
    world.see(*fail(1))
    world.see(*fail(2))
    # A minority answers: it lasts.
    assert world.see(*answer(3, "1"), *fail(3, "234")) == []
    assert world.see(*answer(4, "123"), *fail(4, "4")) == [("fleet_reachable",)]
    assert world.host("4").failures == 0
    assert world.see(*answer(5, "123"), *fail(5, "4")) == []
    assert world.see(*answer(6, "123"), *fail(6, "4")) == [("unreachable",)]
    assert world.events[-1].since == START + 5 * FIVE


def test_half_of_them_are_enough_for_an_episode_to_last() -> None:
    world = World(unreachable_after=1)
    world.see(*answer(0))
    assert world.see(*fail(1)) == [("fleet_unreachable",)]
    assert world.see(*answer(2, "12"), *fail(2, "34")) == []
    assert world.see(*answer(3, "123"), *fail(3, "4")) == [("fleet_reachable",)]


def test_a_suspicion_that_is_wrong_is_silent_and_its_failures_count() -> None:
    world = World()
    world.see(*answer(0))
    world.see(*fail(1))
    assert world.see(*answer(2, "123"), *fail(2, "4")) == [("unreachable",)]
    assert world.events[-1].since == START + FIVE
    assert "fleet_unreachable" not in world.open()


@pytest.mark.parametrize(("fields", "what", "says"), [
    ({}, "timeout", "no answer"),
    ({"error": None}, "timeout", "timeout"),
    ({"error": None, "error_class": None}, "unreachable", "unreachable"),
    ({"error_class": None}, "unreachable", "no answer"),
])  # fmt: skip
def test_the_fleet_says_what_it_knows(fields: dict[str, Any], what: str, says: str) -> None:
    world = World(unreachable_after=1)
    world.see(*answer(0))
    assert world.see(*fail(1, **fields)) == [("fleet_unreachable",)]
    assert f"(the last one: {what}): " in world.events[-1].reason
    assert world.events[-1].reason.endswith(f"It says: {says}")


def test_a_host_that_failed_before_is_none_of_those_that_begin_to_fail() -> None:
    world = World(unreachable_after=3)
    world.see(*answer(0))
    assert world.see(*answer(1, "123"), *fail(1, "4")) == []
    assert [world.see(*fail(at)) for at in (2, 3, 4)] == [[], [], [("fleet_unreachable",)]]
    assert world.events[-1].since == START + 2 * FIVE


def test_within_an_episode_other_errors_and_fewer_hosts_are_more_of_it() -> None:
    world = World(unreachable_after=1)
    world.see(*answer(0))
    assert world.see(*fail(1)) == [("fleet_unreachable",)]
    assert world.see(*fail(2, "12", error_class="refused"), *fail(2, "34")) == []
    # Too few of them were tried to say anything.
    assert world.see(*fail(3, "1")) == []
    assert world.see(*answer(3.5, "12")) == []
    assert world.see(*answer(4, "123")) == [("fleet_reachable",)]


@pytest.mark.parametrize(
    ("observations", "told"),
    [
        (fail(1, "1234"), ["fleet_unreachable"]),
        # All that were tried.
        (fail(1, "123"), ["fleet_unreachable"]),
        # Two of four are not more than half of the fleet.
        (fail(1, "12"), ["unreachable"] * 2),
        (fail(1, "1"), ["unreachable"]),
        # Whatever the errors are,
        (fail(1, "123") + fail(1, "4", error_class="refused"), ["fleet_unreachable"]),
        # but an invalid answer and another host key are the host's own.
        (fail(1, "123") + fail(1, "4", outcome=Outcome.INVALID), ["unreachable"] * 4),
        (fail(1, "123") + fail(1, "4", error_class="host_key_changed"), ["unreachable"] * 3 + ["host_key_changed"]),
        # Three of four are fewer than nine in ten.
        (fail(1, "123") + answer(1, "4"), ["unreachable"] * 3),
    ],
)
def test_nearly_all_that_answered_must_begin_to_fail(observations: list[Observation], told: list[str]) -> None:
    world = World(unreachable_after=1)
    world.see(*answer(0))
    assert [kind for kind, *_ in world.see(*observations)] == told


@pytest.mark.parametrize(("answering", "told"), [(2, {"fleet_unreachable": 1}), (3, {"unreachable": 17})])
def test_nine_of_ten_are_nearly_all(answering: int, told: dict[str, int]) -> None:
    """As the monitor's own host, which always answers."""
    world = World(unreachable_after=1)
    names = list(map(str, range(1, 21)))
    world.fleet = {name: Host(name, f"web{name}", "10.0.0.1") for name in names}
    world.see(*(ok(0, 22, host=name) for name in names))
    world.see(*(ok(1, 22, host=name) for name in names[:answering]), *(bad(1, host=name) for name in names[answering:]))
    assert Counter(event.kind.value for event in world.last.events) == told


@pytest.mark.parametrize(
    ("before", "told"),
    [("", ["fleet_unreachable"]), ("12", ["fleet_unreachable"]), ("123", ["unreachable"]), ("1234", [])],
)
def test_two_hosts_must_begin_to_fail(before: str, told: list[str]) -> None:
    """:param before: hosts that were unreachable before"""
    world = World(unreachable_after=1)
    world.see(*answer(0))
    # One run each: together they would be an episode of the fleet.
    for number, host in enumerate(before):
        world.see(*fail(1 + number / 10, host))
    assert [kind for kind, *_ in world.see(*fail(2))] == told


def test_one_host_is_no_fleet() -> None:
    world = World(unreachable_after=1)
    world.fleet = {"1": FLEET["1"]}
    world.see(ok(0, 22))
    assert world.see(bad(1)) == [("unreachable",)]


def test_hosts_that_never_answered_are_no_fleet() -> None:
    world = World(unreachable_after=1)
    assert world.see(*fail(0)) == [("unreachable",)] * 4


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
    assert world.host().status_since == START
    world.see(bad(1))
    world.see(ok(2, 22))
    assert world.host().status_since == START
    world.see(bad(3))
    world.see(bad(4))
    assert (world.host().status, world.host().status_since) == ("unreachable", START + 4 * FIVE)
    world.see(ok(5, 22))
    assert (world.host().status, world.host().status_since) == ("ok", START + 5 * FIVE)
    world.see(ok(6, 22))
    assert world.host().status_since == START + 5 * FIVE


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_no_host_is_unreachable_in_an_episode_of_the_fleet(failures: int) -> None:
    world = World()
    world.see(*answer(0))
    for at in range(1, 1 + failures):
        world.see(*fail(at))
    world.see(*answer(1 + failures))
    assert (world.host().status, world.host().status_since) == ("ok", START)


def test_a_flapping_port_is_stable_after_an_hour_of_evidence() -> None:
    world = World(flap_threshold=3)
    world.see(ok(0, 22, 80))
    assert world.see(ok(1, 22)) == [("down", 80)]
    assert world.see(ok(2, 22, 80)) == [("recovered", 80)]
    assert world.see(ok(3, 22)) == [("flapping", 80)]
    assert world.see(bad(4), bad(5)) == [("unreachable",)]
    # One interval of evidence, whenever it was that the host did not answer.
    assert world.see(ok(6, 22)) == [("reachable",)]
    for at in range(7, 17):
        assert world.see(ok(at, 22)) == []
    assert world.see(ok(16.999, 22)) == []
    assert world.see(ok(17, 22)) == [("stable", 80)]
    assert world.events[-1].details["state"] == "down"


def test_a_reboot_is_one_event_and_ports_that_are_not_back_have_time() -> None:
    world = World()
    world.see(ok(0, 22, 80))
    assert pd.isna(world.host().grace_until)
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
    assert world.host().grace_until == START + until * FIVE


def test_a_host_that_boots_again_and_again_loses_ports_none_the_less() -> None:
    """Every ten minutes, when the grace is over; the port is judged in the second look of a boot."""
    world = World()
    world.see(ok(0, 22, 80))
    told = [world.see(ok(at, 22, boot_id=f"boot{(at - 1) // 2}")) for at in range(1, 6)]
    assert told == [[("rebooted",)], [], [("rebooted",)], [("down", 80)], [("rebooted",)]]


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
    assert (world.host("1").duplicate_of, world.host("2").duplicate_of) == (None, "1")
    assert world.see(twin(1, "1", 22), twin(1, "2", 22)) == []
    # A port that one of them opens a moment earlier makes it no other machine.
    assert world.see(twin(2, "1", 22, 80), twin(2, "2", 22)) == [("new", 80)]
    assert world.host("2").duplicate_of == "1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (twin(0, "1", 22), twin(0, "2", 22, boot="c")),
        (twin(0, "1", 22), twin(0, "2", 22, netns=2)),
        (twin(0, "1", 22, boot=None), twin(0, "2", 22, boot=None)),
        (twin(0, "1", 22, netns=None), twin(0, "2", 22, netns=None)),
    ],
)
def test_what_is_not_the_same_machine(one: Observation, other: Observation) -> None:
    world = World()
    assert world.see(one, other) == [("baseline",), ("baseline",)]
    assert world.host("2").duplicate_of is None


@pytest.mark.parametrize("first", ["1", "2"])
def test_the_entry_that_was_seen_later_is_the_duplicate(first: str) -> None:
    """In one run it is the one with the greater id, whichever was looked at first."""
    world = World()
    early, late = sorted("12", key=lambda host: host != first)
    run = [dataclasses.replace(twin(at, host, 22), run_id="run") for at, host in ((0, early), (0.1, late))]
    assert sorted(world.see(*run)) == [("baseline",), ("baseline",), ("duplicate",)]
    assert [event.host_id for event in world.events if event.kind == "duplicate"] == ["2"]
    assert (world.host("1").duplicate_of, world.host("2").duplicate_of) == (None, "1")


def test_of_two_runs_the_later_one_finds_the_duplicate() -> None:
    world = World()
    world.see(twin(0, "2", 22))
    assert world.see(twin(1, "1", 22), twin(1, "2", 22)) == [("baseline",), ("duplicate",)]
    assert world.last.events[0].host_id == "1"
    assert all(world.host(host).shared for host in "12")


def test_two_entries_of_one_machine_stay_two_and_another_machine_behind_one_is_its_reboot() -> None:
    world = World()
    world.see(twin(0, "1", 22), twin(0, "2", 22, 80), twin(0, "3", 22, boot="c"))
    for at, boot in ((1, "c"), (2, "b"), (3, "c")):
        assert world.see(twin(at, "1", 22), twin(at, "2", 22, boot=boot), twin(at, "3", 22, boot="c")) == [
            ("rebooted",)
        ]
    # No machine is foreign to it, and nothing is kept. Its port waits as after any reboot.
    assert world.host("2").kept is None
    told = [world.see(*(twin(at, host, 22, boot=boot) for host, boot in ("1b", "2c", "3c"))) for at in (4, 5)]
    assert told == [[("down", 80)], []]


# ── whose answers these are ─────────────────────────────────────────────────────────────────────


def pair(at: float, *ports: int, boot: str = "a", **fields: Any) -> list[Observation]:
    """Host 1 with these ports, and host 2 with port 25, machine b."""
    return [ok(at, *ports, boot_id=boot, netns=1, **fields), twin(at, "2", 25)]


def foreign() -> World:
    """Host 2 answers at the address of host 1 since the second run."""
    world = World()
    world.see(*pair(0, 22, 80))
    assert world.see(*pair(1, 25, boot="b")) == [("foreign_machine",)]
    return world


def test_what_another_entry_s_machine_answers_is_not_counted() -> None:
    world = foreign()
    event = world.last.events[0]
    assert event.details == {"boot_id": "b", "machine": "2", "machine_name": "web2"}
    assert event.reason == "web2 (id 2) answers at its address: what it shows is not counted"
    before = dataclasses.replace(world.host())
    assert world.see(*pair(2, 25, boot="b")) == []
    assert world.host() == dataclasses.replace(before, last_evaluated_at=START + 2 * FIVE)
    # It answers itself, and what changed meanwhile is told.
    assert world.see(*pair(3, 22)) == [("own_machine",), ("down", 80)]
    assert world.last.events[0].since == START + FIVE
    assert world.host().evidence == 900


def test_a_reboot_while_another_machine_answers_is_a_reboot() -> None:
    world = foreign()
    assert world.see(*pair(2, 22, boot="c")) == [("own_machine",), ("rebooted",)]
    assert world.see(*pair(4, 22, boot="c")) == [("down", 80)]


@pytest.mark.parametrize(("accepted", "told"), [(0.9, []), (1, [("own_machine",), ("rebooted",)]), (2.1, [])])
def test_a_person_may_accept_another_machine(accepted: float, told: list[tuple[str]]) -> None:
    """At or after the start of the condition."""
    world = foreign()
    world.accepted = {("1", *ACCEPTED): START + accepted * FIVE}
    assert world.see(*pair(2, 25, boot="b")) == told
    assert world.host().shared == bool(told)
    if told:
        # From then on it is this machine, and so an exempt one.
        assert world.see(*pair(3, 25, boot="b")) == [("new", 25)]
        assert world.see(*pair(4, 22, boot="a")) == [("rebooted",)]


def test_when_the_other_entry_left_the_machine_is_the_entry_s_own() -> None:
    world = foreign()
    world.leave("2")
    assert world.see(ok(2, 25, boot_id="b", netns=1)) == [("own_machine",), ("rebooted",)]


def test_a_machine_that_left_its_entry_is_not_that_entry_s_any_more() -> None:
    """The other entry's answer of this very run counts, not what it was before."""
    world = World()
    world.see(*pair(0, 22))
    assert world.see(twin(1, "1", 25), twin(1, "2", 25, boot="d")) == [("rebooted",), ("rebooted",)]


def test_an_entry_that_answers_as_another_machine_is_what_it_was() -> None:
    """Host 1 shows host 2's machine; host 3 shows what host 1 was, and that is host 1's machine still."""
    world = foreign()
    world.see(twin(1.1, "3", 22, boot="d"))
    assert world.see(*pair(2, 25, boot="b"), twin(2, "3", 22, 80, boot="a")) == [("foreign_machine",)]
    assert world.last.events[0].details["machine"] == "1"


def test_a_machine_is_free_when_the_entry_that_was_it_is_another_one_in_the_same_run() -> None:
    """Host 2 is foreign itself, since host 3 answers for it, and then turns out to be a machine of its own."""
    world = foreign()
    world.see(twin(1.1, "3", 22, boot="d"))
    assert world.see(twin(2, "1", 25, boot="b"), twin(2, "2", 25, boot="d"), twin(2, "3", 22, boot="d")) == [
        ("foreign_machine",)
    ]
    run = (twin(3, "1", 25, boot="b"), twin(3, "2", 25, boot="e"), twin(3, "3", 22, boot="d"))
    assert world.see(*run) == [("own_machine",), ("rebooted",)] * 2


def test_a_boot_that_comes_back_is_known_before_another_entry_could_be_it() -> None:
    """Host 2 booted, and then host 3 answered for it."""
    world = World()
    world.see(twin(0, "1", 22, boot="a"), twin(0, "2", 25), twin(0, "3", 22, boot="d"))
    world.see(twin(1, "2", 25, boot="e"))
    assert world.see(twin(2, "2", 25, boot="d"), twin(2, "3", 22, boot="d")) == [("foreign_machine",)]
    told = world.see(twin(3, "1", 25, boot="b"), twin(3, "2", 25))
    assert told == [("foreign_machine",), ("answers_discarded",), ("own_machine",)]


def test_an_entry_that_shares_its_machine_is_not_foreign_where_two_others_are() -> None:
    world = World()
    world.see(twin(0, "1", 22), twin(0, "2", 22), twin(0, "3", 22, boot="c"), twin(0, "4", 22, boot="d"))
    assert world.see(*(twin(1, host, 22, boot="e") for host in "234")) == [
        ("rebooted",),
        ("foreign_machine",),
        ("foreign_machine",),
    ]


@pytest.mark.parametrize("start", [None, 900])
def test_two_entries_that_change_to_one_machine_are_both_foreign(start: int | None) -> None:
    """:param start: what one of the two answers shows of process 1"""
    world = World()
    world.see(*pair(0, 22))
    run = [ok(1, 22, boot_id="n", netns=5, pid1_start=900), ok(1, 22, host="2", boot_id="n", netns=5, pid1_start=start)]
    assert world.see(*run) == [("foreign_machine",)] * 2
    assert world.events[-1].details == {"boot_id": "n"}
    assert world.open() == {"foreign_machine/1", "foreign_machine/2"}


def test_a_host_without_a_boot_id_is_always_itself() -> None:
    world = World()
    world.see(*pair(0, 22, boot="a"))
    assert world.see(*pair(1, 22, boot=None)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error_class", "told"),
    [("timeout", "reachable"), ("host_key_changed", "host_key_restored")],
)
def test_a_foreign_machine_is_told_instead_of_no_answer_and_once_the_key_is_trusted(
    error_class: str, told: str
) -> None:
    world = World()
    world.see(*pair(0, 22))
    for at in (1, 2):
        world.see(bad(at, error_class=error_class), pair(at)[1])
    assert world.see(*pair(3, 25, boot="b")) == [(told,), ("foreign_machine",)]
    assert world.open() == {"foreign_machine/1"}
    assert world.see(*pair(4, 22)) == [("own_machine",)]
    assert world.open() == set()


# ── reboots, and answers that were none ─────────────────────────────────────────────────────────


def test_one_wrong_answer_changes_nothing_in_the_end() -> None:
    world = World()
    world.see(ok(0, 22, 80, boot_id="a", netns=1))
    assert world.see(ok(1, 80, 443, boot_id="x", netns=9, address="127.0.0.1", pid=9)) == [("rebooted",)]
    assert world.port(443) is None
    assert world.see(ok(2, 22, 80, boot_id="a", netns=1)) == [("answers_discarded",)]
    assert (world.host().boot_id, world.host().kept, world.host().evidence) == ("a", None, 600)
    assert [port.port for port in ports_of(world.ports)] == [22, 80]
    assert world.see(ok(3, 22, 80, boot_id="a", netns=1)) == []


def test_what_is_kept_does_not_depend_on_the_order_in_which_a_database_has_it() -> None:
    world = World()
    world.see(ok(0, 22, 80, 443, boot_id="a", netns=1))
    world.ports = world.ports[::-1]
    world.see(ok(1, 22, 80, 443, boot_id="x", netns=1))
    kept = world.host().kept
    assert kept is not None
    assert [port.port for port in kept.ports] == [22, 80, 443]


def test_a_port_that_wrong_and_right_answers_brought_is_not_deleted() -> None:
    world = World()
    world.see(ok(0, 22, boot_id="a", netns=1))
    world.see(ok(1, 22, boot_id="x", netns=1))
    assert world.see(ok(2, 22, 80, 443, boot_id="x", netns=1)) == [("new", 80), ("new", 443)]
    assert world.see(ok(3, 22, 443, boot_id="a", netns=1)) == [("answers_discarded",), ("new", 443)]
    assert world.last.dropped == (("1", "tcp", 80),)


def test_that_the_other_machine_was_unreachable_ends_with_it() -> None:
    world = World()
    world.see(ok(0, 22, boot_id="a", netns=1))
    world.see(ok(1, 22, boot_id="x", netns=1))
    world.see(bad(2))
    assert world.see(bad(3)) == [("unreachable",)]
    assert world.see(ok(4, 22, boot_id="a", netns=1)) == [("answers_discarded",), ("retired",)]
    assert world.events[-1].since == START + 2 * FIVE
    assert world.events[-1].details["ends"] == "unreachable"


def test_what_wrong_answers_opened_ends_and_what_they_closed_is_told_again() -> None:
    world = World(reboot_grace="0")
    world.see(ok(0, 22, 80, 443, boot_id="a", netns=1))
    world.see(ok(1, 22, 80, boot_id="a", netns=1))
    assert world.see(ok(2, 22, 443, boot_id="x", netns=1)) == [("rebooted",), ("recovered", 443)]
    assert world.see(ok(3, 22, 443, boot_id="x", netns=1)) == [("down", 80)]
    assert world.see(ok(4, 22, 80, boot_id="a", netns=1)) == [
        ("answers_discarded",), ("retired", 80), ("down", 443),
    ]  # fmt: skip
    assert world.events[-1].since == START + FIVE
    assert world.see(ok(5, 22, 80, 443, boot_id="a", netns=1)) == [("recovered", 443)]


def test_a_loss_that_is_told_through_the_flapping_of_another_owner_ends_with_what_the_other_machine_showed() -> None:
    nginx, java = (Listener("tcp", "0.0.0.0", 80, pid, name, inode=pid) for pid, name in ((7, "nginx"), (8, "java")))
    world = World(flap_threshold=2)
    for at, rows in enumerate([(nginx, java), (nginx,), (nginx, java), (nginx,)]):
        world.see(ok(at, listeners=rows, boot_id="a", netns=1))
    assert told(world.events) == [("baseline",), ("owner_gone", 80), ("flapping", 80)]
    # On the other machine it is the other one that is gone.
    for at in (4, 5, 10):
        found = world.see(ok(at, listeners=(java,), boot_id="b", netns=1))
    assert found == [("owner_gone", 80)]
    back = world.see(ok(11, listeners=(nginx,), boot_id="a", netns=1))
    assert back == [("answers_discarded",), ("retired", 80), ("owner_gone", 80)]


@pytest.mark.parametrize(("looks", "told"), [(11, [("answers_discarded",)]), (12, [("rebooted",)])])
def test_the_state_before_a_reboot_is_kept_for_an_hour(looks: int, told: list[tuple[str]]) -> None:
    world = World()
    world.see(ok(0, 22, boot_id="a", netns=1))
    for at in range(1, looks + 1):
        world.see(ok(at, 22, boot_id="x", netns=1))
    assert world.host().kept is not None
    assert world.see(ok(looks + 1, 22, boot_id="a", netns=1)) == told


def test_it_is_not_kept_any_longer() -> None:
    twins = Twins()
    twins.see(ok(0, 22, boot_id="a", netns=1))
    for at in range(1, 14):
        twins.see(ok(at, 22, boot_id="x", netns=1))
        assert (twins.few.host().kept is None) == (at == 13)
    assert twins.unread > 9


@pytest.mark.parametrize(("step", "told"), [(0.5, [("answers_discarded",)]), (5, [("rebooted",)])])
def test_an_hour_of_evidence_is_no_hour_of_the_clock(step: float, told: list[tuple[str]]) -> None:
    """With looks twice as often an hour is longer than 12 looks; of a gap of 25 minutes one interval counts."""
    world = World()
    world.see(ok(0, 22, boot_id="a", netns=1))
    for number in range(12):
        world.see(ok(1 + number * step, 22, boot_id="x", netns=1))
    assert world.see(ok(1 + 12 * step, 22, boot_id="a", netns=1)) == told


@pytest.mark.parametrize(("looks", "told"), [(11, [("answers_discarded",)]), (12, [("rebooted",)])])
def test_or_for_twelve_looks_if_that_is_longer(looks: int, told: list[tuple[str]]) -> None:
    world = World()
    world.see(ok(0, 22, boot_id="a", netns=1), interval=12 * FIVE)
    for at in range(1, looks + 1):
        world.see(ok(12 * at, 22, boot_id="x", netns=1), interval=12 * FIVE)
    assert world.see(ok(12 * looks + 12, 22, boot_id="a", netns=1), interval=12 * FIVE) == told


def test_of_two_reboots_the_state_before_the_last_one_is_kept() -> None:
    world = World()
    for at, boot in enumerate("axy"):
        world.see(ok(at, 22, boot_id=boot, netns=1))
    assert world.see(ok(3, 22, boot_id="a", netns=1)) == [("rebooted",)]
    assert world.see(ok(4, 22, boot_id="y", netns=1)) == [("answers_discarded",)]


def container(at: float, *, pids: Sequence[int | None], inodes: Sequence[int | None], **fields: Any) -> Observation:
    """Ports 80 and 81 of a container."""
    rows = zip((80, 81), pids, inodes, strict=True)
    return ok(at, listeners=[Listener("tcp", "0.0.0.0", *row[:2], "app", inode=row[2]) for row in rows], **fields)


KNOWN: dict[str, Any] = {"pids": (1, 2), "inodes": (11, 12)}


@pytest.mark.parametrize(
    ("fields", "rebooted"),
    [
        ({"pid1_start": 200, "netns": 1, **KNOWN}, True),
        ({"pid1_start": 200, "netns": 2, **KNOWN}, True),
        # The start time says it, whatever the namespace does.
        ({"pid1_start": 100, "netns": 2, "pids": (3, 4), "inodes": (13, 14)}, False),
        ({"netns": 2, "pids": (3, 4), "inodes": (13, 14)}, True),
        ({"netns": 1, "pids": (3, 4), "inodes": (13, 14)}, False),
        ({"pids": (3, 4), "inodes": (13, 14)}, False),
        # One inode or pid that stays is enough.
        ({"netns": 2, "pids": (3, 4), "inodes": (13, 12)}, False),
        ({"netns": 2, "pids": (3, 2), "inodes": (13, 14)}, False),
        ({"netns": 2, **KNOWN}, False),
        # What is not shown can't differ.
        ({"netns": 2, "pids": (None, None), "inodes": (13, 14)}, True),
        ({"netns": 2, "pids": (3, 4), "inodes": (None, None)}, True),
        ({"netns": 2, "pids": (None, None), "inodes": (None, None)}, False),
    ],
)
def test_a_container_was_started_again(fields: dict[str, Any], rebooted: bool) -> None:
    world = World()
    world.see(container(0, **KNOWN, netns=1, pid1_start=100))
    told = world.see(container(1, **fields))
    assert (("rebooted",) in told) == rebooted
    if rebooted:
        assert told == [("rebooted",)]
        assert world.events[-1].reason.startswith("Its container was started again")


# ── entries that left ───────────────────────────────────────────────────────────────────────────


def test_a_new_entry_goes_on_with_the_state_of_its_machine() -> None:
    world = World()
    world.see(twin(0, "1", 22, 80))
    world.see(twin(1, "1", 22))
    assert world.leave("1") == [("retired", 80)]
    assert world.see(twin(2, "2", 22)) == [("taken_over",), ("down", 80)]
    assert world.last.taken_over == {"2": "1"}
    assert world.last.dropped == (("1", "tcp", 22), ("1", "tcp", 80))
    assert (set(world.hosts), world.host("2").evidence) == ({"2"}, 600)
    assert {port.host_id for port in ports_of(world.ports)} == {"2"}
    assert world.last.events[1].since == START + FIVE
    assert world.see(twin(3, "2", 22, 80)) == [("recovered", 80)]


def test_a_new_entry_that_was_seen_before_the_old_one_left_goes_on_with_it_too() -> None:
    world = World()
    world.see(twin(0, "1", 22, 80))
    world.see(twin(1, "1", 22))
    assert world.see(twin(2, "1", 22), twin(2, "2", 22)) == [("baseline",), ("duplicate",)]
    assert world.leave("1") == [("retired", 80)]
    assert world.see(twin(3, "2", 22)) == [("taken_over",), ("down", 80)]
    # It is no duplicate any more; an entry that was one stays exempt.
    assert (world.host("2").duplicate_of, world.host("2").shared) == (None, True)


def test_whether_its_address_answers_is_a_matter_of_the_entry_that_takes_over() -> None:
    """What flaps under the new name is stable under it, whatever the old one did."""
    world = World()
    world.see(twin(0, "1", 22), twin(0, "2", 22))
    for at in range(1, 13):
        world.see(twin(at, "1", 22), twin(at, "2", 22) if at % 3 == 0 else bad(at, host="2"))
    assert world.host("2").presence.flapping_since is not None
    world.leave("1")
    assert world.see(twin(13, "2", 22)) == [("taken_over",)]
    assert [kind for at in range(14, 30) for kind in world.see(twin(at, "2", 22))] == [("stable",)]


def test_an_entry_with_a_state_of_its_own_takes_over_none() -> None:
    world = World()
    world.see(twin(0, "1", 22, 80), twin(0, "2", 22, boot="c"))
    world.leave("1")
    assert world.see(twin(1, "2", 22)) == [("rebooted",)]
    assert world.last.taken_over == {}


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
    assert world.port(22)["hidden_since"] == START + FIVE
    assert world.see(ok(2, 22, 80, pid=9)) == [("restarted", 80)]


def test_rules_that_are_not_known_are_no_other_rules() -> None:
    world = World()
    world.see(ok(0, 80))
    world.hosts["1"].rules = None
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
    world.see(listening(0, worker(40000), worker(40001)))
    assert world.see(listening(1, worker(50001), worker(50000))) == [("moved", 40000), ("moved", 40001)]
    assert [event.details.get("to") for event in world.last.events] == [50000, 50001]


def test_if_fewer_ports_come_than_are_gone_all_of_them_are_deaths() -> None:
    world = World(ephemeral_after=1)
    world.see(listening(0, worker(40000), worker(40001)))
    assert world.see(listening(1, worker(50000))) == [("down", 40000), ("down", 40001), ("new", 50000)]


# ── hosts that leave ────────────────────────────────────────────────────────────────────────────


def left_with(*ports: Port, looks: Sequence[Observation] = ()) -> Left:
    """What changes when host 1 leaves with these ports, after these looks."""
    world = World(unreachable_after=1)
    world.see(ok(0, 22), ok(0, 22, host="2"))
    for look in looks:
        world.see(look)
    return leave(
        world.hosts, ports, ["1"], world.conditions, reason="it left the CMDB", run_id="r", now=START + 9 * FIVE
    )


def known(number: int, **fields: Any) -> Port:
    since = {"status_since": START + FIVE, "addresses": ("0.0.0.0",), "first_seen_at": START}
    return Port(**{"host_id": "1", "protocol": "tcp", "port": number, "status": "up"} | since | fields)


LATER = START + 3 * FIVE
FLAPS = Changes((900.0,), LATER, LATER)


@pytest.mark.parametrize(
    ("port", "reason", "since"),
    [
        (known(80, status="down"), "Was down", START + FIVE),
        (known(80, status="down", presence=FLAPS), "Was down", START + FIVE),
        (known(80, presence=FLAPS), "Was flapping", START + FIVE),
        (known(80, parts=(("::", FLAPS),), lost=("::",), lost_since=LATER), "Was flapping", LATER),
        (known(80, lost=("::",), lost_since=LATER), "Lost a bind", LATER),
    ],
)
def test_what_is_open_of_a_port_is_closed_with_its_host_and_paused(port: Port, reason: str, since: datetime) -> None:
    left = left_with(known(22), port)
    (event,) = left.events
    assert (event.kind, event.port, event.at, event.since) == ("retired", 80, START + 9 * FIVE, since)
    assert event.reason == f"{reason}; it left the CMDB"
    (paused,) = left.ports
    assert (paused.port, paused.status, paused.lost, paused.paused) == (80, port.status, port.lost, True)
    assert (paused.presence, paused.parts) == (Changes(), ())


@pytest.mark.parametrize(
    "port", [known(80), known(80, status="candidate"), known(80, misses=1), known(80, status="down", paused=True)]
)
def test_what_is_not_open_stays(port: Port) -> None:
    left = left_with(port)
    assert (left.events, left.ports) == ((), ())


def test_a_host_that_is_unreachable_is_closed_and_is_told_at_its_next_failure() -> None:
    left = left_with(looks=[bad(1)])
    (event,) = left.events
    assert (event.kind, event.port, event.since) == ("retired", None, START + FIVE)
    assert event.reason == "Was unreachable; it left the CMDB"
    (row,) = left.hosts
    assert (row.host_id, row.status, row.failures) == ("1", "unreachable", 1)
    assert set(left.conditions) == {RUNS}


@pytest.mark.parametrize(
    ("looks", "reason", "ends"),
    [
        ([bad(1, error_class="host_key_changed")], "Its SSH host key had changed", "host_key_changed"),
        ([bad(1), ok(2, 22), bad(3), ok(4, 22)], "Was flapping", "unreachable"),
    ],
)
def test_whatever_is_open_of_a_host_is_closed_by_its_own_name(looks: list[Observation], reason: str, ends: str) -> None:
    left = left_with(looks=looks)
    assert [(event.kind, event.reason, event.details["ends"]) for event in left.events] == [
        ("retired", f"{reason}; it left the CMDB", ends)
    ]


def test_a_host_that_never_answered_may_leave() -> None:
    world = World(unreachable_after=1)
    world.see(bad(0))
    assert world.leave("1") == [("retired",)]
    assert world.see(bad(1)) == [("unreachable",)]
    assert world.events[-1].severity == "warning"


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
    # These depend on when runs are evaluated.
    ids = {event.id for event in single.events if event.kind.usual.key != "scan"}
    before = state_of(single)
    assert single.see(*observations) == []
    assert (single.last.ports, single.last.dropped) == ((), ())
    assert state_of(single) == before
    random.shuffle(observations)
    together.see(*observations)
    assert ids == {event.id for event in together.events if event.kind.usual.key != "scan"}
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
