"""Listings of netstat: net-tools', busybox' and toybox'.

One row a socket, columns as the header names them. Every field is split from the left, once, so that the time grows
with the bytes and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from portmon.errors import NetstatParseError
from portmon.model.observation import Owner
from portmon.probe import rows

OWNER_LIMIT = 19
"""Bytes of ``PID/name`` that net-tools and busybox print at most, a newline in the name included."""
PADDED = OWNER_LIMIT + 1
"""Bytes of that column in net-tools, which fills it with blanks: a shorter one is cut."""

HEADER = re.compile(rb"Proto\s.*\S")
ROW = re.compile(rb"(?:tcp|udp|udplite|raw|sctp|icmp|dccp)[46L]*\s+\d+\s+\d+\s+\S")
_UDP = re.compile(rb"udp[46]?\s")
_BEGUN = re.compile(rb"t(?:c(?:p6?(?:\s+(?:\d+(?:\s+(?:\d+\s*)?)?)?)?)?)?")
"""The beginning of a row that is cut before its endpoints."""
_BEGUN_UDP = re.compile(_BEGUN.pattern.replace(b"t(?:c", b"u(?:d", 1))
_OWNER = re.compile(rb"[ \t](?:(\d{1,10})/|-[ ]*\Z)")
_TIMERS = frozenset({b"off", b"on", b"keepalive", b"timewait", b"probe"})
_NOTE_END = re.compile(rb"\)\.?\s*\Z")


class _Columns(NamedTuple):
    """Which optional columns a listing has: ``PID/Program name``, ``User`` and ``Inode``, ``Timer``."""

    owner: bool
    extended: bool
    timer: bool


def read(lines: Sequence[bytes], start: int, *, udp: bool = False) -> list[rows.Socket]:
    """The listening sockets of a listing.

    :param start: index of its header, or of its first row
    :param udp: with the UDP sockets that have no peer; rows of UDP are skipped without
    :raises NetstatParseError: a row is cut or unknown, or the listing was made without ``-l``
    """
    # Line, socket, and the owner's column as it stands there, with what follows of a name that holds newlines.
    found: list[tuple[int, rows.Socket, bytearray | None]] = []
    columns: _Columns | None = None
    # The owner's column of the row before, if its name may go on.
    owner: bytearray | None = None
    padded = _is_padded(lines, start, udp=udp)
    note = False
    others = 0
    for number in range(start, len(lines)):
        line = lines[number]
        if padded and owner is not None and len(owner) < PADDED:
            # The column is filled up behind a name, newlines in it included: no row begins until it is full.
            owner += b"\n" + line
            continue
        if ROW.match(line):
            if note:
                raise rows.refused(line, number)
            owner = None
            is_udp = udp and _UDP.match(line) is not None
            if is_udp or line.startswith(b"tcp"):
                columns = columns or _shown(line, number)
                read = _read_row(line, number, columns)
                if read is None:
                    # A UDP socket with a peer is a client's, or one of a server's sockets for its clients.
                    others += not is_udp
                else:
                    owner = read[1]
                    found.append((number, *read))
            continue
        if not padded and owner is not None and _goes_on(owner, line):
            begun = _BEGUN.fullmatch(line) or (udp and _BEGUN_UDP.fullmatch(line))
            if begun and not any(map(bytes.strip, lines[number + 1 :])):
                # The last line, and a row begins like that: more likely a cut one than the rest of a name.
                raise rows.refused(line, number)
            owner += b"\n" + line
            continue
        if note or line.startswith(b"("):
            # "(Not all processes could be identified, …" of stderr, in any language, over several lines; longer than
            # the rest of a name can be
            note = not _NOTE_END.search(line[-80:])
            continue
        if HEADER.match(line):
            columns = _named(line)
            continue
        rows.refuse_unless_noise(line, number)
    if note:
        raise NetstatParseError("it ends within a note in parentheses")
    rows.refuse_others(sum(not socket.is_udp for _, socket, _ in found), others)
    _refuse_cut(lines, [number for number, _, owner in found if owner is None])
    for number, socket, owner in found:
        if owner is not None:
            if padded and len(owner) < PADDED:
                # Where one row fills its last column with blanks, every row does.
                raise NetstatParseError(f"the row of port {socket.port} is cut in its last column", line=number + 1)
            socket.owners = _owners(bytes(owner), number)
    return [socket for _, socket, _ in found]


def _refuse_cut(lines: Sequence[bytes], numbers: Sequence[int]) -> None:
    """Refuse a row that is shorter than the others; for rows that do not end with an owner.

    Their last column is the state, which all of them share, or an inode; tools fill it with blanks, or do not.
    """
    # A UDP socket without a peer has no state.
    states = {number: lines[number].split(None, 6)[5] for number in numbers if not _UDP.match(lines[number])}
    # In order, what begins with another one follows it.
    cut = {one for one, other in pairwise(sorted({*states.values(), b"LISTEN"})) if other.startswith(one)}
    filled = any(lines[number].endswith(b" ") for number in numbers)
    for number in numbers:
        line = lines[number]
        # An inode of ten digits fills the column.
        if states.get(number) in cut or (filled and not line.endswith(b" ") and not line[-10:].isdigit()):
            raise rows.refused(line, number)


def _named(header: bytes) -> _Columns | None:
    """The columns that a header names; None for a translated one, whose first row shows them."""
    if b"Local Address" not in header or b"Foreign Address" not in header:
        return None
    return _Columns(owner=b"PID/Program" in header, extended=b"Inode" in header, timer=b"Timer" in header)


def _shown(row: bytes, number: int) -> _Columns:
    """The columns that a row shows."""
    rest = _split(row, number)[-1]
    words = rest.split(None, 3)
    timer = rest.rstrip().endswith(b")") and b" (" in rest
    extended = len(words) > 2 and words[2].isdigit() and _OWNER.match(b" " + words[1]) is None
    return _Columns(owner=_OWNER.search(rest) is not None, extended=extended, timer=timer)


def _split(line: bytes, number: int) -> list[bytes]:
    """The first five fields, and what stands from the state on."""
    fields = line.split(None, 5)
    if _UDP.match(line) and len(fields) > 4:
        rest = fields[5] if len(fields) > 5 else b""
        # The column is blank as a rule: a pid, a dash or a user follows.
        fields[5:] = [rest if rest[:1] not in b"-0123456789" else b"UNCONN " + rest]
        if not re.search(rb":(?:\*|\d+)\Z", fields[4]):
            raise rows.refused(line, number)
    if len(fields) < 6:
        raise rows.refused(line, number)
    return fields


def _read_row(line: bytes, number: int, columns: _Columns) -> tuple[rows.Socket, bytearray | None] | None:
    """The socket and its owner's column; None if the socket does not listen."""
    protocol, _, _, local, foreign, rest = _split(line, number)
    if b":" not in foreign:
        raise rows.refused(line, number)
    if columns.timer:
        rest = _without_timer(rest, line, number)
    uid = inode = None
    owner: bytes | None = None
    if columns.extended:
        words = rest.split(None, 3)
        if len(words) < 3 or (columns.owner and len(words) < 4) or not words[2].isdigit():
            raise rows.refused(line, number)
        uid = rows.number(words[1], rows.MAX_UID)
        inode = rows.ranged(words[2], rows.MAX_INODE, "inode", number)
        owner = words[3] if columns.owner else None
        if owner is not None and not _OWNER.match(b" " + owner):
            raise rows.refused(line, number)
    elif columns.owner:
        match = _OWNER.search(rest)
        if match is None or not rest[: match.start()].strip():
            raise rows.refused(line, number)
        owner = rest[match.start() + 1 :]
    if not foreign.endswith(b":*"):
        return None
    address, zone, port = rows.endpoint(local, number)
    family = "udp" if protocol.startswith(b"udp") else "tcp"
    if protocol.endswith(b"6") or ":" in address:
        family += "6"
    socket = rows.Socket(family, address, zone, port, uid=uid, inode=inode)
    return socket, None if owner is None else bytearray(owner)


