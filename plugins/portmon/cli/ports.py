"""Commands about ports: ``explain``, ``ports``, ``accept``, ``promote``, ``ignore``, ``forget-boots``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from portmon.api.view import minute
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
    port_of_option,
    reading,
)
from portmon.cli.terminal import Format, print_json, print_views, say
from portmon.errors import RequestError
from portmon.model.numbers import named, range_of

if TYPE_CHECKING:
    from portmon.api.fleet import PortRow
    from portmon.api.ports import PortView

SomeHostArgument = Annotated[str | None, typer.Argument(help="Name or id of the host; default: all.")]
MaybePortArgument = Annotated[
    int | None,
    typer.Argument(
        help="TCP port, or a UDP port such as 53/udp; default: the machine of the host.",
        parser=port_of_option,
        metavar="[PORT]",
    ),
]
SomePortArgument = Annotated[
    int | None,
    typer.Argument(
        help="TCP port, or a UDP port such as 53/udp; default: the host itself.",
        parser=port_of_option,
        metavar="[PORT]",
    ),
]


def explain(
    host: HostArgument,
    port: SomePortArgument = None,
    config: ConfigOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Tell the story of a port: what it is now, why it is watched, what happened and why. Without a port: of a host.

    The JSON is one object: `host`, `ports` and `events` (the newest 100) with the fields of `/portmon/api/v1` of the
    page, and `story`, a list of lines.
    """
    from portmon.api import fleet
    from portmon.api.explain import explain as lines_of
    from portmon.api.hosts import find_host
    from portmon.storage.lookups import EventFilter, PortFilter

    settings = config_of(config)
    with reading(quiet=output is Format.JSON) as conn:
        lines = lines_of(conn, settings, host, port, now=datetime.now(UTC))
        if output is Format.JSON:
            host_id = find_host(conn, host).id
            numbers = () if port is None else (range_of(port),)
            ports = fleet.list_ports(conn, PortFilter(host_id=host_id, numbers=numbers), limit=1000).rows
            events = fleet.list_events(conn, EventFilter(host_id=host_id, numbers=numbers), limit=100)
            found = {
                "host": fleet.one_host(conn, host_id).model_dump(),
                "ports": [one.model_dump() for one in ports],
                "events": [one.model_dump() for one in events],
                "story": lines,
            }
    if output is Format.JSON:
        print_json(found)
        return
    for line in lines:
        say(line)


def accept(
    host: HostArgument,
    author: AuthorOption,
    port: MaybePortArgument = None,
    reason: ReasonOption = "",
    owner: Annotated[bool, typer.Option("--owner", help="Only if it is about who has the port.")] = False,
) -> None:
    """Accept that a port which is down is gone for good: the next complete answer without it retires it.

    A port that is up may have lost an address that others reach, or one of its owners: it is not expected there any
    more. If another program has a port that is down, the port is that program's from then on. Without a port: the
    machine that answers for the host, where `foreign_machine` says that it is another one, is the host's own.
    """
    from portmon.api import hosts, ports

    now = datetime.now(UTC)
    if port is None:
        act(hosts.accept_machine, host, author=author, reason=reason, now=now)
    else:
        act(ports.accept, host, port, author=author, reason=reason, now=now, owner=owner)


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
    """Do not watch a port until a time, whatever the rules say. An open alert of it ends after two complete answers."""
    from portmon.api import ignored

    now = datetime.now(UTC)
    if withdraw:
        act(ignored.watch_again, host, port, author=author, reason=reason, now=now)
        return
    end = end_of(until, duration, "UTC", now, now)
    if end is None:
        raise RequestError("say until when: --for or --until")
    act(ignored.ignore, host, port, until=end, author=author, reason=reason, now=now)


def forget_boots(host: HostArgument, port: PortArgument, author: AuthorOption, reason: ReasonOption = "") -> None:
    """Forget how long a port took after the last boots of its host, so that a slow one gives it no more time.

    It counts from the next boot on: then the port has the time of its rule, or `states.reboot_grace`, and learns anew.
    """
    from portmon.api import ports

    act(ports.forget_boots, host, port, author=author, reason=reason, now=datetime.now(UTC))


def list_ports(
    host: SomeHostArgument = None,
    limit: Annotated[
        int, typer.Option("--limit", help="Without a host: at most this many.", min=1, max=100_000)
    ] = 1000,
    output: FormatOption = Format.TABLE,
) -> None:
    """List what is known of the ports of one host, or of all hosts, learned and declared.

    A port of an unreachable host shows the state that was last seen, and that its host is unreachable. A port that no
    rule watches any more is hidden for `cmdb.prune_after`. Times are UTC.
    The JSON is a list of objects, one per port; of all hosts with the fields of `/portmon/api/v1/ports` of the page.
    """
    if host is None:
        _list_all(limit, output)
        return
    from portmon.api import explain, ports

    with reading(quiet=output is Format.JSON) as conn:
        found = ports.list_ports(conn, host)
        status = ports.host_status(conn, host)
        about = explain.host_lines(conn, host)
    if output is Format.TABLE:
        for line in about:
            say(line)
    print_views(
        found,
        output,
        ("port", "state", "since", "program", "unit", "addresses", "because"),
        lambda one: (named(one.protocol, one.port), *_state_and_owner(one, status), one.declared or "learned"),
    )


def _list_all(limit: int, output: Format) -> None:
    from portmon.api import fleet
    from portmon.storage.lookups import PortFilter

    with reading(quiet=output is Format.JSON) as conn:
        found = fleet.list_ports(conn, PortFilter(), limit=limit)
    print_views(
        found.rows,
        output,
        ("host", "port", "state", "since", "program", "unit", "addresses"),
        lambda one: (one.host, f"{one.port}/{one.protocol}", *_state_and_owner(one, one.host_status)),
    )
    if output is Format.TABLE and found.total > len(found.rows):
        say(f"and more: --limit {found.total} or the page")
    elif output is Format.TABLE and not found.rows:
        say("nothing is known yet: no run was evaluated, or no host gave a complete answer")


def _state_and_owner(port: PortView | PortRow, host_status: str) -> tuple[object, ...]:
    from portmon.model.state import HostStatus

    # No rule watches a hidden port: its state is that of before.
    state = "hidden" if port.hidden_since else f"{port.status}, flapping" if port.flapping_since else port.status
    # What was last seen of an unreachable host need not be so now.
    unsure = ", host unreachable" if host_status == HostStatus.UNREACHABLE else ""
    return (
        f"{state}{unsure}",
        minute(since) if (since := port.hidden_since or port.status_since) else None,
        *(", ".join(values) or None for values in (port.programs, port.units, port.addresses)),
    )
