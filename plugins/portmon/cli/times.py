"""Times as options of commands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer

from portmon.api.view import minute

Value = TypeVar("Value")
UntilOption = Annotated[str | None, typer.Option("--until", help="End, ISO 8601 such as 2026-01-02T04:00.")]
ForOption = Annotated[str | None, typer.Option("--for", help="Instead of --until: how long, such as 2h or 1d.")]


def end_of(until: str | None, duration: str | None, timezone: str, begins: datetime, now: datetime) -> datetime | None:
    """The end that ``--until`` or ``--for`` gives; None if neither is given.

    :param timezone: of a time without an offset
    :raises BadParameter: it can't be read, or is past
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
    """A time that is not to come, or not past.

    :param timezone: of a time without an offset
    :raises BadParameter: it can't be read, or is on the other side of ``now``
    """
    from portmon.alerting.silences import zone
    from portmon.fields import parse_moment

    at = read_option(lambda value: parse_moment(value, zone(timezone)), text, option)
    if (at > now) if past else (at < now):
        told = "still to come" if past else "in the past"
        raise typer.BadParameter(f"{text} ({minute(at)}) is {told}", param_hint=option)
    return at


def read_option(read: Callable[[Any], Value], value: Any, option: str) -> Value:
    """The value of an option.

    :raises BadParameter: it can't be read
    """
    try:
        return read(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    except OverflowError as error:
        raise typer.BadParameter(f"{value} is too far away", param_hint=option) from error
