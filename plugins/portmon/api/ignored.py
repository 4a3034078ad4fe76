"""Ports that people ignore until a time: rules of their own, before those of portmon.yaml."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Connection

from portmon.api.fleet import Page
from portmon.api.hosts import find_host
from portmon.api.view import Text, View, minute, place
from portmon.errors import CommandError, RequestError
from portmon.model.event import alert_key_of
from portmon.model.numbers import text_of
from portmon.storage import actions, alerts, decisions, hosts
from portmon.storage.actions import Action
from portmon.storage.decisions import DecisionKind


class IgnoredView(View):
    """A port that is ignored.

    :param host: name of its host; None if the host was deleted since
    """

    host_id: Text
    host: Text | None
    protocol: str
    port: int
    at: datetime
    author: Text
    reason: Text
    ends_at: datetime


def list_ignored(conn: Connection, now: datetime, *, limit: int = 100, offset: int = 0) -> Page[IgnoredView]:
    """Ports that are ignored, the latest decision first."""
    found, total = decisions.newest_ignored(conn, now, limit=limit, offset=offset)
    names = {host.id: host.name for host in hosts.known(conn, {one.host_id for one in found})}
    rows = (IgnoredView(host=names.get(one.host_id), **asdict(one)) for one in found)
    return Page(rows=tuple(rows), total=total, offset=offset, limit=limit)


def ignore(conn: Connection, host: str, port: int, *, until: datetime, author: str, reason: str, now: datetime) -> str:
    """Watch a port no more until a time; it need not be known. Another ignoring of it is replaced.

    :raises CommandError: the port must listen
    :raises RequestError: the time is over
    """
    if until <= now:
        raise RequestError("it must end in the future")
    found = find_host(conn, host)
    decided = decisions.in_force(conn, now, host_id=found.id)
    promoted = decided.promoted.get((found.id, port))
    must = f"promoted by {promoted}" if promoted else hosts.declaration(conn, found.id, port)
    if must:
        raise CommandError(
            f"{found.name}: port {text_of(port)} is {must}, so no rule applies to it; take that back first"
        )
    before = decided.ignored.get((found.id, port))
    decisions.decide(conn, DecisionKind.IGNORED, found.id, port, at=now, author=author, reason=reason, ends_at=until)
    done = Action(
        now,
        author,
        "ignore",
        place(found.name, port),
        reason,
        before={"ignored": before} if before else None,
        after={"ends_at": until.isoformat()},
    )
    actions.record(conn, done)
    alert = "; its open alert ends" if alerts.opened(conn, [alert_key_of(found.id, port)]) else ""
    return f"{found.name}: port {text_of(port)} is ignored until {minute(until)}{alert}"


def watch_again(conn: Connection, host: str, port: int, *, author: str, reason: str = "", now: datetime) -> str:
    """End the ignoring of a port before its time."""
    found = find_host(conn, host)
    before = decisions.in_force(conn, now, host_id=found.id).ignored.get((found.id, port))
    if before is None:
        raise CommandError(f"{found.name}: port {text_of(port)} is not ignored")
    decisions.withdraw(conn, DecisionKind.IGNORED, found.id, port)
    actions.record(conn, Action(now, author, "watch", place(found.name, port), reason, before={"ignored": before}))
    return f"{found.name}: port {text_of(port)} is watched again as the rules say"
