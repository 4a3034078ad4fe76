"""Listings of ss, from iproute2 3.2 on.

A row is a state (left out where only one is listed), two queues, two endpoints, the processes, and with ``-e`` fields
such as ``uid:`` and ``ino:``. A program's name may hold newlines and the characters that stand around names, so a row
is read by offsets, and each of them is tried once.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby, islice

from portmon.errors import NetstatParseError
from portmon.model import limits
from portmon.model.observation import Owner
from portmon.probe import rows

_Owners = tuple[tuple[Owner, ...], int]

COMM_LIMIT = 15
"""Bytes of a process name: the kernel's ``TASK_COMM_LEN`` less the final NUL."""

HEADER = re.compile(rb"(?:Netid\s*)?(?:State\s*)?Recv-Q\s*Send-Q\s*Local Address:Port\s*Peer Address:Port")
_STATES = rb"LISTEN|UNCONN|ESTAB|SYN-SENT|SYN-RECV|FIN-WAIT-[12]|TIME-WAIT|CLOSE-WAIT|LAST-ACK|CLOSING|CLOSED?|UNKNOWN"
# The state may touch the queue behind it, and all other columns each other: iproute2 4.15 to 4.19 leave no blank once a
# row is wider than 80 columns and the output no terminal.
ROW = re.compile(rb"(?:(tcp|udp|mptcp|sctp|dccp)\s+)?(" + _STATES + rb")(?=[\s\d])")
_BLANKS = re.compile(rb"\s*")
_QUEUES = re.compile(rb"\s*(\d{1,10})\s+(\d{1,10})(?=[\s*\[])\s*")
# Before a long name of an interface, 4.0 and 4.1 print blanks: ``*    %br-12345678:53``.
_END = re.compile(rb"[^\s]{1,100}(?: {1,60}%[^\s]{1,40})?:(\*|\d{1,5})(?=\s|\Z)")
_USERS = b"users:("
_OWNER = re.compile(rb"\",(?:pid=(\d{1,10}),(?:tid=\d{1,10},)?fd=|(\d{1,10}),)\d{1,10}\)")
"""The fields behind a name, in new and old versions."""
_CUT = [[word[:size]] for word in (b"users:((", b"uid:", b"ino:", b"sk:") for size in range(1, len(word) + 1)]
"""What the last of a row's words may be, if it is cut there."""
_EQUALS = re.compile(rb" (uid|ino|sk)=")
"""Up to 3.10, of UDP sockets."""
_ARROW = re.compile(rb" [<-]-[->]")
_DOTTED = re.compile(rb"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}[%:]")

_VERSION = re.compile(r"iproute2-(?:ss(\d{6})|v?(\d{1,2})\.)")
_COLUMN_3_2 = 3500
_COLUMN_4_15 = 65_000
"""Bytes of processes that ss prints at least before it leaves out some."""

_SNAPSHOT_4_13 = 170905
_SNAPSHOT_4_14 = 171112
"""The date in the version of ss. Before 4.13 a lone ``*`` is every address of IPv4, in 4.13 of either family, and from
4.14 on every address of both."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A listening socket's row; ``shortened`` if ss itself left out processes, and what follows them; ``udp`` of a UDP
    socket without a peer.
    """

    line: int
    local: bytes
    peer: bytes
    owners: _Owners
    fields: dict[bytes, bytes]
    arrow: bool
    shortened: bool
    udp: bool


def read(
    data: bytes,
    start: int,
    *,
    version: str | None = None,
    six: frozenset[int] | None = None,
    udp: bool = False,
    udp_alone: bool = False,
) -> list[rows.Socket]:
    """The listening sockets of a listing.

    :param start: offset of its header, or of its first row
    :param version: ``iproute2-6.1.0`` or ``iproute2-ss170501``
    :param six: ports on which another listing has every address of IPv6, for rows that nothing else decides
    :param udp: with the UDP sockets that have no peer
    :param udp_alone: they are all that is listed, and their rows name no protocol
    :raises NetstatParseError: a row is cut or unknown, or the listing was made without ``-l``
    """
    listed = list(_rows(data, start, udp=udp, udp_alone=udp_alone))
    found = [row for row in listed if row is not None]
    rows.refuse_others(sum(not row.udp for row in found), len(listed) - len(found))
    _refuse_cut(found)
    era = _era(found, data[start : _line_end(data, start)], version)
    # Each row is freed once it is read: a host may print 65,000.
    listed.clear()
    found.reverse()
    return [_socket(found.pop(), era, six) for _ in range(len(found))]


