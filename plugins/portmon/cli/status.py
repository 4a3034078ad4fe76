"""``status`` and ``events``: what is wrong now, and what happened, as the page says it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portmon.api.view import minute
from portmon.cli.options import FormatOption, interval, read_option, reading, time_of
from portmon.cli.terminal import Format, print_json, print_table, print_views, say

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portmon.api.fleet import EventRow, GlanceView
    from portmon.api.problems import ProblemView
    from portmon.storage.lookups import EventFilter

KindOption = Annotated[str, typer.Option("--kind", help="Such as down; see docs/states.md.")]
OfHostOption = Annotated[str, typer.Option("--host", help="Name or id of the host; default: all.")]
OfPortOption = Annotated[
    str | None, typer.Option("--port", help="Port or range, of one protocol as 53/udp; default: all.")
]
BeforeOption = Annotated[str | None, typer.Option("--until", help="Before then, likewise.")]
SinceOption = Annotated[str | None, typer.Option("--since", help="From then on: ISO 8601, or how long ago, as 12h.")]
SHOWN = 50
"""Problems that `status` lists."""


def status(output: FormatOption = Format.TABLE) -> None:
    """Show what is wrong now, how many hosts and ports are well, and when the last run was.

    The JSON has `problems` and `fleet`, as `/portmon/api/v1/problems` and `fleet` of the page have them. `db usage`
    shows how much is stored.
    """
    from portmon.api import fleet, problems

    now = datetime.now(UTC)
    with reading(quiet=output is Format.JSON) as conn:
        found = problems.list_problems(conn, now, limit=SHOWN)
        seen = fleet.glance(conn, now, fleet.count(conn, now), interval=interval())
    if output is Format.JSON:
        views = {"problems": found.model_dump(mode="json"), "fleet": seen.model_dump(mode="json", exclude={"runs"})}
        print_json(views)
        return
    for line in _fleet_lines(seen, now):
        say(line)
    withheld = f", and {found.withheld} acknowledged or silenced" if found.withheld else ""
    say(f"open alerts  {found.firing}{withheld}")
    if found.rows:
        say("")
        print_table(("since", "host", "port", "what", "program", "unit", "told"), map(_problem_row, found.rows))
    left = found.firing + found.withheld - len(found.rows)
    if left > 0:
        say(f"and {left} more: the page has all of them")


def _fleet_lines(seen: GlanceView, now: datetime) -> list[str]:
    last = seen.last_run
    if last is None or last.finished_at is None:
        run = "none was evaluated yet: unpause the DAG `portmon`, or trigger it"
    else:
        age, took = now - last.finished_at, timedelta(seconds=last.duration or 0)
        run = f"{minute(last.started_at)}, {_length(age)} ago, took {_length(took)}"
    lines = [f"last run     {run}", f"hosts        {_counts(seen.hosts)}", f"ports        {_counts(seen.ports)}"]
    if seen.overdue:
        lines.insert(0, f"overdue      no run was evaluated for {_length(seen.overdue)}: look at the DAG's runs")
    return lines


def _length(length: timedelta) -> str:
    from portmon.fields import format_seconds

    return format_seconds(max(length, timedelta(0)))


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.items() if count) or "none is known yet"


def _port(one: ProblemView | EventRow) -> str | None:
    return f"{one.port}/{one.protocol}" if one.port else None


def _problem_row(one: ProblemView) -> tuple[object, ...]:
    told = ", ".join(f"{sent.channel}: {sent.state}" for sent in one.told) or "no channel"
    how = one.withheld or (told if one.dispatched else "not dispatched yet")
    return (minute(one.since), one.host, _port(one), one.kind.replace("_", " "), one.program, one.unit, how)


def events(
    kind: KindOption = "",
    host: OfHostOption = "",
    port: OfPortOption = None,
    since: SinceOption = None,
    until: BeforeOption = None,
    limit: Annotated[int, typer.Option("--limit", help="At most this many.", min=1, max=10_000)] = 100,
    output: FormatOption = Format.TABLE,
) -> None:
    """List what happened, newest first: `events --kind down --since 12h` is what died last night.

    The JSON has for each `id`, `seq`, `kind`, `role`, `severity`, `at`, `run_id`, `host_id`, `host`, `protocol`,
    `port`, `program`, `unit`, `reason`, `task`, `map_index`, and `told`: channel and what became of its message.
    """
    from portmon.api import fleet

    wanted_of = event_filter(kind, host, port, since, until)
    with reading(quiet=output is Format.JSON) as conn:
        wanted = wanted_of(conn)
        found = fleet.list_events(conn, wanted, limit=limit)
    print_views(found, output, ("at", "kind", "host", "port", "program", "unit", "reason", "told"), _event_row)
    if output is Format.TABLE and len(found) == limit:
        say(f"the newest {limit} only: --limit shows more")


def event_filter(
    kind: str, host: str, port: str | None, since: str | None, until: str | None
) -> Callable[[Connection], EventFilter]:
    """What the options of `events` mean, to be asked once the database is open: a host is looked up there."""
    from portmon.api import fleet
    from portmon.api.event_kinds import KINDS
    from portmon.fields import parse_ports

    if kind and kind not in KINDS:
        raise typer.BadParameter(f"there is no kind {kind!r}; there are: {', '.join(KINDS)}", param_hint="--kind")
    numbers = read_option(parse_ports, port, "--port") if port is not None else ()
    now = datetime.now(UTC)
    times: dict[str, Any] = {"since": _moment(since, "--since", now), "until": _moment(until, "--until", now)}
    return lambda conn: fleet.event_filter(conn, kind=kind, host=host, numbers=numbers, **times)


def _moment(text: str | None, option: str, now: datetime) -> datetime | None:
    from portmon.fields import parse_duration

    if text is None:
        return None
    if re.fullmatch(r"[\d.]+\s*[a-z]+", text):
        return now - read_option(parse_duration, text, option)
    return time_of(text, option, now, past=True)


def _event_row(one: EventRow) -> tuple[object, ...]:
    told = ", ".join(f"{channel}: {state}" for channel, state in one.told.items()) or None
    return (minute(one.at), one.kind.replace("_", " "), one.host, _port(one), one.program, one.unit, one.reason, told)
