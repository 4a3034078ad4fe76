"""The reader of the probe's answer: what is complete is read, everything else is refused.

:mod:`portmon.probe.command` shows what an answer of version 2 looks like. Forced commands that were installed earlier
print version 1, which lacks how the tools ended and what could be read::

    @@NONCE BEGIN v=1 tool=netstat-W uid=0 via=- bytes=N boot=UUID range=32768-60999 netns=4026531840 ver=-
    (N bytes of the tool's output)
    @@NONCE SSX bytes=M
    (M bytes of `ss -ltne`; nothing if ss was the tool)
    @@NONCE PROC
    (Name, PPid, Uid and cgroup lines of each process)
    @@NONCE END

A tool that did not end by itself is no evidence, whatever it printed. Each field has a type and a range here, so that
what a host says of itself fits everything behind this module.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

from portmon.errors import ContradictionError, NetstatParseError, ProbeError
from portmon.model import limits
from portmon.model.observation import EPHEMERAL_DEFAULT, READER, Listener, Listing
from portmon.probe import contradiction as compare
from portmon.probe import procfs, rows, ss
from portmon.probe.cgroup import unit_of
from portmon.probe.listing import read_listing

ARCHIVE_NONCE = "archivedByPortmonAsItCame"
"""Stands in the markers of a stored frame, so that equal answers are equal bytes. Longer than any name that netstat and
ss print: what a process is called makes no marker. Earlier versions wrote ``archived``."""

_ARCHIVED = ARCHIVE_NONCE.encode("ascii")
_ENDED = 124
"""The lowest exit status of a tool that did not end by itself: ``timeout`` says 124, a program that can't be run 126 or
127, a signal more than 128: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_08_02"""
_MAX_NETNS = 2**32 - 1
_MAX_TICKS = 2**53

_ANY_BEGIN = re.compile(rb"^@@([A-Za-z0-9]{4,64}) BEGIN v=[12] ", re.MULTILINE)
_MARKER = re.compile(rb"^@@([A-Za-z0-9]{4,64})(?: ([^\n]*))?(\n|\Z)", re.MULTILINE)
_PARTS = {
    "1": frozenset({(b"BEGIN", b"SSX", b"PROC", b"END")}),
    "2": frozenset({(b"BEGIN", b"LIST", b"PROC", b"END"), (b"BEGIN", b"LIST", b"PROC", b"SSX", b"END")}),
}
_MOST_MARKERS = max(len(parts) for versions in _PARTS.values() for parts in versions)
_NOTHING_WORKED = (b"BEGIN", b"END")
_TOOLS = frozenset({"netstat-W", "netstat", "ss", "proc"})
_ANY_SOCKET = re.compile(rb":\d")
_TOTAL = re.compile(rb" bytes=(\d{1,12})")
_RANGE = re.compile(r"(\d{1,5})[-\s]+(\d{1,5})")
_BOOT_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_VERSION = re.compile(r"iproute2-[\w.-]{1,60}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Frame:
    """One complete frame.

    :param parts: from each marker up to the next one, bytes as they came
    :param fields: of all markers; absent where the value is ``-``
    :param ssx: None if there is no second listing that its tool ended by itself
    """

    nonce: bytes
    parts: tuple[bytes, ...]
    fields: Mapping[str, str]
    body: bytes
    ssx: bytes | None
    proc: bytes

    def archived(self) -> bytes:
        """With the nonce of the archive, and without what changes by itself."""
        parts = [b"@@" + _ARCHIVED + part[2 + len(self.nonce) :] for part in self.parts]
        if self.version == "2":
            # The whole is counted with the nonces inside.
            shorter = (len(self.nonce) - len(_ARCHIVED)) * (len(parts) - 2)
            parts[0] = _TOTAL.sub(lambda match: b" bytes=%d" % (int(match[1]) - shorter), parts[0], count=1)
            parts[-1] = b"@@" + _ARCHIVED + b" END\n"
        return b"".join(parts)

    @property
    def version(self) -> str:
        return self.fields["v"]

    @property
    def tool(self) -> str:
        return self.fields["tool"]


def read_frame(output: bytes, nonce: str) -> Listing:
    """Read an answer. What a login shell prints before and after the frame is skipped.

    A frame with another nonce is accepted if it is the only one and there is none with ours: a forced command
    on the server ignores what we send, and chooses its own.

    :raises ProbeError: if it is not one complete frame, or no tool worked
    """
    return _listing(_cut_out(output, nonce))


def read(output: bytes, nonce: str) -> tuple[bytes, Listing]:
    """An answer as it is archived, and what it says: :func:`archive_form` and :func:`read_frame` at once.

    :raises ProbeError: if it is not one complete frame, or no tool worked
    """
    frame = _cut_out(output, nonce)
    return frame.archived(), _listing(frame)


def archive_form(output: bytes, nonce: str) -> bytes:
    """The frame alone, with the same nonce in every archive: what did not change is stored once.

    :raises ProbeError: if there is no complete frame
    """
    return _cut_out(output, nonce).archived()


def read_archived(frame: bytes) -> Listing:
    """Read what :func:`archive_form` made.

    :raises ProbeError: if it is damaged
    """
    return read_frame(frame, ARCHIVE_NONCE)


def is_frame(output: bytes) -> bool:
    """Whether there is the beginning of a frame."""
    return _ANY_BEGIN.search(output) is not None


def read_any(output: bytes) -> Listing:
    """Read the only frame, whatever its nonce.

    :raises ProbeError: if it is not one complete frame, or no tool worked
    """
    return read_frame(output, "")


# ── the frame ───────────────────────────────────────────────────────────────────────────────────


def _cut_out(output: bytes, nonce: str) -> _Frame:
    used = nonce.encode("ascii")
    markers = _markers(output, used)
    if not any(marker[2] is not None for marker in markers):
        others = {match[1] for match in _ANY_BEGIN.finditer(output)}
        if len(others) != 1:
            raise ProbeError(_no_frame(output, len(others)))
        used = others.pop()
        markers = _markers(output, used)
    # A line that starts like a marker of ours but is none would be a cut or forged one.
    kinds = tuple((marker[2] or b"").split(b" ", 1)[0] for marker in markers)
    if used != _ARCHIVED and output.find(b"\n@@" + _ARCHIVED, markers[0].start(), markers[-1].start()) >= 0:
        # In the archive such a line would be a marker of the frame's own, and the stored frame no frame any more.
        raise ProbeError(f"the answer holds a line that begins with @@{ARCHIVE_NONCE}: it can't be stored")
    fields = _fields(markers[0][2] or b"") if kinds[:1] == (b"BEGIN",) else {}
    version = fields.get("v", "")
    if version == "2" and kinds == _NOTHING_WORKED and markers[-1][3]:
        raise ProbeError(_nothing_worked(fields))
    if version not in _PARTS or kinds not in _PARTS[version] or not markers[-1][3]:
        shown = ", ".join(kind.decode("ascii", "replace")[:10] for kind in kinds[:6])
        raise ProbeError(
            "the answer is cut or mixed with another one: "
            f"{'BEGIN, SSX, PROC and END are' if version != '2' else 'BEGIN, LIST, PROC, SSX and END are'} expected "
            f"once each, found were {shown or 'none'}"
        )
    blocks = {
        kind: output[marker.end() : following.start()]
        for kind, (marker, following) in zip(kinds, pairwise(markers), strict=False)
    }
    own = {kind: _fields(marker[2]) for kind, marker in zip(kinds, markers, strict=True)}
    if version == "2":
        _counted(output[markers[0].end() : markers[-1].start()], fields.get("bytes"), "the answer")
        listing, proc = _counted(blocks[b"LIST"], own[b"LIST"].get("bytes"), "the listing"), blocks[b"PROC"]
        proc = _counted(proc, own[b"PROC"].get("bytes"), "what is said of processes")
        if twice := sorted(fields.keys() & own[b"LIST"].keys() - {"bytes"}):
            raise ProbeError(f"the answer says twice what {twice[0][:20]!r} is: it is mixed with another one")
        fields |= own[b"LIST"]
    else:
        block, more = _without_version(blocks[b"BEGIN"], fields)
        fields |= more
        listing, proc = _counted(block, fields.get("bytes"), "the listing"), blocks[b"PROC"]
    ssx = blocks.get(b"SSX")
    if ssx is not None:
        ssx = _counted(ssx, own[b"SSX"].get("bytes"), "the listing of ss")
        if version == "2" and not _ended(own[b"SSX"].get("ended")):
            ssx = None
    bounds = [marker.start() for marker in markers] + [markers[-1].end()]
    frame = _Frame(
        nonce=used,
        parts=tuple(output[start:stop] for start, stop in pairwise(bounds)),
        fields={name: value for name, value in fields.items() if value and value != "-"},
        body=listing,
        ssx=ssx or None,
        proc=proc,
    )
    if frame.fields.get("tool") == "none":
        raise ProbeError(_nothing_worked(fields))
    if frame.fields.get("tool") not in _TOOLS:
        shown = (markers[0][2] or b"")[:100].decode("ascii", "replace")
        raise ProbeError(f"the first line of the answer is not one of ours: {shown!r}")
    return frame


def _markers(output: bytes, nonce: bytes) -> list[re.Match[bytes]]:
    """The markers with a nonce, in order, no more than show that there are too many."""
    # One pattern for every nonce: compiling one for each answer costs more than reading it.
    return list(islice((marker for marker in _MARKER.finditer(output) if marker[1] == nonce), _MOST_MARKERS + 1))


def _without_version(block: bytes, fields: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """The listing of an old frame without what ``ss -V`` printed in more lines than one, and the version in it.

    Version 1 kept all that it printed, complaints of the loader included, and the last line is the version.
    """
    size = rows.number(fields.get("bytes", "").encode("ascii", "replace"), len(block))
    if fields.get("tool") != "ss" or size is None or size + 1 >= len(block):
        return block, {}
    before = block[: len(block) - size - 1]
    last = before.rstrip(b"\n").rsplit(b"\n", 1)[-1]
    if not before.endswith(b"\n") or not last.startswith(b"ss utility, iproute2-"):
        return block, {}
    return block[len(before) :], {"ver": rows.text(last)}


def _no_frame(output: bytes, others: int) -> str:
    if others:
        return f"the answer holds {others} frames, none of them the one that was asked for"
    if not output.strip():
        return "there is no answer at all; does the account have a shell?"
    return "the answer holds no frame: the command did not run, or its output was cut before it"


def _nothing_worked(fields: Mapping[str, str]) -> str:
    text = "neither netstat nor ss works there, and /proc/net/tcp can't be read"
    if "0" in (fields.get("tcp"), fields.get("tcp6")):
        text += "; what is there of /proc/net/tcp and tcp6 has no header"
    if fields.get("tried", "-") != "-":
        text += f". Tried were {_tried(fields['tried'])}"
    return text


def _tried(text: str) -> str:
    """``,netstat-W:139,netstat:limit`` for people."""
    told = []
    for part in text.strip(",").split(",")[:10]:
        tool, _, ended = part[:40].partition(":")
        how = "hung" if ended == "limit" else f"exit status {ended}"
        if ended.isdigit() and int(ended) > 128:
            how = f"killed by signal {int(ended) - 128}"
        told.append(f"{tool} ({how})")
    return ", ".join(told)


def _fields(line: bytes) -> dict[str, str]:
    """``name=value`` of a marker line; the last one, ``ver``, may hold blanks."""
    text, _, version = line.decode("utf-8", "replace").partition(" ver=")
    fields = dict(part.split("=", 1) for part in text.split(" ") if "=" in part)
    return fields | {"ver": version.strip()} if version else fields


def _counted(block: bytes, count: str | None, what: str) -> bytes:
    """A block without its final newline, if it is as long as it says."""
    if not block and count == "0":
        # The last one, from whose end a shell takes every newline.
        return block
    if not block.endswith(b"\n"):
        raise ProbeError(f"{what} does not end as it must")
    body = block[:-1]
    announced = rows.number((count or "").encode("ascii", "replace"), 2**40)
    if announced is None or (announced != len(body) and announced != len(body.decode("utf-8", "surrogateescape"))):
        raise ProbeError(
            f"{what} has {len(body)} bytes, {(count or 'none')[:20]} were announced: "
            "it was cut or mixed with other output"
        )
    return body


def _ended(status: str | None) -> bool:
    """Whether a tool ended by itself."""
    value = rows.number((status or "").encode("ascii", "replace"), 2**31)
    return value is not None and value < _ENDED


# ── what it says ────────────────────────────────────────────────────────────────────────────────


def _listing(frame: _Frame) -> Listing:
    fields = frame.fields
    if frame.version == "2" and not _ended(fields.get("ended")):
        raise ProbeError(f"{frame.tool} did not end by itself (exit status {fields.get('ended', '-')[:20]})")
    facts = _facts(frame)
    listeners, sockets = _listed(frame)
    if frame.tool != "ss":
        # An ss that is older than any known must not cost the listing: it is only an addition.
        second = _second(frame, listeners)
        if second is not None:
            differ = compare.contradiction(listeners, [socket.listener() for socket in second])
            if differ is not None:
                raise ContradictionError(f"its two listings contradict each other: {differ}")
        sockets = second or []
    told_apart, beyond = _capped(listeners)
    return Listing(
        tool=frame.tool,
        uid=facts.uid,
        via="sudo" if fields.get("via") == "sudo" else None,
        boot_id=facts.boot_id,
        netns=facts.netns,
        version=_version(fields),
        ephemeral=facts.ephemeral or EPHEMERAL_DEFAULT,
        listeners=tuple(_enriched(told_apart, facts.processes, sockets)),
        probe=int(frame.version),
        reader=READER,
        pid1_start=facts.pid1_start,
        reserved=facts.reserved,
        hung=tuple(sorted(_hung(fields.get("tried", "")))),
        beyond=beyond,
    )


def _hung(tried: str) -> set[str]:
    """Tools that the limit ended, ``netstat`` for both of its variants."""
    ended = (part.partition(":") for part in tried.split(",") if part)
    return {tool for tool, _, how in ended if how == "limit" and tool in ("netstat", "ss", "proc")}


def _version(fields: Mapping[str, str]) -> str | None:
    """``iproute2-6.1.0``, whatever else a loader or a wrapper printed."""
    match = _VERSION.search(fields.get("ver", ""))
    return match[0].rstrip(".,") if match else None


def _listed(frame: _Frame) -> tuple[list[Listener], list[ss.Socket]]:
    """The listeners, if what proves that the kernel's tables were read is there; and what ss says of each socket, if it
    was the tool.

    :raises ProbeError: it is not
    """
    listeners, sockets = read_listing(frame.body, version=_version(frame.fields))
    if frame.version == "1":
        # What it could read is not said. Without any socket the listing may be one of nothing: a host that is asked
        # over SSH has one as a rule.
        if not listeners:
            raise ProbeError(
                f"{frame.tool} lists nothing, and the old forced command does not say whether /proc/net/tcp could be "
                "read: install the script that `python -m portmon probe` prints"
            )
        return listeners, sockets
    four, six = frame.fields.get("tcp"), frame.fields.get("tcp6")
    unread = [name for name, state in (("tcp", four), ("tcp6", six)) if state == "0"] + (["tcp"] if not four else [])
    if frame.tool == "ss" and not listeners:
        # Up to 4.3 it prints its header alone, and ends with 0, where the kernel does not answer it.
        raise ProbeError("ss lists nothing at all, which another tool would have to confirm")
    if unread and frame.tool != "ss":
        raise ProbeError(f"/proc/net/{' and '.join(unread)} can't be read there: {frame.tool} may lack sockets")
    if frame.tool == "proc" and not (
        procfs.has_table(frame.body, six=False) and (six is None or procfs.has_table(frame.body, six=True))
    ):
        raise ProbeError("the header of /proc/net/tcp or tcp6 is missing: that table was not read")
    return listeners, sockets


def _second(frame: _Frame, listeners: Sequence[Listener]) -> list[ss.Socket] | None:
    """What the second listing says of each socket; None if ss was not asked, or not understood."""
    if frame.ssx is None or _ANY_SOCKET.search(frame.ssx) is None:
        # None at all is not what a host shows beside a listing, but an ss that the kernel did not answer.
        return None
    six = frozenset(listener.port for listener in listeners if listener.address == "::")
    try:
        return ss.sockets(frame.ssx, 0, six=six)
    except NetstatParseError:
        return None


def _capped(listeners: Sequence[Listener]) -> tuple[list[Listener], tuple[tuple[int, int], ...]]:
    """The listeners, and per port how many more there are than are told apart."""
    by_port: dict[int, list[Listener]] = defaultdict(list)
    for listener in listeners:
        by_port[listener.port].append(listener)
    beyond = {port: own for port, own in by_port.items() if len(own) > limits.OWNERS}
    if not beyond:
        return list(listeners), ()
    kept: set[int] = set()
    for own in beyond.values():
        # The same ones each time, in whatever order the kernel lists them.
        own.sort(key=lambda one: (one.address, one.zone or "", one.inode or 0, one.pid or 0))
        kept.update(map(id, own[: limits.OWNERS]))
    told_apart = [one for one in listeners if one.port not in beyond or id(one) in kept]
    return told_apart, tuple(sorted((port, len(own) - limits.OWNERS) for port, own in beyond.items()))


# ── facts of the host and of processes ──────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Process:
    uid: int | None = None
    comm: str | None = None
    unit: str | None = None


@dataclass(slots=True)
class _Facts:
    """What is known of the host besides its sockets."""

    uid: int = 0
    boot_id: str | None = None
    netns: int | None = None
    ephemeral: tuple[int, int] | None = None
    reserved: tuple[tuple[int, int], ...] = ()
    pid1_start: int | None = None
    processes: dict[int, _Process] = field(default_factory=lambda: defaultdict(_Process))


_PROC_LINE = re.compile(rb"/proc/(\d{1,10}|self)/(status|cgroup):(.*)")
_SYS_LINE = re.compile(rb"/proc/sys/([a-z0-9_/]{1,60}):(.*)")


def _facts(frame: _Frame) -> _Facts:
    """:raises ProbeError: a value is outside of its range"""
    fields = frame.fields
    facts = _Facts(netns=_ranged(fields, "netns", _MAX_NETNS), pid1_start=_ranged(fields, "pid1", _MAX_TICKS))
    own_uid: int | None = None
    if frame.version == "1":
        own_uid = _ranged(fields, "uid", rows.MAX_UID)
        facts.boot_id = _boot_id(fields.get("boot"))
        facts.ephemeral = _range(fields.get("range", ""))
    for line in frame.proc.split(b"\n"):
        if match := _PROC_LINE.fullmatch(line):
            value = match[3]
            if match[1] == b"self":
                if value.startswith(b"Uid:"):
                    own_uid = _uid(value)
                continue
            process = facts.processes[int(match[1])]
            if match[2] == b"cgroup":
                process.unit = unit_of(rows.text(value.split(b":", 2)[-1])) or process.unit
            elif value.startswith(b"Uid:"):
                process.uid = _uid(value)
            elif value.startswith(b"Name:"):
                process.comm = _comm(value[5:].strip(b"\t"))
        elif match := _SYS_LINE.fullmatch(line):
            value_text = rows.text(match[2]).strip()
            if match[1] == b"kernel/random/boot_id":
                facts.boot_id = _boot_id(value_text)
            elif match[1] == b"net/ipv4/ip_local_port_range":
                facts.ephemeral = _range(value_text)
            elif match[1] == b"net/ipv4/ip_local_reserved_ports":
                facts.reserved = _ports(match[2])
    if own_uid is None:
        raise ProbeError("the answer does not say as which user it was made")
    facts.uid = own_uid
    return facts


def _ranged(fields: Mapping[str, str], name: str, highest: int) -> int | None:
    if name not in fields:
        return None
    value = rows.number(fields[name].encode("utf-8", "replace"), highest)
    if value is None:
        raise ProbeError(f"{name}={fields[name][:40]!r} in the answer is no number from 0 to {highest}")
    return value


def _boot_id(text: str | None) -> str | None:
    if text is None:
        return None
    if not _BOOT_ID.fullmatch(text):
        raise ProbeError(f"{text[:80]!r} in the answer is no boot id")
    return text


def _uid(value: bytes) -> int | None:
    """The effective one of a ``Uid:`` line."""
    uids = value.split()
    return rows.number(uids[2], rows.MAX_UID) if len(uids) > 2 else None


_ESCAPED = re.compile(rb"\\(n|\\)")


def _comm(name: bytes) -> str:
    """A process name as /proc/PID/status writes it: a newline and a backslash are escaped."""
    # Twice as many as are kept, since two may stand for one.
    return rows.text(_ESCAPED.sub(lambda match: b"\n" if match[1] == b"n" else b"\\", name[: 2 * limits.NAME]))


def _range(text: str) -> tuple[int, int] | None:
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    low, high = int(match[1]), int(match[2])
    return (low, high) if 1 <= low <= high <= 65535 else None


_PART = re.compile(rb"[^,]+")


def _ports(text: bytes) -> tuple[tuple[int, int], ...]:
    """``8080,9000-9010`` as ranges, in order; what is no port is left out.

    Ranges that touch are one, as the kernel prints them, so that there are no more than ports allow.
    """
    found: set[tuple[int, int]] = set()
    for match in _PART.finditer(text):
        low, _, high = match[0].strip().partition(b"-")
        first, last = rows.number(low, 65535), rows.number(high or low, 65535)
        if first and last and first <= last:
            found.add((first, last))
            if len(found) > 65536:
                found = set(_united(found))
    return tuple(_united(found))


def _united(ranges: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of which no two touch, in order."""
    apart: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if apart and first <= apart[-1][1] + 1:
            apart[-1] = (apart[-1][0], max(apart[-1][1], last))
        else:
            apart.append((first, last))
    return apart


