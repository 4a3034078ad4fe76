"""Requests over Airflow HTTP connections, for channels, the heartbeat and the CMDB.

A request has a deadline for all of it and goes to the connection's host only; an answer is read up to a size. Errors
show nothing of an address but scheme, host and port, since the rest may hold a secret.

The DAG file must not import it: the HTTP provider brings aiohttp along, and that costs more than a whole login.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import requests
import urllib3
from airflow.providers.http.hooks.http import HttpHook
from requests.exceptions import InvalidHeader, InvalidProxyURL, InvalidURL, SSLError

from portmon import timeouts
from portmon.airflow import settings
from portmon.alerting.channels.answers import says_too_often
from portmon.alerting.channels.base import HttpRequest, NeededConnection, Secrets, wait_of
from portmon.alerting.channels.services import refusal
from portmon.errors import DeliveryError, HttpError, OverrunError
from portmon.text import plain
from portmon.untrusted.boundary import boundary
from portmon.untrusted.urls import AMBIGUOUS, address_of, is_ambiguous, origin_of, origin_text, showable, split_login

CHUNK = 1 << 16
"""Bytes that are unpacked at once."""
LIMIT = timedelta(seconds=30)
"""A request of a channel, from its beginning to the end of its answer. Below ``timeouts.SEND``."""
SILENCE = 15.0
"""Seconds that a receiver of messages may say nothing."""
ANSWER_LIMIT = 1024
"""Bytes of a receiver's answer that an error shows."""
SECRET, OLD_SECRET = "secret", "old_secret"
"""Extra fields of a connection: the key of a signature, and the one before it."""
PROXY_GAVE_UP = frozenset({502, 504})
"""A proxy got no answer from the server behind it, which may have the request."""
REDIRECT = "a redirect, which is not followed: correct the connection's host"


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a request.

    :param headers: names in any case
    :param body: its beginning, unpacked
    :param broken: why the body ends early, if it does
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    broken: str | None = None


