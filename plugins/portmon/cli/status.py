"""``status``: what the state database holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portmon.cli.options import Format, FormatOption, open_database
from portmon.cli.terminal import cell, logs_aside, say, table_of
from portmon.cli.times import minute
from portmon.errors import CommandError

if TYPE_CHECKING:
    from portmon.storage.sizes import Sizes


def status(
    output: FormatOption = Format.TABLE,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all of the archive, and compare it with its hashes.")
    ] = False,
) -> None:
    """Show how much the state database holds, and since when. Exits with 1 if `--verify` finds damage.

    The JSON is one object: `hosts`, `hidden`, `ports`, `events`, `looks`, `runs`, `steps` (of the journal),
    `checkpoints` and `waiting_replays`, numbers; `contents` with `number`, `bytes` and `stored_bytes` (compressed);
    `oldest_look`, `newest_look`, `replayable_from`, `last_replay`, `last_run` and `last_run_finished`, times or null;
    with `--verify` also `damaged`, a list of digests.
    """
    from portmon.storage import contents, sizes

    with logs_aside(), open_database(quiet=True).look() as conn:
        assert conn is not None  # noqa: S101 - for the type checker: open_database() has looked
        found = sizes.measure(conn)
        damaged = list(contents.damaged(conn)) if verify else None
    if output is Format.JSON:
        value = _to_json(found) | ({} if damaged is None else {"damaged": damaged})
        print(json.dumps(value, default=datetime.isoformat, indent=2))
    else:
        _print(found, damaged)
    if damaged:
        raise CommandError(
            f"{len(damaged)} of {found.contents} contents are damaged: restore the state database from a backup"
        )


def _to_json(found: Sizes) -> dict[str, Any]:
    value = asdict(found)
    number, size, stored = (value.pop(name) for name in ("contents", "bytes", "stored_bytes"))
    return value | {"contents": {"number": number, "bytes": size, "stored_bytes": stored}}


def _print(found: Sizes, damaged: list[str] | None) -> None:
    kept = "" if found.oldest_look is None else f", from {minute(found.oldest_look)}"
    replayable = (
        "" if found.replayable_from is None else f", to be evaluated again from {minute(found.replayable_from)}"
    )
    rows = [
        ("hosts", f"{found.hosts:,}, hidden: {found.hidden:,}"),
        ("ports", f"{found.ports:,}"),
        ("events", f"{found.events:,}"),
        ("looks", f"{found.looks:,}{kept}"),
        ("archive", f"{found.contents:,} contents, {_size(found.stored_bytes)} for {_size(found.bytes)}"),
        ("journal", f"{found.steps:,} steps of {found.runs:,} runs, {found.checkpoints:,} checkpoints{replayable}"),
        ("evaluated again", _replays(found)),
        ("last run", _last_run(found)),
    ]
    if damaged is not None:
        rows.append(("damaged", ", ".join(damaged) or "nothing"))
    table = table_of("what", "how much")
    for row in rows:
        table.add_row(*map(cell, row))
    say(table)


def _replays(found: Sizes) -> str:
    last = "never yet" if found.last_replay is None else f"last at {minute(found.last_replay)}"
    return f"{last}; {found.waiting_replays} asked for and not done" if found.waiting_replays else last


def _last_run(found: Sizes) -> str:
    if found.last_run is None:
        return "none yet"
    minutes = (datetime.now(UTC) - found.last_run).total_seconds() / 60
    ended = "evaluated" if found.last_run_finished else "not evaluated yet"
    return f"{minute(found.last_run)}, {minutes:,.0f} min ago, {ended}"


def _size(count: int) -> str:
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:,.0f} {units[0]}" if units[0] == "bytes" else f"{size:,.1f} {units[0]}"
