"""The errors of portmon, one tree. Messages say what happened and what to do next, for the reader of a task log.

::

    PortmonError
    ├── ConfigError              portmon.yaml or airflow.cfg: file, line, field
    │   └── InvalidConfigError   several of them
    ├── CommandError             a person's request is for something that is not there, or can't be done
    │   └── RequestError         ... or is incomplete
    ├── HistoryError             a history for ``simulate``: line
    ├── ParamError               a run parameter: field
    ├── CmdbError                no usable host list: source
    │   └── NoSuchPageError      a page that is not there (HTTP 404)
    ├── ProbeError               an answer that is no evidence: cut, interleaved, empty, too large
    │   ├── NetstatParseError    a listing of an unknown or cut layout: line
    │   └── ContradictionError   two listings of one answer that can't both be whole
    ├── ScanError                a login or a command failed: host, error_class
    │   ├── SetupError           this side can't even try: connection, key or known_hosts file
    │   ├── ResolveError         the name has no address
    │   ├── RefusedError         no process listens on the SSH port
    │   ├── NoRouteError         no route, network or host unreachable
    │   ├── ScanTimeoutError     connect, login or command took too long
    │   ├── ConnectionLostError  the other end hung up; a bastion's MaxStartups looks like this
    │   ├── JumpError            a jump host on the way failed
    │   ├── NegotiationError     no algorithm in common (an old sshd that speaks only SHA-1)
    │   ├── HostKeyError         the host key is not trusted
    │   │   └── HostKeyChangedError  ... and differs from the one known before
    │   ├── AuthenticationError  sshd refused the key or password
    │   └── AnswerError          the command answered, but not with a usable frame (its cause is a ProbeError)
    ├── StorageError             the state database can't be used as it is
    │   ├── LeaseLostError       another task took the lease over; nothing was written
    │   ├── DatabaseBusyError    another process writes for too long
    │   ├── NoDatabaseError      there is no state yet
    │   └── TooSlowError         a query of the page was cut
    ├── DeliveryError            a channel did not take a message: channel, targets
    ├── HttpError                an HTTP request got no usable answer: unsure
    ├── UnansweredError          Airflow does not say whether a connection exists: another try may help
    ├── OverrunError             work took longer than its limit; the caller goes on without it
    ├── RunError                 an earlier task of the run did not produce what this one needs
    │   └── PastRunError         a later run was evaluated since
    └── ReplayError              the archive can't be replayed as requested
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class PortmonError(Exception):
    """Root of the errors that portmon raises on purpose."""


class ConfigError(PortmonError):
    """A configuration file is wrong.

    :param file: path as the user gave it
    :param line: 1-based
    :param field: dotted path, for instance ``ssh.groups[0].port``
    """

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, field: str | None = None
    ) -> None:
        self.message, self.file, self.line, self.field = message, file, line, field
        place = f"{file}:{line}" if file and line else file
        super().__init__(": ".join(part for part in (place, field, message) if part))


class InvalidConfigError(ConfigError):
    """Several errors of one file, in its order."""

    def __init__(self, errors: tuple[ConfigError, ...]) -> None:
        self.errors = errors
        first = errors[0]
        super().__init__(first.message, file=first.file, line=first.line, field=first.field)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class CommandError(PortmonError):
    """A person's request is for something that is not there, or can't be done."""


class RequestError(CommandError):
    """A person's request is incomplete or can't be read."""


class HistoryError(PortmonError):
    """A line (1-based) of a history is wrong."""

    def __init__(self, message: str, *, line: int) -> None:
        self.line = line
        super().__init__(f"line {line}: {message}")


class ParamError(PortmonError):
    """A parameter (a field of the trigger form) of a manual run is wrong."""

    def __init__(self, message: str, *, field: str) -> None:
        self.field = field
        super().__init__(f"run parameter {field!r}: {message}")


class CmdbError(PortmonError):
    """The CMDB gave no complete host list. ``source`` is its address or file, without credentials."""

    def __init__(self, message: str, *, source: str) -> None:
        self.message, self.source = message, source
        super().__init__(f"{source}: {message}")


class NoSuchPageError(CmdbError):
    """A page is not there (HTTP 404). After the last of numbered pages this is the end of the list."""


class ProbeError(PortmonError):
    """An answer is no evidence: it is cut, interleaved, noisy in the wrong place, empty or too large."""


class NetstatParseError(ProbeError):
    """A listing has an unknown layout, or is cut. ``line`` is 1-based; None if no single line is wrong."""

    def __init__(self, message: str, *, line: int | None = None) -> None:
        self.line = line
        super().__init__(f"line {line}: {message}" if line else message)


class ContradictionError(ProbeError):
    """Two listings of one answer contradict each other grossly. A second answer usually agrees."""


class ScanError(PortmonError):
    """A login or command failed, or its answer is no evidence.

    :param host: its name and address
    :param remedy: what a person can do about it, in sentences; a task log has it on a line of its own
    """

    error_class: ClassVar[str] = "error"
    """Name that is stored with the observation and never changes."""
    retry: bool = True
    """Whether a second try, seconds later, can help. False where it could lock an account."""

    def __init__(self, message: str, *, host: str, remedy: str = "") -> None:
        self.host, self.remedy = host, remedy
        self.problem = f"{host}: {message}"
        super().__init__(f"{self.problem}. {remedy}" if remedy else self.problem)


class SetupError(ScanError):
    """This side can't even try: a connection, a key or a known_hosts file is missing or unusable."""

    error_class = "setup"
    retry = False


