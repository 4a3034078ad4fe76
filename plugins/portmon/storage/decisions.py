"""Decisions of people about ports: gone for good, or promoted to declared."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, select

from portmon.model.observation import PROTOCOL, PortKey
from portmon.storage.hosts import unsettle
from portmon.storage.sql import upsert_rows
from portmon.storage.tables import decisions


class DecisionKind(StrEnum):
    """Kinds of decisions."""

    ACCEPTED = "accepted"
    """A port that is down may stay so: it is not watched any more."""
    PROMOTED = "promoted"
    """The port must listen from now on, as if the CMDB had declared it."""


def decide(
    conn: Connection, kind: DecisionKind, host_id: str, port: int, *, at: datetime, author: str, reason: str = ""
) -> None:
    """Note a decision; a later one of the same kind replaces it.

    :param at: when; an acceptance counts for a port that was down by then
    """
    row = {"host_id": host_id, "protocol": PROTOCOL, "port": port, "kind": kind}
    upsert_rows(conn, decisions, [{**row, "at": at, "author": author, "reason": reason}])
    unsettle(conn, [host_id])


def withdraw(conn: Connection, kind: DecisionKind, host_id: str, port: int) -> bool:
    """Take a decision back; False if there was none."""
    where = (decisions.c.host_id == host_id, decisions.c.port == port, decisions.c.kind == kind)
    unsettle(conn, [host_id])
    return bool(conn.execute(delete(decisions).where(*where)).rowcount)


def accepted(conn: Connection) -> dict[PortKey, datetime]:
    """When ports were accepted as gone."""
    query = select(decisions.c.host_id, decisions.c.protocol, decisions.c.port, decisions.c.at)
    rows = conn.execute(query.where(decisions.c.kind == DecisionKind.ACCEPTED))
    return {(row.host_id, row.protocol, row.port): row.at for row in rows}


def acceptance(conn: Connection, host_id: str, port: int) -> tuple[datetime, str] | None:
    """When a port was accepted as gone, and by whom and why."""
    where = (decisions.c.host_id == host_id, decisions.c.port == port, decisions.c.kind == DecisionKind.ACCEPTED)
    row = conn.execute(select(decisions.c.at, decisions.c.author, decisions.c.reason).where(*where)).first()
    return (row.at, _who(row)) if row else None


def promoted(conn: Connection) -> dict[tuple[str, int], str]:
    """Who promoted ports, and why."""
    query = select(decisions.c.host_id, decisions.c.port, decisions.c.author, decisions.c.reason)
    rows = conn.execute(query.where(decisions.c.kind == DecisionKind.PROMOTED))
    return {(row.host_id, row.port): _who(row) for row in rows}


def _who(row: Any) -> str:
    return f"{row.author}: {row.reason}" if row.reason else str(row.author)