# ── owners ──────────────────────────────────────────────────────────────────────────────────────


def _enriched(
    listeners: Sequence[Listener], processes: Mapping[int, _Process], sockets: Sequence[ss.Socket]
) -> list[Listener]:
    """Listeners with what the other two blocks say: uid, inode, comm and unit."""
    by_place = {(socket.address, socket.port): socket for socket in sockets}
    found = []
    for listener in listeners:
        process = processes.get(listener.pid) if listener.pid is not None else None
        address = listener.address
        if listener.protocol == "tcp6" and ":" not in address:
            # net-tools prints IPv4's form of it alone: https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.2
            address = f"::ffff:{address}"
        socket = by_place.get((address, listener.port))
        uid = listener.uid
        if uid is None and socket is not None:
            uid = socket.uid
        if uid is None and process is not None:
            uid = process.uid
        # Not dataclasses.replace(), which costs as much as reading the row: this is done for every socket.
        found.append(
            Listener(
                listener.protocol,
                address,
                listener.port,
                listener.pid,
                listener.program,
                listener.zone,
                listener.owners,
                uid=uid,
                inode=listener.inode if listener.inode is not None else socket.inode if socket else None,
                unit=(process.unit if process else None)
                or (unit_of(socket.cgroup) if socket and socket.cgroup else None),
                comm=(process.comm if process else None) or listener.comm,
                more_owners=listener.more_owners,
            )
        )
    return found