class ResolveError(ScanError):
    """The host's name has no address."""

    error_class = "dns"


class RefusedError(ScanError):
    """No process listens on the host's SSH port."""

    error_class = "refused"


class NoRouteError(ScanError):
    """The network reports no route to the host."""

    error_class = "no_route"


class ScanTimeoutError(ScanError):
    """Connect, login or command did not finish in time."""

    error_class = "timeout"


class ConnectionLostError(ScanError):
    """The connection ended before the answer was complete."""

    error_class = "connection_lost"


class JumpError(ScanError):
    """A jump host on the way to the host failed, or forbids the way.

    :param retry: as of the jump host's own error
    """

    error_class = "jump_host"

    def __init__(self, message: str, *, host: str, remedy: str = "", retry: bool = True) -> None:
        super().__init__(message, host=host, remedy=remedy)
        self.retry = retry


class NegotiationError(ScanError):
    """Client and server share no algorithm."""

    error_class = "negotiation"
    retry = False


class HostKeyError(ScanError):
    """The host key is not trusted."""

    error_class = "host_key"
    retry = False


class HostKeyChangedError(HostKeyError):
    """The host shows another key than before."""

    error_class = "host_key_changed"


class AuthenticationError(ScanError):
    """The SSH server refused the login."""

    error_class = "authentication"
    retry = False


class AnswerError(ScanError):
    """The host answered, but not with a complete frame."""

    error_class = "probe"


class StorageError(PortmonError):
    """The state database can't be used as it is."""


class LeaseLostError(StorageError):
    """Another task took the lease over. Nothing was written."""


class DatabaseBusyError(StorageError):
    """Another process wrote for longer than the driver waits (SQLite)."""


class NoDatabaseError(StorageError):
    """There is no state yet: no run has made the database, or filled it."""


class TooSlowError(StorageError):
    """A query of the page took longer than it may, and was cut."""


class DeliveryError(PortmonError):
    """A channel did not take a message.

    :param delivered: targets of the channel that took it; the next try leaves them out
    :param taken: ids of events of the message that the whole channel has; the next try is about the others
    :param refused: ids of events that it will never take; they are given up
    :param status: HTTP status of the refusal, 0 without one
    :param unsure: the message was sent and only the answer is missing
    :param waits: target to the seconds for which it wants no message; "" is the whole channel
    """

    def __init__(
        self,
        message: str,
        *,
        channel: str,
        delivered: tuple[str, ...] = (),
        taken: tuple[str, ...] = (),
        refused: tuple[str, ...] = (),
        status: int = 0,
        unsure: bool = False,
        waits: Mapping[str, float] | None = None,
    ) -> None:
        self.channel, self.delivered, self.unsure, self.waits = channel, delivered, unsure, waits or {}
        self.taken, self.refused, self.status = taken, refused, status
        super().__init__(f"channel {channel!r}: {message}")


class HttpError(PortmonError):
    """An HTTP request got no usable answer; ``unsure`` if it was sent. The message holds no secret."""

    def __init__(self, message: str, *, unsure: bool = False) -> None:
        self.unsure = unsure
        super().__init__(message)


class UnansweredError(PortmonError):
    """Airflow or its secrets backend does not say whether a connection exists."""


class OverrunError(PortmonError):
    """Work took longer than its limit. It may still go on."""


class RunError(PortmonError):
    """An earlier task of the run did not produce what this one needs."""


class PastRunError(RunError):
    """A later run was evaluated since. This run can be evaluated again, but may make no new observations."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"a later run was evaluated since {run_id} began, and a port can't be looked at in the past: no host is "
            "asked and nothing is pruned in its name; diff_ports evaluates again what was seen then"
        )


class ReplayError(PortmonError):
    """The archive can't be replayed as requested."""
