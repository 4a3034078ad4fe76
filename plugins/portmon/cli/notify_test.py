"""``notify-test``: whether the channels get messages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from portmon.cli.options import AuthorOption, ConfigOption, FormatOption, config_of, label_options
from portmon.cli.terminal import Format, print_json, say, shown_at_once
from portmon.errors import CommandError


def notify_test(
    author: AuthorOption,
    channel: Annotated[str | None, typer.Argument(help="Name of the only channel; default: all.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="NAME=VALUE, label of the host that the test is about.")
    ] = None,
    config: ConfigOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Send a message of each kind, marked as a test, through the routes: down and recovered, unreachable and back, new.

    Nothing is stored. Exits with 1 if a channel did not take one, or no route leads to a channel.
    The JSON is a list of objects: `kind`, `channel`, `route`, and `error`, null if the message was taken.
    """
    found = config_of(config)
    labels = {name: values[-1] for name, values in label_options(label).items()}
    from portmon.airflow.notify_test import send_tests

    sent = []
    for one in shown_at_once(send_tests(found, only=channel, labels=labels, author=author, now=datetime.now(UTC))):
        sent.append(one)
        if output is Format.TABLE:
            say(
                f"{'failed' if one.error else 'sent'}: {one.kind.value} to {one.channel} ({one.route}){_why(one.error)}"
            )
    if output is Format.JSON:
        print_json([{name: getattr(one, name) for name in ("kind", "channel", "route", "error")} for one in sent])
    if not sent:
        raise CommandError("no route leads such events to a channel: `portmon check` shows the routes")
    if failed := {one.channel for one in sent if one.error}:
        raise CommandError(f"not every message was taken: {', '.join(sorted(failed))}")


def _why(error: str | None) -> str:
    return f": {error}" if error else ""