class HttpClient(HttpHook):
    """Requests over one connection: base URL, login, headers, proxies and certificates are the connection's, as
    :class:`HttpHook` reads them.

    :param headers: of every request, besides the connection's
    :ivar base_url: without a login
    :ivar headers: of every request; HttpHook makes one of every extra field that it does not know
    :ivar password: of a connection without a login, which no request carries by itself
    :ivar shown: host and connection, for people
    :raises HttpError: the connection can't be used
    """

    base_url: str
    password: str | None = None

    def __init__(self, conn_id: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(http_conn_id=conn_id)
        with boundary(lambda why: HttpError(f"the connection can't be used: {why}"), passing=HttpError, secret=True):
            try:
                self._session = self.get_conn(dict(headers or {}))
            except ValueError:
                raise HttpError("the connection's host is no URL") from None
            given = self.base_url
            try:
                # The login goes where the others are, so that no URL holds one.
                self.base_url, login = split_login(given)
                self._origin = origin_of(self.base_url)
            except ValueError as error:
                doubt = f"; {AMBIGUOUS}" if is_ambiguous(given) else ""
                raise HttpError(f"the connection's host is no URL: {error}{doubt}") from None
        if login is not None and self._session.auth is None:
            self._session.auth = login
        self.headers = self._session.headers
        self.shown = f"{showable(self.base_url)} (connection {conn_id})"

    def get_connection(self, conn_id: str) -> Any:
        """The Airflow connection; raises HttpError if there is none, and another error if it can't be looked up."""
        found = settings.connection(conn_id)
        if found is None:
            raise HttpError(f"there is no such Airflow connection: {NeededConnection(conn_id).hint}")
        self.password = None if found.login else found.password
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def request(
        self, method: str, url: str, *, limit: timedelta, silence: float, size: Callable[[int], int], **content: Any
    ) -> Response:
        """Send one request.

        :param limit: for all of it, the answer included: a time-out of requests restarts with every byte
        :param silence: seconds that the server may say nothing
        :param size: bytes of the body to read, by status; up to ``CHUNK`` more may come
        :param content: headers, data, params, json as :func:`requests.request` takes them
        :raises HttpError: no answer came, or the URL is on another server than the connection's
        :raises OverrunError: ``limit`` is over; the request may still be under way
        """

        def send() -> Response:
            body, broken = bytearray(), None
            # A redirect could carry the credentials to another server.
            with self._session.request(
                method, url, timeout=silence, allow_redirects=False, stream=True, verify=self._session.verify, **content
            ) as response:
                wanted = size(response.status_code)
                try:
                    for chunk in response.iter_content(min(wanted, CHUNK)) if wanted else ():
                        body += chunk
                        if len(body) >= wanted:
                            break
                except requests.RequestException as error:
                    broken = _why(error)
                return Response(response.status_code, response.headers, bytes(body), broken)

        try:
            if (origin := origin_of(url)) != self._origin:
                raise HttpError(f"{origin_text(origin)} is another server than the connection's")
            return timeouts.within(limit, send)
        except (requests.RequestException, ValueError) as error:
            doubt = f" ({AMBIGUOUS})" if is_ambiguous(self.base_url) else ""
            raise HttpError(f"no answer: {_why(error)}{doubt}", unsure=_may_have_arrived(error)) from None


def send(request: HttpRequest, redact: Callable[[str], str]) -> None:
    """Send a channel's request.

    :param redact: makes the receiver's text fit for a log
    :raises DeliveryError: unless the receiver took it; with status, beginning of the answer, and advice
    """
    _read(request, *_answer(request, ANSWER_LIMIT), redact)


def ask(request: HttpRequest, redact: Callable[[str], str], size: int) -> bytes:
    """The body of the answer of success to a channel's request.

    :param size: bytes that it may have
    :raises DeliveryError: as for :func:`send`; or it is larger or broken
    """
    response, shown = _answer(request, size + 1, whole=True)
    _read(request, response, shown, redact)
    if response.broken or len(response.body) > size:
        reason = f"the answer ends early: {response.broken}" if response.broken else f"an answer of over {size} bytes"
        raise DeliveryError(f"{shown}: {reason}", channel=request.channel)
    return response.body


def _read(request: HttpRequest, response: Response, shown: str, redact: Callable[[str], str]) -> None:
    """Raise DeliveryError unless the answer says that the receiver took the request."""
    status = response.status
    if request.service is not None:
        found = refusal(status, response.headers, response.body, request.service, redact)
        if found is None:
            return
        reason, wait = found.reason, found.wait
    else:
        code = request.denied(response.body) if request.denied and request.ok(status) else None
        if code is None and request.ok(status):
            return
        text = redact(response.body[:ANSWER_LIMIT].decode("utf-8", "replace").strip())
        reason = ", ".join(_reasons(response, code, text))
        wait = wait_of(status, response.headers, too_often=code is not None and says_too_often(f"{code} {text}"))
    waits, unsure = {} if wait is None else {"": wait}, status in PROXY_GAVE_UP
    raise DeliveryError(f"{shown}: {reason}", channel=request.channel, unsure=unsure, waits=waits, status=status)


def _reasons(response: Response, code: str | None, text: str) -> Iterator[str]:
    """Why a request was refused, for people.

    :param code: of a refusal with a status of success, None if the status is none
    :param text: what the receiver says, without secrets
    """
    status = response.status
    if code is None:
        yield f"HTTP {status}"
    else:
        yield f"HTTP {status}, but it refuses"
        if code:
            yield code
    if retry := response.headers.get("Retry-After"):
        yield f"Retry-After {plain(retry, 40)}"
    if 300 <= status < 400:
        yield REDIRECT
    if status in (401, 403):
        yield "the connection's credentials are refused"
    if text:
        yield f"it says {text!r}"


def _answer(request: HttpRequest, size: int, *, whole: bool = False) -> tuple[Response, str]:
    """The answer to a channel's request, and where it went, for people.

    :param size: bytes of it that are read
    :param whole: also of a success
    :raises DeliveryError: none came
    """
    limit, shown = request.limit or LIMIT, f"connection {request.conn_id}"
    try:
        with HttpClient(request.conn_id) as client:
            shown = client.shown
            secret, old = (client.headers.pop(name, None) for name in (SECRET, OLD_SECRET))
            request = request.complete(request, Secrets(client.password, secret and str(secret), old and str(old)))
            reads = whole or request.denied is not None or request.service is not None
            response = client.request(
                request.method,
                address_of(client.base_url, request.endpoint) if request.endpoint else client.base_url,
                headers=dict(request.headers),
                data=request.body,
                limit=limit,
                silence=min(SILENCE, limit.total_seconds()),
                # A success is one without its text, unless the receiver may refuse in it.
                size=lambda status: size if reads or not request.ok(status) else 0,
            )
            return response, shown
    except OverrunError as error:
        reason = f"{shown}: no answer within {limit.total_seconds():g} s"
        # With its cause: the request may still be under way, and the next one must not be sent beside it.
        raise DeliveryError(reason, channel=request.channel) from error
    except HttpError as error:
        raise DeliveryError(f"{shown}: {error}", channel=request.channel, unsure=error.unsure) from None


_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (
        UnicodeError,
        "a login, token or header of the connection has a character that HTTP can't send (it must be Latin-1)",
    ),
    (InvalidHeader, "a header of the connection is none that HTTP can send: it has a line break, or a blank before it"),
    (InvalidProxyURL, "the proxy's address is none"),
    (InvalidURL, "the connection's host is no address of an HTTP server"),
    (SSLError, "its TLS certificate is not trusted, or TLS failed"),
    (requests.Timeout, "time-out"),
    (requests.ConnectionError, "the connection failed"),
)
"""Why there is no answer: the errors' own texts hold the address. The first that fits counts."""


def _why(error: Exception) -> str:
    return next((text for kind, text in _REASONS if isinstance(error, kind)), type(error).__name__)


def _may_have_arrived(error: Exception) -> bool:
    if isinstance(error, requests.ConnectionError):
        return bool(error.args) and isinstance(error.args[0], urllib3.exceptions.ProtocolError)
    return isinstance(error, requests.ReadTimeout)
