"""What people did: a list that only grows, until it is too old."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from portmon.storage.tables import actions


@dataclass(frozen=True, slots=True)
class Action:
    """Something that a person did.

    :param kind: such as ``silence`` or ``accept``
    :param subject: what it is about, in words
    :param before: what it changed, JSON types only; None if there was nothing
    :param after: what it is now; None if it is gone
    """

    at: datetime
    author: str
    kind: str
    subject: str
    reason: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    id: int = 0


def record(conn: Connection, action: Action) -> None:
    """Keep an action, in the transaction that does it."""
    conn.execute(insert(actions), {name: getattr(action, name) for name in _NAMES})


def newest(conn: Connection, *, limit: int, before: int | None = None) -> list[Action]:
    """What people did last, newest first.

    :param before: older ones than the action of this id
    """
    query = select(*(actions.c[name] for name in (*_NAMES, "id"))).order_by(actions.c.id.desc()).limit(limit)
    return [Action(*row) for row in conn.execute(query if before is None else query.where(actions.c.id < before))]


def expire(conn: Connection, before: datetime) -> int:
    """Delete what people did before a moment, and return how much that was."""
    return int(conn.execute(delete(actions).where(actions.c.at < before)).rowcount)


_NAMES = ("at", "author", "kind", "subject", "reason", "before", "after")
