"""The remote command, and the reader of its answer.

The command lists the listening TCP sockets with the best tool that works there, and frames what it prints,
so that a cut, noisy or interleaved answer can't be taken for a complete one::

    @@NONCE BEGIN v=1 tool=netstat-W uid=0 via=- bytes=N boot=UUID range=32768-60999 netns=4026531840 ver=-
    (N bytes of the tool's output)
    @@NONCE SSX bytes=M
    (M bytes of `ss -ltne`: uid, inode and cgroup of each socket; nothing if ss was the tool)
    @@NONCE PROC
    (Name, PPid, Uid and cgroup lines of each process)
    @@NONCE END

The lengths are what the remote shell's ``${#…}`` counts: bytes, or characters in shells that know no bytes.
"""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from portmon.errors import NetstatParseError, ProbeError
from portmon.models import EPHEMERAL_DEFAULT, Listener, Observation
from portmon.netstat import parse_cgroups, parse_listeners

ARCHIVE_NONCE = "archived"
"""Stands in the markers of a stored frame, so that equal answers are equal bytes."""

# One line for the login shell, whatever that is: inside single quotes no shell interprets anything, as long
# as there is no single quote, no `!` (csh), no newline (csh) and no doubled backslash (fish). sh does the rest.
_SCRIPT = " ".join(
    (
        "LC_ALL=C; export LC_ALL; PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin; export PATH;",
        "n={nonce}; s={sudo}; t=none; w=; o=; v=; p=; e=; f=;",
        "u=$(id -u);",
        # run a tool; its header, not its exit status, says whether it worked
        'run() {{ if [ -n "$w" ]; then sudo -n -l "$@" >/dev/null 2>&1 || return 1; o=$(sudo -n "$@" 2>/dev/null);',
        'else o=$("$@" 2>/dev/null); fi; case $o in *"$h"*) return 0;; esac; return 1; }};',
        "list() {{ if command -v netstat >/dev/null 2>&1; then h=Recv-Q;",
        "t=netstat-W; run netstat -nltpW && return 0; t=netstat; run netstat -nltp && return 0; fi;",
        "if command -v ss >/dev/null 2>&1; then h=Recv-Q;",
        "t=ss; run ss -ltnpe && {{ v=$(ss -V 2>&1); return 0; }}; fi; t=none; return 1; }};",
        'if [ "$u" -gt 0 ] && [ "$s" = 1 ] && command -v sudo >/dev/null 2>&1; then w=sudo; list || w=; fi;',
        '[ -n "$w" ] || list || {{ h=local_address; t=proc;',
        'run sed -n "/local_address/p;/ 0A /p" /proc/net/tcp /proc/net/tcp6 || t=none; }};',
        # without /proc netstat and ss print a header and nothing, which is no empty host
        "[ -r /proc/net/tcp ] || t=none;",
        # cat, since a shell that reads byte by byte gets only the first one of such a file
        "b=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null);",
        "set -- $(cat /proc/sys/net/ipv4/ip_local_port_range 2>/dev/null);",
        "k=$(readlink /proc/self/ns/net 2>/dev/null); k=${{k#*[}}; k=${{k%]}};",
        r'printf "\n@@%s BEGIN v=1 tool=%s uid=%s via=%s bytes=%s boot=%s range=%s-%s netns=%s ver=%s\n%s\n"',
        '"$n" "$t" "$u" "${{w:--}}" "${{#o}}" "${{b:--}}" "$1" "$2" "${{k:--}}" "${{v:--}}" "$o";',
        r'case $t in netstat*) p=$(printf "%s\n" "$o" |',
        r'sed -n "s/^tcp.*[[:space:]]\([0-9][0-9]*\)\/.*/\1/p");',
        "command -v ss >/dev/null 2>&1 && e=$(ss -ltne 2>/dev/null);;",
        r'ss) p=$(printf "%s\n" "$o" | tr , "\n" | sed -n "s/^pid=\([0-9]*\)$/\1/p");; esac;',
        r'printf "@@%s SSX bytes=%s\n%s\n" "$n" "${{#e}}" "$e";',
        r'for i in $(printf "%s\n" "$p" | sort -u | head -n 500); do f="$f /proc/$i/status /proc/$i/cgroup"; done;',
        r'printf "@@%s PROC\n" "$n";',
        '[ -z "$f" ] || grep -sE "^(Name|PPid|Uid):|^0::|:name=systemd:" /dev/null $f;',
        r'printf "@@%s END\n" "$n"; [ "$t" = none ] && exit 3; exit 0',
    )
)

