"""Hosts for the end-to-end tests: a network namespace each, with its own sshd and real netstat. Needs root.

A host's services are real processes with real sockets; cutting a host off takes its link down, as
a pulled cable would. All hosts share one kernel, and the boot id changes only when that reboots:
each host has a boot id file of its own, which its sshd sees in the kernel's place.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from bench.crowd import locked
from tests.worlds.processes import connected
from tests.worlds.waiting import until

LISTEN = """
import ctypes, os, signal, socket, sys
port, uid, gid = map(int, sys.argv[1:4])
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
# A process that changed its user hides its descriptors even from that user, until it is dumpable again.
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
# The kernel's name (comm) is usually the program's file name: here argv[0] up to a colon.
with open("/proc/self/cmdline", "rb") as cmdline, open("/proc/self/comm", "wb") as comm:
    comm.write(cmdline.read().split(b"\\0")[0].split(b":")[0][:15])
listening = [
    socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    for address in sys.argv[4:]
]
print("ready", flush=True)
signal.pause()
"""
"""A service: becomes the login user only after the start, since the interpreter may be root's own, and
before it binds: a socket is that user's who made it."""

BOOT_ID = "/proc/sys/kernel/random/boot_id"


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


def unit_root() -> Path | None:
    """Where a service can get a cgroup that is named like a systemd unit; None if nowhere."""
    for place in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"):
        root = Path(place)
        if (root / "cgroup.procs").exists() and os.access(root, os.W_OK):
            trial = root / f"pm-{secrets.token_hex(3)}"
            with contextlib.suppress(OSError):
                trial.mkdir()
                trial.rmdir()
                return root
    return None


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

    @property
    def uid(self) -> int:
        """Of the login user, as whom the services run."""
        return pwd.getpwnam(self.user).pw_uid

    @property
    def boot_id(self) -> str:
        """As the probe reads it."""
        return (self.folder / "boot_id").read_text().strip()

    def start_service(
        self,
        port: int,
        name: str = "python3",
        *,
        addresses: tuple[str, ...] = ("0.0.0.0",),
        unit: str | None = None,
        key: int | None = None,
    ) -> int:
        """Listen on a port in a process of its own, as the login user, with ``name`` as argv[0].

        :param addresses: to bind
        :param unit: systemd unit that it looks to be of; only where there is a :func:`unit_root`
        :param key: by which :meth:`kill_service` knows it, if another service has the port too
        :returns: its pid
        """
        join = ""
        if unit is not None:
            group = self._unit_folder() / unit
            group.mkdir(parents=True, exist_ok=True)
            join = f"echo $$ > '{group}/cgroup.procs' && "
        user = pwd.getpwnam(self.user)
        # The cgroup is joined first: a new mount namespace has a new /sys. PATH leads nowhere, or the interpreter would look
        # for its files beside a program with the service's name.
        enter = f'{join}exec ip netns exec {self.netns} bash -c \'PATH=/none exec -a "$0" "$@"\' "$0" "$@"'
        process = subprocess.Popen(
            ["bash", "-c", enter, name, sys.executable, "-c", LISTEN]
            + [str(number) for number in (port, user.pw_uid, user.pw_gid)]
            + list(addresses),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready", f"{self.name}: nothing listens on {port}"
        self.services[port if key is None else key] = process
        return process.pid

    def kill_service(self, port: int) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self.services.pop(port)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def start_sshd(self) -> None:
        """Start sshd, with the host's own boot id in the kernel's place, and wait until it answers."""
        show = f'mount --bind "{self.folder}/boot_id" {BOOT_ID} && exec /usr/sbin/sshd -D -e -f "$0"'
        with (self.folder / "sshd.log").open("ab") as log:
            self.sshd = subprocess.Popen(
                ["ip", "netns", "exec", self.netns, "sh", "-c", show, str(self.folder / "sshd_config")],
                stderr=log,
            )
        until(lambda: answers(self.address), what=f"sshd of {self.name}")

    def restart_sshd(self) -> None:
        """End sshd alone, and start it."""
        assert self.sshd is not None
        self.sshd.kill()
        self.sshd.wait()
        self.start_sshd()

    def stop(self) -> None:
        """End every process."""
        for port in list(self.services):
            self.kill_service(port)
        if self.sshd:
            pids = subprocess.run(
                ["ip", "netns", "pids", self.netns], capture_output=True, text=True, check=False
            ).stdout.split()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            self.sshd.wait()
            self.sshd = None

    def reboot(self) -> None:
        """End every process, take a new boot id, start sshd. Services start when the caller starts them."""
        self.stop()
        self.new_boot_id()
        self.start_sshd()

    def new_boot_id(self) -> None:
        """Take one, as a kernel that starts does."""
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")

    def new_host_key(self) -> str:
        """Take one, as a host that was installed anew does; sshd shows it from its next start on.

        :returns: its fingerprint
        """
        key = self.folder / "host_key"
        for file in (key, key.with_suffix(".pub")):
            file.unlink(missing_ok=True)
        _sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        return subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True).stdout.split()[1]

    def _unit_folder(self) -> Path:
        root = unit_root()
        assert root is not None, "no cgroups here"
        return root / self.netns

    def remove_units(self) -> None:
        """Of services that have ended."""
        root = unit_root()
        if root is not None and (root / self.netns).is_dir():
            for folder in (*(root / self.netns).glob("*.service"), root / self.netns):
                until(lambda folder=folder: removed(folder), what=f"the end of {folder}", seconds=10)

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
        return next(iter(connected(pids, 22, self.address)), None)

    def cut_off(self) -> None:
        """Take the link down."""
        _sh("ip", "link", "set", self.link, "down")

    def reconnect(self) -> None:
        """Take the link up again."""
        _sh("ip", "link", "set", self.link, "up")


