"""The base of all channels, and the part of Airflow that they use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from pydantic import Field

from portmon.errors import DeliveryError
from portmon.fields import Section, Text
from portmon.untrusted.redact import describe

if TYPE_CHECKING:
    from portmon.alerting.channels.services import ChatService
    from portmon.alerting.message.render import Message
    from portmon.alerting.silences import SilencedElsewhere
    from portmon.model.alert import Alert

OPTIONS = {
    "http": "--conn-host https://…",
    "apprise": """--conn-extra '{"config": [{"path": "<Apprise URL>"}]}'""",
}
"""Options of ``airflow connections add`` besides id and type, by type."""
WAIT = 60.0
"""Seconds to leave alone a receiver that was asked too often and does not say for how long."""
LONGEST_WAIT = 3600.0
"""Seconds after which a receiver is asked again, however long it wants to be left alone."""


class NeededConnection(NamedTuple):
    """An Airflow connection that the configuration names."""

    id: str
    type: str = "http"
    options: str = ""

    @property
    def hint(self) -> str:
        """How to add the connection."""
        options = self.options or OPTIONS.get(self.type, "…")
        return f"add it with `airflow connections add {self.id} --conn-type {self.type} {options}`"

    @property
    def missing(self) -> str:
        """The error if the connection does not exist, with the command that adds it."""
        return f"there is no Airflow connection {self.id!r}: {self.hint}"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What an Airflow HTTP connection keeps besides its headers, None or empty if it has none of it.

    :param password: without a login; with one it is the login's
    :param secret: extra field, the key of a signature
    :param old_secret: extra field, the key that ``secret`` takes the place of
    """

    password: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    old_secret: str | None = field(default=None, repr=False)


def password_of(channel: BaseChannel, conn_id: str, secrets: Secrets, what: str) -> str:
    """The password of a channel's connection.

    :param what: what it is, for people
    :raises DeliveryError: there is none
    """
    if not secrets.password:
        raise channel.failure(f"connection {conn_id!r} has no password without a login: set it to the {what}")
    return secrets.password


def _as_it_is(request: HttpRequest, secrets: Secrets) -> HttpRequest:
    return request


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request over an Airflow HTTP connection.

    :param channel: name for errors
    :param endpoint: path below the connection's host, which may have a path as well
    :param complete: makes of the request the one that is sent, with the secrets of the connection; raises DeliveryError
        if one is missing
    :param ok: which HTTP statuses say that the receiver took it
    :param denied: reads the beginning of an answer of success: the code of a refusal, empty if it has none, None if it
        is no refusal. Without it and ``service`` the answer is not read.
    :param service: reads the answer in place of ``ok`` and ``denied``
    :param limit: for all of it, the answer included; None: 30 s
    """

    channel: str
    conn_id: str
    endpoint: str
    method: str = "POST"
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    complete: Callable[[HttpRequest, Secrets], HttpRequest] = _as_it_is
    ok: Callable[[int], bool] = lambda status: 200 <= status < 300
    denied: Callable[[bytes], str | None] | None = None
    service: ChatService | None = None
    limit: timedelta | None = None


class Outside(Protocol):
    """The part of Airflow that channels use; :mod:`portmon.airflow.outside` has it."""

    notifier_base: Any
    """The class of all notifiers."""

    def send(self, request: HttpRequest) -> None:
        """Send a request; raises DeliveryError unless the receiver took it."""

    def ask(self, request: HttpRequest, size: int) -> bytes:
        """The body of an answer of success, of at most ``size`` bytes; raises DeliveryError for every other one."""

    def connection(self, conn_id: str) -> Any | None:
        """A connection, None if there is none; raises ConfigError or UnansweredError if it can't be read."""

    def redact(self, text: str) -> str:
        """One line of a text, without what Airflow knows to be secret and without all but the host of addresses."""

    def mail_hook(self, notifier: Any) -> Any | None:
        """The SMTP hook of a notifier that sends mail; None of any other one."""


