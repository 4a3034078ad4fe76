"""One host of the section ``probe``: it holds sockets, is visited, and prints what the visits cost.

A process of its own, the first one in process and network namespaces of its own: no socket is there but those of this
host, and processes have consecutive numbers. Needs root.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from demo.airflow_env import die_with_parent
from demo.host import loopback_up
from portmon import probe
from portmon.probe.command import NETSTAT_UP_TO

OLD = Path(__file__).with_name("peers") / "probe_v1.sh"
"""The command of the version before, with ``NONCE`` in the place of its nonce."""
PORTS = range(20_000, 30_000)
"""Where services listen: outside of every usual ephemeral range."""
USERS = {"root": 0, "user": 65534}
HOLDERS = 8
"""Processes that the connections are spread over."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one visit.

    :param forks: processes besides the login shell
    :param cpu_ms: of the login shell and of all of them, user and system
    :param bytes: printed
    """

    forks: int
    cpu_ms: float
    bytes: int


def main() -> None:
    """Print a list with a round's costs each: user, probe (``old``, ``new``, ``udp``), what of :class:`Cost`, median.

    ``udp`` is the new probe that is asked for UDP as well. The first argument is a JSON object: ``services`` and
    ``sockets`` of the host, ``rounds``, and ``looks`` of each probe and user in a round.
    """
    order = json.loads(sys.argv[1])
    ports = PORTS[: order["services"]]
    loopback_up()
    with tempfile.TemporaryDirectory(prefix="portmon-bench-") as folder:
        _listen(Path(folder), ports)
        for number in range(HOLDERS if order["sockets"] else 0):
            # Both ends of a connection are sockets of this host.
            _connect(f"127.1.0.{number + 1}", order["sockets"] // 2 // HOLDERS)
        question = probe.Question()
        if order["sockets"]:
            question = probe.Question(netstat_up_to=min(NETSTAT_UP_TO, order["sockets"] // 2))

        def looks(uid: int) -> dict[str, dict[str, float]]:
            return _round(order["looks"], question, ports, tool="ss" if order["sockets"] else "netstat-W", uid=uid)

        rounds = [{name: _as_user(uid, looks) for name, uid in USERS.items()} for _ in range(order["rounds"])]
    print(json.dumps(rounds))


def _listen(folder: Path, ports: range) -> None:
    """A process for each port, TCP's and UDP's, each with a name of its own; they end with their namespace."""
    sleep = shutil.which("sleep") or "/bin/sleep"
    for port in ports:
        program = folder / f"service-{port}"
        program.symlink_to(sleep)
        with socket.create_server(("0.0.0.0", port)) as held, socket.socket(type=socket.SOCK_DGRAM) as udp:
            udp.bind(held.getsockname())
            subprocess.Popen([program, "infinity"], pass_fds=[held.fileno(), udp.fileno()])


def _connect(address: str, count: int) -> None:
    """A process that holds both ends of so many connections.

    :param address: of the end that is connected to; each has enough ephemeral ports for the others
    """
    ready, tell = os.pipe()
    if os.fork() == 0:
        die_with_parent()
        try:
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            held = []
            with socket.create_server((address, 0)) as server:
                for _ in range(count):
                    held += [socket.create_connection(server.getsockname()), server.accept()[0]]
            os.write(tell, b"x")
            signal.pause()
        except OSError:
            traceback.print_exc()
        os._exit(1)
    os.close(tell)
    with os.fdopen(ready, "rb") as told:
        if not told.read(1):
            raise BenchError(f"{count} connections with {address} can't be had")


def _as_user(uid: int, work: Callable[[int], Any]) -> Any:
    """What a function returns as another user, in a process of its own, brought back as JSON."""
    come, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(go, json.dumps(work(uid)).encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(go)
    with os.fdopen(come, "rb") as answer:
        text = answer.read()
    if os.waitpid(child, 0)[1]:
        raise BenchError(f"the looks as user {uid} failed")
    return json.loads(text)


def _round(looks: int, question: probe.Question, ports: range, *, tool: str, uid: int) -> dict[str, dict[str, float]]:
    """The probes in turns, and the median of each.

    :param tool: that the new one has to ask
    :raises BenchError: a look did not see what is there
    """
    old = OLD.read_text().strip()
    costs: dict[str, list[Cost]] = {"old": [], "new": [], "udp": []}
    for _ in range(looks):
        nonce = probe.new_nonce()
        commands = {
            "old": old.replace("NONCE", nonce),
            "new": probe.command(nonce, question),
            "udp": probe.command(nonce, dataclasses.replace(question, udp=True)),
        }
        for name, command in commands.items():
            cost, answer = _look(command)
            costs[name].append(cost)
            seen = probe.read_frame(answer, nonce)
            wanted = {(port, f"service-{port}" if uid == 0 else None) for port in ports}
            shown = [{(one.port, one.comm) for one in seen.listeners}]
            if name == "udp":
                shown.append({(one.port, one.comm) for one in seen.udp or ()})
            if seen.tool != ("netstat-W" if name == "old" else tool) or any(one != wanted for one in shown):
                raise BenchError(f"the {name} probe did not see what is there: {answer[:2000]!r}")
    return {
        name: {field.name: statistics.median(getattr(cost, field.name) for cost in of) for field in fields(Cost)}
        for name, of in costs.items()
    }


def _look(command: str) -> tuple[Cost, bytes]:
    """What a login shell does with a command."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8"}
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=env,
    ) as shell:
        assert shell.stdout is not None
        answer = shell.stdout.read()
        # Its own time, and that of its children.
        _, status, used = os.wait4(shell.pid, 0)
        shell.returncode = os.waitstatus_to_exitcode(status)
    following = os.fork()
    if following == 0:
        os._exit(0)
    os.waitpid(following, 0)
    return Cost(following - shell.pid - 1, (used.ru_utime + used.ru_stime) * 1000, len(answer)), answer


if __name__ == "__main__":
    main()