class Lab:
    """A set of hosts, made and unmade together.

    :param kind: of all hosts
    """

    def __init__(self, names: list[str], kind: type[LabHost] = LabHost) -> None:
        self._kind = kind
        # Not below pytest's folder: the login user must reach its keys, and each pytest that starts on this machine
        # locks that folder for all users but its owner.
        self.folder = Path(tempfile.mkdtemp(prefix="portmon-lab-"))
        self.folder.chmod(0o755)
        self.tag = secrets.token_hex(2)
        self.user = f"pm{self.tag}"
        self.key = self.folder / "id"
        self.hosts: dict[str, LabHost] = {}
        self._second = _free_network()
        self._undo: list[tuple[str, ...]] = []
        try:
            self._make(names)
        except BaseException:
            self.close()
            raise

    def _make(self, names: list[str]) -> None:
        # The password "*" matches nothing, but unlike "!" it does not lock the account for sshd.
        locked("useradd", "--password", "*", "--no-create-home", "--home-dir", "/tmp", "--shell", "/bin/sh", self.user)
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
        shutil.copy(self.key.with_suffix(".pub"), folder / "authorized_keys")
        (folder / "sshd_config").write_text(
            f"ListenAddress {inner}:22\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nUseDNS no\nPidFile none\nPrintMotd no\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        host = self._kind(name, netns, link, inner, self.user, folder)
        self.hosts[name] = host
        host.new_host_key()
        host.new_boot_id()
        host.start_sshd()

    def close(self) -> None:
        """End every process and take everything down again."""
        for host in self.hosts.values():
            host.stop()
            host.remove_units()
        for command in reversed(self._undo):
            subprocess.run(command, capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_network() -> int:
    """Second number of a network 10.x that is free: other labs may be on this machine."""
    shown = subprocess.run(["ip", "-oneline", "address"], capture_output=True, text=True, check=True).stdout
    used = {int(number) for number in re.findall(r"\b10\.(\d+)\.", shown)}
    return secrets.choice([number for number in range(20, 220) if number not in used])


def removed(folder: Path) -> bool:
    """Whether a cgroup is gone, which is removed if that is possible."""
    # A cgroup is busy until its last process is reaped.
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def answers(address: str) -> bool:
    """Whether sshd does."""
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
