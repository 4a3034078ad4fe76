"""How commands print: tables, JSON, and no text of a host that a terminal would obey."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from portmon.api.view import View

Item = TypeVar("Item")
Shown = TypeVar("Shown", bound="View")


class Format(StrEnum):
    """The format in which a command prints its result."""

    TABLE = "table"
    JSON = "json"


@contextmanager
def logs_to_stderr() -> Iterator[None]:
    """Airflow's loggers write to stdout, where a log line would break the JSON."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def shown_at_once(found: Iterator[Item]) -> Iterator[Item]:
    """What takes its time, item by item; logs go to stderr while one is awaited."""
    while True:
        with logs_to_stderr():
            item = next(found, None)
        if item is None:
            return
        yield item


def visible(value: object) -> str:
    """Text without characters that would move a terminal's cursor or hide something."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in str(value)
    )


def say(line: object) -> None:
    """Print one line."""
    _console(soft_wrap=True).print(Text(visible(line)))


def complain(line: object) -> None:
    """Print one line to stderr."""
    print(visible(line), file=sys.stderr)


def print_table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table; None is a dash."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if value is None else visible(value)) for value in row))
    _console(soft_wrap=False).print(table)


def print_json(value: Any) -> None:
    """Print JSON: ASCII only, since names of hosts may hold what a terminal would obey; times as ISO 8601."""
    print(json.dumps(value, default=_plain_json, indent=2))


def _plain_json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_views(
    views: Sequence[Shown], output: Format, columns: Sequence[str], row: Callable[[Shown], Iterable[object]]
) -> None:
    """Print views as a list in JSON, or as a table with a ``row`` for each."""
    if output is Format.JSON:
        print_json([view.model_dump() for view in views])
    else:
        print_table(columns, map(row, views))


def _console(*, soft_wrap: bool) -> Console:
    return Console(highlight=False, soft_wrap=soft_wrap, width=None if sys.stdout.isatty() else 200)
