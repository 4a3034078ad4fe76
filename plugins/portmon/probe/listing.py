"""Listings of listening TCP sockets: net-tools', busybox' and toybox' netstat, ss, /proc/net/tcp and tcp6.

Works on bytes, split on newlines only: names may hold any other separator, and newlines themselves. What a tool prints
is recognised by its rows and headers, not by words that are translated. A line that fits nothing, and a row that is
cut, are errors: a listing that was not understood proves nothing.
"""

from __future__ import annotations

from portmon.errors import NetstatParseError
from portmon.model import limits
from portmon.model.observation import Listener
from portmon.probe import netstat, procfs, rows, ss


def parse_listeners(output: bytes, *, version: str | None = None) -> list[Listener]:
    """The listening TCP sockets of a listing, in its order.

    :param output: stdout, with or without stderr in between, of ``netstat -nltp``, ``ss -ltnpe``, ``ss -tnpe state
        listening`` or ``cat /proc/net/tcp /proc/net/tcp6``
    :param version: of ss, as it says it
    :raises NetstatParseError: if it is empty, of an unknown layout, cut, or too long
    """
    return read_listing(output, version=version)[0]


def read_listing(output: bytes, *, version: str | None = None) -> tuple[list[Listener], list[ss.Socket]]:
    """The listeners of :func:`parse_listeners`, and what only ss says of their sockets.

    :returns: the second is empty for other tools
    """
    if not output.strip():
        raise NetstatParseError("there is no output: not even a header says that the tool worked")
    lines = output.split(b"\n")
    offset = 0
    for number, line in enumerate(lines):
        found: list[Listener] | None = None
        sockets: list[ss.Socket] = []
        if netstat.HEADER.match(line) or netstat.ROW.match(line):
            found = netstat.read(lines, number)
        elif ss.HEADER.match(line) or ss.ROW.match(line):
            sockets = ss.sockets(output, offset, version=version)
            found = [socket.listener() for socket in sockets]
        elif procfs.HEADER.match(line):
            found = procfs.read(lines, number)
        if found is not None:
            if len(found) > limits.ROWS:
                raise NetstatParseError(f"{len(found)} listening sockets: a host can't have more than {limits.ROWS}")
            return found, sockets
        offset += len(line) + 1
    first = next(line for line in lines if line.strip())
    raise NetstatParseError(f"no listing of netstat, ss or /proc/net/tcp; it begins {rows.text(first)[:100]!r}")
