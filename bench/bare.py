"""The limit: one process that logs in to every host, runs a command, reads what it prints, and does nothing with it.

As fast as such a loop can honestly be: a key that is loaded once, no agent, no key files, no look at the host key,
paramiko's transport without the client around it, threads that each take the next host. It keeps no answer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.crowd import CrowdHost
from bench.workers import answer


@dataclass(frozen=True, slots=True)
class Bare:
    """The result of one loop.

    :param seconds: from the first connect to the last close; the start of the interpreter is not counted
    :param cpu_seconds: in the same time
    :param memory_mib: most that the process had
    :param answer_bytes: of all answers together
    """

    seconds: float
    cpu_seconds: float
    memory_mib: float
    answer_bytes: int


def run(hosts: Sequence[CrowdHost], user: str, key: Path, command: str, *, threads: int) -> Bare:
    """Run the loop in a process of its own.

    :raises BenchError: if a login failed
    """
    order = {
        "hosts": [(host.address, host.port) for host in hosts],
        "user": user,
        "key": str(key),
        "command": command,
        "threads": threads,
    }
    return Bare(**answer("bench.bare", what="the bare loop", given=json.dumps(order)))


def loop(order: dict[str, Any]) -> Bare:
    """The loop itself."""
    import paramiko

    logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
    key = paramiko.PKey.from_path(order["key"])

    def ask(place: tuple[str, int]) -> int:
        address, port = place
        transport = paramiko.Transport(socket.create_connection((address, port), timeout=10))
        try:
            transport.start_client(timeout=10)
            transport.auth_publickey(order["user"], key)
            channel = transport.open_session()
            channel.exec_command(order["command"])
            count = 0
            while data := channel.recv(1 << 16):
                count += len(data)
            if channel.recv_exit_status() or not count:
                raise RuntimeError(f"{address} ran no command")
            return count
        finally:
            # Its thread ends first, or it might read from another file that gets the same descriptor.
            with contextlib.suppress(OSError):
                transport.sock.shutdown(socket.SHUT_RDWR)
            transport.join()
            transport.close()

    before, started = _cpu(), time.monotonic()
    with ThreadPoolExecutor(order["threads"]) as pool:
        count = sum(pool.map(ask, map(tuple, order["hosts"])))
    seconds = time.monotonic() - started
    return Bare(seconds, _cpu() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, count)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    found = loop(json.load(sys.stdin))
    print(json.dumps({name: getattr(found, name) for name in Bare.__slots__}))
