"""The sockets that listen on a host, read from a frame or from the output of a tool.

Works on bytes, split on newlines only: names may hold any other separator, and newlines themselves. Rows and headers
tell the tool, not words that are translated. An unknown line, and a row that is cut, are errors: a listing that was not
understood proves nothing.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from portmon.errors import ContradictionError, NetstatParseError, ProbeError
from portmon.model import limits
from portmon.model.observation import Listener, Listing
from portmon.probe import netstat, procfs, rows, ss
from portmon.probe.beside import complete
from portmon.probe.facts import facts_of
from portmon.probe.frame import ARCHIVE_NONCE, Frame, cut_out, ended
from portmon.text import counted

COMPARED = 10
"""Sockets of the longer listing from which on it is counted how many the two have in common."""
WELL_KNOWN = 1024
"""Of UDP only ports below this are compared: above them clients come and go, hundreds of a resolver's between two
listings."""

_ANY_SOCKET = re.compile(rb":\d")
_VERSION = re.compile(r"iproute2-[\w.-]{1,60}", re.ASCII)


def parse_listeners(output: bytes, *, version: str | None = None, udp: bool = False) -> list[Listener]:
    """The listening TCP sockets of a listing, in its order.

    :param output: stdout, with or without stderr in between, of ``netstat -nltp``, ``ss -ltnpe``, ``ss -tnpe state
        listening`` or ``cat /proc/net/tcp /proc/net/tcp6``
    :param version: of ss, as it says it
    :param udp: with the UDP sockets that have no peer, of ``netstat -nlutp``, ``ss -tunpe state listening state
        unconnected`` or these tables and ``/proc/net/udp``, ``udp6``
    :raises NetstatParseError: if it is empty, of an unknown layout, cut, or too long
    """
    return [socket.listener() for socket in _sockets(output, version, udp=udp)]


def read_frame(output: bytes, nonce: str) -> Listing:
    """The listing in an answer.

    :raises ProbeError: there is not one complete frame, or it proves nothing
    """
    return listing_of(cut_out(output, nonce))


def read_any(output: bytes) -> Listing:
    """The listing in the only frame of an answer, see :func:`read_frame`."""
    return read_frame(output, "")


def read_archived(frame: bytes) -> Listing:
    """The listing in a stored frame, see :func:`read_frame`."""
    return read_frame(frame, ARCHIVE_NONCE)


def listing_of(frame: Frame) -> Listing:
    """The listing in a frame.

    :raises ProbeError: a tool did not end by itself or could not read the kernel's tables, or a value is out of range
    :raises ContradictionError: its two listings can't both be whole
    """
    fields = frame.fields
    if frame.version == "2" and not ended(fields.get("ended")):
        raise ProbeError(f"{frame.tool} did not end by itself (exit status {fields.get('ended', '-')[:20]})")
    listing, processes = facts_of(frame)
    version = _VERSION.search(fields.get("ver", ""))
    # ``iproute2-6.1.0``, without what a loader or a wrapper printed.
    ss_version = version[0].rstrip(".,") if version else None
    asked = frame.version == "2" and "udp" in fields
    sockets = _sockets(frame.body, ss_version, udp=asked)
    tcp, udp = _apart(sockets)
    _must_be_whole(frame, tcp)
    for socket in sockets:
        if socket.protocol.endswith("6") and ":" not in socket.address:
            # net-tools prints IPv4's form of it alone: https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.2
            socket.address = f"::ffff:{socket.address}"
    by_ss = None if frame.tool == "ss" else _second(frame, tcp)
    if by_ss is not None:
        if (differ := _contradiction(tcp, by_ss)) is not None:
            raise ContradictionError(f"its two listings contradict each other: {differ}")
        complete(tcp, by_ss, processes)
    listeners, beyond = _listeners(tcp, processes)
    listing = dataclasses.replace(listing, listeners=listeners, beyond=beyond)
    if asked and (shown := _udp(frame, udp, processes)) is not None:
        listeners, beyond = _listeners(shown, processes)
        listing = dataclasses.replace(listing, udp=listeners, udp_beyond=beyond)
    tried = {tuple(part.split(":", 1)) for part in fields.get("tried", "").split(",")}
    # The limit ends a family of tools, as Question.skip names it.
    hung = tuple(tool for tool in ("netstat", "proc", "ss") if (tool, "limit") in tried)
    return dataclasses.replace(listing, version=ss_version, hung=hung)


def _apart(sockets: Sequence[rows.Socket]) -> tuple[list[rows.Socket], list[rows.Socket]]:
    """The sockets of TCP, and those of UDP."""
    return [one for one in sockets if not one.is_udp], [one for one in sockets if one.is_udp]


def _listeners(
    sockets: Sequence[rows.Socket], processes: Mapping[int, rows.Process]
) -> tuple[tuple[Listener, ...], tuple[tuple[int, int], ...]]:
    """The listeners of a protocol, and the ports that have more of them than are told apart."""
    kept, beyond = _capped(sockets)
    return tuple(one.listener(processes.get(one.owners[0].pid) if one.owners else None) for one in kept), beyond


def _sockets(output: bytes, version: str | None, *, udp: bool) -> list[rows.Socket]:
    output = output.removeprefix(codecs.BOM_UTF8)
    if not output.strip():
        raise NetstatParseError("there is no output: not even a header says that the tool worked")
    if output.count(b"\r\n") == output.count(b"\n"):
        # A terminal or an editor put them in. A name that ends with one does not do so on every line.
        output = output.replace(b"\r\n", b"\n")
    lines = output.split(b"\n")
    offset = 0
    for number, line in enumerate(lines):
        found: list[rows.Socket] | None = None
        if netstat.HEADER.match(line) or netstat.ROW.match(line):
            found = netstat.read(lines, number, udp=udp)
        elif ss.HEADER.match(line) or ss.ROW.match(line):
            found = ss.read(output, offset, version=version, udp=udp)
        elif procfs.HEADER.match(line):
            found = procfs.read(lines, number, udp=udp)
        if found is not None:
            for own in _apart(found):
                _must_be_possible(own)
            return found
        offset += len(line) + 1
    first = next(line for line in lines if line.strip())
    raise NetstatParseError(f"no listing of netstat, ss or /proc/net/tcp; it begins {rows.text(first)[:100]!r}")


def _must_be_possible(sockets: Sequence[rows.Socket]) -> None:
    if len(sockets) > limits.ROWS:
        raise NetstatParseError(f"{len(sockets)} listening sockets: a host can't have more than {limits.ROWS}")


def _must_be_whole(frame: Frame, sockets: Sequence[rows.Socket]) -> None:
    """Refuse a listing without what proves that the kernel's tables were read."""
    if frame.version == "1":
        # It does not say what it could read, and a host that is asked over SSH has a socket as a rule.
        if not sockets:
            raise ProbeError(
                f"{frame.tool} lists nothing, and the old forced command does not say whether /proc/net/tcp could be "
                "read: install the script that `portmon probe` prints"
            )
        return
    four, six = frame.fields.get("tcp", "0"), frame.fields.get("tcp6")
    if not {four, six or "0"} <= {"0", "1"}:
        raise ProbeError(f"tcp={four[:20]!r} or tcp6={(six or '')[:20]!r} in the answer is neither 0 nor 1")
    if frame.tool == "ss" and not sockets:
        # Up to 4.3 it prints its header alone, and ends with 0, where the kernel does not answer it.
        raise ProbeError("ss lists nothing at all, which another tool would have to confirm")
    unread = [name for name, state in (("tcp", four), ("tcp6", six)) if state == "0"]
    if unread and frame.tool != "ss":
        raise ProbeError(f"/proc/net/{' and '.join(unread)} can't be read there: {frame.tool} may lack sockets")
    if frame.tool == "proc" and not (
        procfs.has_table(frame.body, six=False) and (six is None or procfs.has_table(frame.body, six=True))
    ):
        raise ProbeError("the header of /proc/net/tcp or tcp6 is missing: that table was not read")


