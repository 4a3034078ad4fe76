"""A connection that is logged in, and the commands run on it."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass

import paramiko
from paramiko.ssh_exception import ChannelException

from portmon.errors import AnswerError, ConnectionLostError, ScanTimeoutError
from portmon.ssh.algorithms import FloodError
from portmon.ssh.dial import Link
from portmon.ssh.target import Target, quoted, why
from portmon.ssh.transport import ALLOWANCE, Transport
from portmon.ssh.trust import HostKey
from portmon.ssh.watchdog import WATCHDOG
from portmon.text import plain

MAX_STDERR = 16 * 1024
"""Bytes of stderr that are kept; the rest is read and dropped, so that it can't block the command."""
QUIET = 2.0
"""Seconds without output after which a command that has exited is over, although a process that a login script started
still holds its output open."""
SLACK = 1.0
"""Seconds beyond the deadline of a command after which its connection is hung up."""
READER_ENDS = 2.0
"""Seconds that the reader of a connection may take to notice its end: more than it needs."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Output and end of a command.

    :param stderr: its first 16 KiB
    :param exit_status: -1 if a signal ended it
    :param seconds: from the request to the last byte
    """

    stdout: bytes
    stderr: bytes
    exit_status: int
    seconds: float


@dataclass(slots=True)
class Session:
    """A connection that is logged in.

    :param server: version of the host's SSH server, ``OpenSSH_9.2p1``
    :param trusted: why the host key is trusted
    :param method: the key that was accepted, or ``password``
    """

    target: Target
    transport: Transport
    link: Link
    server: str
    key: HostKey
    trusted: str
    method: str

    @property
    def active(self) -> bool:
        """Whether commands can still be run."""
        return bool(self.transport.is_active())

    def close(self) -> None:
        """End the connection; more than once is fine."""
        end(self.transport, self.link)

    def run(self, command: str, *, deadline: float, max_output: int) -> CommandResult:
        """Run one command and read all it prints.

        :param deadline: seconds for all of it, however slowly it drips
        :param max_output: bytes of stdout
        :raises ScanTimeoutError: it was not over in time
        :raises ConnectionLostError: the connection broke
        :raises AnswerError: it printed too much, or the host runs no commands
        """
        started = time.monotonic()
        if not self.active:
            self._tell_of_flood()
            raise ConnectionLostError("the connection broke before the command was sent", host=self.target.shown)
        self.transport.packetizer.allowance = float("inf")
        # paramiko waits for ever for a host that neither accepts nor refuses a command, or that reads nothing.
        with WATCHDOG.alarm(deadline + SLACK, self.link.hang_up) as overdue:
            channel = self._start(command, deadline)
            try:
                return self._read(channel, started, deadline, max_output)
            except ConnectionLostError as error:
                if overdue.rang:
                    raise ScanTimeoutError(
                        f"no complete answer within {deadline:g} s (command_timeout)", host=self.target.shown
                    ) from error
                raise
            finally:
                # On a connection that broke meanwhile this fails as well, and would hide the first error.
                with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                    channel.close()
                self.transport.packetizer.allowance = ALLOWANCE

    def _start(self, command: str, deadline: float) -> paramiko.Channel:
        try:
            with WATCHDOG.alarm(deadline, self.link.hang_up) as alarm:
                channel = self.transport.open_session(timeout=deadline)
                channel.exec_command(command)
                # The command must not wait for input that never comes.
                channel.shutdown_write()
                return channel
        except ChannelException as error:
            raise AnswerError(
                f"the server opens no session: {plain(str(error.text))}. Is the user allowed to run commands?",
                host=self.target.shown,
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if alarm.rang or "Timeout" in str(error):
                raise ScanTimeoutError(
                    f"the server did not start the command within {deadline:g} s", host=self.target.shown
                ) from error
            if self.active:
                raise AnswerError(
                    "the server refused to run the command. Is the user allowed to run commands?",
                    host=self.target.shown,
                ) from error
            raise ConnectionLostError(
                f"the connection broke before the command started{why(error)}", host=self.target.shown
            ) from error

    def _read(self, channel: paramiko.Channel, started: float, deadline: float, max_output: int) -> CommandResult:
        out, err = bytearray(), bytearray()
        latest = started
        # One event for both streams; the channel's descriptor, a pipe, would cost a system call for each packet.
        # Only a read clears the event, and after a read both streams are checked again before the next wait.
        something = threading.Event()
        channel.in_buffer.set_event(something)
        channel.in_stderr_buffer.set_event(something)
        while True:
            # Read before the buffers: they then hold all that came before the end.
            ended = channel.eof_received or channel.closed
            read = b""
            if channel.recv_ready():
                read = channel.recv(65536)
                out += read
            if channel.recv_stderr_ready():
                read = channel.recv_stderr(65536)
                err += read[: MAX_STDERR - len(err)]
            now = time.monotonic()
            if len(out) > max_output:
                limit = f"{max_output / 1024**2:g} MiB" if max_output >= 1024**2 else f"{max_output / 1024:g} KiB"
                raise AnswerError(
                    f"the answer is over the limit of {limit} (max_output); what is printed there is hardly a list of "
                    "ports",
                    host=self.target.shown,
                )
            if read:
                latest = now
            elif ended or (channel.exit_status_ready() and now - latest > QUIET):
                break
            if now - started > deadline:
                raise ScanTimeoutError(
                    f"no complete answer within {deadline:g} s (command_timeout); {len(out)} bytes came"
                    f"{quoted(bytes(out[-200:]), last=True)}",
                    host=self.target.shown,
                )
            if not read:
                # As a rule the command exits and all is there: waking up for each packet before that would be in vain.
                # More than the channel's window of 2 MiB, which makes the host wait, is read every half second.
                news = something if channel.exit_status_ready() else channel.status_event
                news.wait(min(0.5, started + deadline - now))
        channel.status_event.wait(max(0.0, min(QUIET, started + deadline - time.monotonic())))
        if not self.active:
            self._tell_of_flood()
            if channel.exit_status == -1:
                raise ConnectionLostError(
                    f"the connection broke after {len(out)} bytes of the answer", host=self.target.shown
                )
        return CommandResult(bytes(out), bytes(err), channel.exit_status, time.monotonic() - started)

    def _tell_of_flood(self) -> None:
        error = self.transport.get_exception()
        if isinstance(error, FloodError):
            raise AnswerError(f"the connection was ended, since the server {error}", host=self.target.shown)


def end(transport: Transport | None, link: Link) -> str:
    """Close a connection as :meth:`Link.close` does, with its transport if there is one."""
    link.hang_up()
    # Its thread has to be gone before the descriptor is closed: the number may be that of another host's connection a
    # moment later, and the thread would read that one's bytes.
    if transport is not None:
        if transport.is_alive():
            transport.join(READER_ENDS)
        transport.close()
    return link.close()
