"""A crowd of SSH hosts on this machine: addresses of 127.0.0.0/8 behind real OpenSSH servers. Needs root.

One sshd, listening on every address, is all hosts but a few: a host is an address of its own (127.1.0.1, 127.1.0.2
…), with its own login, host key check and row in portmon's database, but all of them are this machine. So each of
them shows the same sockets: those of the services that are started here, and whatever else listens on this
machine. That is fine for counting logins and measuring them. Where hosts must differ, ``tests/worlds/lab.py`` has
hosts with a network of their own.

Besides those that answer there are hosts that do not:

*dead*
    TCP connects time out, as of a host that is off. Their socket listens with an accept queue of length 0, which one
    connection fills: from then on the kernel drops every SYN. This needs no firewall.
*hanging*
    accept TCP, and never say a word.
*switchable*
    answer, and have an sshd each, so that they can die later: :meth:`Crowd.make_dead`, :meth:`Crowd.hang`,
    :meth:`Crowd.revive`.
"""

from __future__ import annotations

import contextlib
import csv
import os
import pwd
import random
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from demo.airflow_env import die_with_parent

Kind = Literal["alive", "dead", "hanging", "switchable"]

SSHD = "/usr/sbin/sshd"
SERVICE_PORTS = range(20_000, 30_000)
"""Where services listen: outside of every usual ephemeral range."""

_SERVICES = """
import ctypes, os, signal, socket, sys
uid, gid = int(sys.argv[1]), int(sys.argv[2])
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
libc = ctypes.CDLL(None)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for port in map(int, sys.argv[3:]):
    pid = os.fork()
    if pid == 0:
        # Dies with its parent, and shows its descriptors to its own user although it changed that.
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        libc.prctl(4, 1, 0, 0, 0)
        held = socket.create_server(("0.0.0.0", port))
        os.write(1, b"%d %d\\n" % (port, os.getpid()))
        signal.pause()
libc.prctl(1, signal.SIGKILL, 0, 0, 0)
signal.pause()
"""
"""One process per service, all forked from one interpreter: as the login user, so that netstat may name them."""


class CrowdError(Exception):
    """The crowd can't be had on this machine, or a host can't do what is asked."""


def missing() -> str | None:
    """What this machine lacks for a crowd; None if nothing."""
    if os.geteuid() != 0:
        return "SSH servers with a login user of their own need root"
    for tool, package in (("useradd", "passwd"), ("ssh-keygen", "openssh-client"), ("netstat", "net-tools")):
        if not shutil.which(tool):
            return f"{tool} is not installed (Debian: apt install {package})"
    if not os.access(SSHD, os.X_OK):
        return "sshd is not installed (Debian: apt install openssh-server)"
    return None


