"""Shared by the readers of listings: the row of a socket, text, numbers in their ranges, rows that are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass

from portmon.errors import NetstatParseError
from portmon.model import limits
from portmon.model.observation import Listener, Owner
from portmon.probe.cgroup import unit_of

MAX_PID = 2**31 - 1
"""The kernel's own limit is 2**22: https://www.kernel.org/doc/html/latest/admin-guide/sysctl/kernel.html#pid-max"""
MAX_UID = 2**32 - 1
MAX_INODE = 2**64 - 1
MAX_OWNERS = 131_070
"""Holders of one socket that a list may name; ss of most versions leaves out what is beyond 4 or 64 KB."""
ADDRESS_BYTES = 100
"""More than the longest address with an interface has."""

_ADDRESS = frozenset(b"0123456789abcdefABCDEF:.*")
_IGNORED = re.compile(rb"[ \t\r\f\v]*\Z|\(|Active |unix |netstat: |ss: |warning|WARNING|ERROR: ld\.so: ")


@dataclass(slots=True)
class Process:
    """Facts of the kernel about a process."""

    uid: int | None = None
    comm: str | None = None
    unit: str | None = None


@dataclass(slots=True)
class Socket:
    """The row of one listening socket, or of a UDP socket without a peer.

    Its fields are a :class:`portmon.model.observation.Listener`'s, but for these.

    :param owners: every owner that the row names, also if there is one
    :param cgroup: path of the cgroup that the socket was made in
    """

    protocol: str
    address: str
    zone: str | None
    port: int
    owners: tuple[Owner, ...] = ()
    uid: int | None = None
    inode: int | None = None
    comm: str | None = None
    more_owners: int = 0
    cgroup: str | None = None

    @property
    def is_udp(self) -> bool:
        """Whether it is a UDP socket, which has no peer."""
        return self.protocol.startswith("udp")

    def listener(self, process: Process | None = None) -> Listener:
        """The listener: the row, completed by facts about a process.

        :param process: its lowest owner
        """
        uid, unit, comm = self.uid, None, self.comm
        if process is not None:
            uid = process.uid if uid is None else uid
            unit, comm = process.unit, process.comm or comm
        if unit is None and self.cgroup is not None:
            unit = unit_of(self.cgroup)
        pid, program = (self.owners[0].pid, self.owners[0].program) if self.owners else (None, None)
        owners = self.owners if len(self.owners) > 1 else ()
        place = self.protocol, self.address, self.port
        return Listener(*place, pid, program, self.zone, owners, uid, self.inode, unit, comm, self.more_owners)


def text(raw: bytes) -> str:
    """The one place where bytes of a host become text, cut to what a name may have."""
    return raw[: limits.NAME].decode("utf-8", "surrogateescape")


def number(raw: bytes, highest: int) -> int | None:
    """A decimal number from 0 to ``highest``; None for anything else, however long."""
    if not raw.isdigit() or len(raw) > 20:
        return None
    value = int(raw)
    return value if value <= highest else None


def ranged(raw: bytes, highest: int, name: str, line: int) -> int:
    """A number from 0 to ``highest``.

    :param line: 0-based
    :raises NetstatParseError: it is none
    """
    found = number(raw, highest)
    if found is None:
        raise NetstatParseError(f"{text(raw)[:40]!r} is no {name}", line=line + 1)
    return found


def port(raw: bytes, line: int) -> int:
    """A port number from 1 to 65535, see :func:`ranged`."""
    found = number(raw, 65535)
    if not found:
        raise NetstatParseError(f"{text(raw)[:40]!r} is no port number (netstat and ss need -n)", line=line + 1)
    return found


def endpoint(raw: bytes, line: int) -> tuple[str, str | None, int]:
    """Address, interface and port of ``ADDRESS%ZONE:PORT``, with or without brackets around an IPv6 address.

    :raises NetstatParseError: it is none
    """
    address, colon, digits = raw.rpartition(b":")
    if not colon or not address or len(address) > ADDRESS_BYTES:
        raise refused(raw, line)
    if address.startswith(b"["):
        # [fe80::1]%eth0 and [fe80::1%eth0] alike
        inside, bracket, after = address[1:].partition(b"]")
        if not bracket or not inside or (after and not after.startswith(b"%")):
            raise refused(raw, line)
        address = inside + after
    address, _, zone = address.partition(b"%")
    if not address or not set(address) <= _ADDRESS:
        raise refused(raw, line)
    return text(address), text(zone) or None, port(digits, line)


def refused(row: bytes, line: int) -> NetstatParseError:
    """The error of a row that is cut, or of no known layout; ``line`` is 0-based."""
    return NetstatParseError(f"a cut or unknown row: {text(row)[:120]!r}", line=line + 1)


def refuse_unless_noise(row: bytes, line: int) -> None:
    """Raise :func:`refused`, except of an empty line, a heading, a complaint of a tool or of the loader."""
    if _IGNORED.match(row) is None:
        raise refused(row, line)


def refuse_others(found: int, listed: int) -> None:
    """Refuse a listing of connections without any listening socket: it was not made to show these."""
    if listed and not found:
        raise NetstatParseError(f"{listed} connections and no listening socket: the listing was made without -l")
