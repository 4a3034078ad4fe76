"""Get a socket to a host: TCP, or a proxy command."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import paramiko

from portmon.errors import (
    ConnectionLostError,
    NoRouteError,
    RefusedError,
    ResolveError,
    ScanError,
    ScanTimeoutError,
    SetupError,
)
from portmon.ssh.target import Credentials, Options, Target, quoted, why

if TYPE_CHECKING:
    from portmon.ssh.session import Session

_NO_ROUTE = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
        errno.EADDRNOTAVAIL,
        errno.EACCES,
        errno.EPERM,
        errno.EINVAL,
    }
)


@dataclass(slots=True)
class Link:
    """An open connection to a host: TCP, a proxy command with its standard error, or through a jump host."""

    sock: socket.socket | paramiko.Channel
    process: subprocess.Popen[bytes] | None = None
    stderr: IO[bytes] | None = None
    hop: Session | None = None

    def hang_up(self) -> None:
        """Shut the connection down: a thread that reads from it or writes to it gets an error at once."""
        if self.hop is not None:
            # What is sent through a connection can block on it: that one goes first.
            self.hop.link.hang_up()
            return
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> str:
        """Close the connection; more than once is fine.

        :returns: exit status and last line of the proxy command, as the end of a sentence
        """
        # The end of a connection through a jump host is said to that one, whose connection has ended by then.
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self.sock.close()
        if self.hop is not None:
            self.hop.close()
        if self.process is None or self.stderr is None or self.stderr.closed:
            return ""
        ended = ""
        try:
            ended = f"; the proxy command ended with exit status {self.process.wait(timeout=0.2)}"
        except subprocess.TimeoutExpired:
            self.process.terminate()
            try:
                self.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                # A process in uninterruptible sleep survives even that.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=2)
        self.stderr.seek(max(0, self.stderr.seek(0, os.SEEK_END) - 400))
        said = quoted(self.stderr.read(), last=True)
        self.stderr.close()
        return ended + said


def dial(target: Target, credentials: Credentials, options: Options) -> Link:
    """Connect to the host.

    :raises ScanError: it can't be reached
    """
    if options.proxy_command:
        return _open_proxy(target, credentials, options.proxy_command)
    return Link(_open_tcp(target, options.timeout))


def await_banner(target: Target, link: Link, timeout: float) -> None:
    """Wait until the host sends its first bytes, and read none of them.

    :raises ScanTimeoutError: it sends none
    """
    # Not select(), which takes no descriptor beyond 1023.
    poll = select.poll()
    poll.register(link.sock, select.POLLIN)
    if not poll.poll(timeout * 1000):
        raise no_banner(target, timeout)


def no_banner(target: Target, timeout: float, *, said: str = "") -> ScanTimeoutError:
    """The error of a host that accepts a connection and sends no SSH banner; ``said`` ends the sentence."""
    return ScanTimeoutError(
        f"connected, but no SSH banner within {timeout:g} s: an overloaded host, or no SSH server{said}",
        host=target.shown,
    )


def _open_tcp(target: Target, timeout: float) -> socket.socket:
    try:
        found = socket.getaddrinfo(target.address, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no valid name"
        raise ResolveError(f"{target.address!r} has no address: {reason}", host=target.shown) from error
    deadline = time.monotonic() + timeout
    errors: list[tuple[str, OSError]] = []
    for number, (family, kind, protocol, _, address) in enumerate(found):
        # Every address gets its share, so that a dead IPv6 route does not use up the time of IPv4.
        share = (deadline - time.monotonic()) / (len(found) - number)
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(share, 0.05))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            errors.append((str(address[0]), error))
        except BaseException:
            sock.close()
            raise
    raise _tcp_error(target, errors, timeout)


def _tcp_error(target: Target, errors: Sequence[tuple[str, OSError]], timeout: float) -> ScanError:
    told = "; ".join(f"{address}: {error.strerror or error}" for address, error in errors)
    failures = [error for _, error in errors]
    host, port = target.shown, target.port
    # The strongest proof comes first: the host answered, there was no answer, there is no route.
    if any(isinstance(error, ConnectionRefusedError) for error in failures):
        return RefusedError(f"nothing listens on port {port}, or a firewall says so ({told})", host=host)
    if any(isinstance(error, TimeoutError) for error in failures):
        text = f"no TCP connection to port {port} within {timeout:g} s: host off, or a firewall drops it ({told})"
        return ScanTimeoutError(text, host=host)
    if any(isinstance(error, ConnectionError) for error in failures):
        return ConnectionLostError(f"port {port} hung up at once ({told})", host=host)
    if all(error.errno in _NO_ROUTE for error in failures):
        return NoRouteError(f"no way to the host ({told})", host=host)
    return SetupError(f"this worker can't open a connection ({told})", host=host)


def _open_proxy(target: Target, credentials: Credentials, command: str) -> Link:
    """Connect through a command that talks on its standard input and output.

    paramiko's ``ProxyCommand`` spins when the command has ended; a socket pair shows the end at once.
    """
    tokens = {"%h": target.address, "%p": str(target.port), "%r": credentials.user, "%%": "%"}
    ours, theirs = socket.socketpair()
    # Not a pipe, which would block the command when it is full: it is read when the command has ended.
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 - the Link closes it
    try:
        words = [re.sub("%[hpr%]", lambda match: tokens[match[0]], word) for word in shlex.split(command)]
        process = subprocess.Popen(
            words, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=stderr, start_new_session=True
        )
    except (OSError, ValueError, IndexError) as error:
        ours.close()
        stderr.close()
        raise SetupError(f"the proxy command can't be started{why(error)}", host=target.shown) from error
    finally:
        theirs.close()
    return Link(ours, process, stderr)