def _udp(frame: Frame, listed: list[rows.Socket], processes: Mapping[int, rows.Process]) -> list[rows.Socket] | None:
    """The UDP sockets without a peer; None if the answer does not prove which there are.

    Then it is still evidence of TCP: the kernel's tables are apart.

    :param listed: by the tool
    """
    if frame.tool == "ss":
        if not listed and frame.ssx is not None:
            # An unknown version of ss must not cost the listing.
            with contextlib.suppress(NetstatParseError):
                listed = ss.read(frame.ssx, 0, udp_alone=True)
                _must_be_possible(listed)
        # Up to 4.3 it prints no row where the kernel does not answer it. Then the probe reads the tables.
        if listed:
            return listed
    read, table = procfs.read_named(frame.proc)
    _must_be_possible(table)
    if read != {name for name in ("udp", "udp6") if name in frame.fields}:
        return None
    if not listed:
        # It was asked for TCP alone.
        return table
    first, second = ([one for one in found if one.port < WELL_KNOWN] for found in (listed, table))
    if (differ := _contradiction(first, second, "the kernel")) is not None:
        raise ContradictionError(f"its two listings of UDP contradict each other: {differ}")
    complete(listed, table, processes)
    return listed


def _second(frame: Frame, sockets: Sequence[rows.Socket]) -> list[rows.Socket] | None:
    """The sockets in the second listing; None if ss was not asked, or not understood."""
    # Without any socket it is of an ss that the kernel did not answer.
    if frame.ssx is not None and _ANY_SOCKET.search(frame.ssx):
        # An unknown version of ss must not cost the listing: this is only an addition.
        with contextlib.suppress(NetstatParseError):
            return ss.read(frame.ssx, 0, six=frozenset(one.port for one in sockets if one.address == "::"))
    return None