# ── rows ────────────────────────────────────────────────────────────────────────────────────────


def _rows(data: bytes, start: int, *, udp: bool, udp_alone: bool) -> Iterator[_Row | None]:
    """Rows, in order; None for a socket that does not listen."""
    at, number = start, data.count(b"\n", 0, start)
    queues = _Queues()
    begun = False
    failed = bytearray(len(data) + 2 if _USERS in data else 0)
    while at < len(data):
        end = _line_end(data, at)
        line, first = data[at:end], number
        at, number = end + 1, number + 1
        if HEADER.match(line):
            queues = _Queues(line)
            continue
        if begun and line.startswith(b"\t"):
            # What -i, -m and -b say of the socket in the row above.
            continue
        state = ROW.match(line)
        if state is None and not line.lstrip()[:1].isdigit():
            rows.refuse_unless_noise(line, first)
            continue
        begun = True
        is_udp = udp_alone if state is None else udp and state[1] == b"udp" and state[2] == b"UNCONN"
        if state is not None and state[2] != b"LISTEN" and not is_udp:
            yield None
            continue
        begin = queues.end(line, state.end() if state is not None else 0)
        local = _END.match(line, begin) if begin is not None else None
        peer = _END.match(line, _BLANKS.match(line, local.end()).end()) if local is not None else None  # type: ignore[union-attr]
        if local is None or peer is None or (peer[1] != b"*" and state is not None and not is_udp):
            raise rows.refused(line, first)
        if peer[1] != b"*":
            yield None
            continue
        tail = line[peer.end() :]
        owners: _Owners = (), 0
        shortened = False
        users = end - len(tail.lstrip())
        if data.startswith(_USERS, users):
            # A name may hold newlines: then the row goes on below.
            read = _read_owners(data, users + len(_USERS), failed)
            if read is None:
                read, shortened = _read_some(data, users + len(_USERS), end), True
            if read is None:
                raise rows.refused(line, first)
            owners, after = read
            end = _line_end(data, after)
            tail = data[after:end]
            number += data.count(b"\n", at, end + 1)
            at = end + 1
        if is_udp:
            tail = _EQUALS.sub(rb" \1:", tail)
        fields, arrow = _fields(tail)
        if tail.rsplit(None, 1)[-1:] in _CUT:
            raise rows.refused(line, first)
        yield _Row(first, local[0], peer[0], owners, fields, arrow, shortened, is_udp)


def _line_end(data: bytes, at: int) -> int:
    end = data.find(b"\n", at)
    return len(data) if end < 0 else end


class _Queues:
    """Where the two queues of a row end, which may touch what stands beside them: the header has the rows' widths."""

    def __init__(self, header: bytes = b"") -> None:
        self._first, self._second = header.find(b"Recv-Q"), header.find(b"Send-Q")
        self._width = len(b"Send-Q")

    def end(self, line: bytes, begin: int) -> int | None:
        """Where the local endpoint begins, if the first queue, blanks before it included, does at ``begin``."""
        match = _QUEUES.match(line, begin)
        if match is not None:
            self._width = max(self._width, len(match[2]))
            return match.end()
        if self._first < 0 or not line[self._first : self._second].strip().isdigit():
            return None
        size = line[self._second : self._second + self._width].rstrip()
        if not size.isdigit():
            # An IPv6 address says itself where it begins.
            size = size.partition(b"[")[0]
        if not size.isdigit():
            return None
        return _BLANKS.match(line, self._second + len(size)).end()  # type: ignore[union-attr]


