"""Options that several commands have, what they stand for, and how commands reach the state database."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer

from portmon.api.view import minute
from portmon.cli.terminal import Format, logs_to_stderr, say
from portmon.errors import RequestError, StorageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portmon.config import Config
    from portmon.storage.database import Database

given_database: ContextVar[str | None] = ContextVar("given_database", default=None)
"""What ``portmon --database`` names: such a command asks Airflow for nothing."""
Value = TypeVar("Value")
Given = ParamSpec("Given")
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Path of portmon.yaml; default: the one that the DAG uses.")
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
HostArgument = Annotated[str, typer.Argument(help="Name or id of the host.")]
UntilOption = Annotated[str | None, typer.Option("--until", help="End, ISO 8601 such as 2026-01-02T04:00.")]
ForOption = Annotated[str | None, typer.Option("--for", help="Instead of --until: how long, such as 2h or 1d.")]


def port_of_option(text: str) -> int:
    """The number of a port that an argument or option names."""
    from portmon.fields import parse_port

    return read_option(parse_port, text, "PORT")


PortArgument = Annotated[
    int, typer.Argument(help="TCP port, or a UDP port such as 53/udp.", parser=port_of_option, metavar="PORT")
]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container with a user id of its own.
        return f"uid {os.getuid()}"


ReasonOption = Annotated[str, typer.Option("--reason", help="Why; recorded and shown.")]
AuthorOption = Annotated[
    str,
    typer.Option("--author", help="Your name, for the record.", default_factory=_user, show_default="the system user"),
]


def config_of(path: Path | None, *, light: bool = False) -> Config:
    """The configuration in a file; None: the one that the DAG uses.

    :param light: the command needs nothing else of Airflow, whose import takes a second
    """
    if path is not None:
        from portmon.config import load_config

        return load_config(path)
    if light or given_database.get() is not None:
        from portmon.airflow import installation

        option = installation.option("config")
        if option is not None:
            return installation.read_config(option)
    with logs_to_stderr():
        from portmon.airflow import settings

        return settings.config()


@contextmanager
def reading(*, quiet: bool) -> Iterator[Connection]:
    """A transaction on the state database that can only read, and waits for no writer. Logs go to stderr meanwhile.

    :param quiet: do not print the database's name
    """
    database = open_database(quiet=quiet)
    with logs_to_stderr(), database.reading() as conn:
        if conn is None:
            raise StorageError(f"{database} does not exist yet: run `portmon db upgrade`")
        yield conn


@contextmanager
def writing() -> Iterator[Connection]:
    """A transaction on the state database. Logs go to stderr meanwhile."""
    database = open_database()
    with logs_to_stderr():
        database.check()
        with database.begin() as conn:
            yield conn


def act(
    action: Callable[Concatenate[Connection, Given], str | list[str]], *args: Given.args, **kwargs: Given.kwargs
) -> None:
    """Carry out an action on the state database, and print what it did."""
    with writing() as conn:
        done = action(conn, *args, **kwargs)
    for line in [done] if isinstance(done, str) else done:
        say(line)


def open_database(*, quiet: bool = False) -> Database:
    """The state database, as it is; ``quiet`` is as for :func:`reading`."""
    given = given_database.get()
    if given is not None:
        database = _database_at(given)
    else:
        with logs_to_stderr():
            from portmon.airflow import settings

            database = settings.database()
    if not quiet:
        say(f"database {database}")
    return database


def _database_at(given: str) -> Database:
    from sqlalchemy.exc import ArgumentError

    from portmon.storage.database import Database

    try:
        return Database(given if "://" in given else f"sqlite:///{Path(given).expanduser().absolute()}")
    except (ArgumentError, ValueError):
        # Its text may hold a password.
        raise RequestError("--database: give the file of a SQLite database, or postgresql://USER@HOST/NAME") from None


def interval() -> timedelta:
    """The time between two scheduled runs, 0 without a rhythm; without Airflow where that can be told without it."""
    from portmon.airflow import installation
    from portmon.airflow.provider import DEFAULT_SCHEDULE
    from portmon.fields import parse_duration

    text = installation.option("schedule") if given_database.get() is not None else None
    if text == DEFAULT_SCHEDULE:
        return timedelta(minutes=5)
    if text is not None:
        with suppress(ValueError):
            return parse_duration(text)
    with logs_to_stderr():
        from portmon.airflow import settings

        return settings.interval()


def label_options(given: Iterable[str] | None) -> dict[str, tuple[str, ...]]:
    """Values of ``--label NAME=VALUE`` by name."""
    found: dict[str, tuple[str, ...]] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{text!r} is no label: give NAME=VALUE", param_hint="--label")
        found[name] = (*found.get(name, ()), value)
    return found


def end_of(until: str | None, duration: str | None, timezone: str, begins: datetime, now: datetime) -> datetime | None:
    """The end that ``--until`` or ``--for`` gives; None if neither is given.

    :param timezone: of a time without an offset
    """
    from portmon.fields import parse_duration

    if duration is None:
        return None if until is None else time_of(until, "--until", now, past=False, timezone=timezone)
    if until is not None:
        raise typer.BadParameter("give --until or --for, not both", param_hint="--for")
    length = read_option(parse_duration, duration, "--for")
    if length <= timedelta(0):
        raise typer.BadParameter("must be longer than 0", param_hint="--for")
    return read_option(begins.__add__, length, "--for")


def time_of(text: str, option: str, now: datetime, *, past: bool, timezone: str = "UTC") -> datetime:
    """A time that must be past, or must not be; ``timezone`` is as for :func:`end_of`."""
    from portmon.alerting.silences import zone
    from portmon.fields import parse_moment

    at = read_option(lambda value: parse_moment(value, zone(timezone)), text, option)
    if (at > now) if past else (at < now):
        told = "still to come" if past else "in the past"
        raise typer.BadParameter(f"{text} ({minute(at)}) is {told}", param_hint=option)
    return at


def read_option(read: Callable[[Any], Value], value: Any, option: str) -> Value:
    """The value of an option; the command ends with an error where ``read`` raises ValueError."""
    try:
        return read(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    except OverflowError as error:
        raise typer.BadParameter(f"{value} is too far away", param_hint=option) from error
