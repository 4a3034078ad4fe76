"""Times that a replay is to evaluate again, and the results of replays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, update

from portmon.storage.sql import inserted_id
from portmon.storage.tables import replays


@dataclass(frozen=True, slots=True)
class Mark:
    """A time that is to be evaluated again.

    :param run_id: of the run that asks for it
    :param until: events before this are sent if ``notify`` is set
    :param notify: send the events that the replay derives
    """

    id: int
    run_id: str
    since: datetime
    until: datetime
    notify: bool
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class Done:
    """A time that was evaluated again.

    :param done_by: the run that did it, maybe for others as well
    :param evaluated_from: time of the checkpoint that it began with
    :param last_step: the last step of the journal that it carried out
    :param rules: digest of the version and the settings
    :param summary: counts for people
    """

    done_by: str
    done_at: datetime
    evaluated_from: datetime
    last_step: int
    rules: str
    summary: Mapping[str, int]


def _columns(kind: type[Mark] | type[Done]) -> list[Any]:
    return [replays.c[name] for name in kind.__slots__]


def mark(conn: Connection, run_id: str, *, since: datetime, until: datetime, notify: bool, now: datetime) -> int:
    """Add the mark of a run in place of its earlier one, and return its id."""
    drop(conn, [one.id for one in marks(conn) if one.run_id == run_id])
    row = {"run_id": run_id, "since": since, "until": until, "notify": notify, "asked_at": now}
    return inserted_id(conn, replays, row)


def marks(conn: Connection) -> list[Mark]:
    """Marks that no replay has finished yet."""
    return [Mark(*row) for row in conn.execute(select(*_columns(Mark)).where(replays.c.done_at.is_(None)))]


def drop(conn: Connection, ids: Collection[int]) -> None:
    """Delete marks that no replay has finished."""
    conn.execute(delete(replays).where(replays.c.id.in_(list(ids)), replays.c.done_at.is_(None)))


def finish(conn: Connection, ids: Collection[int], done: Done) -> None:
    """Note the result of a replay at its marks."""
    conn.execute(update(replays).where(replays.c.id.in_(list(ids))).values(asdict(done)))


def last(conn: Connection, *, run_id: str | None = None) -> Done | None:
    """The newest replay, or the newest one that finished the mark of a run."""
    done = select(*_columns(Done)).where(replays.c.done_at.is_not(None))
    if run_id is not None:
        done = done.where(replays.c.run_id == run_id)
    row = conn.execute(done.order_by(replays.c.done_at.desc(), replays.c.id.desc()).limit(1)).first()
    return None if row is None else Done(*row)


def expire(conn: Connection, before: datetime) -> None:
    """Forget replays from before a moment."""
    conn.execute(delete(replays).where(replays.c.asked_at < before))
