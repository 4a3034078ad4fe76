"""``python -m portmon``: what operators do outside a run.

``parse`` needs no configuration and no Airflow; the other commands read both. Each module holds some commands and
imports what they need only when one is called.
"""

from __future__ import annotations

import os

import typer

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
from portmon.cli.terminal import told

__all__ = ["app", "main", "told"]

app = typer.Typer(
    help="Which service processes died on my servers, seen from their listening ports.",
    no_args_is_help=True,
    add_completion=False,
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
# As they were called before.
app.command("mute", hidden=True)(silences.silence)
app.command("unmute", hidden=True)(silences.unsilence)
app.command("mutes", hidden=True)(silences.list_silences)
app.add_typer(database.db, name="db")
app.add_typer(host_keys.hostkeys, name="hostkeys")


def main() -> None:
    """Run the command line; errors of portmon end with exit code 1 and one message."""
    # Connections that are kept in Airflow's own database are found as well, not only those in the environment.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    with told():
        app()
