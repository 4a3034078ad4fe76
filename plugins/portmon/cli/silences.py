"""``silence``, ``unsilence`` and ``silences``: withholding messages for a while."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from portmon.api.view import minute
from portmon.cli.options import (
    AuthorOption,
    FormatOption,
    ForOption,
    UntilOption,
    act,
    end_of,
    label_options,
    reading,
    time_of,
    writing,
)
from portmon.cli.terminal import Format, print_views, say

Texts = list[str] | None


def silence(
    reason: Annotated[str, typer.Option("--reason", help="Why; recorded and shown.")],
    author: AuthorOption,
    host: Annotated[Texts, typer.Option("--host", help="Glob on names of hosts; '*': everything.")] = None,
    label: Annotated[Texts, typer.Option("--label", help="NAME=GLOB, label of hosts.")] = None,
    port: Annotated[Texts, typer.Option("--port", help="Port or range, such as 8000-8100 or 53/udp.")] = None,
    program: Annotated[Texts, typer.Option("--program", help="Glob on the program's name.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Begin, ISO 8601; default: now.")] = None,
    until: UntilOption = None,
    duration: ForOption = None,
    weekly: Annotated[
        Texts, typer.Option("--weekly", help="Only then, such as 'Sun 02:00-04:00' or 'Mon-Fri 22:00-06:00'.")
    ] = None,
    timezone: Annotated[
        str, typer.Option("--timezone", help="IANA name, of --weekly and of times without an offset.")
    ] = "UTC",
) -> None:
    """Withhold messages about some hosts or ports for a while. What is still wrong afterwards is sent then.

    Everything given must match; of an option that is given more than once, one must. Events are recorded as always.
    """
    from portmon.api import silences

    now = datetime.now(UTC)
    begins = now if start is None else time_of(start, "--from", now, past=False, timezone=timezone)
    ends = end_of(until, duration, timezone, begins, now)
    labels = label_options(label)
    with writing() as conn:
        made = silences.silence(
            conn,
            hosts=host or (),
            labels=labels,
            ports=port or (),
            programs=program or (),
            starts_at=begins,
            ends_at=ends,
            weekly=weekly or (),
            timezone=timezone,
            author=author,
            reason=reason,
            now=now,
        )
    would = "withholds now" if made.silence.active else f"would withhold ({made.silence.state})"
    say(f"silence {made.silence.id}: {made.silence.what}; {made.silence.when}")
    say(f"known hosts that match: {made.matching} of {made.known}")
    say(f"open alerts that it {would}: {len(made.alerts)}")
    for one in made.alerts:
        say(f"  {one.subject}: {one.kind.value} since {minute(one.since)}")


def unsilence(
    number: Annotated[int, typer.Argument(metavar="ID", help="As `silences` shows it.", min=1, max=2**31 - 1)],
    author: AuthorOption,
) -> None:
    """End a silence or an acknowledgement before its time."""
    from portmon.api import silences

    act(silences.lift, number, author=author, now=datetime.now(UTC))


def list_silences(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """List silences and acknowledgements.

    The JSON has the fields of each, with `what` it is about, its `state` in words, whether it is `active`, and when it
    begins `next` (null: now or never).
    """
    from portmon.api import silences

    with reading(quiet=output is Format.JSON) as conn:
        found = silences.list_silences(conn, datetime.now(UTC), everything=everything)
    columns = ("id", "what", "when", "", "author", "reason")
    print_views(found, output, columns, lambda one: (one.id, one.what, one.when, one.state, one.author, one.reason))