def _contradiction(by_netstat: Sequence[rows.Socket], other: Sequence[rows.Socket], name: str = "ss") -> str | None:
    """How two listings of one host contradict each other so grossly that one is not whole; None if they do not.

    A service that starts or ends between them is no contradiction: that concerns some of the sockets. A table that
    could not be read concerns all of a family, or most of all.
    """
    # Family and port: how an address is printed differs between tools.
    first, second = ({(one.protocol.endswith("6"), one.port) for one in listed} for listed in (by_netstat, other))
    for six, family in ((False, "IPv4"), (True, "IPv6")):
        ours, theirs = (sum(is_six == six for is_six, _ in sockets) for sockets in (first, second))
        if bool(ours) != bool(theirs):
            return f"netstat lists {_count(ours)} of {family}, {name} {_count(theirs)}"
    longer, common = max(len(first), len(second)), len(first & second)
    if longer >= COMPARED and common * 2 < longer:
        return f"netstat lists {_count(len(first))}, {name} {_count(len(second))}, and only {common} are the same"
    return None


def _count(number: int) -> str:
    return counted(number, "listening port") if number else "no listening port"


def _capped(sockets: Sequence[rows.Socket]) -> tuple[Sequence[rows.Socket], tuple[tuple[int, int], ...]]:
    """The sockets, at most a number for each port, and port by port how many more there are."""
    by_port: dict[int, list[rows.Socket]] = defaultdict(list)
    for socket in sockets:
        by_port[socket.port].append(socket)
    beyond = {port: own for port, own in by_port.items() if len(own) > limits.OWNERS}
    if not beyond:
        return sockets, ()
    kept: set[int] = set()
    for own in beyond.values():
        # The same ones each time, in whatever order the kernel lists them.
        own.sort(key=lambda one: (one.address, one.zone or "", one.inode or 0, one.owners[0].pid if one.owners else 0))
        kept.update(map(id, own[: limits.OWNERS]))
    shown = [one for one in sockets if one.port not in beyond or id(one) in kept]
    return shown, tuple(sorted((port, len(own) - limits.OWNERS) for port, own in beyond.items()))
