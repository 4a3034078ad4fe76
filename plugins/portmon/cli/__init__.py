"""``portmon``, or ``python -m portmon``: what operators look at and do outside a run.

``parse``, ``probe`` and ``server-setup`` need no configuration and no Airflow; the other commands read both. Each
module holds some commands, and imports what a command needs only when it is called.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from portmon import __version__
from portmon.cli import (
    alerts,
    check,
    database,
    doctor,
    export,
    hosts,
    init,
    notify_test,
    parsing,
    ports,
    scan,
    server_setup,
    silences,
    status,
    what_if,
)
from portmon.cli.options import given_database
from portmon.cli.terminal import complain, say
from portmon.errors import PortmonError, RequestError


class _Commands(TyperGroup):
    """Commands that an error of portmon ends with a message and exit code 1, or 2 if the request was incomplete."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PortmonError as error:
            # An error may have several lines, and hold what a CMDB sent.
            for line in f"error: {error}".splitlines():
                complain(line)
            raise SystemExit(2 if isinstance(error, RequestError) else 1) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
_ASK_AIRFLOW = ("init", "check", "scan", "doctor", "notify-test", "hosts")
"""Commands that show what Airflow's configuration comes to."""


def _say_version(wanted: bool) -> None:
    if wanted:
        say(f"portmon {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            help="State database: a SQLite file or postgresql://USER@HOST/NAME. Needs no Airflow, and answers at once; "
            "default: Airflow's connection portmon_db.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Say the version, and end.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Find service processes that died on your hosts, by their listening ports."""
    if database is not None and ctx.invoked_subcommand in _ASK_AIRFLOW:
        raise typer.BadParameter(f"{ctx.invoked_subcommand} asks Airflow for its database", param_hint="--database")
    given_database.set(database)


app.command()(parsing.parse)
app.command()(parsing.probe)
app.command("server-setup")(server_setup.server_setup)
app.command()(init.init)
app.command()(check.check)
app.command()(scan.scan)
app.command()(doctor.doctor)
app.command("notify-test")(notify_test.notify_test)
app.command("hosts")(hosts.list_hosts)
app.command()(what_if.simulate)
app.command()(what_if.replay)
app.command()(status.status)
app.command()(status.events)
app.command()(ports.explain)
app.command()(ports.accept)
app.command()(ports.promote)
app.command()(ports.ignore)
app.command("forget-boots")(ports.forget_boots)
app.command("ports")(ports.list_ports)
app.command("alerts")(alerts.list_alerts)
app.command()(alerts.ack)
app.command()(alerts.unack)
app.command()(silences.silence)
app.command()(silences.unsilence)
app.command("silences")(silences.list_silences)
# Their names before.
app.command("mute", hidden=True)(silences.silence)
app.command("unmute", hidden=True)(silences.unsilence)
app.command("mutes", hidden=True)(silences.list_silences)
app.add_typer(export.export, name="export")
app.add_typer(database.db, name="db")
app.add_typer(hosts.hostkeys, name="hostkeys")


def main() -> None:
    """Run the command line."""
    # Without this, Airflow finds connections in the environment only, not those in its database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    app(prog_name="portmon")
