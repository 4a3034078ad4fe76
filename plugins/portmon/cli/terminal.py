"""How commands print: tables, JSON, and no text of a host that a terminal would obey."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from portmon.api.view import View

Item = TypeVar("Item")
Shown = TypeVar("Shown", bound="View")
PIPE_WIDTH = 120
"""Columns of a table that goes to no terminal."""
UNBROKEN = 11
"""Columns of a word that a table breaks only if nothing else makes it fit."""
_PIECES = re.compile(r"`[^`]*`\S*|\S+")
"""Words; a command between backticks is one, so that it can be copied."""


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


def say(line: object, *, whole: bool = False) -> None:
    """Print one line. A terminal gets it wrapped at words, a pipe as it is.

    :param whole: never wrap it: it is to be copied
    """
    text = visible(line)
    print(text if whole else wrapped(text, sys.stdout.isatty()))


def complain(line: object) -> None:
    """Print one line to stderr, likewise."""
    print(wrapped(visible(line), sys.stderr.isatty()), file=sys.stderr)


def width() -> int:
    """Columns that a table may take: ``COLUMNS``, or those of the terminal, or :data:`PIPE_WIDTH`; at least 40."""
    return max(shutil.get_terminal_size((PIPE_WIDTH, 24)).columns, 40)


def wrapped(line: str, terminal: bool) -> str:
    """A line as several of at most :func:`width` columns, if it goes to a terminal or ``COLUMNS`` says how wide it is.

    What follows the first line is indented by two more columns. A word that is wider is broken, but for a command
    between backticks.
    """
    most = width()
    if not (terminal or os.environ.get("COLUMNS")) or cell_len(line) <= most:
        return line
    indent = " " * min(len(line) - len(line.lstrip()), most // 2)
    lines, left = [], indent
    # With the spaces before each word: those in columns stay.
    for found in re.finditer(rf"(\s*)({_PIECES.pattern})", line.lstrip()):
        space, word = found[1], found[2]
        if left.strip() and cell_len(left + space + word) > most:
            lines.append(left)
            left, space = indent + "  ", ""
        if not word.startswith("`") and cell_len(left + space + word) > most:
            first, *more = chop_cells(word, most - cell_len(indent) - 2)
            lines += [left + space + first, *(f"{indent}  {piece}" for piece in more[:-1])] if more else []
            left, space, word = (indent + "  ", "", more[-1]) if more else (left, space, word)
        left += space + word
    return "\n".join([*lines, left])


def print_table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table; None is a dash."""
    cells = [["-" if value is None else visible(value) for value in row] for row in rows]
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    texts = zip(columns, *cells, strict=True)
    for name, size in zip(columns, _widths([list(column) for column in texts], width()), strict=True):
        table.add_column(name, overflow="fold", width=size)
    for row in cells:
        table.add_row(*map(Text, row))
    Console(highlight=False, width=width()).print(table)


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Widths of columns of texts: numbers, times and states stay whole beside long names if that is possible."""
    room -= 2 * (len(columns) - 1)
    whole = [max(map(cell_len, texts)) for texts in columns]
    if sum(whole) <= room:
        return whole
    words = [max(cell_len(word) for text in texts for word in text.split() or [""]) for texts in columns]
    widths = [size if size <= UNBROKEN else UNBROKEN // 2 for size in words]
    if sum(widths) > room:
        widths = [min(size, 2) for size in whole]
    for _ in range(room - sum(widths)):
        narrowest = min((size, index) for index, size in enumerate(widths) if size < whole[index])[1]
        widths[narrowest] += 1
    return widths


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
