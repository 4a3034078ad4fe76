"""The engine, with the whole state in memory, beside its naive twin over random histories of small fleets.

After each run both must have told the same events and have the same state, and the invariants must hold of what the
engine told. A failure names the seed and the run. ``make soak`` takes new seeds each time.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence

import pytest

from tests.worlds.histories import Step, play
from tests.worlds.judges import Engine, agree, blinded, delayed, seeded
from tests.worlds.reference import Reference

RUNS = 60
SEEDS = (14, 15, 34, 40, 51, 52, 80, 82, 92, 105)
"""Of the larger fleets, which cost hardly more time than small ones."""
UDP_SEEDS = (3, 12)
HIDING_SEEDS = (14, 40, 51)
"""Of fleets in which more than five hosts hide their owners at once."""
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
FIRST_SEEDS = (0, 9, 16, 30, 38, 46, 60, 77)
"""Where each part of many histories begins."""
PART = 25_000 if SOAK else 2_500
"""Host-runs: looks at hosts, and failures of them."""


def host_runs(steps: Sequence[Step]) -> int:
    return sum(len(step.looks) for step in steps)


def seeds_from(first: int) -> Iterator[int]:
    return iter(lambda: random.SystemRandom().getrandbits(32), -1) if SOAK else itertools.count(first)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_engine_tells_what_its_naive_twin_tells(seed: int) -> None:
    agree(Engine(), seeded(seed, RUNS), f"seed {seed}")


@pytest.mark.parametrize("seed", UDP_SEEDS)
def test_it_tells_the_same_of_udp(seed: int) -> None:
    steps = seeded(seed, RUNS, udp=True)
    agree(Engine(), steps, f"seed {seed} with UDP")
    assert {step.udp for step in steps} == {False, True}


def test_these_are_five_thousand_host_runs() -> None:
    assert sum(host_runs(seeded(seed, RUNS)) for seed in SEEDS) >= 5_000


@pytest.mark.parametrize("seed", [6, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(6))])
def test_it_tells_the_same_if_some_looks_are_late(seed: int) -> None:
    agree(Engine(), delayed(seed, seeded(seed, RUNS)), f"seed {seed}, delayed")


@pytest.mark.parametrize("seed", HIDING_SEEDS)
def test_it_tells_the_same_of_a_fleet_that_hides_its_owners(seed: int) -> None:
    steps = blinded(seeded(seed, RUNS), range(20, 30))
    agree(Engine(), steps, f"seed {seed}, blind")
    reference = Reference()
    told = {event[1] for step in steps for event in play(reference, step)}
    assert {"fleet_owners_hidden", "fleet_owners_shown"} <= told


@pytest.mark.full
@pytest.mark.parametrize("first", FIRST_SEEDS)
def test_it_tells_the_same_of_many_histories(first: int) -> None:
    done = 0
    for seed in seeds_from(first):
        steps = seeded(seed, RUNS)
        agree(Engine(), steps, f"seed {seed}")
        done += host_runs(steps)
        if done >= PART:
            break
    print(f"{done} host-runs")
