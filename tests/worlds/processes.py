"""The children and connections of processes, from /proc, for tests that kill them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """A process and what it started, parents first."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(place.parent.name))
    found, todo = [], [pid]
    while todo:
        one = todo.pop(0)
        found.append(one)
        todo += children.get(one, [])
    return found


def kill_with_descendants(pid: int) -> None:
    """SIGKILL to a process and what it started, as if their machine had lost power."""
    for one in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def connected(pids: Iterable[int], port: int, address: str | None = None) -> list[int]:
    """Which of some processes have an IPv4 connection to a port.

    :param address: the other side's; default: any
    """
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = set()
    for row in rows:
        remote, _, remote_port = row[2].partition(":")
        if int(remote_port, 16) == port and (address is None or remote == _in_proc(address)):
            sockets.add(f"socket:[{row[9]}]")
    return [pid for pid in pids if sockets & set(_files(pid))]


def _in_proc(address: str) -> str:
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"


def _files(pid: int) -> Iterable[str]:
    with contextlib.suppress(OSError):
        for place in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(place.readlink())
