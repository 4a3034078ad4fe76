"""SSH servers for tests: OpenSSH and dropbear in the foreground, one inside this process, and broken ones.

All listen on 127.0.0.1 on a free port, with keys and settings of their own in a temporary folder; nothing
of the machine's or the user's ssh is read or changed.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from portmon.ssh.trust import HostKey
from tests.worlds.waiting import until

SSHD = "/usr/sbin/sshd"
LOG_CHANNEL = "tests.worlds.sshd"
PATIENCE = 15.0
"""Seconds that a server may take to start or a condition to come true."""

logging.getLogger(LOG_CHANNEL).setLevel(logging.CRITICAL + 1)

needs_sshd = pytest.mark.skipif(not os.access(SSHD, os.X_OK), reason="no OpenSSH server here")
needs_dropbear = pytest.mark.skipif(not shutil.which("dropbear"), reason="no dropbear here")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def make_key(path: Path, kind: str = "ed25519") -> Path:
    """A new private key in OpenSSH's format, and its public half beside it."""
    key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    elif kind == "rsa":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    loaded = paramiko.PKey.from_path(path)
    path.with_name(path.name + ".pub").write_text(f"{loaded.get_name()} {loaded.get_base64()} test\n")
    return path


class Keys:
    """A store of host keys in memory."""

    def __init__(self) -> None:
        self.known: dict[str, list[HostKey]] = {}
        self.changes: list[tuple[str, HostKey]] = []

    def get(self, endpoint: str) -> Sequence[HostKey]:
        return self.known.get(endpoint, [])

    def remember(self, endpoint: str, key: HostKey) -> None:
        self.known.setdefault(endpoint, []).append(key)

    def report_change(self, endpoint: str, key: HostKey) -> None:
        self.changes.append((endpoint, key))


# ── real servers ────────────────────────────────────────────────────────────────────────────────


@dataclass
class Server:
    """A running server.

    :param user: who may log in, with the key ``user_key``
    :param home: that user's home directory, as the server sees it
    :param log: what the server has to say
    """

    port: int
    user: str
    home: Path
    user_key: Path
    host_keys: Sequence[Path]
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def logins(self) -> int:
        """Connections that got past authentication."""
        return self.said().count("Accepted publickey") + self.said().count("auth succeeded")


@cache
def can_pretend() -> bool:
    """Whether this user may give a process its own /etc/passwd."""
    if os.geteuid() != 0:
        return False
    done = subprocess.run(["unshare", "-m", "--propagation", "private", "true"], capture_output=True, check=False)
    return done.returncode == 0


