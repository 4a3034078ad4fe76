"""``check``: whether portmon.yaml is right, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portmon.cli.options import ConfigOption, FormatOption, config_of, label_options, port_of_option
from portmon.cli.terminal import Format, complain, logs_to_stderr, print_json, say
from portmon.errors import ConfigError, PortmonError, UnansweredError
from portmon.model.event_kinds import EventKind, Severity

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portmon.config import Config


def check(
    config: ConfigOption = None,
    kind: Annotated[EventKind | None, typer.Option("--kind", help="Example: an event of this kind.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Name or id of the example's host.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port of the example.", parser=port_of_option, metavar="PORT")
    ] = None,
    program: Annotated[str | None, typer.Option("--program", help="Program of the example.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="NAME=VALUE, label of the example's host; default: those that are known of it."),
    ] = None,
    severity: Annotated[Severity | None, typer.Option("--severity", help="Default: that of the kind.")] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Validate portmon.yaml and show what it means: sources, logins, rules, routes, channels.

    With --kind, also show which channels would get such an event, by which route, and whether a silence withholds it
    now. Exits with 1 if there is a problem. The JSON is one object: `configuration`, `lines` (what it means, and
    warnings) and `problems`, lists of texts.
    """
    labels = {name: values[-1] for name, values in label_options(label).items()} if label else None
    if kind is None and (host, port, program, labels, severity) != (None,) * 5:
        raise typer.BadParameter(f"an example needs a kind: one of {', '.join(EventKind)}", param_hint="--kind")
    if host is None and (port is not None or labels is not None):
        raise typer.BadParameter("a port and labels are those of a host; give --host too", param_hint="--host")
    found = config_of(config)
    path = f"{found.path or 'defaults (no portmon.yaml)'}"
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        if output is Format.TABLE:
            # Some end with a command to copy.
            say(line, whole=line.startswith("warning: "))

    if output is Format.TABLE:
        say(f"configuration  {path}")
    example = {"kind": kind, "host": host, "port": port, "program": program, "labels": labels, "severity": severity}
    problems = _describe(found, example if kind else None, tell)
    if output is Format.JSON:
        print_json({"configuration": path, "lines": lines, "problems": problems})
    else:
        for problem in problems:
            complain(f"problem: {problem}")
    if problems:
        raise SystemExit(1)
    if output is Format.TABLE:
        say("ok")


def _describe(config: Config, example: dict[str, Any] | None, tell: Callable[[str], None]) -> list[str]:
    """Tell what a configuration means, and return what is wrong with it."""
    from portmon.airflow import settings
    from portmon.airflow.outside import OUTSIDE
    from portmon.api import check as api

    folder = settings.folder_of(config)
    tell(f"schedule       {settings.schedule() or 'manual runs only'}")
    for line in api.describe(config, folder=folder):
        tell(line)
    problems = list(api.problems(config, folder=folder))
    problems += [
        f"{config.where('alerts', 'channels', number)}: {text}"
        for number, channel in enumerate(config.alerts.channels)
        for text in channel.checked(OUTSIDE)
    ]
    heartbeat = config.alerts.heartbeat
    if heartbeat is not None:
        problems += [f"{config.where('alerts', 'heartbeat')}: {text}" for text in heartbeat.check()]
    with logs_to_stderr():
        missing, unread = config.alerts.missing_connections(OUTSIDE)
        own = [unread] if unread else _connections(config)
        lines = [*own, *_from_database(config, example)]
    for line in lines:
        tell(line)
    return problems + missing


def _connections(config: Config) -> Iterator[str]:
    """Warnings about connections of hosts and their list that are not there, with the line that would add them."""
    from portmon.airflow import settings
    from portmon.airflow.needed import needed_connections

    for one in needed_connections(config):
        try:
            if settings.connection(one.id) is None:
                yield f"warning: {one.section}: there is no Airflow connection {one.id!r}: {one.add}"
        except ConfigError as error:
            yield f"warning: {one.section}: {error}"
        except UnansweredError as error:
            yield f"connections can't be looked up here: {error}"
            return


def _from_database(config: Config, example: dict[str, Any] | None) -> list[str]:
    """Lines that need the state database: hosts and channels that do not fit, and the host of an example."""
    from portmon.airflow import settings
    from portmon.api import alerts
    from portmon.api.check import warnings

    def explained(conn: Connection | None, unknown: str | None = None) -> list[str]:
        return alerts.explain_routes(conn, config, **example, now=datetime.now(UTC), unknown=unknown) if example else []

    try:
        with settings.database().reading() as conn:
            if conn is not None:
                return [*(f"warning: {text}" for text in warnings(conn, config)), *explained(conn)]
            return explained(None, "there is no state database yet")
    except PortmonError as error:
        return [f"the state database can't be read here: {error}", *explained(None, str(error))]
