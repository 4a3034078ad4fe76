"""How much of what a host shows counts.

Counts and never seconds: the same answer is evaluated alike everywhere, and in a replay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

ROWS = 131_070
"""Listening sockets of one answer: every port, of both families. More are no evidence."""


OWNERS = 64
"""Owners, and as many binds, of one port that are kept and compared; the rest is counted."""


NAME = 256
"""Bytes of a name that are kept and compared."""


def name_within(name: str, most: int = NAME) -> str:
    """A name, cut to so many bytes.

    :param name: as it was decoded; what is no UTF-8 is lone surrogates
    :param most: bytes
    """
    if 4 * len(name) <= most:
        return name
    data = bytes_of(name)
    return name if len(data) <= most else data[:most].decode("utf-8", "surrogateescape")


def bytes_of(name: str) -> bytes:
    """A name as the host printed it."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Of no reader here, but JSON can say it.
        return name.encode("utf-8", "surrogatepass")


def few_of(found: Iterable[Any], known: Collection[Any] = (), most: int = OWNERS) -> tuple[tuple[Any, ...], int]:
    """At most so many of what belongs to one port, in order, and how many are left out.

    What is known stays, so that nothing is lost because others sort before it; nor because an earlier version, which
    had no such bound, knew more.

    :param found: without what is missing
    :param known: of the port, from the look before
    """
    different = set(found)
    if len(different) <= most:
        return tuple(sorted(different)), 0
    kept = different.intersection(known)
    kept.update(sorted(different.difference(known))[: max(0, most - len(kept))])
    return tuple(sorted(kept)), len(different) - len(kept)
