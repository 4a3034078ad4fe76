"""Connect: handshake, host key, login; and what it means when that fails."""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import paramiko
from paramiko.packet import Packetizer
from paramiko.ssh_exception import IncompatiblePeer

from portmon.errors import ConnectionLostError, NegotiationError, ScanError, ScanTimeoutError, SetupError
from portmon.render import plain
from portmon.ssh.dial import Line, dial, no_banner
from portmon.ssh.login import Login
from portmon.ssh.session import Session, end
from portmon.ssh.target import Credentials, Options, Target, quoted, software, why
from portmon.ssh.trust import HostKey, Known, Trust

LOG_CHANNEL = "portmon.ssh.paramiko"
"""paramiko logs here, tracebacks of its threads included. Silent unless somebody sets its level."""

KEEPALIVE = 5
"""Seconds between keepalives, so that no firewall forgets a connection that waits to confirm."""

READ = 65536
"""Bytes that are read at once."""

HEAD = 8192
"""First bytes of a connection that are kept to explain a failed handshake."""

_paramiko_log = logging.getLogger(LOG_CHANNEL)
if _paramiko_log.level == logging.NOTSET:
    _paramiko_log.setLevel(logging.CRITICAL + 1)


def connect(
    target: Target, credentials: Credentials, trust: Trust, options: Options, *, line: Line | None = None
) -> Session:
    """Log in. One attempt: whether to try again is the caller's business.

    :param line: a way to the host that is open already; it is closed if the login fails
    :raises ScanError: of the class that says what went wrong
    """
    try:
        login = Login(target, credentials, options.timeout)
        known = trust.known(target)
    except BaseException:
        if line is not None:
            line.close()
        raise
    policy = _CheckHostKey(target, trust, known)
    if line is None:
        line = dial(target, credentials, options)
    tap = _Tap(line.sock)

    def make_transport(sock: Any, **kwargs: Any) -> _Transport:
        return _Transport(sock, options, known, **kwargs)

    client = paramiko.SSHClient()
    client.set_log_channel(LOG_CHANNEL)
    client.set_missing_host_key_policy(policy)
    try:
        client.connect(
            target.address,
            port=target.port,
            sock=tap,  # type: ignore[arg-type]
            timeout=options.timeout,
            compress=options.compress,
            disabled_algorithms=options.disabled_algorithms,
            transport_factory=make_transport,
            auth_strategy=login,
        )
    except BaseException as error:
        transport = client.get_transport()
        said = end(client, line)
        if transport is None and isinstance(error, ValueError | TypeError | AttributeError):
            raise SetupError(
                f"ciphers or disabled_algorithms of the connection are not usable{why(error)}", host=target.shown
            ) from error
        if transport and isinstance(error, paramiko.SSHException | EOFError | OSError):
            raise _handshake_error(target, error, transport, bytes(tap.head), options.timeout, said) from error
        raise
    transport = client.get_transport()
    assert transport is not None  # noqa: S101 - connect() has just made it
    transport.set_keepalive(KEEPALIVE)
    return Session(
        target=target,
        client=client,
        line=line,
        server=software(transport.remote_version),
        key=policy.shown,
        trusted=policy.trusted,
        method=login.method,
    )


