"""The frame of the probe's answer: a complete one is cut out, any other is refused.

:mod:`portmon.probe.command` shows what an answer of version 2 looks like. Forced commands that were installed earlier
print version 1, which lacks how the tools ended and what could be read::

    @@NONCE BEGIN v=1 tool=netstat-W uid=0 via=- bytes=N boot=UUID range=32768-60999 netns=4026531840 ver=-
    (N bytes of the tool's output)
    @@NONCE SSX bytes=M
    (M bytes of `ss -ltne`; nothing if ss was the tool)
    @@NONCE PROC
    (Name, PPid, Uid and cgroup lines of each process)
    @@NONCE END
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, pairwise

from portmon.errors import ProbeError
from portmon.probe import rows

ARCHIVE_NONCE = "archivedByPortmonAsItCame"
"""The nonce of stored frames, so that equal answers are equal bytes. Longer than any name that netstat and ss print: no
name of a process makes a marker. Earlier versions wrote ``archived``."""

_ARCHIVED = ARCHIVE_NONCE.encode("ascii")
_ENDED = 124
"""The lowest exit status of a tool that did not end by itself: 124 of ``timeout``, 126 or 127 of a program that can't
run, over 128 of a signal: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_08_02"""

_ANY_BEGIN = re.compile(rb"^@@([A-Za-z0-9]{4,64}) BEGIN v=[12] ", re.MULTILINE)
_MARKER = re.compile(rb"^@@([A-Za-z0-9]{4,64})(?: ([^\n]*))?(\n|\Z)", re.MULTILINE)
_PARTS = {
    "1": frozenset({(b"BEGIN", b"SSX", b"PROC", b"END")}),
    "2": frozenset({(b"BEGIN", b"LIST", b"PROC", b"END"), (b"BEGIN", b"LIST", b"PROC", b"SSX", b"END")}),
}
_MOST_MARKERS = 5
_TOOLS = frozenset({"netstat-W", "netstat", "ss", "proc"})
_TOTAL = re.compile(rb" bytes=(\d{1,12})")


@dataclass(frozen=True, slots=True)
class Frame:
    """One complete frame.

    :param version: ``1`` or ``2``
    :param tool: ``netstat-W``, ``netstat``, ``ss`` or ``proc``
    :param parts: from each marker up to the next one, bytes as they came
    :param fields: of all markers; absent where the value is ``-``
    :param body: output of the tool
    :param ssx: output of ss besides; None if it printed nothing or did not end by itself
    :param proc: lines of the kernel about the host and its processes
    """

    version: str
    tool: str
    nonce: bytes
    parts: tuple[bytes, ...]
    fields: Mapping[str, str]
    body: bytes
    ssx: bytes | None
    proc: bytes

    def archived(self) -> bytes:
        """The frame with the nonce of the archive, without uptime and clock: equal answers are equal bytes."""
        parts = [b"@@" + _ARCHIVED + part[2 + len(self.nonce) :] for part in self.parts]
        if self.version == "2":
            # The count of the whole includes the nonces inside.
            shorter = (len(self.nonce) - len(_ARCHIVED)) * (len(parts) - 2)
            parts[0] = _TOTAL.sub(lambda match: b" bytes=%d" % (int(match[1]) - shorter), parts[0], count=1)
            parts[-1] = b"@@" + _ARCHIVED + b" END\n"
        return b"".join(parts)


def is_frame(output: bytes) -> bool:
    """Whether there is the beginning of a frame."""
    return _ANY_BEGIN.search(output) is not None


def cut_out(output: bytes, nonce: str) -> Frame:
    """The frame in an answer. The output of a login shell before and after it is skipped.

    A frame with another nonce is accepted if it is the only one and there is none with ours: a forced command on the
    host chooses its own.

    :raises ProbeError: there is not one complete frame, or no tool worked
    """
    used = nonce.encode("ascii")
    markers = _markers(output, used)
    if not any(marker[2] is not None for marker in markers):
        used = _only_nonce(output)
        markers = _markers(output, used)
    first, last = markers[0], markers[-1]
    # A line that starts like a marker of ours but is none would be a cut or forged one.
    kinds = tuple((marker[2] or b"").split(b" ", 1)[0] for marker in markers)
    if used != _ARCHIVED and output.find(b"\n@@" + _ARCHIVED, first.start(), last.start()) >= 0:
        # In the archive such a line would be a marker of the frame's own, and the stored frame no frame any more.
        raise ProbeError(f"the answer holds a line that begins with @@{ARCHIVE_NONCE}: it can't be stored")
    fields = _fields(first[2] or b"") if kinds[:1] == (b"BEGIN",) else {}
    version = fields.get("v", "")
    if version == "2" and kinds == (b"BEGIN", b"END") and last[3]:
        raise ProbeError(_nothing_worked(fields))
    if version not in _PARTS or kinds not in _PARTS[version] or not last[3]:
        shown = ", ".join(kind.decode("ascii", "replace")[:10] for kind in kinds[:6])
        expected = "BEGIN, LIST, PROC, SSX and END" if version == "2" else "BEGIN, SSX, PROC and END"
        raise ProbeError(
            f"the answer is cut or mixed with another one: {expected} are expected once each, found were "
            f"{shown or 'none'}"
        )
    blocks = {
        kind: output[marker.end() : following.start()]
        for kind, (marker, following) in zip(kinds, pairwise(markers), strict=False)
    }
    own = {kind: _fields(marker[2]) for kind, marker in zip(kinds, markers, strict=True)}
    proc, ssx = blocks[b"PROC"], blocks.get(b"SSX")
    if version == "2":
        _counted(output[first.end() : last.start()], fields.get("bytes"), "the answer")
        body = _counted(blocks[b"LIST"], own[b"LIST"].get("bytes"), "the listing")
        proc = _counted(proc, own[b"PROC"].get("bytes"), "what is said of processes")
        if twice := sorted(fields.keys() & own[b"LIST"].keys() - {"bytes"}):
            raise ProbeError(f"the answer says twice what {twice[0][:20]!r} is: it is mixed with another one")
        fields |= own[b"LIST"]
    else:
        body, more = _without_version(blocks[b"BEGIN"], fields)
        body = _counted(body, fields.get("bytes"), "the listing")
        fields |= more
    if ssx is not None:
        ssx = _counted(ssx, own[b"SSX"].get("bytes"), "the listing of ss")
        if version == "2" and not ended(own[b"SSX"].get("ended")):
            ssx = None
    tool = fields.get("tool", "")
    if tool == "none":
        raise ProbeError(_nothing_worked(fields))
    if tool not in _TOOLS:
        shown = (first[2] or b"")[:100].decode("ascii", "replace")
        raise ProbeError(f"the first line of the answer is not one of ours: {shown!r}")
    bounds = [*(marker.start() for marker in markers), last.end()]
    return Frame(
        version=version,
        tool=tool,
        nonce=used,
        parts=tuple(output[start:stop] for start, stop in pairwise(bounds)),
        fields={name: value for name, value in fields.items() if value and value != "-"},
        body=body,
        ssx=ssx or None,
        proc=proc,
    )


def ended(status: str | None) -> bool:
    """Whether a tool ended by itself. The output of one that did not is no evidence."""
    value = rows.number((status or "").encode("ascii", "replace"), 2**31)
    return value is not None and value < _ENDED


def _markers(output: bytes, nonce: bytes) -> list[re.Match[bytes]]:
    """The markers with a nonce, in order, at most one too many."""
    # One pattern for every nonce: compiling one for each answer costs more than reading it.
    return list(islice((marker for marker in _MARKER.finditer(output) if marker[1] == nonce), _MOST_MARKERS + 1))


def _without_version(block: bytes, fields: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """The listing of an old frame, and the version of ss.

    Version 1 kept all lines that ``ss -V`` printed, complaints of the loader included; the last one is the version.
    """
    size = rows.number(fields.get("bytes", "").encode("ascii", "replace"), len(block))
    if fields.get("tool") != "ss" or size is None or size + 1 >= len(block):
        return block, {}
    before = block[: len(block) - size - 1]
    last = before.rstrip(b"\n").rsplit(b"\n", 1)[-1]
    if not before.endswith(b"\n") or not last.startswith(b"ss utility, iproute2-"):
        return block, {}
    return block[len(before) :], {"ver": rows.text(last)}


def _only_nonce(output: bytes) -> bytes:
    found = {match[1] for match in _ANY_BEGIN.finditer(output)}
    if len(found) > 1:
        raise ProbeError(f"the answer holds {len(found)} frames, none of them the one that was asked for")
    if found:
        return found.pop()
    if not output.strip():
        raise ProbeError("there is no answer at all; does the account have a shell?")
    raise ProbeError("the answer holds no frame: the command did not run, or its output was cut before it")


def _nothing_worked(fields: Mapping[str, str]) -> str:
    text = "neither netstat nor ss works there, and /proc/net/tcp can't be read"
    if "0" in (fields.get("tcp"), fields.get("tcp6")):
        text += "; what is there of /proc/net/tcp and tcp6 has no header"
    if fields.get("tried", "-") == "-":
        return text
    told = []
    # ,netstat-W:139,netstat:limit
    for part in fields["tried"].strip(",").split(",")[:10]:
        tool, _, how = part[:40].partition(":")
        if how.isdigit() and int(how) > 128:
            told.append(f"{tool} (killed by signal {int(how) - 128})")
        else:
            told.append(f"{tool} ({'hung' if how == 'limit' else f'exit status {how}'})")
    return f"{text}. Tried were {', '.join(told)}"


def _fields(line: bytes) -> dict[str, str]:
    """``name=value`` of a marker line; the last one, ``ver``, may hold blanks."""
    text, _, version = line.decode("utf-8", "replace").partition(" ver=")
    fields = dict(part.split("=", 1) for part in text.split(" ") if "=" in part)
    return fields | {"ver": version.strip()} if version else fields


def _counted(block: bytes, count: str | None, name: str) -> bytes:
    """A block without its final newline, if it is as long as it says."""
    if not block and count == "0":
        # The last one, from whose end a shell takes every newline.
        return block
    if not block.endswith(b"\n"):
        raise ProbeError(f"{name} does not end as it must")
    body = block[:-1]
    announced = rows.number((count or "").encode("ascii", "replace"), 2**40)
    if announced is None or (announced != len(body) and announced != len(body.decode("utf-8", "surrogateescape"))):
        raise ProbeError(
            f"{name} has {len(body)} bytes, {(count or 'none')[:20]} were announced: "
            "it was cut or mixed with other output"
        )
    return body
