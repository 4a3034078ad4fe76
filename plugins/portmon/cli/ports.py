"""``explain``, ``ports``, ``accept``, ``promote``, ``ignore``: what is known of ports, and decided about them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from portmon.cli.options import (
    AuthorOption,
    ConfigOption,
    FormatOption,
    ForOption,
    HostArgument,
    PortArgument,
    ReasonOption,
    UntilOption,
    act,
    config_of,
    end_of,
    reading,
)
from portmon.cli.terminal import Format, print_views, say
from portmon.errors import RequestError

if TYPE_CHECKING:
    from portmon.api.ports import PortView


def explain(host: HostArgument, port: PortArgument, config: ConfigOption = None) -> None:
    """Tell the story of one port: what it is now, why it is watched, what happened and why."""
    from portmon.api.explain import explain as lines_of

    settings = config_of(config)
    with reading(quiet=False) as conn:
        lines = lines_of(conn, settings, host, port, now=datetime.now(UTC))
    for line in lines:
        say(line)


def accept(host: HostArgument, port: PortArgument, author: AuthorOption, reason: ReasonOption = "") -> None:
    """Accept that a port which is down is gone for good: the next complete answer without it retires it."""
    from portmon.api import ports

    act(ports.accept, host, port, author=author, reason=reason, now=datetime.now(UTC))


def promote(
    host: HostArgument,
    port: PortArgument,
    author: AuthorOption,
    reason: ReasonOption = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take a promotion back.")] = False,
) -> None:
    """Declare that a learned port must listen from now on, as if the CMDB had listed it."""
    from portmon.api import ports

    if withdraw:
        act(ports.withdraw_promotion, host, port, author=author, reason=reason, now=datetime.now(UTC))
    else:
        act(ports.promote, host, port, author=author, reason=reason, now=datetime.now(UTC))


def ignore(
    host: HostArgument,
    port: PortArgument,
    author: AuthorOption,
    reason: ReasonOption = "",
    until: UntilOption = None,
    duration: ForOption = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Watch the port again.")] = False,
) -> None:
    """Do not watch a port until a time, whatever the rules say. An open alert of it ends with the next run."""
    from portmon.api import ignored

    now = datetime.now(UTC)
    if withdraw:
        act(ignored.watch_again, host, port, author=author, reason=reason, now=now)
        return
    end = end_of(until, duration, "UTC", now, now)
    if end is None:
        raise RequestError("say until when: --for or --until")
    act(ignored.ignore, host, port, until=end, author=author, reason=reason, now=now)


def list_ports(host: HostArgument, output: FormatOption = Format.TABLE) -> None:
    """List what is known of the ports of one host, learned and declared."""
    from portmon.api import ports

    with reading(quiet=output is Format.JSON) as conn:
        found = ports.list_ports(conn, host)
    print_views(found, output, ("port", "state", "since", "program", "unit", "addresses", "because"), _row)


def _row(port: PortView) -> tuple[object, ...]:
    return (
        port.port,
        f"{port.status}, flapping" if port.flapping_since else port.status,
        f"{port.status_since:%Y-%m-%d %H:%M}",
        *(", ".join(values) or None for values in (port.programs, port.units, port.addresses)),
        port.declared or "learned",
    )
