"""How much of what a host shows counts.

The limits are counts and never seconds: the same answer is evaluated alike everywhere, and in a replay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

ROWS = 131_070
"""Listening sockets of one answer: every port, of both families. An answer with more is no evidence."""
OWNERS = 64
"""Owners, and as many binds, of one port that are kept and compared; the rest is counted."""
PARTS = 2 * OWNERS
"""Owners and binds of one port whose changes are remembered, the last ones."""
NAME = 256
"""Bytes of a name that are kept and compared."""


def name_within(name: str) -> str:
    """A name, cut to NAME bytes. Bytes that are no UTF-8 are lone surrogates in it."""
    if 4 * len(name) <= NAME:
        return name
    data = bytes_of(name)
    return name if len(data) <= NAME else data[:NAME].decode("utf-8", "surrogateescape")


def bytes_of(name: str) -> bytes:
    """A name as the host printed it."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # No reader makes such a name, but JSON can hold one.
        return name.encode("utf-8", "surrogatepass")


def few_of(found: Iterable[Any], known: Collection[Any] = (), most: int = OWNERS) -> tuple[tuple[Any, ...], int]:
    """At most ``most`` of the different values of one port, sorted, and how many are left out.

    Known values stay, even if others sort before them, or if an earlier version without this limit kept more.

    :param found: without None
    :param known: those of the observation before
    """
    different = set(found)
    if len(different) <= most:
        return tuple(sorted(different)), 0
    kept = different.intersection(known)
    kept.update(sorted(different.difference(known))[: max(0, most - len(kept))])
    return tuple(sorted(kept)), len(different) - len(kept)
