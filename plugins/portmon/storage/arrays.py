"""Values as PostgreSQL's text of an array: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO.

The driver would write an array as an expression of as many terms as it has values, each of which the server parses,
casts and evaluates; a text it reads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.types import TypeEngine


def array_text(values: Iterable[Any], type_: TypeEngine[Any], dialect: Dialect) -> str:
    """The text of an array with one dimension.

    :param values: as a statement takes them
    :param type_: of the elements
    :raises TypeError: if there is no text for one of them
    """
    # Bytes would become the driver's own.
    process = None if type_.python_type is bytes else type_.dialect_impl(dialect).bind_processor(dialect)
    stored = values if process is None else map(process, values)
    return f"{{{','.join(map(_element, stored))}}}"


def _element(value: Any) -> str:
    for kind in type(value).__mro__:
        if kind in _WRITE:
            return _WRITE[kind](value)
    raise TypeError(f"no text of an array for {value!r}")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_WRITE: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "NULL",
    bool: lambda value: "t" if value else "f",
    int: str,
    float: str,
    str: _quoted,
    bytes: lambda value: f'"\\\\x{value.hex()}"',
    datetime: lambda value: f'"{value.isoformat()}"',
}
