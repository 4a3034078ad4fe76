"""The ports of a host, and what people decide about them. Loads pandas."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection

from portmon.api.hosts import find_host
from portmon.api.view import Text, View, place
from portmon.engine.frames import ports_of
from portmon.engine.owners import present
from portmon.engine.state import Port
from portmon.errors import CommandError
from portmon.fields import format_duration
from portmon.model.numbers import text_of
from portmon.model.state import PortStatus
from portmon.storage import actions, decisions, state
from portmon.storage.actions import Action
from portmon.storage.decisions import DecisionKind


class PortView(View):
    """One port as it is stored, see :class:`portmon.engine.state.Port`."""

    host_id: str
    protocol: str
    port: int
    status: str
    status_since: datetime
    misses: int
    streak: int
    counted_at: datetime | None
    first_seen_at: datetime | None
    last_seen_at: datetime | None
    addresses: tuple[Text, ...]
    programs: tuple[Text, ...]
    pids: tuple[int, ...]
    uids: tuple[int, ...]
    units: tuple[Text, ...]
    tool: str | None
    at_baseline: bool
    declared: Text | None
    grace_until: datetime | None
    flapping_since: datetime | None
    changed_at: datetime | None
    lost: tuple[Text, ...]
    lost_since: datetime | None
    comms: tuple[Text, ...]
    hidden_since: datetime | None
    paused: bool
    boots: tuple[float, ...]


def known_ports(conn: Connection, host_id: str) -> list[Port]:
    """The stored ports of one host, by number."""
    return sorted(ports_of(state.load(conn, [host_id])[1]), key=lambda port: port.number)


def list_ports(conn: Connection, host: str) -> list[PortView]:
    """The ports of one host, by number."""
    return [PortView.model_validate(port) for port in known_ports(conn, find_host(conn, host).id)]


def host_status(conn: Connection, host: str) -> str:
    """The stored state of a host, see :class:`portmon.model.state.HostStatus`."""
    found = find_host(conn, host).id
    return str(state.load_hosts(conn, [found], light=True)[found].status)


def accept(
    conn: Connection, host: str, port: int, *, author: str, reason: str, now: datetime, owner: bool = False
) -> str:
    """Note that a port which is down, or an address or an owner that it lost, is gone for good.

    If another owner has the port, it belongs there from then on.

    :param owner: the decision is about owners, so that there has to be one that left or came
    """
    found = find_host(conn, host)
    known = next((one for one in known_ports(conn, found.id) if one.number == port), None)
    gone = [str(owner) for owner in known.owners if owner.gone_since] if known else []
    if known is None or (known.status != PortStatus.DOWN and not known.lost and not gone):
        raise CommandError(f"{found.name}: port {text_of(port)} is not down; there is nothing to accept")
    holders = ", ".join(map(str, present(known.holders)))
    if owner and not (holders or gone):
        raise CommandError(f"{found.name}: no owner left port {text_of(port)}, and no other one has it")
    if known.declared and known.status == PortStatus.DOWN and not holders:
        told = f"port {text_of(port)} is {known.declared}; take that back, or it is down again at once"
        raise CommandError(f"{found.name}: {told}")
    decisions.decide(conn, DecisionKind.ACCEPTED, found.id, port, at=now, author=author, reason=reason)
    before = {"status": known.status, "since": known.status_since.isoformat()}
    actions.record(conn, Action(now, author, "accept", place(found.name, port), reason, before, {"status": "accepted"}))
    if known.status != PortStatus.DOWN:
        lacks = ", ".join((*known.lost, *gone))
        return (
            f"{found.name}: port {text_of(port)} is accepted without {lacks}; the next complete answer ends its alert"
        )
    if holders:
        whose = f"is accepted as that of {holders}; the next complete answer ends its alert"
        return f"{found.name}: port {text_of(port)} {whose}"
    return f"{found.name}: port {text_of(port)} is accepted as gone; the next complete answer without it retires it"


def forget_boots(conn: Connection, host: str, port: int, *, author: str, reason: str, now: datetime) -> str:
    """Note that a port is not to have more time after the next boot of its host because it took long before.

    :raises CommandError: nothing is known of its boots
    """
    found = find_host(conn, host)
    known = next((one for one in known_ports(conn, found.id) if one.number == port), None)
    if known is None or not known.boots:
        raise CommandError(f"{found.name}: no boot of port {text_of(port)} is known; there is nothing to forget")
    decisions.decide(conn, DecisionKind.FORGOTTEN, found.id, port, at=now, author=author, reason=reason)
    before = {"boots": [round(took) for took in known.boots]}
    actions.record(conn, Action(now, author, "forget_boots", place(found.name, port), reason, before, {"boots": []}))
    longest = format_duration(timedelta(seconds=round(max(known.boots))))
    return (
        f"{found.name}: that port {text_of(port)} took up to {longest} after boots does not count any more, from the "
        "next boot on"
    )


def promote(conn: Connection, host: str, port: int, *, author: str, reason: str, now: datetime) -> str:
    """Note that a port must listen from now on. It need not be known yet."""
    found = find_host(conn, host)
    decisions.decide(conn, DecisionKind.PROMOTED, found.id, port, at=now, author=author, reason=reason)
    # A port that must listen is watched whatever the rules say.
    decisions.withdraw(conn, DecisionKind.IGNORED, found.id, port)
    actions.record(conn, Action(now, author, "promote", place(found.name, port), reason, after={"declared": True}))
    return f"{found.name}: port {text_of(port)} must listen from now on"


def withdraw_promotion(conn: Connection, host: str, port: int, *, author: str, reason: str = "", now: datetime) -> str:
    """Take the promotion of a port back."""
    found = find_host(conn, host)
    if not decisions.withdraw(conn, DecisionKind.PROMOTED, found.id, port):
        raise CommandError(f"{found.name}: port {text_of(port)} was not promoted")
    actions.record(conn, Action(now, author, "unpromote", place(found.name, port), reason, {"declared": True}))
    return f"{found.name}: port {text_of(port)} is no longer promoted"