@contextlib.contextmanager
def openssh(
    folder: Path,
    *,
    config: str = "",
    host_key_kinds: Sequence[str] = ("ed25519",),
    shell: str = "/bin/sh",
    path: str | None = None,
) -> Iterator[Server]:
    """OpenSSH's sshd.

    :param folder: empty, for this server alone
    :param config: lines for sshd_config that go before the ones here
    :param shell: login shell, where this user may pretend one
    :param path: ``PATH`` of the commands
    """
    home, user_key, host_keys = _prepare(folder, host_key_kinds)
    pretend = can_pretend()
    user = "tester" if pretend else getpass.getuser()
    environment = {"HOME": str(home)} | ({"PATH": path} if path else {})
    port = free_port()
    settings = folder / "sshd_config"
    settings.write_text(
        "\n".join(
            [
                config,
                f"ListenAddress 127.0.0.1:{port}",
                *(f"HostKey {key}" for key in host_keys),
                f"AuthorizedKeysFile {home}/.ssh/authorized_keys",
                "SetEnv " + " ".join(f'{name}="{value}"' for name, value in environment.items()),
                "PasswordAuthentication no",
                "KbdInteractiveAuthentication no",
                "PermitRootLogin yes",
                "StrictModes no",
                "UsePAM no",
                "UseDNS no",
                "PidFile none",
                "LogLevel VERBOSE",
                "",
            ]
        )
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    command = [SSHD, "-D", "-e", "-f", str(settings)]
    with _running(folder, command, home, shell if pretend else None, "Server listening") as (process, log):
        yield Server(port, user, home, user_key, host_keys, log, process)


@contextlib.contextmanager
def dropbear(folder: Path, *, host_key_kinds: Sequence[str] = ("ed25519",), shell: str = "/bin/sh") -> Iterator[Server]:
    """dropbear. It takes authorized keys from the user's home only, so it needs a user of our own."""
    if not can_pretend():
        pytest.skip("dropbear needs a user with a home of its own: root and mount namespaces")
    home, user_key, _ = _prepare(folder, ())
    host_keys = []
    for kind in host_key_kinds:
        key = folder / f"dropbear_{kind}"
        subprocess.run(["dropbearkey", "-t", kind, "-f", key], check=True, capture_output=True)
        host_keys.append(key)
    port = free_port()
    command = ["dropbear", "-F", "-E", "-s", "-p", f"127.0.0.1:{port}", "-P", str(folder / "pid")]
    for key in host_keys:
        command += ["-r", str(key)]
    with _running(folder, command, home, shell, "Not backgrounding") as (process, log):
        until(lambda: _accepts(port), "dropbear to listen")
        yield Server(port, "tester", home, user_key, host_keys, log, process)


def _prepare(folder: Path, host_key_kinds: Sequence[str]) -> tuple[Path, Path, list[Path]]:
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    user_key = make_key(folder / "user_key")
    authorized = home / ".ssh" / "authorized_keys"
    authorized.write_bytes((folder / "user_key.pub").read_bytes())
    authorized.chmod(0o600)
    return home, user_key, [make_key(folder / f"host_{kind}", kind) for kind in host_key_kinds]


@contextlib.contextmanager
def _running(
    folder: Path, command: Sequence[str], home: Path, shell: str | None, ready: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    if shell:
        entry = f"tester:x:{os.getuid()}:{os.getgid()}:test:{home}:{shell}"
        # All of /etc: a mount on the file alone is gone as soon as another useradd replaces the file beneath.
        etc = folder / "etc"
        etc.mkdir()
        mount = (
            'mount -t tmpfs tmpfs "$0" && cp -a /etc/. "$0" && printf "%s\\n" "$1" >>"$0/passwd" && '
            'mount --bind "$0" /etc && shift && exec "$@"'
        )
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", mount, str(etc), entry, *command]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd=folder
        )
    try:
        until(
            lambda: ready in log.read_text("utf-8", "replace") or process.poll() is not None, f"{command[-1]} to start"
        )
        assert process.poll() is None, log.read_text("utf-8", "replace")
        yield process, log
    finally:
        # Sessions end too: they are in the listener's process group, or end with their connection.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def login_shell() -> str:
    """Of the user who runs the tests."""
    return pwd.getpwuid(os.getuid()).pw_shell


# ── a server inside this process ────────────────────────────────────────────────────────────────

Run = Callable[[paramiko.Channel, str], None]


@dataclass
class PythonServer:
    """A running paramiko server, with a record of what clients did.

    :param connections: accepted so far
    :param offered: ``user type fingerprint`` of the keys and ``user password`` offered, in order
    :param commands: that were run
    """

    port: int
    host_key: paramiko.PKey
    connections: int = 0
    offered: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


@contextlib.contextmanager
def python_server(
    *,
    host_key: paramiko.PKey,
    also: Sequence[paramiko.PKey] = (),
    authorized: Path | None = None,
    password: str | None = None,
    also_demand: str | None = None,
    run: Run | None = None,
    environment: Mapping[str, str] | None = None,
    slow_login: float = 0,
    refuse_commands: bool = False,
    stall_commands: bool = False,
    disabled_algorithms: Mapping[str, Sequence[str]] | None = None,
    transport_class: type[paramiko.Transport] = paramiko.Transport,
) -> Iterator[PythonServer]:
    """A paramiko server; commands are run by ``sh`` unless ``run`` answers them.

    :param also: further host keys
    :param authorized: private key whose public half may log in
    :param also_demand: method that a key alone does not make up for
    :param slow_login: seconds that every authentication takes
    :param refuse_commands: accept the login and no command
    :param stall_commands: accept the login, and neither accept nor refuse a command
    :param disabled_algorithms: what this server does not know, by kind
    :param transport_class: with manners of its own
    """
    listener = socket.create_server(("127.0.0.1", 0))
    state = PythonServer(listener.getsockname()[1], host_key)
    public = paramiko.PKey.from_path(authorized).get_base64() if authorized else None
    over = threading.Event()
    transports: list[paramiko.Transport] = []

    class Interface(paramiko.ServerInterface):
        def get_allowed_auths(self, username: str) -> str:
            return "publickey,password" if password else "publickey"

        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            state.offered.append(f"{username} {key.get_name()} {key.fingerprint}")
            over.wait(slow_login)
            if key.get_base64() != public:
                return paramiko.AUTH_FAILED
            return paramiko.AUTH_PARTIALLY_SUCCESSFUL if also_demand else paramiko.AUTH_SUCCESSFUL

        def check_auth_password(self, username: str, given: str) -> int:
            state.offered.append(f"{username} password")
            over.wait(slow_login)
            return paramiko.AUTH_SUCCESSFUL if given == password else paramiko.AUTH_FAILED

        def check_channel_request(self, kind: str, chanid: int) -> int:
            return paramiko.OPEN_SUCCEEDED

        def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
            if stall_commands:
                over.wait()
            if refuse_commands or stall_commands:
                return False
            text = command.decode()
            state.commands.append(text)
            threading.Thread(target=_serve_command, args=(run or shell, channel, text), daemon=True).start()
            return True

    def shell(channel: paramiko.Channel, command: str) -> None:
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, check=False, env={**os.environ, **(environment or {})}
        )
        channel.sendall(done.stdout)
        channel.sendall_stderr(done.stderr)
        channel.send_exit_status(done.returncode)

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            state.connections += 1
            transport = transport_class(sock, disabled_algorithms=disabled_algorithms)
            transport.set_log_channel(LOG_CHANNEL)
            for key in (host_key, *also):
                transport.add_server_key(key)
            transports.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(event=threading.Event(), server=Interface())
            state.versions.append(transport.remote_version)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for transport in transports:
            transport.close()
        thread.join(PATIENCE)


