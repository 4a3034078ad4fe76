"""``parse`` and ``probe``, which need no configuration and no Airflow."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from portmon.cli.options import FormatOption
from portmon.cli.terminal import Format, print_json, print_table, say


def parse(
    file: Annotated[
        typer.FileBinaryRead,
        typer.Argument(
            default_factory=lambda: "-",
            show_default="stdin",
            help="Output of netstat, ss or the probe, or a copy of /proc/net/tcp.",
        ),
    ],
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the listening ports in the output of netstat, ss, /proc/net/tcp or the probe."""
    from portmon.probe import is_frame, read_any
    from portmon.probe.listing import parse_listeners

    data = file.read()
    listeners = read_any(data).listeners if is_frame(data) else parse_listeners(data)
    if output is Format.JSON:
        print_json([asdict(listener) for listener in listeners])
        return
    places = [f"{one.address}%{one.zone}" if one.zone else one.address for one in listeners]
    rows = [(one.protocol, at, one.port, one.pid, one.program) for one, at in zip(listeners, places, strict=True)]
    print_table(("proto", "address", "port", "pid", "program"), rows)
    say(f"{len(listeners)} listening")


def probe(
    sudo: Annotated[bool, typer.Option("--sudo", help="List with `sudo -n` where that is allowed.")] = False,
) -> None:
    """Print the probe as a script, for a forced command on the hosts."""
    from portmon.probe import script

    print(script(sudo=sudo), end="")
