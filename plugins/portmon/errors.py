"""The errors of portmon, one tree.

::

    PortmonError
    ├── ConfigError              portmon.yaml or airflow.cfg: file, line, field
    │   └── InvalidConfigError   several of them
    ├── CommandError             a person asks for something that is not there, or can't be done
    │   └── RequestError         ... or does not say all of it
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
    │   ├── RefusedError         nobody listens on the SSH port
    │   ├── NoRouteError         no route, network or host unreachable
    │   ├── ScanTimeoutError     connect, login or command took too long
    │   ├── ConnectionLostError  the server hung up, a bastion's MaxStartups included
    │   ├── NegotiationError     no algorithm in common (an old sshd that speaks only SHA-1)
    │   ├── HostKeyError         the host key is not trusted
    │   │   └── HostKeyChangedError  ... and differs from the one known before
    │   ├── AuthenticationError  the server refused the key or password
    │   └── AnswerError          the command answered, but not with a usable frame (carries ProbeError)
    ├── StorageError             the state database refused something
    │   ├── LeaseLostError       another writer took over; nothing was written
    │   └── DatabaseBusyError    somebody else writes for too long
    ├── DeliveryError            a channel did not take a message: channel, targets
    ├── UnansweredError          Airflow can't be asked for a connection: trying again may help
    ├── OverrunError             something took longer than it may; whoever waited goes on without it
    └── RunError                 an earlier task of the run did not produce what this one needs

Messages say what happened and what to do next. They are read at night, in a task log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class PortmonError(Exception):
    """Root of everything that portmon raises on purpose."""


class ConfigError(PortmonError):
    """Something in a configuration file is wrong.

    :param message: what is wrong and what would be right
    :param file: path as the user gave it
    :param line: 1-based line, if known
    :param field: dotted path, for instance ``ssh.groups[0].port``
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        self.message = message
        self.file = file
        self.line = line
        self.field = field
        place = f"{file}:{line}" if file and line else file
        super().__init__(": ".join(part for part in (place, field, message) if part))


class InvalidConfigError(ConfigError):
    """Several things are wrong with one file; ``errors`` has each, in file order."""

    def __init__(self, errors: tuple[ConfigError, ...]) -> None:
        self.errors = errors
        first = errors[0]
        super().__init__(first.message, file=first.file, line=first.line, field=first.field)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class CommandError(PortmonError):
    """A person asks for something that is not there, or can't be done."""


class RequestError(CommandError):
    """What a person asks for is incomplete or can't be read."""


class HistoryError(PortmonError):
    """A line of a history is wrong.

    :param line: 1-based
    """

    def __init__(self, message: str, *, line: int) -> None:
        self.line = line
        super().__init__(f"line {line}: {message}")


class ParamError(PortmonError):
    """A parameter of a manual run is wrong.

    :param field: name in the trigger form
    """

    def __init__(self, message: str, *, field: str) -> None:
        self.field = field
        super().__init__(f"run parameter {field!r}: {message}")


class CmdbError(PortmonError):
    """The CMDB gave no complete host list.

    :param source: what was asked, without credentials
    """

    def __init__(self, message: str, *, source: str) -> None:
        self.message = message
        self.source = source
        super().__init__(f"{source}: {message}")


class NoSuchPageError(CmdbError):
    """A page is not there (HTTP 404). Past the last one of numbered pages that is the end, not an error."""


class ProbeError(PortmonError):
    """An answer that proves nothing: cut, interleaved, noisy in the wrong place, empty, too large."""


class NetstatParseError(ProbeError):
    """A listing of an unknown or cut layout.

    :param line: 1-based line of the listing, if one is to blame
    """

    def __init__(self, message: str, *, line: int | None = None) -> None:
        self.line = line
        super().__init__(f"line {line}: {message}" if line else message)


class ContradictionError(ProbeError):
    """Two listings of one answer contradict each other grossly. Asked again at once, they agree as a rule."""


class ScanError(PortmonError):
    """A host could not be asked, or its answer is no evidence.

    :param host: name and address as shown to people
    """

    error_class: ClassVar[str] = "error"
    """Short stable name, stored with the observation."""
    retry: ClassVar[bool] = True
    """Whether a second try, seconds later, can help. False where it could lock an account."""

    def __init__(self, message: str, *, host: str) -> None:
        self.host = host
        super().__init__(f"{host}: {message}")


class SetupError(ScanError):
    """This side can't even try: a connection, a key or a known_hosts file is missing or unusable."""

    error_class = "setup"
    retry = False


class ResolveError(ScanError):
    """The host's name has no address."""

    error_class = "dns"


class RefusedError(ScanError):
    """The machine is there, but nobody listens on the SSH port."""

    error_class = "refused"


class NoRouteError(ScanError):
    """The network says that there is no way to the host."""

    error_class = "no_route"


class ScanTimeoutError(ScanError):
    """Connect, login or command did not finish in time."""

    error_class = "timeout"


class ConnectionLostError(ScanError):
    """The connection ended before the answer was complete."""

    error_class = "connection_lost"


class NegotiationError(ScanError):
    """Client and server share no algorithm."""

    error_class = "negotiation"
    retry = False


class HostKeyError(ScanError):
    """The server's host key is not one that is trusted."""

    error_class = "host_key"
    retry = False


class HostKeyChangedError(HostKeyError):
    """The server shows another host key than before."""

    error_class = "host_key_changed"


class AuthenticationError(ScanError):
    """The server refused the login."""

    error_class = "authentication"
    retry = False


class AnswerError(ScanError):
    """The host answered, but not with a frame that can be trusted."""

    error_class = "probe"


class StorageError(PortmonError):
    """The state database is unusable as it is; the message says what to do."""


class LeaseLostError(StorageError):
    """Another task became the writer meanwhile. Nothing was written."""


class DatabaseBusyError(StorageError):
    """Somebody else wrote for longer than the driver waits (SQLite)."""


class DeliveryError(PortmonError):
    """A channel did not take a message.

    :param channel: name in the configuration
    :param delivered: targets of the channel that did take it, not to be asked again
    :param unsure: it was sent, and only the answer is missing: the channel may have it
    :param waits: target that asked to be left alone: for how many seconds; the target "" is the whole channel
    """

    def __init__(
        self,
        message: str,
        *,
        channel: str,
        delivered: tuple[str, ...] = (),
        unsure: bool = False,
        waits: Mapping[str, float] | None = None,
    ) -> None:
        self.channel = channel
        self.delivered = delivered
        self.unsure = unsure
        self.waits = waits or {}
        super().__init__(f"channel {channel!r}: {message}")


class UnansweredError(PortmonError):
    """Airflow, or the place where it keeps connections, does not answer: nobody knows whether there is one."""


class OverrunError(PortmonError):
    """Something took longer than it may. It may still be under way."""


class RunError(PortmonError):
    """An earlier task of the run did not produce what this one needs."""


class PastRunError(RunError):
    """A later run was evaluated since: what this one saw can be evaluated again, but nothing can be seen in its
    place.
    """

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"a later run was evaluated since {run_id} began, and a port can't be looked at in the past: no host is "
            "asked and nothing is pruned in its name; diff_ports evaluates again what was seen then"
        )


class ReplayError(PortmonError):
    """The archive can't be evaluated again as it was asked for."""
