"""``simulate`` and ``replay``: the events that other settings would make of what was recorded."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import starmap
from typing import TYPE_CHECKING, Annotated

import typer

from portmon.api.view import minute
from portmon.cli.options import ConfigOption, FormatOption, config_of, read_option, reading, time_of
from portmon.cli.terminal import Format, print_json, print_table, say

if TYPE_CHECKING:
    from portmon.api.runs import ReplayView
    from portmon.model.event import Event


def simulate(
    history: Annotated[
        typer.FileText,
        typer.Argument(encoding="utf-8", errors="surrogateescape", help="JSON lines, one observation each, or -."),
    ],
    config: ConfigOption = None,
    interval: Annotated[str, typer.Option(help="Time between scheduled runs.")] = "5min",
) -> None:
    """Print the events that a recorded history gives, one JSON object a line. Use it to tune thresholds."""
    from portmon.api.simulate import simulate as run
    from portmon.fields import parse_duration

    length = read_option(parse_duration, interval, "--interval")
    settings = config_of(config, light=True)
    for event in run(history, settings, interval=length):
        print(json.dumps(event.model_dump()))


def replay(
    begin: Annotated[str, typer.Option("--from", help="Begin of the time, ISO 8601 such as 2026-01-02T04:00.")],
    end: Annotated[str | None, typer.Option("--to", help="Its end; default: now.")] = None,
    config: ConfigOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Evaluate archived observations again, and show which events would differ. Changes nothing.

    With `--config other.yaml` by other settings: its `rules`, `declared` and `states` count. So thresholds are tuned on
    last week. `+` is an event that would be new, `-` one that would be gone, `~` one that would differ.

    The JSON is one object: `since` and `until` (what was evaluated again), `evaluations`, `same` (events that are
    alike), `counts` (kind: number of events that were, and that would have been), and `gained`, `lost` and `changed`,
    lists of events; of `changed` ones pairs.
    """
    from portmon.api.runs import compare

    settings = config_of(config)
    now = datetime.now(UTC)
    since = time_of(begin, "--from", now, past=True)
    until = now if end is None else time_of(end, "--to", now, past=True)
    if until <= since:
        raise typer.BadParameter("must be later than --from", param_hint="--to")
    with reading(quiet=True) as conn:
        found = compare(conn, settings, since=since, until=until)
    if output is Format.JSON:
        print_json(found.model_dump())
    else:
        _print(found)


def _print(found: ReplayView) -> None:
    lines = [("+", event, event.reason) for event in found.gained]
    lines += [("-", event, event.reason) for event in found.lost]
    lines += [("~", now, _difference(was, now)) for was, now in found.changed]
    lines.sort(key=lambda line: (line[1].at, line[1].host_id or "", line[1].port or 0))
    if lines:
        print_table(("", "at", "event", "host", "port", "reason"), starmap(_row, lines))
    if found.counts:
        print_table(("event", "was", "would be"), ((kind, *counts) for kind, counts in found.counts.items()))
    say(f"replayed: {found.evaluations} runs from {minute(found.since)} to {minute(found.until)}; same: {found.same}")


def _row(sign: str, event: Event, reason: str) -> tuple[object, ...]:
    port = f"{event.protocol}/{event.port}" if event.port else None
    return (sign, minute(event.at), event.kind.value, event.host_name, port, reason)


def _difference(was: Event, now: Event) -> str:
    names = ("severity", "reason", "program", "since", "last_seen")
    changes = [(name, getattr(was, name), getattr(now, name)) for name in names]
    return "; ".join(f"{name}: {old} -> {new}" for name, old, new in changes if old != new) or "its details"
