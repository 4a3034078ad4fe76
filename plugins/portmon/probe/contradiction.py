"""Whether two listings of one answer can both be true."""

from __future__ import annotations

from collections.abc import Collection

from portmon.probe.rows import Socket

COMPARED = 10
"""Sockets of the longer listing from which on it is counted how many the two have in common."""


def contradiction(netstat: Collection[Socket], ss: Collection[Socket]) -> str | None:
    """The gross contradiction that proves one of two listings, which a host made at the same time, not to be whole.

    A service that starts or ends between them is no contradiction: that concerns some of the sockets. A table that
    could not be read concerns all of a family, or most of all.

    :returns: a sentence for people, None if they agree well enough
    """
    # Family and port: how an address is printed differs between tools.
    first, second = ({(one.protocol == "tcp6", one.port) for one in listed} for listed in (netstat, ss))
    for six, name in ((False, "IPv4"), (True, "IPv6")):
        ours, theirs = (sum(family == six for family, _ in sockets) for sockets in (first, second))
        if bool(ours) != bool(theirs):
            return f"netstat lists {_count(ours)} of {name}, ss {_count(theirs)}"
    longer = max(len(first), len(second))
    common = len(first & second)
    if longer >= COMPARED and common * 2 < longer:
        return f"netstat lists {_count(len(first))}, ss {_count(len(second))}, and only {common} are the same"
    return None


def _count(number: int) -> str:
    return f"{number} listening port{'' if number == 1 else 's'}" if number else "no listening port"
