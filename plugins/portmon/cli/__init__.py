"""``python -m portmon``: what operators look at and do outside a run.

``parse`` and ``probe`` need no configuration and no Airflow; the other commands read both. Each module holds some
commands, and imports what a command needs only when it is called.
"""

from __future__ import annotations

import os
from typing import Any

import typer
from typer.core import TyperGroup

from portmon.cli import (
    alerts,
    check,
    database,
    host_keys,
    hosts,
    parsing,
    ports,
    replaying,
    silences,
    simulation,
    status,
)
from portmon.cli.terminal import exit_on_error


class _Commands(TyperGroup):
    """All commands, which end with one message where portmon raises an error on purpose."""

    def invoke(self, ctx: Any) -> Any:
        with exit_on_error():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    help="Find service processes that died on your hosts, by their listening ports.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(parsing.parse)
app.command()(parsing.probe)
app.command()(check.check)
app.command("hosts")(hosts.list_hosts)
app.command()(simulation.simulate)
app.command()(replaying.replay)
app.command()(status.status)
app.command()(ports.explain)
app.command()(ports.accept)
app.command()(ports.promote)
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
app.add_typer(database.db, name="db")
app.add_typer(host_keys.hostkeys, name="hostkeys")


def main() -> None:
    """Run the command line."""
    # Without this, Airflow finds connections in the environment only, not those in its database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    app()
