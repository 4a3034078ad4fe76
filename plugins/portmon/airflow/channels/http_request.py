"""One request over an Airflow HTTP connection, its answer checked, nothing secret in its errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

import requests
import urllib3
from airflow.providers.http.hooks.http import HttpHook
from airflow.sdk.exceptions import AirflowNotFoundException

from portmon import timeouts
from portmon.airflow.channels.redact import foreign, told
from portmon.airflow.http_errors import why
from portmon.alerting.channels.services import wait_of
from portmon.errors import DeliveryError, OverrunError
from portmon.text import plain
from portmon.untrusted.boundary import reason
from portmon.untrusted.urls import AMBIGUOUS, address_of, is_ambiguous, showable

LIMIT = timedelta(seconds=30)
"""One request, from its beginning to the end of its answer. Below ``timeouts.SEND``."""
SILENCE = 15.0
"""Seconds that a server may say nothing."""
SECRET = "secret"  # noqa: S105
"""Extra field of a connection that is ours. HttpHook makes a request header of every field that it does not know."""
ANSWER_LIMIT = 1024
"""Bytes of an answer that an error is told from."""
PROXY_GAVE_UP = frozenset({502, 504})
"""A proxy got no answer from the server behind it, which may have the request."""

Sign = Callable[[str], Mapping[str, str]]
"""The connection's secret to headers that prove it is known."""


def ask(
    method: str,
    conn_id: str,
    endpoint: str,
    *,
    channel: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    sign: Sign | None = None,
    ok: Callable[[int], bool] = lambda status: 200 <= status < 300,
    limit: timedelta | None = None,
) -> None:
    """Send one request and look whether it was taken.

    Base URL, login, headers, proxies and certificates are the connection's, as :class:`HttpHook` reads them.

    :param endpoint: path below the connection's host, which may have a path as well
    :param channel: name for errors
    :param sign: is given the connection's extra field ``secret``, if there is one
    :param ok: which HTTP statuses are a success
    :param limit: for all of it, ``LIMIT`` by default: a time-out of requests restarts with every byte
    :raises DeliveryError: with the status, the beginning of the answer, and what to do
    """
    limit = limit or LIMIT
    hook = HttpHook(method=method, http_conn_id=conn_id)
    try:
        session = hook.get_conn()
    except Exception as error:
        # Unless it names the connection only, its text may hold the address.
        why_not = told(error) if isinstance(error, AirflowNotFoundException) else reason(error, secret=True)
        raise DeliveryError(
            f"no usable Airflow connection {conn_id!r} ({why_not}): add it with `airflow connections add {conn_id} "
            "--conn-type http --conn-host https://…`",
            channel=channel,
        ) from None
    secret = session.headers.pop(SECRET, None)
    session.headers.update(headers or {})
    if secret is not None and sign is not None:
        session.headers.update(sign(str(secret)))
    url = address_of(hook.base_url, endpoint) if endpoint else hook.base_url
    shown = f"{showable(hook.base_url)} (connection {conn_id})"

    def send() -> tuple[str, bool, float | None] | None:
        """What was refused, whether it may have come through none the less, and for how long to leave it alone."""
        # A redirect could carry the credentials to another server.
        with (
            session,
            session.request(
                method,
                url,
                data=body,
                timeout=min(SILENCE, limit.total_seconds()),
                allow_redirects=False,
                stream=True,
                verify=session.verify,
            ) as answer,
        ):
            if ok(answer.status_code):
                return None
            return _refusal(answer), answer.status_code in PROXY_GAVE_UP, wait_of(answer)

    try:
        refusal = timeouts.within(limit, send)
    except OverrunError as error:
        # It may still be under way, and whoever sends the next one must know.
        raise DeliveryError(f"{shown}: no answer within {limit.total_seconds():g} s", channel=channel) from error
    except (requests.RequestException, ValueError) as error:
        # Its text holds the URL, whose path may be a secret.
        doubt = f" ({AMBIGUOUS})" if is_ambiguous(hook.base_url) else ""
        raise DeliveryError(
            f"{shown}: no answer: {why(error)}{doubt}", channel=channel, unsure=_may_have_arrived(error)
        ) from None
    if refusal:
        told_why, unsure, wait = refusal
        waits = {} if wait is None else {"": wait}
        raise DeliveryError(f"{shown}: {told_why}", channel=channel, unsure=unsure, waits=waits)


def _refusal(answer: requests.Response) -> str:
    try:
        begin = answer.raw.read(ANSWER_LIMIT, decode_content=True)
    except urllib3.exceptions.HTTPError:
        begin = b""  # the status says enough
    parts = [f"HTTP {answer.status_code}"]
    if wait := answer.headers.get("Retry-After"):
        parts.append(f"Retry-After {plain(wait, 40)}")
    if 300 <= answer.status_code < 400:
        parts.append("a redirect, which is not followed: correct the connection's host")
    if answer.status_code in (401, 403):
        parts.append("the connection's credentials are refused")
    if said := foreign(begin.decode("utf-8", "replace").strip()):
        parts.append(f"it says {said!r}")
    return ", ".join(parts)


def _may_have_arrived(error: Exception) -> bool:
    """Whether a request was under way when it failed, as far as can be told."""
    if isinstance(error, requests.ConnectionError):
        return bool(error.args) and isinstance(error.args[0], urllib3.exceptions.ProtocolError)
    return isinstance(error, requests.ReadTimeout)