_NONCE = re.compile(r"[A-Za-z0-9]{4,64}")
_ANY_BEGIN = re.compile(rb"^@@([A-Za-z0-9]{4,64}) BEGIN v=1 ", re.MULTILINE)
_MARKER = re.compile(rb"^@@([A-Za-z0-9]{4,64})(?: ([^\n]*))?(\n|\Z)", re.MULTILINE)
_PARTS = (b"BEGIN", b"SSX", b"PROC", b"END")
_TOOLS = frozenset({"netstat-W", "netstat", "ss", "proc", "none"})


def new_nonce() -> str:
    """What nothing on the host can know before: 16 hex digits."""
    return secrets.token_hex(8)


def command(nonce: str, *, sudo: bool = False) -> str:
    """The command to run, one line for any login shell.

    :param nonce: letters and digits
    :param sudo: list through ``sudo -n`` where we are not root and are allowed to
    :raises ValueError: for another nonce
    """
    if not _NONCE.fullmatch(nonce):
        raise ValueError("a nonce is 4 to 64 letters and digits")
    return f"exec sh -c '{_SCRIPT.format(nonce=nonce, sudo=int(sudo))}'"


def script(*, sudo: bool = False) -> str:
    """The probe as a shell script with a nonce of its own, for a forced command.

    :param sudo: see :func:`command`
    """
    body = _SCRIPT.format(nonce='$(od -An -N8 -tx1 /dev/urandom | tr -d " \\n")', sudo=int(sudo))
    return f"#!/bin/sh\n# portmon's probe: lists the listening TCP ports, and does nothing else.\n{body}\n"


def read_frame(output: bytes, nonce: str) -> Observation:
    """Read an answer. What a login shell prints before and after the frame is skipped.

    A frame with another nonce is accepted if it is the only one and there is none with ours: a forced command
    on the server ignores what we send, and chooses its own.

    :raises ProbeError: if it is not one complete frame, or no tool worked
    """
    return _observation(_cut_out(output, nonce))


def read(output: bytes, nonce: str) -> tuple[bytes, Observation]:
    """An answer as it is archived, and what it says: :func:`archive_form` and :func:`read_frame` at once.

    :raises ProbeError: if it is not one complete frame, or no tool worked
    """
    frame = _cut_out(output, nonce)
    return frame.archived(), _observation(frame)


def _observation(frame: _Frame) -> Observation:
    if frame.tool == "none":
        raise ProbeError("neither netstat nor ss works there, and /proc/net/tcp can't be read")
    listeners = parse_listeners(frame.body)
    ephemeral = frame.ephemeral or EPHEMERAL_DEFAULT
    return Observation(
        tool=frame.tool,
        uid=frame.uid,
        via=frame.fields.get("via"),
        boot_id=frame.fields.get("boot"),
        netns=int(frame.fields["netns"]) if frame.fields.get("netns", "").isdigit() else None,
        version=frame.fields.get("ver"),
        ephemeral=ephemeral,
        listeners=tuple(_enrich(listeners, frame)),
    )


def archive_form(output: bytes, nonce: str) -> bytes:
    """The frame alone, with the same nonce in every archive: what did not change is stored once.

    :raises ProbeError: if there is no complete frame
    """
    return _cut_out(output, nonce).archived()


