"""``doctor``: what is wrong with this installation, and the cure."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from portmon.cli.options import FormatOption
from portmon.cli.terminal import Format, print_json, say, shown_at_once


def doctor(
    host: Annotated[
        str | None, typer.Option("--host", help="Name or id of the host to log in to; default: the CMDB's first one.")
    ] = None,
    login: Annotated[bool, typer.Option(help="Log in to one host.")] = True,
    output: FormatOption = Format.TABLE,
) -> None:
    """Look at all that a run needs, from Airflow's version to a login, and say what to do about what is wrong.

    Changes nothing. Run it as the user of Airflow's workers, with their environment. Exits with 1 if there is a
    problem. The JSON is a list of objects: `level` (`ok`, `note`, `warning` or `problem`), `about`, `text`, `cure`.
    """
    from portmon.airflow.doctor import Level, examine

    # What goes wrong is a finding.
    logging.getLogger("portmon").setLevel(logging.CRITICAL)
    found = []
    for one in shown_at_once(examine(host=host, login=login)):
        found.append(one)
        if output is Format.TABLE:
            say(f"{one.level.value:8} {one.about}: {one.text}")
            if one.cure:
                say(f"         to do: {one.cure}")
    if output is Format.JSON:
        names = ("level", "about", "text", "cure")
        print_json([{name: str(getattr(one, name)) for name in names} for one in found])
    if any(one.level is Level.PROBLEM for one in found):
        raise SystemExit(1)
