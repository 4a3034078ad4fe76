"""Judge the archive again: what was seen, through the rules and settings of today or of another configuration.

A port can't be looked at in the past. But every look is kept, and so is every step that changed the state
(:mod:`portmon.storage.journal`). They are carried out again, in their order, on the state as it was at a checkpoint, in
a database of its own: nobody else sees it, and the one that is in use is only read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from sqlalchemy import Connection

from portmon.config import Config
from portmon.errors import ReplayError
from portmon.events import CLOSES
from portmon.models import Event, EventKind, Host
from portmon.pipeline.judge import fleet_of, judge_looks
from portmon.pipeline.prune import carry_out
from portmon.storage import archive, checkpoints, contents, inventory, journal, outbox
from portmon.storage.database import Database

OF_THE_MOMENT = frozenset(
    {
        EventKind.CMDB_STALE,
        EventKind.CMDB_FRESH,
        EventKind.PRUNE_REFUSED,
        EventKind.PRUNE_RESUMED,
        EventKind.RUN_OVERDUE,
        EventKind.RUN_IN_TIME,
    }
)
"""Kinds that do not follow from what was seen: judging it again makes none of them."""


def is_derived(event: Event) -> bool:
    """Whether an event follows from what was seen, so that judging that again makes it again."""
    return event.kind not in OF_THE_MOMENT and CLOSES not in event.details


@dataclass(frozen=True, slots=True)
class Span:
    """What was judged again.

    :param since: the checkpoint from which on
    :param until: the last step
    :param judgements: how many
    :param run_ids: of the runs whose steps these were
    """

    since: datetime
    until: datetime
    judgements: int
    run_ids: frozenset[str]


def judge_again(source: Connection, scratch: Database, config: Config, *, since: datetime, until: datetime) -> Span:
    """Carry out again what changed the state, from the checkpoint before a moment on.

    Takes the memory of one run, however long the time is: state and events are in the scratch database.

    :param source: of the state database, which is only read
    :param scratch: an empty database, which has state and events afterwards
    :param config: its rules, declared ports and states count
    :param until: steps after this are left out
    :raises ReplayError: there is nothing to go by
    :raises StorageError: a part of the archive is gone or damaged
    """
    base = checkpoints.before(source, since)
    if base is None:
        raise ReplayError("no run has kept what it takes to judge the archive again: wait for the next one")
    seq, at = base
    steps = list(journal.entries(source))
    looks = journal.Looks(steps)
    hosts_of = _HostLists(source)
    done = []
    scratch.migrate()
    with scratch.begin() as conn:
        checkpoints.restore(source, seq, conn)
        for step in steps:
            if step.seq <= seq or step.at > until:
                continue
            if step.kind == journal.PRUNE:
                pruned = journal.pruned_from_json(contents.get(source, step.what))
                carry_out(conn, pruned, hosts_of.listed(step.inventory), run_id=step.run_id, now=step.at)
            else:
                fleet, terms = hosts_of.fleet(step.inventory, step.what)
                found = (look for look in archive.looks_for(source, step.run_id, step.late) if look.host_id in fleet)
                own = looks.of(step, found)
                judge_looks(conn, own, fleet, terms, config, run_id=step.run_id, now=step.at, source=source)
            done.append(step)
    return Span(
        since=at,
        until=done[-1].at if done else at,
        judgements=sum(step.kind == journal.JUDGE for step in done),
        run_ids=frozenset(step.run_id for step in done),
    )


class _HostLists:
    """Host lists, and what judgements went by, of which those that follow each other are mostly the same."""

    def __init__(self, source: Connection) -> None:
        self.listed = lru_cache(maxsize=2)(lambda digest: inventory.load(source, digest).hosts)
        self._terms = lru_cache(maxsize=2)(lambda digest: journal.terms_from_json(contents.get(source, digest)))

    def fleet(self, listed: str, terms: str) -> tuple[dict[str, Host], journal.Terms]:
        """What may be judged, and by what.

        :param listed: digest of the host list
        :param terms: digest
        """
        found = self._terms(terms)
        return fleet_of(self.listed(listed), found), found


# ── what if ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Difference:
    """How events of a time differ from what was.

    :param span: what was judged again
    :param gained: events that would have been
    :param lost: events that were, and would not have been
    :param changed: those that would have been told otherwise: as they were, and as they would have been
    :param same: how many are alike
    :param counts: kind: number of events that were, and that would have been
    """

    span: Span
    gained: tuple[Event, ...]
    lost: tuple[Event, ...]
    changed: tuple[tuple[Event, Event], ...]
    same: int
    counts: Mapping[str, tuple[int, int]]


def what_if(source: Connection, scratch: Database, config: Config, *, since: datetime, until: datetime) -> Difference:
    """What a configuration would have made of the looks of a time, and what was made of them. Stores nothing.

    :param source: of the state database, which is only read
    :param scratch: an empty database
    :param since: events from then on are compared
    :param until: and before this
    :raises ReplayError: there is nothing to go by, or it begins later
    """
    span = judge_again(source, scratch, config, since=since, until=until)
    if span.since > since:
        raise ReplayError(
            f"what it takes to judge the archive again is kept from {span.since:%Y-%m-%d %H:%M} UTC on: give a later "
            "beginning"
        )
    with scratch.begin() as conn:
        would = {event.id: event for event in _of_time(conn, since, until)}
    # What a later run made of a look from before the end is not there yet.
    were = {event.id: event for event in _of_time(source, since, until) if event.run_id in span.run_ids}
    both = [(were[event_id], event) for event_id, event in would.items() if event_id in were]
    numbers = [Counter(event.kind.value for event in events.values()) for events in (were, would)]
    return Difference(
        span,
        gained=tuple(event for event_id, event in would.items() if event_id not in were),
        lost=tuple(event for event_id, event in were.items() if event_id not in would),
        changed=tuple((was, is_) for was, is_ in both if was != is_),
        same=sum(was == is_ for was, is_ in both),
        counts={kind: (numbers[0][kind], numbers[1][kind]) for kind in sorted(numbers[0] | numbers[1])},
    )


def _of_time(conn: Connection, since: datetime, until: datetime) -> Iterator[Event]:
    return (event for event in outbox.between(conn, since, until) if is_derived(event))
