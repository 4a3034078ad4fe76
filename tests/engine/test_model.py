"""The pipeline on a database beside the naive twin, over random histories of small fleets.

Host list, pruning, decisions, archive and evaluation are the real ones. Each must tell what the naive implementation
tells, lose no more than its own transaction in a crash, and change nothing when it runs again; and what is evaluated
again from the archive must end in the same.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import select

from portmon.engine.config import States
from portmon.engine.declared import declared_ports, declared_terms
from portmon.engine.evaluate import evaluate
from portmon.engine.fingerprint import fingerprint
from portmon.engine.inputs import EvaluationInputs
from portmon.model.observation import Observation
from portmon.replay.run import Window, replay_run
from portmon.steps.run import Run
from portmon.storage import archive, conditions, contents, state
from portmon.storage import hosts as known_hosts
from portmon.storage.database import Database
from portmon.storage.tables import events, hosts, ports
from tests.worlds.eventful import derived, state_of, wipe
from tests.worlds.histories import INTERVAL, PRUNE_AFTER, START, Step
from tests.worlds.invariants import Judged
from tests.worlds.judges import TICK, Pipeline, agree, delayed, seeded

RUNS = 30
LATER = (TICK, INTERVAL, timedelta(hours=2), timedelta(days=31))
SEEDS = [3, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(20, 28))]
DAY = timedelta(days=1)


class PowerFailureError(Exception):
    """The power fails just before a transaction is committed."""


class Careful(Pipeline):
    """The pipeline with something that goes wrong in each run, in turn.

    :param settled: how many hosts were judged once more because nothing was to come of it
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.failing = False
        self.settled = 0
        self.looks: dict[tuple[str, Any], Observation] = {}
        self.later = itertools.cycle(LATER)
        sqlalchemy.event.listen(database.engine, "before_cursor_execute", self._notice)
        sqlalchemy.event.listen(database.engine, "commit", self._fail)

    def __call__(self, step: Step) -> Judged:
        found = super().__call__(step)
        self.looks |= {(look.host_id, look.observed_at): look for look in found.step.looks}
        self._settled_stay(step)
        return found

    def prune(self, step: Step, digest: str) -> None:
        self._with_trouble(step.number, lambda: super(Careful, self).prune(step, digest))

    def evaluate(self, step: Step, digest: str) -> None:
        self._with_trouble(step.number + 1, lambda: super(Careful, self).evaluate(step, digest))

    def _with_trouble(self, number: int, task: Callable[[], None]) -> None:
        if number % 3 == 0:
            before = self._dump()
            self.failing = True
            with pytest.raises(PowerFailureError):
                task()
            self.failing = False
            assert self._dump() == before, "a crash loses no more than its transaction"
        task()
        if number % 3 == 1:
            before = self._dump()
            task()
            assert self._dump() == before, "what runs again changes nothing"

    def _notice(self, conn: Any, _: Any, statement: str, *__: Any) -> None:
        if self.failing and statement.startswith(("INSERT", "UPDATE", "DELETE")) and " leases" not in statement:
            conn.info["writes"] = True

    def _fail(self, conn: Any) -> None:
        if conn.info.pop("writes", False) and self.failing:
            raise PowerFailureError

    def _dump(self) -> list[Any]:
        with self.database.begin() as conn:
            return [sorted(map(repr, conn.execute(select(table)))) for table in (hosts, ports, events)]

    def _settled_stay(self, step: Step) -> None:
        """The same observation again, at any time and confirmed or not, changes no port of a settled host."""
        with self.database.begin() as conn:
            settled = conn.execute(select(hosts).where(hosts.c.fingerprint.is_not(None), hosts.c.removed_at.is_(None)))
            rows = {row.host_id: row for row in settled if row.host_id in step.inventory}
            known, stored = state.load(conn)
            opened = conditions.load(conn)
            fleet = {**known_hosts.listed(conn, besides=step.inventory), **step.inventory}
        if conditions.CLOCK_BACK in opened:
            return
        rules, declared = step.rules, declared_ports(step.inventory, (), {}, where=str)
        later = next(self.later)
        now = step.now + timedelta(minutes=1) + later
        looks = []
        for host_id, row in rows.items():
            look = self.looks.get((host_id, row.last_ok_at))
            if look is None or look.listing is None:
                continue  # the time was put right
            facts = contents.digest_of(archive.facts_to_json(look.listing))
            # Unless rules or declarations changed since.
            own = rules.for_host(step.inventory[host_id]).digest
            if row.fingerprint == fingerprint(facts, own, declared.get(host_id, {})):
                again: dict[str, Any] = {"run_id": "later", "observed_at": now, "confirmed": later > INTERVAL}
                looks.append(dataclasses.replace(look, **again))
        inputs = EvaluationInputs(
            inventory=fleet,
            rules=rules,
            settings=States(**step.settings),
            interval=INTERVAL,
            run_id="later",
            now=now,
            declared=declared,
            given=declared_terms(step.inventory, ()),
            accepted=step.accepted,
            invalid=step.invalid,
            forget_after=PRUNE_AFTER,
        )
        verdict = evaluate(known, stored, looks, inputs, opened)
        assert (verdict.ports, verdict.dropped) == ((), ()), f"{step.run_id}, {later} later"
        self.settled += len(looks)


@pytest.fixture
def pipeline(database: Database) -> Iterator[Careful]:
    made = Careful(database)
    yield made
    # The engine of a database is its own.
    sqlalchemy.event.remove(database.engine, "before_cursor_execute", made._notice)
    sqlalchemy.event.remove(database.engine, "commit", made._fail)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_pipeline_tells_what_the_naive_twin_tells(pipeline: Careful, seed: int) -> None:
    agree(pipeline, seeded(seed, RUNS), f"seed {seed}")
    assert pipeline.settled > RUNS // 3


def test_it_tells_the_same_of_udp(pipeline: Careful) -> None:
    agree(pipeline, seeded(12, RUNS, udp=True), "seed 12 with UDP")
    assert pipeline.settled > RUNS // 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_it_tells_the_same_if_some_looks_are_late(pipeline: Careful, seed: int) -> None:
    agree(pipeline, delayed(seed, seeded(seed, RUNS)), f"seed {seed}, delayed")


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_evaluated_again_ends_in_the_same(database: Database, seed: int) -> None:
    """By one policy: a replay goes by the rules of now."""
    steps = delayed(seed, seeded(seed, RUNS))
    steps = [dataclasses.replace(step, policy=steps[0].policy) for step in steps]
    judge = Pipeline(database)
    for step in steps:
        judge(step)
    before = all_of(database)
    wipe(database)
    window = Window(START, max(step.now for step in steps) + DAY)
    run = Run("again", replay_from=window.since)
    config = Pipeline.config(steps[-1])
    counts = replay_run(database, config, run, window, interval=INTERVAL, clock=lambda: window.until)
    assert counts["replayed"] == len(steps)
    after = all_of(database)
    for what, were in before.items():
        assert after[what] == were, f"seed {seed}: {what}"


def all_of(database: Database) -> dict[str, Any]:
    """State, open conditions and events."""
    with database.begin() as conn:
        told = derived(conn, START - DAY, START + 400 * DAY)
        same = [dataclasses.replace(one, replayed_by=None) for one in told]
        return {**state_of(conn), "open conditions": conditions.load(conn), "events": same}