def _serve_command(run: Run, channel: paramiko.Channel, command: str) -> None:
    # The client may hang up in the middle.
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException), contextlib.closing(channel):
        # The client ends its input once it knows that the command was accepted.
        channel.recv(1)
        run(channel, command)


def bombing(base: type[paramiko.Transport], algorithm: str, mebibytes: int) -> type[paramiko.Transport]:
    """A server's side of a connection on which each SSH_MSG_IGNORE that is compressed inflates to so much.

    :param algorithm: ``zlib`` from the key exchange on, or ``zlib@openssh.com`` after the login
    """

    class Bomb:
        def __init__(self) -> None:
            self._zlib = zlib.compressobj(9)

        def __call__(self, data: bytes) -> bytes:
            found = self._zlib.compress(data)
            if data[0] == 2:
                zeros = bytes(1024**2)
                found += b"".join(self._zlib.compress(zeros) for _ in range(mebibytes))
            return found + self._zlib.flush(zlib.Z_SYNC_FLUSH)

    plain: Any = base

    class Bombing(plain):  # type: ignore[misc]
        _preferred_compression = (algorithm,)
        _compression_info: ClassVar[dict[str, Any]] = {
            **plain._compression_info,
            algorithm: (Bomb, plain._compression_info[algorithm][1]),
        }

    return Bombing


# ── servers that misbehave ──────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def tcp_server(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """A server that calls a function for every connection; yields its port.

    :param serve: gets the connection, and an event that is set at the end of the test
    """
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    threads: list[threading.Thread] = []

    def talk(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            serve(sock, over)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=talk, args=(sock,), daemon=True))
            threads[-1].start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for one in (thread, *threads):
            one.join(PATIENCE)


def silent(sock: socket.socket, over: threading.Event) -> None:
    """Accepts, and never says a word."""
    over.wait()


def banner_only(sock: socket.socket, over: threading.Event) -> None:
    """Says who it is, and nothing more."""
    sock.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
    over.wait()


def dripping(sock: socket.socket, over: threading.Event) -> None:
    """Sends a byte of a banner that never ends, again and again."""
    sock.sendall(b"SSH-2.0-")
    while not over.wait(0.02):
        sock.sendall(b"x")


def hang_up(sock: socket.socket, over: threading.Event) -> None:
    """Accepts, and closes."""


def saying(text: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Says something and closes."""

    def serve(sock: socket.socket, over: threading.Event) -> None:
        sock.sendall(text)
        sock.shutdown(socket.SHUT_WR)
        # Read until the client gives up: closing early would reset the connection.
        while sock.recv(4096):
            pass

    return serve


def only_sha1(sock: socket.socket, over: threading.Event) -> None:
    """Announces what OpenSSH 5.3 spoke (simulated: no more than its first packet)."""
    packet = paramiko.Message()
    packet.add_byte(bytes([20]))
    packet.add_bytes(bytes(16))
    for names in (
        ["diffie-hellman-group14-sha1", "diffie-hellman-group1-sha1"],
        ["ssh-rsa", "ssh-dss"],
        ["aes128-ctr"],
        ["aes128-ctr"],
        ["hmac-sha1"],
        ["hmac-sha1"],
        ["none"],
        ["none"],
        [],
        [],
    ):
        packet.add_list(names)
    packet.add_boolean(False)
    packet.add_int(0)
    payload = packet.asbytes()
    padding = 8 - (len(payload) + 5) % 8 + 8
    sock.sendall(b"SSH-2.0-OpenSSH_5.3\r\n")
    sock.sendall((len(payload) + padding + 1).to_bytes(4, "big") + bytes([padding]) + payload + bytes(padding))
    over.wait()
