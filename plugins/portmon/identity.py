"""Whether two looks at a port saw the same program, and which of its binds are lost.

Programs and bind addresses are attributes of a port, never part of its key, and the tools that report
them cut, rename and omit. Every comparison here errs on the side of "no change".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from portmon.rules import bind_scopes

CUTTING_TOOL = "netstat"
"""Reports IPv6 addresses cut to 22 characters; ``netstat-W`` does not."""

_PID_AND_NAME = 19
"""Bytes of net-tools' and busybox' ``PID/name`` column."""
_TITLE_SEPARATOR = ":"


def same_program(one: str, other: str, *, pids: Collection[int] = ()) -> bool:
    """Whether two names, reported by one tool, are of one program.

    A process may set its title (``nginx: master process``, ``nginx: worker process``): what stands before the
    colon is the program. And netstat cuts: 19 bytes hold the pid, a slash and the name, so that a longer pid
    leaves less of it.

    :param pids: of either, as far as known
    """
    if one == other or _program(one) == _program(other):
        return True
    short, long = sorted((_bytes(one), _bytes(other)), key=len)
    digits = max((len(str(pid)) for pid in pids), default=1)
    # Trailing blanks are stripped, so a cut name may be a byte shorter than the column.
    return len(short) >= _PID_AND_NAME - digits - 2 and long.startswith(short)


def replaced(before: Collection[str], now: Collection[str], *, pids: Collection[int] = ()) -> bool:
    """Whether a program that was there is gone and one that was not there has come."""
    lost = any(not any(same_program(old, new, pids=pids) for new in now) for old in before)
    gained = any(not any(same_program(old, new, pids=pids) for old in before) for new in now)
    return lost and gained


def comparable_addresses(before: str | None, now: str) -> bool:
    """Whether bind addresses that two tools reported can be compared.

    :param before: tool of the look before, None if there is none
    """
    return before is None or before == now or CUTTING_TOOL not in (before, now)


def lost_binds(lost: Iterable[str], seen: Collection[str]) -> tuple[str, ...]:
    """Which lost addresses others could reach, and can reach no more.

    A loopback address is nobody else's loss. An address that a remaining wildcard bind of its family serves is
    not lost; a wildcard bind itself is, even if the other family's remains (whether ``::`` serves IPv4 as well
    is the socket's own choice), unless it was bound to one interface and one for all of them remains.

    :param lost: bind addresses that are not seen any more
    :param seen: those that are
    """
    return tuple(sorted(address for address in set(lost) - set(seen) if _reachable(address, seen)))


def without_zone(address: str) -> str:
    """A bind address without the interface that it is bound to."""
    return address.partition("%")[0]


def is_wildcard(address: str) -> bool:
    """Whether a bind address is every address of its family."""
    return bind_scopes(address)[0] == "wildcard"


def _reachable(address: str, seen: Collection[str]) -> bool:
    kind, parsed = bind_scopes(address)
    if kind == "loopback":
        return False
    six = ":" in address if parsed is None else parsed.version == 6
    wildcards = [other for other in seen if bind_scopes(other)[0] == "wildcard" and (":" in other) == six]
    if kind == "wildcard":
        # One that is bound to an interface serves no other one.
        return all("%" in other for other in wildcards)
    return not wildcards


def _program(name: str) -> str:
    return name.partition(_TITLE_SEPARATOR)[0].strip() or name


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
