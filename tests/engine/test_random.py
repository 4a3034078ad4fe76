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

from tests.worlds.histories import Step
from tests.worlds.judges import Engine, agree, seeded

RUNS = 60
SEEDS = (3, 6, 10, 11, 12, 30, 0, 1)
"""Some fleets of ten hosts, which cost hardly more time than small ones, and two of few."""
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
PARTS = range(8)
PART = 25_000 if SOAK else 2_500
"""Host-runs: looks at hosts, and failures of them."""


def host_runs(steps: Sequence[Step]) -> int:
    return sum(len(step.looks) for step in steps)


def seeds_of(part: int) -> Iterator[int]:
    return iter(lambda: random.SystemRandom().getrandbits(32), -1) if SOAK else itertools.count(1000 * (part + 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_engine_tells_what_its_naive_twin_tells(seed: int) -> None:
    agree(Engine(), seeded(seed, RUNS), f"seed {seed}")


def test_the_histories_of_each_day_are_five_thousand_host_runs() -> None:
    assert sum(host_runs(seeded(seed, RUNS)) for seed in SEEDS) >= 5_000


@pytest.mark.full
@pytest.mark.parametrize("part", PARTS)
def test_it_tells_the_same_of_many_histories(part: int) -> None:
    done = 0
    for seed in seeds_of(part):
        steps = seeded(seed, RUNS)
        agree(Engine(), steps, f"seed {seed}")
        done += host_runs(steps)
        if done >= PART:
            break
    print(f"{done} host-runs")