def _name_end(data: bytes, begin: int, tried: int) -> re.Match[bytes] | None:
    """The fields behind the name of the owner at ``begin``, which ends at the first possible quote behind ``tried``."""
    if not data.startswith(b'("', begin):
        return None
    while (tried := data.find(b'"', tried + 1, begin + 2 + COMM_LIMIT + 1)) >= 0:
        match = _OWNER.match(data, tried)
        if match is not None and rows.number(match[1] or match[2], rows.MAX_PID) is not None:
            return match
    return None


def _read_owners(data: bytes, start: int, failed: bytearray) -> tuple[_Owners, int] | None:
    """The owners from ``("name",pid=1,fd=2),("name",…))`` and where they end.

    None if there is no such list, or it is longer than a host's can be. A name may hold the characters that stand
    around names, and the list has to end as it must: the shortest names are tried first. An offset at which that was in
    vain is noted in ``failed`` and not tried again, so that the time grows with the bytes.
    """
    # Offsets, since a host may print hundreds of thousands of owners.
    begins, ends = array("q", (start,)), array("q", (start + 1,))
    while begins:
        match = _name_end(data, begins[-1], ends[-1])
        if match is None:
            failed[begins.pop()] = 1
            ends.pop()
            continue
        ends[-1], after = match.span()
        following = data[after : after + 2]
        if following[:1] == b")" and following[1:] in (b"", b" ", b"\t", b"\n"):
            return _few(data, begins, ends), after + 1
        if following == b",(" and not failed[after + 1]:
            if len(begins) == rows.MAX_OWNERS:
                return None
            begins.append(after + 1)
            ends.append(after + 2)
    return None


def _read_some(data: bytes, start: int, end: int) -> tuple[_Owners, int] | None:
    """The whole owners of a list that ss cut by itself, after some 4 KB up to 3.10, after 64 KB since 4.15; and where
    the details go on. None if the list is too short for that, or too long.
    """
    begins, ends = array("q"), array("q")
    at = start
    while (match := _name_end(data, at, at + 1)) is not None and match.end() < end:
        if len(begins) == rows.MAX_OWNERS:
            return None
        begins.append(at)
        ends.append(match.start())
        at = match.end() + 1
    details = data.find(b" ino:", at, end)
    if at - start < (_COLUMN_3_2 if details >= 0 else _COLUMN_4_15):
        return None
    return _few(data, begins, ends), details if details >= 0 else end


def _few(data: bytes, begins: Sequence[int], ends: Sequence[int]) -> _Owners:
    """The owners that are told apart, by pid, and how many there are besides.

    Where there are many, each process counts once, since one may hold a socket a thousand times.
    """
    pids = array("q")
    for end in ends:
        match = _OWNER.match(data, end)
        assert match is not None  # noqa: S101 - for the type checker: _name_end() has found it
        pids.append(int(match[1] or match[2]))
    order = sorted(range(len(pids)), key=pids.__getitem__)

    def name(index: int) -> str:
        return rows.text(data[begins[index] + 2 : ends[index]])

    if len(pids) <= limits.OWNERS:
        return tuple(Owner(pids[index], name(index)) for index in order), 0
    kept: list[Owner] = []
    count = 0
    for pid, group in groupby(order, key=pids.__getitem__):
        names = dict.fromkeys(map(name, group))
        kept += (Owner(pid, one) for one in islice(names, limits.OWNERS - len(kept)))
        count += len(names)
    return tuple(kept), count - len(kept)


def _fields(tail: bytes) -> tuple[dict[bytes, bytes], bool]:
    """``name:value`` of the end of a row, and whether an arrow ends it."""
    rest = b" " + tail.strip()
    arrow = _ARROW.fullmatch(rest[-4:]) is not None
    if arrow:
        rest = rest[:-4]
    # The path of a cgroup may hold blanks, and arrows.
    rest, mark, cgroup = rest.partition(b" cgroup:")
    fields = dict(word.split(b":", 1) for word in rest.split() if b":" in word)
    if mark:
        path, v6only, value = cgroup.rpartition(b" v6only:")
        fields |= {b"cgroup": path, b"v6only": value} if v6only else {b"cgroup": cgroup}
    return fields, arrow


