"""The catalogue of what can be wrong agrees with the catalogue of events; which conditions are open."""

from __future__ import annotations

import importlib.util
from collections import Counter
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter

import pytest

from portmon.engine.conditions import (
    EVALUATED,
    MONITORED,
    RUNS,
    Condition,
    Open,
    OpenConditions,
    evaluated,
    runs_until,
)
from portmon.model.event_kinds import AlertRole, EventKind, Meaning

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
KINDS = [condition.value for condition in Condition]


def firing(kind: EventKind) -> list[Meaning]:
    return [row for row in kind.rows if row.role is AlertRole.FIRING]


def test_each_event_that_begins_an_alert_is_of_one_condition() -> None:
    begins = {kind for kind in EventKind if firing(kind)}
    begins -= {EventKind.FLAPPING, EventKind.CRASH_LOOPING, EventKind.STABLE}
    assert Counter(one.opens for one in KINDS) == Counter(begins)


def test_each_event_that_ends_an_alert_is_of_a_condition() -> None:
    # Those that end any condition of a port, or of one that flapped.
    shared = {EventKind.RETIRED, EventKind.UNWATCHED, EventKind.STABLE}
    ends = {kind for kind in EventKind if any(row.role is AlertRole.RESOLVED for row in kind.rows)}
    assert {one.ends for one in KINDS} == ends - shared


@pytest.mark.parametrize("condition", Condition)
def test_the_events_of_a_condition_are_of_one_alert(condition: Condition) -> None:
    kind = condition.value
    ends = kind.ends.usual
    assert ends.role is AlertRole.RESOLVED
    for begins in firing(kind.opens):
        assert (begins.subject, begins.key) == (ends.subject, ends.key)
        # One event ends whatever began for a port: Alertmanager's names are those of the beginning.
        assert begins.alertname == ends.alertname or kind.subject == "port"
        assert kind.subject == ("monitor" if begins.subject == "fleet" else begins.subject)


@pytest.mark.parametrize("condition", Condition)
def test_a_detector_is_a_module(condition: Condition) -> None:
    detector = condition.value.detector
    module = f"portmon.{detector}" if detector.startswith("steps.") else f"portmon.engine.{detector}"
    assert importlib.util.find_spec(module)


def test_what_a_condition_includes_is_a_lesser_one_without_a_cycle() -> None:
    by_name = {one.name: one for one in KINDS}
    assert len(by_name) == len(KINDS)
    # It raises if there is a cycle.
    list(TopologicalSorter({one.name: one.includes for one in KINDS}).static_order())
    for number, one in enumerate(KINDS):
        before = {other.name for other in KINDS[:number] if other.subject == one.subject}
        assert set(one.includes) <= by_name.keys() - before - {one.name}


def test_what_includes_another_one_includes_what_that_includes() -> None:
    by_name = {one.name: one for one in KINDS}
    for one in KINDS:
        if one.subject != "monitor":
            assert all(set(by_name[lesser].includes) <= set(one.includes) for lesser in one.includes)


def test_it_is_said_what_was_wrong_with_a_host_that_leaves() -> None:
    assert all(bool(one.was) is (one.subject == "host") for one in KINDS)


def test_the_order_of_conditions_of_hosts_is_the_agreed_one() -> None:
    # host key > foreign > unreachable > unscanned > owners hidden, and down > owner gone > bind lost.
    for number, one in enumerate(EVALUATED):
        assert one.value.includes == tuple(lesser.value.name for lesser in EVALUATED[number + 1 :])
    assert Condition.DOWN.value.includes == (Condition.OWNER_GONE.value.name, Condition.LOST_BIND.value.name)
    assert Condition.OWNER_GONE.value.includes == (Condition.LOST_BIND.value.name,)


# ── those that are open ─────────────────────────────────────────────────────────────────────────


def test_keys_tell_conditions_and_hosts_apart() -> None:
    keys = [one.key(host_id) for one in Condition for host_id in (None, "1", "2", "")]
    assert len(set(keys)) == len(keys)
    assert RUNS not in keys
    assert (Condition.UNREACHABLE.key("web/1"), Condition.CLOCK.key()) == ("unreachable/web/1", "clock_back")


def test_a_condition_is_open_since_it_was_opened_first() -> None:
    book = OpenConditions()
    assert book.open(Condition.CLOCK, None, NOW, runs=1)
    assert not book.open(Condition.CLOCK, None, NOW + HOUR, runs=2)
    assert book.get(Condition.CLOCK) == Open(NOW, {"runs": 2})
    assert book.end(Condition.CLOCK) == Open(NOW, {"runs": 2})
    assert (book.end(Condition.CLOCK), book.get(Condition.CLOCK)) == (None, None)


def test_the_conditions_of_one_host_are_not_those_of_another_one() -> None:
    stored = {Condition.UNREACHABLE.key("a/b"): Open(NOW)}
    book = OpenConditions(stored)
    assert book.get(Condition.UNREACHABLE, "a") is None
    assert book.end(Condition.UNREACHABLE, "b") is None
    assert book.of_hosts(Condition.UNREACHABLE) == {"a/b": Open(NOW)}
    assert book.of_hosts(Condition.UNSCANNED) == {}
    assert book.end(Condition.UNREACHABLE, "a/b") == Open(NOW)
    # What is stored is not changed.
    assert len(stored) == 1


def test_conditions_of_the_monitor_are_none_of_a_host() -> None:
    book = OpenConditions({one.key(): Open(NOW) for one in MONITORED})
    assert all(book.of_hosts(one) == {} for one in Condition)


def test_the_engine_opens_what_its_detectors_find() -> None:
    hosts = (Condition.HOST_KEY, Condition.FOREIGN, Condition.UNREACHABLE, Condition.UNSCANNED)
    assert evaluated("host") == EVALUATED == (*hosts, Condition.OWNERS_HIDDEN)
    of_all = (Condition.FLEET, Condition.FLEET_UNSCANNED, Condition.FLEET_OWNERS_HIDDEN)
    assert evaluated("monitor") == MONITORED == (*of_all, Condition.CLOCK)


@pytest.mark.parametrize("number", range(len(EVALUATED)))
def test_a_greater_condition_of_a_host_includes_the_lesser_ones_that_are_open(number: int) -> None:
    one, book = EVALUATED[number], OpenConditions()
    book.open(one, "1", NOW)
    for other in EVALUATED:
        assert book.includes(other, "1") is (other in EVALUATED[number + 1 :])
        assert not book.includes(other, "2")
        assert book.lesser(other, "1") == ([one] if other in EVALUATED[:number] else [])
        assert book.lesser(other, "2") == []


@pytest.mark.parametrize("greater", MONITORED)
def test_a_condition_of_the_monitor_silences_what_the_catalogue_says_of_each_host(greater: Condition) -> None:
    book = OpenConditions()
    book.open(greater, None, NOW, told=False)
    assert {one.value.name for one in EVALUATED if book.silences(one)} == set(greater.value.includes)
    book.end(greater)
    assert not any(map(book.silences, EVALUATED))


def test_when_the_last_run_was_evaluated_is_stored_beside_them() -> None:
    assert runs_until(Open(NOW - HOUR, {"judged_at": NOW.isoformat()})) == NOW
