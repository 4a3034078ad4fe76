"""Options that several commands have, and what they stand for."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from portmon.cli.terminal import Format, logs_to_stderr, say
from portmon.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portmon.config import Config
    from portmon.storage.database import Database

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Path of portmon.yaml; default: the one that the DAG uses.")
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
HostArgument = Annotated[str, typer.Argument(help="Name or id of the host.")]
PortArgument = Annotated[int, typer.Argument(help="TCP port.", min=1, max=65535)]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; recorded and shown.")]
AuthorOption = Annotated[
    str,
    typer.Option("--author", help="Who decides.", default_factory=getpass.getuser, show_default="the system user"),
]


def config_of(path: Path | None) -> tuple[Config, str]:
    """The configuration, and where it came from.

    :raises ConfigError: it is wrong
    """
    if path is not None:
        from portmon.config import load_config

        return load_config(path), str(path)
    with logs_to_stderr():
        from portmon.airflow import settings

        found = settings.config()
    return found, str(found.path) if found.path else "defaults (no portmon.yaml)"


@contextmanager
def reading(*, quiet: bool) -> Iterator[Connection]:
    """A transaction on the state database that can only read, and waits for no writer. Logs go to stderr meanwhile.

    :param quiet: do not name the database
    :raises StorageError: it can't be used as it is
    """
    database = open_database(quiet=quiet)
    with logs_to_stderr(), database.reading() as conn:
        if conn is None:
            raise StorageError(f"{database} does not exist yet: run `python -m portmon db upgrade`")
        yield conn


@contextmanager
def writing() -> Iterator[Connection]:
    """A transaction on the state database. Logs go to stderr meanwhile.

    :raises StorageError: the database can't be used as it is
    """
    database = open_database()
    with logs_to_stderr():
        database.check()
        with database.begin() as conn:
            yield conn


def open_database(*, quiet: bool = False) -> Database:
    """The state database, as it is.

    :param quiet: do not name it
    """
    with logs_to_stderr():
        from portmon.airflow import settings

        database = settings.database()
    if not quiet:
        say(f"database {database}")
    return database


def label_options(given: Iterable[str] | None) -> dict[str, tuple[str, ...]]:
    """Values of ``--label NAME=VALUE`` by name.

    :raises BadParameter: for one that is none
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{text!r} is no label: give NAME=VALUE", param_hint="--label")
        found[name] = (*found.get(name, ()), value)
    return found
