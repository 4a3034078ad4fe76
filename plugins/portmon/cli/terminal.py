"""How commands speak: tables, text of hosts made harmless, one line for an error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from portmon.errors import PortmonError


@contextmanager
def told() -> Iterator[None]:
    """Errors of portmon end the process with exit code 1 and one message."""
    try:
        yield
    except PortmonError as error:
        # Several mistakes are several lines; what a CMDB sent may be part of them.
        print("error: " + "\n".join(map(visible, str(error).splitlines())), file=sys.stderr)
        raise SystemExit(1) from error


@contextmanager
def logs_aside() -> Iterator[None]:
    """What is logged goes to stderr: Airflow's loggers write to stdout, where it would be part of the JSON."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def table_of(*columns: str) -> Table:
    """An empty table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def cell(value: object) -> Text:
    """What a host sent, for a terminal: no markup, no control characters."""
    return Text("-" if value is None else visible(value))


def visible(value: object) -> str:
    """Text without what would move a terminal's cursor or hide something."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in str(value)
    )


def say(what: object) -> None:
    """Print a line or a table; a plain text is taken as it is, without markup."""
    Console(highlight=False, soft_wrap=not isinstance(what, Table), width=None if sys.stdout.isatty() else 200).print(
        Text(what) if isinstance(what, str) else what
    )
