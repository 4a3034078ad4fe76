"""``replay``: what another configuration would have made of what was seen."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portmon.cli.options import ConfigOption, Format, FormatOption, config_of, open_database
from portmon.cli.terminal import cell, logs_aside, say, table_of
from portmon.cli.times import minute, past_moment

if TYPE_CHECKING:
    from portmon.model.event import Event
    from portmon.replay.archive import Difference


def replay(
    begin: Annotated[str, typer.Option("--from", help="Begin of the time, ISO 8601 such as 2026-01-02T04:00.")],
    end: Annotated[str | None, typer.Option("--to", help="Its end; default: now.")] = None,
    config: ConfigOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Evaluate what was seen in a time once more, and show how events differ from what was. Changes nothing.

    With `--config other.yaml` by another configuration: its `rules`, `declared` and `states` count. So thresholds are
    tuned on last week instead of waiting for the next one. `+` would have been told, `-` would not, `~` otherwise.

    The JSON is one object: `since` and `until` (what was evaluated again), `evaluations`, `same` (events that are
    alike), `counts` (kind: number of events that were, and that would have been), and `gained`, `lost` and `changed`,
    lists of events; of `changed` ones pairs.
    """
    from portmon.replay.archive import scratch_database, what_if

    settings, _ = config_of(config)
    now = datetime.now(UTC)
    since = past_moment(begin, "UTC", "--from", now)
    until = now if end is None else past_moment(end, "UTC", "--to", now)
    if until <= since:
        raise typer.BadParameter("must be later than --from", param_hint="--to")
    database = open_database(quiet=True)
    with scratch_database() as scratch, logs_aside(), database.look() as source:
        assert source is not None  # noqa: S101 - for the type checker: open_database() has looked
        found = what_if(source, scratch, settings, since=since, until=until)
    if output is Format.JSON:
        print(json.dumps(_to_json(found), default=datetime.isoformat, indent=2))
    else:
        _print(found)


def _to_json(found: Difference) -> dict[str, Any]:
    span = found.span
    return {"since": span.since, "until": span.until, "evaluations": span.evaluations} | {
        name: value for name, value in asdict(found).items() if name != "span"
    }


def _print(found: Difference) -> None:
    lines = [("+", event, "") for event in found.gained]
    lines += [("-", event, "") for event in found.lost]
    lines += [("~", now, _how(was, now)) for was, now in found.changed]
    if lines:
        table = table_of("", "at", "event", "host", "port", "reason")
        for sign, event, how in sorted(lines, key=lambda line: (line[1].at, line[1].host_id or "", line[1].port or 0)):
            port = f"{event.protocol}/{event.port}" if event.port else None
            table.add_row(
                *map(cell, (sign, minute(event.at), event.kind.value, event.host_name, port, how or event.reason))
            )
        say(table)
    table = table_of("event", "was", "would be")
    for kind, (were, would) in found.counts.items():
        table.add_row(*map(cell, (kind, were, would)))
    if found.counts:
        say(table)
    span = found.span
    say(f"replayed: {span.evaluations} runs from {minute(span.since)} to {minute(span.until)}; same: {found.same}")


def _how(was: Event, now: Event) -> str:
    """In what an event differs."""
    told = []
    for name in ("severity", "reason", "program", "since", "last_seen"):
        before, after = getattr(was, name), getattr(now, name)
        if before != after:
            told.append(f"{name}: {before} -> {after}")
    return "; ".join(told) or "its details"
