"""``silence``, ``unsilence`` and ``silences``: what nobody is to be told of for a while."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from portmon.cli.alerts import subject
from portmon.cli.options import AuthorOption, Format, FormatOption, author_of, label_options, open_database
from portmon.cli.terminal import cell, say, table_of
from portmon.cli.times import ForOption, UntilOption, end_of, minute, moment_of, read_option
from portmon.errors import CommandError
from portmon.model.event import Event

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portmon.alerting.silences import Silence, Withholding


def silence(
    reason: Annotated[str, typer.Option("--reason", help="Why; kept and shown.")],
    host: Annotated[list[str] | None, typer.Option("--host", help="Glob on names of servers; '*': everything.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="NAME=GLOB, label of servers.")] = None,
    port: Annotated[list[str] | None, typer.Option("--port", help="Port or range, such as 8000-8100.")] = None,
    program: Annotated[list[str] | None, typer.Option("--program", help="Glob on the program's name.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Begin, ISO 8601; default: now.")] = None,
    until: UntilOption = None,
    duration: ForOption = None,
    weekly: Annotated[
        list[str] | None,
        typer.Option("--weekly", help="Only then, such as 'Sun 02:00-04:00' or 'Mon-Fri 22:00-06:00'."),
    ] = None,
    timezone: Annotated[
        str, typer.Option("--timezone", help="IANA name, of --weekly and of times without an offset.")
    ] = "UTC",
    author: AuthorOption = None,
) -> None:
    """Withhold messages about some ports or servers for a while. Events are kept, and what is still wrong is told then.

    Everything given must match; of an option that is given more than once, one must.
    """
    from portmon.alerting.silences import Silence, parse_weekly, zone
    from portmon.fields import parse_ports
    from portmon.storage import silences

    now = datetime.now(UTC)
    labels = label_options(label)
    ports = read_option(parse_ports, port, "--port") if port else ()
    for text in weekly or ():
        read_option(parse_weekly, text, "--weekly")
    read_option(zone, timezone, "--timezone")
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    if not (host or labels or ports or program):
        raise typer.BadParameter("say what: a host, label, port or program; --host '*' is everything")
    if not all(glob.strip() for glob in (*(host or ()), *(program or ()))):
        raise typer.BadParameter("an empty glob matches nothing")
    begins = moment_of(start, timezone, "--from", now) or now
    ends = end_of(until, duration, timezone, begins, now)
    if ends is None and not weekly:
        raise typer.BadParameter("give an end: --until, --for or --weekly")
    if ends is not None and ends <= begins:
        raise typer.BadParameter("it must end after it begins", param_hint="--until")
    with open_database().begin() as conn:
        silence_id = silences.add(
            conn,
            hosts=tuple(host or ()),
            labels=labels,
            ports=ports,
            programs=tuple(program or ()),
            starts_at=begins,
            ends_at=ends,
            weekly=tuple(weekly or ()),
            timezone=timezone,
            author=author_of(author),
            reason=reason,
            now=now,
        )
        made = next(one for one in silences.current(conn, now) if isinstance(one, Silence) and one.id == silence_id)
        if made.next_start(now) is None:
            raise CommandError("the weekly schedule does not come round before the end; nothing is silenced")
        lines = _effects(conn, made, now)
    for line in lines:
        say(cell(line))


def _effects(conn: Connection, made: Silence, now: datetime) -> list[str]:
    """What a new silence does."""
    from portmon.storage import alerts, hosts

    fleet = hosts.listed(conn)
    matching = sum(made.matches_host(host) for host in fleet.values())
    held = [
        one
        for one in alerts.opened(conn).values()
        if made.matches(one.event, one.id, fleet.get(one.event.host_id or ""))
    ]
    would = "withholds now" if made.active(now) else f"would withhold ({_state(made, now)})"
    return [
        f"silence {made.id}: {_what(made, {})}; {made.when()}",
        f"known servers that match: {matching} of {len(fleet)}",
        f"open alerts that it {would}: {len(held)}",
        *(f"  {subject(one.event)}: {one.event.kind.value} since {minute(one.starts_at)}" for one in held),
    ]


def unsilence(
    number: Annotated[int, typer.Argument(metavar="ID", help="As `silences` shows it.", min=1, max=2**31 - 1)],
    author: AuthorOption = None,
) -> None:
    """Lift a silence or an acknowledgement before its time."""
    from portmon.storage import silences

    now = datetime.now(UTC)
    with open_database().begin() as conn:
        if not silences.lift(conn, number, by=author_of(author), now=now):
            found = next((one for one in silences.all_(conn) if one.id == number), None)
            raise CommandError(f"silence {number} {_state(found, now)}" if found else f"there is no silence {number}")
    say(f"silence {number} is lifted")


def list_silences(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show silences and acknowledgements.

    The JSON has the fields of each, with `what` it is about, its `state` in words, whether it is `active`, and when it
    begins `next` (null: now or never).
    """
    from portmon.alerting.silences import Acknowledgement
    from portmon.storage import events, silences

    now = datetime.now(UTC)
    with open_database(quiet=output is Format.JSON).begin() as conn:
        found = silences.all_(conn) if everything else silences.current(conn, now)
        about = events.by_ids(conn, [one.alert_id for one in found if isinstance(one, Acknowledgement)])
    if output is Format.JSON:
        # ASCII only: what people write may hold what no terminal should see.
        shown = [
            _NOTHING
            | asdict(one)
            | {
                "what": _what(one, about),
                "state": _state(one, now),
                "active": one.active(now),
                "next": None if one.active(now) else one.next_start(now),
            }
            for one in found
        ]
        print(json.dumps(shown, default=str, indent=2))
        return
    table = table_of("id", "what", "when", "", "author", "reason")
    for one in found:
        columns = (
            one.id,
            _what(one, about),
            one.when() or "until it is over",
            _state(one, now),
            one.author,
            one.reason,
        )
        table.add_row(*map(cell, columns))
    say(table)


_NOTHING = dict.fromkeys(("id", "alert_id")) | {"hosts": [], "labels": {}, "ports": [], "programs": []}
_NOTHING |= dict.fromkeys(("starts_at", "ends_at")) | {"weekly": [], "timezone": "UTC"}
"""Fields in their order; a silence is of no alert, an acknowledgement of nothing else."""


def _what(one: Withholding, about: dict[str, Event]) -> str:
    """What a silence is about.

    :param about: alert id: its first event
    """
    event = about.get(getattr(one, "alert_id", ""))
    return one.what() if event is None else f"{event.kind.value} of {subject(event)}"


def _state(one: Withholding, now: datetime) -> str:
    if one.lifted_at is not None:
        return f"was lifted by {one.lifted_by} at {minute(one.lifted_at)}"
    if one.over(now):
        return "is over"
    start = one.next_start(now)
    if start is None:
        return "never again"
    return "active" if start <= now else f"next: {minute(start)}"
