"""``export``: ports, hosts, alerts and events as CSV, JSON lines or Parquet."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, BinaryIO, cast

import typer

from portmon.cli.options import reading
from portmon.cli.status import BeforeOption, KindOption, OfHostOption, OfPortOption, SinceOption, event_filter
from portmon.errors import CommandError, RequestError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portmon.api.export import Row

_GROUP = 10_000
"""Rows of a row group of Parquet, which are in memory together."""


class FileFormat(StrEnum):
    """The format of a file."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


export = typer.Typer(
    help="Write everything that is known of ports, hosts, alerts or events, to a file or to stdout.",
    no_args_is_help=True,
)
FileFormatOption = Annotated[
    FileFormat, typer.Option("--format", help="`json` is one object a line; `parquet` needs pyarrow.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The file, replaced as a whole once all of it is written; default: stdout."),
]


@export.command("ports")
def export_ports(host: OfHostOption = "", output: OutputOption = None, form: FileFormatOption = FileFormat.CSV) -> None:
    """Write the ports of the CMDB's hosts, by host and number.

    Columns: `host`, `host_id`, `host_status`, `protocol`, `port`, `status`, `status_since`, `first_seen_at`,
    `last_seen_at`, `flapping_since`, `hidden_since`, `programs`, `units`, `addresses`, `reach`, `declared`.
    """
    from portmon.api import export as api
    from portmon.api.hosts import find_host
    from portmon.storage.lookups import PortFilter

    _export(
        "ports",
        lambda conn: api.ports(conn, PortFilter(host_id=find_host(conn, host).id if host else "")),
        form,
        output,
    )


@export.command("hosts")
def export_hosts(output: OutputOption = None, form: FileFormatOption = FileFormat.CSV) -> None:
    """Write the hosts that the CMDB gave to the last run, by name.

    Columns: `name`, `host_id`, `address`, `ssh_port`, `labels`, `status`, `status_since`, `failures`, `failing_since`,
    `last_ok_at`, `error_class`, `error`, `tool`.
    """
    from portmon.api import export as api
    from portmon.storage.lookups import HostFilter

    _export("hosts", lambda conn: api.hosts(conn, HostFilter()), form, output)


@export.command("alerts")
def export_alerts(output: OutputOption = None, form: FileFormatOption = FileFormat.CSV) -> None:
    """Write the open alerts, oldest first.

    Columns: `since`, `kind`, `severity`, `host`, `host_id`, `port`, `program`, `unit`, `reason`, `told`, `withheld`,
    `id`.
    """
    from portmon.api import export as api

    _export("alerts", lambda conn: api.open_alerts(conn, datetime.now(UTC)), form, output)


@export.command("events")
def export_events(
    kind: KindOption = "",
    host: OfHostOption = "",
    port: OfPortOption = None,
    since: SinceOption = None,
    until: BeforeOption = None,
    output: OutputOption = None,
    form: FileFormatOption = FileFormat.CSV,
) -> None:
    """Write what happened, newest first.

    Columns: `at`, `kind`, `severity`, `host`, `host_id`, `protocol`, `port`, `program`, `unit`, `reason`, `run_id`,
    `told`, `id`.
    """
    from portmon.api import export as api

    wanted = event_filter(kind, host, port, since, until)
    _export("events", lambda conn: api.events(conn, wanted(conn)), form, output)


def _export(what: str, rows: Callable[[Connection], Iterator[Row]], form: FileFormat, output: Path | None) -> None:
    from portmon.api.export import COLUMNS, write_csv, write_json

    if form is FileFormat.PARQUET:
        _pyarrow()
        if output is None and sys.stdout.isatty():
            raise RequestError("Parquet is no text for a terminal: give --output, or send it to a file")
    with _target(output) as out, reading(quiet=True) as conn:
        found = rows(conn)
        if form is FileFormat.PARQUET:
            _write_parquet(out, what, found)
            return
        text = io.TextIOWrapper(cast(BinaryIO, out), encoding="utf-8", newline="")
        if form is FileFormat.CSV:
            write_csv(text, COLUMNS[what], found)
        else:
            write_json(text, found)
        text.flush()
        text.detach()


@contextmanager
def _target(path: Path | None) -> Iterator[IO[bytes]]:
    """Where to write. A file is written under another name and renamed at the end: a failure leaves none, or the old.

    :raises CommandError: it can't be written
    """
    try:
        if path is None:
            # While logs go to stderr by its number, what is exported goes on to the stdout that there was.
            with os.fdopen(os.dup(1), "wb") as out:
                yield out
        elif path.exists() and not path.is_file():
            with path.open("wb") as out:
                yield out
        else:
            real = path.resolve()
            number, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
            try:
                with os.fdopen(number, "wb") as out:
                    yield out
                Path(name).replace(real)
            except BaseException:
                with suppress(OSError):
                    Path(name).unlink()
                raise
    except BrokenPipeError:
        # What reads has enough.
        raise SystemExit(0) from None
    except OSError as error:
        raise CommandError(f"{path or 'stdout'}: {error.strerror or error}") from error


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CommandError("Parquet needs pyarrow: pip install 'portmon[parquet]', or pip install pyarrow") from error
    return pyarrow


def _write_parquet(out: IO[bytes], what: str, rows: Iterable[Row]) -> None:
    """Write rows in groups. Times are of microseconds in UTC, lists lists of texts."""
    from portmon.api.export import COLUMNS

    arrow = _pyarrow()
    types = {
        str: arrow.string(),
        int: arrow.int64(),
        datetime: arrow.timestamp("us", tz="UTC"),
        tuple: arrow.list_(arrow.string()),
    }
    schema = arrow.schema([(name, types[kind]) for name, kind in COLUMNS[what].items()])
    each = iter(rows)
    with arrow.parquet.ParquetWriter(out, schema) as writer:
        while part := list(islice(each, _GROUP)):
            writer.write_table(arrow.Table.from_pylist(part, schema=schema))
