"""Options that several commands have, and what they stand for."""

from __future__ import annotations

import getpass
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from portmon.cli.terminal import logs_aside, say

if TYPE_CHECKING:
    from portmon.config import Config
    from portmon.storage.database import Database


class Format(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="portmon.yaml; default: the one that the DAG uses.")
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
HostArgument = Annotated[str, typer.Argument(help="Name or id of the server.")]
PortArgument = Annotated[int, typer.Argument(help="TCP port.", min=1, max=65535)]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept and shown.")]
AuthorOption = Annotated[str | None, typer.Option("--author", help="Who decides; default: the system user.")]


def config_of(path: Path | None) -> tuple[Config, str]:
    """The configuration, and where it came from.

    :raises ConfigError: if it is wrong
    """
    from portmon.config import load_config

    if path is not None:
        return load_config(path), str(path)
    from portmon.airflow import settings

    found = settings.config()
    return found, str(found.path) if found.path else "defaults (no portmon.yaml)"


def base_folder(settings: Config) -> Path:
    """The folder that relative paths in portmon.yaml start from."""
    from portmon.airflow import settings as airflow_settings

    return (settings.path or airflow_settings.config_path()).parent


def open_database(*, quiet: bool = False, checked: bool = True) -> Database:
    """The state database.

    :param quiet: do not name it
    :param checked: it must be usable as it is
    :raises StorageError: if it is not
    """
    from portmon.airflow import settings

    with logs_aside():
        database = settings.database()
    if not quiet:
        say(f"database {database}")
    if checked:
        with logs_aside():
            database.check()
    return database


def author_of(given: str | None) -> str:
    """Who decides: what was given, or the system user."""
    return given or getpass.getuser()


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
