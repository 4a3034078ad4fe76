"""``alerts``, ``ack`` and ``unack``: what goes on, and who takes care of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portmon.cli.options import AuthorOption, Format, FormatOption, HostArgument, ReasonOption, author_of, open_database
from portmon.cli.terminal import cell, say, table_of
from portmon.cli.times import ForOption, UntilOption, end_of, minute
from portmon.errors import CommandError
from portmon.model.event import Event
from portmon.model.observation import PROTOCOL

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portmon.alerting.silences import Withholding
    from portmon.model.alert import Alert, DeliveryStatus
    from portmon.model.host import KnownHost

SomePortArgument = Annotated[
    int | None, typer.Argument(help="TCP port; without it what is wrong with the server itself.", min=1, max=65535)
]


def list_alerts(output: FormatOption = Format.TABLE) -> None:
    """Show what goes on: open alerts, who was told of them, and what withholds their messages.

    The JSON has for each `id`, `since`, `host_id`, `host`, `port`, `program`, `unit`, `kind`, `severity`, `reason`;
    `told`, a list of `channel`, `route`, `state`, `reason`; `withheld`, null or `silence` (its id), `acknowledged` and
    `told` (in words).
    """
    from portmon.storage import alerts, deliveries, silences

    now = datetime.now(UTC)
    with open_database(quiet=output is Format.JSON).begin() as conn:
        opened = list(alerts.opened(conn).values())
        statuses = deliveries.of_alerts(conn, [one.id for one in opened])
        in_force = silences.in_force(conn, now)
    found = [(one, statuses.get(one.id, []), in_force.withholds(one.event, one.id)) for one in opened]
    if output is Format.JSON:
        # ASCII only: names from hosts may hold what no terminal should see.
        print(json.dumps([_as_json(*one) for one in found], default=str, indent=2))
        return
    table = table_of("since", "host", "port", "program", "kind", "severity", "told", "withheld")
    for one, its_statuses, withheld in found:
        event = one.event
        told = ", ".join(
            f"{told.channel}: {told.state}"
            + (f" ({told.reason})" if told.reason and told.state not in ("delivered", "withheld") else "")
            for told in its_statuses
        )
        columns = (minute(one.starts_at), event.host_name, event.port, event.program, event.kind.value)
        table.add_row(*map(cell, (*columns, event.severity.value, told or None, withheld.told() if withheld else None)))
    say(table)


def ack(
    host: HostArgument,
    port: SomePortArgument = None,
    until: UntilOption = None,
    duration: ForOption = None,
    reason: ReasonOption = "",
    author: AuthorOption = None,
) -> None:
    """Say that you take care of an open alert: nothing more is told of it, but its end."""
    from portmon.storage import silences

    now = datetime.now(UTC)
    ends = end_of(until, duration, "UTC", now, now)
    with open_database().begin() as conn:
        _, alerts = _open_there(conn, host, port)
        by = author_of(author)
        lines = []
        for one in alerts:
            number = silences.acknowledge(conn, one.id, author=by, reason=reason, ends_at=ends, now=now)
            end = f"until {minute(ends)}, or until it is over" if ends else "until it is over"
            lines.append(f"{subject(one.event)}: {one.event.kind.value} is acknowledged {end} (silence {number})")
    for line in lines:
        say(cell(line))


def unack(host: HostArgument, port: SomePortArgument = None, author: AuthorOption = None) -> None:
    """Take an acknowledgement back."""
    from portmon.alerting.silences import Acknowledgement
    from portmon.storage import silences

    now = datetime.now(UTC)
    with open_database().begin() as conn:
        found, alerts = _open_there(conn, host, port)
        ids = {one.id for one in alerts}
        current = silences.current(conn, now)
        lifted = [one for one in current if isinstance(one, Acknowledgement) and one.alert_id in ids]
        if not lifted:
            raise CommandError(f"{_place(found.name, port)}: nobody acknowledged what is open there")
        for one in lifted:
            silences.lift(conn, one.id, by=author_of(author), now=now)
    say(cell(f"{_place(found.name, port)}: no longer acknowledged"))


def subject(event: Event) -> str:
    """What an event is about, for people."""
    return "the monitor" if event.host_name is None else _place(event.host_name, event.port)


def _as_json(one: Alert, statuses: Sequence[DeliveryStatus], withheld: Withholding | None) -> dict[str, Any]:
    from portmon.alerting.silences import Acknowledgement

    event = one.event
    return {
        "id": one.id,
        "since": one.starts_at,
        "host_id": event.host_id,
        "host": event.host_name,
        "port": event.port,
        "program": event.program,
        "unit": event.unit,
        "kind": event.kind.value,
        "severity": event.severity.value,
        "reason": event.reason,
        "told": [asdict(told) for told in statuses],
        "withheld": withheld
        and {
            "silence": withheld.id,
            "acknowledged": isinstance(withheld, Acknowledgement),
            "told": withheld.told(),
        },
    }


def _open_there(conn: Connection, host: str, port: int | None) -> tuple[KnownHost, list[Alert]]:
    """A known server, and the open alerts of one of its ports, or of itself.

    :raises CommandError: if there are none
    """
    from portmon.api.explain import find_host
    from portmon.storage import alerts

    found = find_host(conn, host)
    opened = list(alerts.opened(conn, host_id=found.id).values())
    wanted = [one for one in opened if one.event.port == port and one.event.protocol in (None, PROTOCOL)]
    if not wanted:
        others = ", ".join(
            f"{one.event.kind.value} of {f'port {one.event.port}' if one.event.port else 'the server itself'}"
            for one in opened
        )
        there = f"; open there: {others}" if others else ""
        raise CommandError(f"{_place(found.name, port)}: no alert is open{there}")
    return found, wanted


def _place(name: str, port: int | None) -> str:
    return name if port is None else f"{name} port {port}"