def free_port() -> int:
    """A TCP port that is free on this machine just now."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class CrowdHost:
    """One host, as a CMDB would list it.

    :param port: of its SSH server
    :param kind: what it does with a connection
    """

    id: str
    name: str
    address: str
    port: int
    kind: Kind


class Crowd:
    """Hosts, their services and their user, made and unmade together.

    :param folder: for keys and logs
    :param count: hosts that answer, the switchable ones included
    :param dead: hosts besides whose connects time out
    :param hanging: hosts besides that accept connections and never say a word
    :param services: sockets that listen on every host
    :param switchable: hosts among ``count`` with an sshd of their own
    :raises CrowdError: if it can't be had
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        dead: int = 0,
        hanging: int = 0,
        services: int = 30,
        switchable: int = 0,
    ) -> None:
        lacking = missing()
        if lacking:
            raise CrowdError(lacking)
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.user = f"pm{secrets.token_hex(3)}"
        self.key = self.folder / "id_ed25519"
        self.log = self.folder / "sshd.log"
        self.services: list[int] = []
        # Files for the login user are elsewhere: only root may be able to enter the folder.
        self._shared = Path(tempfile.mkdtemp(prefix="portmon-crowd-"))
        self._sshds: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[str] = set()
        self._dead: dict[str, _DeadSocket] = {}
        self._hanging: _HangingServer | None = None
        self._service_processes: list[subprocess.Popen[str]] = []
        self._service_pids: dict[int, int] = {}
        self.hosts: list[CrowdHost] = []
        try:
            self._make_user()
            self._make_hosts(count, dead, hanging, switchable)
            self.services = _free_service_ports(services)
            self._start_services(self.services)
        except BaseException:
            self.close()
            raise

    # ── what a test or a measure asks ───────────────────────────────────────────────────────────

    def host(self, name: str) -> CrowdHost:
        """The host of a name."""
        return next(host for host in self.hosts if host.name == name)

    def named(self, *kinds: Kind) -> list[str]:
        """Names of the hosts of some kinds, in order."""
        return [host.name for host in self.hosts if host.kind in kinds]

    def entries(self) -> list[dict[str, Any]]:
        """The hosts as a CMDB's list, JSON types only."""
        return [{name: value for name, value in asdict(host).items() if name != "kind"} for host in self.hosts]

    def some(self, alive: int, dead: int = 0) -> list[CrowdHost]:
        """The first so many hosts of these kinds, in their order among all.

        :raises CrowdError: if there are not so many
        """
        left: dict[Kind, int] = {"alive": alive, "dead": dead}
        found = []
        for host in self.hosts:
            if left.get(host.kind):
                left[host.kind] -= 1
                found.append(host)
        if any(left.values()):
            raise CrowdError(f"this crowd has no {alive} hosts that answer and {dead} dead ones")
        return found

    def write_csv(self, path: Path, hosts: Sequence[CrowdHost] | None = None) -> None:
        """Write a host list for portmon's ``file`` source.

        :param hosts: default: all
        """
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("id", "name", "address", "port"))
            for host in self.hosts if hosts is None else hosts:
                writer.writerow((host.id, host.name, host.address, host.port))

    def logins(self) -> int:
        """Logins that were accepted so far, on every host together."""
        return self.log.read_bytes().count(b"Accepted publickey for ")

    def pids(self) -> list[int]:
        """The sshd processes that listen; sessions are their children."""
        return [process.pid for process in self._sshds.values()]

    # ── what happens to hosts ───────────────────────────────────────────────────────────────────

    def make_dead(self, name: str) -> None:
        """From now on connects to a switchable host time out, and its sessions have ended."""
        host = self._switchable(name)
        self._end_sshd(host)
        if name not in self._dead:
            self._dead[name] = _DeadSocket(host.address, host.port)

    def refuse(self, name: str) -> None:
        """From now on a switchable host refuses connections: its sshd is gone."""
        host = self._switchable(name)
        self._end_sshd(host)
        self._bury(name)

    def hang(self, name: str) -> None:
        """From now on a switchable host accepts connections and never says a word."""
        host = self._switchable(name)
        self.revive(name)
        self._sshds[host.name].send_signal(signal.SIGSTOP)
        self._stopped.add(name)

    def revive(self, name: str) -> None:
        """A switchable host answers again."""
        host = self._switchable(name)
        self._bury(name)
        if name in self._stopped:
            self._stopped.remove(name)
            self._sshds[name].send_signal(signal.SIGCONT)
        if name not in self._sshds:
            self._start_sshd(name, host.address, host.port)

    def stand_still(self) -> None:
        """From now on no host but the switchable ones begins a session; those that have begun go on."""
        self._sshds[""].send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """They begin sessions again, first with the connections that have waited."""
        self._sshds[""].send_signal(signal.SIGCONT)

    def kill_service(self, port: int) -> None:
        """A service dies, on every host."""
        os.kill(self._service_pids.pop(port), signal.SIGKILL)
        _wait(lambda: not _answers(("127.0.0.1", port), b""), f"the end of the service on port {port}")

    def start_service(self, port: int) -> None:
        """A service is back, on every host."""
        self._start_services([port])

    # ── life ────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """End every process that was started, and remove the user."""
        for name in self._stopped:
            self._sshds[name].send_signal(signal.SIGCONT)
        self._stopped.clear()
        for process in self._sshds.values():
            _end_group(process)
        self._sshds.clear()
        for services in self._service_processes:
            services.kill()
            services.wait()
            if services.stdout is not None:
                services.stdout.close()
        self._service_processes.clear()
        for name in list(self._dead):
            self._bury(name)
        if self._hanging is not None:
            self._hanging.close()
            self._hanging = None
        self._remove_user()
        shutil.rmtree(self._shared, ignore_errors=True)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ── making ──────────────────────────────────────────────────────────────────────────────────

    def _make_user(self) -> None:
        home = self._shared / "home"
        # The password "*" matches nothing, but unlike "!" it does not lock the account for sshd.
        locked(
            "useradd", "--password", "*", "--no-create-home", "--home-dir", str(home), "--shell", "/bin/sh", self.user
        )
        self._shared.chmod(0o755)
        home.mkdir(mode=0o755)
        user = pwd.getpwnam(self.user)
        os.chown(home, user.pw_uid, user.pw_gid)
        for key in (self.key, self.folder / "host_key"):
            for old in (key, key.with_suffix(".pub")):
                old.unlink(missing_ok=True)
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "crowd", "-f", str(key))
        public = self.key.with_suffix(".pub").read_text()
        # sshd listens on every address of the machine; logins from outside are refused.
        (self._shared / "authorized_keys").write_text(f'from="127.0.0.0/8" {public}')

    def _remove_user(self) -> None:
        try:
            user = pwd.getpwnam(self.user)
        except KeyError:
            return
        # Sessions end with their connections; one that is left would keep the user from being removed.
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if place.stat().st_uid == user.pw_uid:
                    os.kill(int(place.name), signal.SIGKILL)
        locked("userdel", "--force", self.user)

    def _make_hosts(self, count: int, dead: int, hanging: int, switchable: int) -> None:
        counts: dict[Kind, int] = {
            "alive": count - switchable,
            "switchable": switchable,
            "dead": dead,
            "hanging": hanging,
        }
        kinds = [kind for kind, number in counts.items() for _ in range(number)]
        # Dead hosts are spread evenly over the batches, always in the same way.
        random.Random(1).shuffle(kinds)
        ports: dict[Kind, int] = {kind: free_port() for kind in ("alive", "switchable")}
        if dead:
            ports["dead"] = free_port()
            self._dead[""] = _DeadSocket("0.0.0.0", ports["dead"])
        if hanging:
            self._hanging = _HangingServer()
            ports["hanging"] = self._hanging.port
        width = max(4, len(str(len(kinds))))
        for number, kind in enumerate(kinds):
            address = f"127.{1 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
            name = f"host-{number + 1:0{width}}"
            self.hosts.append(CrowdHost(f"id-{number + 1:0{width}}", name, address, ports[kind], kind))
        Path("/run/sshd").mkdir(exist_ok=True)
        if count > switchable:
            self._start_sshd("", "0.0.0.0", ports["alive"])
        for host in self.hosts:
            if host.kind == "switchable":
                self._start_sshd(host.name, host.address, host.port)

    def _start_sshd(self, name: str, address: str, port: int) -> None:
        settings = self.folder / f"sshd_config{name and '.'}{name}"
        lines = (
            f"ListenAddress {address}:{port}",
            f"HostKey {self.folder}/host_key",
            f"AuthorizedKeysFile {self._shared}/authorized_keys",
            f"AllowUsers {self.user}",
            "MaxStartups 1000:30:2000",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PrintMotd no",
            "PrintLastLog no",
            "PidFile none",
            "LogLevel INFO",
        )
        settings.write_text("\n".join((*lines, "")))
        # Since OpenSSH 9.8 an address that fails to log in is shut out for a while, and here all come from one address.
        if not _quiet(SSHD, "-t", "-f", str(settings), "-o", "PerSourcePenalties no"):
            settings.write_text("\n".join((*lines, "PerSourcePenalties no", "")))
        with self.log.open("ab") as log:
            self._sshds[name] = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        process = self._sshds[name]
        seen = address if address != "0.0.0.0" else "127.0.0.1"
        _wait(lambda: _answers((seen, port), b"SSH-") or process.poll() is not None, f"sshd on {seen}:{port}")
        if process.poll() is not None:
            raise CrowdError(f"sshd ended with code {process.returncode}, see {self.log}")

    def _start_services(self, ports: Sequence[int]) -> None:
        if not ports:
            return
        user = pwd.getpwnam(self.user)
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVICES, *map(str, (user.pw_uid, user.pw_gid, *ports))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd="/",
        )
        self._service_processes.append(process)
        if process.stdout is None:
            raise CrowdError("the services say nothing")
        for _ in ports:
            port, _, pid = process.stdout.readline().partition(" ")
            if not pid:
                raise CrowdError("a service can't listen on its port")
            self._service_pids[int(port)] = int(pid)

    def _switchable(self, name: str) -> CrowdHost:
        host = self.host(name)
        if host.kind != "switchable":
            raise CrowdError(f"{name} has no sshd of its own: ask for switchable hosts, {host.kind} is what it stays")
        return host

    def _end_sshd(self, host: CrowdHost) -> None:
        process = self._sshds.pop(host.name, None)
        if process is not None:
            self._stopped.discard(host.name)
            _end_group(process)

    def _bury(self, name: str) -> None:
        dead = self._dead.pop(name, None)
        if dead is not None:
            dead.close()


