"""Connect to a host: handshake, host key and login, and the error that a failure of each means."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from portmon.errors import ConnectionLostError, NegotiationError, ScanError, ScanTimeoutError, SetupError
from portmon.ssh.algorithms import KINDS, FloodError, remedy
from portmon.ssh.dial import Link, dial, no_banner
from portmon.ssh.login import Login
from portmon.ssh.session import Session, end
from portmon.ssh.target import Credentials, Options, Target, quoted, software, why
from portmon.ssh.transport import Tap, Transport
from portmon.ssh.trust import HostKey, Trust
from portmon.ssh.watchdog import WATCHDOG
from portmon.text import plain

KEEPALIVE = 5
"""Seconds between keepalives, so that no firewall forgets a connection that waits to confirm."""

SLACK = 5.0
"""Seconds beyond the sum of its deadlines after which a login is hung up on: sending has no deadline, and a host that
reads nothing can hold it up."""


def connect(
    target: Target, credentials: Credentials, trust: Trust, options: Options, *, link: Link | None = None
) -> Session:
    """Log in, once.

    :param link: an open connection to the host; it is closed if the login fails
    :raises ScanError: of the class that names the failure
    """
    try:
        login = Login(target, credentials, options)
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
            # Not paramiko's SSHClient, which has no deadlines, and more ways to find keys and hosts, which cost time.
            transport = Transport(tap, options, known)
            transport.start_client(timeout=options.timeout)
            key = transport.get_remote_server_key()
            shown = HostKey(key.get_name(), key.get_base64())
            # A certificate, if the server showed one.
            blob = key.public_blob
            certificate = f"{blob.key_type} {base64.b64encode(blob.key_blob).decode()}" if blob else None
            trusted = trust.check(target, known, shown, certificate, now=datetime.now(UTC))
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
    before, version, offers = _read_hello(head)
    told = f"{quoted(before)}{said}"
    causes = (error, error.__context__) if isinstance(error, paramiko.SSHException) else (error,)
    for cause in causes:
        if isinstance(cause, FloodError):
            return ConnectionLostError(f"the server {cause}{told}", host=host)
    server = software(version)
    if isinstance(error, IncompatiblePeer):
        text, remedy = _explain(str(error), server, transport, offers)
        return NegotiationError(text, host=host, remedy=remedy)
    if not version:
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return no_banner(target, timeout, said=told)
        if before:
            return ConnectionLostError(f"the server hung up without an SSH banner{told}", host=host)
        return ConnectionLostError(
            f"the server hung up before its SSH banner{said}. Too many logins at once (MaxStartups of sshd, a "
            "bastion's too), a ban (fail2ban, PerSourcePenalties) or TCP wrappers do that",
            host=host,
        )
    if isinstance(error, TimeoutError):
        return ScanTimeoutError(f"{server} did not finish the key exchange within {timeout:g} s{said}", host=host)
    if isinstance(error, EOFError | ConnectionError):
        return ConnectionLostError(f"{server} hung up during the key exchange{said}", host=host)
    return ConnectionLostError(f"the SSH handshake with {server} broke{why(error)}{said}", host=host)


def _read_hello(head: bytes) -> tuple[bytes, str, Mapping[str, Sequence[str]]]:
    """The first bytes of a connection: text before the SSH banner or instead of it, the banner
    (``SSH-2.0-OpenSSH_9.2p1``) or nothing, and the algorithms that the host offers, by kind.
    """
    match = re.search(rb"^SSH-[^\n]*\n", head, re.MULTILINE)
    if not match:
        return head, "", {}
    offers = {}
    # RFC 4253: length, padding length, SSH_MSG_KEXINIT, 16 random bytes, then the lists.
    packet = head[match.end() :]
    if len(packet) > 22 and packet[5] == 20:
        message = paramiko.Message(packet[22:])
        try:
            for kind in ("kex", "host_keys", "ciphers", "ciphers back", "macs"):
                offers[kind] = [plain(name) for name in message.get_list()]
        except (UnicodeDecodeError, OverflowError):
            offers = {}
    return head[: match.start()], match[0].decode("ascii", "backslashreplace").strip(), offers


_OLD = re.compile("sha1|ssh-rsa$|ssh-dss|cbc|md5|arcfour|^none$|ext-info|kex-strict")


def _explain(
    reason: str, server: str, transport: paramiko.Transport, offers: Mapping[str, Sequence[str]]
) -> tuple[str, str]:
    """Why there is no algorithm in common, and what to do."""
    kind = next((kind for kind in KINDS if kind.replace("_keys", " key") in reason), None)
    if kind is None or not offers.get(kind):
        return f"{server} and this client do not understand each other ({plain(reason, 200)})", ""
    name, directive, field = KINDS[kind]
    security = transport.get_security_options()
    ours: dict[str, Sequence[str]] = {one: getattr(security, field) for one, (_, _, field) in KINDS.items()}
    text = f"no {name} in common: {server} offers {plain(', '.join(offers[kind]), 400)}; here there are "
    if setting := remedy(ours, dict(offers)):
        advice = (
            "The server is too old for what is spoken by default. Update it (OpenSSH 7.2, dropbear 2020.79 or later), "
            "or give it what it lacks, for instance an ed25519 host key (`ssh-keygen -A`). Else let its group in "
            f"ssh.groups speak what it speaks: `{setting}` (docs/ssh.md). A jump host does not help: this is agreed "
            "with the server itself"
        )
    elif all(_OLD.search(offer) for offer in offers[kind]):
        advice = (
            "The server is too old: it offers nothing that is spoken here, with `algorithms: legacy` either. Update it "
            "(OpenSSH 7.2, dropbear 2020.79 or later), or give it an ed25519 host key (`ssh-keygen -A`)"
        )
    else:
        advice = f"The server allows too little: let it offer one of ours too ({directive} in sshd_config)"
    return text + ", ".join(getattr(security, field)), advice