def _without_timer(rest: bytes, line: bytes, number: int) -> bytes:
    """A row up to its last column, ``keepalive (12.3/0/0)``."""
    kept = rest.rstrip()
    start = kept.rfind(b"(")
    before = kept[:start].rstrip()
    word = before.rsplit(None, 1)[-1] if before else b""
    known = word in _TIMERS or word.startswith((b"on", b"unkn-"))
    if start < 0 or not kept.endswith(b")") or not set(kept[start + 1 : -1]) <= set(b"0123456789./") or not known:
        raise rows.refused(line, number)
    return before[: -len(word)]


def _goes_on(owner: bytearray, line: bytes) -> bool:
    """Whether a line is the rest of a name that holds a newline."""
    return bool(line.strip()) and owner.rstrip(b" ") != b"-" and len(owner) + 1 + len(line.rstrip(b" ")) <= OWNER_LIMIT


def _is_padded(lines: Sequence[bytes], start: int, *, udp: bool) -> bool:
    """Whether the last column is filled with blanks, as net-tools does with rows and header."""
    if not (HEADER.match(lines[start]) and lines[start].endswith(b" ")):
        return False
    for line in lines[start + 1 :]:
        if line.endswith(b" ") and ROW.match(line):
            rest = line.split(None, 5)[-1]
            if udp and _UDP.match(line):
                rest = b" " + rest
            match = _OWNER.search(rest)
            if match is not None and len(rest) - match.start() - 1 >= PADDED:
                return True
    return False


def _owners(column: bytes, line: int) -> tuple[Owner, ...]:
    if column.rstrip(b" ") in (b"", b"-"):
        return ()
    digits, _, name = column.partition(b"/")
    return (Owner(rows.ranged(digits, rows.MAX_PID, "pid", line), rows.text(name.rstrip(b" "))),)
