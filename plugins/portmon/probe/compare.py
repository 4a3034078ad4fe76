"""Whether two observations of a port show the same program, and which of its binds are lost.

The tools that report programs and bind addresses cut, rename and omit them, so every comparison here errs on the side
of "no change".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable

from portmon.matching import bind_scopes
from portmon.model.limits import bytes_of

CUTTING_TOOL = "netstat"
"""Reports IPv6 addresses cut to 22 characters; ``netstat-W`` does not."""
_PID_AND_NAME = 19
"""Bytes of net-tools' and busybox' ``PID/name`` column."""


def same_program(one: str, other: str, *, pids: Collection[int] = ()) -> bool:
    """Whether two names, reported by one tool, are of one program.

    A process may set its title (``nginx: master process``): the program stands before the colon. netstat cuts: 19 bytes
    hold the pid, a slash and the name, so that a longer pid leaves less of it.

    :param pids: of either, as far as known
    """
    if one == other or program_of(one) == program_of(other):
        return True
    short, long = sorted((bytes_of(one), bytes_of(other)), key=len)
    return len(short) >= _least_cut(pids) and long.startswith(short)


def _least_cut(pids: Collection[int]) -> int:
    """Bytes that a cut name has at least, with these pids before it."""
    digits = max((len(str(pid)) for pid in pids), default=1)
    # Trailing blanks are stripped, so a cut name may be a byte shorter than the column.
    return _PID_AND_NAME - digits - 2


def share_program(before: Collection[str], now: Collection[str], *, pids: Collection[int] = ()) -> bool:
    """Whether a program that was there is still there.

    Linear in the number of names: the pairs that :func:`same_program` knows are found by what they have in common.
    """
    return any(map(_Names(now, _least_cut(pids)).has, before))


class _Names:
    """Names to look for a program in; one of ``least`` bytes or more may have been cut."""

    def __init__(self, names: Collection[str], least: int) -> None:
        self._least = least
        self._names = set(names)
        self._programs = {program_of(name) for name in names}
        self._in_order = sorted({bytes_of(name) for name in names})
        self._cut = {name for name in self._in_order if len(name) >= least}
        self._lengths = sorted({len(name) for name in self._cut})

    def has(self, name: str) -> bool:
        """Whether one of them is the same program, as :func:`same_program` says."""
        if name in self._names or program_of(name) in self._programs:
            return True
        own = bytes_of(name)
        if len(own) >= self._least:
            # Names that begin with it follow it in order.
            place = bisect_left(self._in_order, own)
            if place < len(self._in_order) and self._in_order[place].startswith(own):
                return True
        return any(own[:length] in self._cut for length in self._lengths if length <= len(own))


def comparable_addresses(before: str | None, now: str) -> bool:
    """Whether bind addresses that two tools reported can be compared; ``before`` is None without earlier ones."""
    return before is None or before == now or CUTTING_TOOL not in (before, now)


def lost_binds(lost: Iterable[str], seen: Collection[str]) -> tuple[str, ...]:
    """The addresses that other hosts could reach and no longer can, in order.

    A loopback address is none. An address that a remaining wildcard bind of its family serves is not lost; a wildcard
    bind itself is, even if the other family's remains (whether ``::`` serves IPv4 as well is the socket's own choice),
    unless it was bound to one interface and one for all of them remains.

    :param lost: earlier bind addresses
    :param seen: the present ones
    """
    wildcards = list(filter(is_wildcard, seen))
    return tuple(sorted(address for address in set(lost) - set(seen) if _is_lost(address, wildcards)))


def exchanged_binds(lost: Collection[str], gained: Collection[str]) -> set[str]:
    """The lost addresses in whose place others came: as many of the same reach. A wildcard of either family will do.

    One for all IPv6 addresses serves those of IPv4 too, unless its socket says otherwise, which no tool shows.
    """
    reach = {address: bind_scopes(address)[0] for address in (*lost, *gained)}
    gone, came = (Counter(reach[address] for address in some) for some in (lost, gained))
    served = {address for address in lost if "::" in gained and ":" not in address and not is_wildcard(address)}
    return served | {address for address in lost if gone[reach[address]] <= came[reach[address]]}


def without_zone(address: str) -> str:
    """A bind address without the interface that it is bound to."""
    return address.partition("%")[0]


def is_wildcard(address: str) -> bool:
    """Whether a bind address is every address of its family."""
    return bind_scopes(address)[0] == "wildcard"


def _is_lost(address: str, remaining: Collection[str]) -> bool:
    kind, parsed = bind_scopes(address)
    if kind == "loopback":
        return False
    six = ":" in address if parsed is None else parsed.version == 6
    wildcards = [other for other in remaining if (":" in other) == six]
    if kind == "wildcard":
        # A bind to one interface serves no other one.
        return all("%" in other for other in wildcards)
    return not wildcards


def program_of(name: str) -> str:
    """The part of a title before its colon, or the whole name."""
    return name.partition(":")[0].strip() or name
