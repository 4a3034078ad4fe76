"""``scan``: ask one host now."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from portmon.cli.options import HostArgument, config_of
from portmon.cli.terminal import say, visible
from portmon.errors import CommandError, ScanError


def scan(
    host: HostArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Keep nothing: neither the answer nor a new host key.")
    ] = False,
) -> None:
    """Ask one host now, and show what the log of its task would, and what would follow.

    Neither a scheduler nor a first run is needed. The answer is kept, and the next run evaluates it. No message is
    sent. Exits with 1 if the host could not be asked.
    """
    found = config_of(None)
    say(f"configuration {found.path or 'defaults (no portmon.yaml)'}")
    _show_logs()
    from airflow.sdk.exceptions import AirflowException

    from portmon.airflow import by_hand

    try:
        by_hand.scan(found, host, dry_run=dry_run)
    except (AirflowException, ScanError) as error:
        # The log has said it, and what to do.
        raise CommandError(f"{host} could not be asked") from error


def _show_logs() -> None:
    """Print what portmon logs, as its tasks would."""

    class Lines(logging.StreamHandler):  # type: ignore[type-arg]
        def format(self, record: logging.LogRecord) -> str:
            sign = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            return "\n".join(map(visible, (sign + record.getMessage()).splitlines()))

    own = logging.getLogger("portmon")
    own.handlers = [Lines(sys.stdout)]
    own.setLevel(logging.INFO)
    own.propagate = False