def read_archived(frame: bytes) -> Observation:
    """Read what :func:`archive_form` made.

    :raises ProbeError: if it is damaged
    """
    return read_frame(frame, ARCHIVE_NONCE)


# ── the frame ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Frame:
    """One complete frame.

    :param parts: from each marker up to the next one, bytes as they came
    :param fields: of BEGIN; absent where the value is ``-``
    """

    nonce: bytes
    parts: tuple[bytes, ...]
    fields: Mapping[str, str]
    body: bytes
    ssx: bytes
    proc: bytes
    ephemeral: tuple[int, int] | None

    def archived(self) -> bytes:
        """With the nonce of the archive."""
        fixed = ARCHIVE_NONCE.encode()
        return b"".join(b"@@" + fixed + part[2 + len(self.nonce) :] for part in self.parts)

    @property
    def tool(self) -> str:
        return self.fields["tool"]

    @property
    def uid(self) -> int:
        return int(self.fields["uid"])


def _cut_out(output: bytes, nonce: str) -> _Frame:
    used = nonce.encode("ascii")
    # One pattern for every nonce: compiling one for each answer costs more than reading it.
    found = list(_MARKER.finditer(output))
    if not any(marker[1] == used and marker[2] is not None for marker in found):
        others = set(_ANY_BEGIN.findall(output))
        if len(others) != 1:
            raise ProbeError(_no_frame(output, len(others)))
        used = others.pop()
    # A line that starts like a marker of ours but is none would be a cut or forged one.
    markers = [marker for marker in found if marker[1] == used]
    kinds = tuple((marker[2] or b"").split(b" ")[0] for marker in markers)
    if kinds != _PARTS or not markers[-1][3]:
        shown = ", ".join(kind.decode("ascii", "replace")[:10] for kind in kinds[:6])
        raise ProbeError(
            "the answer is cut or mixed with another one: BEGIN, SSX, PROC and END are expected once each, "
            f"found were {shown or 'none'}"
        )
    begin, ssx, proc, end = markers
    fields = _fields(begin[2])
    body = _counted(output[begin.end() : ssx.start()], fields.get("bytes"), "the listing")
    extra = _counted(output[ssx.end() : proc.start()], _fields(ssx[2]).get("bytes"), "the listing of ss")
    if fields.get("v") != "1" or fields.get("tool") not in _TOOLS or not fields.get("uid", "").isdigit():
        shown = begin[2][:100].decode("ascii", "replace")
        raise ProbeError(f"the first line of the answer is not one of ours: {shown!r}")
    bounds = [marker.start() for marker in markers] + [end.end()]
    return _Frame(
        nonce=used,
        parts=tuple(output[start:stop] for start, stop in pairwise(bounds)),
        fields={name: value for name, value in fields.items() if value and value != "-"},
        body=body,
        ssx=extra,
        proc=output[proc.end() : end.start()],
        ephemeral=_range(fields.get("range", "")),
    )


def _no_frame(output: bytes, others: int) -> str:
    if others:
        return f"the answer holds {others} frames, none of them the one that was asked for"
    if not output.strip():
        return "there is no answer at all; does the account have a shell?"
    return "the answer holds no frame: the command did not run, or its output was cut before it"


def _fields(line: bytes) -> dict[str, str]:
    """``name=value`` of a marker line; the last one, ``ver``, may hold blanks."""
    text, _, version = line.decode("utf-8", "replace").partition(" ver=")
    fields = dict(part.split("=", 1) for part in text.split(" ") if "=" in part)
    return fields | {"ver": version.strip()}


def _counted(block: bytes, count: str | None, what: str) -> bytes:
    """A block without its final newline, if it is as long as it says."""
    if not block.endswith(b"\n"):
        raise ProbeError(f"{what} does not end as it must")
    body = block[:-1]
    if (
        count is None
        or not count.isdigit()
        or int(count)
        not in (
            len(body),
            len(body.decode("utf-8", "surrogateescape")),
        )
    ):
        raise ProbeError(f"{what} has {len(body)} bytes, {count} were announced: it was cut or mixed with other output")
    return body


