"""The naive implementation over random histories: what must hold of each, and that the histories have it all."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections import Counter
from datetime import timedelta

import pytest

from tests.worlds.histories import Step, history, play
from tests.worlds.invariants import Judged, violations
from tests.worlds.reference import Reference, Told

KINDS = {
    *("baseline", "new", "down", "recovered", "retired", "replaced", "rebound", "flapping", "stable", "restarted"),
    *("moved", "unwatched", "unreachable", "reachable", "rebooted", "duplicate", "probe_outdated"),
    *("fleet_unreachable", "fleet_reachable", "host_key_changed", "host_key_restored", "foreign_machine"),
    *("own_machine", "answers_discarded", "unscanned", "scanned", "fleet_unscanned", "fleet_scanned", "clock_back"),
    *("clock_believed", "owner_gone", "crash_looping", "owners_hidden", "owners_shown"),
}
"""All but ``many_changes``, which takes 200 ports."""


@functools.cache
def judged(seed: int, runs: int) -> list[Judged]:
    """A random history as the naive implementation judges it."""
    reference = Reference()
    steps = history(random.Random(seed).randrange, runs)
    return [Judged(step, play(reference, step), reference.snapshot()) for step in steps]


def wrong(seeds: range, runs: int) -> dict[int, list[str]]:
    found = {seed: violations(judged(seed, runs)) for seed in seeds}
    return {seed: sentences[:3] for seed, sentences in found.items() if sentences}


def test_what_must_hold_of_a_few_histories() -> None:
    assert wrong(range(10), 50) == {}


@pytest.mark.full
def test_what_must_hold_of_many_histories() -> None:
    assert wrong(range(1000, 1400), 100) == {}


def test_the_histories_reach_every_kind_of_event() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(200):
        kinds.update(kind for one in judged(seed, 50) for _, kind, *_ in one.told)
        if set(kinds) >= KINDS:
            return
    assert not KINDS - set(kinds)


def test_a_run_that_is_evaluated_again_changes_nothing() -> None:
    for seed in range(10):
        reference = Reference()
        for step in history(random.Random(seed).randrange, 40):
            play(reference, step)
            before = reference.snapshot()
            again = dataclasses.replace(step, left=(), purged=())
            assert play(reference, again) == []
            assert reference.snapshot() == before


# ── the invariants can fail ─────────────────────────────────────────────────────────────────────


def tampered(drop: str = "", add: tuple[str, str] = ("", "")) -> list[str]:
    """What is wrong with histories of which events of a kind are dropped, or get another kind."""
    found: list[str] = []

    def changed(event: Told) -> Told:
        return (event[0], add[1], *event[2:]) if event[1] == add[0] else event

    for seed in range(10):
        whole = judged(seed, 50)
        found += violations(
            [dataclasses.replace(one, told=[changed(event) for event in one.told if event[1] != drop]) for one in whole]
        )
    return found


@pytest.mark.parametrize("kind", ["recovered", "reachable"])
def test_an_end_that_is_not_told_is_found(kind: str) -> None:
    assert tampered(drop=kind)


@pytest.mark.parametrize(
    ("kind", "as_if"),
    [("down", "recovered"), ("unreachable", "reachable"), ("new", "retired"), ("flapping", "stable")],
)
def test_an_end_without_evidence_is_found(kind: str, as_if: str) -> None:
    assert tampered(add=(kind, as_if))


def test_too_many_messages_are_found() -> None:
    one = judged(0, 1)[0]
    host_id = next(iter(one.step.inventory))

    def at(number: int) -> Judged:
        then = one.step.now + timedelta(hours=number)
        step: Step = dataclasses.replace(one.step, looks=(), number=number, now=then)
        return dataclasses.replace(one, step=step, told=[(then, "new", host_id, 80, "")])

    assert violations([at(number) for number in range(12)]) == []
    assert violations([at(number) for number in range(13)]) == [f"13 messages within a day of {host_id} 80"]
