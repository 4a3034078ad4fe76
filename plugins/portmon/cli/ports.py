"""``explain``, ``accept``, ``promote`` and ``ports``: what is known of ports, and what people decide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from portmon.cli.options import (
    AuthorOption,
    ConfigOption,
    Format,
    FormatOption,
    HostArgument,
    PortArgument,
    ReasonOption,
    author_of,
    config_of,
    open_database,
)
from portmon.cli.terminal import cell, say, table_of
from portmon.errors import CommandError


def explain(host: HostArgument, port: PortArgument, config: ConfigOption = None) -> None:
    """Tell the story of one port: what it is now, why it is watched, what happened and why."""
    from portmon.api.explain import explain as tell

    settings, _ = config_of(config)
    for line in tell(open_database(), settings, host, port, now=datetime.now(UTC)):
        say(cell(line))


def accept(host: HostArgument, port: PortArgument, reason: ReasonOption = "", author: AuthorOption = None) -> None:
    """Say that a port that is down is gone for good: the next complete answer without it retires it."""
    from portmon.storage.decisions import DecisionKind, decide

    with _decision(host, port) as (conn, found, known):
        if known is None or known.status != "down":
            raise CommandError(f"{found.name}: port {port} is not down; there is nothing to accept")
        if known.declared:
            raise CommandError(
                f"{found.name}: port {port} is {known.declared}; take that back, or it is down again at once"
            )
        by, at = author_of(author), datetime.now(UTC)
        decide(conn, DecisionKind.ACCEPTED, found.id, port, at=at, author=by, reason=reason)
    say(cell(f"{found.name}: port {port} is accepted as gone; the next complete answer without it retires it"))


def promote(
    host: HostArgument,
    port: PortArgument,
    reason: ReasonOption = "",
    author: AuthorOption = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take a promotion back.")] = False,
) -> None:
    """Say that a learned port must listen from now on, as if it were declared."""
    from portmon.storage.decisions import DecisionKind, decide
    from portmon.storage.decisions import withdraw as take_back

    with _decision(host, port) as (conn, found, _known):
        if withdraw:
            if not take_back(conn, DecisionKind.PROMOTED, found.id, port):
                raise CommandError(f"{found.name}: port {port} was not promoted")
        else:
            by, at = author_of(author), datetime.now(UTC)
            decide(conn, DecisionKind.PROMOTED, found.id, port, at=at, author=by, reason=reason)
    say(cell(f"{found.name}: port {port} " + ("is no longer promoted" if withdraw else "must listen from now on")))


def list_ports(host: HostArgument, output: FormatOption = Format.TABLE) -> None:
    """Show what is known of the ports of one server: learned ones and declared ones apart."""
    from portmon.api.explain import find_host
    from portmon.engine.frames import ports_of
    from portmon.storage import state

    with open_database(quiet=output is Format.JSON).begin() as conn:
        found = find_host(conn, host)
        known = sorted(ports_of(state.load(conn, [found.id])[1]), key=lambda port: port.port)
    if output is Format.JSON:
        print(json.dumps([asdict(port) for port in known], default=str, indent=2))
        return
    table = table_of("port", "state", "since", "program", "unit", "addresses", "because")
    for port in known:
        state_ = f"{port.status}, flapping" if port.flapping_since else port.status
        lists = (", ".join(values) or None for values in (port.programs, port.units, port.addresses))
        since = f"{port.status_since:%Y-%m-%d %H:%M}"
        table.add_row(*map(cell, (port.port, state_, since, *lists, port.declared or "learned")))
    say(table)


@contextmanager
def _decision(host: str, port: int) -> Iterator[tuple[Any, Any, Any]]:
    """A transaction, a known server, and its port if it is known."""
    from portmon.api.explain import find_host
    from portmon.engine.frames import ports_of
    from portmon.storage import state

    with open_database().begin() as conn:
        found = find_host(conn, host)
        known = next((one for one in ports_of(state.load(conn, [found.id])[1]) if one.port == port), None)
        yield conn, found, known
