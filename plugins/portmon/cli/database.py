"""``db``: the state database, and how much it holds."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from portmon.api.view import minute
from portmon.cli.options import FormatOption, open_database, reading
from portmon.cli.terminal import Format, logs_to_stderr, print_json, print_table, say
from portmon.errors import CommandError

if TYPE_CHECKING:
    from portmon.api.runs import StatusView

db = typer.Typer(help="The state database (Airflow connection portmon_db).", no_args_is_help=True)


@db.command("upgrade")
def db_upgrade() -> None:
    """Create the state database, or bring its tables to the version that this portmon needs."""
    applied = open_database().migrate()
    for revision in applied:
        say(f"applied {revision}")
    say("migrated" if applied else "up to date")


@db.command("check")
def db_check() -> None:
    """Exit 0 if the tables of the state database are the ones that this portmon needs."""
    database = open_database()
    with logs_to_stderr():
        database.check()
    say("ok")


@db.command("downgrade")
def db_downgrade(
    revision: Annotated[str, typer.Argument(help="Revision that an earlier release needs: its `db upgrade` names it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take the tables back to those of an earlier release, before you install it. Pause the DAG first.

    What only the later tables hold is lost. Nothing is changed if a run writes, or if anything fails.
    """
    from portmon.storage import care

    database = open_database()
    database.check_way_back(revision)
    if not yes:
        typer.confirm(f"Take {database} back to {revision}? What only the later tables hold is lost", abort=True)
    undone = care.downgrade(database, revision)
    for name in undone:
        say(f"undone {name}")
    say(f"the tables are those of {revision} now" if undone else "up to date")


@db.command("vacuum")
def db_vacuum() -> None:
    """Give back the space of what was deleted. Waits for a run that writes; runs wait meanwhile."""
    from portmon.storage import care

    before, after = care.vacuum(open_database())
    say(f"{_size(before)} before, {_size(after)} now")


@db.command("backup")
def db_backup(
    file: Annotated[Path, typer.Argument(help="New file.", dir_okay=False)],
) -> None:
    """Copy a SQLite state database to a new file, while runs go on. For PostgreSQL there is pg_dump."""
    from portmon.storage import care

    say(f"wrote {file}, {_size(care.back_up(open_database(), file))}")


@db.command("sizes")
def db_sizes(output: FormatOption = Format.TABLE) -> None:
    """Show how large each table is, the largest first.

    The JSON is a list of objects: `name`, `rows` and `size` (bytes with indexes; null where SQLite can't tell).
    """
    from portmon.storage import care

    with reading(quiet=True) as conn:
        found = care.table_sizes(conn)
    if output is Format.JSON:
        print_json([asdict(one) for one in found])
    else:
        sizes = [(one.name, f"{one.rows:,}", "-" if one.size is None else _size(one.size)) for one in found]
        print_table(("table", "rows", "size"), sizes)


@db.command("usage")
def db_usage(
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
    from portmon.api import runs

    with reading(quiet=True) as conn:
        found = runs.status(conn)
        damaged = runs.damaged(conn) if verify else None
    if output is Format.JSON:
        print_json(found.model_dump() | ({"damaged": damaged} if verify else {}))
    else:
        rows = _rows(found) if damaged is None else [*_rows(found), ("damaged", ", ".join(damaged) or "nothing")]
        print_table(("what", "how much"), rows)
    if damaged:
        total = found.contents["number"]
        raise CommandError(f"{len(damaged)} of {total} contents are damaged: restore the state database from a backup")


def _rows(found: StatusView) -> list[tuple[str, str]]:
    kept = f", from {minute(found.oldest_look)}" if found.oldest_look else ""
    replayable = f", to be evaluated again from {minute(found.replayable_from)}" if found.replayable_from else ""
    archive = found.contents
    replays = "never yet" if found.last_replay is None else f"last at {minute(found.last_replay)}"
    if found.waiting_replays:
        replays += f"; {found.waiting_replays} asked for and not done"
    last = "none yet"
    if found.last_run is not None:
        minutes = (datetime.now(UTC) - found.last_run).total_seconds() / 60
        ended = "evaluated" if found.last_run_finished else "not evaluated yet"
        last = f"{minute(found.last_run)}, {minutes:,.0f} min ago, {ended}"
    return [
        ("hosts", f"{found.hosts:,}, hidden: {found.hidden:,}"),
        ("ports", f"{found.ports:,}"),
        ("events", f"{found.events:,}"),
        ("looks", f"{found.looks:,}{kept}"),
        ("archive", f"contents: {archive['number']:,}, {_size(archive['stored_bytes'])} for {_size(archive['bytes'])}"),
        ("journal", f"steps: {found.steps:,} of runs: {found.runs:,}, checkpoints: {found.checkpoints:,}{replayable}"),
        ("evaluated again", replays),
        ("last run", last),
    ]


def _size(count: int) -> str:
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:,.0f} {units[0]}" if units[0] == "bytes" else f"{size:,.1f} {units[0]}"