class BaseChannel(Section):
    """A section of ``alerts.channels`` that can send. A new kind is one file with a subclass, named in ``Channel``.

    The DAG file imports it at every parse: modules that only sending needs are imported where they are used.
    """

    repeats_firing: ClassVar[bool] = False
    """The receiver forgets an alert that is not sent again: each run repeats a firing alert, and none is given up."""
    knows_ids: ClassVar[bool] = False
    """The receiver recognizes a message that comes twice by its id."""
    takes_acknowledgements: ClassVar[bool] = False
    """The receiver is told that a person takes care of an alert, by a message that is ``acknowledged``."""
    threads_mails: ClassVar[bool] = False
    """Mails of one alert refer to each other."""
    conn_type: ClassVar[str] = "http"
    """Type of the connection that ``conn_id`` names."""

    send_resolved: bool = Field(
        True,
        description="also send a message when an alert that the channel got is over; false where people close alerts "
        "by hand",
    )
    type: str
    name: Text = Field(description="unique name")

    def connections(self) -> Iterable[NeededConnection]:
        """Airflow connections that the channel uses; by default the one that its field ``conn_id`` names."""
        conn_id = getattr(self, "conn_id", None)
        return () if conn_id is None else (NeededConnection(conn_id, self.conn_type),)

    def check(self, outside: Outside) -> list[str]:
        """Sentences about what is wrong, as far as it shows without the connection and without sending."""
        return []

    def silenced(self, alerts: Sequence[Alert], outside: Outside) -> Mapping[str, SilencedElsewhere]:
        """What withholds alerts at the receiver, by their ids; asked for a channel that ``repeats_firing``.

        :raises DeliveryError: it does not say
        """
        return {}

    @abstractmethod
    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        """Send one message. Returns only if every target took it.

        It is final text, which nothing may render: a program named ``{{ conn.x.password }}`` must read no connection.

        :param done: targets that took it in an earlier try, see :attr:`DeliveryError.delivered`; left out now
        :raises DeliveryError: with the targets that took it now, to be added to ``done`` of the next try
        """

    def checked(self, outside: Outside) -> list[str]:
        """:meth:`check`, whatever the code of another package raises."""
        try:
            return list(self.check(outside))
        except Exception as error:
            return [f"channel {self.name!r}: its check fails: {describe(error, outside.redact)}"]

    def failure(self, text: str, **data: Any) -> DeliveryError:
        """A DeliveryError of this channel, with its data."""
        return DeliveryError(text, channel=self.name, **data)


def endpoint_problems(endpoint: str, conn_id: str) -> list[str]:
    """Sentences about what is wrong with an endpoint, as far as it shows."""
    problem = (
        f"endpoint is a whole address, but it is a path below the host of the connection {conn_id!r}: put scheme and "
        "host there"
    )
    return [problem] if "://" in endpoint else []


def wait_of(
    status: int, headers: Mapping[str, str], *, more: Iterable[Any] = (), too_often: bool = False, default: float = WAIT
) -> float | None:
    """Seconds for which a receiver wants to be left alone, None if its answer does not ask for that.

    :param more: other values of the answer that may be the seconds
    :param default: seconds if it was asked too often and does not say how long
    """
    if status >= 400:
        for value in (headers.get("Retry-After"), headers.get("x-ogw-ratelimit-reset"), *more):
            if (seconds := _seconds(value)) is not None:
                return min(max(seconds, 1.0), LONGEST_WAIT)
    return default if too_often or status == 429 else None


def _seconds(value: Any) -> float | None:
    """A ``Retry-After``: a number, or the moment itself (https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        try:
            until = parsedate_to_datetime(str(value)[:100])
            seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, IndexError, OverflowError):
            # What the library raises of a text that is no date, or one out of range.
            return None
    return seconds if 0 <= seconds < 1e9 else None
