"""Requests over Airflow HTTP connections, for channels, the heartbeat and the CMDB.

A request has a deadline for all of it and goes to the connection's host only; an answer is read up to a size. Errors
show nothing of an address but scheme, host and port, since the rest may hold a secret.

The DAG file must not import it: the HTTP provider brings aiohttp along, and that costs more than a whole login.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from portmon.alerting.channels.base import HttpRequest, NeededConnection, wait_of
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
SECRET = "secret"  # noqa: S105
"""Extra field of a connection: the key of a signature."""
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
    :ivar shown: host and connection, for people
    :raises HttpError: the connection can't be used
    """

    base_url: str

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
    limit, shown = request.limit or LIMIT, f"connection {request.conn_id}"
    try:
        with HttpClient(request.conn_id) as client:
            shown = client.shown
            secret = client.headers.pop(SECRET, None)
            response = client.request(
                request.method,
                address_of(client.base_url, request.endpoint) if request.endpoint else client.base_url,
                headers={**request.headers, **({} if secret is None else request.sign(str(secret)))},
                data=request.body,
                limit=limit,
                silence=min(SILENCE, limit.total_seconds()),
                # A success is one without its text, unless the receiver may refuse in it.
                size=lambda status: ANSWER_LIMIT if request.denied or not request.ok(status) else 0,
            )
    except OverrunError as error:
        reason = f"{shown}: no answer within {limit.total_seconds():g} s"
        # With its cause: the request may still be under way, and the next one must not be sent beside it.
        raise DeliveryError(reason, channel=request.channel) from error
    except HttpError as error:
        raise DeliveryError(f"{shown}: {error}", channel=request.channel, unsure=error.unsure) from None
    status = response.status
    code = None
    if request.ok(status):
        code = request.denied(response.body) if request.denied else None
        if code is None:
            return
    parts = [f"HTTP {status}, but it refuses", *([code] if code else [])] if code is not None else [f"HTTP {status}"]
    if retry := response.headers.get("Retry-After"):
        parts.append(f"Retry-After {plain(retry, 40)}")
    if 300 <= status < 400:
        parts.append(REDIRECT)
    if status in (401, 403):
        parts.append("the connection's credentials are refused")
    if text := redact(response.body[:ANSWER_LIMIT].decode("utf-8", "replace").strip()):
        parts.append(f"it says {text!r}")
    wait = wait_of(status, response.headers, too_often=code is not None and says_too_often(f"{code} {text}"))
    waits, unsure = {} if wait is None else {"": wait}, status in PROXY_GAVE_UP
    raise DeliveryError(f"{shown}: {', '.join(parts)}", channel=request.channel, unsure=unsure, waits=waits)


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
