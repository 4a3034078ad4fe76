"""What all views share: stable field names, filled from stored records, and safe to write as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer, SkipValidation

from portmon.model.numbers import text_of

Text = Annotated[
    str,
    SkipValidation,
    PlainSerializer(lambda text: text.encode("utf-8", "backslashreplace").decode(), when_used="json"),
]
"""Text of a host, the CMDB or a person. It may hold lone surrogates, which pydantic refuses and UTF-8 can't hold."""


class View(BaseModel):
    """Something that people look at."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


def minute(at: datetime) -> str:
    """A time to the minute."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def place(host: str | None, port: int | None = None) -> str:
    """The subject of an alert or an event; without a host it is the monitor itself.

    :param port: its number
    """
    return "the monitor" if host is None else host if port is None else f"{host} port {text_of(port)}"
