"""Connect: handshake, host key, login; and what a failure of these means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from portmon.errors import ConnectionLostError, NegotiationError, ScanError, ScanTimeoutError, SetupError
from portmon.ssh.dial import Link, dial, no_banner
from portmon.ssh.login import Login
from portmon.ssh.session import Session, end
from portmon.ssh.target import Credentials, Options, Target, quoted, software, why
from portmon.ssh.transport import FloodError, Tap, Transport
from portmon.ssh.trust import HostKey, Trust
from portmon.ssh.watchdog import WATCHDOG
from portmon.text import plain

KEEPALIVE = 5
"""Seconds between keepalives, so that no firewall forgets a connection that waits to confirm."""

SLACK = 5.0
"""Seconds beyond the sum of its deadlines after which a login is hung up on: what is sent has no deadline, and a server
that reads nothing can hold it up."""


def connect(
    target: Target, credentials: Credentials, trust: Trust, options: Options, *, link: Link | None = None
) -> Session:
    """Log in, once.

    :param link: to the host, if there is one already; it is closed if the login fails
    :raises ScanError: of the class that says what went wrong
    """
    try:
        login = Login(target, credentials, options.timeout)
        known = trust.known(target)
    except BaseException:
        if link is not None:
            link.close()
        raise
    if link is None:
        link = dial(target, credentials, options)
    tap = Tap(link.sock)
    seconds = options.timeout * (1 + login.offers) + SLACK
    transport: Transport | None = None
    try:
        with WATCHDOG.alarm(seconds, link.hang_up) as alarm:
            # Not paramiko's SSHClient: it knows other ways to find keys and hosts, which cost time, and no deadlines.
            transport = Transport(tap, options, known)
            transport.start_client(timeout=options.timeout)
            key = transport.get_remote_server_key()
            shown = HostKey(key.get_name(), key.get_base64())
            trusted = trust.check(target, known, shown)
            login.authenticate(transport)
    except BaseException as error:
        said = end(transport, link)
        if alarm.rang and isinstance(error, ScanError | paramiko.SSHException | EOFError | OSError):
            raise ScanTimeoutError(f"the login was not over within {seconds:g} s{said}", host=target.shown) from error
        if transport is None and isinstance(error, ValueError | TypeError | AttributeError):
            raise SetupError(
                f"ciphers or disabled_algorithms of the connection are not usable{why(error)}", host=target.shown
            ) from error
        if transport and isinstance(error, paramiko.SSHException | EOFError | OSError):
            raise _handshake_error(target, error, transport, bytes(tap.head), options.timeout, said) from error
        raise
    transport.set_keepalive(KEEPALIVE)
    return Session(target, transport, link, software(transport.remote_version), shown, trusted, login.method)


def _handshake_error(
    target: Target, error: Exception, transport: paramiko.Transport, head: bytes, timeout: float, said: str
) -> ScanError:
    """The error of a failed handshake. Authentication and host keys raise their own errors."""
    host = target.shown
    hello = _Hello.read(head)
    cause = error.__context__ if isinstance(error, paramiko.SSHException) else error
    if isinstance(error, FloodError) or isinstance(cause, FloodError):
        flood = error if isinstance(error, FloodError) else cause
        return ConnectionLostError(f"the server {flood}{quoted(hello.before)}{said}", host=host)
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
    """The first words of an SSH server, which are in the clear: text before the banner or instead of one, the banner if
    there is one (``SSH-2.0-OpenSSH_9.2p1``), and the algorithms that it offers, by kind.
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
