"""The demo fleet: hosts with a real SSH server and real listening sockets, on this computer.

Where the computer allows it, each host has network and process namespaces of its own, and so its own sockets.
Elsewhere hosts are addresses 127.77.X.N, and each has a ``netstat`` first in its PATH that shows the rows of its
address only.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

USER = "portmon"
_ALL = ("--net", "--pid", "--fork", "--mount-proc", "--kill-child")
_USER = ("--user", "--map-root-user")
_WAYS = (_ALL, (*_USER, *_ALL), ("--net",), (*_USER, "--net"))
"""Options of ``unshare``, best first. Containers often refuse to mount /proc: there only the sockets are separate."""


def make_key(path: Path) -> paramiko.Ed25519Key:
    """Make a key pair; the private half is in a file that only this user can read."""
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(private)
    return paramiko.Ed25519Key.from_private_key(io.StringIO(private.decode()))


def namespaces() -> tuple[str, ...] | None:
    """The ``unshare`` command that works here, None if none does."""
    if not shutil.which("unshare"):
        return None
    check = "import sys; sys.path.insert(0, sys.argv[1]); from demo.host import loopback_up; loopback_up()"
    for way in _WAYS:
        command = ("unshare", *way)
        done = subprocess.run(
            [*command, sys.executable, "-c", check, str(Path(__file__).parent.parent)],
            capture_output=True,
            check=False,
            timeout=60,
        )
        if done.returncode == 0:
            return command
    return None


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host of the story.

    :param services: port to process name
    :param udp: the same of UDP; they must listen. Only where hosts have sockets of their own
    """

    id: str
    name: str
    services: Mapping[int, str]
    labels: Mapping[str, str]
    udp: Mapping[int, str] = field(default_factory=dict)


class DemoHost:
    """A running host.

    :param address: loopback address of its SSH server
    :param port: of its SSH server
    """

    def __init__(self, spec: HostSpec, number: int, folder: Path, client_key: str, unshare: tuple[str, ...] | None):
        self.spec = spec
        # Another fleet on this computer has another network.
        self.address = f"127.77.{os.getpid() % 256}.{number}"
        make_key(folder / f"{spec.name}.host_key")
        self._log = (folder / f"{spec.name}.log").open("wb")
        with socket.create_server((self.address, 0)) as listening:
            self.port: int = listening.getsockname()[1]
            settings = {
                "fd": listening.fileno(),
                "host_key": str(folder / f"{spec.name}.host_key"),
                "client_key": client_key,
                "user": USER,
                "own_network": unshare is not None,
                "bind": "0.0.0.0" if unshare else self.address,
            }
            env = dict(os.environ)
            if unshare is None:
                env |= {"PATH": f"{self._view(folder, number)}:{env.get('PATH', '')}", "DEMO_SSH_PORT": str(self.port)}
            self._process = subprocess.Popen(
                [*(unshare or ()), sys.executable, str(Path(__file__).with_name("host.py")), json.dumps(settings)],
                pass_fds=[listening.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
                env=env,
                text=True,
            )
        self._expect("ready")
        for port, name in spec.services.items():
            self.start(port, name)
        for port, name in spec.udp.items():
            self.start(port, name, "udp")

    def _view(self, folder: Path, number: int) -> Path:
        """Make a folder with this host's own netstat, and an ss that fails: ss would show the sockets of every host.

        Its ls names a network namespace of its own: without one portmon takes all hosts for one machine.
        """
        place = folder / f"{self.spec.name}.bin"
        place.mkdir()
        for name, body in (
            ("netstat", f'exec "{sys.executable}" "{Path(__file__).with_name("netstat_view.py")}" {self.address}'),
            ("ss", "exit 1"),
            ("ls", f"""PATH=${{PATH#*:}}; ls "$@" | sed 's/net:\\[[0-9]*\\]/net:[{number}]/'"""),
        ):
            script = place / name
            script.write_text(f"#!/bin/sh\n{body}\n")
            script.chmod(0o755)
        return place

    def start(self, port: int, name: str, protocol: str = "tcp") -> None:
        """Start a service: a process that listens."""
        self._order("start", port, name, protocol)

    def kill(self, port: int, protocol: str = "tcp") -> None:
        """Kill a service with SIGKILL."""
        self._order("kill", port, protocol)

    def cut_off(self) -> None:
        """Connections still open, but the host does not answer on them any more."""
        self._order("cut")

    def reconnect(self) -> None:
        """The host answers again."""
        self._order("join")

    def close(self) -> None:
        """End the host with everything on it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _order(self, *order: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self._expect("ok")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if answer != word:
            raise RuntimeError(f"demo host {self.spec.name}: {answer or 'ended'}; see {self._log.name}")


class Fleet:
    """All hosts, started and ended together.

    :param folder: for keys and logs
    :param isolate: False to do without namespaces even where they work
    :param fallback: the hosts where there are no namespaces; default: the same
    """

    def __init__(
        self, specs: list[HostSpec], folder: Path, *, isolate: bool = True, fallback: list[HostSpec] | None = None
    ) -> None:
        folder.mkdir(parents=True)
        self.key = folder / "client_key"
        public = make_key(self.key)
        self.unshare = namespaces() if isolate else None
        self.hosts: dict[str, DemoHost] = {}
        client_key = f"{public.get_name()} {public.get_base64()}"
        try:
            for number, spec in enumerate(specs if self.unshare else fallback or specs, start=1):
                self.hosts[spec.name] = DemoHost(spec, number, folder, client_key, self.unshare)
        except BaseException:
            self.close()
            raise

    @property
    def how(self) -> str:
        """How hosts are separated, for people."""
        if self.unshare:
            spaces = "network and process namespaces" if "--pid" in self.unshare else "a network namespace"
            return f"each in {spaces} of its own"
        return (
            "on addresses 127.77.X.N; this computer allows no namespaces, so each host has a netstat in its PATH "
            "that shows its own sockets only, and an ls that names a namespace of its own"
        )

    def close(self) -> None:
        """End every host."""
        for host in self.hosts.values():
            host.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
