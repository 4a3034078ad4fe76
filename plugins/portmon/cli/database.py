"""``db``: the state database."""

from __future__ import annotations

import typer

from portmon.cli.options import open_database
from portmon.cli.terminal import say

db = typer.Typer(help="The state database (Airflow connection portmon_db).", no_args_is_help=True)


@db.command("upgrade")
def db_upgrade() -> None:
    """Create or migrate the state database."""
    database = open_database(checked=False)
    applied = database.migrate()
    for revision in applied:
        say(f"applied {revision}")
    say("migrated" if applied else "up to date")


@db.command("check")
def db_check() -> None:
    """Exit 0 if the state database can be used as it is."""
    open_database()
    say("ok")