def _refuse_cut(found: Sequence[_Row]) -> None:
    """Every row of a protocol shows the same fields of its socket, in this order: one that lacks some is cut."""
    # Of a protocol that the kernel's sock_diag does not know ss reads the table in /proc, which says less.
    _refuse_shorter([row for row in found if not row.udp])
    _refuse_shorter([row for row in found if row.udp])


def _refuse_shorter(found: Sequence[_Row]) -> None:
    arrows = any(row.arrow for row in found)
    extended = any(row.fields.keys() & {b"uid", b"ino", b"sk"} for row in found)
    wanted = {b"ino", b"sk"} if extended else set()
    for row in found:
        if row.shortened:
            continue
        if not wanted <= row.fields.keys() or (arrows and not row.arrow):
            raise NetstatParseError(f"the row of {rows.text(row.local)[:60]!r} is cut", line=row.line + 1)


# ── what a lone * means ─────────────────────────────────────────────────────────────────────────


class _Era(Enum):
    FOUR = "IPv4's"
    SIX = "both families'"
    EITHER = "either family's: only v6only: tells them apart"
    UNKNOWN = "not to be told from this listing"


def _era(found: Sequence[_Row], header: bytes, version: str | None) -> _Era:
    """Which addresses a ``*`` is in a listing.

    Before iproute2 4.13 it is every address of IPv4, and IPv6's is ``::``. In 4.13 it is either. From 4.14 on IPv4's is
    ``0.0.0.0``, that of a socket for IPv6 alone ``[::]``, and ``*`` is one for both.
    """
    peers = {row.peer.rpartition(b":")[0] for row in found}
    if peers & {b"0.0.0.0", b"[::]"} or b"Process" in header:
        return _Era.SIX
    if b"::" in peers:
        return _Era.FOUR
    if any(row.local.startswith(b"[") for row in found):
        return _Era.EITHER
    match = _VERSION.match(version or "")
    if match is not None:
        if match[2] or int(match[1]) >= _SNAPSHOT_4_14:
            return _Era.SIX
        return _Era.EITHER if int(match[1]) >= _SNAPSHOT_4_13 else _Era.FOUR
    if any(b"v6only" in row.fields for row in found):
        return _Era.EITHER
    # Since 4.14 an address of IPv4 has 0.0.0.0 for its peer.
    return _Era.FOUR if any(_DOTTED.match(row.local) for row in found) else _Era.UNKNOWN


def _socket(row: _Row, era: _Era, six: frozenset[int] | None) -> rows.Socket:
    address, zone, port = rows.endpoint(row.local.replace(b" ", b""), row.line)
    if address == "*":
        is_six = b"v6only" in row.fields
        if not is_six and era is _Era.UNKNOWN:
            # With -e every socket of IPv6 says v6only:, in each version in which * can be one.
            is_six = b"sk" not in row.fields if six is None else port in six
        address = "::" if is_six or era is _Era.SIX else "0.0.0.0"  # noqa: S104 - nothing is bound
    owners, more = row.owners
    inode = row.fields.get(b"ino")
    uid = row.fields.get(b"uid")
    cgroup = row.fields.get(b"cgroup", b"")
    return rows.Socket(
        ("udp" if row.udp else "tcp") + ("6" if ":" in address else ""),
        address,
        zone,
        port,
        owners,
        # ss does not say that a socket is root's: https://github.com/iproute2/iproute2/blob/main/misc/ss.c
        uid=rows.ranged(uid, rows.MAX_UID, "uid", row.line) if uid is not None else 0 if inode is not None else None,
        inode=rows.ranged(inode, rows.MAX_INODE, "inode", row.line) if inode is not None else None,
        comm=owners[0].program if owners else None,
        more_owners=more,
        cgroup=rows.text(cgroup) if cgroup.startswith(b"/") else None,
    )
