"""The table of states, row by row, and what holds for every history."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.config import Rule, States
from portmon.diff import Verdict, close_hosts, judge
from portmon.frames import PORT_COLUMNS, empty_hosts, empty_ports, frame
from portmon.models import Attempt, Event, Host, Listener, Observation, Outcome
from portmon.rules import RuleSet

START = datetime(2026, 1, 1, tzinfo=UTC)
FIVE = timedelta(minutes=5)
FLEET = {
    str(number): Host(str(number), f"web{number}", f"10.0.0.{number}", None, {"role": "web"}) for number in range(1, 5)
}


def ok(
    at: float, *ports: int, host: str = "1", program: str | None = "nginx", address: str = "0.0.0.0", pid: int = 7
) -> Attempt:
    """A complete answer, ``at`` in runs since the start."""
    seen = Observation(
        "netstat", 0, boot_id="b", listeners=tuple(Listener("tcp", address, port, pid, program) for port in ports)
    )
    return Attempt(host, f"run{at}", 1, START + at * FIVE, Outcome.OK, observation=seen)


def bad(at: float, *, host: str = "1", outcome: Outcome = Outcome.UNREACHABLE) -> Attempt:
    return Attempt(host, f"run{at}", 1, START + at * FIVE, outcome, error_class="timeout", error="no answer")


class World:
    """State that is kept between judgements, as the database keeps it."""

    def __init__(self, *, rules: Sequence[Rule] = (), **settings: int) -> None:
        self.hosts, self.ports = empty_hosts(), empty_ports()
        self.rules, self.settings = RuleSet(rules), States(**settings)
        self.declared: dict[str, dict[int, str]] = {}
        self.events: list[Event] = []
        self.last: Verdict | None = None

    def see(self, *attempts: Attempt) -> list[tuple[Any, ...]]:
        verdict = judge(
            self.hosts, self.ports, attempts, inventory=FLEET, rules=self.rules, settings=self.settings,
            interval=FIVE, run_id="run", declared=self.declared,
        )  # fmt: skip
        self.events += verdict.events
        return self.take(verdict)

    def take(self, verdict: Verdict) -> list[tuple[Any, ...]]:
        self.last = verdict
        self.hosts = self._merge(self.hosts, verdict.hosts, ["host_id"])
        ports = self._merge(self.ports, verdict.ports, ["host_id", "protocol", "port"])
        gone = (
            pd.MultiIndex.from_tuples(verdict.dropped, names=["host_id", "protocol", "port"])
            if verdict.dropped
            else None
        )
        if gone is not None:
            ports = ports[~pd.MultiIndex.from_frame(ports[["host_id", "protocol", "port"]]).isin(gone)]
        self.ports = ports.reset_index(drop=True)
        return [(event.kind.value, event.port) if event.port else (event.kind.value,) for event in verdict.events]

    @staticmethod
    def _merge(old: pd.DataFrame, new: pd.DataFrame, key: list[str]) -> pd.DataFrame:
        both = [part for part in (old, new) if len(part)]
        return pd.concat(both).drop_duplicates(key, keep="last").reset_index(drop=True) if both else old

    def port(self, port: int, host: str = "1") -> dict[str, Any] | None:
        rows = self.ports[(self.ports["port"] == port) & (self.ports["host_id"] == host)]
        return None if rows.empty else dict(rows.iloc[0])

    def host(self, host: str = "1") -> dict[str, Any]:
        return dict(self.hosts[self.hosts["host_id"] == host].iloc[0])


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
    assert world.last.ports.empty
    assert len(world.last.hosts) == 1


def test_a_declared_port_that_listens_is_quiet() -> None:
    world = World()
    world.declared = {"1": {80: "declared by the CMDB"}}
    assert world.see(ok(0, 22, 80)) == [("baseline",)]
    assert world.port(80)["status"] == "up"
    # Another one is missing, so that the answer is a confirmed one.
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
    seen = dataclasses.replace(both.observation, listeners=(*both.observation.listeners, six))
    world.see(dataclasses.replace(both, observation=seen))
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
    assert world.last.hosts.empty


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
    # What still is when they come back is told again.
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
    # Nobody asked twice: somebody listens on the port.
    assert world.see(dataclasses.replace(ok(1, 80, program="apache2"), confirmed=False)) == [("down", 80)]
    assert world.see(ok(2, 80)) == [("recovered", 80)]


# ── properties ──────────────────────────────────────────────────────────────────────────────────

looks = st.lists(
    st.tuples(st.sampled_from("12"), st.one_of(st.none(), st.frozensets(st.sampled_from([22, 80, 443, 40000])))),
    min_size=1,
    max_size=12,
)


def history(steps: Iterable[tuple[str, frozenset[int] | None]]) -> list[Attempt]:
    return [
        bad(number, host=host) if ports is None else ok(number, *sorted(ports), host=host)
        for number, (host, ports) in enumerate(steps)
    ]


@given(looks)
def test_judging_again_changes_nothing(steps: list[tuple[str, frozenset[int] | None]]) -> None:
    world, attempts = World(), history(steps)
    for attempt in attempts:
        world.see(attempt)
    assert world.see(*attempts) == []
    assert world.last.hosts.empty
    assert world.last.ports.empty
    assert world.last.dropped == ()


@given(looks, st.randoms())
def test_all_at_once_in_any_order_is_one_by_one(steps: list[tuple[str, frozenset[int] | None]], random: Any) -> None:
    single, together, attempts = World(), World(), history(steps)
    for attempt in attempts:
        single.see(attempt)
    random.shuffle(attempts)
    together.see(*attempts)
    assert {event.id for event in single.events} == {event.id for event in together.events}
    key = ["host_id", "port"]
    pd.testing.assert_frame_equal(
        single.ports.sort_values(key).reset_index(drop=True), together.ports.sort_values(key).reset_index(drop=True)
    )


@given(looks)
def test_no_down_without_evidence_and_no_recovery_without_a_down(
    steps: list[tuple[str, frozenset[int] | None]],
) -> None:
    world, down = World(), set()
    for attempt in history(steps):
        world.see(attempt)
        for event in world.last.events:
            key = (event.host_id, event.port)
            if event.kind == "down":
                assert attempt.observation is not None
                assert event.port not in {one.port for one in attempt.observation.listeners}
                assert key not in down
                down.add(key)
            elif event.kind == "recovered":
                down.remove(key)
    assert len({event.id for event in world.events}) == len(world.events)


def test_a_frame_has_the_columns_and_types_it_says() -> None:
    assert dict(frame({}, PORT_COLUMNS).dtypes.astype(str)) == dict(PORT_COLUMNS)
