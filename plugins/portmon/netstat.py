"""Listings of listening TCP sockets: net-tools netstat, busybox netstat, ss, /proc/net/tcp and tcp6.

Works on bytes, split on newlines only: names may hold any other separator, and newlines themselves.
What a tool prints is recognised by its rows and headers, not by words that are translated. A line that
fits nothing, and a row that is cut, are errors: a listing that was not understood proves nothing.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from portmon.errors import NetstatParseError
from portmon.models import Listener, Owner

OWNER_LIMIT = 19
"""Bytes of ``PID/name`` that net-tools and busybox print at most, a newline in the name included."""
COMM_LIMIT = 15
"""Bytes of a process name in ss: ``TASK_COMM_LEN`` less the final NUL."""


def parse_listeners(output: bytes) -> list[Listener]:
    """The listening TCP sockets of a listing, in its order.

    :param output: stdout, with or without stderr in between, of ``netstat -nltp``, ``ss -ltnpe`` or
        ``cat /proc/net/tcp /proc/net/tcp6``
    :raises NetstatParseError: if it is empty, of an unknown layout, or cut
    """
    lines = output.split(b"\n")
    if not output.strip():
        raise NetstatParseError("there is no output: not even a header says that the tool worked")
    for number, line in enumerate(lines):
        for starts, read in _READERS:
            if starts.match(line):
                return read(lines, number)
    first = next(line for line in lines if line.strip())
    raise NetstatParseError(f"no listing of netstat, ss or /proc/net/tcp; it begins {_text(first)[:100]!r}")


def _text(raw: bytes) -> str:
    """The one place where bytes of a host become text."""
    return raw.decode("utf-8", "surrogateescape")


def _port(raw: bytes, number: int) -> int:
    port = int(raw) if raw.isdigit() else 0
    if not 1 <= port <= 65535:
        raise NetstatParseError(f"{_text(raw)!r} is no port number (netstat and ss need -n)", line=number + 1)
    return port


# ── netstat ─────────────────────────────────────────────────────────────────────────────────────

_NETSTAT_HEADER = re.compile(rb"Proto\s.*\S")
_NETSTAT_ROW = re.compile(rb"(?:tcp|udp|udplite|raw|sctp|icmp|dccp)[46L]*\s+\d+\s+\d+\s+\S")
_TCP_ROW = re.compile(rb"(tcp6?)\s+\d+\s+\d+\s+(\S+):([^\s:]+)\s+(\S+):([^\s:]+)\s+(\S.*)", re.DOTALL)
_TAIL = re.compile(rb"\S+(?: \S+)*?\s+(-(?=\s*$)|\d+/.*)\s*", re.DOTALL)
_TAIL_EXTENDED = re.compile(rb"\S+\s+(\S+)\s+(\d+)(?:\s+(-(?=\s*$)|\d+/.*))?\s*", re.DOTALL)
_TAIL_BARE = re.compile(rb"\S+(?: \S+)*\s*")
_TIMER = re.compile(rb"\s+(?:off|on|on\d+|keepalive|timewait|probe|unkn-\d+) \([\d./]+\)\s*$")
_IGNORED = re.compile(rb"\s*$|\(|Active |unix |netstat: |ss: |warning|WARNING")
_NOTE_START, _NOTE_END = re.compile(rb"\("), re.compile(rb".*\)\.?\s*$", re.DOTALL)


def _read_netstat(lines: Sequence[bytes], start: int) -> list[Listener]:
    found: list[Listener] = []
    timer = b"Timer" in lines[start]
    owner: list[bytes] | None = None
    note = False
    for number in range(start, len(lines)):
        line = lines[number]
        if note or _NOTE_START.match(line):
            # "(Not all processes could be identified, …" of stderr, in any language, over several lines
            note = not _NOTE_END.match(line)
            continue
        if _NETSTAT_ROW.match(line):
            owner = None
            if line.startswith(b"tcp"):
                row = _read_netstat_row(_TIMER.sub(b"", line) if timer else line, number)
                if row is not None:
                    owner = [row.owner] if row.owner else None
                    found.append(row.listener())
            continue
        if owner and line.strip() and len(b"\n".join([*owner, line.rstrip(b" ")])) <= OWNER_LIMIT:
            # the rest of a name that holds a newline
            owner.append(line)
            pid, _, name = b"\n".join(owner).partition(b"/")
            found[-1] = _with_owner(found[-1], pid, name)
            continue
        if _NETSTAT_HEADER.match(line) or _IGNORED.match(line):
            continue
        raise NetstatParseError(f"a cut or unknown row: {_text(line)[:120]!r}", line=number + 1)
    return found


@dataclass(frozen=True, slots=True)
class _NetstatRow:
    protocol: bytes
    address: bytes
    port: int
    uid: int | None
    inode: int | None
    owner: bytes

    def listener(self) -> Listener:
        address, _, zone = self.address.partition(b"%")
        plain = Listener(
            protocol="tcp6" if self.protocol == b"tcp6" or b":" in address else "tcp",
            address=_text(address),
            port=self.port,
            zone=_text(zone) or None,
            uid=self.uid,
            inode=self.inode,
        )
        pid, _, name = self.owner.partition(b"/")
        return _with_owner(plain, pid, name) if self.owner else plain


def _read_netstat_row(line: bytes, number: int) -> _NetstatRow | None:
    """One TCP row; None if it is no listening socket."""
    row = _TCP_ROW.fullmatch(line)
    if row is None:
        raise NetstatParseError(f"a cut or unknown row: {_text(line)[:120]!r}", line=number + 1)
    protocol, address, port, _, peer_port, tail = row.groups()
    if peer_port != b"*":
        return None
    uid = inode = None
    owner = b"-"
    if match := _TAIL.fullmatch(tail):
        owner = match[1]
    elif match := _TAIL_EXTENDED.fullmatch(tail):
        uid = int(match[1]) if match[1].isdigit() else None
        inode, owner = int(match[2]), match[3] or b"-"
    elif not _TAIL_BARE.fullmatch(tail):
        raise NetstatParseError(f"a cut or unknown row: {_text(line)[:120]!r}", line=number + 1)
    return _NetstatRow(protocol, address, _port(port, number), uid, inode, owner if owner != b"-" else b"")


def _with_owner(listener: Listener, pid: bytes, name: bytes) -> Listener:
    program = _text(name.rstrip(b" "))
    return Listener(
        protocol=listener.protocol,
        address=listener.address,
        port=listener.port,
        pid=int(pid),
        program=program,
        zone=listener.zone,
        uid=listener.uid,
        inode=listener.inode,
    )


# ── ss ──────────────────────────────────────────────────────────────────────────────────────────

_STATES = rb"LISTEN|UNCONN|ESTAB|SYN-SENT|SYN-RECV|FIN-WAIT-[12]|TIME-WAIT|CLOSE-WAIT|LAST-ACK|CLOSING|CLOSED?"
_SS_HEADER = re.compile(rb"(?:Netid\s+)?State\s+Recv-Q\s+Send-Q\s")
_SS_ROW = re.compile(rb"(?:(?:tcp|udp|mptcp|sctp|dccp)\s+)?(?:" + _STATES + rb")\s+\d+\s+\d+\s")
_SS_LISTEN = re.compile(rb"(?:tcp\s+)?LISTEN\s+\d+\s+\d+\s+(\S+):([^\s:]+)\s+(\S+):\*(?:\s+(\S.*))?\s*", re.DOTALL)
_SS_OTHER = re.compile(rb"(?!(?:tcp\s+)?LISTEN\s)")
_SS_USERS = b"users:("
_SS_NEW_OWNER = re.compile(rb"\",pid=(\d+),(?:tid=\d+,)?fd=\d+\)")
_SS_OLD_OWNER = re.compile(rb"\",(\d+),\d+\)")
_SS_FIELD = re.compile(rb"(?:^|\s)(uid|ino):(\d+)")
_SS_CGROUP = re.compile(rb"\scgroup:(/\S*)")


def parse_cgroups(output: bytes) -> list[tuple[Listener, str | None]]:
    """What ``ss -ltne`` prints: each listening socket with its cgroup's path.

    :raises NetstatParseError: as :func:`parse_listeners` does
    """
    rows = list(_ss_rows(output.split(b"\n"), 0))
    modern = _is_modern(rows, output.split(b"\n", 1)[0])
    return [(row.listener(modern=modern), _text(row.cgroup) if row.cgroup else None) for row in rows]


def _read_ss(lines: Sequence[bytes], start: int) -> list[Listener]:
    rows = list(_ss_rows(lines, start))
    modern = _is_modern(rows, lines[start])
    return [row.listener(modern=modern) for row in rows]


def _is_modern(rows: Sequence[_SsRow], header: bytes) -> bool:
    # A lone * is every address of both families since iproute2 4.14, and IPv4's before, where IPv6's was ":::".
    peers = {row.peer for row in rows}
    return bool(peers & {b"0.0.0.0", b"[::]"}) or b"Process" in header or not peers & {b"::"}


@dataclass(frozen=True, slots=True)
class _SsRow:
    address: bytes
    port: int
    peer: bytes
    owners: tuple[Owner, ...]
    uid: int | None
    inode: int | None
    cgroup: bytes | None

    def listener(self, *, modern: bool) -> Listener:
        # [fe80::1]%eth0, 0.0.0.0%eth0, [::]
        address, _, zone = self.address.partition(b"%")
        address = address.removeprefix(b"[").removesuffix(b"]")
        if address == b"*":
            address = b"::" if modern else b"0.0.0.0"
        first = self.owners[0] if self.owners else None
        return Listener(
            protocol="tcp6" if b":" in address else "tcp",
            address=_text(address),
            port=self.port,
            pid=first.pid if first else None,
            program=first.program if first else None,
            zone=_text(zone.removesuffix(b"]")) or None,
            owners=self.owners if len(self.owners) > 1 else (),
            uid=self.uid,
            inode=self.inode,
        )


def _ss_rows(lines: Sequence[bytes], start: int) -> Iterator[_SsRow]:
    number = start
    while number < len(lines):
        line = lines[number]
        first = number
        number += 1
        if not _SS_ROW.match(line):
            if _SS_HEADER.match(line) or _IGNORED.match(line):
                continue
            raise NetstatParseError(f"a cut or unknown row: {_text(line)[:120]!r}", line=first + 1)
        row = _read_ss_row(line, first)
        # A name may hold newlines, 15 of them at most: then the row goes on.
        while (
            row is None
            and number < len(lines)
            and number - first <= COMM_LIMIT * 64
            and not _SS_ROW.match(lines[number])
        ):
            line += b"\n" + lines[number]
            number += 1
            row = _read_ss_row(line, first)
        if row is None:
            raise NetstatParseError(f"a cut or unknown row: {_text(line)[:120]!r}", line=first + 1)
        if isinstance(row, _SsRow):
            yield row


def _read_ss_row(line: bytes, number: int) -> _SsRow | bool | None:
    """One row; False if it is no listening TCP socket, None if it is not complete."""
    if _SS_OTHER.match(line):
        return False
    match = _SS_LISTEN.fullmatch(line)
    if match is None:
        return None
    address, port, peer, tail = match.groups()
    tail = tail or b""
    owners: tuple[Owner, ...] = ()
    if tail.startswith(_SS_USERS):
        read = _read_owners(tail, len(_SS_USERS))
        if read is None:
            return None
        owners, end = read
        tail = tail[end:]
    fields = dict(_SS_FIELD.findall(tail))
    uid = int(fields[b"uid"]) if b"uid" in fields else None
    inode = int(fields[b"ino"]) if b"ino" in fields else None
    cgroup = _SS_CGROUP.search(b" " + tail)
    return _SsRow(address, _port(port, number), peer, owners, uid, inode, cgroup[1] if cgroup else None)


def _read_owners(tail: bytes, start: int) -> tuple[tuple[Owner, ...], int] | None:
    """The owners from ``("name",pid=1,fd=2),("name",…))`` and where they end.

    A name may hold whatever stands around names. It has at most 15 bytes, and only one way of reading lets
    the list end as it must; the shortest names are tried first.
    """
    for length in range(COMM_LIMIT + 1):
        name = tail[start + 2 : start + 2 + length]
        if not tail.startswith(b'("', start) or len(name) < length:
            return None
        for pattern in (_SS_NEW_OWNER, _SS_OLD_OWNER):
            match = pattern.match(tail, start + 2 + length)
            if match is None:
                continue
            owner = Owner(int(match[1]), _text(name))
            after = match.end()
            if tail[after : after + 1] == b")" and tail[after + 1 : after + 2] in (b"", b" ", b"\t", b"\n"):
                return (owner,), after + 1
            if tail[after : after + 1] == b",":
                rest = _read_owners(tail, after + 1)
                if rest is not None:
                    owners, end = rest
                    return tuple(sorted((owner, *owners), key=lambda one: one.pid)), end
    return None


# ── /proc/net/tcp ───────────────────────────────────────────────────────────────────────────────

_PROC_HEADER = re.compile(rb"\s*sl\s+local_address\s+rem(?:ote)?_address\s+st\s")
_PROC_ROW = re.compile(rb"\s*\d+:\s")
_PROC_LISTEN = b"0A"


def _read_proc(lines: Sequence[bytes], start: int) -> list[Listener]:
    found = []
    for number in range(start, len(lines)):
        line = lines[number]
        if not line.strip() or _PROC_HEADER.match(line):
            continue
        fields = line.split()
        try:
            if not _PROC_ROW.match(line) or len(fields) < 12:
                raise ValueError
            if fields[3] != _PROC_LISTEN:
                continue
            raw, _, port = fields[1].partition(b":")
            address = _proc_address(raw)
            uid, inode = int(fields[7]), int(fields[9])
        except (ValueError, struct.error):
            raise NetstatParseError(f"a cut or unknown row: {_text(line)[:120]!r}", line=number + 1) from None
        found.append(
            Listener(
                protocol="tcp" if address.version == 4 else "tcp6",
                address=_shown(address),
                port=_port(str(int(port, 16)).encode(), number),
                uid=uid,
                inode=inode,
            )
        )
    return found


def _proc_address(raw: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Words of 32 bits in the byte order of the host. Little is assumed, since a listing does not say: x86, ARM, RISC-V
    and ppc64le are. On a big one (s390x) addresses come out reversed; ports and owners are right, they are
    printed as numbers. Only hosts without netstat and ss are read from here.
    """
    data = bytes.fromhex(raw.decode("ascii"))
    if len(data) not in (4, 16):
        raise ValueError
    words = struct.unpack(f"<{len(data) // 4}I", data)
    return ipaddress.ip_address(struct.pack(f">{len(words)}I", *words))


def _shown(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As netstat and ss print it, mapped IPv4 addresses with dots."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return f"::ffff:{mapped}" if mapped else str(address)


_READERS: tuple[tuple[re.Pattern[bytes], Callable[[Sequence[bytes], int], list[Listener]]], ...] = (
    (_NETSTAT_HEADER, _read_netstat),
    (_NETSTAT_ROW, _read_netstat),
    (_SS_HEADER, _read_ss),
    (_SS_ROW, _read_ss),
    (_PROC_HEADER, _read_proc),
)