def _range(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if match is None:
        return None
    low, high = int(match[1]), int(match[2])
    return (low, high) if 1 <= low <= high <= 65535 else None


# ── owners ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Process:
    uid: int | None = None
    unit: str | None = None


_PROC_LINE = re.compile(rb"/proc/(\d+)/(status|cgroup):(.*)")


def _processes(block: bytes) -> dict[int, _Process]:
    found: dict[int, _Process] = defaultdict(_Process)
    for line in block.split(b"\n"):
        match = _PROC_LINE.fullmatch(line)
        if match is None:
            continue
        process = found[int(match[1])]
        value = match[3].decode("utf-8", "surrogateescape")
        if match[2] == b"cgroup":
            process.unit = unit_of(value.split(":", 2)[-1]) or process.unit
        elif value.startswith("Uid:"):
            uids = value.split()
            process.uid = int(uids[1]) if len(uids) > 1 and uids[1].isdigit() else None
    return found


_NO_SOCKET: tuple[Listener | None, str | None] = (None, None)


def _enrich(listeners: Sequence[Listener], frame: _Frame) -> list[Listener]:
    """Add uid, inode and unit from the other two blocks, which may be empty."""
    processes = _processes(frame.proc)
    sockets: dict[tuple[str, int], tuple[Listener | None, str | None]] = {}
    try:
        listed = parse_cgroups(frame.body if frame.tool == "ss" else frame.ssx)
    except NetstatParseError:
        # Only an addition: an ss that is older than any known must not cost the listing.
        listed = []
    for one, cgroup in listed:
        sockets[one.address, one.port] = (one, unit_of(cgroup) if cgroup else None)
    enriched = []
    for listener in listeners:
        process = processes.get(listener.pid) if listener.pid is not None else None
        socket, unit = sockets.get((listener.address, listener.port), _NO_SOCKET)
        uid = listener.uid
        if uid is None and socket is not None:
            uid = socket.uid
        if uid is None and process is not None:
            uid = process.uid
        # Not dataclasses.replace(), which costs as much as reading the row: this is done for every socket.
        enriched.append(
            Listener(
                listener.protocol,
                listener.address,
                listener.port,
                listener.pid,
                listener.program,
                listener.zone,
                listener.owners,
                uid=uid,
                inode=listener.inode if listener.inode is not None else socket.inode if socket else None,
                unit=(process.unit if process else None) or unit,
            )
        )
    return enriched


_CONTAINER = re.compile(r"(?:(docker|libpod|crio|cri-containerd|containerd|nerdctl)[-/:])?([0-9a-f]{64})(?:\.scope)?$")
_RUNTIMES = {"libpod": "podman", "cri-containerd": "containerd", "nerdctl": "containerd"}
_LXC = re.compile(r"/(?:lxc\.payload\.|lxc/|machine\.slice/machine-lxc-)([^/]+)")


@lru_cache(maxsize=4096)
def unit_of(cgroup: str) -> str | None:
    """The systemd unit or container that a cgroup's path belongs to.

    :returns: ``nginx.service``, ``docker:0123456789ab``, ``lxc:web``; None for none, as in a login session
    """
    parts = [part for part in cgroup.split("/") if part]
    for number in range(len(parts) - 1, -1, -1):
        tail = "/".join(parts[max(number - 1, 0) : number + 1])
        match = _CONTAINER.search(tail)
        if match:
            runtime = match[1] or ("docker" if "docker" in cgroup else "container")
            return f"{_RUNTIMES.get(runtime, runtime)}:{match[2][:12]}"
    lxc = _LXC.search(cgroup)
    if lxc:
        return f"lxc:{lxc[1]}"
    for part in reversed(parts):
        if part.endswith(".service") or (part.endswith(".scope") and not part.startswith(("session-", "init"))):
            return part
    return None
