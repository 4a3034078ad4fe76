"""``db``: the state database."""

from __future__ import annotations

import typer

from portmon.cli.options import open_database
from portmon.cli.terminal import logs_to_stderr, say

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