class _DeadSocket:
    """A port whose accept queue is full: the kernel drops every SYN that comes.

    A queue of length 0 still takes one connection (``sk_acceptq_is_full`` asks for more than the limit); the second
    one here is for kernels that count otherwise.
    """

    def __init__(self, address: str, port: int) -> None:
        self._sockets = [socket.socket()]
        listening = self._sockets[0]
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(0)
        target = (address if address != "0.0.0.0" else "127.0.0.1", port)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(target)
            self._sockets.append(filler)
        _wait(lambda: _drops(target), f"{target[0]}:{port} to be dead")

    def close(self) -> None:
        for one in reversed(self._sockets):
            one.close()


class _HangingServer:
    """Accepts whatever comes, says nothing, and forgets it when the other side hangs up."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("0.0.0.0", 0), backlog=1024)
        self.port: int = self._listening.getsockname()[1]
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="hanging hosts", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            connections: set[socket.socket] = set()
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._wake:
                        for one in connections:
                            one.close()
                        return
                    if key.fileobj is self._listening:
                        connection = self._listening.accept()[0]
                        connections.add(connection)
                        selector.register(connection, selectors.EVENT_READ)
                        continue
                    connection = next(one for one in connections if one is key.fileobj)
                    if not _receives(connection):
                        selector.unregister(connection)
                        connections.remove(connection)
                        connection.close()

    def close(self) -> None:
        self._waker.send(b"x")
        self._thread.join(10)
        for one in (self._listening, self._wake, self._waker):
            one.close()


def _receives(connection: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(connection.recv(4096))
    return False


def _free_service_ports(count: int) -> list[int]:
    """Free ports, of a range that hardly any other program uses."""
    found: list[int] = []
    start = secrets.randbelow(len(SERVICE_PORTS))
    for offset in range(len(SERVICE_PORTS)):
        if len(found) == count:
            return sorted(found)
        port = SERVICE_PORTS[(start + offset) % len(SERVICE_PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            found.append(port)
    raise CrowdError(f"there are no {count} free ports in {SERVICE_PORTS}")


def _answers(place: tuple[str, int], hello: bytes) -> bool:
    """Whether a connect succeeds and the other side begins with ``hello``."""
    with contextlib.suppress(OSError), socket.create_connection(place, timeout=2) as connection:
        return not hello or connection.recv(len(hello)) == hello
    return False


def _drops(place: tuple[str, int]) -> bool:
    """Whether a connect gets no answer at all."""
    try:
        socket.create_connection(place, timeout=0.5).close()
    except TimeoutError:
        return True
    except OSError:
        pass
    return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End an sshd with its sessions: most of them are in its process group, the others end with their connection."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CrowdError(f"{' '.join(command)}: {done.stderr.strip()}")


def _quiet(*command: str) -> int:
    return subprocess.run(command, capture_output=True, check=False).returncode


def locked(*command: str) -> None:
    """Run a command that takes the lock of /etc/passwd, which another process may hold for a moment."""
    for patience in range(19, -1, -1):
        try:
            _run(*command)
            return
        except CrowdError as error:
            if not patience or "lock" not in str(error):
                raise
            time.sleep(0.5)


def _wait(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise CrowdError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)
