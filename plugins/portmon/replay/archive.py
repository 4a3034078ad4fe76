"""Evaluate archived observations again, by the rules and settings of today or of another configuration.

Every observation is kept, and so is every step that changed the state (:mod:`portmon.storage.journal`). A replay
carries the steps out again, in their order, on the state of a checkpoint, in a scratch database; the state database is
only read.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from portmon.config import Config
from portmon.errors import ReplayError
from portmon.model.event import Event
from portmon.steps.evaluate import evaluate_looks, fleet_of
from portmon.steps.prune import carry_out
from portmon.storage import archive, checkpoints, contents, events, inventory, journal
from portmon.storage.database import Database


@dataclass(frozen=True, slots=True)
class Span:
    """The steps that were carried out again.

    :param after: the step of the journal whose state it began with, kept at ``since``
    :param last: the last step, of ``until``
    :param evaluations: how many of the steps are evaluations
    """

    after: int
    since: datetime
    until: datetime
    last: int
    evaluations: int


@contextmanager
def scratch_database() -> Iterator[Database]:
    """An empty database for :func:`evaluate_again`, which is deleted after the block."""
    with tempfile.TemporaryDirectory(prefix="portmon-replay-") as folder:
        made = Database(f"sqlite:///{Path(folder) / 'state.db'}", throwaway=True)
        try:
            yield made
        finally:
            made.dispose()


def base_of(source: Connection, since: datetime) -> tuple[int, datetime]:
    """The checkpoint with which a replay of a time begins: the step that it was taken after, and when that was.

    :raises ReplayError: there is none
    """
    base = checkpoints.before(source, since)
    if base is None:
        raise ReplayError(
            "no run has kept what a replay needs, so there is nothing before the next run: wait for the next one"
        )
    return base


def evaluate_again(
    source: Connection,
    scratch: Database,
    config: Config,
    *,
    since: datetime,
    until: datetime | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Span:
    """Carry the steps of the journal out again, from the checkpoint before a moment on.

    Takes the memory of one run, however long the time is: state, events and checkpoints are in the scratch database.

    :param source: of the state database, which is only read
    :param scratch: an empty database, which has state and events afterwards
    :param config: whose rules, declared ports and states are used
    :param until: steps after this are left out
    :param on_step: called after each step with its number and the number of steps
    :raises ReplayError: there is no checkpoint
    :raises StorageError: a part of the archive is gone or damaged
    """
    seq, at = base_of(source, since)
    scratch.migrate()
    with scratch.begin() as conn:
        checkpoints.restore(source, seq, conn)
    return carry_on(source, scratch, config, Span(seq, at, at, seq, 0), until=until, on_step=on_step)


def carry_on(
    source: Connection,
    scratch: Database,
    config: Config,
    span: Span,
    *,
    until: datetime | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Span:
    """Go on where a replay ended, with the steps since.

    :param span: the steps that were carried out so far
    """
    steps = list(journal.entries(source))
    evaluated = journal.EvaluatedObservations(steps)
    # Host lists and inputs of steps that follow each other are mostly the same.
    hosts_of = lru_cache(maxsize=2)(lambda digest: inventory.load(source, digest).hosts)
    inputs_of = lru_cache(maxsize=2)(lambda digest: journal.inputs_from_json(contents.get(source, digest)))
    taken = checkpoints.taken(source, after=span.after)
    left = [step for step in steps if step.seq > span.last and (until is None or step.at <= until)]
    for number, step in enumerate(left, start=1):
        named: dict[str, Any] = {"run_id": step.run_id, "now": step.at, "step": step.seq}
        listed = hosts_of(step.inventory)
        with scratch.begin() as conn:
            if step.kind == journal.PRUNE:
                carry_out(conn, journal.pruned_from_json(contents.get(source, step.what)), listed, **named)
            else:
                inputs = inputs_of(step.what)
                fleet = fleet_of(listed, inputs)
                found = archive.observations_of(source, step.run_id, step.late)
                own = evaluated.of(step, (one for one in found if one.host_id in fleet))
                evaluate_looks(conn, own, fleet, inputs, config, source=source, **named)
            if step.seq in taken:
                checkpoints.take(conn, step.seq, taken[step.seq])
        if on_step is not None:
            on_step(number, len(left))
    return dataclasses.replace(
        span,
        until=left[-1].at if left else span.until,
        last=left[-1].seq if left else span.last,
        evaluations=span.evaluations + sum(step.kind == journal.EVALUATE for step in left),
    )


# ── what if ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Difference:
    """How the events of a replay differ from the stored ones.

    :param gained: events of the replay alone
    :param lost: stored events that the replay lacks
    :param changed: events that differ: as stored, and of the replay
    :param same: number of events that are alike
    :param counts: kind: number of stored events, and of those of the replay
    """

    span: Span
    gained: tuple[Event, ...]
    lost: tuple[Event, ...]
    changed: tuple[tuple[Event, Event], ...]
    same: int
    counts: Mapping[str, tuple[int, int]]


def what_if(source: Connection, scratch: Database, config: Config, *, since: datetime, until: datetime) -> Difference:
    """Compare the events that a configuration would have derived of a time with the stored ones. Stores nothing.

    :param source: of the state database, which is only read
    :param scratch: an empty database
    :param until: events from ``since`` on and before this are compared
    :raises ReplayError: there is no checkpoint from before ``since``
    """
    span = evaluate_again(source, scratch, config, since=since, until=until)
    if span.since > since:
        raise ReplayError(
            f"what a replay needs is kept from {span.since:%Y-%m-%d %H:%M} UTC on: give a later beginning"
        )
    with scratch.begin() as conn:
        would = _events_of(conn, since, until, span)
    were = _events_of(source, since, until, span)
    both = [(were[event_id], event) for event_id, event in would.items() if event_id in were]
    numbers = [Counter(event.kind.value for event in found.values()) for found in (were, would)]
    return Difference(
        span,
        gained=tuple(event for event_id, event in would.items() if event_id not in were),
        lost=tuple(event for event_id, event in were.items() if event_id not in would),
        changed=tuple((was, is_) for was, is_ in both if was != is_),
        same=sum(was == is_ for was, is_ in both),
        counts={kind: (numbers[0][kind], numbers[1][kind]) for kind in sorted(numbers[0] | numbers[1])},
    )


def _events_of(conn: Connection, since: datetime, until: datetime, span: Span) -> dict[str, Event]:
    # Without the mark of a replay, so that events compare equal.
    found = events.derived(conn, since, until, after=span.after, last=span.last)
    return {event.id: dataclasses.replace(event, replayed_by=None) for event in found}
