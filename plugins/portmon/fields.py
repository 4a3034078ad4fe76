"""Types of single fields of portmon.yaml, and the base class of its sections."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Literal

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    WithJsonSchema,
)

from portmon.matching import ranges_text
from portmon.model.numbers import BEYOND, TCP, TCP_ALONE, UDP
from portmon.untrusted.boundary import reason

_SHOWN = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_UNITS = {**_SHOWN, "ms": 0.001, "sec": 1, "min": 60, "day": 86400, "days": 86400, "w": 604800}
MAX_SECONDS = 1e10
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_DURATION_PATTERN = r"^\s*(\d+(\.\d+)?\s*(ms|s|sec|m|min|h|d|day|days|w)\s*)+$"


def parse_duration(value: object) -> timedelta:
    """Read a number of seconds, or a text such as ``15s``, ``10 min``, ``1h 30m``, ``14d``.

    :raises ValueError: for anything else, negative numbers included
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("give a duration such as 15s, 10min, 1h or 14d, or a number of seconds")
    if isinstance(value, int | float):
        seconds: float = value
    elif re.fullmatch(r"\d+(\.\d+)?", text := value.strip().lower()):
        seconds = float(text)
    else:
        parts = _DURATION.findall(text)
        if not parts or _DURATION.sub("", text).strip() or any(unit not in _UNITS for _, unit in parts):
            raise ValueError(f"{value!r} is not a duration: give for instance 15s, 10min, 1h or 14d")
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 <= seconds < MAX_SECONDS:
        raise ValueError("a duration must not be negative, nor longer than 300 years")
    return timedelta(seconds=seconds)


def parse_moment(text: object, zone: tzinfo) -> datetime:
    """Read an ISO 8601 time; the result is in UTC.

    :param zone: for a time without an offset
    :raises ValueError: for anything else
    """
    try:
        at = datetime.fromisoformat(text.strip() if isinstance(text, str) else "")
    except ValueError:
        right = "give ISO 8601, for instance 2026-01-02T04:00 or 2026-01-02T04:00+01:00"
        raise ValueError(f"{str(text)[:100]!r} is no time: {right}") from None
    return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)


def format_duration(value: timedelta) -> str:
    """The shortest text that :func:`parse_duration` reads back, ``90s`` as ``1m 30s``."""
    seconds = value.total_seconds()
    if seconds != int(seconds):
        return f"{seconds:g}s"
    parts = []
    rest = int(seconds)
    for unit, size in _SHOWN.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0s"


def format_seconds(value: timedelta) -> str:
    """The same without fractions of a second."""
    return format_duration(timedelta(seconds=int(value.total_seconds())))


def _any_of(*types: dict[str, object], **more: object) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": list(types), **more})


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    # Archived settings can be read again.
    PlainSerializer(format_duration, when_used="json"),
    _any_of(
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": _DURATION_PATTERN},
        examples=["15s", "10min", "1h", "14d"],
    ),
]


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0")
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]

_SIZES = {"": 1, "b": 1, "kib": 1024, "kb": 1024, "k": 1024, "mib": 1024**2, "mb": 1024**2, "m": 1024**2}


