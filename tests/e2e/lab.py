"""Hosts for the end-to-end tests: a network namespace each, with its own sshd and real netstat. Needs root.

A host's services are real processes with real sockets; cutting a host off takes its link down, as
a pulled cable would.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LISTEN = """
import ctypes, os, signal, socket, sys
port, uid, gid = map(int, sys.argv[1:])
listening = socket.create_server(("0.0.0.0", port))
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
# A process that changed its user hides its descriptors even from that user, until it is dumpable again.
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
print("ready", flush=True)
signal.pause()
"""
"""A service: becomes the login user only after the start, since the interpreter may be root's own."""


def missing() -> str | None:
    """What this machine lacks for network namespaces and sshd; None if nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "useradd", "ssh-keygen", "netstat"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    if not Path("/usr/sbin/sshd").exists():
        return "sshd is not installed"
    probe = f"pm-{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "this machine allows no network namespaces"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return None


def await_condition(condition: Callable[[], object], *, what: str, seconds: float = 60) -> None:
    """Poll until a condition holds; the limit only ends what would never end."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for: {what}"
        time.sleep(0.05)


def _sh(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


@dataclass
class LabHost:
    """One host: ``address`` is reachable from this machine, its sockets are only its own."""

    name: str
    netns: str
    link: str
    address: str
    user: str
    folder: Path
    services: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    sshd: subprocess.Popen[bytes] | None = None

    def start_service(self, port: int, name: str = "python3") -> None:
        """Listen on a port in a process of its own, as the login user, with ``name`` as argv[0]."""
        user = pwd.getpwnam(self.user)
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.netns, "bash", "-c", 'exec -a "$0" "$@"', name, sys.executable, "-c", LISTEN]
            + [str(number) for number in (port, user.pw_uid, user.pw_gid)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready", f"{self.name}: nothing listens on {port}"
        self.services[port] = process

    def kill_service(self, port: int) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self.services.pop(port)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def hang(self) -> None:
        """Stop sshd: connections stand, and nothing is ever said on them."""
        assert self.sshd is not None
        self.sshd.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let sshd answer again."""
        assert self.sshd is not None
        self.sshd.send_signal(signal.SIGCONT)

    def connected(self, pids: list[int]) -> int | None:
        """Which of some processes has a connection to sshd here; None if none has."""
        remote = f"{int.from_bytes(socket.inet_aton(self.address), sys.byteorder):08X}:0016"
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        sockets = {f"socket:[{row[9]}]" for row in rows if row[2] == remote}
        for pid in pids:
            with contextlib.suppress(OSError):
                if any(str(place.readlink()) in sockets for place in Path(f"/proc/{pid}/fd").iterdir()):
                    return pid
        return None

    def cut_off(self) -> None:
        """Take the link down."""
        _sh("ip", "link", "set", self.link, "down")

    def reconnect(self) -> None:
        """Take the link up again."""
        _sh("ip", "link", "set", self.link, "up")


class Lab:
    """A set of hosts, made and unmade together.

    :param folder: for keys and sshd configurations
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.tag = secrets.token_hex(2)
        self.user = f"pm{self.tag}"
        self.key = folder / "id"
        self.hosts: dict[str, LabHost] = {}
        self._second = secrets.randbelow(200) + 20
        self._undo: list[tuple[str, ...]] = []
        try:
            self._make(names)
        except BaseException:
            self.close()
            raise

    def _make(self, names: list[str]) -> None:
        # World-readable on purpose: sshd and the login user must reach their files below a private temp folder.
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        # The password "*" matches nothing, but unlike "!" it does not lock the account for sshd.
        _sh("useradd", "--password", "*", "--no-create-home", "--home-dir", "/tmp", "--shell", "/bin/sh", self.user)
        self._undo.append(("userdel", self.user))
        _sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        for number, name in enumerate(names):
            self._make_host(number, name)

    def _make_host(self, number: int, name: str) -> None:
        netns, link = f"pm-{self.tag}-{number}", f"pm{self.tag}{number}"
        outer, inner = f"10.{self._second}.{number}.1", f"10.{self._second}.{number}.2"
        _sh("ip", "netns", "add", netns)
        self._undo.append(("ip", "netns", "del", netns))
        _sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", netns)
        _sh("ip", "addr", "add", f"{outer}/30", "dev", link)
        _sh("ip", "link", "set", link, "up")
        for command in (f"addr add {inner}/30 dev eth0", "link set eth0 up", "link set lo up"):
            _sh("ip", "-n", netns, *command.split())
        folder = self.folder / name
        folder.mkdir()
        _sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host_key"))
        shutil.copy(self.key.with_suffix(".pub"), folder / "authorized_keys")
        (folder / "sshd_config").write_text(
            f"ListenAddress {inner}:22\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nUseDNS no\nPidFile none\nPrintMotd no\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        host = LabHost(name, netns, link, inner, self.user, folder)
        self.hosts[name] = host
        with (folder / "sshd.log").open("wb") as log:
            host.sshd = subprocess.Popen(
                ["ip", "netns", "exec", netns, "/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")],
                stderr=log,
            )
        await_condition(lambda: _answers(inner), what=f"sshd of {name}")

    def close(self) -> None:
        """End every process and take everything down again."""
        for host in self.hosts.values():
            for port in list(host.services):
                host.kill_service(port)
            if host.sshd:
                pids = subprocess.run(
                    ["ip", "netns", "pids", host.netns], capture_output=True, text=True, check=False
                ).stdout.split()
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                host.sshd.wait()
        for command in reversed(self._undo):
            subprocess.run(command, capture_output=True, check=False)


def _answers(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


@contextlib.contextmanager
def lab(folder: Path, names: list[str]) -> Iterator[Lab]:
    """Hosts for the length of a block."""
    made = Lab(folder, names)
    try:
        yield made
    finally:
        made.close()
