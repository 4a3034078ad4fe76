"""Evaluating the archive again: the same state and events as the runs made, and what another configuration would make."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from portmon.config import Config
from portmon.errors import ReplayError, StorageError
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host
from portmon.replay.archive import Difference, evaluate_again, what_if
from portmon.steps import evaluate as evaluating
from portmon.steps.run import Run
from portmon.storage import archive, checkpoints, contents, events, journal, tables
from portmon.storage.database import Database
from tests.worlds.eventful import LONG_AGO, derived, eventful, everything_in, lived, small_fleet, state_of
from tests.worlds.fleet import FIVE, MONDAY, Fleet


def replayed(fleet: Fleet, scratch: Database, since: datetime = LONG_AGO) -> tuple[Any, list[Event]]:
    with fleet.database.begin() as source:
        evaluate_again(source, scratch, fleet.config, since=since, until=fleet.now)
    with scratch.begin() as conn:
        return state_of(conn), derived(conn)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.full)])
def test_replaying_everything_gives_the_state_and_the_events_that_the_runs_gave(
    database: Database, scratch: Database, seed: int
) -> None:
    fleet = small_fleet(database, cmdb={"max_prune_ratio": 1, "prune_after": "1h"})
    eventful(fleet, 70, seed)
    state, events = lived(fleet)
    assert {event.kind for event in events} >= {EventKind.DOWN, EventKind.UNREACHABLE}
    again, again_events = replayed(fleet, scratch)
    assert again_events == events
    assert again == state


def test_a_replay_begins_at_the_last_checkpoint_before_its_time(database: Database, scratch: Database) -> None:
    fleet = small_fleet(database)
    fleet.start = MONDAY - timedelta(hours=2)
    eventful(fleet, 48)
    state, events = lived(fleet)
    with database.begin() as source:
        span = evaluate_again(source, scratch, fleet.config, since=MONDAY + timedelta(hours=1), until=fleet.now)
    assert span.since == MONDAY
    assert span.evaluations == 24
    with scratch.begin() as conn:
        assert state_of(conn) == state
        assert derived(conn) == [event for event in events if event.at >= MONDAY]


def test_looks_that_a_later_run_evaluated_are_evaluated_with_that_run(database: Database, scratch: Database) -> None:
    """A run that was killed before its evaluation, and a look that was stored after it."""
    fleet = small_fleet(database)
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.run(evaluate=False)
    fleet.run()
    # A task that was cleared: it looks once more after its run was evaluated.
    with database.begin() as conn:
        archive.save_observation(conn, fleet.machines["web2"].look("run00002", fleet.now - timedelta(minutes=1)))
    fleet.machines["web2"].kill(443)
    fleet.run()
    state, events = lived(fleet)
    assert replayed(fleet, scratch) == (state, events)
    with database.begin() as conn:
        named = {step.run_id: [host_id for host_id, _ in step.late] for step in journal.entries(conn) if step.late}
    assert {run_id: len(ids) for run_id, ids in named.items()} == {"run00002": 5, "run00003": 1}


def test_a_run_that_is_evaluated_twice(database: Database, scratch: Database) -> None:
    """Its tasks were cleared, and asked once more."""
    fleet = small_fleet(database)
    fleet.run()
    fleet.run()
    fleet.machines["web1"].kill(80)
    run = Run("run00001", run_type="scheduled")
    at = fleet.now - timedelta(minutes=1)
    with database.begin() as conn:
        archive.save_observation(conn, fleet.machines["web1"].look(run.run_id, at))
        digest = list(journal.entries(conn))[-1].inventory
    evaluating.evaluate_run(database, fleet.config, run, digest, planned={}, interval=FIVE, now=at)
    fleet.run()
    state, events = lived(fleet)
    assert replayed(fleet, scratch) == (state, events)


def test_a_quiet_time_leaves_one_step_for_each_run(database: Database) -> None:
    fleet = small_fleet(database)
    for _ in range(5):
        fleet.run()
    with database.begin() as conn:
        steps = list(journal.entries(conn))
        kept = conn.execute(select(tables.contents.c.digest)).scalars().all()
    assert [step.kind for step in steps] == [journal.PRUNE, *[journal.EVALUATE] * 5]
    assert len({step.what for step in steps}) == 2
    assert {step.what for step in steps} <= set(kept)


def test_what_another_configuration_would_have_told(database: Database, scratch: Database) -> None:
    fleet = small_fleet(database)
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.machines["db"].kill(5432)
    fleet.run()
    fleet.run()
    fleet.machines["web1"].start(80, "nginx")
    fleet.run()

    def evaluated_by(rules: list[dict[str, Any]]) -> Difference:
        other = Config(rules=rules)
        with database.begin() as source:
            return what_if(source, scratch, other, since=MONDAY, until=fleet.now)

    found = evaluated_by([{"action": "deny", "port": 5432}])
    assert {(event.kind, event.host_name) for event in found.lost} >= {(EventKind.DOWN, "db")}
    assert not [event for event in found.gained if event.kind is EventKind.DOWN]
    down = found.counts["down"]
    assert (down[0], down[1]) == (2, 1)
    assert found.span.evaluations == 4


def test_the_same_configuration_would_have_told_the_same(database: Database, scratch: Database) -> None:
    fleet = small_fleet(database)
    eventful(fleet, 20)
    with database.begin() as source:
        found = what_if(source, scratch, fleet.config, since=MONDAY, until=fleet.now)
    assert (found.gained, found.lost, found.changed) == ((), (), ())
    assert found.same > 10
    assert all(were == would for were, would in found.counts.values())


def test_what_a_later_run_made_of_the_time_is_left_out(database: Database, scratch: Database) -> None:
    fleet = small_fleet(database)
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.run(evaluate=False)
    end = fleet.now - timedelta(seconds=1)
    fleet.run()
    with database.begin() as source:
        assert [event for event in events.recent(source) if event.kind is EventKind.DOWN and event.at < end]
        found = what_if(source, scratch, fleet.config, since=MONDAY, until=end)
    assert (found.gained, found.lost, found.changed) == ((), (), ())


def test_replaying_changes_nothing(database: Database, scratch: Database) -> None:
    fleet = small_fleet(database)
    eventful(fleet, 20)
    before = lived(fleet)
    with database.begin() as conn:
        rows = everything_in(conn)
    replayed(fleet, scratch)
    assert lived(fleet) == before
    with database.begin() as conn:
        assert everything_in(conn) == rows


def test_without_a_journal_there_is_nothing_to_go_by(database: Database, scratch: Database) -> None:
    with database.begin() as source, pytest.raises(ReplayError, match="wait for the next one"):
        evaluate_again(source, scratch, Config(), since=LONG_AGO, until=MONDAY)


def test_a_time_before_the_first_checkpoint_is_refused(database: Database, scratch: Database) -> None:
    fleet = small_fleet(database)
    fleet.run()
    with database.begin() as source, pytest.raises(ReplayError, match="kept from 2026-03-02 00:00 UTC on"):
        what_if(source, scratch, fleet.config, since=LONG_AGO, until=fleet.now)


def test_a_damaged_archive_is_said_to_be_one(database: Database, scratch: Database) -> None:
    fleet = small_fleet(database)
    fleet.run()
    with database.begin() as conn:
        digest = conn.execute(select(tables.observations.c.facts).limit(1)).scalar()
        conn.execute(update(tables.contents).where(tables.contents.c.digest == digest).values(data=b"damaged"))
    with database.begin() as source, pytest.raises(StorageError, match="damaged"):
        evaluate_again(source, scratch, fleet.config, since=LONG_AGO, until=fleet.now)


def test_checkpoints_are_daily_and_expire_with_the_archive(database: Database) -> None:
    fleet = small_fleet(database, retention={"observations": "2d"})
    fleet.start = MONDAY - timedelta(minutes=10)
    for day in range(5):
        fleet.number = 288 * day
        fleet.run()
        fleet.run()
        fleet.run()
    with database.begin() as conn:
        days = sorted(set(conn.execute(select(tables.checkpoints.c.at)).scalars()))
        oldest = next(iter(journal.entries(conn))).at
        wanted = conn.execute(select(tables.checkpoints.c.content)).scalars().all()
        assert set(contents.read_many(conn, wanted)[0]) == set(wanted)
        assert checkpoints.before(conn, days[0]) is not None
    assert [at.date() for at in days] == [(MONDAY + timedelta(days=day)).date() for day in (2, 3, 4)]
    assert oldest >= fleet.now - FIVE - timedelta(days=2)


def test_what_terms_say_is_read_as_it_was_written() -> None:
    inputs = journal.Inputs(
        interval=FIVE,
        besides=(Host("id-a", "a\udcff", "a.example.com", 22, {"env": "prod"}, (80,)),),
        planned={"id-b": ("netstat", 1), "id-a": ("sweep", 0), "id-c": ("sweep", 0)},
        accepted={("id-a", "tcp", 80): MONDAY},
        promoted={("id-a", 443): "ann: must"},
        ignored={("id-a", 8080): "until 2026-03-03 00:00 UTC by ann: noise"},
        forgotten={("id-a", "udp", 53): MONDAY},
    )
    assert journal.inputs_from_json(inputs.to_json()) == inputs
    done = journal.Pruned(hide=("a",), purge=("b",), sync=False, resume=("c",))
    assert journal.pruned_from_json(done.to_json()) == done
