"""The facts about a host and its processes in an answer. Each field is checked for its type and range here."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping

from portmon.errors import ProbeError
from portmon.model import limits
from portmon.model.observation import EPHEMERAL_DEFAULT, Listing
from portmon.probe import rows
from portmon.probe.cgroup import unit_of
from portmon.probe.frame import Frame

_RANGE = re.compile(r"(\d{1,5})[-\s]+(\d{1,5})", re.ASCII)
_BOOT_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_PROC_LINE = re.compile(rb"/proc/(\d{1,10}|self)/(status|cgroup):(.*)")
_SYS_LINE = re.compile(rb"/proc/sys/([a-z0-9_/]{1,60}):(.*)")
_ESCAPED = re.compile(rb"\\(n|\\)")


def facts_of(frame: Frame) -> tuple[Listing, Mapping[int, rows.Process]]:
    """The listing in a frame without its listeners, and facts about processes by pid.

    :raises ProbeError: a value is out of its range, or the user is missing
    """
    fields = frame.fields
    netns, pid1_start = _ranged(fields, "netns", 2**32 - 1), _ranged(fields, "pid1", 2**53)
    uid: int | None = None
    boot_id: str | None = None
    ephemeral: tuple[int, int] | None = None
    reserved: tuple[tuple[int, int], ...] = ()
    processes: dict[int, rows.Process] = defaultdict(rows.Process)
    if frame.version == "1":
        uid = _ranged(fields, "uid", rows.MAX_UID)
        boot_id = _boot_id(fields["boot"]) if "boot" in fields else None
        ephemeral = _range(fields["range"]) if "range" in fields else None
    for line in frame.proc.split(b"\n"):
        if match := _PROC_LINE.fullmatch(line):
            value = match[3]
            if match[1] == b"self":
                if value.startswith(b"Uid:"):
                    uid = _uid(value)
                continue
            process = processes[int(match[1])]
            if match[2] == b"cgroup":
                process.unit = unit_of(rows.text(value.split(b":", 2)[-1])) or process.unit
            elif value.startswith(b"Uid:"):
                process.uid = _uid(value)
            elif value.startswith(b"Name:"):
                process.comm = _comm(value[5:].strip(b"\t"))
        elif match := _SYS_LINE.fullmatch(line):
            text = rows.text(match[2]).strip()
            if match[1] == b"kernel/random/boot_id":
                boot_id = _boot_id(text)
            elif match[1] == b"net/ipv4/ip_local_port_range":
                ephemeral = _range(text)
            elif match[1] == b"net/ipv4/ip_local_reserved_ports":
                reserved = _ports(match[2])
    if uid is None:
        raise ProbeError("the answer does not say as which user it was made")
    listing = Listing(
        tool=frame.tool,
        uid=uid,
        via="sudo" if fields.get("via") == "sudo" else None,
        boot_id=boot_id,
        netns=netns,
        ephemeral=ephemeral or EPHEMERAL_DEFAULT,
        probe=int(frame.version),
        pid1_start=pid1_start,
        reserved=reserved,
    )
    return listing, processes


def _ranged(fields: Mapping[str, str], name: str, highest: int) -> int | None:
    if name not in fields:
        return None
    value = rows.number(fields[name].encode("utf-8", "replace"), highest)
    if value is None:
        raise ProbeError(f"{name}={fields[name][:40]!r} in the answer is no number from 0 to {highest}")
    return value


def _boot_id(text: str) -> str:
    if not _BOOT_ID.fullmatch(text):
        raise ProbeError(f"{text[:80]!r} in the answer is no boot id")
    return text


def _uid(value: bytes) -> int | None:
    """The effective uid of a ``Uid:`` line."""
    uids = value.split()
    return rows.number(uids[2], rows.MAX_UID) if len(uids) > 2 else None


def _comm(name: bytes) -> str:
    """A process name of /proc/PID/status, which escapes newlines and backslashes."""
    # Twice as many as are kept, since two may stand for one.
    return rows.text(_ESCAPED.sub(lambda match: b"\n" if match[1] == b"n" else b"\\", name[: 2 * limits.NAME]))


def _range(text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    low, high = (int(match[1]), int(match[2])) if match is not None else (0, 0)
    if not 1 <= low <= high <= 65535:
        raise ProbeError(f"{text[:40]!r} in the answer is no range of ports")
    return low, high


def _ports(text: bytes) -> tuple[tuple[int, int], ...]:
    """``8080,9000-9010`` as ranges, in order; what is no port is left out.

    Ranges that touch are one, as the kernel prints them, so that there are no more than ports allow.
    """
    found: set[tuple[int, int]] = set()
    for match in re.finditer(rb"[^,]+", text):
        low, _, high = match[0].strip().partition(b"-")
        first, last = rows.number(low, 65535), rows.number(high or low, 65535)
        if first and last and first <= last:
            found.add((first, last))
            if len(found) > 65536:
                found = set(_united(found))
    return tuple(_united(found))


def _united(ranges: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    apart: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if apart and first <= apart[-1][1] + 1:
            apart[-1] = (apart[-1][0], max(apart[-1][1], last))
        else:
            apart.append((first, last))
    return apart
