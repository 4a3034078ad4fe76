"""What all views share: stable field names, filled from stored records, and safe to write as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer, SkipValidation


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_safe(key): _safe(inner) for key, inner in value.items()}
    return [_safe(inner) for inner in value] if isinstance(value, list | tuple) else value


Text = Annotated[str, SkipValidation, PlainSerializer(_safe, when_used="json")]
"""Text of a host, the CMDB or a person. It may hold lone surrogates, which pydantic refuses and UTF-8 can't hold."""
Data = Annotated[Any, PlainSerializer(_safe, when_used="json")]
"""JSON types with such text."""


class View(BaseModel):
    """Something that people look at."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


def minute(at: datetime) -> str:
    """A time to the minute."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def place(host: str | None, port: int | None = None) -> str:
    """What an alert or an event is about; without a host it is the monitor itself."""
    return "the monitor" if host is None else host if port is None else f"{host} port {port}"