class _Tap:
    """A socket that reads all there is at once, since paramiko asks for a few bytes at a time. It keeps the first ones:
    what a server says instead of a banner, and which algorithms it offers.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._read = b""
        self.head = bytearray()

    def recv(self, size: int) -> bytes:
        if not self._read:
            self._read = self._sock.recv(READ)
            self.head += self._read[: HEAD - len(self.head)]
        data, self._read = self._read[:size], self._read[size:]
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Packetizer(Packetizer):
    """Without a timer for the handshake, which would be one more thread: :class:`_Transport` has a deadline for it."""

    def start_handshake(self, timeout: float) -> None:
        pass


class _Transport(paramiko.Transport):
    """A transport whose start has a deadline, whatever the server drips, and which asks for the host key
    that is known.
    """

    def __init__(self, sock: Any, options: Options, known: Known, **kwargs: Any) -> None:
        super().__init__(sock, packetizer_class=_Packetizer, **kwargs)
        # It restarts with every byte; the deadline of start_client comes first.
        self.banner_timeout = options.timeout + 5
        self.auth_timeout = options.timeout
        security = self.get_security_options()
        # Those that authenticate by themselves first: paramiko computes the MAC of the others byte by byte.
        security.ciphers = tuple(options.ciphers or sorted(security.ciphers, key=lambda name: "gcm" not in name))
        types = {key.type for key in known.keys}
        security.key_types = tuple(sorted(security.key_types, key=lambda name: _key_type(name) not in types))

    def start_client(self, event: threading.Event | None = None, timeout: float | None = None) -> None:
        done = event or threading.Event()
        super().start_client(event=done)
        if not done.wait(timeout):
            raise TimeoutError
        if not self.is_active():
            raise self.get_exception() or EOFError()


class _CheckHostKey(paramiko.MissingHostKeyPolicy):
    """The client itself knows no keys, so that every key is decided here."""

    def __init__(self, target: Target, trust: Trust, known: Known) -> None:
        self._target = target
        self._trust = trust
        self._known = known
        self.shown = HostKey("", "")
        self.trusted = ""

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        self.shown = HostKey(key.get_name(), key.get_base64())
        self.trusted = self._trust.check(self._target, self._known, self.shown)


def _key_type(algorithm: str) -> str:
    """The key type of a host key algorithm: RSA keys have two."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _handshake_error(
    target: Target, error: Exception, transport: paramiko.Transport, head: bytes, timeout: float, said: str
) -> ScanError:
    """What a failed handshake means. Authentication and host keys raise their own errors."""
    host = target.shown
    hello = _Hello.read(head)
    cause = error.__context__ if isinstance(error, paramiko.SSHException) else error
    if isinstance(error, IncompatiblePeer):
        return _negotiation_error(target, error, transport, hello)
    if not hello.version:
        if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
            return no_banner(target, timeout, said=f"{quoted(hello.before)}{said}")
        if hello.before:
            return ConnectionLostError(
                f"the server hung up without an SSH banner{quoted(hello.before)}{said}", host=host
            )
        return ConnectionLostError(
            f"the server hung up before its SSH banner{said}. Too many logins at once (MaxStartups of sshd, a "
            "bastion's too), a ban (fail2ban, PerSourcePenalties) or TCP wrappers do that",
            host=host,
        )
    server = software(hello.version)
    if isinstance(error, TimeoutError):
        return ScanTimeoutError(f"{server} did not finish the key exchange within {timeout:g} s{said}", host=host)
    if isinstance(error, EOFError | ConnectionError):
        return ConnectionLostError(f"{server} hung up during the key exchange{said}", host=host)
    return ConnectionLostError(f"the SSH handshake with {server} broke{why(error)}{said}", host=host)


@dataclass(frozen=True, slots=True)
class _Hello:
    """What a server said first, read from the raw bytes: it is all in the clear.

    :param before: text before the banner, or instead of one
    :param version: ``SSH-2.0-OpenSSH_9.2p1``; empty without a banner
    :param offers: algorithms by kind, in the server's order
    """

    before: bytes = b""
    version: str = ""
    offers: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, head: bytes) -> _Hello:
        match = re.search(rb"^SSH-[^\n]*\n", head, re.MULTILINE)
        if not match:
            return cls(before=head)
        offers = {}
        # RFC 4253: length, padding length, SSH_MSG_KEXINIT, 16 random bytes, then the lists.
        packet = head[match.end() :]
        if len(packet) > 22 and packet[5] == 20:
            message = paramiko.Message(packet[22:])
            try:
                for kind in ("kex", "host key", "ciphers", "ciphers back", "macs"):
                    offers[kind] = [plain(name) for name in message.get_list()]
            except (UnicodeDecodeError, OverflowError):
                offers = {}
        return cls(head[: match.start()], match[0].decode("ascii", "backslashreplace").strip(), offers)


def _negotiation_error(target: Target, error: Exception, transport: paramiko.Transport, hello: _Hello) -> ScanError:
    server = software(hello.version)
    reason = str(error)
    security = transport.get_security_options()
    ours = {"kex": security.kex, "host key": security.key_types, "ciphers": security.ciphers, "macs": security.digests}
    kind = next((kind for kind in ours if kind in reason), None)
    if kind is None or not hello.offers.get(kind):
        return NegotiationError(f"{server} and this client do not understand each other{why(error)}", host=target.shown)
    names = {"kex": "key exchange", "host key": "host key algorithm", "ciphers": "cipher", "macs": "MAC"}
    offers = hello.offers[kind]
    if all(_OLD.search(name) for name in offers):
        advice = (
            "The server is too old: SHA-1 and its contemporaries are not spoken any more (paramiko 5). Update it "
            "(OpenSSH 7.2, dropbear 2020.79 or later), or give it what it lacks, for instance an ed25519 host key "
            "(`ssh-keygen -A`). A jump host does not help: this is agreed with the server itself"
        )
    else:
        advice = f"The server allows too little: let it offer one of ours too ({_DIRECTIVES[kind]} in sshd_config)"
    return NegotiationError(
        f"no {names[kind]} in common: {server} offers {plain(', '.join(offers), 400)}; here there are "
        f"{', '.join(ours[kind])}. {advice}",
        host=target.shown,
    )


_OLD = re.compile("sha1|ssh-rsa$|ssh-dss|cbc|md5|arcfour|^none$|ext-info|kex-strict")
_DIRECTIVES = {"kex": "KexAlgorithms", "host key": "HostKeyAlgorithms", "ciphers": "Ciphers", "macs": "MACs"}