def parse_size(value: object) -> int:
    """Read a number of bytes, or a text such as ``4MiB`` or ``512 KiB``.

    :raises ValueError: for anything else
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d+)\s*([a-zA-Z]*)\s*", value) if isinstance(value, str) else None
    if not match or match[2].lower() not in _SIZES:
        raise ValueError(f"{value!r} is not a size: give for instance 4MiB, 512KiB or bytes")
    return int(match[1]) * _SIZES[match[2].lower()]


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    _any_of(
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": r"^\s*\d+\s*([kKmM]([iI]?[bB])?|[bB])?\s*$"},
        examples=["4MiB"],
    ),
]
PortNumber = Annotated[int, Field(ge=1, le=65535)]


def parse_ports(value: object, *, of_tcp: int = TCP_ALONE) -> tuple[tuple[int, int], ...]:
    """Read ports and ranges (``443``, ``"8000-8100"``, ``"53/udp"``, ``"80,443"``, a list of these) as inclusive pairs,
    as :func:`portmon.matching.in_ranges` takes them.

    :param of_tcp: by how much a port is higher that is said to be of TCP
    :raises ValueError: naming the item that is neither
    """
    if isinstance(value, list | tuple):
        return tuple(pair for item in value for pair in parse_ports(item, of_tcp=of_tcp))
    if isinstance(value, str) and "," in value:
        return parse_ports(value.split(","), of_tcp=of_tcp)
    match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?(?:/\s*(tcp|udp)\s*)?", str(value))
    if match and not isinstance(value, bool):
        low, high = int(match[1]), int(match[2] or match[1])
        if 1 <= low <= high <= 65535:
            more = {None: 0, TCP: of_tcp, UDP: BEYOND}[match[3]]
            return ((low + more, high + more),)
    raise ValueError(f"{value!r} is no port (1 to 65535), no range such as 8000-8100, and none of UDP such as 53/udp")


def parse_port(value: object) -> int:
    """Read one port, ``443`` or ``53/udp``, as its number. One that names no protocol is TCP's.

    :raises ValueError: it is none
    """
    ranges = _numbers(value)
    if len(ranges) != 1 or ranges[0][0] != ranges[0][1]:
        raise ValueError(f"{value!r} is more than one port")
    return ranges[0][0]


def _numbers(value: object) -> tuple[tuple[int, int], ...]:
    return parse_ports(value, of_tcp=0)


def one_or_many(value: object) -> object:
    """The value if it is a list, else a list of the value alone."""
    return value if isinstance(value, list | tuple) else [value]


def _bind_scope(value: str) -> str:
    if value in ("loopback", "wildcard"):
        return value
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError as error:
        raise ValueError(f"{value!r} is neither loopback, wildcard nor a network such as 10.0.0.0/8") from error


def _no_empty(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _jmespath(value: str) -> str:
    try:
        jmespath.compile(value)
    except Exception as error:
        why = str(error).splitlines()[0] if isinstance(error, JMESPathError) else reason(error)
        raise ValueError(f"{value[:200]!r} is no JMESPath expression: {why}") from error
    return value


def _query_value(value: object) -> object:
    # Query strings have true and false in lower case.
    if not isinstance(value, str | int):
        raise ValueError("give a text, a number, true or false, or a list of these")
    return str(value).lower() if isinstance(value, bool) else value


def _with_tcp(value: object) -> list[str]:
    found = sorted(map(str, value)) if isinstance(value, list | tuple) else []
    if found not in (["tcp"], ["tcp", "udp"]):
        raise ValueError("must be [tcp] or [tcp, udp]: TCP is always listed")
    return found


Protocols = Annotated[tuple[Literal["tcp", "udp"], ...], BeforeValidator(_with_tcp)]
Text = Annotated[str, AfterValidator(_no_empty)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(one_or_many)]
Expression = Annotated[str, AfterValidator(_jmespath)]
LabelExpressions = Annotated[
    Annotated[Expression, Tag("expression")] | Annotated[Mapping[Text, Expression | None], Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, Mapping) else "expression"),
]
"""One expression for all labels, or one per label; None leaves out a label of the preset."""
QueryScalar = Annotated[str | int, BeforeValidator(_query_value)]
QueryValue = Annotated[
    Annotated[QueryScalar, Tag("one")] | Annotated[tuple[QueryScalar, ...], Tag("many")],
    Discriminator(lambda value: "many" if isinstance(value, list | tuple) else "one"),
]
"""A query parameter; one with a list is repeated for each item."""
Globs = Annotated[Texts, Field(min_length=1)]
BindScopes = Annotated[
    tuple[Annotated[str, AfterValidator(_bind_scope)], ...], BeforeValidator(one_or_many), Field(min_length=1)
]
_PORTS_SCHEMA = _any_of(
    {"type": "integer", "minimum": 1, "maximum": 65535},
    {"type": "string"},
    {"type": "array", "minItems": 1, "items": {"type": ["integer", "string"]}},
    examples=[443, "8000-8100", "53/udp", [22, "8000-8100"]],
)
_Ranges = Annotated[tuple[tuple[int, int], ...], Field(min_length=1), PlainSerializer(ranges_text, when_used="json")]
PortRanges = Annotated[_Ranges, BeforeValidator(parse_ports), _PORTS_SCHEMA]
"""Of either protocol, if none is named."""
DeclaredRanges = Annotated[_Ranges, BeforeValidator(_numbers), _PORTS_SCHEMA]
"""Of TCP, if no protocol is named."""


def globs_schema(description: str) -> WithJsonSchema:
    """JSON schema of a text or a list of texts."""
    many = {"type": "array", "minItems": 1, "items": {"type": "string"}}
    return _any_of({"type": "string"}, many, description=description)


class Section(BaseModel):
    """Base of all sections. Unknown fields are errors: a typing mistake must not silently mean the default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, hide_input_in_errors=True)


class HostMatch(Section):
    """Which hosts. Everything given must match; of a list, one item must."""

    host: Annotated[Globs | None, globs_schema("globs on the host's name")] = Field(
        None, description="glob or list of globs on the host's name"
    )
    label: Mapping[str, Annotated[Globs, globs_schema("globs on the label's value")]] | None = Field(
        None, description="label name: glob or list of globs on its value"
    )
