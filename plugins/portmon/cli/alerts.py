"""``alerts``, ``ack`` and ``unack``: what is wrong now, and who takes care of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from portmon.api.view import minute
from portmon.cli.options import (
    AuthorOption,
    FormatOption,
    ForOption,
    HostArgument,
    ReasonOption,
    UntilOption,
    act,
    end_of,
    port_of_option,
    reading,
)
from portmon.cli.terminal import Format, print_views
from portmon.model.numbers import named

if TYPE_CHECKING:
    from portmon.api.alerts import AlertView, DeliveryView

SomePortArgument = Annotated[
    int | None,
    typer.Argument(
        help="TCP port, or a UDP port such as 53/udp; without it what is wrong with the host itself.",
        parser=port_of_option,
        metavar="[PORT]",
    ),
]


def list_alerts(output: FormatOption = Format.TABLE) -> None:
    """List open alerts, who was notified, and what silences them.

    The JSON has for each `id`, `since`, `host_id`, `host`, `protocol`, `port`, `program`, `unit`, `kind`, `severity`,
    `reason`; `told`, a list of `channel`, `route`, `state`, `reason`; `withheld`, null or `silence` (its id,
    null if it is Alertmanager's), `acknowledged` and `told` (in words).
    """
    from portmon.api import alerts

    with reading(quiet=output is Format.JSON) as conn:
        found = alerts.list_alerts(conn, datetime.now(UTC))
    print_views(found, output, ("since", "host", "port", "program", "kind", "severity", "told", "withheld"), _row)


def ack(
    host: HostArgument,
    author: AuthorOption,
    port: SomePortArgument = None,
    until: UntilOption = None,
    duration: ForOption = None,
    reason: ReasonOption = "",
) -> None:
    """Acknowledge an open alert: no more messages about it, except that it is resolved."""
    from portmon.api import alerts

    now = datetime.now(UTC)
    ends = end_of(until, duration, "UTC", now, now)
    act(alerts.acknowledge, host, port, until=ends, author=author, reason=reason, now=now)


def unack(host: HostArgument, author: AuthorOption, port: SomePortArgument = None) -> None:
    """Take an acknowledgement back."""
    from portmon.api import alerts

    act(alerts.withdraw_acknowledgement, host, port, author=author, now=datetime.now(UTC))


def _row(one: AlertView) -> tuple[object, ...]:
    notified = ", ".join(map(_delivery, one.told)) or None
    told = one.withheld.told if one.withheld else None
    return (
        minute(one.since),
        one.host,
        one.port and named(one.protocol, one.port),
        one.program,
        one.kind.value,
        one.severity.value,
        notified,
        told,
    )


def _delivery(one: DeliveryView) -> str:
    # A delivery keeps the error of an earlier try; what withholds it has a column of its own.
    reason = one.reason if one.state not in ("delivered", "withheld") else None
    return f"{one.channel}: {one.state}" + (f" ({reason})" if reason else "")
