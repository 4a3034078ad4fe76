"""The content of the state database, and the events that other settings would have made of it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from portmon.api.view import View
from portmon.config import Config
from portmon.model.event import Event
from portmon.replay.archive import scratch_database, what_if
from portmon.storage import contents, sizes


class StatusView(View):
    """How much the state database holds, and since when.

    :param hosts: in the CMDB; ``hidden`` ones left it not long ago
    :param looks: observations
    :param steps: of the journal
    :param replayable_from: from when on the archive can be evaluated again
    :param last_run: start of the newest run
    """

    hosts: int
    hidden: int
    ports: int
    events: int
    looks: int
    runs: int
    steps: int
    checkpoints: int
    oldest_look: datetime | None
    newest_look: datetime | None
    replayable_from: datetime | None
    last_replay: datetime | None
    waiting_replays: int
    last_run: datetime | None
    last_run_finished: datetime | None
    contents: dict[str, int]


def status(conn: Connection) -> StatusView:
    """Count what the state database holds now."""
    return StatusView(**sizes.measure(conn))


def damaged(conn: Connection) -> list[str]:
    """Read all of the archive, and compare it with its hashes: the digests of what is damaged."""
    return list(contents.damaged(conn))


class ReplayView(View):
    """How the events of a time would differ from what they were, see :class:`portmon.replay.archive.Difference`.

    :param since: time of the checkpoint from which on observations were evaluated again
    :param evaluations: number of runs that were evaluated again
    """

    since: datetime
    until: datetime
    evaluations: int
    gained: tuple[Event, ...]
    lost: tuple[Event, ...]
    changed: tuple[tuple[Event, Event], ...]
    same: int
    counts: dict[str, tuple[int, int]]


def compare(conn: Connection, config: Config, *, since: datetime, until: datetime) -> ReplayView:
    """Evaluate the observations of a time again by other settings. Changes nothing.

    :param config: its rules, declared ports and states count
    :raises ReplayError: there is nothing to go by, or it begins later
    """
    with scratch_database() as scratch:
        found = what_if(conn, scratch, config, since=since, until=until)
    changes = {name: getattr(found, name) for name in ("gained", "lost", "changed", "same", "counts")}
    return ReplayView(since=found.span.since, until=found.span.until, evaluations=found.span.evaluations, **changes)
