"""The kernel's own tables, /proc/net/tcp and tcp6, udp and udp6."""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Sequence

from portmon.probe import rows

HEADER = re.compile(rb"\s*sl\s+local_address\s+rem(?:ote)?_address\s+st\s")
_TCP6 = re.compile(rb"\s*sl\s+local_address\s+remote_address\s")
_LISTEN = b"0A"
_UNCONNECTED = b"07"
_UDP = b" pointer"
"""Only the header of a table of UDP sockets names such a column."""
_FIELDS = 17
"""Of a listening socket: https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html"""
_UDP_FIELDS = 10
"""Of a UDP socket, up to its inode: the rest changes all the time."""
_NAMED = re.compile(rb"/proc/net/(udp6?):(.*)")


def has_table(output: bytes, *, six: bool) -> bool:
    """Whether the header of tcp or tcp6 is there, which proves that the table was read."""
    headers = [line for line in output.split(b"\n") if HEADER.match(line) and _UDP not in line]
    return any((_TCP6.match(line) is not None) == six for line in headers)


def read(lines: Sequence[bytes], start: int, *, udp: bool = False) -> list[rows.Socket]:
    """The listening sockets of one table or more.

    :param udp: with the UDP sockets that have no peer
    :raises NetstatParseError: a row is cut or unknown
    """
    found = []
    is_udp = False
    for number in range(start, len(lines)):
        line = lines[number]
        if not line.strip():
            continue
        if HEADER.match(line):
            is_udp = udp and _UDP in line
        elif (socket := _row(line, number, is_udp=is_udp)) is not None:
            found.append(socket)
    return found


def read_named(output: bytes) -> tuple[frozenset[str], list[rows.Socket]]:
    """The tables of UDP whose headers are there, and the sockets without a peer, of lines that begin with the name of
    their table.

    :raises NetstatParseError: a row is cut or unknown
    """
    names: set[str] = set()
    found = []
    for number, line in enumerate(output.split(b"\n")):
        if (match := _NAMED.fullmatch(line)) is None:
            continue
        if match[2].lstrip().startswith(b"sl"):
            names.add(rows.text(match[1]))
        elif (socket := _row(match[2], number, is_udp=True)) is not None:
            found.append(socket)
    return frozenset(names), found


def _row(line: bytes, number: int, *, is_udp: bool) -> rows.Socket | None:
    """The socket of a row; None if it does not listen, or has a peer."""
    fields = line.split(None, _FIELDS)
    wanted = _UDP_FIELDS if is_udp else _FIELDS
    if len(fields) < wanted or not fields[0].endswith(b":") or not fields[0][:-1].isdigit():
        # A socket in time-wait has fewer of them, and none listens there.
        if not is_udp and len(fields) >= 12 and fields[3] == b"06":
            return None
        raise rows.refused(line, number)
    if fields[3] != (_UNCONNECTED if is_udp else _LISTEN):
        return None
    raw, _, port = fields[1].partition(b":")
    try:
        family, address = _address(raw)
        number_of_port = int(port.decode("ascii"), 16) if len(port) == 4 else 0
        if not is_udp:
            # The last ones: what is cut there is cut.
            int(fields[15]), int(fields[16].split(None, 1)[0])
    except (ValueError, struct.error):
        raise rows.refused(line, number) from None
    return rows.Socket(
        ("udp" if is_udp else "tcp") + family,
        address,
        None,
        rows.port(str(number_of_port).encode(), number),
        uid=rows.ranged(fields[7], rows.MAX_UID, "uid", number),
        inode=rows.ranged(fields[9], rows.MAX_INODE, "inode", number),
    )


def _address(raw: bytes) -> tuple[str, str]:
    """``6`` or nothing, and the address, as netstat and ss print it, of words of 32 bits in the byte order of the host.

    A listing does not say which order that is. Little is assumed: x86, ARM, RISC-V and ppc64le are. On a big one
    (s390x) addresses come out reversed; ports and owners are right, they are printed as numbers. Only hosts without
    netstat and ss are read from here.
    """
    if len(raw) not in (8, 32):
        raise ValueError
    data = bytes.fromhex(raw.decode("ascii"))
    words = struct.unpack(f"<{len(data) // 4}I", data)
    address = ipaddress.ip_address(struct.pack(f">{len(words)}I", *words))
    if isinstance(address, ipaddress.IPv4Address):
        return "", str(address)
    return "6", f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)
