"""Get to a host through jump hosts: a login to each, and from the last one a connection to the host.

Every jump host is one like any other: its key is checked, it gets its own credentials, and what it sends is bounded.
All of them together have the time that a TCP connection has. Each visit has a way of its own: a connection that several
hosts shared would end the looks at all of them when one is hung up on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import paramiko
from paramiko.ssh_exception import ChannelException

from portmon.errors import (
    ConnectionLostError,
    JumpError,
    NoRouteError,
    RefusedError,
    ResolveError,
    ScanError,
    ScanTimeoutError,
)
from portmon.ssh.connect import connect
from portmon.ssh.dial import Link, dial
from portmon.ssh.session import Session
from portmon.ssh.target import Credentials, Options, Target, quoted, why
from portmon.ssh.trust import Trust
from portmon.ssh.watchdog import WATCHDOG

PROHIBITED = 1
"""Code of RFC 4254 (section 5.1) for a channel that a server's settings forbid."""
FAILURES = 3
"""Failures in a row after which a way counts as closed …"""
CLOSED = 30.0
"""… for so many seconds. One that refuses the login is closed at once."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A jump host, and how to log in there."""

    target: Target
    credentials: Credentials
    trust: Trust
    options: Options


class Ways:
    """Which ways are closed, for all visits of a task. Behind a jump host that is down each host would wait for it in
    turn, and one that refuses the login would be asked once for each host, which bans the worker.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed: dict[tuple[str, ...], tuple[int, float, ScanError]] = {}

    def closed(self, way: tuple[str, ...]) -> ScanError | None:
        """The error that closed a way; None if it is open."""
        with self._lock:
            count, at, error = self._failed.get(way, (0, 0.0, None))
        shut = error is not None and time.monotonic() - at < CLOSED and (count >= FAILURES or not error.retry)
        return error if shut else None

    def note(self, way: tuple[str, ...], error: ScanError | None) -> None:
        """Note how an attempt ended."""
        with self._lock:
            if error is None:
                self._failed.pop(way, None)
            else:
                self._failed[way] = (self._failed.get(way, (0,))[0] + 1, time.monotonic(), error)


def dial_through(target: Target, hops: Sequence[Hop], timeout: float, ways: Ways) -> Link:
    """Connect to a host through jump hosts, at least one.

    :param timeout: seconds for all of it
    :raises JumpError: a jump host failed
    :raises ScanError: the last jump host can't connect to the host
    """
    deadline = time.monotonic() + timeout
    session: Session | None = None
    try:
        for number, hop in enumerate(hops, 1):
            way = tuple(one.target.endpoint for one in hops[:number])
            name = f"jump host {number} of {len(hops)}, {hop.target.shown}"
            if (closed := ways.closed(way)) is not None:
                raise _jump_error(target, f"{name}, failed a moment ago", closed)
            try:
                session = _login(hop, session, deadline, timeout)
            except ScanError as error:
                ways.note(way, error)
                raise _jump_error(target, name, error) from error
            ways.note(way, None)
        assert session is not None  # noqa: S101 - for the type checker: there is a jump host
        return Link(_forward(session, target, deadline, timeout), hop=session)
    except BaseException:
        if session is not None:
            session.close()
        raise


def _jump_error(target: Target, name: str, error: ScanError) -> JumpError:
    problem = error.problem.removeprefix(f"{error.host}: ")
    return JumpError(f"{name}: {problem}", host=target.shown, remedy=error.remedy, retry=error.retry)


def _login(hop: Hop, before: Session | None, deadline: float, timeout: float) -> Session:
    """Log in to a jump host, through the one before it if there is one."""

    def options() -> Options:
        return replace(hop.options, timeout=max(deadline - time.monotonic(), 0.1))

    if before is None:
        link = dial(hop.target, hop.credentials, options())
    else:
        link = Link(_forward(before, hop.target, deadline, timeout), hop=before)
    given = options()
    with WATCHDOG.alarm(given.timeout, link.hang_up) as alarm:
        try:
            session = connect(hop.target, hop.credentials, hop.trust, given, link=link)
        except ScanError as error:
            if alarm.rang or isinstance(error, ScanTimeoutError):
                raise ScanTimeoutError(
                    f"the login was not over within {timeout:g} s (connect_timeout, for all jump hosts together)",
                    host=hop.target.shown,
                ) from error
            raise
    # What it forwards is bounded by the window of its channel.
    session.transport.packetizer.allowance = float("inf")
    return session


def _forward(session: Session, target: Target, deadline: float, timeout: float) -> paramiko.Channel:
    """A connection from a jump host to a host."""
    left, by = max(deadline - time.monotonic(), 0.1), session.target.shown
    try:
        return session.transport.open_channel(
            "direct-tcpip", (target.address, target.port), ("127.0.0.1", 0), timeout=left
        )
    except ChannelException as error:
        raise _refusal(error, target, session) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        if session.active:
            raise ScanTimeoutError(
                f"{by} had no connection to port {target.port} within {timeout:g} s: host off, or a firewall drops it",
                host=target.shown,
            ) from error
        raise JumpError(f"{by} hung up{why(error)}", host=target.shown) from error


def _refusal(error: ChannelException, target: Target, session: Session) -> ScanError:
    """Why a jump host opened no connection, as OpenSSH and dropbear say it."""
    host, by = target.shown, session.target.shown
    said = quoted(session.transport.refusal).removeprefix("; ")
    if error.code == PROHIBITED:
        return JumpError(
            f"{by} forbids connections to {target.endpoint} ({said})",
            host=host,
            remedy="Look at AllowTcpForwarding and PermitOpen in its sshd_config, and at the options of the key in "
            "its authorized_keys: `restrict` forbids forwarding, `restrict,port-forwarding` does not",
        )
    text = f"{by} can't connect to port {target.port} ({said})"
    reason = said.lower()
    if "refused" in reason:
        return RefusedError(f"nothing listens on port {target.port}, or a firewall says so: {text}", host=host)
    if "timed out" in reason:
        return ScanTimeoutError(text, host=host)
    if "no route" in reason or "unreachable" in reason:
        return NoRouteError(text, host=host)
    if "unknown host" in reason or "resolution" in reason or "not known" in reason:
        return ResolveError(text, host=host)
    return ConnectionLostError(text, host=host)
