"""``parse`` and ``probe``, which need no configuration and no Airflow."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from portmon.cli.options import Format, FormatOption
from portmon.cli.terminal import cell, say, table_of


def parse(
    file: Annotated[
        Path | None, typer.Argument(help="What netstat, ss, /proc/net/tcp or the probe printed; default: stdin.")
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the listening ports in the output of netstat, ss, /proc/net/tcp or the probe."""
    from portmon.probe import is_frame, read_any
    from portmon.probe.listing import parse_listeners

    try:
        data = file.read_bytes() if file and str(file) != "-" else sys.stdin.buffer.read()
    except OSError as error:
        print(f"error: {file}: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from error
    listeners = read_any(data).listeners if is_frame(data) else parse_listeners(data)
    if output is Format.JSON:
        # ASCII only: names from hosts may hold what no terminal should see.
        print(json.dumps([asdict(listener) for listener in listeners], indent=2))
        return
    table = table_of("proto", "address", "port", "pid", "program")
    for listener in listeners:
        address = f"{listener.address}%{listener.zone}" if listener.zone else listener.address
        table.add_row(*map(cell, (listener.protocol, address, listener.port, listener.pid, listener.program)))
    say(table)
    say(f"{len(listeners)} listening")


def probe(
    sudo: Annotated[bool, typer.Option("--sudo", help="List with `sudo -n` where that is allowed.")] = False,
) -> None:
    """Print the probe as a script for a forced command on the servers."""
    from portmon.probe import script

    print(script(sudo=sudo), end="")
