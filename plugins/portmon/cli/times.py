"""Times as options of commands, and as people read them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer

Value = TypeVar("Value")
UntilOption = Annotated[str | None, typer.Option("--until", help="End, ISO 8601 such as 2026-01-02T04:00.")]
ForOption = Annotated[str | None, typer.Option("--for", help="Instead of --until: how long, such as 2h or 1d.")]


def minute(at: datetime) -> str:
    """A time to the minute."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def end_of(until: str | None, duration: str | None, timezone: str, begins: datetime, now: datetime) -> datetime | None:
    """The end that ``--until`` or ``--for`` gives; None if neither is there.

    :param timezone: of a time without an offset
    :raises BadParameter: if it is none, or past
    """
    from portmon.fields import parse_duration

    if until is not None and duration is not None:
        raise typer.BadParameter("give --until or --for, not both", param_hint="--for")
    if duration is None:
        return moment_of(until, timezone, "--until", now)
    length = read_option(parse_duration, duration, "--for")
    if length <= timedelta(0):
        raise typer.BadParameter("must be longer than 0", param_hint="--for")
    return read_option(begins.__add__, length, "--for")


def moment_of(text: str | None, timezone: str, option: str, now: datetime) -> datetime | None:
    """A time that is not past.

    :param timezone: of a time without an offset
    :raises BadParameter: if it is none, or past
    """
    if text is None:
        return None
    at = _option(text, timezone, option)
    if at < now:
        raise typer.BadParameter(f"{text} ({minute(at)}) is in the past", param_hint=option)
    return at


def past_moment(text: str, timezone: str, option: str, now: datetime) -> datetime:
    """A time that is not to come.

    :param timezone: of a time without an offset
    :raises BadParameter: if it is none, or to come
    """
    at = _option(text, timezone, option)
    if at > now:
        raise typer.BadParameter(f"{text} ({minute(at)}) is still to come", param_hint=option)
    return at


def _option(text: str, timezone: str, option: str) -> datetime:
    from portmon.alerting.silences import zone
    from portmon.fields import parse_moment

    return read_option(lambda value: parse_moment(value, zone(timezone)), text, option)


def read_option(read: Callable[[Any], Value], value: Any, option: str) -> Value:
    """What an option means.

    :raises BadParameter: if it means nothing
    """
    try:
        return read(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    except OverflowError as error:
        raise typer.BadParameter(f"{value} is too far away", param_hint=option) from error
